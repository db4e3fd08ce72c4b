"""Unbiased estimators, penalties in closed form, and the moments that run."""

from functools import cache, partial
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

# Losses with an unbiased form, as functions of two embeddings.
UNBIASED: dict[str, Any] = {
    "lora_svd": losses.lora_svd,
    "lora_evd": losses.lora_evd,
    "spectral_contrastive": losses.spectral_contrastive,
    "published": losses.spectral_contrastive_published,
    "ncp": lambda f, g, **options: losses.ncp(
        f, g, SIGMA, regularisation=0.0, **options
    ),
}


def law_of_rows(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of the outcomes and their probabilities.

    For losses of two views the second view must have the law of the first: there each
    outcome is as likely as the one with its views exchanged.
    """
    if name in ("lora_svd", "ncp"):
        return PHI, PSI, CHANCES
    return np.vstack([PHI, PSI]), np.vstack([PSI, PHI]), np.tile(CHANCES / 2, 2)


@cache
def biases() -> dict[tuple[str, bool], float]:
    """Mean over all batches of 4 independent rows, less the population's value."""

    def everything() -> dict[tuple[str, bool], jax.Array]:
        out = {}
        for name, loss in UNBIASED.items():
            f, g, p = law_of_rows(name)
            batches = np.array(list(product(range(len(p)), repeat=ROWS)))
            chances = p[batches].prod(1)
            exact = loss(f, g, unbiased=False, weights=p)
            for unbiased in (True, False):
                means = jax.vmap(partial(loss, unbiased=unbiased))(
                    jnp.asarray(f)[batches], jnp.asarray(g)[batches]
                )
                out[name, unbiased] = chances @ means - exact
        return out

    return {key: float(value) for key, value in jax.jit(everything)().items()}


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_losses_have_the_expectation_of_the_population(name: str) -> None:
    exact = tol(np.float64, size=100)
    assert abs(biases()[name, True]) < exact
    assert abs(biases()[name, False]) > 1e6 * exact


def squared_modes(gamma: float, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances and values of modes under the squared penalty (theory.md §7.3)."""
    gap = views * (1 - TOP)
    theta = np.maximum(0, 1 - gap / (2 * gamma))
    return theta, gap * theta + gamma * (1 - theta) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.3, 1.0])
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


@cache
def identities() -> dict[str, tuple[float, float]]:
    """Pairs of numbers that are equal, from one program.

    KISE without bias ignores the diagonal of the kernel. VICReg averaged over pairs is
    weaker by d − 1 (E15). SVME at Ψ = T* Φ is d minus the ratio trace, and with Ψ
    solved KISE with the kernel that g spans; with several draws that of their mean, and
    KISE of Ψ on each two.
    """
    f, g = RNG.normal(size=(2, 9, 3))
    centred = g - g.mean(0)
    projected = centred @ np.linalg.solve(centred.T @ centred / 9, centred.T)
    both = np.vstack([g, f + g])
    mean = g + f / 2 - both.mean(0)
    by_mean = mean @ np.linalg.solve(np.cov(both.T, bias=True), mean.T)
    draws = np.stack([g, f + g, 2 * f])
    draws_about = draws - draws.mean((0, 1))
    D = np.einsum("rni,rnj->ij", draws_about, draws_about) / 27
    # Over pairs of different draws: all pairs less each with itself.
    mean_of_3 = draws_about.mean(0)
    R = (mean_of_3.T @ mean_of_3 - 3 * D) / 6
    by_mean_of_3 = mean_of_3 @ np.linalg.solve(D, mean_of_3.T)
    kernel, M = RNG.normal(size=(9, 9)), 1e3 * RNG.normal(size=(3, 3))
    phi = RNG.normal(size=(NUM_X, 3))
    psi = LAW.table.T @ phi / LAW.p_a[:, None]
    C, B = covariance(phi, LAW.p_x), covariance(psi, LAW.p_a)

    def everything() -> dict[str, tuple[Any, Any]]:
        evd = losses.lora_evd(f, g)
        views = losses.non_contrastive
        strict = views(f, g, constraint="squared")
        loose = views(f, g, constraint=losses.SquaredPenalty(0.0))

        def average(over: str) -> Any:
            return losses.vicreg(f, g, invariance=0.0, variance=0.0, average=over)

        pairs = {
            "L_C": (2 * losses.spectral_contrastive(f, g), evd),
            "L_N, squared": (strict, evd + 3),
            "sequential": (losses.sequential_nesting(f, g), losses.lora_svd(f, g)),
            "kernel": (losses.kise(f, kernel), losses.kise(f, kernel - 1)),
            "VAMP-E": (losses.vamp_e(f, g, np.ones(3)), losses.lora_svd(f, g)),
            "OMM": (
                losses.orbital_minimisation(f, g, shift=2.0),
                losses.orbital_minimisation(f, g) + 2 * (strict - loose - 3),
            ),
            "KISE": (
                losses.kise(f, kernel, unbiased=True),
                losses.kise(f, kernel + 3 * np.eye(9), unbiased=True),
            ),
            "solved": (
                losses.svme(f, g, constraint=EXACT, solved=True),
                losses.kise(f, projected, constraint=EXACT, unbiased=True),
            ),
            "views": (
                losses.svme_views(f, g, f + g, ridge=0.0),
                losses.kise_pairs(g, f + g, constraint=EXACT)
                + losses.kise(f, by_mean, constraint=EXACT, unbiased=True),
            ),
            "three views": (
                losses.svme_views(f, *draws, ridge=0.0),
                losses.kise(f, by_mean_of_3, constraint=EXACT, unbiased=True)
                + 3
                - np.trace(np.linalg.solve(D, R)),
            ),
            "VICReg": (average("width"), 2 * average("pairs")),
            "ratio trace": (
                on_pairs(losses.svme, constraint=EXACT)(phi, psi),
                3 - np.trace(np.linalg.solve(C, B)),
            ),
        }
        for loss in (losses.svme, views, losses.kise_pairs):
            here, moved = (
                loss(u, v, constraint=EXACT) for u, v in ((f, g), (f @ M, g @ M))
            )
            pairs[f"span, {loss.__name__}"] = (here, moved)
        return pairs

    return jax.tree.map(float, jax.jit(everything)())


@pytest.mark.parametrize(
    "name",
    [
        "L_C",
        "L_N, squared",
        "sequential",
        "kernel",
        "VAMP-E",
        "OMM",
        "KISE",
        "solved",
        "views",
        "three views",
        "VICReg",
        "ratio trace",
        "span, svme",
        "span, non_contrastive",
        "span, kise_pairs",
    ],
)
def test_identity_between_objectives(name: str) -> None:
    left, right = identities()[name]
    assert abs(left - right) < tol(np.float64, size=1000)


def check_least(
    loss: Any,
    shapes: list[tuple[int, ...]],
    optimum: list[np.ndarray],
    expected: float,
    smooth: bool,
    p: np.ndarray,
) -> None:
    """The value is attained at the optimum, and no search finds a lower one.

    At a kink the search stops early: it shows there that nothing lies below.
    """
    attained = float(jax.jit(loss)(*optimum))
    assert abs(attained - expected) < tol(np.float64, size=100)
    value, found = minimise(loss, shapes)
    assert value > expected - VALUE
    if smooth:
        assert value < expected + VALUE
        centred = found[0] - p @ found[0]
        assert abs(np.abs(centred) - np.abs(optimum[0])).max() < 1e-5


@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_hinge_never_collapses_and_is_exact_from_a_threshold_on(
    strength: float,
) -> None:
    """√(θ + ε) = min(1, c / (2 (1 − s²))) for one function."""
    gap = 1 - S2[0]
    root = min(1.0, strength / (2 * gap))
    theta = root**2 - 1e-4
    expected = (gap * theta + strength * (1 - root)) / (1 + strength + 1)
    phi = np.sqrt(theta) * LAW.left[:, :1]
    psi = LAW.values[0] * np.sqrt(theta) * LAW.right[:, :1]
    loss = on_pairs(losses.svme, constraint=losses.HingePenalty(variance=strength))
    check_least(loss, [(NUM_X, 1), (NUM_A, 1)], [phi, psi], expected, root < 1, LAW.p_x)


@pytest.mark.slow
@pytest.mark.parametrize("variance", [1.0, 25.0])
def test_vicreg_variance_of_one_function(variance: float) -> None:
    """√(θ + ε) = min(1, μ / (4 λ (1 − s²)))."""
    gap = 2 * (1 - S2[0])
    root = min(1.0, variance / (2 * gap))
    theta = root**2 - 1e-4
    options: dict[str, Any] = {"invariance": 1.0, "variance": variance}
    check_least(
        on_views(losses.vicreg, **options),
        [(NUM_A, 1)],
        [np.sqrt(theta) * LAW.right[:, :1]],
        gap * theta + variance * (1 - root),
        root < 1,
        LAW.p_a,
    )


@pytest.mark.parametrize(("coefficients", "rank"), [((1.0, 1.0), 2), ((0.6, 0.3), 1)])
def test_hinge_learns_the_span_unless_coordinates_copy_one_another(
    coefficients: tuple[float, float], rank: int
) -> None:
    penalty = losses.HingePenalty(*coefficients)
    _, (phi, _) = minimise(
        on_pairs(losses.svme, constraint=penalty), [(NUM_X, WIDTH), (NUM_A, WIDTH)]
    )
    variances, directions = np.linalg.eigh(covariance(phi, LAW.p_x))
    assert (variances > 0.1).sum() == rank
    learned = phi @ directions[:, WIDTH - rank :]
    assert largest_sine(learned, LAW.left[:, :rank], LAW.p_x) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("coefficient", "rank"), [(1.0, 1), (25.0, 2)])
def test_published_vicreg_copies_the_first_function(
    coefficient: float, rank: int
) -> None:
    loss = on_views(losses.vicreg, covariance=coefficient)
    _, (psi,) = minimise(loss, [(NUM_A, WIDTH)], 8)
    variances, directions = np.linalg.eigh(covariance(psi, LAW.p_a))
    assert (variances > 0.05).sum() == rank
    learned = psi @ directions[:, WIDTH - rank :]
    assert largest_sine(learned, LAW.right[:, :rank], LAW.p_a) < 1e-4


@pytest.mark.slow
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


def jaxpr_facts(jaxpr: Any) -> tuple[set[str], int]:
    """Names of all primitives (no `eigh` of branches), size of the largest array."""
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
                if equation.primitive.name == "cond":
                    more -= {"eigh"}  # of dependent columns; it takes no other shape
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


@pytest.mark.slow
def test_solved_svme_is_least_at_the_exact_functions() -> None:
    """Of many copies of the law's outcomes few pairs are left out."""
    copies, at = 400, LAW.pairs
    first, second = np.tile(at.first, copies), np.tile(at.second, copies)
    weights = np.tile(at.weights / copies, copies)

    def loss(phi: Any, psi: Any) -> Any:
        return losses.svme(
            phi[first], psi[second], constraint=EXACT, solved=True, weights=weights
        )

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    rng = np.random.default_rng(0)
    phi = LAW.left[:, :WIDTH] @ rng.normal(size=(WIDTH, WIDTH))
    psi = LAW.right[:, : WIDTH + 1] @ rng.normal(size=(WIDTH + 1, WIDTH + 1))
    value, slopes = run(phi, psi)
    assert abs(value - (WIDTH - TOP.sum())) < 1 / copies
    assert max(float(jnp.abs(slope).max()) for slope in slopes) < 1 / copies
    for size in (0.03, 1.0):
        elsewhere = [z + size * rng.normal(size=z.shape) for z in (phi, psi)]
        assert run(*elsewhere)[0] > value


@pytest.mark.slow
@pytest.mark.parametrize("given", [0, 1], ids=["phi", "psi"])
def test_solved_svme_has_the_derivative_of_finite_differences(given: int) -> None:
    pair = [RNG.normal(size=(9, 2)), RNG.normal(size=(9, 3))]
    loss = jax.jit(partial(losses.svme, solved=True, weights=RNG.uniform(1, 2, 9)))
    gradient = np.asarray(jax.jit(jax.grad(loss, argnums=given))(*pair))
    step = 1e-6
    for row, column in ((0, 0), (5, 1)):
        ends = []
        for sign in (1, -1):
            moved = [z.copy() for z in pair]
            moved[given][row, column] += sign * step
            ends.append(float(loss(*moved)))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope - gradient[row, column]) < 1e-8


def test_running_moments_are_averages_from_the_first_batch_on() -> None:
    batches = RNG.normal(size=(3, 8, 2)) @ np.array([[1.0, 0.5], [0, 1]]) + 2
    moments = losses.init_moments(2, np.float64)
    update = jax.jit(partial(losses.update_moments, decay=0.5))
    for batch in batches:
        moments = update(moments, batch)
    shares = np.array([1, 2, 4]) / 7
    mean = np.tensordot(shares, batches.mean(1), 1)
    cov = np.tensordot(shares, [np.cov(batch.T) for batch in batches], 1)
    exact = tol(np.float64, size=10)
    assert np.abs(losses.running_mean(moments) - mean).max() < exact
    assert np.abs(losses.running_covariance(moments) - cov).max() < exact
    white = np.asarray(jax.jit(partial(losses.whiten, ridge=0.0))(batches[0], moments))
    factor = np.linalg.cholesky(cov)
    expected = np.linalg.solve(factor, (batches[0] - mean).T).T
    assert np.abs(white - expected).max() < tol(np.float64, size=1000)


@pytest.mark.slow
def test_running_moments_before_any_batch_are_the_batch() -> None:
    f, g = np.random.default_rng(0).normal(size=(2, 12, 2))
    begun = losses.svme(f, g, moments=losses.init_moments(2, np.float64))
    assert abs(float(begun) - float(losses.svme(f, g))) < tol(np.float64)


def test_running_moments_leave_the_scale_free() -> None:
    """No gradient along (φ, ψ) itself, whatever the running covariance."""
    f = RNG.normal(size=(8, 2))
    g = f + RNG.normal(size=(8, 2)) / 2
    C = np.cov(f.T) * np.array([[1.3, 0.9], [0.9, 1.1]])
    moments = losses.RunningMoments(jnp.zeros(2), jnp.asarray(C), jnp.ones(()))
    loss = partial(losses.svme, moments=moments, constraint=EXACT)
    value, (up, down) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(f, g)
    along = np.sum(np.asarray(up) * f) + np.sum(np.asarray(down) * g)
    assert abs(along) < tol(np.float64, size=100)
    residual = f - g - (f - g).mean(0)
    B = np.cov(f.T, bias=True) - residual.T @ residual / 8
    exact = 2 - np.trace(np.linalg.solve(C, B))
    assert abs(float(value) - exact) < tol(np.float64, size=100)


def test_weights_are_repeated_rows() -> None:
    x = RNG.normal(size=(3, 2))
    law = batch_of(jnp.asarray(x), weights=[1, 2, 1])
    again = batch_of(jnp.asarray(x[[0, 1, 1, 2]]))
    mean, moment = law.mean(jnp.asarray(x)), law.moment(jnp.asarray(x), jnp.asarray(x))
    y = jnp.asarray(x[[0, 1, 1, 2]])
    assert np.abs(mean - again.mean(y)).max() < tol(np.float64)
    assert np.abs(moment - again.moment(y, y)).max() < tol(np.float64)
    assert float(law.collision()) == 0.375
