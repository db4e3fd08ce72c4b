"""Sparse matrices by SciPy: products with a block of NumPy, and transposed lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from contexture_jax._core.types import Inexact, Int

__all__ = ["Rows", "Tile", "product_of_tiles", "rows_of_entries", "transposed_lists"]


class Tile(NamedTuple):
    """Pieces of rows with the same number of slots.

    Attributes:
        indices: the column of each entry, shape (w, c).
        weights: the entries, shape (w, c); None: all 1.
        rows: which row each piece is of, shape (c,); beyond the last one: of none.
    """

    indices: Int[np.ndarray, "w c"]
    weights: Inexact[np.ndarray, "w c"] | None
    rows: Int[np.ndarray, " c"]


def product_of_tiles(
    tiles: Sequence[Tile], shape: tuple[int, int], dtype: Any
) -> Callable[[np.ndarray], np.ndarray]:
    """The product of a sparse (n, m) matrix with (m, r) blocks, as a function.

    It holds a copy of the entries. Pieces are summed first, and then their sums: of
    thousands of like terms in a row float32 would lose digits.
    """
    # Here: it takes a tenth of a second to import.
    from scipy.sparse import csr_array

    num_rows, num_columns = shape
    widths = [np.full(len(tile.rows), len(tile.indices)) for tile in tiles]
    # Piece by piece, where a tile has them slot by slot.
    indices = np.concatenate([tile.indices.T.ravel() for tile in tiles])
    weights = np.ones(len(indices), dtype)
    if tiles[0].weights is not None:
        parts = (tile.weights for tile in tiles if tile.weights is not None)
        weights = np.concatenate([part.T.ravel() for part in parts])
    starts = np.append(0, np.cumsum(np.concatenate(widths))).astype(np.int32)
    pieces: Any = csr_array(
        (weights, indices, starts), shape=(len(starts) - 1, num_columns)
    )
    rows = np.concatenate([tile.rows for tile in tiles])
    if np.array_equal(rows, np.arange(num_rows)):
        return lambda block: pieces @ block
    used = np.flatnonzero(rows < num_rows)
    sums: Any = csr_array(
        (np.ones(len(used), dtype), (rows[used], used)), shape=(num_rows, len(rows))
    )
    return lambda block: sums @ (pieces @ block)


class Rows(NamedTuple):
    """Some rows of a sparse matrix.

    Attributes:
        first: the number of the first of them.
        matrix: of SciPy's, in compressed rows, shape (rows, m): as many columns as
            entries name.
    """

    first: int
    matrix: Any


def rows_of_entries(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> Rows:
    """Entries as compressed rows from the first row to the last one that they name.

    Args:
        rows: shape (k,), integers, in any order.
        columns: likewise.
        values: of a floating dtype; those that name one place are added in products.
    """
    from scipy.sparse import coo_array

    if not len(rows):
        return Rows(0, coo_array((0, 0), dtype=values.dtype).tocsr())
    first = int(rows.min())
    shape = (int(rows.max()) - first + 1, int(columns.max()) + 1)
    # 32 bits are half of what a product reads.
    kind = np.int32 if max(*shape, len(rows)) < 2**31 else np.int64
    places = ((rows - first).astype(kind), columns.astype(kind))
    return Rows(first, coo_array((values, places), shape=shape).tocsr())


def transposed_lists(
    index: Int[np.ndarray, "n k"],
    shares: Inexact[np.ndarray, "n k"] | None,
    num_columns: int,
) -> tuple[
    Int[np.ndarray, " nnz"],
    Int[np.ndarray, " nnz"],
    Inexact[np.ndarray, " nnz"] | None,
]:
    """The entries of rows of one length, column by column, those of one by row.

    Args:
        index: the columns of each row, int32.
        shares: an entry each; None: all alike.
        num_columns: of the matrix.

    Returns:
        Columns, rows and shares; None for these if none were given.
    """
    from scipy.sparse import csr_array

    n, num_slots = index.shape
    starts = np.arange(0, index.size + 1, num_slots)
    # Counted, not sorted. Of equal shares a byte each.
    each = np.ones(index.size, np.int8) if shares is None else shares.reshape(-1)
    lists: Any = csr_array((each, index.reshape(-1), starts), shape=(n, num_columns))
    by_column = lists.tocsc()
    numbers = np.arange(num_columns, dtype=np.int32)
    columns = np.repeat(numbers, np.diff(by_column.indptr))
    return columns, by_column.indices, None if shares is None else by_column.data
