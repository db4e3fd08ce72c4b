"""Exact nearest neighbours in many columns: lower bounds first, distances of the rest.

For orthonormal directions V the image z = (Vᵀx, |x − VVᵀx|) has |z − z'| ≤ |x − x'| for
all pairs (theory.md §6.9). Points are scored by their images, a few columns wide; the
exact distances of the K-th best among the most promising ones bound the K-th distance
of all, and only what may lie within it is evaluated in full width. Rounding errors are
bounded by the worst case, so that a query's neighbours are certainly the nearest, or it
is reported as not certified and somebody else must search for them.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.types import Array, Float, Int
from contexture_jax.kernels.neighbors._distances import (
    difference_error,
    floor,
    make_tiles,
    squared_distances,
    unit_roundoff,
)
from contexture_jax.kernels.neighbors._ranking import Found

__all__ = ["Pruning", "choose_directions", "make_pruning", "search_pruned"]

CAPACITY = 512  # groups, and points, that are evaluated for a query
_CHOICES = (32, 64, 128, 192, 256)  # numbers of directions
_MIN_COLUMNS = 65
_MAX_COLUMNS = 4096  # a covariance of all columns is formed
_SAMPLE = 4096  # points that show directions and what they prune
_PROBES = 256  # points of the sample whose neighbours are counted
_GROUP = 16  # points in a group
_SCORES = 2**23  # scores that are kept at a time
_ROWS = 4096  # points whose images are taken at a time
_PAIRS = 2048  # distances taken at a time

# Costs in multiplications of a large matrix product, measured on x86 CPUs.
_PAIR = 28  # one column of one distance that is taken by itself
_SWEEP = 32  # selection among the scores, for each of them
_FACTORS = 10  # subspace iteration, for each entry of the covariance and direction


class Pruning(NamedTuple):
    """Images of the points under a map that shortens no more than it must.

    Attributes:
        center: what is subtracted first, shape (d,).
        directions: V, shape (d, d'), orthonormal columns.
        tiles: of the images, shape (t, d' + 2, c), see `make_tiles`.
        error: δ with |ẑ − z| ≤ δ|x| for every computed image, shape ().
    """

    center: Float[Array, " d"]
    directions: Float[Array, "d p"]
    tiles: Float[Array, "t p2 c"]
    error: Float[Array, ""]


def choose_directions(
    points: Float[Array, "m d"],
    center: Float[Array, " d"],
    num_neighbors: int,
    num_queries: int,
) -> Float[Array, "d p"] | None:
    """As many principal directions as make the search cheapest, None if none does.

    A sample of the points stands for all: as its K s / m-th neighbour is about as far
    as the K-th of all, it shows what share of the points the bounds leave. The cost of
    looking is at most a twentieth of the whole search. The constants are those of CPUs:
    elsewhere the answer is None.

    Args:
        points: shape (m, d), on the CPU.
        center: shape (d,).
        num_neighbors: K.
        num_queries: how many queries will come.
    """
    m, d = points.shape
    choices = tuple(c for c in _CHOICES if c <= d // 2)
    if not choices:
        return None
    full = (d + _SWEEP) * m
    look = _SAMPLE * d**2 + _FACTORS * d**2 * max(choices)
    if (
        not _MIN_COLUMNS <= d <= _MAX_COLUMNS
        or not 2 * _SAMPLE <= m < 2**24
        or 4 * num_neighbors > CAPACITY
        or num_queries * full < 20 * look
        or {device.platform for device in points.devices()} != {"cpu"}
    ):
        return None
    chosen = np.random.default_rng(0).permutation(m)[:_SAMPLE]
    rank = 1 + max(1, round((num_neighbors - 1) * _SAMPLE / m))
    sample = points[np.sort(chosen)] - center[None, :]
    directions, counts = _probe(sample, rank=rank, choices=choices)
    counts = np.asarray(counts) * (m / _SAMPLE)
    costs = [
        (choice + 2 + _SWEEP) * m
        + _PAIR * d * np.minimum(count, CAPACITY).mean()
        + full * (count > CAPACITY).mean()
        + 2 * choice * d * m / num_queries
        for choice, count in zip(choices, counts, strict=True)
    ]
    best = int(np.argmin(costs))
    if not (costs[best] < 0.8 * full and np.isfinite(directions).all()):
        return None
    return directions[:, : choices[best]]


@functools.partial(jax.jit, static_argnames=("rank", "choices"))
def _probe(
    sample: Float[Array, "s d"], *, rank: int, choices: tuple[int, ...]
) -> tuple[Float[Array, "d p"], Int[Array, "c q"]]:
    """Directions, and how many points the bounds leave within the rank-th distance.

    Any directions will do, good ones prune more: these come from four steps of
    subspace iteration, whose first columns are about the leading eigenvectors.
    """
    norms = (sample * sample).sum(axis=1)
    scaled = sample / jnp.sqrt(norms.mean())
    covariance = scaled.T @ scaled / _SAMPLE
    directions = jax.random.normal(
        jax.random.key(0), (sample.shape[1], max(choices)), sample.dtype
    )
    for _ in range(4):
        directions = _orthonormalize(covariance @ (covariance @ directions))

    query = slice(None, _PROBES)
    images = sample @ directions

    def gaps(x: Array, squares: Array) -> Array:
        products = x[query] @ x.T
        return squares[query, None] + squares[None, :] - 2.0 * products

    distances = gaps(sample, norms)
    radius = -jax.lax.top_k(-distances, rank)[0][:, -1:]
    counts = []
    for choice in choices:
        y = images[:, :choice]
        squares = (y * y).sum(axis=1)
        rest = jnp.sqrt(jnp.maximum(norms - squares, 0))
        bound = gaps(y, squares) + (rest[query, None] - rest[None, :]) ** 2
        counts.append((bound <= radius).sum(axis=1))
    return directions, jnp.stack(counts)


def _orthonormalize(columns: Float[Array, "d p"]) -> Float[Array, "d p"]:
    """By Gram and Schmidt, twice, one column after the other.

    LAPACK's threads would spin on after the call and take the cores from the products.
    """

    def add(i: Array, basis: Array) -> Array:
        column = columns[:, i]
        for _ in range(2):
            shadow = jnp.matmul(column, basis, precision=jax.lax.Precision.HIGHEST)
            column = column - jnp.matmul(
                basis, shadow, precision=jax.lax.Precision.HIGHEST
            )
            norm = jnp.sqrt((column * column).sum())
            column = column / jnp.where(norm > 0, norm, 1)
        return basis.at[:, i].set(column)

    return jax.lax.fori_loop(0, columns.shape[1], add, jnp.zeros_like(columns))


def _image(
    x: Float[Array, "n d"], y: Float[Array, "n p"], directions: Float[Array, "d p"]
) -> Float[Array, "n p1"]:
    """(y, |x − V y|). The rest is formed: |x|² − |y|² would lose it to rounding."""
    shadow = jnp.matmul(y, directions.T, precision=jax.lax.Precision.HIGHEST)
    rest = jnp.sqrt(((x - shadow) ** 2).sum(axis=1, keepdims=True))
    return jnp.concatenate([y, rest], axis=1)


@jax.jit
def _images(
    x: Float[Array, "n d"], center: Float[Array, " d"], directions: Float[Array, "d p"]
) -> Float[Array, "n p1"]:
    x = x - center[None, :]
    y = jnp.matmul(x, directions, precision=jax.lax.Precision.HIGHEST)
    return _image(x, y, directions)


def make_pruning(
    points: Float[Array, "m d"],
    center: Float[Array, " d"],
    directions: Float[Array, "d p"],
) -> Pruning:
    """Images of points about a centre under orthonormal directions.

    The error of an image has three parts: of Vᵀx, at most √d' γ_d |x|; of the rest, the
    same again and √d' γ_d' |x|; and 3 |VᵀV − 1| |x| since V is not quite orthonormal.
    To subtract the centre costs 2 roundings more.
    """
    m, d = points.shape
    num_directions = directions.shape[1]
    parts = []
    for start in range(0, m, _ROWS):
        part = points[start : start + _ROWS]
        padding = min(_ROWS, m) - part.shape[0]
        padded = jnp.pad(part, ((0, padding), (0, 0)))
        parts.append(_images(padded, center, directions)[: part.shape[0]])
    wide = np.asarray(directions, np.float64)
    defect = np.linalg.norm(np.einsum("ij,ik->jk", wide, wide) - np.eye(num_directions))
    rounding = d * math.sqrt(num_directions) + 1
    error = 3.0 * (rounding * unit_roundoff(points.dtype) + defect)
    tiles = jax.jit(make_tiles)(jnp.concatenate(parts))
    return Pruning(center, directions, tiles, jnp.asarray(error, points.dtype))


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
    """The nearest points where that can be certified; ties by number.

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
    m = points.shape[0]
    center, directions, tiles, error = pruning
    dtype = queries.dtype
    num_tiles, width, size = tiles.shape
    per_tile = size // _GROUP
    num_first = 2 * num_neighbors
    block = min(128, max(32, 2 ** int(math.log2(_SCORES / (num_tiles * size)))))
    steps = jnp.arange(capacity, dtype=jnp.int32)[None, :]
    inside = jnp.arange(_GROUP)[None, None, :]
    unit = unit_roundoff(dtype)
    level, bottom = difference_error(d, dtype), floor(d, dtype)
    tiny = float(jnp.finfo(dtype).tiny) * d

    def score(image: Array) -> tuple[Array, Array]:
        rows = jnp.concatenate([image, jnp.ones_like(image[:, :1])], axis=1)

        def one_tile(columns: Array) -> tuple[Array, Array]:
            scores = jnp.matmul(rows, columns, precision=jax.lax.Precision.HIGHEST)
            scores = scores.reshape(block, _GROUP, per_tile)
            return scores, scores.min(axis=1)

        scores, minima = jax.lax.map(one_tile, tiles)
        return scores, minima.swapaxes(0, 1).reshape(block, -1)

    def members(scores: Array, groups: Array) -> Array:
        """Scores of all points of some groups, shape (block, groups, _GROUP)."""
        tile, number = groups // per_tile, groups % per_tile
        row = jnp.arange(block)[:, None, None]
        return scores[tile[:, :, None], row, inside, number[:, :, None]]

    def point_number(groups: Array, member: Array) -> Array:
        tile, number = groups // per_tile, groups % per_tile
        return tile * size + number + per_tile * member

    def find_groups(chosen: Array) -> tuple[Array, Array]:
        """The first `capacity` groups of a row that are chosen, and how many are."""
        ends = jnp.cumsum(chosen, axis=1, dtype=jnp.int32)
        found = jax.vmap(functools.partial(jnp.searchsorted, v=steps[0] + 1))(ends)
        found = jnp.minimum(found.astype(jnp.int32), chosen.shape[1] - 1)
        return found, ends[:, -1]

    def threshold(query: Array, image: Array, radius: Array) -> tuple[Array, Array]:
        """What the score of a point cannot exceed if its distance is in the radius.

        |x'| ≤ B = |x| + τ for such a point, hence |ẑ − ẑ'| ≤ τ + 2δB; and |ẑ'|² −
        2⟨ẑ, ẑ'⟩ is computed up to 6 (d' + 4) u B².
        """
        tau = jnp.sqrt(radius)
        moved = query - center[None, :]
        reach = (jnp.sqrt((moved * moved).sum(axis=1)) + tau) * (1 + (d + 8) * unit)
        rounding = 6 * (width + 2) * unit * reach**2 + tiny
        largest = (tau + 2 * error * reach) ** 2 - (image * image).sum(axis=1)
        return largest + rounding, reach**2 < float(jnp.finfo(dtype).max) / 64

    def take_distances(
        query: Array, groups: Array, bits: Array, ends: Array, count: Array
    ) -> tuple[Array, Array]:
        """Distances and numbers of the first `count` points that `bits` choose.

        Pairs are taken in a row over all queries: a block costs what it needs.
        """
        row_ends = jnp.cumsum(count, dtype=jnp.int32)
        row_starts = row_ends - count

        def more(state: tuple[Array, Array, Array]) -> Array:
            return state[0] < row_ends[-1]

        def take(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            at, distances, numbers = state
            pair = at + jnp.arange(_PAIRS, dtype=jnp.int32)
            row = jnp.searchsorted(row_ends, pair, side="right").astype(jnp.int32)
            row = jnp.minimum(row, block - 1)
            nth = pair - row_starts[row]
            slot = jnp.zeros_like(pair)
            for power in reversed(range(capacity.bit_length())):
                after = jnp.minimum(slot + 2**power, capacity)
                slot = jnp.where(ends[row, after - 1] <= nth, after, slot)
            slot = jnp.minimum(slot, capacity - 1)
            left = bits[row, slot]
            skip = nth - (ends[row, slot] - jax.lax.population_count(left))
            for i in range(_GROUP - 1):
                left = jnp.where(i < skip, left & (left - 1), left)
            member = jax.lax.population_count((left & -left) - 1)
            number = point_number(groups[row, slot], member)
            number = jnp.clip(number, 0, m - 1)
            part = squared_distances(query[row], points, number[:, None])
            distances = jax.lax.dynamic_update_slice(distances, part[:, 0], (at,))
            return (
                at + _PAIRS,
                distances,
                jax.lax.dynamic_update_slice(numbers, number, (at,)),
            )

        room = block * capacity + _PAIRS
        state = jnp.int32(0), jnp.zeros(room, dtype), jnp.zeros(room, jnp.int32)
        _, distances, numbers = jax.lax.while_loop(more, take, state)
        pair = row_starts[:, None] + steps
        distances = jnp.where(steps < count[:, None], distances[pair], jnp.inf)
        return distances, numbers[pair]

    def rank(distance: Array, index: Array) -> tuple[Array, Array]:
        """The nearest in order, those that are level with the last by number."""
        value = jax.lax.top_k(-distance, num_candidates)[0]
        radius = -value[:, -1:]
        key = jnp.where(distance == radius, index.astype(dtype), jnp.inf)
        key = jnp.where(distance < radius, -1, key)
        chosen = jax.lax.top_k(-key, num_candidates)[1]
        found = (jnp.take_along_axis(x, chosen, axis=1) for x in (distance, index))
        exact, near = jax.lax.sort(tuple(found), dimension=1, num_keys=2)
        return exact, near

    def one_block(inputs: tuple[Array, Array]) -> Found:
        query, real = inputs
        image = _images(query, center, directions)
        scores, minima = score(image)

        groups = jax.lax.top_k(-minima, num_first)[1]
        negated, position = jax.lax.top_k(
            -members(scores, groups).reshape(block, -1), num_first
        )
        group = jnp.take_along_axis(groups, position // _GROUP, axis=1)
        first = jnp.minimum(point_number(group, position % _GROUP), m - 1)
        exact = squared_distances(query, points, first)
        last = -negated[:, -1:]
        radius = -jax.lax.top_k(-exact, num_neighbors)[0][:, -1]
        # Beyond what rounding may add to the K-th distance: its near ties count too.
        radius = radius * (1 + 4 * level) + 4 * bottom

        largest, in_range = threshold(query, image, radius)
        groups, num_groups = find_groups(minima <= largest[:, None])
        value = members(scores, groups)
        chosen = (value >= last[:, :, None]) & (value <= largest[:, None, None])
        chosen = chosen & (steps < num_groups[:, None])[:, :, None]
        bits = (chosen.astype(jnp.int32) << inside.astype(jnp.int32)).sum(
            axis=2, dtype=jnp.int32
        )
        ends = jnp.cumsum(jax.lax.population_count(bits), axis=1, dtype=jnp.int32)
        count = ends[:, -1]
        fits = (num_groups <= capacity) & (count <= capacity)
        certain = fits & in_range & jnp.isfinite(largest) & real
        others, index = take_distances(
            query, groups, bits, ends, jnp.where(certain, count, 0)
        )

        # The first ones that are level with the last of them are among the others too.
        exact = jnp.where(-negated < last, exact, jnp.inf)
        distance, near = rank(
            jnp.concatenate([exact, others], axis=1),
            jnp.concatenate([first, index], axis=1),
        )
        # What is not evaluated is beyond the radius, what is dropped no nearer.
        worst = distance[:, -1] * (1 - level) - bottom
        limit = jnp.where(certain, jnp.minimum(radius, worst), -jnp.inf)
        return Found(near, distance, limit, jnp.full_like(limit, jnp.inf))

    real = jnp.arange(n) < num_queries
    blocks = queries.reshape(-1, block, d), real.reshape(-1, block)
    found = jax.lax.map(one_block, blocks)
    return Found(*(f.reshape(n, *f.shape[2:]) for f in found))
