"""Exact nearest neighbours in many columns: lower bounds first, distances of the rest.

Points are scored by their images (`Pruning`), a few columns wide; the exact distances
of the K-th best among the most promising ones bound the K-th distance of all, and only
what may lie within it is evaluated in full width. Rounding errors are bounded by the
worst case, so that a query's neighbours are certainly the nearest, or it is reported as
not certified and somebody else must search for them.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Bool, Float, Int
from contexture_jax.kernels.neighbors._distances import (
    difference_error,
    floor,
    squared_distances,
    unit_roundoff,
)
from contexture_jax.kernels.neighbors._pruning import CAPACITY, Pruning, images
from contexture_jax.kernels.neighbors._ranking import Found

__all__ = ["search_pruned"]

_GROUP = 16  # points in a group
_SCORES = 2**23  # scores that are kept at a time
_PAIRS = 2048  # distances taken at a time


@functools.partial(
    jax.jit, static_argnames=("num_neighbors", "num_candidates", "capacity")
)
def search_pruned(
    queries: Float[Array, "n d"],
    num_queries: Int[Array, ""],
    points: Float[Array, "m d"],
    pruning: Pruning,
    *,
    num_neighbors: int,
    num_candidates: int,
    capacity: int = CAPACITY,
) -> Found:
    """The nearest points where that can be certified; ties by number (theory.md §6.9).

    The work space is about 2**23 scores, and about as much again in all.

    Args:
        queries: shape (n, d), n a multiple of 128.
        num_queries: those behind are padding, and cost little.
        points: shape (m, d), m ≥ 32 K.
        pruning: of these points.
        num_neighbors: K ≤ capacity / 4.
        num_candidates: how many are wanted of each, K or a few more.
        capacity: how many groups, and how many points beside the most promising ones,
            may be looked into; a query that needs more is not certified.

    Returns:
        Candidates, which bound no other point (limit −∞) where that failed.
    """
    n, d = queries.shape
    num_tiles, _, size = pruning.tiles.shape
    block = min(128, max(32, 2 ** int(math.log2(_SCORES / (num_tiles * size)))))
    search = _Search(points, pruning, num_neighbors, num_candidates, capacity)
    real = jnp.arange(n) < num_queries
    blocks = queries.reshape(-1, block, d), real.reshape(-1, block)
    found = jax.lax.map(lambda inputs: _one_block(search, *inputs), blocks)
    return Found(*(f.reshape(n, *f.shape[2:]) for f in found))


class _Search(NamedTuple):
    """What all blocks of queries share: the arguments of `search_pruned`."""

    points: Float[Array, "m d"]
    pruning: Pruning
    num_neighbors: int
    num_candidates: int
    capacity: int

    @property
    def per_tile(self) -> int:
        """Groups in a tile: the points of number g + j · per_tile are group g."""
        return self.pruning.tiles.shape[2] // _GROUP

    def number(self, groups: Array, member: Array) -> Array:
        """Numbers of the points that are some members of some groups."""
        tile, group = groups // self.per_tile, groups % self.per_tile
        return tile * self.pruning.tiles.shape[2] + group + self.per_tile * member

    def members(self, scores: Float[Array, "t b j g"], groups: Array) -> Array:
        """Scores of all points of some groups, shape (b, groups, _GROUP)."""
        tile, group = groups // self.per_tile, groups % self.per_tile
        row = jnp.arange(scores.shape[1])[:, None, None]
        inside = jnp.arange(_GROUP)[None, None, :]
        return scores[tile[:, :, None], row, inside, group[:, :, None]]


class _First(NamedTuple):
    """The most promising points of each query.

    Attributes:
        numbers: shape (b, 2 K).
        distances: |x − a|², infinite for those that are level with the last one.
        last: the score of the last one, shape (b, 1).
        radius: what the K-th distance of all cannot exceed, shape (b,).
    """

    numbers: Int[Array, "b f"]
    distances: Float[Array, "b f"]
    last: Float[Array, "b 1"]
    radius: Float[Array, " b"]


class _Chosen(NamedTuple):
    """Points that may lie within the radius, by groups of 16.

    Attributes:
        groups: shape (b, capacity).
        bits: which of each group, shape (b, capacity).
        ends: how many in the groups up to each, shape (b, capacity).
        fits: whether the capacity holds all of them, shape (b,).
    """

    groups: Int[Array, "b c"]
    bits: Int[Array, "b c"]
    ends: Int[Array, "b c"]
    fits: Bool[Array, " b"]


def _one_block(
    search: _Search, query: Float[Array, "b d"], real: Bool[Array, " b"]
) -> Found:
    """The neighbours of a block of queries, of which those of padding are nothing."""
    d, dtype = query.shape[1], query.dtype
    image = images(query, search.pruning.center, search.pruning.directions)
    scores, minima = _scores(search, image)
    first = _first(search, query, scores, minima)
    largest, in_range = _threshold(search, query, image, first.radius)
    chosen = _choose(search, scores, minima, first.last, largest)
    # Others are searched for elsewhere, and have no distances taken here.
    certain = chosen.fits & in_range & jnp.isfinite(largest) & real
    count = jnp.where(certain, chosen.ends[:, -1], 0)
    others, index = _distances(search, query, chosen, count)
    distance, near = _nearest(
        jnp.concatenate([first.distances, others], axis=1),
        jnp.concatenate([first.numbers, index], axis=1),
        search.num_candidates,
    )
    # What is not evaluated is beyond the radius, what is dropped no nearer.
    worst = distance[:, -1] * (1 - difference_error(d, dtype)) - floor(d, dtype)
    limit = jnp.where(certain, jnp.minimum(first.radius, worst), -jnp.inf)
    return Found(near, distance, limit, jnp.full_like(limit, jnp.inf))


def _scores(
    search: _Search, image: Float[Array, "b p1"]
) -> tuple[Float[Array, "t b j g"], Float[Array, "b g2"]]:
    """Scores |z'|² − 2⟨z, z'⟩ of all points, and their minima over groups."""
    block = image.shape[0]
    rows = jnp.concatenate([image, jnp.ones_like(image[:, :1])], axis=1)

    def one_tile(columns: Array) -> tuple[Array, Array]:
        scores = mm(rows, columns)
        scores = scores.reshape(block, _GROUP, search.per_tile)
        return scores, scores.min(axis=1)

    # (t, b, 16, g): the minimum over a strided group runs along contiguous memory.
    scores, minima = jax.lax.map(one_tile, search.pruning.tiles)
    return scores, minima.swapaxes(0, 1).reshape(block, -1)


def _first(search: _Search, query: Array, scores: Array, minima: Array) -> _First:
    """The 2 K points of the best scores, with their distances."""
    (block, d), dtype = query.shape, query.dtype
    num_first = 2 * search.num_neighbors
    # The 2 K best points are in the 2 K groups of the least minima (theory.md §6.9).
    groups = jax.lax.top_k(-minima, num_first)[1]
    negated, position = jax.lax.top_k(
        -search.members(scores, groups).reshape(block, -1), num_first
    )
    group = jnp.take_along_axis(groups, position // _GROUP, axis=1)
    numbers = search.number(group, position % _GROUP)
    # What fills up a tile has an infinite score, and is not to read out of range.
    numbers = jnp.minimum(numbers, search.points.shape[0] - 1)
    distances = squared_distances(query, search.points, numbers)
    last = -negated[:, -1:]
    radius = -jax.lax.top_k(-distances, search.num_neighbors)[0][:, -1]
    # Beyond what rounding may add to the K-th distance: its near ties count too.
    radius = radius * (1 + 4 * difference_error(d, dtype)) + 4 * floor(d, dtype)
    # The first ones that are level with the last of them are chosen again.
    distances = jnp.where(-negated < last, distances, jnp.inf)
    return _First(numbers, distances, last, radius)


def _threshold(
    search: _Search, query: Array, image: Array, radius: Array
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """What the score of a point cannot exceed if its distance is in the radius.

    |x'| ≤ B = |x| + τ for such a point, hence |ẑ − ẑ'| ≤ τ + 2δB; and |ẑ'|² − 2⟨ẑ, ẑ'⟩
    is computed up to 6 (d' + 4) u B².
    """
    d, dtype = query.shape[1], query.dtype
    center, _, tiles, error = search.pruning
    unit = unit_roundoff(dtype)
    tau = jnp.sqrt(radius)
    moved = query - center[None, :]
    reach = (jnp.sqrt((moved * moved).sum(axis=1)) + tau) * (1 + (d + 8) * unit)
    tiny = float(jnp.finfo(dtype).tiny) * d
    # Tiles have d' + 2 rows; a score lacks |ẑ|² of the query.
    rounding = 6 * (tiles.shape[1] + 2) * unit * reach**2 + tiny
    largest = (tau + 2 * error * reach) ** 2 - (image * image).sum(axis=1)
    return largest + rounding, reach**2 < float(jnp.finfo(dtype).max) / 64


def _choose(
    search: _Search, scores: Array, minima: Array, last: Array, largest: Array
) -> _Chosen:
    """Points whose scores lie from that of the last of the first up to the largest."""
    steps = jnp.arange(search.capacity, dtype=jnp.int32)[None, :]
    inside = jnp.arange(_GROUP, dtype=jnp.int32)[None, None, :]
    wanted = minima <= largest[:, None]
    ends = jnp.cumsum(wanted, axis=1, dtype=jnp.int32)
    num_groups = ends[:, -1]
    # (b, capacity): the j-th wanted group is where their count reaches j.
    groups = jax.vmap(functools.partial(jnp.searchsorted, v=steps[0] + 1))(ends)
    groups = jnp.minimum(groups.astype(jnp.int32), wanted.shape[1] - 1)
    value = search.members(scores, groups)
    # Points below `last` are all among the first ones; of those level with it maybe not
    # all, so they are taken here, and `_first` drops its own.
    chosen = (value >= last[:, :, None]) & (value <= largest[:, None, None])
    chosen = chosen & (steps < num_groups[:, None])[:, :, None]
    bits = (chosen.astype(jnp.int32) << inside).sum(axis=2, dtype=jnp.int32)
    ends = jnp.cumsum(jax.lax.population_count(bits), axis=1, dtype=jnp.int32)
    fits = (num_groups <= search.capacity) & (ends[:, -1] <= search.capacity)
    return _Chosen(groups, bits, ends, fits)


def _distances(
    search: _Search, query: Array, chosen: _Chosen, count: Int[Array, " b"]
) -> tuple[Float[Array, "b c"], Int[Array, "b c"]]:
    """Distances and numbers of the first `count` chosen points of each query.

    Pairs are taken in a row over all queries: a block costs what it needs.
    """
    block, dtype = query.shape[0], query.dtype
    row_ends = jnp.cumsum(count, dtype=jnp.int32)
    row_starts = row_ends - count

    def take(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        at, distances, numbers = state
        pair = at + jnp.arange(_PAIRS, dtype=jnp.int32)
        row = jnp.searchsorted(row_ends, pair, side="right").astype(jnp.int32)
        row = jnp.minimum(row, block - 1)
        number = _nth(search, chosen, row, pair - row_starts[row])
        part = squared_distances(query[row], search.points, number[:, None])
        return (
            at + _PAIRS,
            jax.lax.dynamic_update_slice(distances, part[:, 0], (at,)),
            jax.lax.dynamic_update_slice(numbers, number, (at,)),
        )

    # Invariant: pairs before `at` are done. The last step may write beyond the end.
    room = block * search.capacity + _PAIRS
    state = jnp.int32(0), jnp.zeros(room, dtype), jnp.zeros(room, jnp.int32)
    _, distances, numbers = jax.lax.while_loop(
        lambda state: state[0] < row_ends[-1], take, state
    )
    steps = jnp.arange(search.capacity, dtype=jnp.int32)[None, :]
    pair = row_starts[:, None] + steps
    distances = jnp.where(steps < count[:, None], distances[pair], jnp.inf)
    return distances, numbers[pair]


def _nth(
    search: _Search, chosen: _Chosen, row: Int[Array, " q"], nth: Int[Array, " q"]
) -> Int[Array, " q"]:
    """The number of the nth chosen point of a query, from 0."""
    groups, bits, ends, _ = chosen
    # By bisection. Invariant: groups before `slot` hold no more than `nth` points.
    slot = jnp.zeros_like(nth)
    for power in reversed(range(search.capacity.bit_length())):
        after = jnp.minimum(slot + 2**power, search.capacity)
        slot = jnp.where(ends[row, after - 1] <= nth, after, slot)
    slot = jnp.minimum(slot, search.capacity - 1)
    left = bits[row, slot]
    skip = nth - (ends[row, slot] - jax.lax.population_count(left))
    # `left & (left - 1)` is without its lowest bit; of 16, at most 15 are skipped.
    for i in range(_GROUP - 1):
        left = jnp.where(i < skip, left & (left - 1), left)
    member = jax.lax.population_count((left & -left) - 1)
    number = search.number(groups[row, slot], member)
    return jnp.clip(number, 0, search.points.shape[0] - 1)


def _nearest(
    distance: Array, index: Array, num_candidates: int
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The nearest in order, those that are level with the last by number."""
    value = jax.lax.top_k(-distance, num_candidates)[0]
    radius = -value[:, -1:]
    # `top_k` takes ties by place, and here places are not in order of number. Numbers
    # are exact in float32: `choose_directions` refuses 2²⁴ points.
    key = jnp.where(distance == radius, index.astype(distance.dtype), jnp.inf)
    key = jnp.where(distance < radius, -1, key)
    chosen = jax.lax.top_k(-key, num_candidates)[1]
    found = (jnp.take_along_axis(x, chosen, axis=1) for x in (distance, index))
    exact, near = jax.lax.sort(tuple(found), dimension=1, num_keys=2)
    return exact, near
