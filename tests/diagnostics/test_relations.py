"""The relations of representations whose answers are known."""

from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats

import contexture_jax as cx
from contexture_jax import diagnostics, evaluation
from tests.conftest import X64

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(8)
KEY = jax.random.key(8)
FEW: dict[str, Any] = {"num_permutations": 19}
X = RNG.normal(size=(120, 4))


@pytest.mark.slow
def test_inputs_that_share_contexts_are_alike_in_all_functions_of_a_flat_spectrum():
    classes = np.arange(60) % 3
    op = cx.association_operator(cx.contexts.labels(classes))
    # Its two functions have the value 1: the kernel is that of the whitened codes.
    codes = np.eye(3)[classes]
    for kind in ("rank", "linear"):
        found = evaluation.kernel_alignment(codes, op, key=KEY, kind=kind, **FEW)
        # Of the ranks rounding parts those that are equal.
        assert found.value == pytest.approx(1, abs=1e-8 if kind == "linear" else 0.1)
        assert found.p_value == pytest.approx(0.05)
    noise = RNG.normal(size=(60, 2))
    found = evaluation.kernel_alignment(noise, op, key=KEY, kind="linear", **FEW)
    white = noise - noise.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T, ddof=0))).T
    above = np.triu_indices(60, 1)
    kernel = 3.0 * (classes[:, None] == classes[None, :])
    expected = stats.pearsonr((white @ white.T)[above], kernel[above])[0]
    assert found.value == pytest.approx(expected, abs=1e-10)


@pytest.mark.slow
def test_a_target_is_told_and_how_well_any_functions_could():
    op = cx.association_operator(cx.contexts.rbf(X[:, :2], gamma=0.5))
    exact, _ = cx.svd(op, 5, key=KEY)
    s, mu = np.asarray(exact.singular_values), np.asarray(exact.left)
    y = 3 * mu[:, 0] + 4 * mu[:, 3]
    found = diagnostics.input_output(
        mu[:, :2], y, key=KEY, op=op, functions=exact.left, **FEW
    )
    assert found.best == pytest.approx(9 / 25)
    rho = np.sqrt((9 * s[0] ** 2 + 16 * s[3] ** 2) / 25)
    assert found.compatibility == pytest.approx(float(rho))
    assert found.score.value < 9 / 25 + 0.01
    assert found.score.p_value == pytest.approx(0.05)
    classes = np.where(mu[:, 0] > 0, "a", "b")
    told = diagnostics.input_output(mu[:, :2], classes, key=KEY, **FEW)
    assert told.score.value > 0.9 > 0.7 > told.score.null.estimate


@pytest.mark.slow
def test_tasks_of_the_same_direction_serve_each_other():
    tasks = {"a": X[:, 0], "same": 2 * X[:, 0] + 1, "other": X[:, 1]}
    found = diagnostics.cross_task(X, tasks, key=KEY, **FEW)
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(found.score, expected, atol=0.15)
    assert np.asarray(found.p_values)[0, 1] == pytest.approx(0.05)


@pytest.mark.slow
def test_a_linear_composition_is_told_and_another_is_not():
    y = RNG.normal(size=(120, 4))
    whole, cosine = diagnostics.compositionality(X, y, X - 2 * y, key=KEY, **FEW)
    assert whole.value == pytest.approx(1, abs=1e-3)
    assert cosine.value == pytest.approx(1, abs=1e-3)
    whole, cosine = diagnostics.compositionality(X, y, X * y, key=KEY, **FEW)
    assert whole.value < 0.1
    assert cosine.value < 0.3


@pytest.mark.slow
def test_layers_that_add_functions_of_a_context_rise():
    op = cx.association_operator(cx.contexts.rbf(X[:, :2], gamma=0.5))
    exact, _ = cx.svd(op, 3, key=KEY)
    mu, noise = np.asarray(exact.left), RNG.normal(size=(120, 3))
    layers = [noise, np.column_stack([mu[:, :1], noise[:, :2]]), mu]
    found = diagnostics.hierarchy(layers, op, exact, key=KEY, **FEW)
    shares = [float(one.ratio_trace.value) for one in found.context]
    ccas = [float(one.value) for one in found.cca]
    assert shares == sorted(shares)
    assert ccas == sorted(ccas)
    np.testing.assert_allclose([shares[-1], ccas[-1]], 1, atol=1e-8)
    assert found.geometry[2].effective_rank == pytest.approx(3, abs=1e-6)


def test_what_does_not_match_is_refused():
    with pytest.raises(ValueError, match="y must have 120 rows"):
        diagnostics.input_output(X, X[1:, 0], key=KEY)
    with pytest.raises(ValueError, match="at least 2 classes"):
        diagnostics.input_output(X, np.zeros(120, int), key=KEY)
    with pytest.raises(ValueError, match="finite"):
        diagnostics.compositionality(X, X, np.full_like(X, np.nan), key=KEY)
