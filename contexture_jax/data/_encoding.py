"""A column that has been understood, and its encoding as features.

Every encoded column has mean 0 and total variance 1, whatever it holds. A number is
standardised. A category is one-hot, centred and divided by √(1 − Σ_k p_k²), the square
root of the total variance of its one-hot columns (p_k: share of category k). So a
column of two values has the same geometry whether it is written as 0 and 1 or as "no"
and "yes", and no column weighs more in a distance because of how it was coded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from contexture_jax.data._messages import InputError, quoted
from contexture_jax.data._source import is_repeated
from contexture_jax.data._sums import deviation_of, mean_of

__all__ = ["Column", "Encoding", "as_encodings", "encode", "one_hot", "standardised"]


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


class Encoding(NamedTuple):
    """How a column becomes features, as the table said that it was found in.

    All of it can be written as JSON.

    Attributes:
        name: of the column.
        categories: in the order of the features; empty for numbers.
        has_missing: whether the last of these stands for missing cells.
        shares: of each category.
        unit: what numbers are divided by first.
        median: of what is there then, for missing numbers.
        mean: of all.
        deviation: their standard deviation.
    """

    name: str
    categories: tuple[str, ...] = ()
    has_missing: bool = False
    shares: tuple[float, ...] = ()
    unit: float = 1.0
    median: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def feature_names(self) -> list[str]:
        """The names of the features."""
        if not self.categories:
            return [self.name]
        return [f"{self.name}={category}" for category in self.categories]


def as_encodings(columns: Iterable[Mapping[str, Any]]) -> list[Encoding]:
    """Encodings from JSON, as `contexture train` keeps them in a model.

    Args:
        columns: the fields of each, as its `_asdict()` gives them.

    Raises:
        TypeError: if one has other fields than an `Encoding`.

    Example:
        >>> import json
        >>> import contexture_jax as cx
        >>> table = cx.data.load_features("wine", target="target")
        >>> held = json.dumps([encoding._asdict() for encoding in table.encodings])
        >>> cx.data.as_encodings(json.loads(held)) == list(table.encodings)
        True
    """

    def encoding(column: Mapping[str, Any]) -> Encoding:
        # Tuples became lists in JSON.
        tupled: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in column.items()
        }
        return Encoding(**tupled)

    return [encoding(column) for column in columns]


def encode(column: Column) -> tuple[np.ndarray, Encoding | None]:
    """Encode a column as features of mean 0 and total variance 1.

    A missing number becomes the median of the present ones, before anything else; a
    missing category is a category of its own.

    Returns:
        (features, encoding): shape (n, k), float64, with k = 1 for numbers, the number
        of categories otherwise; k = 0 and None if the column is constant.

    Raises:
        InputError: if the numbers are too large to standardise.
    """
    nothing = np.empty((len(column.values), 0)), None
    if column.categories:
        has_missing = bool(column.missing.any())
        categories = (*column.categories, *(("missing",) if has_missing else ()))
        codes = np.where(column.missing, len(categories) - 1, column.values)
        # p_k, with missing as one of the categories.
        share = np.bincount(codes, minlength=len(categories)) / len(codes)
        # 1 − Σ p² would be 0: a constant has no variance to scale.
        if len(categories) == 1:
            return nothing
        shares = tuple(share.tolist())
        encoding = Encoding(column.name, categories, has_missing, shares)
        return one_hot(codes, encoding), encoding
    # Constant without a look at its cells.
    if is_repeated(column.values):
        return nothing
    # The unit: |scaled| ≤ 1.
    largest = float(np.nanmax(np.abs(column.values)))
    # Neither squares nor the sum of two middle values overflow or underflow then.
    scaled = column.values / (largest or 1.0)
    median = float(np.nanmedian(scaled)) if column.missing.any() else 0.0
    # Before mean and deviation, which are those of what the features are made of.
    values = np.where(column.missing, median, scaled)
    # By comparison, not by sd = 0: the mean of equal numbers may round off them.
    if values.max() == values.min():
        return nothing
    # As where processes read rows of their own: a solve of some goes on in another.
    mean = float(mean_of(values, len(values)))
    deviation = float(deviation_of(values - mean, len(values)))
    # For rows of later tables, in which one may be missing.
    if not column.missing.any():
        median = float(np.median(scaled))
    encoding = Encoding(
        column.name,
        unit=largest or 1.0,
        median=median,
        mean=mean,
        deviation=deviation,
    )
    # By the function that later rows go through: both are encoded alike to the bit.
    features = standardised(column.values, encoding)
    if not np.isfinite(features).all():
        raise InputError(
            f"column {quoted(column.name)} cannot be standardised: its values differ"
            f" too little beside their size, {largest:g}; subtract a constant from them"
        )
    return features, encoding


def one_hot(codes: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Features of categories by number, shape (n, k)."""
    share = np.asarray(encoding.shares)
    hot = np.eye(len(share))[codes]
    # Total variance Σ p_k (1 − p_k) = 1 − Σ p_k².
    return (hot - share) / np.sqrt(1.0 - np.sum(share**2))


def standardised(values: np.ndarray, encoding: Encoding) -> np.ndarray:
    """The feature of numbers, NaN where missing, shape (n, 1)."""
    scaled = values / encoding.unit
    scaled = np.where(np.isnan(values), encoding.median, scaled)
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((scaled - encoding.mean) / encoding.deviation)[:, None]
