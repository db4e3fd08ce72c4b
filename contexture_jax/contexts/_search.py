"""Exact nearest neighbours by brute force, in tiles: one matrix product a tile.

Selection goes down a tree (theory.md §6): the K smallest entries of a row lie in the K
groups with the smallest minima. The scores of a tile are reduced to minima of groups of
4 and of 64 while they are in cache, and forgotten; then the best K groups of 64 are
found, the best K groups of 4 among theirs, and the distances to the members of those
are computed anew. That is exact, and many times faster than `top_k` over whole rows.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array, Float, Int

__all__ = ["nearest_neighbors", "squared_distances"]

_SMALL = 4  # points in a small group: what is computed anew for each that is chosen
_LARGE = 16  # small groups in a large one
_MARGIN = 8  # more candidates than asked for, ranked again by exact distances
_BLOCK = 256  # queries in a tile
_TILE = 4096  # points in a tile
_BLOCKS_PER_CALL = 16  # between two reports of progress


def nearest_neighbors(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    num_neighbors: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """The nearest points of each query, by squared Euclidean distance.

    Compiles; tiles keep the work space at tens of megabytes whatever n is. Candidates
    come from |a|² − 2⟨x, a⟩ of centred data and are ranked again by the distances
    themselves, ties by number: equal queries have equal neighbours.

    Args:
        queries: shape (n, d), floating.
        points: shape (m, d), the same dtype.
        num_neighbors: K ≤ m.
        progress: called with (queries done, n) from time to time.

    Returns:
        Numbers of the neighbours, nearest first, shape (n, K), int32, and their squared
        distances, shape (n, K).
    """
    n = queries.shape[0]
    center = points.mean(axis=0, keepdims=True)
    queries, points = queries - center, points - center
    tiles = _make_tiles(points)
    # One block size whatever n is, so that a row's arithmetic does not depend on how
    # many queries came with it.
    chunk = _BLOCK * max(1, min(_BLOCKS_PER_CALL, -(-n // _BLOCK)))
    parts = []
    for start in range(0, n, chunk):
        part = queries[start : start + chunk]
        padded = jnp.pad(part, ((0, chunk - part.shape[0]), (0, 0)))
        found = _search(padded, points, tiles, num_neighbors=num_neighbors)
        parts.append([f[: part.shape[0]] for f in found])
        if progress is not None:
            jax.block_until_ready(parts[-1])
            progress(min(start + chunk, n), n)
    indices, distances = (jnp.concatenate(p) for p in zip(*parts, strict=True))
    return indices, distances


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


@jax.jit
def _make_tiles(points: Float[Array, "m d"]) -> Float[Array, "t d1 c"]:
    """Tiles of columns (−2a, |a|²), so that [x, 1] times them is |a|² − 2⟨x, a⟩.

    The last tile is filled up with points that are infinitely far.
    """
    m, d = points.shape
    group = _SMALL * _LARGE
    size = min(_TILE, -(-m // group) * group)
    num_tiles = math.ceil(m / size)
    padding = num_tiles * size - m
    norms = jnp.pad(
        (points * points).sum(axis=1), (0, padding), constant_values=jnp.inf
    )
    scaled = jnp.pad(-2.0 * points, ((0, padding), (0, 0)))
    columns = jnp.concatenate([scaled, norms[:, None]], axis=1)
    return columns.reshape(num_tiles, size, d + 1).swapaxes(1, 2)


@functools.partial(jax.jit, static_argnames="num_neighbors")
def _search(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    tiles: Float[Array, "t d1 c"],
    *,
    num_neighbors: int,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    m, size = points.shape[0], tiles.shape[2]
    num_candidates = min(num_neighbors + _MARGIN, m)

    def candidates(query: Array) -> Int[Array, "b c"]:
        rows = jnp.concatenate([query, jnp.ones_like(query[:, :1])], axis=1)

        def one_tile(columns: Array) -> tuple[Array, Array]:
            scores = jnp.matmul(rows, columns, precision=jax.lax.Precision.HIGHEST)
            # A group is strided: the minimum runs along contiguous memory.
            small = scores.reshape(_BLOCK, _SMALL, -1).min(axis=1)
            return small, small.reshape(_BLOCK, _LARGE, -1).min(axis=1)

        small, large = jax.lax.map(one_tile, tiles)
        per_tile = large.shape[2]
        if large.shape[0] * per_tile <= num_candidates:
            return jnp.broadcast_to(jnp.arange(m, dtype=jnp.int32), (_BLOCK, m))
        flat = large.swapaxes(0, 1).reshape(_BLOCK, -1)
        best = jax.lax.top_k(-flat, num_candidates)[1]
        tile, number = best // per_tile, best % per_tile
        members = number[:, :, None] + per_tile * jnp.arange(_LARGE)[None, None, :]
        row = jnp.arange(_BLOCK)[:, None, None]
        minima = small[tile[:, :, None], row, members].reshape(_BLOCK, -1)
        best = jax.lax.top_k(-minima, num_candidates)[1]
        tile = jnp.take_along_axis(tile, best // _LARGE, axis=1)
        number = jnp.take_along_axis(members.reshape(_BLOCK, -1), best, axis=1)
        offsets = (size // _SMALL) * jnp.arange(_SMALL)[None, None, :]
        inside = number[:, :, None] + offsets
        return (tile[:, :, None] * size + inside).reshape(_BLOCK, -1)

    def one_block(query: Array) -> tuple[Array, Array]:
        index = candidates(query).astype(jnp.int32)
        exact = squared_distances(query, points, jnp.minimum(index, m - 1))
        exact = jnp.where(index < m, exact, jnp.inf)
        position = jax.lax.top_k(-exact, num_candidates)[1]
        exact, index = (
            jnp.take_along_axis(x, position, axis=1) for x in (exact, index)
        )
        exact, index = jax.lax.sort((exact, index), dimension=1, num_keys=2)
        return index[:, :num_neighbors], exact[:, :num_neighbors]

    blocks = queries.reshape(-1, _BLOCK, queries.shape[1])
    index, exact = jax.lax.map(one_block, blocks)
    return index.reshape(-1, num_neighbors), exact.reshape(-1, num_neighbors)
