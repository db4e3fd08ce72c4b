"""Exact nearest neighbours by brute force, in tiles: one matrix product a tile.

Selection goes down a tree (theory.md §6): the K smallest entries of a row lie in the K
groups with the smallest minima. The scores of a tile are reduced to minima of groups of
4 and of 64 while they are in cache, and forgotten; then the best K groups of 64 are
found, the best K groups of 4 among theirs, and the distances to the members of those
are computed anew. That is exact, and many times faster than `top_k` over whole rows.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.types import Array, Float, Int
from contexture_jax.contexts._distances import GROUP, make_tiles, squared_distances
from contexture_jax.contexts._pruning import (
    CAPACITY,
    Pruning,
    choose_directions,
    make_pruning,
    search_pruned,
)

__all__ = ["nearest_neighbors", "squared_distances"]

_SMALL = 4  # points in a small group: what is computed anew for each that is chosen
_LARGE = GROUP // _SMALL  # small groups in a large one
_MARGIN = 8  # more candidates than asked for, ranked again by exact distances
_BLOCK = 256  # queries in a tile
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
    center = points.mean(axis=0, keepdims=True)
    queries, points = queries - center, points - center
    directions = choose_directions(points, num_neighbors, queries.shape[0])
    if directions is None:
        return _search_in_full(queries, points, num_neighbors, progress)
    pruning = make_pruning(points, directions)
    return _search_pruned(queries, points, pruning, num_neighbors, progress)


def _search_pruned(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    pruning: Pruning,
    num_neighbors: int,
    progress: Callable[[int, int], None] | None = None,
    capacity: int = CAPACITY,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """By lower bounds; what they do not decide is searched for in full.

    Where they leave more than half of the queries open, the rest go there at once.
    """
    n = queries.shape[0]
    parts = []
    num_open, done = 0, 0
    while done < n and 2 * num_open <= done:
        padded, num_rows = _chunk(queries, done)
        found = search_pruned(
            padded,
            jnp.asarray(num_rows, jnp.int32),
            points,
            pruning,
            num_neighbors=num_neighbors,
            capacity=capacity,
        )
        parts.append([np.asarray(f[:num_rows]) for f in found])
        done += num_rows
        num_open += int(num_rows - parts[-1][2].sum())
        if progress is not None and num_open < done:
            progress(done - num_open, n)
    indices, distances, certain = (
        np.concatenate([*p, np.zeros((n - done, *p[0].shape[1:]), p[0].dtype)])
        for p in zip(*parts, strict=True)
    )
    rest = np.flatnonzero(certain == 0)
    if rest.size:
        so_far = n - rest.size

        def report(count: int, _: int) -> None:
            if progress is not None:
                progress(so_far + count, n)

        found = _search_in_full(queries[rest], points, num_neighbors, report)
        indices[rest], distances[rest] = (np.asarray(f) for f in found)
    return jnp.asarray(indices), jnp.asarray(distances)


def _search_in_full(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    num_neighbors: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    n = queries.shape[0]
    tiles = _make_tiles(points)
    parts = []
    done = 0
    while done < n:
        padded, num_rows = _chunk(queries, done)
        found = _search(padded, points, tiles, num_neighbors=num_neighbors)
        parts.append([f[:num_rows] for f in found])
        done += num_rows
        if progress is not None:
            jax.block_until_ready(parts[-1])
            progress(done, n)
    indices, distances = (jnp.concatenate(p) for p in zip(*parts, strict=True))
    return indices, distances


def _chunk(queries: Float[Array, "n d"], start: int) -> tuple[Array, int]:
    """Whole blocks from a row on, the last one padded, and how many rows are real.

    One block size whatever n is, so that a row's arithmetic does not depend on how many
    queries came with it.
    """
    n = queries.shape[0]
    size = _BLOCK * max(1, min(_BLOCKS_PER_CALL, -(-n // _BLOCK)))
    part = queries[start : start + size]
    padding = size - part.shape[0]
    return jnp.pad(part, ((0, padding), (0, 0))), part.shape[0]


_make_tiles = jax.jit(make_tiles)


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
