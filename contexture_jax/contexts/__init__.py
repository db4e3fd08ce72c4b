"""Contexts: joint laws P⁺(x, a) of an input and a context variable."""

from contexture_jax.contexts._base import CapabilityError, Context

__all__ = ["CapabilityError", "Context"]
