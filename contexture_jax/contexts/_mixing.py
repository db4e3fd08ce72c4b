"""Contexts made of contexts, by the words of operators and the zoo (theory.md §4.6)."""

from __future__ import annotations

from contexture_jax.contexts._base import Context

__all__ = ["reverse"]


def reverse(context: Context) -> Context:
    """The same joint law with X and A in each other's place: T* for T.

    Args:
        context: with the capability `reverse`, as all finite ones.

    Raises:
        CapabilityError: if it has not.

    Example:
        >>> import contexture_jax as cx
        >>> cx.contexts.reverse(cx.contexts.joint([[1, 2, 0], [0, 3, 4]])).shape
        (3, 2)
    """
    return context.reverse()
