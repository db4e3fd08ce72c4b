"""What single texts of a column are: missing, nan, or how a number is written."""

from __future__ import annotations

import numpy as np

__all__ = ["counts_of", "is_missing", "is_nan", "present_texts", "written"]


def is_nan(text: str) -> bool:
    """Whether a text is nan, in any spelling."""
    return text.lower().lstrip("+-") == "nan"


def is_missing(text: str, marks: frozenset[str]) -> bool:
    """Whether a text is one of the marks, of which nan stands for its spellings."""
    return text in marks or ("nan" in marks and is_nan(text))


def written(value: float | np.generic) -> str:
    """A number as text: an integer without a point."""
    if isinstance(value, np.integer):
        return str(int(value))
    value = float(value)
    # As it would be written by hand, so that marks and messages match: 1 and not 1.0.
    return str(int(value)) if value.is_integer() else repr(value)


def present_texts(
    distinct: list[str], codes: np.ndarray, kept: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The texts that are kept, and how many cells hold each."""
    counts = np.bincount(codes, minlength=len(distinct))
    return [distinct[i] for i in np.flatnonzero(kept)], counts[kept]


def counts_of(
    distinct: list[str], codes: np.ndarray, absent: np.ndarray
) -> dict[str, int]:
    """How many cells hold each of the texts that are missing."""
    counts = np.bincount(codes, minlength=len(distinct))
    return {distinct[i]: int(counts[i]) for i in np.flatnonzero(absent)}
