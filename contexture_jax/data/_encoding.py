"""A column that has been understood, and its encoding as features.

Every encoded column has mean 0 and total variance 1, whatever it holds. A number is
standardised. A category is one-hot, centred and divided by √(1 − Σ_k p_k²), the square
root of the total variance of its one-hot columns (p_k: share of category k). So a
column of two values has the same geometry whether it is written as 0 and 1 or as "no"
and "yes", and no column weighs more in a distance because of how it was coded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from contexture_jax.data._messages import InputError, quoted
from contexture_jax.data._source import is_repeated

__all__ = ["Column", "encode"]


class Column(NamedTuple):
    """A column that has been understood.

    Attributes:
        name: its name.
        values: shape (n,): numbers, float64, NaN where missing; or the index into
            `categories` of each cell, int64, -1 where missing.
        categories: the distinct texts, in order; empty for numbers.
        words: how the numbers are written, where not as Python writes them.
        exact: the values as Python's integers, shape (n,), where float64 rounds some;
            0 where missing.
        marks: how many cells hold each mark of a missing value.
        notes: what a reader should know of it.
    """

    name: str
    values: np.ndarray
    categories: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    exact: np.ndarray | None = None
    marks: dict[str, int] = {}  # noqa: RUF012  (replaced, never changed)
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        """Which cells are missing, shape (n,), bool."""
        return self.values < 0 if self.categories else np.isnan(self.values)


def encode(column: Column) -> tuple[np.ndarray, list[str]]:
    """Encode a column as features of mean 0 and total variance 1.

    A missing number becomes the median of the present ones, before anything else; a
    missing category is a category of its own.

    Returns:
        (features, names): shape (n, k), float64, with k = 1 for numbers, the number of
        categories otherwise, and 0 if the column is constant.

    Raises:
        InputError: if the numbers are too large to standardise.
    """
    if not column.categories:
        return _standardised(column)
    categories = list(column.categories)
    codes = column.values
    if column.missing.any():
        codes = np.where(codes < 0, len(categories), codes)
        categories.append("missing")
    share = np.bincount(codes, minlength=len(categories)) / len(codes)
    if len(categories) == 1:
        return np.empty((len(codes), 0)), []
    one_hot = np.eye(len(categories))[codes]
    features = (one_hot - share) / np.sqrt(1.0 - np.sum(share**2))
    return features, [f"{column.name}={category}" for category in categories]


def _standardised(column: Column) -> tuple[np.ndarray, list[str]]:
    if is_repeated(column.values):
        return np.empty((len(column.values), 0)), []
    largest = float(np.nanmax(np.abs(column.values)))
    # Neither squares nor the sum of two middle values overflow or underflow then.
    scaled = column.values / (largest or 1.0)
    values = scaled
    if column.missing.any():
        values = np.where(column.missing, np.nanmedian(scaled), scaled)
    # By comparison, not by sd = 0: the mean of equal numbers may round off them.
    if values.max() == values.min():
        return np.empty((len(values), 0)), []
    centred = values - values.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        features = centred / np.sqrt(np.mean(centred**2))
    if not np.isfinite(features).all():
        raise InputError(
            f"column {quoted(column.name)} cannot be standardised: its values differ"
            f" too little beside their size, {largest:g}; subtract a constant from them"
        )
    return features[:, None], [column.name]
