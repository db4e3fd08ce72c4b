"""Clusters beside classes, directions on the sphere, and the level of the nulls."""

import jax
import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

import contexture_jax as cx
from contexture_jax import evaluation
from tests.conftest import X64
from tests.tolerances import MONTE_CARLO_SIGMAS, tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(9)
KEY = jax.random.key(9)


def test_purity_and_information_are_those_of_the_table_of_counts():
    a, b = RNG.integers(0, 4, 60), RNG.integers(0, 3, 60)
    found = evaluation.cluster_agreement(a, b, key=KEY, num_permutations=19)
    counts = np.array(
        [[np.sum((a == i) & (b == j)) for j in range(3)] for i in range(4)]
    )
    slack = tol(np.float64, size=100)
    assert found.purity.value == pytest.approx(counts.max(axis=1).sum() / 60, abs=slack)
    expected = normalized_mutual_info_score(b, a)
    assert found.nmi.value == pytest.approx(expected, abs=slack)
    same = evaluation.cluster_agreement(b + 5, b, key=KEY, num_permutations=19)
    assert same.nmi.value == pytest.approx(1, abs=slack)
    assert same.purity.p_value == pytest.approx(0.05)
    with pytest.raises(ValueError, match="labels must have 60 rows"):
        evaluation.cluster_agreement(a, b[1:], key=KEY)
    with pytest.raises(ValueError, match="at least 2 classes"):
        evaluation.cluster_agreement(a, 0 * b, key=KEY)


@pytest.mark.slow
def test_pairs_on_the_sphere_are_counted_once_each():
    x, y = RNG.normal(size=(2, 30, 4)) + np.eye(4)[0]
    u, v = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    apart = ((u[:, None] - u[None]) ** 2).sum(axis=2)
    off = ~np.eye(30, dtype=bool)
    found = evaluation.sphere_geometry(7 * x, y)
    slack = tol(np.float64, size=100)
    expected = np.log(np.exp(-2 * apart[off]).mean())
    assert found.uniformity == pytest.approx(expected, abs=slack)
    assert found.alignment == pytest.approx(
        ((u - v) ** 2).sum(axis=1).mean(), abs=slack
    )
    cross = ((u[:, None] - v[None]) ** 2).sum(axis=2)
    assert found.by_chance == pytest.approx(cross[off].mean(), abs=slack)
    # Of a circle E exp(4 cos) is the Bessel function I_0(4) = 11.30192195.
    circle = evaluation.sphere_geometry(x[:, :2])
    assert circle.uniform == pytest.approx(np.log(11.30192195213633) - 4, abs=1e-12)
    assert circle.uniformity > circle.uniform
    with pytest.raises(ValueError, match="no row of zeros"):
        evaluation.sphere_geometry(np.zeros((3, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["context", "nmi"])
def test_the_null_rejects_at_its_level(judge):
    num, rejected = 200, 0
    op = cx.association_operator(cx.contexts.rbf(RNG.normal(size=(24, 2)), gamma=0.3))
    s = cx.svd(op, 3, key=KEY)[0].singular_values
    for number in range(num):
        key = jax.random.key(number)
        if judge == "context":
            x = RNG.normal(size=(24, 3))
            fit = evaluation.context_fit(x, op, s, key=key, num_permutations=19)
            found = fit.ratio_trace
        else:
            codes = RNG.integers(0, 9, (2, 240))
            found = evaluation.cluster_agreement(
                *codes, key=key, num_permutations=19
            ).nmi
        rejected += float(found.p_value) <= 0.1 + 1e-6
    # Of 20 ranks, all alike likely, two are at most 0.1.
    deviation = np.sqrt(0.1 * 0.9 / num)
    assert abs(rejected / num - 0.1) < MONTE_CARLO_SIGMAS * deviation
