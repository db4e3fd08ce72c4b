"""Numbers and names as text for people."""

from __future__ import annotations

import math

__all__ = ["rounded", "with_article"]

_SAME = 1e-6


def rounded(value: float, digits: int = 3) -> str:
    """A number to some significant digits; near 1, to two of its distance from 1.

    A singular value of 0.9997 is not 1, which says that A determines a function of X;
    one that is 1 to 1e-6 may be.
    """
    value = float(value)
    distance = abs(value - 1.0)
    if distance < _SAME:
        return "1"
    if distance < 0.1:
        # The nines, or the zeros behind 1, and two digits of the distance.
        digits = max(digits, (value > 1) + 1 + math.ceil(-math.log10(distance)))
    return f"{value:.{digits}g}"


def with_article(name: str) -> str:
    """A name after "a" or "an"."""
    return f"{'an' if name[:1] in 'AEIOUaeio' else 'a'} {name}"
