"""Sparse layouts: any rows are multiplied right, and their shapes follow from sizes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import contexture_jax as cx
from contexture_jax.kernels import (
    Bucket,
    make_slots,
    near_matmat,
    slots_matmat,
    sum_slots,
)
from contexture_jax.operators.sharded._slots import shard_entries
from tests.tolerances import tol

RNG = np.random.default_rng(4)
N, M, ENTRIES = 150, 1200, 1100
MULTIPLY = jax.jit(slots_matmat)
MESH = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))


def zipf(rng: np.random.Generator, high: int, size: int) -> np.ndarray:
    law = 1.0 / np.arange(1, high + 1)
    return rng.choice(high, size, p=law / law.sum())


ROWS = {
    "even": RNG.integers(0, N, ENTRIES),
    "zipf": zipf(RNG, N, ENTRIES),
    "one hub": np.concatenate([np.full(ENTRIES - 100, 7), np.arange(100)]),
    "all in the last": np.full(ENTRIES, N - 1),
    "most empty": RNG.integers(0, 3, ENTRIES) * 40,
}


def dense_product(rows, columns, weights, x, num_rows):
    shape = (num_rows, len(x))
    matrix = scipy.sparse.coo_matrix((weights, (rows, columns)), shape)
    return matrix.tocsr().astype(np.float64) @ x


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_any_degrees_are_multiplied_and_differentiated(name):
    rows, columns = np.sort(ROWS[name]), RNG.integers(0, M, ENTRIES)
    weights = RNG.normal(size=ENTRIES).astype(np.float32)
    x, f = (RNG.normal(size=(k, 2)).astype(np.float32) for k in (M, N))
    slots = make_slots(rows, columns, weights, N)
    atol = tol(np.float32, factor=100)
    expected = dense_product(rows, columns, weights, x, N)
    np.testing.assert_allclose(MULTIPLY(slots, x), expected, atol=atol)
    near = near_matmat(jax.tree.map(np.asarray, slots), (N, M), np.float32)
    np.testing.assert_allclose(near(x), expected, atol=atol)

    @jax.jit
    @jax.grad
    def gradient(arguments):
        weights, x = arguments
        return (f * slots_matmat(slots._replace(weights=weights), x)).sum()

    of_weights, of_x = gradient((slots.weights, jnp.asarray(x)))
    expected = dense_product(columns, rows, weights, f, M)
    np.testing.assert_allclose(of_x, expected, atol=atol)
    # Along the weights themselves: the product is linear in them.
    along = (np.asarray(of_weights) * np.asarray(slots.weights)).sum()
    total = (f * dense_product(rows, columns, weights, x, N)).sum()
    np.testing.assert_allclose(along, total, rtol=2e-6)


def test_sums_are_added_in_vectors_whatever_the_number_of_columns():
    """XLA's scatter on a CPU goes number by number where 16 do not divide its rows."""
    rows, columns = np.sort(ROWS["zipf"]), RNG.integers(0, M, ENTRIES)
    # Whole numbers, whose sums do not round.
    weights, x = (RNG.integers(-9, 9, k).astype(np.float32) for k in (ENTRIES, (M, 18)))
    slots = make_slots(rows, columns, weights, N)
    lowered = MULTIPLY.lower(slots, x)
    assert added_at_a_time(lowered, N) == ["16", "2"]
    expected = dense_product(rows, columns, weights, x, N)
    np.testing.assert_array_equal(lowered.compile()(slots, x), expected)
    # Where a product is pulled back to its block, and over devices.
    bucket = Bucket(jax.device_put(np.zeros((3, N), np.int32)), None)
    for multiply, layout in ((slots_matmat, slots), (sum_slots, bucket)):
        pull_back = jax.grad(lambda x, of=multiply, w=layout: of(w, x).sum())
        assert added_at_a_time(jax.jit(pull_back).lower(x), M) == ["16", "2"]
    op = shard_entries(
        rows, columns, np.full(ENTRIES, 1 / ENTRIES, np.float32), (N, M), MESH, "x"
    )
    # Beside the signature of what each device does.
    assert {*added_at_a_time(jax.jit(op.matmat).lower(x), N)} == {"16", "2", "18"}


def added_at_a_time(lowered: jax.stages.Lowered, num_rows: int) -> list[str]:
    """Columns of what scatters of a program add to 18 columns of so many rows."""
    return re.findall(rf"x(\d+)xf32>\) -> tensor<{num_rows}x18xf32>", lowered.as_text())


@pytest.mark.parametrize(("num_rows", "count"), [(1, 0), (1, 1), (5, 0), (1, 700)])
def test_small_and_empty_matrices(num_rows, count):
    rows, columns = np.zeros(count, np.int64), np.arange(count)
    weights = np.ones(count, np.float32)
    x = RNG.normal(size=(max(count, 1), 2)).astype(np.float32)
    found = slots_matmat(make_slots(rows, columns, weights, num_rows), jnp.asarray(x))
    expected = dense_product(rows, columns, weights, x, num_rows)
    np.testing.assert_allclose(found, expected, atol=tol(np.float32, factor=100))


def test_padding_is_bounded_whatever_the_degrees():
    for n, count in ((200_000, 5_000_000), (20_000, 500_000), (2_000, 60_000)):
        for rows in (np.zeros(count, np.int64), np.sort(zipf(RNG, n, count))):
            weights = np.ones(count, np.float32)
            slots = make_slots(rows, np.zeros(count, np.int64), weights, n)
            assert slots.indices.size <= 1.4 * count


def test_slots_hold_little_but_entries():
    n, count = 2_000, 50_000
    weights, columns = np.ones(count, np.float32), np.zeros(count, np.int64)
    for rows in (np.arange(count) % n, RNG.integers(0, n, count), zipf(RNG, n, count)):
        slots = make_slots(np.sort(rows), columns, weights, n)
        assert slots.starts[-1] <= 1.22 * count


def table(kind: str, seed: int) -> cx.AssociationOperator:
    """Of one size and number of entries, with even or uneven rows and columns."""
    rng = np.random.default_rng(seed)
    n, m, count = 90, 70, 600
    law = np.outer(*(1.0 / np.arange(1, k + 1) ** (kind == "zipf") for k in (n, m)))
    places = rng.choice(n * m, count, replace=False, p=law.ravel() / law.sum())
    weights = np.full(count, 1.0 / count, np.float32)
    return cx.operators.sparse_operator(places // m, places % m, weights, (n, m))


def graph(kind: str, seed: int) -> cx.AssociationOperator:
    """Lists of ten neighbours, with hubs or without."""
    rng = np.random.default_rng(seed)
    law = 1.0 / np.arange(1, 81) ** (kind == "zipf")
    lists = [rng.choice(80, 10, replace=False, p=law / law.sum()) for _ in range(80)]
    uniform = np.full(80, 1 / 80, np.float32)
    return cx.operators.fixed_degree_operator(np.stack(lists), None, uniform, 80)


@pytest.mark.parametrize("make", [table, graph])
def test_other_data_of_the_same_sizes_compile_nothing(make, caplog):
    def use(kind: str, seed: int) -> int:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            op = make(kind, seed)
            op.matmat(np.ones((op.shape[1], 3), np.float32))
            op.rmatmat(np.ones((op.shape[0], 3), np.float32))
        return sum("Finished XLA compilation" in m for m in caplog.messages)

    assert use("even", 0) > 0
    assert use("even", 1) == 0
    assert use("zipf", 2) == 0


@pytest.mark.parametrize(
    "kind", ["table", pytest.param("neighbours", marks=pytest.mark.slow)]
)
def test_a_certificate_outside_a_trace_compiles_no_product(kind, caplog):
    key, x = jax.random.key(0), RNG.normal(size=(90, 3)).astype(np.float32)
    counts = scipy.sparse.csr_array(RNG.poisson(0.2, (90, 70)).astype(np.float32))
    context = (
        cx.contexts.knn(x, 9) if kind == "neighbours" else cx.contexts.joint(counts)
    )
    op = cx.association_operator(context)
    result, info = cx.svd(op, 3, key=key, method="exact")
    inside = jax.jit(lambda op: cx.solvers.certify(result, info, op, key=key))(op)
    caplog.clear()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        outside = cx.solvers.certify(result, info, op, key=key)
    assert not [m for m in caplog.messages if "XLA compilation of jit(_product" in m]
    np.testing.assert_allclose(outside.proved.upper, inside.proved.upper, rtol=1e-3)
