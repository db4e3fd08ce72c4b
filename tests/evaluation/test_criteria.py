"""Criteria without labels, against closed forms and hand-made spectra."""

import itertools
import math

import jax
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax import evaluation
from tests.conftest import X64
from tests.evaluation.finite import random_context
from tests.tolerances import promised

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

EXACT = promised(np.float64)
# Ten clean clusters: nine values that are all but equal, and a tail; τ says d = 1.
CLUSTERS = np.concatenate([np.linspace(0.605, 0.595, 9), 0.1 * 0.9 ** np.arange(30)])


def test_the_grid_is_tau_of_each_pair():
    s = 0.9 ** np.arange(1, 41)
    grid = evaluation.usefulness_grid(s, betas=(0.5, 2.0), max_dims=(4, 39))
    for (i, beta), (j, size) in itertools.product(
        enumerate((0.5, 2.0)), enumerate((4, 39))
    ):
        one = evaluation.usefulness(s, beta, size)
        assert float(grid.tau[i, j]) == float(one.tau)
        assert int(grid.best_dim[i, j]) == int(one.best_dim)
    with pytest.raises(ValueError, match="each hold a value; got 0 and 1"):
        evaluation.usefulness_grid(s, betas=(), max_dims=(4,))


def test_tails_of_a_gaussian_pair_are_geometric():
    # s_i² = ρ^{2i}, beyond the values given: ρ^{2(k+1)} / (1 − ρ²).
    square, k = 0.7, 12
    s = cx.zoo.gaussian(math.sqrt(square)).spectrum(k)
    rest = square ** (k + 1) / (1 - square)
    shares = evaluation.tail_shares(s, tail_energy=rest)
    np.testing.assert_allclose(shares, square ** np.arange(1, k + 1), rtol=EXACT)
    # The smallest d with 1 − ρ^{2d} ≥ share; none of 12 holds 99 %.
    wanted = np.array([0.3, 0.5, 0.95, 0.99])
    found = evaluation.energy_dimension(s, wanted, tail_energy=rest)
    np.testing.assert_array_equal(found, [1, 2, 9, 0])


def test_energy_counts_a_share_that_is_kept_to_rounding():
    # Flat spectra of 10: d functions keep d tenths.
    s = cx.zoo.label_noise(11, 0.3).spectrum(10)
    found = evaluation.energy_dimension(s, np.arange(1, 11) / 10)
    np.testing.assert_array_equal(found, np.arange(1, 11))
    # Labels of 11 classes: nothing is left beyond the tenth, whatever the scale.
    assert evaluation.tail_shares(s)[-1] == 0


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        evaluation.energy_dimension([0.5, 0.2], share)


def test_no_share_of_nothing():
    with pytest.raises(ValueError, match="must not all be 0"):
        evaluation.tail_shares([0.0, 0.0])
    with pytest.raises(ValueError, match="tail_energy must be non-negative"):
        evaluation.tail_shares([0.5], tail_energy=-1.0)
    assert np.isnan(jax.jit(evaluation.tail_shares)(np.zeros(2))).all()


def test_gaps_of_a_tree_are_at_its_levels():
    # λ_l = P(J ≥ l) on b^{l−1}(b − 1) functions: gaps are P(J = l), at 1, 3, 7.
    law = np.array([0.2, 0.1, 0.4, 0.3])
    s = cx.zoo.tree(2, law).spectrum(7)
    gaps, best = evaluation.spectral_gaps(s, complete=True)
    expected = np.zeros(7)
    expected[[0, 2, 6]] = law[1:]
    np.testing.assert_allclose(gaps, expected, atol=EXACT)
    assert int(best) == 3


def test_equal_values_have_no_gap():
    assert int(evaluation.spectral_gaps(np.full(5, 0.5)).best_dim) == 0
    # The last of all values has one: to 0.
    assert int(evaluation.spectral_gaps(np.full(5, 0.5), complete=True).best_dim) == 5


def test_other_criteria_see_the_clusters_that_tau_misses():
    assert int(evaluation.usefulness(CLUSTERS).best_dim) == 1
    assert int(evaluation.spectral_gaps(CLUSTERS).best_dim) == 9
    assert int(evaluation.energy_dimension(CLUSTERS, 0.95)) == 9
    assert [evaluation.cluster_dimension(CLUSTERS, d) for d in (1, 8, 9)] == [9] * 3
    assert evaluation.cluster_dimension(CLUSTERS, 10, gap=0.005) == 10
    with pytest.raises(ValueError, match="dim must be"):
        evaluation.cluster_dimension(CLUSTERS, 40)


def test_the_worst_case_over_d_is_that_of_each():
    s = np.array([0.9, 0.8, 0.5, 0.2])
    curve = evaluation.worst_case_curve(s, 0.15, complete=True)
    each = [
        evaluation.worst_case_error(s, d, 0.15, complete=True)[0] for d in (1, 2, 3, 4)
    ]
    np.testing.assert_allclose(curve, each, rtol=EXACT)
    # (s_1² − (1 − ε)²) / (s_1² − s_{d+1}²) by hand.
    expected = (0.81 - 0.7225) / (0.81 - np.array([0.64, 0.25, 0.04, 0.0]))
    np.testing.assert_allclose(curve, expected, rtol=EXACT)
    assert evaluation.worst_case_curve(s, 0.15).shape == (3,)
    for error, dim in ((0.6, 1), (0.16, 2), (0.11, 4), (0.1, 0)):
        found = evaluation.worst_case_dimension(s, 0.15, error, complete=True)
        assert int(found) == dim


def test_spans_come_back_as_far_as_their_angles_say():
    context = random_context(3)
    left = context.left[:, :4]
    # Another basis of the first two, and the third turned by θ into the fifth.
    theta = 0.4
    turned = np.cos(theta) * left[:, 2] + np.sin(theta) * context.left[:, 4]
    rotation = np.array([[0.6, 0.8], [-0.8, 0.6]])
    other = np.column_stack([left[:, :2] @ rotation, 3 * turned + 7, left[:, 3]])
    other[:, 0] *= -2
    found = evaluation.span_stability(left, other[None], context.p_x)
    cos = np.cos(theta) ** 2
    expected = [0.6**2, 1, (2 + cos) / 3, (3 + cos) / 4]
    np.testing.assert_allclose(found.shares[0], expected, rtol=EXACT)
    np.testing.assert_allclose(found.null, np.arange(1, 5) / 8, rtol=EXACT)


def test_random_spans_share_what_the_null_says():
    rng = np.random.default_rng(0)
    left, others = rng.normal(size=(20, 3)), rng.normal(size=(50, 20, 3))
    found = evaluation.span_stability(left, others)
    error = found.shares.std(0) / 50**0.5
    assert (abs(found.shares.mean(0) - found.null) < 5 * error).all()


def test_dependent_functions_have_no_span_of_their_own():
    left = np.random.default_rng(1).normal(size=(9, 2))
    copied = np.column_stack([left[:, 0], 2 * left[:, 0] + 1])
    with pytest.raises(ValueError, match=r"resampled\[1\] must hold linearly indep"):
        evaluation.span_stability(left, np.stack([left, copied]))
    with pytest.raises(ValueError, match=r"shape \(b, 9, 2\)"):
        evaluation.span_stability(left, left)


def test_criteria_are_the_same_in_a_trace():
    s, error = CLUSTERS, np.float64(0.5)
    for fn in (
        evaluation.tail_shares,
        evaluation.spectral_gaps,
        lambda s: evaluation.energy_dimension(s, 0.5),
        lambda s: evaluation.worst_case_dimension(s, 0.45, error),
        lambda s: evaluation.usefulness_grid(s, (1.0,), (4, 8)),
    ):
        for one, two in zip(
            jax.tree.leaves(fn(s)), jax.tree.leaves(jax.jit(fn)(s)), strict=True
        ):
            np.testing.assert_allclose(one, two, rtol=EXACT, atol=EXACT)
