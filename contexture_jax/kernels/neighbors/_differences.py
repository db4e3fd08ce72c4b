"""Nearest neighbours inside a trace, where nothing can be decided on the host."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array, Float, Int
from contexture_jax.kernels.neighbors._distances import LARGEST

__all__ = ["nearest_by_differences"]

_TILE = 1024  # points that are merged into the best so far at a time
_BLOCK = 256  # queries at a time, where their number is known


def nearest_by_differences(
    queries: Float[Array, "n d"], points: Float[Array, "m d"], num_neighbors: int
) -> Int[Array, "n k"]:
    """The nearest points by squared distances from differences; ties by number.

    Their relative error is at most d + 2 roundings, whatever offset the data have; a
    unit of their own keeps them in range. The number of queries may be symbolic.

    Args:
        queries: shape (n, d), floating.
        points: shape (m, d), the same dtype.
        num_neighbors: K ≤ m.

    Returns:
        Numbers, nearest first, shape (n, K), int32.
    """
    queries, points = _in_unit(queries, points)
    n = queries.shape[0]
    # A symbolic number cannot be cut into blocks.
    if not isinstance(n, int) or n <= _BLOCK:
        return _one_block(queries, points, num_neighbors)
    num_blocks = -(-n // _BLOCK)
    padded = jnp.pad(queries, ((0, num_blocks * _BLOCK - n), (0, 0)))
    found = jax.lax.map(
        lambda block: _one_block(block, points, num_neighbors),
        padded.reshape(num_blocks, _BLOCK, -1),
    )
    return found.reshape(-1, num_neighbors)[:n]


def _one_block(
    queries: Float[Array, "n d"], points: Float[Array, "m d"], num_neighbors: int
) -> Int[Array, "n k"]:
    n = queries.shape[0]
    m, d = points.shape
    dtype = points.dtype
    size = min(_TILE, m)
    num_tiles = -(-m // size)
    padding = num_tiles * size - m
    far = jnp.pad(jnp.zeros(m, dtype), (0, padding), constant_values=jnp.inf)
    # Columns in rows: strided reads would keep the inner loop from being vectorised.
    tiles = jnp.pad(points, ((0, padding), (0, 0))).reshape(num_tiles, size, d)
    tiles = tiles.swapaxes(1, 2)
    numbers = jnp.arange(num_tiles * size, dtype=jnp.int32).reshape(num_tiles, size)

    def merge(best: tuple[Array, Array], tile: tuple[Array, ...]) -> tuple:
        columns, beyond, number = tile

        def add(k: Array, total: Array) -> Array:
            column = jax.lax.dynamic_index_in_dim(queries, k, 1)
            gap = column - jax.lax.dynamic_index_in_dim(columns, k, 0)
            return total + gap * gap

        # (n, size): ∞ from the start for what fills up the last tile.
        start = jnp.zeros((n, size), dtype) + beyond[None, :]
        distances = jnp.concatenate(
            [best[0], jax.lax.fori_loop(0, d, add, start)], axis=1
        )
        indices = jnp.concatenate(
            [best[1], jnp.broadcast_to(number[None, :], (n, size))], axis=1
        )
        # Of equal values `top_k` takes the first: those of earlier tiles, in order.
        value, place = jax.lax.top_k(-distances, num_neighbors)
        return (-value, jnp.take_along_axis(indices, place, axis=1)), None

    none = (
        jnp.full((n, num_neighbors), jnp.inf, dtype),
        jnp.zeros((n, num_neighbors), jnp.int32),
    )
    found, _ = jax.lax.scan(merge, none, (tiles, far.reshape(num_tiles, size), numbers))
    return found[1]


def _in_unit(queries: Array, points: Array) -> tuple[Array, Array]:
    """Both times the power of two that `unit_exponent` takes on the host."""
    # Without ∞ and NaN, which would take all others out of range.
    sizes = (jnp.where(jnp.isfinite(x), jnp.abs(x), 0).max() for x in (queries, points))
    dtype = points.dtype
    exponent = LARGEST[dtype.itemsize] - jnp.frexp(jnp.maximum(*sizes))[1]
    # In two factors: 2^exponent itself may be out of range.
    half = exponent // 2
    one, two = (jnp.ldexp(jnp.ones((), dtype), e) for e in (half, exponent - half))
    return queries * one * two, points * one * two
