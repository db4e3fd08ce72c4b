"""Candidates for nearest neighbours by brute force, in tiles: a matrix product each.

Selection goes down a tree (theory.md §6): the K smallest entries of a row lie in the K
groups with the smallest minima. The scores of a tile are reduced to minima of groups of
4 and of 64 while they are in cache, and forgotten; then the best K groups of 64 are
found, the best K groups of 4 among theirs, and the distances to the members of those
are computed anew. That is many times faster than `top_k` over whole rows.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.either import Either, namespace
from contexture_jax._core.numerics import mm
from contexture_jax._core.threads import single_threaded_numpy
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
    "choose_tiles",
    "lay_raw_tiles",
    "points_within",
    "search_here",
    "search_tiles",
]

_SMALL = 4  # points in a small group: what is computed anew for each that is chosen
_LARGE = GROUP // _SMALL  # small groups in a large one
# Up to here a search by NumPy takes less than to compile one: points, of which each
# thread keeps the minima for a block of queries, and pairs.
_POINTS, _PAIRS = 2**16, 2**30
_THREADS = 8  # at most, each with tens of megabytes

# By products about one centre; about one for each block of queries, of raw tiles; or
# without products, of raw tiles.
Method = Literal["products", "local", "differences"]


@jax.jit
def lay_raw_tiles(points: Float[Array, "m d"]) -> Float[Array, "t d1 c"]:
    """As `raw_tiles`, nested."""
    return raw_tiles(points, nested=True)


def choose_tiles(
    here: np.ndarray,
    there: Float[Array, "m d"],
    center: Float[Array, " d"],
    num_queries: int,
) -> Float[Either, "t d1 c"]:
    """Tiles for products: of NumPy, for `search_here`, where that is the sooner one.

    Args:
        here: points on the host, shape (m, d).
        there: the same on the device.
        center: shape (d,).
        num_queries: how many will be searched for.
    """
    is_near = next(iter(there.devices())).platform == "cpu"
    if is_near and len(here) <= _POINTS and num_queries <= _PAIRS / len(here):
        raw = raw_tiles(here, nested=True)
        return np.ascontiguousarray(product_tiles(raw, np.asarray(center)))
    return _lay_product_tiles(there, center)


@jax.jit
def _lay_product_tiles(
    points: Float[Array, "m d"], center: Float[Array, " d"]
) -> Float[Array, "t d1 c"]:
    """As `product_tiles` of those."""
    return product_tiles(raw_tiles(points, nested=True), center)


class _Scores(NamedTuple):
    """How points are scored for some queries: |x − a|² is base + score, to rounding.

    Attributes:
        of_tile: the scores of a tile; of NumPy until those of the next one.
        base: shape (b, 1).
        doubt: a bound on rounding for points up to some squared distance, (b, 1).
    """

    of_tile: Callable[[Either], Either]
    base: Either
    doubt: Callable[[Either], Either]


def _scores(query: Either, center: Either, method: Method, unit: float) -> _Scores:
    b, d = query.shape
    xp, dtype = namespace(query), query.dtype
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
    rows = xp.concatenate([moved, xp.ones_like(moved[:, :1])], axis=1)
    base = (moved * moved).sum(axis=1, keepdims=True)
    room: list[np.ndarray] = []  # megabytes, that new pages would take as long as

    def products(tile: Either) -> Either:
        if xp is np:
            if not room:
                room.append(np.empty((b, tile.shape[1]), dtype))
            return np.matmul(rows, tile, out=room[0])
        columns = tile
        if method == "local":
            columns = product_tiles(tile[None], center)[0]
        return mm(rows, columns)

    def doubt(distance: Either) -> Either:
        """Both points lie within B of the centre: 5 d + 13 roundings of B² at most."""
        reach = xp.sqrt(base) + xp.sqrt(distance)
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

    def one_block(inputs: tuple[Array, Array]) -> Found:
        scores = _scores(*inputs, method, unit)
        sizes = num_neighbors, num_candidates
        return _candidates(scores, inputs[0], points, tiles, sizes, exact=exact)

    found = jax.lax.map(one_block, (queries, centers))
    return Found(*(f.reshape(-1, *f.shape[2:]) for f in found))


def search_here(
    queries: np.ndarray,
    centers: np.ndarray,
    points: np.ndarray,
    tiles: np.ndarray,
    *,
    num_neighbors: int,
    num_candidates: int,
    unit: float,
    exact: bool,
) -> Found:
    """`search_tiles` by products in NumPy, a block in each thread of Python.

    Of tens of thousands of points it takes less time than to compile that.
    """

    def one_block(query: np.ndarray, center: np.ndarray) -> Found:
        # As JAX, which says nothing of ∞ − ∞.
        with np.errstate(all="ignore"):
            scores = _scores(query, center, "products", unit)
            sizes = num_neighbors, num_candidates
            return _candidates(scores, query, points, tiles, sizes, exact=exact)

    num_threads = min(_THREADS, len(os.sched_getaffinity(0)))
    with single_threaded_numpy(), ThreadPoolExecutor(num_threads) as threads:
        found = list(threads.map(one_block, queries, centers))
    return Found(*map(np.concatenate, zip(*found, strict=True)))


def _candidates(
    scores: _Scores,
    query: Float[Either, "b d"],
    points: Float[Either, "m d"],
    tiles: Float[Either, "t d1 c"],
    sizes: tuple[int, int],
    *,
    exact: bool,
) -> Found:
    """What a block of queries finds, by the numbers of neighbours and candidates."""
    xp = namespace(query)
    (m, d), dtype = points.shape, query.dtype
    num_neighbors, num_candidates = sizes
    index, last = _best(scores, tiles, m, num_candidates, exact=exact)
    distance = squared_distances(query, points, xp.minimum(index, m - 1))
    distance = xp.where(index < m, distance, xp.asarray(xp.inf, dtype))
    position = _least(distance, num_candidates, exact=exact)
    distance, index = (
        xp.take_along_axis(x, position, axis=1) for x in (distance, index)
    )
    distance, index = _in_order(distance, index)
    doubt = scores.doubt(distance[:, num_neighbors - 1, None])
    # |y|² + t − E of theory.md §6.9.
    limit = scores.base + last - doubt
    if num_candidates < m:
        # Candidates that are left out are not nearer than the last that is kept.
        worst = distance[:, -1:]
        worst = worst - difference_error(d, dtype) * worst - floor(d, dtype)
        limit = xp.minimum(limit, worst)
    return Found(index, distance, limit[:, 0], doubt[:, 0])


def _least(values: Either, count: int, *, exact: bool) -> Either:
    """Places of the least values of each row; where exact, of equal ones the first."""
    if namespace(values) is jnp:
        return jax.lax.top_k(-values, count)[1]
    if exact:
        return np.argsort(values, axis=1, kind="stable")[:, :count]
    return np.argpartition(values, count - 1, axis=1)[:, :count]


def _in_order(distance: Either, index: Either) -> tuple[Either, Either]:
    """By distance, then by number."""
    if namespace(distance) is jnp:
        nearest, number = jax.lax.sort((distance, index), dimension=1, num_keys=2)
        return nearest, number
    order = np.lexsort((index, distance), axis=1)
    return np.take_along_axis(distance, order, 1), np.take_along_axis(index, order, 1)


def _best(
    scores: _Scores,
    tiles: Float[Either, "t d1 c"],
    num_points: int,
    num_candidates: int,
    *,
    exact: bool,
) -> tuple[Int[Either, "b k"], Float[Either, "b 1"]]:
    """Numbers of points in the best groups of 4, and the last score among those.

    If there are no more groups of 64 than candidates: all points, and infinity.
    """
    xp = namespace(scores.base)
    block, dtype = scores.base.shape[0], scores.base.dtype
    per_tile = tiles.shape[2] // GROUP
    if tiles.shape[0] * per_tile <= num_candidates:
        everything = xp.arange(num_points, dtype=np.int32)
        return (
            xp.broadcast_to(everything, (block, num_points)),
            xp.full((block, 1), xp.inf, dtype),
        )

    def in_order(numbers: Either) -> Either:
        return xp.sort(numbers, axis=1) if exact else numbers

    small, large = _minima(scores, tiles)
    flat = large.swapaxes(0, 1).reshape(block, -1)
    best = in_order(_least(flat, num_candidates, exact=exact))
    tile, number = best // per_tile, best % per_tile
    members = number[:, :, None] + per_tile * xp.arange(_LARGE)[None, None, :]
    row = xp.arange(block)[:, None, None]
    # (b, 16 · num_candidates)
    minima = small[tile[:, :, None], row, members].reshape(block, -1)
    place = _least(minima, num_candidates, exact=exact)
    # Not the values of `top_k`: with them XLA would sort all of the minima.
    last = xp.take_along_axis(minima, place, axis=1).max(axis=1, keepdims=True)
    place = in_order(place)
    group = xp.take_along_axis(best, place // _LARGE, axis=1)
    first = group * GROUP + place % _LARGE * _SMALL
    index = first[:, :, None] + xp.arange(_SMALL)[None, None, :]
    return index.reshape(block, -1).astype(np.int32), last


def _minima(scores: _Scores, tiles: Either) -> tuple[Either, Either]:
    """Of groups of 4 and of 64, shapes (t, b, c / 4) and (t, b, c / 64)."""
    block = scores.base.shape[0]

    # A group is strided: the minimum runs along contiguous memory.
    def one_tile(tile: Array) -> tuple[Array, Array]:
        small = scores.of_tile(tile).reshape(block, _SMALL, -1).min(axis=1)
        return small, small.reshape(block, _LARGE, -1).min(axis=1)

    if namespace(tiles) is jnp:
        return jax.lax.map(one_tile, tiles)
    num_tiles, _, size = tiles.shape
    small, large = (
        np.empty((num_tiles, block, size // group), tiles.dtype)
        for group in (_SMALL, GROUP)
    )
    for tile, of_4, of_64 in zip(tiles, small, large, strict=True):
        scores.of_tile(tile).reshape(block, _SMALL, -1).min(axis=1, out=of_4)
        of_4.reshape(block, _LARGE, -1).min(axis=1, out=of_64)
    return small, large


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
