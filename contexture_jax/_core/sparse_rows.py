"""Products of a sparse matrix with a block of NumPy, by SciPy: nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from contexture_jax._core.types import Inexact, Int

__all__ = ["Tile", "product_of_tiles"]


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
