"""Unbiased estimators, penalties in closed form, and the moments that run."""

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import losses
from contexture_jax._core.moments import batch_of
from tests.losses.laws import (
    LAW,
    NUM_A,
    NUM_X,
    WIDTH,
    covariance,
    largest_sine,
    minimise,
)
from tests.losses.test_minima import ANGLE, EXACT, S2, TOP, VALUE, on_pairs, on_views
from tests.tolerances import tol

RNG = np.random.default_rng(8)
OUTCOMES, ROWS = 3, 4
PHI, PSI = RNG.normal(size=(2, OUTCOMES, 2))
CHANCES = np.array([0.5, 0.3, 0.2])
SIGMA = np.array([0.9, 0.4])

UNBIASED: dict[str, Any] = {
    "lora_svd": losses.lora_svd,
    "lora_evd": losses.lora_evd,
    "spectral_contrastive": losses.spectral_contrastive,
    "haochen": losses.haochen,
    "ncp": lambda f, g, **options: losses.ncp(
        f, g, SIGMA, regularisation=0.0, **options
    ),
}


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("unbiased", [True, False])
def test_expected_loss_of_small_batches(name: str, unbiased: bool) -> None:
    """The mean over all 3⁴ batches of 4 independent rows, against the population.

    For losses of two views the second view must have the law of the first: here each
    outcome is as likely as the one with its views exchanged.
    """
    loss = partial(UNBIASED[name], unbiased=unbiased)
    population = partial(UNBIASED[name], unbiased=False)
    svd = name in ("lora_svd", "ncp")
    f, g = (PHI, PSI) if svd else (np.vstack([PHI, PSI]), np.vstack([PSI, PHI]))
    p = CHANCES if svd else np.tile(CHANCES / 2, 2)
    batches = np.array(list(product(range(len(p)), repeat=ROWS)))
    means = jax.jit(
        jax.vmap(lambda rows: loss(jnp.asarray(f)[rows], jnp.asarray(g)[rows]))
    )
    expected = p[batches].prod(1) @ np.asarray(means(batches))
    bias = abs(expected - float(population(f, g, weights=p)))
    assert (bias < tol(np.float64, size=100)) == unbiased


def test_unbiased_kise_ignores_the_diagonal_of_the_kernel() -> None:
    phi, kernel = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 5))
    loss = partial(losses.kise, constraint="squared")
    raised = kernel + 3 * np.eye(5)
    unbiased = [float(loss(phi, k, unbiased=True)) for k in (kernel, raised)]
    plain = [float(loss(phi, k)) for k in (kernel, raised)]
    assert abs(unbiased[0] - unbiased[1]) < tol(np.float64, size=100)
    assert abs(plain[0] - plain[1]) > 0.1


def squared_modes(gamma: float, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances and values of modes under the squared penalty (theory.md §7.3)."""
    gap = views * (1 - TOP)
    theta = np.maximum(0, 1 - gap / (2 * gamma))
    return theta, gap * theta + gamma * (1 - theta) ** 2


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("form", ["svme", "non_contrastive"])
def test_squared_penalty_shrinks_and_collapses_as_computed(
    form: str, gamma: float
) -> None:
    views = 1 if form == "svme" else 2
    penalty = losses.SquaredPenalty(gamma)
    if form == "svme":
        loss = on_pairs(losses.svme, constraint=penalty)
        shapes, p = [(NUM_X, WIDTH), (NUM_A, WIDTH)], LAW.p_x
    else:
        loss = on_views(losses.non_contrastive, constraint=penalty)
        shapes, p = [(NUM_A, WIDTH)], LAW.p_a
    theta, modes = squared_modes(gamma, views)
    value, found = minimise(loss, shapes)
    assert abs(value - modes.sum()) < VALUE
    variances = np.linalg.eigvalsh(covariance(found[0], p))[::-1]
    # At the bottom of θ ≥ 0 the loss is flat to fourth order in the function.
    assert np.abs(variances - theta).max() < 1e-4


def test_squared_penalty_of_one_is_twice_the_contrastive_loss() -> None:
    f, g = RNG.normal(size=(2, 9, 3))
    penalised = losses.non_contrastive(f, g, constraint="squared")
    contrastive = losses.spectral_contrastive(f, g)
    assert abs(float(penalised - 2 * contrastive) - 3) < tol(np.float64, size=100)


@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_hinge_never_collapses_and_is_exact_from_a_threshold_on(
    strength: float,
) -> None:
    """√(θ + ε) = min(1, c / (2 (1 − s²))) for one function."""
    gap = 1 - S2[0]
    root = min(1.0, strength / (2 * gap))
    assert (root == 1) == (strength >= 2 * gap)
    penalty = losses.HingePenalty(variance=strength)
    loss = on_pairs(losses.svme, constraint=penalty)
    value, (phi, _) = minimise(loss, [(NUM_X, 1), (NUM_A, 1)])
    theta = root**2 - 1e-4
    expected = (gap * theta + strength * (1 - root)) / (1 + strength + 1)
    assert abs(value - expected) < tol(np.float64, factor=1e7)
    assert abs(covariance(phi, LAW.p_x)[0, 0] - theta) < 1e-4
    assert largest_sine(phi, LAW.left[:, :1], LAW.p_x) < 1e-4


@pytest.mark.parametrize("variance", [1.0, 25.0])
def test_vicreg_variance_of_one_function(variance: float) -> None:
    """√(θ + ε) = min(1, μ / (4 λ (1 − s²)))."""
    options: dict[str, float] = {"invariance": 1.0, "variance": variance}
    value, (psi,) = minimise(on_views(losses.vicreg, **options), [(NUM_A, 1)])
    gap = 2 * (1 - S2[0])
    root = min(1.0, variance / (2 * gap))
    theta = root**2 - 1e-4
    assert abs(value - gap * theta - variance * (1 - root)) < 1e-8
    assert abs(covariance(psi, LAW.p_a)[0, 0] - theta) < 1e-4


def test_average_of_vicreg_is_named() -> None:
    """E15: averaged over pairs the penalty is weaker by d − 1."""
    f, g = RNG.normal(size=(2, 9, 4))
    off = {
        name: float(losses.vicreg(f, g, invariance=0.0, variance=0.0, average=name))
        for name in ("width", "pairs")
    }
    assert abs(off["width"] - 3 * off["pairs"]) < tol(np.float64, size=10)


@pytest.mark.parametrize("coefficients", [(1.0, 1.0), (3.0, 0.3)])
def test_hinge_learns_the_span_and_not_quite_the_covariance(
    coefficients: tuple[float, float],
) -> None:
    penalty = losses.HingePenalty(*coefficients)
    _, (phi, _) = minimise(
        on_pairs(losses.svme, constraint=penalty), [(NUM_X, WIDTH), (NUM_A, WIDTH)]
    )
    assert largest_sine(phi, LAW.left[:, :WIDTH], LAW.p_x) < 1e-4
    assert np.linalg.eigvalsh(covariance(phi, LAW.p_x)).min() > 0.1


@pytest.mark.parametrize("strength", [0.0051, 0.5, 2.0])
def test_barlow_twins_is_no_extractor(strength: float) -> None:
    """E18: collapse onto ν_1, rotated coordinates, and only then aligned ones."""
    value, (psi,) = minimise(
        on_views(losses.barlow_twins, off_diagonal=strength), [(NUM_A, WIDTH)], 8
    )
    correlation = covariance(psi, LAW.p_a)
    scale = np.sqrt(np.diag(correlation))
    correlation = correlation / np.outer(scale, scale)
    collapsed = WIDTH * (1 - S2[0]) ** 2 + strength * WIDTH * (WIDTH - 1) * S2[0] ** 2
    aligned = ((1 - TOP) ** 2).sum()
    if strength < 0.01:
        assert value <= collapsed + VALUE
        assert abs(value - collapsed) < 0.01 * collapsed
        assert np.linalg.eigvalsh(correlation).min() < 0.02
    elif strength < 1:
        assert value < min(collapsed, aligned) - 1e-3
    else:
        assert abs(value - aligned) < VALUE
        assert largest_sine(psi, LAW.right[:, :WIDTH], LAW.p_a) < ANGLE


def test_whitened_svme_is_a_ratio_trace_at_the_best_psi() -> None:
    phi = RNG.normal(size=(NUM_X, 3))
    psi = LAW.table.T @ phi / LAW.p_a[:, None]
    C, B = covariance(phi, LAW.p_x), covariance(psi, LAW.p_a)
    loss = float(on_pairs(losses.svme, constraint=EXACT)(phi, psi))
    assert abs(loss - (3 - np.trace(np.linalg.solve(C, B)))) < tol(
        np.float64, size=1000
    )


def test_whitened_losses_depend_on_the_span_alone() -> None:
    f, g = RNG.normal(size=(2, 12, 3))
    M = RNG.normal(size=(3, 3))
    for loss in (losses.svme, losses.non_contrastive, losses.kise_pairs):
        moved = loss(1e3 * f @ M, 1e3 * g @ M, constraint=EXACT)
        here = loss(f, g, constraint=EXACT)
        assert abs(float(moved - here)) < tol(np.float64, size=1000)


def jaxpr_facts(jaxpr: Any) -> tuple[set[str], int]:
    """Names of all primitives, and the size of the largest array."""
    names, largest = set(), 0
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for variable in equation.outvars:
            largest = max(largest, int(np.prod(getattr(variable.aval, "shape", ()))))
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                more, size = jaxpr_facts(inner)
                names, largest = names | more, max(largest, size)
    return names, largest


def test_whitened_svme_takes_small_factorisations_only() -> None:
    batch, width = 50, 3
    f, g = RNG.normal(size=(2, batch, width))
    traced = jax.make_jaxpr(jax.value_and_grad(losses.svme, argnums=(0, 1)))(f, g)
    names, largest = jaxpr_facts(traced.jaxpr)
    assert "cholesky" in names
    assert names & {"eigh", "svd", "qr", "householder_product", "lu"} == set()
    assert largest == batch * width


def test_trace_ratio_has_the_derivative_of_finite_differences() -> None:
    f, g = RNG.normal(size=(2, 9, 2))
    loss = jax.jit(losses.svme)
    gradient = np.asarray(jax.jit(jax.grad(losses.svme))(f, g))
    step = 1e-6
    for row, column in ((0, 0), (5, 1)):
        bump = np.zeros_like(f)
        bump[row, column] = step
        slope = (float(loss(f + bump, g)) - float(loss(f - bump, g))) / (2 * step)
        assert abs(slope - gradient[row, column]) < 1e-8


def test_running_moments_are_averages_from_the_first_batch_on() -> None:
    batches = RNG.normal(size=(3, 8, 2)) @ np.array([[1.0, 0.5], [0, 1]]) + 2
    moments = losses.init_moments(2, np.float64)
    for batch in batches:
        moments = losses.update_moments(moments, batch, decay=0.5)
    shares = np.array([1, 2, 4]) / 7
    mean = np.tensordot(shares, batches.mean(1), 1)
    cov = np.tensordot(shares, [np.cov(batch.T) for batch in batches], 1)
    exact = tol(np.float64, size=10)
    assert np.abs(losses.running_mean(moments) - mean).max() < exact
    assert np.abs(losses.running_covariance(moments) - cov).max() < exact
    white = np.asarray(losses.whiten(batches[0], moments, ridge=0.0))
    factor = np.linalg.cholesky(cov)
    expected = np.linalg.solve(factor, (batches[0] - mean).T).T
    assert np.abs(white - expected).max() < tol(np.float64, size=1000)


def test_running_moments_leave_the_scale_free() -> None:
    """No gradient along (φ, ψ) itself when the running covariance is the batch's."""
    f, g = RNG.normal(size=(2, 8, 2))
    C = jnp.asarray(np.cov(f.T, bias=True))
    moments = losses.RunningMoments(jnp.zeros(2), C, jnp.ones(()))
    loss = partial(losses.svme, moments=moments, constraint=EXACT)
    up, down = jax.grad(loss, argnums=(0, 1))(f, g)
    along = float(jnp.sum(up * f) + jnp.sum(down * g))
    assert abs(along) < tol(np.float64, size=100)
    assert abs(float(loss(f, g) - losses.svme(f, g, constraint=EXACT))) < tol(
        np.float64, size=100
    )


def test_weights_are_repeated_rows() -> None:
    x = RNG.normal(size=(3, 2))
    law = batch_of(jnp.asarray(x), weights=[1, 2, 1])
    again = batch_of(jnp.asarray(x[[0, 1, 1, 2]]))
    mean, moment = law.mean(jnp.asarray(x)), law.moment(jnp.asarray(x), jnp.asarray(x))
    y = jnp.asarray(x[[0, 1, 1, 2]])
    assert np.abs(mean - again.mean(y)).max() < tol(np.float64)
    assert np.abs(moment - again.moment(y, y)).max() < tol(np.float64)
    assert float(law.collision()) == 0.375
