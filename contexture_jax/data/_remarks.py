"""What is refused of a column, and what a reader should know of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contexture_jax.data._cells import written
from contexture_jax.data._encoding import Column
from contexture_jax.data._looks import looks_like, not_quite_numbers
from contexture_jax.data._messages import (
    InputError,
    counted,
    enumerated,
    parameter,
    quoted,
)
from contexture_jax.data._notation import DECIMAL_COMMAS, Reading
from contexture_jax.data._source import Cells, Dialect, Source
from contexture_jax.data._texts import Texts

__all__ = [
    "LOOKED_AT",
    "check_finite",
    "check_reading",
    "doubted",
    "judged",
    "notes_of",
    "other_separator",
    "rounded",
    "told_marks",
    "without_values",
]

LOOKED_AT = 1000  # cells, to tell dates by; no more than categories may be


def doubted(column: Column, cells: Cells) -> Column:
    """A column of numbers, with a note where they may be dates or names."""
    # The first thousand cells tell: dates are all dates.
    name, first = column.name, np.flatnonzero(~np.isnan(column.values[:LOOKED_AT]))
    shown = (
        cells[row] if isinstance(cells, Texts) else written(cells[row])
        for row in first.tolist()
    )
    what = not_quite_numbers(shown)
    if (
        what is None
        and isinstance(cells, Texts)
        # Cheap, and mostly false, before the pattern.
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
            f" {parameter('categorical', [name])} takes each text as a category",
        )
    )


def judged(
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
    # One-hot, nearly every row would be a category of its own: features that say
    # nothing, at the price of many.
    if look is not None and many and feature:
        row = int(np.argmax(~column.missing))
        raise InputError(
            f"column {quoted(name)} of {source.title} looks like {look}:"
            f" {quoted(texts[row])} on {source.place(row)}; as texts they would be"
            f" {len(column.categories):,} categories in {rows}: write them as numbers,"
            f" leave the column out with {parameter('drop', [name])}, or take it so"
            f" with {parameter('categorical', [name])}{other_separator(source)}"
        )
    notes = list(column.notes)
    if many:
        notes.append(
            f"{quoted(name)} has {size} in {rows}, nearly a category a row"
            f"{other_separator(source)}"
        )
    elif look is not None:
        notes.append(f"{quoted(name)} looks like {look}, taken as categories")
    # "Yes" and "yes " count as two, which is told and not changed.
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


def _nearly_one_a_row(column: Column) -> bool:
    """Whether the categories of a column are nearly as many as its present cells."""
    size, present = len(column.categories), int((~column.missing).sum())
    # Two categories are few, unless each row has its own.
    return 2 * size > present and (size > 2 or size == len(column.values) > 1)


def check_reading(
    source: Source, texts: Texts, name: str, present: list[str], reading: Reading
) -> None:
    """Refuse numbers that may be read in two ways, and a few cells that are none."""
    where = f"column {quoted(name)} of {source.title}"
    if reading.misfits is not None and reading.misfits.any():
        bad = {text for text, m in zip(present, reading.misfits, strict=True) if m}
        # From the different texts to cells, for the first of them and their number.
        is_bad = np.array([text in bad for text in texts.distinct[0]])[
            texts.distinct[1]
        ]
        row = int(np.argmax(is_bad))
        raise InputError(
            f"{where} holds numbers but for {quoted(texts[row])} on"
            f" {source.place(row)}{_more(is_bad)}; correct the cell, empty it if the"
            f" value is missing ({parameter('missing')} names marks of such), or pass"
            f" {parameter('categorical', [name])} if these are no numbers, or"
            f" {parameter('drop', [name])}"
        )
    if reading.values is None and len(reading.decimals) > 1:
        row = int(np.argmax(texts.among([next(t for t in present if "," in t)])))
        raise InputError(
            f"{where} holds {quoted(texts[row])} on {source.place(row)}, with a comma"
            " before decimals or between thousands: "
            f"{parameter('decimal', ',')} or {parameter('decimal', '.')} tells;"
            f" or leave it out with {parameter('drop', [name])}, or take each text as a"
            f" category with {parameter('categorical', [name])}"
        )


def check_finite(source: Source, cells: Cells, values: np.ndarray, name: str) -> None:
    """Refuse an infinite number."""
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


def other_separator(source: Source) -> str:
    """What to say where all columns may have been taken as one."""
    single = len(source.names) == 1 and source.lines is not None
    if not single:
        return ""
    return f" ({parameter('separator')}, if this is more than one column)"


def told_marks(texts: Sequence[str]) -> str:
    """The way out where marks of missing values are all that there is."""
    marks = [quoted(text) for text in texts if text]
    return (
        f" ({enumerated(marks)}; {parameter('missing', ())} keeps such)"
        if marks
        else ""
    )


def rounded(name: str) -> str:
    """What to say of integers that float64 rounds."""
    return (
        f"{quoted(name)} holds integers beyond 2^53, rounded as numbers: if they are"
        f" names, {parameter('drop', [name])} or {parameter('categorical', [name])}"
    )


def notes_of(columns: Sequence[Column], dialect: Dialect) -> list[str]:
    """How numbers are written that are not as Python has them, and other remarks."""
    written: dict[str, list[str]] = {}
    for column in columns:
        # Of the whole file, which says so once.
        words = [
            w for w in column.words if w != DECIMAL_COMMAS or dialect.decimal != ","
        ]
        if words:
            written.setdefault(", ".join(words), []).append(column.name)
    notes = [
        f"numbers with {words}, in: {enumerated(names)}"
        for words, names in written.items()
    ]
    return notes + [note for column in columns for note in column.notes]


def without_values(column: Column) -> Column:
    """What notes are made of; a copy of all values would be kept for that else."""
    return column._replace(values=np.empty(0), exact=None)
