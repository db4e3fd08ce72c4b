"""Products with slots by SciPy, which compile nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from contexture_jax._core.sparse_rows import Tile, product_of_tiles
from contexture_jax.kernels._slots import Bucket, Slots

__all__ = ["near_matmat"]


def near_matmat(
    layout: Slots | Bucket, shape: tuple[int, int], dtype: Any
) -> Callable[[np.ndarray], np.ndarray]:
    """The product with blocks of NumPy by SciPy, of a layout in arrays of NumPy."""
    here: Any = layout
    if isinstance(layout, Bucket):
        tiles = [Tile(here.indices, here.weights, np.arange(shape[0]))]
        return product_of_tiles(tiles, shape, dtype)

    def tile(begin: int, end: int, rows: np.ndarray) -> Tile:
        slots = (-1, len(rows))
        indices, weights = here.indices[begin:end], here.weights[begin:end]
        return Tile(indices.reshape(slots), weights.reshape(slots), rows)

    starts = here.starts.tolist()
    tiles = list(map(tile, starts[:-1], starts[1:], here.rows))
    return product_of_tiles(tiles, shape, dtype)
