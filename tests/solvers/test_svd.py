"""The front door: certificates, statuses, breakdowns, refusals."""

import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.solvers import Method
from tests import oracle
from tests.conftest import X64
from tests.problems import random_table
from tests.tolerances import MONTE_CARLO_SIGMAS, promised, tol

DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(3)
METHODS: list[Method] = ["exact", "randomized", "krylov", "nystrom"]


@pytest.fixture(scope="module")
def table():
    return random_table(DTYPE)


@pytest.fixture(scope="module")
def op(table):
    return cx.association_operator(cx.contexts.joint(table))


@pytest.fixture(scope="module")
def large():
    """Two thousand rows: too large for `auto` to be exact."""
    rng = np.random.default_rng(0)
    return cx.association_operator(
        cx.contexts.neighbors(rng.integers(0, 1500, (2000, 6)), num_points=1500)
    )


@pytest.mark.fast("randomized")
@pytest.mark.parametrize("method", METHODS)
def test_residuals_are_those_of_the_functions_returned(op, method):
    result, info = cx.svd(op, 3, key=KEY, method=method)
    s, left, right = result
    forward = op.matmat(right) - left * s[None, :]
    backward = op.rmatmat(left) - right * s[None, :]
    left_gap = np.sqrt(op.p_x @ forward**2)
    right_gap = np.sqrt(op.p_a @ backward**2)
    atol = tol(DTYPE, factor=100)
    np.testing.assert_allclose(info.left_residuals, left_gap, atol=atol)
    np.testing.assert_allclose(info.right_residuals, right_gap, atol=atol)
    np.testing.assert_array_equal(
        info.residuals, np.maximum(info.left_residuals, info.right_residuals)
    )


@pytest.mark.slow_cases("exact", "nystrom")
@pytest.mark.parametrize("method", METHODS)
def test_energies_are_exact_where_the_storage_knows_its_norm(op, table, method):
    result, info = cx.svd(op, 3, key=KEY, method=method)
    s = oracle.singular_values(table)
    atol = tol(DTYPE, factor=100)
    np.testing.assert_allclose(info.total_energy, (s**2).sum(), atol=atol)
    np.testing.assert_allclose(info.tail_energy, (s[3:] ** 2).sum(), atol=atol)
    assert info.tail_error == 0
    assert info.total_energy >= (result.singular_values**2).sum()


@pytest.mark.slow
def test_energies_are_estimated_with_an_error_elsewhere(op):
    both = cx.operators.convex_combination([op, op], [0.5, 0.5])
    _, exact = cx.svd(op, 2, key=KEY)
    _, info = cx.svd(both, 2, key=KEY)
    assert info.tail_error > 0
    gap = abs(info.total_energy - exact.total_energy)
    assert gap <= MONTE_CARLO_SIGMAS * info.tail_error


@pytest.mark.slow
def test_a_looser_tolerance_takes_fewer_passes(large):
    passes = {}
    for goal in (1e-1, 1e-4):
        result, info = cx.svd(large, 4, key=KEY, method="randomized", tol=goal)
        assert info.status == "converged"
        assert info.residuals.max() <= goal * result.singular_values[0]
        passes[goal] = float(info.num_passes)
    assert passes[1e-1] < passes[1e-4]


@pytest.mark.slow
def test_too_few_passes_say_so_and_what_to_do(large):
    _, info = cx.svd(large, 4, key=KEY, method="randomized", max_passes=1)
    assert info.status == "max passes"
    assert "raise max_passes" in cx.Status.MAX_PASSES.advice
    assert info.num_passes == 1.5


@pytest.mark.slow
def test_acceleration_takes_fewer_passes_on_a_slow_spectrum():
    """Powers need about log(1 / tol) / log(1 / 0.9²) passes, Chebyshev their root."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 120)))[0] for n in (300, 200))
    a = jnp.asarray(u * 0.985 ** np.arange(120) @ v.T, DTYPE)
    run = {"rank": 10, "key": KEY, "num_oversamples": 6, "method": "randomized"}
    result, fast = cx.solvers.truncated_svd(a, tol=1e-4, **run)
    assert fast.status == "converged"
    expected = 0.985 ** np.arange(10)
    np.testing.assert_allclose(result.singular_values, expected, rtol=1e-4)
    _, slow = cx.solvers.truncated_svd(
        a, **run, num_power_iterations=2 * int(fast.num_passes)
    )
    assert slow.residuals.max() > fast.residuals.max()


@pytest.mark.slow
def test_a_coarse_range_finder_leaves_the_result_as_exact():
    low = jnp.float32 if X64 else jnp.bfloat16
    op = cx.association_operator(cx.contexts.joint(random_table(DTYPE)))
    expected, _ = cx.svd(op, 4, key=KEY, method="exact")
    run = {"key": KEY, "method": "randomized", "num_oversamples": 2}
    plain, info = cx.svd(op, 4, **run)
    mixed, mixed_info = cx.svd(op, 4, **run, range_dtype=low)
    assert info.status == mixed_info.status == "converged"
    assert "range finder" in str(mixed_info.reason)
    for result in (plain, mixed):
        np.testing.assert_allclose(
            result.singular_values, expected.singular_values, atol=promised(DTYPE)
        )
    assert mixed.left.dtype == op.dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"range_dtype": DTYPE}, "must be a floating dtype coarser than"),
        ({"range_dtype": jnp.int8}, "must be a floating dtype coarser than"),
        ({"range_dtype": jnp.bfloat16, "method": "krylov"}, "goes with method"),
        ({"range_dtype": jnp.bfloat16, "num_power_iterations": 1}, "goes with method"),
    ],
)
def test_range_dtypes_that_make_no_sense_are_refused(op, arguments, message):
    with pytest.raises(ValueError, match=message):
        cx.svd(op, 2, key=KEY, **arguments)


@pytest.mark.slow
def test_a_tie_at_the_cut_does_not_stall_the_iteration():
    """Ten equal values, of which the block holds six: all it keeps are theirs."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 120)))[0] for n in (300, 200))
    s = np.where(np.arange(120) < 10, 1.0, 0.5)
    a = jnp.asarray(u * s @ v.T, DTYPE)
    result, info = cx.solvers.truncated_svd(
        a, 6, key=KEY, num_oversamples=0, method="randomized"
    )
    assert info.status == "converged"
    assert info.num_passes < 60
    np.testing.assert_allclose(result.singular_values, np.ones(6), rtol=1e-5)


def test_auto_says_what_it_chose_and_why(op, large):
    _, info = cx.svd(op, 2, key=KEY)
    assert info.method == "exact"
    assert "2 triples are a large part of the 8" in str(info.reason)
    _, info = cx.svd(large, 4, key=KEY, tol=1e-1)
    assert info.method == "randomized"
    assert "2000 × 1500" in str(info.reason)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", [2, 4])
def test_labels_have_ones_then_zeros_and_no_nan(method, rank):
    """More triples than the rank: the rest is 0, and orthonormal all the same."""
    labels = cx.contexts.labels(np.array([0, 0, 2, 2, 2, 7] * 3))
    op = cx.operators.convex_combination([cx.association_operator(labels)] * 2)
    result, info = cx.svd(op, rank, key=KEY, method=method)
    expected = [1, 1, 0, 0][:rank]
    atol = tol(op.dtype, factor=100)
    np.testing.assert_allclose(result.singular_values, expected, atol=atol)
    assert info.status == ("converged" if rank == 2 else "rank deficient")
    for functions, law in ((result.left, op.p_x), (result.right, op.p_a)):
        gram = functions.T @ (law[:, None] * functions)
        np.testing.assert_allclose(gram, np.eye(rank), atol=atol)
        np.testing.assert_allclose(law @ functions, 0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_independence_gives_zeros_and_no_nan(method):
    op = cx.association_operator(cx.contexts.joint(np.ones((9, 7), DTYPE)))
    result, info = cx.svd(op, 3, key=KEY, method=method)
    np.testing.assert_allclose(result.singular_values, 0, atol=tol(DTYPE))
    assert np.isfinite(result.left).all()
    assert info.status == "rank deficient"
    np.testing.assert_allclose(info.total_energy, 0, atol=tol(DTYPE, factor=100))


@pytest.mark.fast("randomized")
@pytest.mark.parametrize("method", METHODS)
def test_nan_in_an_operator_is_reported(op, method):
    broken = cx.operators.DenseOperator(op.joint.at[0, 0].set(jnp.nan), op.p_x, op.p_a)
    _, info = cx.svd(broken, 2, key=KEY, method=method, max_passes=5)
    assert info.status == "non-finite"


@pytest.mark.slow
def test_the_largest_entry_of_each_left_function_is_positive(op):
    for method in METHODS:
        result, _ = cx.svd(op, 4, key=KEY, method=method)
        weighted = np.sqrt(np.asarray(op.p_x))[:, None] * np.asarray(result.left)
        largest = np.abs(weighted).argmax(axis=0)
        assert (weighted[largest, np.arange(4)] > 0).all()


@pytest.mark.slow
def test_the_same_key_gives_the_same_result_and_another_the_same_span(large):
    one, _ = cx.svd(large, 4, key=KEY, method="randomized", tol=1e-3)
    two, _ = cx.svd(large, 4, key=KEY, method="randomized", tol=1e-3)
    np.testing.assert_array_equal(one.left, two.left)
    other, _ = cx.svd(large, 4, key=jax.random.key(4), method="randomized", tol=1e-3)
    np.testing.assert_allclose(one.singular_values, other.singular_values, atol=1e-4)


def test_a_second_operator_of_the_same_shape_does_not_compile_again(caplog):
    # A shape that no other test has: what they compiled must not count here.
    one, other = (
        cx.association_operator(cx.contexts.joint(random_table(DTYPE, seed=seed)[:7]))
        for seed in (4, 5)
    )
    cx.svd(one, 2, key=KEY, method="randomized")

    def num_compiled(num_oversamples):
        key = jax.random.key(9)
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            run = {"method": "randomized", "num_oversamples": num_oversamples}
            cx.svd(other, 2, key=key, **run)
        return sum("Compiling" in record.getMessage() for record in caplog.records)

    assert num_compiled(None) == 0
    assert num_compiled(1) >= 1  # the log does tell of compilations


def test_it_works_inside_jit_with_a_status_code(op):
    def spectrum(op, key):
        result, info = cx.svd(op, 2, key=key)
        return result.singular_values, info.status

    values, code = jax.jit(spectrum)(op, KEY)
    expected, _ = cx.svd(op, 2, key=KEY)
    np.testing.assert_allclose(
        values, expected.singular_values, atol=tol(DTYPE, factor=20)
    )
    assert list(cx.Status)[int(code)] == "converged"


@pytest.mark.slow_cases("shape1", "shape2")
@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (1, 1)])
def test_one_input_or_one_context_value_has_only_the_trivial_value(shape):
    n, m = shape
    said = r"the only singular value here is the trivial 1.* \(shape \d × \d\); got"
    for context in (
        cx.contexts.attention(np.ones((n, 2), DTYPE), np.ones((m, 2), DTYPE)),
        cx.contexts.joint(np.ones(shape, DTYPE)),
    ):
        op = cx.association_operator(context)
        np.testing.assert_allclose(op.as_matrix().sum(axis=1), 1, rtol=tol(DTYPE))
        with pytest.raises(ValueError, match=said):
            cx.svd(op, 1, key=KEY)


def test_results_and_infos_are_trees_with_words(op):
    """Out of `jit` and `vmap`, and through a file."""
    _, info = jax.jit(lambda op, key: cx.svd(op, 2, key=key))(op, KEY)
    assert info.status == "converged"
    assert info.method == "exact"
    assert "shape" in info.reason or info.reason
    keys = jax.random.split(KEY, 3)
    results, infos = jax.vmap(lambda key: cx.svd(op, 2, key=key))(keys)
    assert results.singular_values.shape == (3, 2)
    assert list(infos.status) == ["converged"] * 3
    again = pickle.loads(pickle.dumps(jax.device_get(info)))
    assert again.status is info.status
    assert again.reason == info.reason
    np.testing.assert_array_equal(again.residuals, info.residuals)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be at least 1; got 0"),
        ({"rank": 9}, ValueError, "rank must be at most 8, the number of singular"),
        ({"rank": True}, TypeError, "rank must be an integer"),
        ({"tol": -1.0}, ValueError, "tol must be above 0 and below 1; got -1.0$"),
        (
            {"tol": float("nan")},
            ValueError,
            "tol must be above 0 and below 1; got nan$",
        ),
        ({"max_passes": 0}, ValueError, "max_passes must be at least 1"),
        ({"num_oversamples": -1}, ValueError, "num_oversamples must be at least 0"),
        ({"key": jnp.zeros(3)}, TypeError, "key must be a random key"),
        (
            {"num_power_iterations": 2, "method": "krylov"},
            ValueError,
            "num_power_iterations fixes the passes of the randomized method",
        ),
        (
            {"block_size": 2},
            ValueError,
            "block_size goes with method=\"krylov\"; got 'auto'",
        ),
        (
            {"block_size": 0, "method": "krylov"},
            ValueError,
            "block_size must be at least 1; got 0",
        ),
        (
            {"block_size": 1, "method": "krylov", "max_passes": 1},
            ValueError,
            "max_passes × block_size must be at least the rank, 2; got 1 × 1",
        ),
    ],
)
def test_bad_arguments_are_refused(op, arguments, error, message):
    with pytest.raises(error, match=message):
        cx.svd(**{"op": op, "rank": 2, "key": KEY, **arguments})


@pytest.mark.slow
def test_wrong_types_are_refused_without_the_type_checker_of_the_tests():
    """Under pytest beartype complains first, which users do not have."""
    program = """
import jax, numpy as np, contexture_jax as cx
op = cx.association_operator(cx.contexts.joint(np.ones((3, 4))))
good = {"op": op, "rank": 1, "key": jax.random.key(0)}
for bad in (
    {"rank": 2.0}, {"method": "qr"}, {"key": 3}, {"op": np.eye(3)}, {"tol": "x"},
    {"tol": [1e-3]}, {"key": jax.random.split(jax.random.key(0))},
):
    try:
        cx.svd(**{**good, **bad})
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
context = cx.contexts.joint(np.ones((3, 4)))
result, _ = cx.svd(op, 1, key=jax.random.key(0))
for call in (
    lambda: cx.association_operator(context, storage="csr"),
    lambda: cx.association_operator(np.eye(3)),
    lambda: cx.extend(result, context, np.arange(3), side="both"),
    lambda: cx.contexts.graph(np.ones((2, 2)), lazy="x"),
    lambda: cx.evaluation.chi_squared(op),
    lambda: cx.evaluation.effective_rank(op),
    lambda: op.cost("a"),
    lambda: op.matmat(np.ones(4)),
):
    try:
        call()
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "TypeError rank must be an integer; got 2.0"
    assert lines[1].startswith("ValueError method must be one of auto, exact")
    assert lines[2].startswith("TypeError key must be a random key")
    assert lines[3].startswith("TypeError op must be an operator")
    assert lines[4] == "TypeError tol must be one number; got 'x'"
    assert lines[5] == "TypeError tol must be one number; got [0.001]"
    assert lines[6].startswith("TypeError key must be one random key; got a batch of")
    assert lines[7].startswith('ValueError storage must be None, "dense" or "sparse"')
    assert lines[8].startswith("TypeError context must be a Context")
    assert lines[9].startswith('ValueError side must be "left" or "right"')
    assert lines[10] == "TypeError lazy must be True or False; got 'x'"
    assert lines[11].startswith("TypeError singular_values must be numbers, as svd(op")
    assert lines[11].endswith("got a DenseOperator")
    assert lines[12].endswith("must hold real numbers; got DenseOperator")
    assert lines[13] == "TypeError r must be an integer; got 'a'"
    assert lines[14].startswith("ValueError g must have shape (4, r); got shape (4,);")
