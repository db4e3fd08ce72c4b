import functools
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import evaluation
from contexture_jax.evaluation._common import map_blocks
from tests.conftest import X64
from tests.evaluation.finite import (
    Finite,
    finite,
    flip,
    random_context,
    with_an_empty_row,
)
from tests.tolerances import monte_carlo, tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

CONTEXT = random_context(4)
TIGHT = tol(float, factor=10, size=100)

# Compiled, since eager calls compile each operation; errors are tested eagerly.
expected_kernel_deviation = jax.jit(evaluation.expected_kernel_deviation)
kernel_diagonal = jax.jit(evaluation.kernel_diagonal)
kappa_squared = jax.jit(evaluation.kappa_squared)
lipschitz = jax.jit(evaluation.lipschitz, static_argnames="num_points")


def kernel_matrix(context: Finite) -> np.ndarray:
    rows = context.table / context.p_x[:, None]
    return (rows / context.p_a) @ rows.T


def test_expected_deviation_follows_its_definition():
    gap = np.abs(kernel_matrix(CONTEXT) - 1)
    found = expected_kernel_deviation(CONTEXT.op)
    np.testing.assert_allclose(found, CONTEXT.p_x @ gap @ CONTEXT.p_x, rtol=TIGHT)


def test_an_independent_context_deviates_nowhere():
    independent = finite(np.outer([0.2, 0.3, 0.5], [0.4, 0.6]))
    found = expected_kernel_deviation(independent.op)
    np.testing.assert_allclose(found, 0, atol=TIGHT)


@pytest.mark.slow
def test_the_estimated_deviation_is_within_its_error(key):
    found = evaluation.estimate_kernel_deviation(CONTEXT.op, 2000, key=key)
    truth = expected_kernel_deviation(CONTEXT.op)
    error = (found.upper - found.lower) / (2 * NormalDist().inv_cdf(0.95))
    assert abs(found.estimate - truth) < monte_carlo(float(error))
    gap = np.abs(kernel_matrix(CONTEXT) - 1)
    rows = CONTEXT.p_x @ gap
    spread = np.sqrt(CONTEXT.p_x @ (rows - CONTEXT.p_x @ rows) ** 2 / 2000)
    np.testing.assert_allclose(error, spread, rtol=0.1)


def test_the_diagonal_is_one_plus_chi_squared_of_each_row():
    rows = CONTEXT.table / CONTEXT.p_x[:, None]
    expected = 1 + ((rows - CONTEXT.p_a) ** 2 / CONTEXT.p_a).sum(1)
    found = kernel_diagonal(CONTEXT.op)
    np.testing.assert_allclose(found, expected, rtol=TIGHT)


def test_kappa_is_at_least_the_trace_and_bounds_the_leverage():
    kappa = float(kappa_squared(CONTEXT.op))
    assert kappa >= 1 + (CONTEXT.values**2).sum()
    for d in range(1, 7):
        leverage = (CONTEXT.left[:, :d] ** 2).sum(1).max()
        assert leverage <= (kappa - 1) / CONTEXT.values[d - 1] ** 2 + TIGHT


ALPHA, FLIP = 0.3, 0.1
ERASE = np.array([[1 - ALPHA, 0, ALPHA], [0, 1 - ALPHA, ALPHA]]) / 2


@pytest.mark.parametrize(
    ("bit", "kappa"),
    [(flip(FLIP), 1 + (1 - 2 * FLIP) ** 2), (ERASE, 2 - ALPHA)],
    ids=["flips", "masking"],
)
def test_kappa_on_the_hypercube_has_its_closed_form(bit, kappa):
    cube = finite(functools.reduce(np.kron, [bit] * 3))
    found = kappa_squared(cube.op)
    np.testing.assert_allclose(found, kappa**3, rtol=TIGHT)
    # Homogeneous: equal to the trace.
    np.testing.assert_allclose(found, 1 + (cube.values**2).sum(), rtol=TIGHT)


def test_kappa_of_labels_is_one_over_the_rarest_class():
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    found = kappa_squared(finite(np.eye(3)[y]).op)
    np.testing.assert_allclose(found, 4.5, rtol=TIGHT)


X = np.random.default_rng(0).normal(size=(9, 2))


def steepest(context: Finite, x: np.ndarray) -> float:
    k = kernel_matrix(context)
    rise = np.abs(k[:, None, :] - k[None, :, :]).max(2)
    run = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(run, np.inf)
    return (rise / run).max()


def test_lipschitz_over_all_rows_follows_its_definition(key):
    found = lipschitz(CONTEXT.op, X, key=key)
    np.testing.assert_allclose(found, steepest(CONTEXT, X), rtol=TIGHT)


def test_lipschitz_over_a_sample_is_a_lower_bound(key):
    whole = float(lipschitz(CONTEXT.op, X, key=key))
    part = float(lipschitz(CONTEXT.op, X, key=key, num_points=4))
    assert 0 < part <= whole + TIGHT


def test_two_rows_at_one_place_need_one_kernel_row(key):
    table = CONTEXT.table.copy()
    places = X.copy()
    places[1] = places[0]
    split = lipschitz(CONTEXT.op, places, key=key)
    assert np.isinf(split)
    table[1] = 2 * table[0]
    same = lipschitz(finite(table).op, places, key=key)
    assert np.isfinite(same)


def test_lipschitz_obeys_the_bound_of_lemma_25(key):
    run = np.linalg.norm(X[:, None] - X[None], axis=2)
    np.fill_diagonal(run, np.inf)
    mu = CONTEXT.left[:, :6]
    slopes = np.abs(mu[:, None] - mu[None]) / run[:, :, None]
    bound = np.abs(mu).max() * slopes.max() * (CONTEXT.values**2).sum()
    assert float(lipschitz(CONTEXT.op, X, key=key)) <= bound


def test_rows_of_no_mass_do_not_count(key):
    rest, op = with_an_empty_row(5)
    kernel = kernel_matrix(rest)
    gap = rest.p_x @ np.abs(kernel - 1) @ rest.p_x
    np.testing.assert_allclose(expected_kernel_deviation(op), gap, rtol=TIGHT)
    np.testing.assert_allclose(kappa_squared(op), kernel.diagonal().max(), rtol=TIGHT)
    places = np.vstack([X[:1] + 1e-9, X[:8]])
    slope = steepest(rest, X[:8])
    np.testing.assert_allclose(lipschitz(op, places, key=key), slope, rtol=TIGHT)


@pytest.mark.parametrize("row_entries", [1, 2**21, 2**30])
def test_blocks_of_every_size_give_the_same(row_entries):
    found = map_blocks(
        lambda i: jnp.stack([i, i**2], axis=1), jnp.arange(7), row_entries=row_entries
    )
    np.testing.assert_array_equal(found, [[i, i**2] for i in range(7)])


def test_a_key_and_enough_points_are_needed(key):
    with pytest.raises(TypeError, match="key must be a random key"):
        evaluation.lipschitz(CONTEXT.op, X, key=jnp.zeros(3))
    with pytest.raises(ValueError, match="num_points must be at least 2; got 1"):
        evaluation.estimate_kernel_deviation(CONTEXT.op, 1, key=key)
    with pytest.raises(ValueError, match="x must have 9 rows"):
        evaluation.lipschitz(CONTEXT.op, X[:5], key=key)
