"""Squared distances: by differences on either side, and the tiles that score them.

Numbers are taken in a unit of their own, a power of two, so that nothing is rounded and
squares neither overflow nor vanish.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.either import Either, namespace
from contexture_jax._core.types import Array, Float, Int

__all__ = [
    "GROUP",
    "LARGEST",
    "TILE",
    "difference_error",
    "exact_distances",
    "floor",
    "make_tiles",
    "plain_distances",
    "product_tiles",
    "raw_tiles",
    "scaled",
    "squared_distances",
    "unit_exponent",
    "unit_roundoff",
]

GROUP = 64  # the size of a tile is a multiple of this
TILE = 4096  # points in a tile
_SMALL = 4  # points in a small group of `raw_tiles`
# A difference is then up to 2⁴¹ and its square 2⁸², of which a sum over columns stays
# below the 2¹²⁸ of float32; likewise 2⁸⁰² and 2¹⁰²⁴.
LARGEST = {4: 40, 8: 400}  # exponent of the largest number, by the bytes of one
# 2³⁰ and 2⁶² times the least normal number: far more than underflow can cost.
_FLOOR = {4: -96, 8: -960}
_ENTRIES = 2**22  # differences that the host holds at a time
_NEAR = 2**20  # of one block of queries


def unit_exponent(*arrays: np.ndarray) -> int:
    """The s for which the largest |x| 2^s lies just below 2^40 (float64: 2^400)."""
    largest = max(max(float(x.max()), -float(x.min())) for x in arrays)
    return LARGEST[arrays[0].dtype.itemsize] - math.frexp(largest)[1]


def scaled(x: np.ndarray, exponent: int) -> np.ndarray:
    """Exactly x times 2^exponent; what that takes out of range is below `floor`."""
    half = exponent // 2  # 2^exponent itself may be out of range
    one, two = (x.dtype.type(2.0**e) for e in (half, exponent - half))
    return x * one * two


def unit_roundoff(dtype: Any) -> float:
    """Half of eps: the largest relative error of one rounding."""
    return float(np.finfo(dtype).eps) / 2


def difference_error(d: int, dtype: Any) -> float:
    """Relative error of a sum of d squared differences, in any order, above `floor`.

    It is d + 2 roundings; the others are for what is compared with it.
    """
    return (d + 8) * unit_roundoff(dtype)


def floor(d: int, dtype: Any) -> float:
    """What underflow may add to a squared distance or take from it, and much more."""
    return d * 2.0 ** _FLOOR[np.dtype(dtype).itemsize]


def squared_distances(
    queries: Float[Either, "n d"],
    points: Float[Either, "m d"],
    indices: Int[Either, "n k"],
) -> Float[Either, "n k"]:
    """|x_i − a_{indices[i, j]}|² by differences, a slot at a time (no 3-d array).

    In NumPy some slots, as many as fit in cache.
    """

    def one_slot(index: Array) -> Array:
        difference = queries - points[index]
        return (difference * difference).sum(axis=1)

    if namespace(queries) is jnp:
        return jax.lax.map(one_slot, indices.T).T
    out = np.empty(indices.shape, queries.dtype)
    step = max(1, _NEAR // queries.size)
    for start in range(0, indices.shape[1], step):
        part = slice(start, start + step)
        # Faster than `points[...]`.
        difference = np.take(points, indices[:, part], axis=0, mode="clip")
        difference -= queries[:, None]
        np.einsum("ijk,ijk->ij", difference, difference, out=out[:, part])
    return out


def plain_distances(
    x: np.ndarray, a: np.ndarray, rows: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """|x_r − a_j|² for pairs (r, j), in float64 on the host, shape (pairs,)."""
    return _host_distances(x, a, rows, numbers, canonical=False)


def exact_distances(
    x: np.ndarray, a: np.ndarray, rows: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """The same with squares in ascending order: no order of the columns changes it."""
    return _host_distances(x, a, rows, numbers, canonical=True)


def _host_distances(
    x: np.ndarray, a: np.ndarray, rows: np.ndarray, numbers: np.ndarray, canonical: bool
) -> np.ndarray:
    out = np.empty(len(rows))
    step = max(1, _ENTRIES // x.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = np.subtract(x[rows[part]], a[numbers[part]], dtype=np.float64)
        if canonical:
            # A sum depends on the order of its terms, and this one on the values alone.
            squares = np.sort(difference * difference, axis=1)
            out[part] = squares.sum(axis=1)
        else:
            out[part] = np.einsum("ij,ij->i", difference, difference)
    return out


def raw_tiles(points: Float[Either, "m d"], *, nested: bool) -> Float[Either, "t d1 c"]:
    """Tiles of columns (a, 0); the last one is filled up with columns (0, ∞).

    Args:
        points: shape (m, d).
        nested: a tile of c points holds the one of number c = 64 h + 4 i + j at place
            (j, i, h) of an array of shape (4, 16, c / 64): groups of 4 and of 64 that
            follow each other in number are strided in place, so that minima over them
            run along contiguous memory. Otherwise numbers are places.
    """
    xp = namespace(points)
    m, d = points.shape
    size = min(TILE, -(-m // GROUP) * GROUP)
    num_tiles = math.ceil(m / size)
    padding = num_tiles * size - m
    far = xp.pad(
        xp.zeros((m, 1), points.dtype), ((0, padding), (0, 0)), constant_values=xp.inf
    )
    columns = xp.concatenate([xp.pad(points, ((0, padding), (0, 0))), far], axis=1)
    if nested:
        columns = columns.reshape(num_tiles, -1, GROUP // _SMALL, _SMALL, d + 1)
        columns = columns.transpose(0, 3, 2, 1, 4)
    return columns.reshape(num_tiles, size, d + 1).swapaxes(1, 2)


def product_tiles(
    raw: Float[Either, "t d1 c"], center: Float[Either, " d"]
) -> Float[Either, "t d1 c"]:
    """Columns (−2b, |b|²), b = a − center: [y, 1] times them is |b|² − 2⟨y, b⟩."""
    moved = raw[:, :-1] - center[None, :, None]
    # ∞ for what fills up the last tile, so that it is never among the best.
    norms = (moved * moved).sum(axis=1, keepdims=True) + raw[:, -1:]
    return namespace(raw).concatenate([-2.0 * moved, norms], axis=1)


def make_tiles(points: Float[Array, "m d"]) -> Float[Array, "t d1 c"]:
    """Tiles for products with points that are centred, numbers are places."""
    center = jnp.zeros(points.shape[1], points.dtype)
    return product_tiles(raw_tiles(points, nested=False), center)
