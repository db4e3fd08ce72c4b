"""Numerics, checks and types that every layer shares; imports nothing of ours."""
