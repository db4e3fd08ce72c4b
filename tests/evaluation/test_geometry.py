"""Geometry, units and contexts of one representation."""

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, pdist

import contexture_jax as cx
from contexture_jax import evaluation
from tests.conftest import X64
from tests.tolerances import monte_carlo

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(6)
KEY = jax.random.key(6)
CLASSES = np.arange(60) % 3


def test_geometry_of_features_with_known_singular_values():
    s = np.array([3.0, 2.0, 1.0, 1e-4])
    frame = np.linalg.qr(np.column_stack([np.ones(60), RNG.normal(size=(60, 4))]))[0]
    x = 1e-30 * ((frame[:, 1:] * s) @ np.linalg.qr(RNG.normal(size=(4, 4)))[0] + 2)
    found = evaluation.geometry(x)
    shares = s**2 / (s**2).sum()
    np.testing.assert_allclose(found.explained, shares, atol=1e-12)
    assert found.effective_rank == pytest.approx(1 / (shares**2).sum())
    p = s / s.sum()
    assert found.entropy_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert (int(found.num_directions), float(found.collapsed)) == (3, 0.25)
    assert found.anisotropy == pytest.approx((1 - pdist(x, "cosine")).mean())


def test_intrinsic_dimension_follows_its_definition_and_finds_a_square():
    x = RNG.uniform(size=(1000, 2)) @ RNG.normal(size=(2, 6))
    found = evaluation.intrinsic_dimension(np.concatenate([x, x[:5]]))
    near = np.sort(cdist(x, x), axis=1)
    expected = 999 / np.log(near[:, 2] / near[:, 1]).sum()
    assert found.estimate == pytest.approx(expected, rel=1e-10)
    assert found.lower < 2 < found.upper


def test_a_constant_unit_tells_no_class():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    x[:, 1] = 0.1  # what is left of it about its mean is rounding
    found = evaluation.units(x, np.arange(60) % 3, key=KEY, num_permutations=1)
    np.testing.assert_array_equal(found.selectivity[1], 0)


@pytest.mark.slow
def test_units_are_judged_as_one_class_against_the_others():
    x = RNG.normal(size=(60, 4)) + 2 * np.eye(4)[CLASSES]
    x[:, 3] = CLASSES == 1
    found = evaluation.units(x, CLASSES, key=KEY)
    for c, u in ((0, 0), (1, 0), (2, 2)):
        a, b = x[c == CLASSES, u], x[c != CLASSES, u]
        pooled = np.sqrt((a.var() * len(a) + b.var() * len(b)) / (len(x) - 2))
        assert found.selectivity[u, c] == pytest.approx((a.mean() - b.mean()) / pooled)
    groups = [x[c == CLASSES] for c in range(3)]
    f = stats.f_oneway(*(g[:, 0] for g in groups)).statistic
    assert found.explained[0] == pytest.approx(2 * f / (2 * f + 57))
    assert np.isinf(found.selectivity[3, 1])
    np.testing.assert_allclose([found.purity[3], found.explained[3]], 1)
    assert float(found.purity[:3].min()) > 0.5
    spread = (found.null.upper - found.null.lower) / 2
    np.testing.assert_allclose(
        found.null.estimate, 2 / 59, atol=monte_carlo(float(spread.max()) / 99**0.5)
    )
    inner = sum(g.var(axis=0).sum() for g in groups) / 3
    assert found.pooled == pytest.approx(1 - inner / x.var(axis=0).sum())
    turned = evaluation.principal_directions(x)
    np.testing.assert_allclose(
        turned.T @ turned, np.diag(np.diag(turned.T @ turned)), atol=1e-12
    )
    with pytest.raises(ValueError, match="at least 2 classes"):
        evaluation.units(x, np.zeros(60, int), key=KEY)


@pytest.mark.slow
def test_neighbours_of_a_class_beside_shuffled_labels():
    x = RNG.normal(size=(60, 2)) + 3 * np.eye(3)[CLASSES][:, :2]
    found = evaluation.neighbor_purity(x, CLASSES, key=KEY, num_neighbors=5)
    near = np.argsort(cdist(x, x), axis=1)[:, 1:6]
    assert found.value == pytest.approx((CLASSES[near] == CLASSES[:, None]).mean())
    assert found.null.estimate == pytest.approx(19 / 59, abs=0.02)
    assert found.p_value == pytest.approx(0.01)
    assert found.interval.lower < found.value < found.interval.upper


@pytest.mark.slow
def test_a_context_is_held_wholly_by_its_functions_and_by_chance_by_noise():
    x = RNG.normal(size=(80, 2))
    op = cx.association_operator(cx.contexts.rbf(x, gamma=0.5))
    exact, _ = cx.svd(op, 79, key=KEY)
    s = exact.singular_values
    held = evaluation.context_fit(
        np.asarray(exact.left[:, :3]) * [3, 2, 1], op, s, key=KEY
    )
    assert held.ratio_trace.value == pytest.approx(1, abs=1e-10)
    weights = np.array([9, 4, 1])
    expected = float(np.sqrt((weights * s[:3] ** 2).sum() / weights.sum()))
    assert held.compatibility.value == pytest.approx(expected)
    assert held.ratio_trace.p_value == pytest.approx(0.01)
    noise = RNG.normal(size=(80, 3))
    found = evaluation.context_fit(noise, op, s, key=KEY)
    best = (s[:3] ** 2).sum()
    direct = float(evaluation.ratio_trace(noise, op) / best)
    assert found.ratio_trace.value == pytest.approx(direct)
    # Over permutations, where P_X is uniform.
    mean = float(3 / 79 * (s**2).sum() / best)
    null = found.ratio_trace.null
    error = monte_carlo(float(null.upper - null.lower) / 3 / 99**0.5)
    assert null.estimate == pytest.approx(mean, abs=error)
    assert found.ratio_trace.interval.lower < null.upper
