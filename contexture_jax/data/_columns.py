"""One column of a table: telling numbers from categories, and encoding both.

Every encoded column has mean 0 and total variance 1, whatever it holds. A number is
standardised. A category is one-hot, centred and divided by √(1 − Σ_k p_k²), the square
root of the total variance of its one-hot columns (p_k: share of category k). So a
column of two values has the same geometry whether it is written as 0 and 1 or as "no"
and "yes", and no column weighs more in a distance because of how it was coded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from contexture_jax.data._looks import looks_like, not_quite_numbers
from contexture_jax.data._messages import (
    InputError,
    as_option,
    counted,
    enumerated,
    quoted,
)
from contexture_jax.data._notation import Reading, number, read_numbers
from contexture_jax.data._source import (
    DEFAULT_DIALECT,
    Cells,
    Dialect,
    Source,
    is_repeated,
    repeated,
)
from contexture_jax.data._texts import Texts

__all__ = ["Column", "doubtful_points", "encode", "file_decimal", "interpret"]

MOST_CATEGORIES = 1000
_LARGEST_EXACT = 2.0**53
_LOOKED_AT = 1000  # cells, to tell dates by; no more than categories may be
_INTEGER = re.compile(r"([+-]?\d+)(?:\.0*)?")
# A point that no thousands have behind it, so that it is before decimals.
_DECIMAL_POINT = r"^[+-]?(?:0?\.\d+|\d*\.\d{1,2}|\d*\.\d{4,}|\d{4,}\.\d+)$"


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


def interpret(
    source: Source,
    cells: Cells,
    name: str,
    *,
    categorical: bool = False,
    dialect: Dialect = DEFAULT_DIALECT,
    feature: bool = False,
) -> Column:
    """Decide what a column holds: numbers, unless a cell that is not missing is none.

    Args:
        source: where it is from, for messages.
        cells: text, booleans or numbers, n of them.
        name: the name of the column.
        categorical: whether to take it as categories whatever it holds.
        dialect: the decimal sign, if it is known, and the marks of missing values.
        feature: whether to refuse what is like numbers but would become nearly one
            category a row.

    Raises:
        InputError: if all cells are missing; if at least half of the cells are numbers
            but not all; if a number is infinite, or may be read in two ways; if there
            are more than `MOST_CATEGORIES` categories, or for `feature`.
    """
    if not isinstance(cells, Texts) and cells.dtype.kind == "V":
        raise InputError(
            f"column {quoted(name)} of {source.title} holds lists, bytes or records;"
            " expected numbers, text, booleans or dates: leave it out with"
            f" {as_option('--drop', name)}"
        )
    if not isinstance(cells, Texts) and cells.dtype.kind in "biuf":
        column = _of_numbers(source, cells, name, dialect)
        if not categorical:
            return _doubted(column, cells) if feature else column
        cells = np.array(
            [
                "" if bad else _written(v)
                for v, bad in zip(cells, column.missing, strict=True)
            ],
            dtype=object,
        )
    texts = cells if isinstance(cells, Texts) else Texts.of(cells)
    marks = frozenset(dialect.missing) | {""}
    # Points are before decimals unless the whole file has commas there.
    points = dialect.decimal != "," or dialect.points
    if not categorical and (points or not texts.any_matches(r"\.")):
        values = texts.numbers(marks)
        if values is not None and not np.isnan(values).all():
            column = _numbers(texts, values, name, marks)
            return _doubted(column, texts) if feature else column
    distinct, codes = texts.distinct
    absent = np.array([_is_missing(text, marks) for text in distinct])
    if absent.all():
        raise InputError(
            f"column {quoted(name)} of {source.title} has no values: every cell is"
            f" missing{_marked(distinct)}; remove it, or leave it out with"
            f" {as_option('--drop', name)}"
        )
    # Among numbers nan is missing, whatever the marks are.
    numeric = ~absent & ~np.array([_is_nan(text) for text in distinct])
    if not categorical and numeric.any():
        present, weights = _present(distinct, codes, numeric)
        reading = _read(present, weights, dialect)
        _check_reading(source, texts, name, present, reading)
        if reading.values is not None:
            values = np.full(len(distinct), np.nan)
            values[numeric] = reading.values
            values = values[codes]
            _check_finite(source, texts, values, name)
            plain = np.full(len(distinct), "", dtype=object)
            plain[numeric] = reading.plain or present
            column = _numbers(texts, values, name, marks, plain.tolist())
            column = column._replace(words=reading.words)
            return _doubted(column, texts) if feature else column
    present, weights = _present(distinct, codes, ~absent)
    column = _categories(source, distinct, codes, absent, name)
    column = column._replace(marks=_counts(distinct, codes, absent))
    if categorical:
        return column
    return _judged(source, texts, column, present, weights, feature=feature)


def file_decimal(columns: Iterable[Cells], dialect: Dialect) -> str | None:
    """The decimal sign of a file: what its columns have that allow one alone.

    Returns:
        A comma if some column has decimal commas beyond doubt and none has points, the
        other way round a point, and None where nothing or both is seen.
    """
    if dialect.decimal is not None:
        return dialect.decimal
    texts = [cells for cells in columns if isinstance(cells, Texts)]
    if not any(cells.any_matches(r"\d,\d|^[+-]?,\d") for cells in texts):
        return None
    marks = frozenset(dialect.missing) | {""}
    seen: set[str] = set()
    for cells in texts:
        if cells.numbers(marks) is not None:
            if cells.any_matches(_DECIMAL_POINT):
                seen.add(".")
            continue
        distinct, codes = cells.distinct
        numeric = [not (_is_missing(t, marks) or _is_nan(t)) for t in distinct]
        present, weights = _present(distinct, codes, np.array(numeric, dtype=bool))
        if present:
            decimals = read_numbers(present, weights).decimals
            seen |= decimals if len(decimals) == 1 else set()
    return seen.pop() if len(seen) == 1 else None


def doubtful_points(cells: Cells) -> bool:
    """Whether all points in a column may be between thousands."""
    return (
        isinstance(cells, Texts)
        and cells.any_matches(r"^[+-]?[1-9]\d{0,2}\.\d{3}$")
        and not cells.any_matches(_DECIMAL_POINT)
    )


def _nearly_one_a_row(column: Column) -> bool:
    """Whether the categories of a column are nearly as many as its present cells."""
    size, present = len(column.categories), int((~column.missing).sum())
    return 2 * size > present and (size > 2 or size == len(column.values) > 1)


def _of_numbers(
    source: Source, cells: np.ndarray, name: str, dialect: Dialect
) -> Column:
    if is_repeated(cells):
        column = _of_numbers(source, cells[:1], name, dialect)
        exact = None if column.exact is None else repeated(column.exact[0], len(cells))
        values = repeated(column.values[0], len(cells))
        return column._replace(values=values, exact=exact)
    values = cells.astype(np.float64)
    numbers = [number(mark) for mark in dialect.missing]
    marked = np.isin(values, [n for n in numbers if n is not None])
    values[marked] = np.nan
    _check_finite(source, cells, values, name)
    if np.isnan(values).all():
        raise InputError(
            f"column {quoted(name)} of {source.title} has no values: every cell is"
            f" missing{_marked([_written(v) for v in np.unique(cells[marked])])};"
            f" remove it, or leave it out with {as_option('--drop', name)}"
        )
    marks = {_written(v): int((cells == v).sum()) for v in np.unique(cells[marked])}
    empty = int(np.isnan(values).sum()) - sum(marks.values())
    if empty:
        marks["nan"] = empty
    column = Column(name, values, marks=marks)
    if cells.dtype.kind in "iu" and np.abs(values).max(initial=0.0) >= _LARGEST_EXACT:
        exact = np.where(marked, 0, cells.astype(object))
        return column._replace(exact=exact, notes=(_rounded(name),))
    return column


def _numbers(
    texts: Texts,
    values: np.ndarray,
    name: str,
    marks: frozenset[str],
    plain: Sequence[str] | None = None,
) -> Column:
    """A column of numbers, with exact integers where float64 rounds some.

    Args:
        texts: the cells.
        values: the number of each, shape (n,), NaN where missing.
        name: the name of the column.
        marks: the texts that stand for a missing value.
        plain: each of the different texts as Python writes numbers; None if they are
            so.
    """
    column = Column(name, values)
    if np.isnan(values).any():
        distinct, codes = texts.distinct
        absent = [_is_missing(text, marks) or _is_nan(text) for text in distinct]
        column = column._replace(marks=_counts(distinct, codes, np.array(absent)))
    if not (np.abs(values) >= _LARGEST_EXACT).any():
        return column
    distinct, codes = texts.distinct
    absent = np.ones(len(distinct), dtype=bool)
    absent[codes[~column.missing]] = False
    plain = distinct if plain is None else plain
    kept = [text for text, a in zip(plain, absent, strict=True) if not a]
    # With a power of ten, large numbers are measured rather than names.
    if not any(
        _INTEGER.fullmatch(text) and abs(float(text)) >= _LARGEST_EXACT for text in kept
    ):
        return column
    found = [_whole(text) for text in kept]
    column = column._replace(notes=(_rounded(name),))
    if any(value is None for value in found):
        return column
    whole = np.zeros(len(distinct), dtype=object)
    whole[~absent] = found
    return column._replace(exact=whole[codes])


def _doubted(column: Column, cells: Cells) -> Column:
    """A column of numbers, with a note where they may be dates or names."""
    name, first = column.name, np.flatnonzero(~np.isnan(column.values[:_LOOKED_AT]))
    written = (
        cells[row] if isinstance(cells, Texts) else _written(cells[row])
        for row in first.tolist()
    )
    what = not_quite_numbers(written)
    if (
        what is None
        and isinstance(cells, Texts)
        and cells.any_starts_with("0")
        and cells.any_matches(r"^0\d+$")
    ):
        what = "codes with leading zeros"
    if what is None:
        return column
    return column._replace(
        notes=(
            *column.notes,
            f"{quoted(name)} looks like {what}, read as numbers:"
            f" {as_option('--categorical', name)} takes each text as a category",
        )
    )


def _whole(text: str) -> int | None:
    """The integer that a text as Python writes numbers is, or None."""
    try:
        value = Decimal(text)
        return int(value) if value == value.to_integral_value() else None
    except ArithmeticError:  # of powers that no float has
        return None


def _marked(texts: Sequence[str]) -> str:
    """The way out where marks of missing values are all that there is."""
    marks = [quoted(text) for text in texts if text]
    return f" ({enumerated(marks)}; --missing '' keeps such)" if marks else ""


def _rounded(name: str) -> str:
    return (
        f"{quoted(name)} holds integers beyond 2^53, rounded as numbers: if they are"
        f" names, {as_option('--drop', name)} or {as_option('--categorical', name)}"
    )


def _counts(
    distinct: list[str], codes: np.ndarray, absent: np.ndarray
) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(distinct))
    return {distinct[i]: int(counts[i]) for i in np.flatnonzero(absent)}


def _present(
    distinct: list[str], codes: np.ndarray, kept: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The texts that are kept, and how many cells hold each."""
    counts = np.bincount(codes, minlength=len(distinct))
    return [distinct[i] for i in np.flatnonzero(kept)], counts[kept]


def _is_nan(text: str) -> bool:
    return text.lower().lstrip("+-") == "nan"


def _is_missing(text: str, marks: frozenset[str]) -> bool:
    return text in marks or ("nan" in marks and _is_nan(text))


def _written(value: float | np.generic) -> str:
    if isinstance(value, np.integer):
        return str(int(value))
    value = float(value)
    return str(int(value)) if value.is_integer() else repr(value)


def _read(present: list[str], weights: np.ndarray, dialect: Dialect) -> Reading:
    if dialect.decimal != ",":
        plain = [number(text) for text in present]
        if all(value is not None for value in plain):
            return Reading(np.array(plain, dtype=np.float64))
    if dialect.points and not any("," in text for text in present):
        reading = read_numbers(present, weights, ".")
        if reading.values is not None:
            return reading
    reading = read_numbers(present, weights, dialect.decimal)
    if dialect.found and reading.values is None and len(reading.decimals) == 1:
        return read_numbers(present, weights)
    return reading


def _check_reading(
    source: Source, texts: Texts, name: str, present: list[str], reading: Reading
) -> None:
    """Refuse numbers that may be read in two ways, and a few cells that are none."""
    where = f"column {quoted(name)} of {source.title}"
    if reading.misfits is not None and reading.misfits.any():
        bad = {text for text, m in zip(present, reading.misfits, strict=True) if m}
        is_bad = np.array([text in bad for text in texts.distinct[0]])[
            texts.distinct[1]
        ]
        row = int(np.argmax(is_bad))
        raise InputError(
            f"{where} holds numbers but for {quoted(texts[row])} on"
            f" {source.place(row)}{_more(is_bad)}; correct the cell, empty it if the"
            " value is missing (--missing names marks of such), or pass"
            f" {as_option('--categorical', name)} if these are no numbers, or"
            f" {as_option('--drop', name)}"
        )
    if reading.values is None and len(reading.decimals) > 1:
        row = int(np.argmax(texts.among([next(t for t in present if "," in t)])))
        raise InputError(
            f"{where} holds {quoted(texts[row])} on {source.place(row)}, with a comma"
            " before decimals or between thousands: --decimal , or --decimal . tells;"
            f" or leave it out with {as_option('--drop', name)}, or take each text as a"
            f" category with {as_option('--categorical', name)}"
        )


def _judged(
    source: Source,
    texts: Texts,
    column: Column,
    present: list[str],
    weights: np.ndarray,
    *,
    feature: bool,
) -> Column:
    """Categories that nobody asked for: refused or noted where they may be no such."""
    name, many = column.name, _nearly_one_a_row(column)
    look = looks_like(present, weights)
    size = counted(len(column.categories), "different text")
    rows = counted(int(weights.sum()), "row")
    if look is not None and many and feature:
        row = int(np.argmax(~column.missing))
        raise InputError(
            f"column {quoted(name)} of {source.title} looks like {look}:"
            f" {quoted(texts[row])} on {source.place(row)}; as texts they would be"
            f" {len(column.categories):,} categories in {rows}: write them as numbers,"
            f" leave the column out with {as_option('--drop', name)}, or take it so"
            f" with {as_option('--categorical', name)}{_other_separator(source)}"
        )
    notes = list(column.notes)
    if many:
        notes.append(
            f"{quoted(name)} has {size} in {rows}, nearly a category a row"
            f"{_other_separator(source)}"
        )
    elif look is not None:
        notes.append(f"{quoted(name)} looks like {look}, taken as categories")
    alike: dict[str, list[str]] = {}
    for category in column.categories:
        alike.setdefault(" ".join(category.casefold().split()), []).append(category)
    twins = [" and ".join(map(quoted, a)) for a in alike.values() if len(a) > 1]
    if twins:
        notes.append(
            f"{quoted(name)} has categories that differ by case or spaces only:"
            f" {enumerated(twins)}"
        )
    return column._replace(notes=tuple(notes))


def _other_separator(source: Source) -> str:
    single = len(source.names) == 1 and source.lines is not None
    return " (--separator, if this is more than one column)" if single else ""


def _categories(
    source: Source,
    distinct: list[str],
    codes: np.ndarray,
    absent: np.ndarray,
    name: str,
) -> Column:
    present = [text for text, a in zip(distinct, absent, strict=True) if not a]
    if {text.lower() for text in present} <= {"true", "false"}:
        present = [text.lower() for text in present]
        distinct = [text.lower() for text in distinct]
    # Class 10 comes after class 9, and texts after numbers.
    categories = sorted(set(present), key=_order)
    if len(categories) > MOST_CATEGORIES:
        look = looks_like(categories[:_LOOKED_AT], np.ones(_LOOKED_AT))
        raise InputError(
            f"column {quoted(name)} of {source.title} has {len(categories)} different"
            f" texts in {len(codes)} rows, such as {quoted(categories[0])}; at most"
            f" {MOST_CATEGORIES} make a category: "
            + (f"they look like {look}: write them as numbers, or " if look else "")
            + f"leave it out with {as_option('--drop', name)}{_other_separator(source)}"
        )
    index = {category: i for i, category in enumerate(categories)}
    places = [-1 if a else index[t] for t, a in zip(distinct, absent, strict=True)]
    return Column(name, np.array(places, dtype=np.int64)[codes], tuple(categories))


def _order(category: str) -> tuple[bool, float, str]:
    """Numbers before texts, and 10 after 9."""
    value = None if _is_nan(category) else number(category)
    return value is None, value or 0.0, category


def _check_finite(source: Source, cells: Cells, values: np.ndarray, name: str) -> None:
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
