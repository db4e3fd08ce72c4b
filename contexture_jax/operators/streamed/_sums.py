"""The first pass: what of a table must be known before it is an operator."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.journal import Entry
from contexture_jax._core.numerics import safe_reciprocal
from contexture_jax._core.sparse_rows import Rows
from contexture_jax._core.streams import Reader
from contexture_jax._core.types import Array, Float

__all__ = ["Sums", "sums_of"]


class Sums(NamedTuple):
    """Sums of a table, in float64.

    Attributes:
        rows: shape (n,).
        columns: shape (m,).
        energies: Σ_x P(x, a)² / Σ_a' P(x, a'), shape (m,); None where a row is in two
            blocks.
        has_whole_rows: whether no row is.
        num_entries: of the table.
    """

    rows: Float[np.ndarray, " n"]
    columns: Float[np.ndarray, " m"]
    energies: Float[np.ndarray, " m"] | None
    has_whole_rows: bool
    num_entries: int


def sums_of(reader: Reader) -> Sums:
    """Read all blocks once.

    Raises:
        ValueError: if what is read is no table of finite numbers of 0 or more with some
            mass, or an entry lies outside.
    """
    entry, told = Entry(None, 0.0), getattr(reader.source, "mark", "")
    if reader.journal is not None and told:
        starts = [(block.start, block.stop) for block in reader.blocks]
        entry = reader.journal.opened(told, starts, str(reader.dtype), name="sums")
    made = _of_rows if reader.source.is_dense else _of_entries
    found = made(reader, entry)
    least = 0.0
    if _is_narrowed(reader):
        # Of a table that sums to less, entries that count are no normal numbers.
        least = float(np.finfo(reader.dtype).tiny / np.finfo(reader.dtype).eps ** 2)
    if not found.rows.sum() > least:
        msg = f"all of {reader.source.title} is 0; expected some weight"
        raise ValueError(msg + _beyond(reader))
    return found


def _is_narrowed(reader: Reader) -> bool:
    return np.dtype(reader.source.dtype).itemsize > reader.dtype.itemsize


def _beyond(reader: Reader) -> str:
    """A hint where numbers were read in a narrower dtype."""
    stored = np.dtype(reader.source.dtype)
    if stored.kind != "f" or not _is_narrowed(reader):
        return ""
    return f" ({stored} is read as {reader.dtype}: take float64, or another unit)"


def _of_rows(reader: Reader, entry: Entry) -> Sums:
    n, m = (int(size or 0) for size in reader.source.shape)
    rows, columns, energies = entry.carry or (np.zeros(n), np.zeros(m), np.zeros(m))
    for number, block in reader.ahead(entry.next_block):
        place = reader.blocks[number]
        size = place.stop - place.start
        sums, *others, least = map(np.asarray, _row_block(block))
        _check(reader, place, float(least), others[0])
        rows[place.row : place.row + size] = sums[:size]
        columns += others[0]
        energies += others[1]
        last = number + 1 == len(reader.blocks)
        entry.note(number + 1, (rows, columns, energies), last=last)
    return Sums(rows, columns, energies, True, n * m)


@jax.jit
def _row_block(block: Float[Array, "b m"]) -> tuple[Array, ...]:
    sums = block.sum(axis=1)
    # A sum that is fused: no table of squares.
    energies = (block * (block * safe_reciprocal(sums)[:, None])).sum(axis=0)
    return sums, block.sum(axis=0), energies, jnp.min(block)


def _check(reader: Reader, place: Any, least: float, sums: np.ndarray) -> None:
    title = reader.source.title
    where = f"{title}, rows {place.row} to {place.row + place.stop - place.start - 1}"
    if not np.isfinite(sums).all():
        msg = (
            f"{where}: holds what is no finite number, or so large ones that they have"
            " no finite sum; expected weights of 0 or more"
        )
        msg += _beyond(reader)
        raise ValueError(msg)
    if least < 0:
        msg = f"{where}: holds {least:g}; expected weights of 0 or more"
        raise ValueError(msg)


def _of_entries(reader: Reader, entry: Entry) -> Sums:
    known = reader.source.shape
    rows, columns, energies = (np.zeros(int(size or 0)) for size in (*known, known[1]))
    whole, end, count = True, 0, 0
    if entry.carry is not None:
        rows, columns, energies, counts = entry.carry
        whole, end, count = bool(counts[0]), int(counts[1]), int(counts[2])
    for number, block in reader.ahead(entry.next_block):
        first, matrix = block
        stop, width = first + matrix.shape[0], matrix.shape[1]
        rows, columns, energies = (
            _longer(x, size)
            for x, size in ((rows, stop), (columns, width), (energies, width))
        )
        if not len(matrix.data):
            continue
        if not np.isfinite(matrix.data).all() or matrix.data.min() < 0:
            bad = matrix.data[~(matrix.data >= 0) | ~np.isfinite(matrix.data)][0]
            title = reader.title_of(reader.blocks[number])
            msg = f"{title} holds {bad:g}; expected finite weights of 0 or more"
            msg += _beyond(reader)
            raise ValueError(msg)
        whole, end, count = whole and first >= end, stop, count + matrix.nnz
        sums, others, part = _entry_block(block)
        rows[first:stop] += sums
        columns[:width] += others
        energies[:width] += part
        last = number + 1 == len(reader.blocks)
        counts = np.array([whole, end, count], np.int64)
        entry.note(number + 1, (rows, columns, energies, counts), last=last)
    return Sums(rows, columns, energies if whole else None, whole, count)


def _longer(x: np.ndarray, size: int) -> np.ndarray:
    """With zeros up to a size."""
    return x if len(x) >= size else np.concatenate([x, np.zeros(size - len(x))])


def _entry_block(block: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    matrix = block.matrix
    # Squares are those of what entries of one place add up to.
    matrix.sum_duplicates()
    sums = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    inverse = np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
    values = matrix.data.astype(np.float64)
    shares = np.repeat(inverse, np.diff(matrix.indptr))
    width = matrix.shape[1]
    return (
        sums,
        np.bincount(matrix.indices, values, width),
        np.bincount(matrix.indices, values * values * shares, width),
    )
