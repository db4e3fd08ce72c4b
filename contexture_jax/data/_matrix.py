"""Numbers of a file as they are: embeddings, one row an example."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from contexture_jax.data._columns import interpret
from contexture_jax.data._messages import InputError, counted, quoted
from contexture_jax.data._read import read
from contexture_jax.data._selection import without_index
from contexture_jax.data._source import DEFAULT_MISSING, as_dialect
from contexture_jax.data._sparse import as_columns
from contexture_jax.data._table import Room

__all__ = ["load_matrix"]


def load_matrix(
    path: str | os.PathLike[str],
    *,
    separator: str | None = None,
    decimal: str | None = None,
    missing: Iterable[str] = DEFAULT_MISSING,
) -> np.ndarray:
    """Read a file of numbers as they are: neither standardised, nor filled in.

    Args:
        path: as of `load_features`.
        separator: likewise.
        decimal: likewise.
        missing: likewise.

    Returns:
        Shape (n, d), float64, finite. A saved index is left out.

    Raises:
        InputError: if a column holds text, or a cell is missing, NaN or infinite.
    """
    dialect = as_dialect(separator, decimal, missing)
    source = as_columns(read(os.fspath(path), dialect))
    source, _ = without_index(source, ())
    if not source.columns:
        raise InputError(f"{source.title} has no columns of numbers")
    room = Room(len(source.columns[0]), len(source.columns))
    for name, cells in zip(source.names, source.columns, strict=True):
        if isinstance(cells, np.ndarray) and cells.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(cells))
        else:
            column = interpret(source, cells, name, dialect=dialect)
            if column.categories:
                raise InputError(
                    f"column {quoted(name)} of {source.title} holds text, such as"
                    f" {quoted(column.categories[0])}; expected numbers"
                )
            cells, bad = column.values, np.flatnonzero(column.missing)
        if len(bad):
            raise InputError(
                f"column {quoted(name)} of {source.title} holds"
                f" {counted(len(bad), 'cell')} without a finite number, the first on"
                f" {source.place(int(bad[0]))}; expected numbers in all"
            )
        room.add(np.asarray(cells, np.float64)[:, None])
    return room.columns
