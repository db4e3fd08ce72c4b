"""Units and spans in several contexts, where the parts are known."""

import jax
import numpy as np
import pytest

from contexture_jax import evaluation
from tests.conftest import X64
from tests.tolerances import MONTE_CARLO_SIGMAS, tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(6)
KEY = jax.random.key(6)
N, M = 24, 4


def test_the_variance_of_a_unit_is_split_into_what_made_it():
    x = RNG.normal(size=(N, 1))
    a = RNG.normal(size=(1, M))
    x, a = x - x.mean(), a - a.mean()
    x, a = x / x.std(), a / a.std()
    # Of length 1 each, the product as well: shares are the squares of weights.
    both = x * a
    units = [2 * x + 0 * a, 3 * a + 0 * x, 1e3 + x + 2 * a + 2 * both, both]
    units.append(np.full((N, M), 7.0))
    found = evaluation.context_dependence(np.stack(units, axis=2), key=KEY)
    expected = np.array([[1, 0, 1 / 9, 0, 0], [0, 1, 4 / 9, 0, 0], [0, 0, 4 / 9, 1, 0]])
    shares = (found.of_input, found.of_context, found.of_both)
    slack = tol(np.float64, factor=100, size=1000)
    np.testing.assert_allclose(shares, expected, atol=slack)
    np.testing.assert_allclose(found.dependence, expected[1:].sum(axis=0), atol=slack)
    # Variances 4, 9, 9 and 1.
    assert found.pooled == pytest.approx((9 + 8 + 1) / 23)
    p = np.asarray(found.p_values)
    assert p[1] == p[2] == pytest.approx(0.01)
    assert min(p[0], p[3], p[4]) > 0.9
    np.testing.assert_allclose(
        found.null.estimate[1:4], expected[1:].sum(axis=0)[1:4] / N, rtol=0.5
    )


@pytest.mark.slow
def test_spans_that_the_context_only_turns_are_stable():
    x = RNG.normal(size=(N, 3))
    turned = np.stack([x @ RNG.normal(size=(3, 3)) + 5 for _ in range(M)], axis=1)
    found = evaluation.context_stability(turned, key=KEY, num_permutations=19)
    assert found.value == pytest.approx(1, abs=1e-10)
    assert found.p_value == pytest.approx(0.05)
    assert found.null.estimate == pytest.approx(3 / (N - 1), abs=0.05)
    # One of two functions is the same in all contexts.
    halves = np.stack(
        [np.column_stack([x[:, 0], RNG.normal(size=N)]) for _ in range(M)], axis=1
    )
    half = evaluation.context_stability(halves, key=KEY, num_permutations=19)
    pairs = [
        evaluation.cca(halves[:, i], halves[:, j]) for i in range(M) for j in range(i)
    ]
    assert half.value == pytest.approx(float(np.mean(pairs)), abs=1e-10)


@pytest.mark.slow
def test_the_null_rejects_at_its_level():
    num, rejected = 200, 0.0
    for number in range(num):
        z = RNG.normal(size=(N, M, 1))
        key = jax.random.key(number)
        found = evaluation.context_dependence(z, key=key, num_permutations=19)
        rejected += float(found.p_values[0]) <= 0.1 + 1e-6
    deviation = np.sqrt(0.1 * 0.9 / num)
    assert abs(rejected / num - 0.1) < MONTE_CARLO_SIGMAS * deviation


def test_what_is_no_table_of_inputs_and_contexts_is_refused():
    with pytest.raises(ValueError, match="z must have 3"):
        evaluation.context_dependence(np.ones((3, 4)), key=KEY)
    with pytest.raises(ValueError, match="contexts of z"):
        evaluation.context_dependence(np.ones((3, 1, 2)), key=KEY)
    with pytest.raises(ValueError, match="inputs of z"):
        evaluation.context_stability(np.ones((3, 2, 2)), key=KEY)
