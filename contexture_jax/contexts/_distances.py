"""Squared distances: by differences, and the tiles that a matrix product scores by."""

import math

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array, Float, Int

__all__ = ["GROUP", "TILE", "make_tiles", "squared_distances"]

GROUP = 64  # the size of a tile is a multiple of this
TILE = 4096  # points in a tile


def squared_distances(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    indices: Int[Array, "n k"],
) -> Float[Array, "n k"]:
    """|x_i − a_{indices[i, j]}|² by differences, a slot at a time (no 3-d array)."""

    def one_slot(index: Array) -> Array:
        difference = queries - points[index]
        return (difference * difference).sum(axis=1)

    return jax.lax.map(one_slot, indices.T).T


def make_tiles(points: Float[Array, "m d"]) -> Float[Array, "t d1 c"]:
    """Tiles of columns (−2a, |a|²), so that [x, 1] times them is |a|² − 2⟨x, a⟩.

    The last tile is filled up with points that are infinitely far.
    """
    m, d = points.shape
    size = min(TILE, -(-m // GROUP) * GROUP)
    num_tiles = math.ceil(m / size)
    padding = num_tiles * size - m
    norms = jnp.pad(
        (points * points).sum(axis=1), (0, padding), constant_values=jnp.inf
    )
    scaled = jnp.pad(-2.0 * points, ((0, padding), (0, 0)))
    columns = jnp.concatenate([scaled, norms[:, None]], axis=1)
    return columns.reshape(num_tiles, size, d + 1).swapaxes(1, 2)
