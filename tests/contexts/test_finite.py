"""Tables, pairs, labels, graphs, conditional laws and chains."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

import contexture_jax as cx
from contexture_jax.solvers import Status
from tests.conftest import X64
from tests.problems import CONTEXTS, holey_table, random_table, symmetric_weights
from tests.tolerances import MONTE_CARLO_SIGMAS, tol

DTYPE = np.float64 if X64 else np.float32
TABLE = holey_table(DTYPE)


def test_counts_are_normalised_and_integers_become_floating():
    context = cx.contexts.joint(np.array([[2, 1], [0, 5]]))
    np.testing.assert_allclose(context.table(), np.array([[2, 1], [0, 5]]) / 8)
    assert context.table().dtype == jnp.zeros(()).dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64] if X64 else [np.float32])
def test_a_floating_dtype_is_kept(dtype):
    assert cx.contexts.joint(TABLE.astype(dtype)).table().dtype == dtype
    assert cx.contexts.joint(TABLE.astype(jnp.bfloat16)).table().dtype == np.float32


@pytest.mark.parametrize(
    "make",
    [
        scipy.sparse.csr_matrix,
        scipy.sparse.coo_array,
        scipy.sparse.csc_array,
        lambda t: sparse.BCOO.fromdense(jnp.asarray(t)),
        lambda t: sparse.BCOO.fromdense(jnp.asarray(t), nse=100),
    ],
)
def test_sparse_tables_are_the_same_law(make):
    context = cx.contexts.joint(make(TABLE))
    assert isinstance(context, cx.contexts.SparseJoint)
    np.testing.assert_allclose(context.table(), TABLE, atol=tol(DTYPE))


def test_repeated_pairs_add_up():
    context = cx.contexts.pairs(
        [0, 0, 1, 0], [1, 1, 0, 1], [1.0, 2.0, 3.0, 2.0], (3, 2)
    )
    np.testing.assert_allclose(
        context.table(), np.array([[0, 5], [3, 0], [0, 0]]) / 8, rtol=1e-6
    )
    unweighted = cx.contexts.pairs([0, 0, 1], [1, 1, 0])
    np.testing.assert_allclose(unweighted.table(), [[0, 2 / 3], [1 / 3, 0]], rtol=1e-6)


def test_labels_may_be_any_integers():
    context = cx.contexts.labels([7, -2, 7, 30])
    expected = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 4
    np.testing.assert_allclose(context.table(), expected)
    np.testing.assert_array_equal(context.classes, [-2, 7, 30])
    op = cx.association_operator(context)
    np.testing.assert_allclose(op.as_matrix(), 4 * expected)


@pytest.mark.parametrize("jitted", [False, True])
def test_labels_of_64_bits_stay_whole_in_any_precision(jitted):
    for y in (
        np.array([2**32, 0, 2**32 + 1, -5, 0]),
        np.array([2**64 - 1, 2**63, 2**63 + 1, 2**63], np.uint64),
    ):
        context = cx.contexts.labels(y)
        if jitted:
            context = jax.jit(lambda c: c)(context)
        np.testing.assert_array_equal(context.classes, np.unique(y))
        np.testing.assert_array_equal(context.at(y).codes, context.codes)
        assert context.table().shape == (len(y), len(np.unique(y)))
    with pytest.raises(ValueError, match=r"must hold classes among .*; got -1"):
        context.at([-1])


SCALES = {"huge": 1e38, "tiny": 1e-40}


@pytest.mark.slow_cases("huge")
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_tables_whose_sums_leave_the_range_of_float32_are_the_same_laws(scale):
    weights = np.array([[3.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 3.0]])
    table = (weights * scale).astype(np.float32)
    atol = tol(np.float32) if scale > 1 else 1e-5  # subnormal numbers have few digits
    law = weights / weights.sum()
    rows = weights / weights.sum(axis=1, keepdims=True)
    p_x = table[:, 0]
    found = {
        "joint": (cx.contexts.joint(table), law),
        "sparse": (cx.contexts.joint(scipy.sparse.csr_array(table)), law),
        "graph": (cx.contexts.graph(table), law),
        "conditional": (
            cx.contexts.conditional(table, p_x),
            weights[:, :1] / weights[:, 0].sum() * rows,
        ),
        "neighbors": (
            cx.contexts.neighbors([[0, 1, 2]] * 3, weights=table),
            rows / 3,
        ),
        "at": (cx.contexts.joint(weights.astype(np.float32)).at(table), rows / 3),
        "rbf": (cx.contexts.rbf(np.zeros((3, 1), np.float32), 1.0, p_x), None),
    }
    for name, (context, expected) in found.items():
        if expected is None:
            expected = np.repeat(weights[:, :1] / weights[:, 0].sum() / 3, 3, axis=1)
        assert context.table().dtype == np.float32, name
        np.testing.assert_allclose(context.table(), expected, atol=atol, err_msg=name)


def test_the_law_of_a_table_is_differentiable_inside_a_trace():
    table = jnp.asarray(random_table(DTYPE)) * DTYPE(1e30)

    def corner(t: jax.Array) -> jax.Array:
        return cx.contexts.joint(t).table()[0, 0]

    slope = jax.jit(jax.grad(corner))(table) * table.sum()
    law = np.asarray(table / table.sum())
    expected = -law[0, 0] * np.ones(table.shape)
    expected[0, 0] += 1
    np.testing.assert_allclose(slope, expected, atol=tol(DTYPE, size=10))


def _with(table: np.ndarray, value: float, *places: tuple[int, int]) -> np.ndarray:
    changed = table.copy()
    for place in places:
        changed[place] = value
    return changed


FULL = symmetric_weights(DTYPE) + DTYPE(1)
NO_LAW = {
    "a negative entry": (cx.contexts.joint, _with(FULL, -0.5, (1, 2))),
    "no number": (cx.contexts.joint, _with(FULL, np.nan, (1, 2))),
    "no mass": (cx.contexts.joint, 0 * FULL),
    "a negative weight": (cx.contexts.graph, _with(FULL, -0.5, (1, 2), (2, 1))),
    "one direction": (cx.contexts.graph, _with(FULL, 7.0, (1, 2))),
    "one direction, lazy": (
        lambda w: cx.contexts.graph(w, lazy=True),
        _with(FULL, 7.0, (1, 2)),
    ),
    "a negative share": (cx.contexts.conditional, _with(FULL, -0.5, (1, 2))),
    "a row without mass": (
        cx.contexts.conditional,
        _with(FULL, 0.0, *((3, i) for i in range(len(FULL)))),
    ),
    "a negative p_x": (
        lambda p_x: cx.contexts.conditional(FULL, p_x),
        _with(FULL, -1.0, (0, 0))[0],
    ),
    "p_x without mass": (lambda p_x: cx.contexts.conditional(FULL, p_x), 0 * FULL[0]),
    "p_x of another sum": (
        lambda p_x: cx.operators.low_rank_operator(
            FULL, FULL, p_x, FULL[0] / FULL[0].sum()
        ),
        FULL[0],
    ),
}


@jax.jit
def _status(op: cx.AssociationOperator, key: jax.Array) -> tuple[jax.Array, Any]:
    result, info = cx.svd(op, 2, key=key)
    return result.singular_values, info.status


@pytest.mark.parametrize("name", NO_LAW)
def test_what_a_trace_cannot_refuse_is_no_law(name, key):
    make, given = NO_LAW[name]
    with pytest.raises(ValueError, match="must"):
        make(given)

    def operator(given: jax.Array) -> cx.AssociationOperator:
        made = make(given)
        is_context = isinstance(made, cx.Context)
        return cx.association_operator(made) if is_context else made

    values, status = _status(jax.jit(operator)(given), key)
    assert list(Status)[int(status)] == "non-finite"
    assert not np.isfinite(values).any()


@pytest.mark.parametrize(
    "name", ["joint with zeros", "conditional", "rbf", "attention"]
)
def test_the_dual_kernel_is_that_of_the_table(name):
    context = CONTEXTS[name](DTYPE)
    table = np.asarray(context.table(), np.float64)
    p_x, p_a = table.sum(axis=1), table.sum(axis=0)
    rows = np.divide(
        table, p_x[:, None], out=np.zeros_like(table), where=p_x[:, None] > 0
    )
    scaled = np.divide(rows, p_a, out=np.zeros_like(rows), where=p_a > 0)
    index = jnp.arange(len(table))
    np.testing.assert_allclose(
        context.kernel(index, index[:3]),
        scaled @ rows[:3].T,
        rtol=tol(DTYPE, factor=99),
    )


def test_laws_of_many_neighbours_are_laid_out_without_a_number_for_each_slot():
    x = np.arange(40.0, dtype=np.float32)[:, None]
    near = cx.contexts.knn(x, 20)
    labels = cx.contexts.labels(np.arange(40) % 3)
    for context in (near, cx.contexts.convex_combination([near, labels])):
        for law in (lambda c=context: c.table(), lambda c=context: c.kernel([0], [1])):
            text = jax.jit(law).lower().as_text()
            sizes = re.findall(r"tensor<((?:\d+x)+)", text)
            largest = max(np.prod([int(n) for n in s[:-1].split("x")]) for s in sizes)
            assert largest <= 40 * (40 + 3)


def test_the_dual_kernel_of_labels_is_one_over_the_share_of_the_class():
    context = cx.contexts.labels([1, 1, 4])
    np.testing.assert_allclose(
        context.kernel(jnp.arange(3), jnp.arange(3)),
        [[1.5, 1.5, 0], [1.5, 1.5, 0], [0, 0, 3]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ["joint", "knn", "rbf", "attention", "neighbors"])
def test_samples_follow_the_conditional_law(name, key):
    context = CONTEXTS[name](DTYPE)
    table = np.asarray(context.table())
    law = table[1] / table[1].sum()
    draws = 4000
    a = np.asarray(context.sample(key, jnp.full((draws,), 1)))
    share = np.bincount(a, minlength=len(law)) / draws
    sem = np.sqrt(law * (1 - law) / draws)
    assert (np.abs(share - law) <= MONTE_CARLO_SIGMAS * sem + 1e-12).all()


@pytest.mark.parametrize("name", ["joint", "rbf", "attention"])
def test_log_densities_are_logs_of_the_conditional_law(name):
    context = CONTEXTS[name](DTYPE)
    table = np.asarray(context.table(), np.float64)
    law = table / table.sum(axis=1, keepdims=True)
    x, a = jnp.array([0, 3, 5]), jnp.array([1, 2, 7])
    np.testing.assert_allclose(
        context.log_density(a, x), np.log(law[x, a]), atol=tol(DTYPE, factor=500)
    )


@pytest.mark.slow_cases("attention")
@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_reversing_transposes_the_law(name):
    context = CONTEXTS[name](DTYPE)
    np.testing.assert_allclose(
        context.reverse().table(), context.table().T, atol=tol(DTYPE)
    )
    np.testing.assert_allclose(
        context.reverse().reverse().table(), context.table(), atol=tol(DTYPE)
    )


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array])
def test_a_graph_is_its_random_walk_and_the_lazy_one_waits_half_the_time(make):
    weights = symmetric_weights(DTYPE)
    law = weights / weights.sum()
    np.testing.assert_allclose(
        cx.contexts.graph(make(weights)).table(), law, atol=tol(DTYPE)
    )
    np.testing.assert_allclose(
        cx.contexts.graph(make(weights), lazy=True).table(),
        (law + np.diag(law.sum(axis=1))) / 2,
        atol=tol(DTYPE),
    )


def test_a_bipartite_graph_has_a_one_that_the_lazy_walk_ranks_last(key):
    """theory.md §0 E2: the eigenvalue −1 counts as s = 1."""
    sides = np.zeros((5, 5), DTYPE)
    sides[:2, 2:] = 1
    sides += sides.T
    walk = cx.association_operator(cx.contexts.graph(sides))
    lazy = cx.association_operator(cx.contexts.graph(sides, lazy=True))
    walk_values = cx.svd(walk, 4, key=key)[0].singular_values
    lazy_values = cx.svd(lazy, 4, key=key)[0].singular_values
    np.testing.assert_allclose(walk_values, [1, 0, 0, 0], atol=tol(DTYPE))
    np.testing.assert_allclose(lazy_values, [0.5, 0.5, 0.5, 0], atol=tol(DTYPE))


def test_a_chain_starts_at_its_stationary_law():
    transition = np.array([[0.9, 0.1, 0], [0.2, 0.5, 0.3], [0, 0.4, 0.6]])
    table = np.asarray(cx.contexts.markov(transition).table())
    np.testing.assert_allclose(table.sum(axis=0), table.sum(axis=1), atol=tol(DTYPE))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: cx.contexts.joint([[1.0, -1.0]]),
            ValueError,
            r"got -1.0 at table\[0, 1",
        ),
        (lambda: cx.contexts.joint([[1.0, np.nan]]), ValueError, "finite and non-neg"),
        (lambda: cx.contexts.joint([[1.0, np.inf]]), ValueError, "finite and non-neg"),
        (lambda: cx.contexts.joint([[0.0, 0.0]]), ValueError, "positive total mass"),
        (
            lambda: cx.contexts.joint([1.0, 2.0]),
            ValueError,
            r"2 dimension.*shape \(2,\)",
        ),
        (lambda: cx.contexts.joint(np.ones((0, 3))), ValueError, "must not be empty"),
        (lambda: cx.contexts.joint([["a", "b"]]), TypeError, "must hold real numbers"),
        (
            lambda: cx.contexts.joint(np.eye(2) * 1j),
            TypeError,
            "real numbers; got dtype",
        ),
        (
            lambda: cx.contexts.joint(scipy.sparse.csr_array([[0.0, -2.0]])),
            ValueError,
            r"table must be finite and non-negative; got -2.0 at table\[0, 1\]",
        ),
        (
            lambda: cx.contexts.joint(
                sparse.BCOO.fromdense(jnp.array([[1.0, 0.0], [2.0, -3.0]]))
            ),
            ValueError,
            r"got -3.0 at table\[1, 1\] \(1 bad value\)",
        ),
        (
            lambda: jax.eval_shape(
                lambda t: cx.contexts.joint(t).table(),
                sparse.BCOO.fromdense(jnp.eye(2)),
            ),
            TypeError,
            r"a BCOO \(table\) is laid out on the host .* got a tracer",
        ),
        (
            lambda: cx.contexts.joint([[1, 2], [3]]),
            ValueError,
            "table must be an array; got nested sequences of different lengths",
        ),
        (
            lambda: cx.contexts.rbf(np.ones((2, 2)), -1.0),
            ValueError,
            "gamma must be positive; got -1.0$",
        ),
        (
            lambda: cx.contexts.joint(scipy.sparse.csr_array((3, 3))),
            ValueError,
            "positive total mass",
        ),
        (
            lambda: cx.contexts.pairs([0, 1], [0]),
            ValueError,
            "same length; got 2 and 1",
        ),
        (
            lambda: cx.contexts.pairs([0.5], [0]),
            TypeError,
            "x_index must hold integers",
        ),
        (lambda: cx.contexts.pairs([], []), TypeError, "must hold integers"),
        (
            lambda: cx.contexts.pairs([0, -1], [0, 1]),
            ValueError,
            r"x_index must be 0 or more; got -1 at x_index\[1\]",
        ),
        (
            lambda: cx.contexts.pairs([3], [0], shape=(2, 2)),
            ValueError,
            "x_index must be between 0 and 1; got 3",
        ),
        (
            lambda: cx.contexts.pairs([0], [0], [-1.0]),
            ValueError,
            "weights must be finite and non-negative",
        ),
        (
            lambda: cx.contexts.pairs([0, 1], [0, 1], [1.0]),
            ValueError,
            r"weights must have shape \(2,\)",
        ),
        (
            lambda: cx.contexts.labels([0.0, 1.0]),
            TypeError,
            "y must hold integer classes",
        ),
        (lambda: cx.contexts.labels(np.zeros((2, 2), int)), ValueError, "1 dimension"),
        (
            lambda: cx.contexts.graph(np.ones((2, 3))),
            ValueError,
            r"square; got shape \(2",
        ),
        (
            lambda: cx.contexts.graph([[0.0, 1.0], [0.5, 0.0]]),
            ValueError,
            r"symmetric.*difference.*joint\(W\)",
        ),
        (
            lambda: cx.contexts.graph(scipy.sparse.csr_array([[0.0, 1.0], [0.0, 0.0]])),
            ValueError,
            "in one direction only",
        ),
        (
            lambda: cx.contexts.conditional([[1.0, 1.0], [0.0, 0.0]]),
            ValueError,
            r"positive mass in every row; got 0.0 at matrix\[1\]",
        ),
        (
            lambda: cx.contexts.conditional(np.ones((2, 2)), p_x=[1.0, -1.0]),
            ValueError,
            "p_x must be finite and non-negative",
        ),
        (
            lambda: cx.contexts.markov([[0.5, 0.4], [0.5, 0.5]]),
            ValueError,
            "row sums of transition must be 1",
        ),
        (
            lambda: cx.contexts.markov(np.eye(2)),
            ValueError,
            "must have one stationary law",
        ),
    ],
)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(
    call, error, message
):
    with pytest.raises(error, match=message):
        call()


def test_a_missing_capability_is_named_beside_those_that_exist():
    context = cx.contexts.labels([0, 1])
    with pytest.raises(cx.CapabilityError, match=r"Labels context has no `spectrum`"):
        context.spectrum(1)
    assert set(context.capabilities) == {
        "sample",
        "log_density",
        "table",
        "kernel",
        "at",
        "reverse",
    }
    rows = jnp.array([1, 0, 1])
    np.testing.assert_array_equal(context.sample(jax.random.key(0), rows), rows)
    np.testing.assert_array_equal(
        context.log_density(jnp.array([1, 1, 1]), rows), [0.0, -np.inf, 0.0]
    )


def test_new_rows_that_the_host_looks_up_are_told_inside_a_trace():
    table = scipy.sparse.csr_array(FULL)
    made = (cx.contexts.labels([0, 1, 2]), cx.contexts.joint(table))
    for context in (*made, cx.contexts.graph(table)):
        with pytest.raises(TypeError, match="laid out on the host"):
            jax.eval_shape(lambda c: c.at(np.arange(2)), context)
        with pytest.raises(TypeError, match="laid out on the host"):
            jax.eval_shape(context.at, jnp.arange(2))


def test_a_dense_context_is_a_pytree_that_jit_takes():
    context = cx.contexts.joint(random_table(DTYPE))
    total = jax.jit(lambda c: cx.association_operator(c).p_x.sum())(context)
    np.testing.assert_allclose(total, 1, atol=tol(DTYPE))
