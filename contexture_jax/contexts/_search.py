"""Exact nearest neighbours by brute force, in blocks: one matrix product a block.

Selection has two stages (theory.md §6): the K smallest entries of a row lie in the K
groups with the smallest minima, so a row is cut into strided groups, the best K groups
are found, then the best of their members. That is exact, and several times faster than
one `top_k` over the whole row.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array, Float, Int

__all__ = ["nearest_neighbors", "squared_distances"]

_GROUP = 32  # members of a group; 32 and 64 measured alike, 8 and 128 slower
_MARGIN = 8  # more candidates than asked for, ranked again by exact distances
_SCORES = 2**23  # numbers in a block of scores: 32 MB in float32
_BLOCKS_PER_CALL = 16  # between two reports of progress


def nearest_neighbors(
    queries: Float[Array, "n d"],
    points: Float[Array, "m d"],
    num_neighbors: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """The nearest points of each query, by squared Euclidean distance.

    Compiles; blocks of queries keep the work space at tens of megabytes whatever n is.
    Candidates come from |a|² − 2⟨x, a⟩ of centred data and are ranked again by the
    distances themselves, ties by number: equal queries have equal neighbours.

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
    # One block size whatever n is, so that a row's arithmetic does not depend on how
    # many queries came with it.
    block = max(8, min(512, _SCORES // points.shape[0] // 8 * 8))
    chunk = block * max(1, min(_BLOCKS_PER_CALL, -(-n // block)))
    parts = []
    for start in range(0, n, chunk):
        part = queries[start : start + chunk]
        padded = jnp.pad(part, ((0, chunk - part.shape[0]), (0, 0)))
        found = _search(padded, points, num_neighbors=num_neighbors, block_size=block)
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


@functools.partial(jax.jit, static_argnames=("num_neighbors", "block_size"))
def _search(
    queries: Array, points: Array, *, num_neighbors: int, block_size: int
) -> tuple[Array, Array]:
    m = points.shape[0]
    num_candidates = min(num_neighbors + _MARGIN, m)
    num_groups = -(-m // _GROUP)
    grouped = num_groups >= 2 * num_candidates
    padding = num_groups * _GROUP - m if grouped else 0
    norms = jnp.pad(
        (points * points).sum(axis=1), (0, padding), constant_values=jnp.inf
    )
    columns = jnp.pad(points, ((0, padding), (0, 0))).T

    def candidates(query: Array) -> Array:
        scores = norms[None, :] - 2.0 * jnp.matmul(
            query, columns, precision=jax.lax.Precision.HIGHEST
        )
        if not grouped:
            return jax.lax.top_k(-scores, num_candidates)[1]
        # Group g holds the columns g, g + G, g + 2G, …: the reduction over the middle
        # axis runs along contiguous memory.
        members = scores.reshape(block_size, _GROUP, num_groups)
        best = jax.lax.top_k(-members.min(axis=1), num_candidates)[1]
        inside = jnp.take_along_axis(members, best[:, None, :], axis=2)
        flat = inside.reshape(block_size, -1)
        position = jax.lax.top_k(-flat, num_candidates)[1]
        group = jnp.take_along_axis(best, position % num_candidates, axis=1)
        return (position // num_candidates) * num_groups + group

    def one_block(query: Array) -> tuple[Array, Array]:
        index = candidates(query).astype(jnp.int32)
        exact = squared_distances(query, points, index)
        exact, index = jax.lax.sort((exact, index), dimension=1, num_keys=2)
        return index[:, :num_neighbors], exact[:, :num_neighbors]

    blocks = queries.reshape(-1, block_size, queries.shape[1])
    index, exact = jax.lax.map(one_block, blocks)
    return index.reshape(-1, num_neighbors), exact.reshape(-1, num_neighbors)
