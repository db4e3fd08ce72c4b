"""Neighbours are those of the numbers given, whatever scale, offset and ties."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.kernels.neighbors import _layout, _scoring, _search
from contexture_jax.kernels.neighbors._search import nearest_neighbors
from tests.conftest import X64

ROWS, COLUMNS, NEIGHBORS = 1500, 8, 4  # enough rows for selection in two stages
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(ROWS, COLUMNS))
DTYPES = [np.float32, np.float64] if X64 else [np.float32]


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


def cities() -> np.ndarray:
    """A kilometre around each of two, in degrees, and columns that are constant."""
    x = np.full((ROWS, COLUMNS), 7.3)
    x[:, :2] = np.array([[2.35, 48.86], [139.7, 35.7]])[np.arange(ROWS) % 2]
    x[:, :2] += 0.01 * NORMAL[:, :2]
    return x


def incomes(largest: float) -> np.ndarray:
    x = np.exp(10 + 0.5 * NORMAL)
    x[7, 3] = largest
    return x


def blobs(size: int, gap: float) -> np.ndarray:
    offsets = RNG.normal(size=(ROWS // size, COLUMNS))
    return NORMAL + gap * np.repeat(offsets, size, axis=0)


CASES = {
    "normal": NORMAL,
    "cities": cities(),
    "standardised incomes": standardised(incomes(1e12)),
    "incomes": incomes(1e12),
    "a mark of 1e30": incomes(1e30),
    "times 1e20": 1e20 * NORMAL,
    "times 1e-20": 1e-20 * NORMAL,
    "at the end of the range": 2e37 * NORMAL,
    "subnormal": 1e-40 * NORMAL,
    "far from 0": NORMAL + 1e5,
    "two far blobs": blobs(ROWS // 2, 1e6),
    "many far blobs": blobs(25, 1e6),
    "heavy tails": RNG.standard_cauchy(size=NORMAL.shape) ** 3,
    "Likert": RNG.integers(1, 6, NORMAL.shape),
    "binary": RNG.integers(0, 2, NORMAL.shape),
    "standardised binary": standardised(
        RNG.random(NORMAL.shape) < np.linspace(0.1, 0.6, COLUMNS)
    ),
    "one-hot": np.eye(COLUMNS)[RNG.integers(0, COLUMNS, ROWS)],
    "repeated": NORMAL[RNG.integers(0, 300, ROWS)],
    "half of one row": np.where(RNG.random((ROWS, 1)) < 0.5, NORMAL[:1], NORMAL),
    "all equal": np.full((ROWS, COLUMNS), 0.1),
}
SLOW = ("binary", "half of one row", "one-hot")  # each a shape of its own to compile
IN_FLOAT64 = ("two far blobs", "Likert", "standardised binary", "incomes")


def truth(queries: np.ndarray, points: np.ndarray, k: int = NEIGHBORS) -> np.ndarray:
    """By differences in float64, ties by number; sums do not depend on the columns."""
    squares = (queries[:, None].astype(np.float64) - points) ** 2
    distances = np.sort(squares, axis=2).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def search(x: np.ndarray) -> np.ndarray:
    points = jnp.asarray(x)
    return np.asarray(nearest_neighbors(points, points, NEIGHBORS))


@pytest.mark.slow_cases("normal", "standardised binary", "incomes")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES],
)
def test_neighbours_are_exact_and_the_order_of_columns_is_nothing(name):
    for dtype in DTYPES if name in IN_FLOAT64 else DTYPES[:1]:
        x = CASES[name].astype(dtype)
        found = search(x)
        some = np.arange(0, ROWS, 3)
        np.testing.assert_array_equal(found[some], truth(x[some], x))
        turned = np.ascontiguousarray(np.roll(x, 3, axis=1)[:, ::-1])
        np.testing.assert_array_equal(search(turned), found)


@pytest.mark.parametrize("name", ["normal", "Likert"])
def test_few_points_are_searched_for_without_a_program(name, monkeypatch):
    monkeypatch.delattr(_search, "search_tiles")
    x = CASES[name].astype(np.float32)
    np.testing.assert_array_equal(search(x), truth(x, x))


@pytest.mark.slow_cases("normal")
@pytest.mark.parametrize("name", ["normal", "Likert"])
def test_many_points_are_searched_for_by_programs(name, monkeypatch):
    monkeypatch.setattr(_scoring, "_POINTS", 0)
    monkeypatch.delattr(_search, "search_here")
    x = CASES[name].astype(np.float32)
    np.testing.assert_array_equal(search(x), truth(x, x))


@pytest.mark.slow_cases("cities")
@pytest.mark.parametrize("name", ["cities", "standardised binary", "heavy tails"])
def test_new_points_have_exact_neighbours(name):
    x = CASES[name].astype(np.float32)
    new = np.concatenate([x[:50], x[:50] + x.std(axis=0) / 100, 1e5 + x[:5]])
    context = cx.contexts.knn(x, NEIGHBORS)
    np.testing.assert_array_equal(context.at(new).indices, truth(new, x))


def test_centers_of_their_own_settle_what_lies_together(monkeypatch):
    """In more columns than these by default: fewer are sooner done by differences."""
    monkeypatch.setattr(_search, "_NARROW", 0)
    settled = []
    local = _search._about_local_centers

    def count(answer: _search._Answer, raw: jnp.ndarray) -> None:
        before = answer.certain.sum()
        local(answer, raw)
        settled.append(answer.certain.sum() - before)

    monkeypatch.setattr(_search, "_about_local_centers", count)
    x = CASES["two far blobs"][RNG.permutation(ROWS)].astype(np.float32)
    np.testing.assert_array_equal(search(x), truth(x, x))
    assert settled[0] > ROWS / 3


def test_rows_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(_layout, "_hashes", lambda a: np.zeros(len(a), np.uint64))
    copies = _layout.copies(np.array([[1.0], [2], [1], [-0.0], [0], [1]]))
    assert copies is not None
    first, before = copies
    np.testing.assert_array_equal(first, [0, 1, 0, 3, 3, 0])
    np.testing.assert_array_equal(before, [0, 0, 1, 0, 1, 2])


def test_blocks_are_a_partition_that_keeps_far_sets_apart():
    x = CASES["many far blobs"]
    blocks = _layout.blocks(x, 128)
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(ROWS))
    assert max(map(len, blocks)) <= 128
    assert all(np.ptp(x[rows], axis=0).max() < 10 for rows in blocks)


def test_a_new_neighbour_on_the_surface_of_a_ball_is_in_it():
    """Around cities, where the points themselves must be found, and nothing else."""
    x = CASES["cities"].astype(np.float32)[:300]
    context = cx.contexts.knn(x, NEIGHBORS)
    found = context.reverse().at(x[:100])
    inside = np.zeros((100, 300), bool)
    inside[found.rows, found.columns] = True
    expected = (np.asarray(context.indices)[:, :, None] == np.arange(100)).any(axis=1).T
    np.testing.assert_array_equal(inside, expected)


def test_digits_that_float32_rounds_off_are_named():
    seconds = 1_700_000_000 + 37 * np.arange(60)[:, None]
    with jax.enable_x64(False), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cx.contexts.knn(seconds, 3)
        told = [str(w.message) for w in caught]
        assert any("column 0 of x varies by 6.4e+02 around" in text for text in told)
        caught.clear()
        moved = cx.contexts.knn((seconds - seconds[0]).astype(np.int16), 3)
        moved.at(np.array([[50.0]], np.float32))
        assert caught == []
