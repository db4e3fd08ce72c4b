"""Exact nearest neighbours, stage by stage.

A matrix product scores all points, candidates are ranked again by differences, and the
rounding of the scores is bounded for each query. What the bound leaves open is searched
for again about centres of its own, then by differences, and what is level with the last
neighbour is collected in full; `_ranking` has the last word (theory.md §6.9).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, held_here, is_traced
from contexture_jax._core.either import Either
from contexture_jax._core.features import as_features, new_rows
from contexture_jax._core.types import Array, ArrayLike, Float, Int
from contexture_jax.kernels.neighbors._differences import nearest_by_differences
from contexture_jax.kernels.neighbors._distances import (
    floor,
    scaled,
    unit_exponent,
    unit_roundoff,
)
from contexture_jax.kernels.neighbors._layout import blocks, copies, middle, on_a_grid
from contexture_jax.kernels.neighbors._pruned import search_pruned
from contexture_jax.kernels.neighbors._pruning import (
    CAPACITY,
    Pruning,
    choose_directions,
    make_pruning,
)
from contexture_jax.kernels.neighbors._ranking import Found, rank_candidates, rank_pairs
from contexture_jax.kernels.neighbors._scoring import (
    Method,
    choose_tiles,
    lay_raw_tiles,
    points_within,
    search_here,
    search_tiles,
)

__all__ = ["nearest_neighbors"]

_MARGIN = 8  # more candidates than asked for, ranked again by exact distances
_BLOCK = 256  # queries in a tile
_BLOCKS_PER_CALL = 16  # between two reports of progress
_LOCAL = 128  # queries about a centre of their own
_FEW = 16  # so few are sooner searched for by differences
_NARROW = 8  # and so few columns
_MUCH = 2.0**20  # the least that makes another unit worth while
_CLEAR = 1 / 32  # a doubt of this share of a squared distance leaves few points open


class Problem(NamedTuple):
    """Queries and points in a unit of their own.

    Attributes:
        x: queries, on the host, shape (n, d).
        a: points, on the host, shape (m, d).
        points: the same on the device.
        center: a point that most are near to, shape (d,).
        num_neighbors: K.
        num_candidates: how many are kept of each query, K and a few more.
        unit: the unit roundoff of a matrix product there.
    """

    x: np.ndarray
    a: np.ndarray
    points: Float[Array, "m d"]
    center: Float[Array, " d"]
    num_neighbors: int
    num_candidates: int
    unit: float


def nearest_neighbors(
    queries: ArrayLike,
    points: ArrayLike,
    num_neighbors: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Int[Array, "n k"]:
    """The nearest points of each query, by Euclidean distance; ties by number.

    Exact: the order is that of the squared distances of the numbers given, in float64
    on the host with squares added in ascending order, wherever rounding could matter.
    It does not depend on the order of the columns, on the offset or scale of the data,
    or on what other queries there are. Tiles keep the work space at tens of megabytes
    whatever n is, in each thread where NumPy searches: on a CPU, for up to 2³⁰ pairs
    of queries and at most 2¹⁶ points, which compiles nothing.

    Inside a trace nothing can be decided on the host: the order is then that of
    distances by differences, to rounding in the dtype.

    Args:
        queries: shape (n, d), finite.
        points: shape (m, d), floating or integer, finite.
        num_neighbors: K, at most m.
        progress: called with (queries done, n) from time to time.

    Returns:
        Numbers of the neighbours, nearest first, shape (n, K), int32.

    Raises:
        TypeError: if `num_neighbors` is not an integer or an array not numeric.
        ValueError: if K is not between 1 and m, or shapes or values are bad.
    """
    same = queries is points
    points = held_here(as_features(points, "points"))
    queries = points if same else held_here(new_rows(queries, points, "queries"))
    num_neighbors = check_integer(
        num_neighbors, "num_neighbors", low=1, high=points.shape[0]
    )
    if is_traced(queries, points):
        return nearest_by_differences(queries, points, num_neighbors)
    a = np.asarray(points)
    x = a if same else np.asarray(queries)
    n = len(x)
    repeated = copies(a)
    inverse = kept = None
    if repeated is not None:
        # A point that K equal ones precede is nobody's neighbour.
        first, before = repeated
        kept = np.flatnonzero(before < num_neighbors)
        if same:
            # Equal queries have equal neighbours: one of them is searched for.
            distinct = np.flatnonzero(before == 0)
            inverse = np.searchsorted(distinct, first)
            x = x[distinct]
        # Points and queries are no longer one array.
        a, same = a[kept], False

    def report(done: int) -> None:
        if progress is not None:
            progress(n - len(x) + done, n)

    # What lies where it was put stays there; else JAX is free to move the result.
    devices = points.devices() if points.committed else ()
    device = next(iter(devices)) if len(devices) == 1 else None
    indices = _search_all(_make_problem(x, a, num_neighbors, device, same), report)
    if kept is not None:
        indices = kept[indices]
    if inverse is not None:
        indices = indices[inverse]
    return jax.device_put(indices.astype(np.int32), device)


def _make_problem(
    x: np.ndarray, a: np.ndarray, num_neighbors: int, device: Any, same: bool
) -> Problem:
    exponent = unit_exponent(a) if same else unit_exponent(a, x)
    a = scaled(a, exponent)
    x = a if same else scaled(x, exponent)
    on_device = jax.device_put(a, device)
    platform = next(iter(on_device.devices())).platform
    # A product in several passes of bfloat16 is a few bits short of the dtype.
    passes = 1 if platform in ("cpu", "gpu", "cuda", "rocm") else 16
    return Problem(
        x,
        a,
        on_device,
        jax.device_put(middle(a), device),
        num_neighbors,
        min(num_neighbors + _MARGIN, len(a)),
        passes * unit_roundoff(a.dtype),
    )


class _Answer:
    """What is known of each query so far, on the host.

    Attributes:
        indices: its neighbours, shape (n, K).
        certain: whether they are that, shape (n,).
        radius: a squared distance within which K points are, to rounding, shape (n,).
        doubt: see `Found`, shape (n,).
    """

    def __init__(self, problem: Problem, report: Callable[[int], None]) -> None:
        n = len(problem.x)
        self.problem, self.report = problem, report
        self.indices = np.zeros((n, problem.num_neighbors), np.int64)
        self.certain = np.zeros(n, bool)
        self.radius, self.doubt = np.full((2, n), np.inf)

    def take(self, rows: np.ndarray, found: Found) -> None:
        """Keep candidates, of more queries than rows if some are padding."""
        indices, distances, limit, doubt = (np.asarray(f)[: len(rows)] for f in found)
        num_neighbors = self.problem.num_neighbors
        near, certain = rank_candidates(
            self.problem.x[rows],
            self.problem.a,
            indices,
            distances,
            limit,
            num_neighbors,
        )
        self.radius[rows] = distances[:, num_neighbors - 1]
        self.doubt[rows] = doubt
        self.keep(rows, near, certain)

    def keep(
        self, rows: np.ndarray, near: np.ndarray, certain: np.ndarray | bool = True
    ) -> None:
        """Keep neighbours."""
        self.indices[rows] = near
        self.certain[rows] = certain
        self.report(int(self.certain.sum()))

    def rest(self, *, clear: bool | None = None) -> np.ndarray:
        """Queries that are open; only those whose doubt is small, or is not."""
        rows = np.flatnonzero(~self.certain)
        if clear is None:
            return rows
        small = self.doubt[rows] <= _CLEAR * self.radius[rows]
        return rows[small == clear]


def _search_all(problem: Problem, report: Callable[[int], None]) -> np.ndarray:
    """Stage after stage, each for the queries that the last one left open."""
    answer = _Answer(problem, report)
    arrays = (problem.a,) if problem.x is problem.a else (problem.a, problem.x)
    exact = on_a_grid(np.asarray(problem.center), *arrays)
    # Exact scores settle everything in one pass, ties included: bounds save nothing.
    if not exact:
        _by_bounds(answer)
    rows = answer.rest()
    if rows.size:
        tiles = choose_tiles(problem.a, problem.points, problem.center, len(rows))
        _by_tiles(answer, rows, "products", tiles, exact=exact)
        _collect(answer, answer.rest(clear=True), "products", tiles)
        # As large as the points, and so are the raw tiles that come next.
        del tiles
        _in_smaller_units(answer)
    if not answer.certain.all():
        raw = lay_raw_tiles(problem.points)
        _about_local_centers(answer, raw)
        _by_tiles(answer, answer.rest(clear=False), "differences", raw)
        _collect(answer, answer.rest(), "differences", raw)
    return answer.indices


def _by_bounds(answer: _Answer) -> None:
    """By lower bounds, where they pay and until they leave more than half open."""
    problem = answer.problem
    directions = choose_directions(
        problem.points, problem.center, problem.num_neighbors, len(problem.x)
    )
    if directions is None:
        return
    pruning = make_pruning(problem.points, problem.center, directions)
    _search_pruned(answer, pruning)


def _search_pruned(answer: _Answer, pruning: Pruning, capacity: int = CAPACITY) -> None:
    problem = answer.problem
    size = _rows_per_call(len(problem.x))
    num_open = 0
    for start in range(0, len(problem.x), size):
        rows = np.arange(start, min(start + size, len(problem.x)))
        found = search_pruned(
            jnp.asarray(_padded(problem.x[rows], size)),
            jnp.asarray(len(rows), jnp.int32),
            problem.points,
            pruning,
            num_neighbors=problem.num_neighbors,
            num_candidates=problem.num_candidates,
            capacity=capacity,
        )
        answer.take(rows, found)
        num_open += int((~answer.certain[rows]).sum())
        # Bounds that leave more than half open do not pay: tiles take the rest.
        if 2 * num_open > start + len(rows):
            return


def _rows_per_call(n: int) -> int:
    """Whole blocks: one size of block whatever n is."""
    return _BLOCK * max(1, min(_BLOCKS_PER_CALL, -(-n // _BLOCK)))


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return np.pad(rows, ((0, size - len(rows)), (0, 0)))


def _by_tiles(
    answer: _Answer,
    rows: np.ndarray,
    method: Method,
    tiles: Float[Either, "t d1 c"],
    *,
    exact: bool = False,
) -> None:
    """By scores of all points; where all of them are exact, so is the answer."""
    problem = answer.problem
    size = _rows_per_call(len(rows))
    centers = np.tile(np.asarray(problem.center), (size // _BLOCK, 1))
    num_neighbors = problem.num_neighbors

    def take(part: np.ndarray, found: Found) -> None:
        if exact:
            answer.keep(part, np.asarray(found.indices)[: len(part), :num_neighbors])
        else:
            answer.take(part, found)

    waiting: list[Any] = []  # the device works on while the host ranks
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        queries = _padded(problem.x[part], size).reshape(-1, _BLOCK, problem.x.shape[1])
        found = _candidates(problem, queries, centers, tiles, method, exact=exact)
        waiting.append((part, found))
        if len(waiting) > 1:
            take(*waiting.pop(0))
    for one in waiting:
        take(*one)


def _in_smaller_units(answer: _Answer) -> None:
    """Queries whose neighbours are so near that their squares may vanish in the unit.

    They are searched for among the points around them alone, in the unit of those.
    """
    problem = answer.problem
    d, dtype = problem.x.shape[1], problem.x.dtype
    tiny = floor(d, dtype)
    rows = answer.rest()
    # Up to here underflow may cost more than a rounding does.
    rows = rows[answer.radius[rows] <= tiny / unit_roundoff(dtype)]
    if not rows.size:
        return
    # Cut through wide gaps alone, as every block fits.
    for group in blocks(problem.x[rows], len(rows)):
        part = rows[group]
        center = middle(problem.x[part])
        width = np.abs(problem.x[part] - center).max(axis=1)
        # A hundredth for the rounding of the radius: K points lie within it, and so do
        # the nearest.
        reach = (width + np.sqrt(1.01 * answer.radius[part] + 4 * tiny)).max()
        distance = np.abs(problem.a - center).max(axis=1)
        # Each unit is at least 2²⁰ times smaller than the one before: the recursion
        # ends soon.
        if distance.max() < reach * _MUCH:
            continue
        kept = np.flatnonzero(distance <= reach)
        # Numbers within a factor of 2 have an exact difference.
        shift = np.where(np.abs(center) >= 4 * reach, center, 0).astype(dtype)
        device = next(iter(problem.points.devices()))
        smaller = _make_problem(
            problem.x[part] - shift,
            problem.a[kept] - shift,
            problem.num_neighbors,
            device if problem.points.committed else None,
            same=False,
        )
        answer.keep(part, kept[_search_all(smaller, lambda _: None)])


def _about_local_centers(answer: _Answer, raw: Float[Array, "t d1 c"]) -> None:
    """Queries that lie together, about their own mean, where that beats differences."""
    problem = answer.problem
    rows = answer.rest(clear=False)
    d = problem.x.shape[1]
    if d <= _NARROW or rows.size <= _FEW:
        return
    groups = [g for g in blocks(problem.x[rows], _LOCAL) if len(g) > _FEW]
    for start in range(0, len(groups), _BLOCKS_PER_CALL):
        some = [rows[g] for g in groups[start : start + _BLOCKS_PER_CALL]]
        # Always so many blocks of one size, for one program; rows of 0 are not looked
        # at.
        queries = np.zeros((_BLOCKS_PER_CALL, _LOCAL, d), problem.x.dtype)
        centers = np.zeros((_BLOCKS_PER_CALL, d), problem.x.dtype)
        for number, group in enumerate(some):
            queries[number, : len(group)] = problem.x[group]
            centers[number] = problem.x[group].mean(axis=0, dtype=np.float64)
        found = _candidates(problem, queries, centers, raw, "local")
        found = [
            np.asarray(f).reshape(_BLOCKS_PER_CALL, _LOCAL, *f.shape[1:]) for f in found
        ]
        for number, group in enumerate(some):
            answer.take(group, Found(*(f[number] for f in found)))


def _collect(
    answer: _Answer, rows: np.ndarray, method: Method, tiles: Float[Either, "t d1 c"]
) -> None:
    """All points that may be as near as the K-th, ranked on the host."""
    problem = answer.problem
    for start in range(0, len(rows), _LOCAL):
        part = rows[start : start + _LOCAL]
        near = points_within(
            jnp.asarray(_padded(problem.x[part], _LOCAL)),
            jnp.asarray(
                np.pad(answer.radius[part], (0, _LOCAL - len(part))), problem.x.dtype
            ),
            problem.center,
            tiles,
            num_neighbors=problem.num_neighbors,
            method=method,
            unit=problem.unit,
        )
        near = np.asarray(near)[: len(part), : len(problem.a)]
        answer.keep(
            part, rank_pairs(problem.x[part], problem.a, near, problem.num_neighbors)
        )


def _candidates(
    problem: Problem,
    queries: np.ndarray,
    centers: np.ndarray,
    tiles: Float[Either, "t d1 c"],
    method: Method,
    *,
    exact: bool = False,
) -> Found:
    options: dict[str, Any] = {
        "num_neighbors": problem.num_neighbors,
        "num_candidates": problem.num_candidates,
        "unit": problem.unit,
        "exact": exact,
    }
    if isinstance(tiles, np.ndarray):
        return search_here(queries, centers, problem.a, tiles, **options)
    return search_tiles(
        jnp.asarray(queries),
        jnp.asarray(centers),
        problem.points,
        tiles,
        method=method,
        **options,
    )
