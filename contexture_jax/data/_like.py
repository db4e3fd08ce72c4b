"""Rows of a new file, encoded as those of another were."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from contexture_jax.data._columns import interpret
from contexture_jax.data._decimals import decimals
from contexture_jax.data._encoding import Column, Encoding, one_hot, standardised
from contexture_jax.data._messages import (
    InputError,
    Message,
    closest,
    counted,
    enumerated,
    quoted,
)
from contexture_jax.data._read import read
from contexture_jax.data._source import DEFAULT_MISSING, Source, as_dialect
from contexture_jax.data._sparse import as_columns
from contexture_jax.data._table import Table

__all__ = ["load_like"]


def load_like(
    path: str | os.PathLike[str],
    encodings: Sequence[Encoding],
    *,
    separator: str | None = None,
    decimal: str | None = None,
    missing: Iterable[str] = DEFAULT_MISSING,
) -> Table:
    """Read new rows and encode them as the rows of another table were.

    Columns are found by name, in any order; others do not count. Medians, means,
    deviations and categories are those of the other table.

    Args:
        path: as of `load_features`.
        encodings: `Table.encodings` of the other table.
        separator: as of `load_features`.
        decimal: likewise.
        missing: likewise.

    Returns:
        A `Table` with features of shape (n, d), float64, and no target.

    Raises:
        InputError: if a column is not there, holds text in place of numbers or a
            category that the other table had not, or a cell is missing where no
            category stands for that.
    """
    dialect = as_dialect(separator, decimal, missing)
    source = as_columns(read(os.fspath(path), dialect))
    names = [encoding.name for encoding in encodings]
    absent = [name for name in names if name not in source.names]
    if absent:
        raise InputError(
            f"{source.title} has no column {quoted(absent[0])}"
            f"{closest(absent[0], source.names)}; what was learned takes"
            f" {enumerated(names)}"
        )
    places = [source.names.index(name) for name in names]
    # The columns of the other table alone, in its order: others may hold anything.
    source = source._replace(names=names, columns=[source.columns[i] for i in places])
    # What was text stays text, also where all of it reads as numbers here.
    texts = [encoding.name for encoding in encodings if encoding.categories]
    dialect, notes = decimals(source, dialect, texts)
    blocks, filled = [], {}
    for encoding, cells in zip(encodings, source.columns, strict=True):
        is_text = bool(encoding.categories)
        column = interpret(
            source, cells, encoding.name, categorical=is_text, dialect=dialect
        )
        if is_text:
            blocks.append(one_hot(_codes(source, column, encoding), encoding))
            continue
        # Numbers there and text here: no category of it is known.
        if column.categories:
            raise InputError(
                f"column {quoted(column.name)} of {source.title} holds text, such as"
                f" {quoted(column.categories[0])}; expected numbers, as in what was"
                " learned"
            )
        if column.missing.any():
            filled[column.name] = int(column.missing.sum())
        blocks.append(standardised(column.values, encoding))
    if filled:
        number = counted(sum(filled.values()), "missing number")
        notes.append(
            f"{number} replaced by the median of what was learned, in:"
            f" {enumerated(filled)}"
        )
    features = np.concatenate(blocks, axis=1)
    return Table(
        source.title,
        features,
        [name for encoding in encodings for name in encoding.feature_names],
        None,
        len(encodings),
        np.arange(len(features)),
        [Message(note) for note in notes],
        encodings=tuple(encodings),
    )


def _codes(source: Source, column: Column, encoding: Encoding) -> np.ndarray:
    """The number of each cell among the categories of the other table."""
    count = len(encoding.categories)
    # Without "missing", which a cell may also be called.
    known = encoding.categories[: count - encoding.has_missing]
    number = {category: i for i, category in enumerate(known)}
    codes = np.array([number.get(c, -1) for c in column.categories], dtype=np.int64)
    # The last category stands for missing, if the other table had such cells.
    codes = np.where(column.missing, count - 1, codes[column.values])
    bad = (codes < 0) | (column.missing & (not encoding.has_missing))
    if bad.any():
        row = int(np.argmax(bad))
        value = column.values[row]
        what = "no value" if value < 0 else quoted(column.categories[value])
        raise InputError(
            f"column {quoted(column.name)} of {source.title} holds {what} on"
            f" {source.place(row)}; what was learned knows {enumerated(known)}"
        )
    return codes
