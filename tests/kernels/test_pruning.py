"""Neighbours by lower bounds: exact, or reported as not certified."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax.kernels.neighbors import _pruning, _search
from contexture_jax.kernels.neighbors._pruned import search_pruned
from contexture_jax.kernels.neighbors._pruning import make_pruning
from contexture_jax.kernels.neighbors._search import Problem, _Answer
from tests.conftest import X64
from tests.tolerances import tol

DTYPES = [np.float32, np.float64] if X64 else [np.float32]
POINTS, COLUMNS, TRUE, DIRECTIONS, NEIGHBORS = 3000, 96, 6, 8, 10
QUERIES = 256
CENTER = np.zeros(COLUMNS)
FEW = 16  # a capacity that some queries of the clustered points exceed


class Case(NamedTuple):
    queries: jnp.ndarray
    points: jnp.ndarray
    pruning: _pruning.Pruning

    def search(self, capacity: int = 256) -> tuple[np.ndarray, ...]:
        """Numbers, squared distances, and which rows are certain."""
        found = search_pruned(
            self.queries,
            jnp.asarray(QUERIES, jnp.int32),
            self.points,
            self.pruning,
            num_neighbors=NEIGHBORS,
            num_candidates=NEIGHBORS,
            capacity=capacity,
        )
        indices, distances, limit, _ = (np.asarray(f) for f in found)
        return indices, distances, np.isfinite(limit)

    def answer(self, report: Callable[[int], None] = lambda _: None) -> _Answer:
        """What the front door starts with: nothing is known."""
        problem = Problem(
            np.asarray(self.queries),
            np.asarray(self.points),
            self.points,
            jnp.asarray(CENTER, self.points.dtype),
            NEIGHBORS,
            NEIGHBORS + 8,
            0.0,
        )
        return _Answer(problem, report)


def make_case(x: np.ndarray, dtype: type = np.float32) -> Case:
    """The first points are the queries."""
    centered = (x - x.mean(axis=0)).astype(dtype)
    directions = np.linalg.svd(centered, full_matrices=False)[2][:DIRECTIONS].T
    points = jnp.asarray(centered)
    pruning = make_pruning(points, jnp.asarray(CENTER, dtype), jnp.asarray(directions))
    return Case(points[:QUERIES], points, pruning)


def clustered() -> np.ndarray:
    """Clusters in 6 dimensions, noise in 96, and one point far from all."""
    rng = np.random.default_rng(0)
    inner = 3.0 * rng.normal(size=(20, TRUE))[rng.integers(0, 20, POINTS)]
    inner += rng.normal(size=inner.shape)
    isometry = np.linalg.qr(rng.normal(size=(COLUMNS, TRUE)))[0]
    x = inner @ isometry.T + 0.05 * rng.normal(size=(POINTS, COLUMNS))
    x[-1] = 1e4
    return x


def truth(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """By differences in float64, ties by number."""
    x, a = np.asarray(case.queries, np.float64), np.asarray(case.points, np.float64)
    distances = np.stack([((a - row) ** 2).sum(axis=1) for row in x])
    order = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBORS]
    return order, np.take_along_axis(distances, order, axis=1)


@pytest.fixture(scope="module", params=DTYPES)
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(clustered(), request.param)


@pytest.mark.fast("float32")
def test_certified_neighbours_are_the_nearest(case):
    indices, distances, certain = case.search()
    order, nearest = truth(case)
    assert certain.mean() > 0.9
    np.testing.assert_array_equal(indices[certain], order[certain])
    np.testing.assert_allclose(
        distances[certain], nearest[certain], rtol=tol(case.points.dtype, size=COLUMNS)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_lower_bounds_are_below_the_distances_up_to_the_stated_error(dtype):
    """|ẑ − ẑ'| ≤ |x − x'| + δ(|x| + |x'|), where the bound is the distance itself."""
    rng = np.random.default_rng(5)
    flat = rng.normal(size=(POINTS, TRUE)) @ rng.normal(size=(TRUE, COLUMNS))
    case = make_case(flat, dtype)
    z = np.asarray(_pruning.images(case.queries, *case.pruning[:2]))
    x, z = np.asarray(case.queries, np.float64), z.astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    exact = np.linalg.norm(x[:, None] - x, axis=2)
    bound = np.linalg.norm(z[:, None] - z, axis=2)
    error = float(case.pruning.error)
    assert (bound <= exact + error * (norms[:, None] + norms)).all()
    assert error < tol(dtype, factor=20, size=COLUMNS)


@pytest.mark.slow_cases("float32", "float64")
def test_queries_that_need_more_than_the_capacity_are_left_open(case):
    certain = case.search(capacity=FEW)[2]
    done = []
    answer = case.answer(done.append)
    _search._search_pruned(answer, case.pruning, capacity=FEW)
    assert 0 < certain.sum() < QUERIES
    # Those that are certain but for the order of near ties are settled by the host.
    np.testing.assert_array_equal(answer.certain, certain)
    assert done == [certain.sum()]
    order = truth(case)[0]
    np.testing.assert_array_equal(answer.indices[certain], order[certain])


@pytest.mark.slow
def test_isotropic_points_are_left_open():
    x = np.random.default_rng(1).normal(size=(POINTS, COLUMNS))
    case = make_case(x)
    assert not case.search(capacity=FEW)[2].any()


@pytest.mark.slow_cases("float64")
def test_of_many_copies_the_first_ones_count(case):
    """60 copies of each of 50 points: more at distance 0 than are asked for."""
    number = np.random.default_rng(2).permutation(POINTS) % 50
    copies = make_case(clustered()[:50][number], case.points.dtype)
    indices, distances, certain = copies.search()
    expected = [np.flatnonzero(number == i)[:NEIGHBORS] for i in number[:QUERIES]]
    assert certain.all()
    assert (distances == 0).all()
    np.testing.assert_array_equal(indices, expected)


def test_scales_at_the_ends_of_the_range_are_not_certified(case):
    for scale in (1e-30, 1e17) if case.points.dtype == np.float32 else (1e-200, 1e152):
        scaled = Case(
            case.queries * scale,
            case.points * scale,
            make_pruning(case.points * scale, *case.pruning[:2]),
        )
        assert not scaled.search()[2].any()


def test_a_row_does_not_depend_on_the_others(case):
    shuffle = np.random.default_rng(3).permutation(QUERIES)
    shuffled = case._replace(queries=case.queries[shuffle])
    for one, other in zip(case.search(), shuffled.search(), strict=True):
        np.testing.assert_array_equal(one[shuffle], other)


@pytest.mark.slow
def test_directions_are_chosen_where_they_pay(monkeypatch):
    monkeypatch.setattr(_pruning, "_SAMPLE", 512)
    monkeypatch.setattr(_pruning, "_CHOICES", (4, 8, 16))
    points = make_case(clustered()[:-1]).points
    flat = jnp.asarray(np.random.default_rng(4).normal(size=points.shape), np.float32)
    many = 100 * POINTS
    center = jnp.asarray(CENTER, points.dtype)
    chosen = _pruning.choose_directions(points, center, NEIGHBORS, many)
    assert chosen is not None
    assert chosen.shape == (COLUMNS, 8)
    assert _pruning.choose_directions(points, center, NEIGHBORS, 10) is None
    assert _pruning.choose_directions(points, center, 500, many) is None
    narrow = points[:, :20], center[:20]
    assert _pruning.choose_directions(*narrow, NEIGHBORS, many) is None
    assert _pruning.choose_directions(flat, center, NEIGHBORS, many) is None


@pytest.mark.slow
def test_the_front_door_takes_bounds_and_finds_the_same(case, monkeypatch):
    directions = case.pruning.directions
    used = []

    def choose(*_: object) -> jnp.ndarray:
        used.append(True)
        return directions

    monkeypatch.setattr(_search, "choose_directions", choose)
    monkeypatch.setattr(_search, "CAPACITY", FEW)  # the rest is searched for in full
    found = _search.nearest_neighbors(case.queries, case.points, NEIGHBORS)
    assert used
    np.testing.assert_array_equal(found, truth(case)[0])
