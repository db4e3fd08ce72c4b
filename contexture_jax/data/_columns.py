"""One column of a table: telling numbers, in any notation, from categories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from contexture_jax.data._cells import (
    counts_of,
    is_missing,
    is_nan,
    present_texts,
    written,
)
from contexture_jax.data._encoding import Column
from contexture_jax.data._looks import looks_like
from contexture_jax.data._messages import InputError, parameter, quoted
from contexture_jax.data._notation import Reading, number, read_numbers
from contexture_jax.data._remarks import (
    LOOKED_AT,
    check_finite,
    check_reading,
    doubted,
    judged,
    other_separator,
    rounded,
    told_marks,
)
from contexture_jax.data._source import (
    DEFAULT_DIALECT,
    Cells,
    Dialect,
    Source,
    is_repeated,
    repeated,
)
from contexture_jax.data._texts import Texts

__all__ = ["interpret"]

# One-hot, each category is a feature.
MOST_CATEGORIES = 1000
# The largest integers of which float64 has every one.
_LARGEST_EXACT = 2.0**53
_INTEGER = re.compile(r"([+-]?\d+)(?:\.0*)?")


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
            f" {parameter('drop', [name])}"
        )
    # A typed column is numbers already; only the user's word makes it categories.
    if not isinstance(cells, Texts) and cells.dtype.kind in "biuf":
        column = _of_numbers(source, cells, name, dialect)
        if not categorical:
            return doubted(column, cells) if feature else column
        pairs = zip(cells, column.missing, strict=True)
        # As they are written: 1.0 of a float column is the category "1", as of
        # integers.
        cells = np.array(["" if bad else written(v) for v, bad in pairs], dtype=object)
    texts = cells if isinstance(cells, Texts) else Texts.of(cells)
    marks = frozenset(dialect.missing) | {""}
    if not categorical:
        # The rule first, all cells at once by Arrow; notations cost a look at every
        # different text.
        column = _plain_numbers(texts, name, marks, dialect)
        if column is None:
            column = _noted_numbers(source, texts, name, marks, dialect)
        if column is not None:
            return doubted(column, texts) if feature else column
    distinct, codes = texts.distinct
    # Over the different texts, which are fewer than cells.
    absent = np.array([is_missing(text, marks) for text in distinct])
    # An error, as a column of nothing is hardly what was meant; `drop` takes it out.
    if absent.all():
        raise InputError(
            f"column {quoted(name)} of {source.title} has no values: every cell is"
            f" missing{told_marks(distinct)}; remove it, or leave it out with"
            f" {parameter('drop', [name])}"
        )
    column = _categories(source, distinct, codes, absent, name)
    column = column._replace(marks=counts_of(distinct, codes, absent))
    if categorical:
        return column
    present, weights = present_texts(distinct, codes, ~absent)
    return judged(source, texts, column, present, weights, feature=feature)


def _plain_numbers(
    texts: Texts, name: str, marks: frozenset[str], dialect: Dialect
) -> Column | None:
    """The column if its cells are numbers as Python writes them, or None."""
    # Points are before decimals unless the whole file has commas there.
    points = dialect.decimal != "," or dialect.points
    # 1.234 is a thousand where commas are before decimals.
    if not points and texts.any_matches(r"\."):
        return None
    values = texts.numbers(marks)
    # All missing: the caller says so in its own words.
    if values is None or np.isnan(values).all():
        return None
    return _numbers(texts, values, name, marks)


def _noted_numbers(
    source: Source, texts: Texts, name: str, marks: frozenset[str], dialect: Dialect
) -> Column | None:
    """The column if its cells are numbers in some notation, or None."""
    distinct, codes = texts.distinct
    # Among numbers nan is missing, whatever the marks are.
    numeric = np.array([not (is_missing(t, marks) or is_nan(t)) for t in distinct])
    if not numeric.any():
        return None
    present, weights = present_texts(distinct, codes, numeric)
    reading = _read(present, weights, dialect)
    check_reading(source, texts, name, present, reading)
    if reading.values is None:
        return None
    values = np.full(len(distinct), np.nan)
    values[numeric] = reading.values
    values = values[codes]
    check_finite(source, texts, values, name)
    plain = np.full(len(distinct), "", dtype=object)
    plain[numeric] = reading.plain or present
    column = _numbers(texts, values, name, marks, plain.tolist())
    return column._replace(words=reading.words)


def _of_numbers(
    source: Source, cells: np.ndarray, name: str, dialect: Dialect
) -> Column:
    # One cell stands for all: nothing of the length of the column is made.
    if is_repeated(cells):
        column = _of_numbers(source, cells[:1], name, dialect)
        exact = None if column.exact is None else repeated(column.exact[0], len(cells))
        values = repeated(column.values[0], len(cells))
        return column._replace(values=values, exact=exact)
    values = cells.astype(np.float64)
    numbers = [number(mark) for mark in dialect.missing]
    # -999 may be a mark among numbers too, if the user names it.
    at_mark = np.isin(values, [n for n in numbers if n is not None])
    values[at_mark] = np.nan
    check_finite(source, cells, values, name)
    if np.isnan(values).all():
        raise InputError(
            f"column {quoted(name)} of {source.title} has no values: every cell is"
            f" missing{told_marks([written(v) for v in np.unique(cells[at_mark])])};"
            f" remove it, or leave it out with {parameter('drop', [name])}"
        )
    marks = {written(v): int((cells == v).sum()) for v in np.unique(cells[at_mark])}
    empty = int(np.isnan(values).sum()) - sum(marks.values())
    if empty:
        marks["nan"] = empty
    column = Column(name, values, marks=marks)
    # Integers that float64 cannot tell apart are mostly names: they are kept beside.
    if cells.dtype.kind in "iu" and np.abs(values).max(initial=0.0) >= _LARGEST_EXACT:
        exact = np.where(at_mark, 0, cells.astype(object))
        return column._replace(exact=exact, notes=(rounded(name),))
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
        absent = [is_missing(text, marks) or is_nan(text) for text in distinct]
        column = column._replace(marks=counts_of(distinct, codes, np.array(absent)))
    # Hardly any column gets beyond this line.
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
    column = column._replace(notes=(rounded(name),))
    # Fractions beside large integers: nothing to keep exactly.
    if any(value is None for value in found):
        return column
    whole = np.zeros(len(distinct), dtype=object)
    whole[~absent] = found
    return column._replace(exact=whole[codes])


def _whole(text: str) -> int | None:
    """The integer that a text as Python writes numbers is, or None."""
    try:
        # Exact for any number of digits, where float has sixteen.
        value = Decimal(text)
        return int(value) if value == value.to_integral_value() else None
    except ArithmeticError:  # of powers that no float has
        return None


def _read(present: list[str], weights: np.ndarray, dialect: Dialect) -> Reading:
    # Most columns are Python's numbers but for a few that Arrow does not read.
    if dialect.decimal != ",":
        plain = [number(text) for text in present]
        if all(value is not None for value in plain):
            return Reading(np.array(plain, dtype=np.float64))
    # Commas stand in quotes in such a file: a column without any has points before
    # decimals.
    if dialect.points and not any("," in text for text in present):
        reading = read_numbers(present, weights, ".")
        if reading.values is not None:
            return reading
    reading = read_numbers(present, weights, dialect.decimal)
    # The sign of the file was only found out: a column that fits one other sign alone
    # has that.
    if dialect.found and reading.values is None and len(reading.decimals) == 1:
        return read_numbers(present, weights)
    return reading


def _categories(
    source: Source,
    distinct: list[str],
    codes: np.ndarray,
    absent: np.ndarray,
    name: str,
) -> Column:
    present = [text for text, a in zip(distinct, absent, strict=True) if not a]
    if {text.lower() for text in present} <= {"true", "false"}:
        # TRUE, True and true of three programs are one value.
        present = [text.lower() for text in present]
        distinct = [text.lower() for text in distinct]
    # Class 10 comes after class 9, and texts after numbers.
    categories = sorted(set(present), key=_order)
    if len(categories) > MOST_CATEGORIES:
        look = looks_like(categories[:LOOKED_AT], np.ones(LOOKED_AT))
        raise InputError(
            f"column {quoted(name)} of {source.title} has {len(categories)} different"
            f" texts in {len(codes)} rows, such as {quoted(categories[0])}; at most"
            f" {MOST_CATEGORIES} make a category: "
            + (f"they look like {look}: write them as numbers, or " if look else "")
            + f"leave it out with {parameter('drop', [name])}{other_separator(source)}"
        )
    index = {category: i for i, category in enumerate(categories)}
    # -1 for missing, as `Column.missing` reads it.
    places = [-1 if a else index[t] for t, a in zip(distinct, absent, strict=True)]
    return Column(name, np.array(places, dtype=np.int64)[codes], tuple(categories))


def _order(category: str) -> tuple[bool, float, str]:
    """Numbers before texts, and 10 after 9."""
    value = None if is_nan(category) else number(category)
    return value is None, value or 0.0, category
