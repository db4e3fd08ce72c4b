"""One column of a table: telling numbers from categories, and encoding both.

Every encoded column has mean 0 and total variance 1, whatever it holds. A number is
standardised. A category is one-hot, centred and divided by √(1 − Σ_k p_k²), the square
root of the total variance of its one-hot columns (p_k: share of category k). So a
column of two values has the same geometry whether it is written as 0 and 1 or as "no"
and "yes", and no column weighs more in a distance because of how it was coded.
"""

import re
from typing import NamedTuple

import numpy as np

from contexture_jax.cli._messages import InputError, quoted
from contexture_jax.cli._source import Source

__all__ = ["Column", "encode", "interpret"]

MISSING = frozenset(
    ["", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None"]
)
MOST_CATEGORIES = 1000
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class Column(NamedTuple):
    """A column that has been understood.

    Attributes:
        name: its name.
        values: shape (n,): numbers, float64, NaN where missing; or the index into
            `categories` of each cell, int64, -1 where missing.
        categories: the distinct texts, in order; empty for numbers.
    """

    name: str
    values: np.ndarray
    categories: tuple[str, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        """Which cells are missing, shape (n,), bool."""
        return self.values < 0 if self.categories else np.isnan(self.values)


def interpret(
    source: Source, cells: np.ndarray, name: str, *, categorical: bool
) -> Column:
    """Decide what a column holds: numbers, unless a cell that is not missing is none.

    Args:
        source: where it is from, for messages.
        cells: shape (n,), text, booleans or numbers.
        name: the name of the column.
        categorical: whether to take it as categories whatever it holds.

    Raises:
        InputError: if all cells are missing; if at least half of the cells are numbers
            but not all; if a number is infinite; or if there are more than
            `MOST_CATEGORIES` categories.
    """
    if cells.dtype.kind in "biuf":
        values = cells.astype(np.float64)
        _check_finite(source, cells, values, name)
        if not categorical:
            return Column(name, values)
        cells = np.array([_written(v) for v in values], dtype=object)
    texts = [str(cell) for cell in cells]
    numbers = [_number(text) for text in texts]
    missing = np.array(
        [
            text in MISSING or (number is not None and np.isnan(number))
            for text, number in zip(texts, numbers, strict=True)
        ]
    )
    if missing.all():
        raise InputError(
            f"column {quoted(name)} of {source.title} has no values: every cell is"
            " missing; remove it, or leave it out with --drop"
        )
    other = np.array([number is None for number in numbers]) & ~missing
    if categorical or not _mostly_numbers(texts, other, missing):
        return _categories(source, texts, missing, name)
    if other.any():
        row = int(np.argmax(other))
        raise InputError(
            f"column {quoted(name)} of {source.title} holds numbers but for"
            f" {quoted(texts[row])} on {source.place(row)}{_more(other)}; correct the"
            " cell, empty it if the value is missing, or pass --categorical if these"
            " are no numbers"
        )
    values = np.array([np.nan if n is None else n for n in numbers])
    values[missing] = np.nan
    _check_finite(source, cells, values, name)
    return Column(name, values)


def _written(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(float(value))


def _number(text: str) -> float | None:
    if "_" in text:  # Python reads 1_000 as a number; nobody writes data so
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _mostly_numbers(texts: list[str], other: np.ndarray, missing: np.ndarray) -> bool:
    """Whether at least half of the present cells are meant as numbers.

    Cells like `1,5` count as meant so: a decimal comma would otherwise turn a column of
    measurements into one category a row.
    """
    commas = sum(
        _DECIMAL_COMMA.fullmatch(texts[row]) is not None
        for row in np.flatnonzero(other)
    )
    return 2 * (int(other.sum()) - commas) <= int((~missing).sum())


def _categories(
    source: Source, texts: list[str], missing: np.ndarray, name: str
) -> Column:
    present = {t for t, m in zip(texts, missing, strict=True) if not m}
    # Class 10 comes after class 9, and texts after numbers.
    categories = sorted(present, key=_order)
    if len(categories) > MOST_CATEGORIES:
        raise InputError(
            f"column {quoted(name)} of {source.title} has {len(categories)} different"
            f" texts in {len(texts)} rows, such as {quoted(categories[0])}; at most"
            f" {MOST_CATEGORIES} make a category: leave it out with --drop"
        )
    index = {category: i for i, category in enumerate(categories)}
    codes = np.array(
        [-1 if m else index[t] for t, m in zip(texts, missing, strict=True)]
    )
    return Column(name, codes, tuple(categories))


def _order(category: str) -> tuple[bool, float, str]:
    """Numbers before texts, and 10 after 9."""
    number = _number(category)
    return number is None, number or 0.0, category


def _check_finite(
    source: Source, cells: np.ndarray, values: np.ndarray, name: str
) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise InputError(
            f"column {quoted(name)} of {source.title} has an infinite value,"
            f" {quoted(str(cells[row]))} on {source.place(row)}{_more(infinite)};"
            " expected finite numbers, or an empty cell where the value is missing"
        )


def _more(bad: np.ndarray) -> str:
    count = int(bad.sum()) - 1
    return f" (and {count} more)" if count else ""


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
    values = np.where(column.missing, np.nanmedian(column.values), column.values)
    largest = np.abs(values).max()
    # By comparison, not by sd = 0: the mean of equal numbers may round off them.
    if values.max() == values.min():
        return np.empty((len(values), 0)), []
    values = values / largest  # squares of it neither overflow nor underflow
    centred = values - values.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        features = centred / np.sqrt(np.mean(centred**2))
    if not np.isfinite(features).all():
        raise InputError(
            f"column {quoted(column.name)} cannot be standardised: its values differ"
            f" too little beside their size, {largest:g}; subtract a constant from them"
        )
    return features[:, None], [column.name]
