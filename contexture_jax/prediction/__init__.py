"""Predicting a target from functions of a context."""

from contexture_jax.prediction._probe import Probe, held_out_rows, linear_probe

__all__ = ["Probe", "held_out_rows", "linear_probe"]
