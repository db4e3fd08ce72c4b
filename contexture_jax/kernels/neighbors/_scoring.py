"""Candidates for nearest neighbours by brute force, in tiles: a matrix product each.

Selection goes down a tree (theory.md §6): the K smallest entries of a row lie in the K
groups with the smallest minima. The scores of a tile are reduced to minima of groups of
4 and of 64 while they are in cache, and forgotten; then the best K groups of 64 are
found, the best K groups of 4 among theirs, and the distances to the members of those
are computed anew. That is many times faster than `top_k` over whole rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Bool, Float, Int
from contexture_jax.kernels.neighbors._distances import (
    GROUP,
    difference_error,
    floor,
    product_tiles,
    raw_tiles,
    squared_distances,
)
from contexture_jax.kernels.neighbors._ranking import Found

__all__ = [
    "Method",
    "lay_product_tiles",
    "lay_raw_tiles",
    "points_within",
    "search_tiles",
]

_SMALL = 4  # points in a small group: what is computed anew for each that is chosen
_LARGE = GROUP // _SMALL  # small groups in a large one

# By products about one centre; about one for each block of queries, of raw tiles; or
# without products, of raw tiles.
Method = Literal["products", "local", "differences"]


@jax.jit
def lay_raw_tiles(points: Float[Array, "m d"]) -> Float[Array, "t d1 c"]:
    """As `raw_tiles`, nested."""
    return raw_tiles(points, nested=True)


@jax.jit
def lay_product_tiles(
    points: Float[Array, "m d"], center: Float[Array, " d"]
) -> Float[Array, "t d1 c"]:
    """As `product_tiles` of those."""
    return product_tiles(raw_tiles(points, nested=True), center)


class _Scores(NamedTuple):
    """How points are scored for some queries: |x − a|² is base + score, to rounding.

    Attributes:
        of_tile: the scores of a tile.
        base: shape (b, 1).
        doubt: a bound on rounding for points up to some squared distance, (b, 1).
    """

    of_tile: Callable[[Array], Array]
    base: Array
    doubt: Callable[[Array], Array]


def _scores(query: Array, center: Array, method: Method, unit: float) -> _Scores:
    b, d = query.shape
    dtype = query.dtype
    tiny = floor(d, dtype)

    def differences(tile: Array) -> Array:
        def add(k: Array, total: Array) -> Array:
            gap = jax.lax.dynamic_slice_in_dim(query, k, 1, axis=1) - tile[k][None, :]
            return total + gap * gap

        total = jax.lax.fori_loop(0, d, add, jnp.zeros((b, tile.shape[1]), dtype))
        # 0, or ∞ for what fills up the last tile.
        return total + tile[-1][None, :]

    if method == "differences":
        error = difference_error(d, dtype)
        return _Scores(
            differences,
            jnp.zeros((b, 1), dtype),
            lambda distance: error * distance + tiny,
        )

    moved = query - center[None, :]
    rows = jnp.concatenate([moved, jnp.ones_like(moved[:, :1])], axis=1)
    base = (moved * moved).sum(axis=1, keepdims=True)

    def products(tile: Array) -> Array:
        columns = tile
        if method == "local":
            columns = product_tiles(tile[None], center)[0]
        return mm(rows, columns)

    def doubt(distance: Array) -> Array:
        """Both points lie within B of the centre: 5 d + 13 roundings of B² at most."""
        reach = jnp.sqrt(base) + jnp.sqrt(distance)
        return 6 * (d + 4) * unit * reach * reach + tiny

    return _Scores(products, base, doubt)


@functools.partial(
    jax.jit,
    static_argnames=("num_neighbors", "num_candidates", "method", "unit", "exact"),
)
def search_tiles(
    queries: Float[Array, "g b d"],
    centers: Float[Array, "g d"],
    points: Float[Array, "m d"],
    tiles: Float[Array, "t d1 c"],
    *,
    num_neighbors: int,
    num_candidates: int,
    method: Method,
    unit: float,
    exact: bool,
) -> Found:
    """The best candidates of blocks of queries, and what bounds all other points.

    A point that is in no group of 4 that was chosen has at least the score of the last
    of these. Where scores are exact, groups of one minimum are kept in the order of
    their numbers, as points are in their groups: ties go to the first ones.
    """
    m, d = points.shape
    dtype = queries.dtype

    def one_block(inputs: tuple[Array, Array]) -> Found:
        query, center = inputs
        scores = _scores(query, center, method, unit)
        index, last = _best(scores, tiles, m, num_candidates, exact=exact)
        distance = squared_distances(query, points, jnp.minimum(index, m - 1))
        distance = jnp.where(index < m, distance, jnp.inf)
        position = jax.lax.top_k(-distance, num_candidates)[1]
        distance, index = (
            jnp.take_along_axis(x, position, axis=1) for x in (distance, index)
        )
        # By distance, then by number.
        distance, index = jax.lax.sort((distance, index), dimension=1, num_keys=2)
        doubt = scores.doubt(distance[:, num_neighbors - 1, None])
        # |y|² + t − E of theory.md §6.9.
        limit = scores.base + last - doubt
        if num_candidates < m:
            # Candidates that are left out are not nearer than the last that is kept.
            worst = distance[:, -1:]
            worst = worst - difference_error(d, dtype) * worst - floor(d, dtype)
            limit = jnp.minimum(limit, worst)
        return Found(index, distance, limit[:, 0], doubt[:, 0])

    found = jax.lax.map(one_block, (queries, centers))
    return Found(*(f.reshape(-1, *f.shape[2:]) for f in found))


def _best(
    scores: _Scores,
    tiles: Float[Array, "t d1 c"],
    num_points: int,
    num_candidates: int,
    *,
    exact: bool,
) -> tuple[Int[Array, "b k"], Float[Array, "b 1"]]:
    """Numbers of points in the best groups of 4, and the last score among those.

    If there are no more groups of 64 than candidates: all points, and infinity.
    """
    block, dtype = scores.base.shape[0], scores.base.dtype
    per_tile = tiles.shape[2] // GROUP
    if tiles.shape[0] * per_tile <= num_candidates:
        everything = jnp.arange(num_points, dtype=jnp.int32)
        return (
            jnp.broadcast_to(everything, (block, num_points)),
            jnp.full((block, 1), jnp.inf, dtype),
        )

    def in_order(numbers: Array) -> Array:
        return jnp.sort(numbers, axis=1) if exact else numbers

    def one_tile(tile: Array) -> tuple[Array, Array]:
        # A group is strided: the minimum runs along contiguous memory.
        small = scores.of_tile(tile).reshape(block, _SMALL, -1).min(axis=1)
        return small, small.reshape(block, _LARGE, -1).min(axis=1)

    # (t, b, c / 4) and (t, b, c / 64), the former for the groups of the latter that are
    # found.
    small, large = jax.lax.map(one_tile, tiles)
    flat = large.swapaxes(0, 1).reshape(block, -1)
    best = in_order(jax.lax.top_k(-flat, num_candidates)[1])
    tile, number = best // per_tile, best % per_tile
    members = number[:, :, None] + per_tile * jnp.arange(_LARGE)[None, None, :]
    row = jnp.arange(block)[:, None, None]
    # (b, 16 · num_candidates)
    minima = small[tile[:, :, None], row, members].reshape(block, -1)
    place = jax.lax.top_k(-minima, num_candidates)[1]
    # Not the values of `top_k`: with them XLA would sort all of the minima.
    last = jnp.take_along_axis(minima, place, axis=1).max(axis=1, keepdims=True)
    place = in_order(place)
    group = jnp.take_along_axis(best, place // _LARGE, axis=1)
    first = group * GROUP + place % _LARGE * _SMALL
    index = first[:, :, None] + jnp.arange(_SMALL)[None, None, :]
    return index.reshape(block, -1).astype(jnp.int32), last


@functools.partial(jax.jit, static_argnames=("num_neighbors", "method", "unit"))
def points_within(
    query: Float[Array, "b d"],
    radius: Float[Array, " b"],
    center: Float[Array, " d"],
    tiles: Float[Array, "t d1 c"],
    *,
    num_neighbors: int,
    method: Method,
    unit: float,
) -> Bool[Array, "b c"]:
    """Which points may be among the nearest, given a squared distance of K points."""
    block, d = query.shape
    scores = _scores(query, center, method, unit)
    error, tiny = difference_error(d, query.dtype), floor(d, query.dtype)
    farthest = radius[:, None] * (1 + 4 * error) + 4 * tiny
    largest = farthest - scores.base + scores.doubt(farthest)
    values = jax.lax.map(scores.of_tile, tiles)
    groups = tiles.shape[2] // GROUP
    if method == "products" and tiles.shape[0] * groups >= num_neighbors:
        # Scores alone, which tell more of a query that is far from all points: as many
        # groups as neighbours are wanted have a point that is no worse than this one.
        minima = values.reshape(-1, block, GROUP, groups).min(axis=2)
        minima = minima.swapaxes(0, 1).reshape(block, -1)
        worst = -jax.lax.top_k(-minima, num_neighbors)[0].min(axis=1, keepdims=True)
        norms = tiles[:, -1]
        length = jnp.sqrt(jnp.where(jnp.isfinite(norms), norms, 0).max())
        rounding = length * (length + jnp.sqrt(scores.base))
        rounding = 12 * (d + 4) * unit * rounding + 2 * tiny
        largest = jnp.minimum(largest, worst + rounding)
    # From places (j, i, h) back to the numbers 64 h + 4 i + j of `raw_tiles`.
    near = (values <= largest[None]).reshape(-1, block, _SMALL, _LARGE, groups)
    return near.transpose(1, 0, 4, 3, 2).reshape(block, -1)
