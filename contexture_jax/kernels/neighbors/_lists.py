"""Approximate nearest neighbours: exact search in the nearest lists of a partition.

Points go to the list of their nearest centre. All points of a list are searched for
together, by matrix products with the points of the lists around theirs: products of
hundreds of rows, where a search for one query after another would wait for memory. How
many lists are searched follows from a sample whose neighbours are known, and a second
sample says what share is found (Jégou, Douze, Schmid 2011, the inverted file, with the
queries in lists as well).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_key, held_here
from contexture_jax._core.features import as_features
from contexture_jax._core.numerics import mm
from contexture_jax._core.threads import in_threads
from contexture_jax._core.types import Array, ArrayLike, Float, Int
from contexture_jax.kernels.neighbors._distances import (
    difference_error,
    plain_distances,
    scaled,
    squared_distances,
    unit_exponent,
)
from contexture_jax.kernels.neighbors._layout import copies, middle

__all__ = ["Approximate", "approximate_neighbors", "search_on_device"]

_MARGIN = 8  # more candidates than asked for, ranked again by differences
_SAMPLE = 256  # queries that choose the number of lists, and as many that judge it
_PER_LIST = 20  # points of the sample that centres are found from, for each
_STEPS = 5  # of Lloyd's iteration
_MOST_LISTS = 8192
_BLOCK = 256  # queries of a matrix product
_SCORES = 2**21  # of a block at most
_ROWS = 8192  # points that are gone through at a time
_ON_DEVICE = 2**27  # scores of a block there


class Approximate(NamedTuple):
    """Neighbours, and what share of the nearest is among them.

    Attributes:
        indices: numbers of neighbours, nearest first, shape (n, K), int32.
        recall: the share of the K nearest that was found, of a sample of queries.
        standard_error: of that share; 0 where all points were searched.
        num_lists: how many lists the points are in; 0 where another search ran.
        num_probes: how many were searched for each point, its own included.
    """

    indices: Int[Array, "n k"]
    recall: float
    standard_error: float
    num_lists: int
    num_probes: int


class _Lists(NamedTuple):
    """A partition. On the host, points sorted by list.

    Attributes:
        points: about their middle, shape (n, d).
        half: |y|² / 2 of each, shape (n,).
        order: their numbers before they were sorted, shape (n,).
        start: where each list begins, and the end, shape (lists + 1,).
        near: lists by the distance of their centres, itself first, (lists, lists).
    """

    points: np.ndarray
    half: np.ndarray
    order: np.ndarray
    start: np.ndarray
    near: np.ndarray


def approximate_neighbors(
    points: ArrayLike,
    num_neighbors: int,
    *,
    key: Array,
    recall: float = 0.99,
    progress: Callable[[int, int], None] | None = None,
) -> Approximate:
    """Most of the nearest points of each point, itself one of them, and what share.

    On a CPU by lists, as many of which are searched as a sample of queries needs; on
    other devices by `jax.lax.approx_min_k`, which is made for TPUs. Candidates are
    ranked again by differences in the dtype of the points, ties by number.

    Args:
        points: shape (n, d), floating or integer, finite.
        num_neighbors: K, at most n.
        key: random key, of the centres and of the samples.
        recall: the share to be found, above 0 and below 1.
        progress: called with (points done, n) from time to time.

    Raises:
        TypeError: if `num_neighbors` is not an integer or `key` no key.
        ValueError: if K is not between 1 and n, or `recall` or a value is out of range.
    """
    points = held_here(as_features(points, "points"))
    n = points.shape[0]
    num_neighbors = check_integer(num_neighbors, "num_neighbors", low=1, high=n)
    check_key(key)
    if not 0 < recall < 1:
        raise ValueError(f"recall must be above 0 and below 1; got {recall}")
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), np.uint32)))
    a = np.asarray(points)
    kept = place = None
    repeated = copies(a)
    if repeated is not None:
        # A point that K equal ones precede is nobody's neighbour, and equal points have
        # equal neighbours.
        first, before = repeated
        kept = np.flatnonzero(before < num_neighbors)
        place, a = np.searchsorted(kept, first), a[kept]
    a = scaled(a, unit_exponent(a))
    a -= middle(a)
    sample = rng.choice(n, min(2 * _SAMPLE, n), replace=False)
    if place is not None:
        # Equal points count as many times as there are.
        sample = place[sample]
    device = next(iter(points.devices()))
    search = _by_lists if device.platform == "cpu" else _by_device
    report = _Report(progress, n)
    found, lists, probes = search(a, num_neighbors, recall, rng, sample, report)
    share, error = _judged(a, found, sample[_SAMPLE:], num_neighbors)
    report.end()
    if kept is not None and place is not None:
        found = kept[found[place]]
    placed = jax.device_put(found.astype(np.int32), device)
    return Approximate(placed, share, error, lists, probes)


class _Report:
    """How many points are done, told now and then."""

    def __init__(self, tell: Callable[[int, int], None] | None, n: int) -> None:
        self.tell, self.n, self.done = tell, n, 0

    def add(self, count: int) -> None:
        # Called by several threads: a count that is lost is made good at the end.
        self.done += count
        if self.tell is not None:
            self.tell(min(self.done, self.n), self.n)

    def end(self) -> None:
        if self.tell is not None and self.done < self.n:
            self.tell(self.n, self.n)


def _by_lists(
    a: np.ndarray,
    num_neighbors: int,
    recall: float,
    rng: np.random.Generator,
    sample: np.ndarray,
    report: _Report,
) -> tuple[np.ndarray, int, int]:
    """Neighbours by number, and how many lists there are and are searched."""
    lists = _partition(a, rng)
    list_of = np.empty(len(a), np.int64)
    num_lists = len(lists.near)
    list_of[lists.order] = np.repeat(np.arange(num_lists), np.diff(lists.start))
    chosen = sample[:_SAMPLE]
    nearest = _nearest(a, chosen, num_neighbors)
    probes = _enough(lists.near, list_of[chosen], list_of[nearest], recall)
    found = np.empty((len(a), num_neighbors), np.int32)

    def search(home: int) -> None:
        rows = slice(lists.start[home], lists.start[home + 1])
        if rows.stop > rows.start:
            found[lists.order[rows]] = _search_list(lists, home, probes, num_neighbors)
            report.add(int(rows.stop - rows.start))

    in_threads(search, range(num_lists))
    return found, num_lists, probes


def _partition(a: np.ndarray, rng: np.random.Generator) -> _Lists:
    n = len(a)
    # With √n lists of √n points a search for centres takes as long as one of a list,
    # and with twice as many less is searched around them.
    num_lists = max(1, min(_MOST_LISTS, round(2 * n**0.5), n))
    some = a[rng.choice(n, min(n, _PER_LIST * num_lists), replace=False)]
    centers = some[:num_lists].copy()
    for _ in range(_STEPS):
        nearest = _assigned(some, centers)
        order = np.argsort(nearest, kind="stable")
        used, first, sizes = np.unique(
            nearest[order], return_index=True, return_counts=True
        )
        # A centre that no point is near to stays: it may be of use to the others.
        centers[used] = np.add.reduceat(some[order], first) / sizes[:, None]
    nearest = _assigned(a, centers)
    order = np.argsort(nearest, kind="stable")
    start = np.searchsorted(nearest[order], np.arange(num_lists + 1))
    points = a[order]
    squares = np.einsum("ij,ij->i", centers, centers)
    between = squares[None, :] - 2 * centers @ centers.T
    # Equal centres, too, come after a list itself.
    np.fill_diagonal(between, -np.inf)
    half = 0.5 * np.einsum("ij,ij->i", points, points)
    near = np.argsort(between, axis=1, kind="stable")
    return _Lists(points, half.astype(a.dtype), order, start, near)


def _assigned(a: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The number of the nearest centre of each row."""
    half = (0.5 * np.einsum("ij,ij->i", centers, centers)).astype(a.dtype)
    out = np.empty(len(a), np.int64)

    def assign(start: int) -> None:
        part = slice(start, start + 4 * _BLOCK)
        scores = a[part] @ centers.T
        scores -= half
        out[part] = scores.argmax(axis=1)

    in_threads(assign, range(0, len(a), 4 * _BLOCK))
    return out


def _search_list(
    lists: _Lists, home: int, probes: int, num_neighbors: int
) -> np.ndarray:
    """Neighbours, by number, of the points of a list among those of lists near it."""
    sizes = np.diff(lists.start)[lists.near[home]]
    count = num_neighbors + _MARGIN
    # More lists where those hold fewer points than are asked for.
    probes = max(probes, int(np.searchsorted(np.cumsum(sizes), count)) + 1)
    parts = [slice(*lists.start[[one, one + 1]]) for one in lists.near[home, :probes]]
    candidates = np.concatenate([lists.points[part] for part in parts])
    half = np.concatenate([lists.half[part] for part in parts])
    numbers = np.concatenate([lists.order[part] for part in parts])
    queries = lists.points[parts[0]]
    block = max(16, min(_BLOCK, _SCORES // len(candidates)))
    return np.concatenate(
        [
            _ranked(queries[i : i + block], candidates, half, numbers, num_neighbors)[0]
            for i in range(0, len(queries), block)
        ]
    )


def _ranked(
    queries: np.ndarray,
    candidates: np.ndarray,
    half: np.ndarray,
    numbers: np.ndarray,
    num_neighbors: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the nearest candidates of each query, and squared distances."""
    scores = queries @ candidates.T
    # |a|² / 2 − ⟨q, a⟩: the order of |q − a|² to rounding.
    np.subtract(half, scores, out=scores)
    count = min(num_neighbors + _MARGIN, len(candidates))
    best = np.argpartition(scores, count - 1, axis=1)[:, :count]
    distances = squared_distances(queries, candidates, best)
    order = np.lexsort((numbers[best], distances), axis=1)[:, :num_neighbors]
    best = np.take_along_axis(best, order, axis=1)
    return numbers[best], np.take_along_axis(distances, order, axis=1)


def _nearest(a: np.ndarray, sample: np.ndarray, num_neighbors: int) -> np.ndarray:
    """The nearest of all points to some of them, by number; in float64."""
    numbers, queries = np.arange(len(a)), a[sample].astype(np.float64)

    def part(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(start, start + _ROWS)
        points = a[rows].astype(np.float64)
        half = 0.5 * np.einsum("ij,ij->i", points, points)
        return _ranked(queries, points, half, numbers[rows], num_neighbors)

    found = in_threads(part, range(0, len(a), _ROWS))
    index, distance = (np.concatenate(x, axis=1) for x in zip(*found, strict=True))
    order = np.lexsort((index, distance), axis=1)[:, :num_neighbors]
    return np.take_along_axis(index, order, axis=1)


def _enough(
    near: np.ndarray, homes: np.ndarray, lists: np.ndarray, recall: float
) -> int:
    """How many lists hold a share of neighbours that is safely that of a sample.

    Args:
        near: lists by distance for each, shape (lists, lists).
        homes: the list of each query, shape (q,).
        lists: those of its neighbours, shape (q, K).
        recall: the share.
    """
    # (q, lists): the place of each list in the order of the query's.
    place = np.argsort(near[homes], axis=1)
    places = np.take_along_axis(place, lists, axis=1)
    for probes in range(1, near.shape[0]):
        share, error = _mean(places < probes)
        if share - error >= recall:
            return probes
    return near.shape[0]


def _mean(found: np.ndarray) -> tuple[float, float]:
    """The share that is True, and its standard error over rows."""
    shares = found.mean(axis=1)
    return float(shares.mean()), float(shares.std() / len(shares) ** 0.5)


def _judged(
    a: np.ndarray, found: np.ndarray, sample: np.ndarray, num_neighbors: int
) -> tuple[float, float]:
    """Recall on queries that had no part in the search, and its standard error."""
    if not len(sample):
        # So few that no sample is left: all of them.
        sample = np.arange(len(a))

    def distances(numbers: np.ndarray) -> np.ndarray:
        rows = np.repeat(sample, numbers.shape[1])
        return plain_distances(a, a, rows, numbers.ravel()).reshape(numbers.shape)

    last = distances(_nearest(a, sample, num_neighbors)[:, -1:])
    # As near as the last, to what ranks them: of points at one distance either will do.
    rounding = difference_error(a.shape[1], a.dtype)
    return _mean(distances(found[sample]) <= (1 + rounding) * last)


def _by_device(
    a: np.ndarray,
    num_neighbors: int,
    recall: float,
    rng: np.random.Generator,
    sample: np.ndarray,
    report: _Report,
) -> tuple[np.ndarray, int, int]:
    """`_by_lists` where products are cheap: of all points, by one operation."""
    del rng, sample
    block = max(8, min(_BLOCK, _ON_DEVICE // len(a)))
    points = jnp.asarray(a)
    found = search_on_device(
        points, num_neighbors=num_neighbors, block=block, recall=recall
    )
    report.add(len(a))
    return np.asarray(found), 0, 0


@functools.partial(jax.jit, static_argnames=("num_neighbors", "block", "recall"))
def search_on_device(
    points: Float[Array, "n d"], *, num_neighbors: int, block: int, recall: float
) -> Int[Array, "n k"]:
    """Neighbours among points about their middle, a block of queries at a time.

    Args:
        points: shape (n, d).
        num_neighbors: K.
        block: queries of a matrix product.
        recall: what `jax.lax.approx_min_k` is to find of the nearest; on devices that
            have no such operation all.
    """
    n = points.shape[0]
    half = 0.5 * (points * points).sum(axis=1)
    count = min(num_neighbors + _MARGIN, n)

    def one_block(queries: Array) -> Array:
        scores = half[None, :] - mm(queries, points.T)
        _, index = jax.lax.approx_min_k(scores, count, recall_target=recall)
        distances = squared_distances(queries, points, index)
        ranked: Any = jax.lax.sort((distances, index), dimension=1, num_keys=2)
        return ranked[1][:, :num_neighbors]

    padded = jnp.pad(points, ((0, -n % block), (0, 0)))
    found = jax.lax.map(one_block, padded.reshape(-1, block, points.shape[1]))
    return found.reshape(-1, num_neighbors)[:n]
