"""Each objective minimised over function values on an exact law: minimum and span."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import losses
from tests.losses.laws import (
    LAW,
    NUM_A,
    NUM_X,
    WIDTH,
    Law,
    Weighted,
    alignment,
    basis,
    covariance,
    descend,
    enumerated,
    largest_sine,
    minimise,
)
from tests.tolerances import tol

# BFGS stops at a gradient of 1e-9: values are then right to rounding, angles to 1e-8.
VALUE = tol(np.float64, factor=1e6)
ANGLE = tol(np.float64, factor=1e9)
EXACT = losses.Whiten(ridge=0.0)

S2 = LAW.values**2
TOP = S2[:WIDTH]
BOTH = [(NUM_X, WIDTH), (NUM_A, WIDTH)]
INPUTS = [(NUM_X, WIDTH)]
VIEWS = [(NUM_A, WIDTH)]


ALPHA = np.array([0.3, 0.9, 0.2])


def on_pairs(loss: Callable[..., Any], law: Law = LAW, **options: Any) -> Any:
    """The loss of (φ, ψ, …) values under the joint law."""
    at = law.pairs
    return lambda phi, psi, *rest: loss(
        phi[at.first], psi[at.second], *rest, weights=at.weights, **options
    )


def on_views(loss: Callable[..., Any], at: Weighted = LAW.views, **options: Any) -> Any:
    """The loss of one function's values at both ends of a pair."""
    return lambda psi: loss(
        psi[at.first], psi[at.second], weights=at.weights, **options
    )


def on_kernel(kernel: np.ndarray, loss: Any = losses.kise, **options: Any) -> Any:
    return lambda phi: loss(phi, kernel, weights=LAW.p_x, **options)


class Case(NamedTuple):
    loss: Any
    shapes: list[tuple[int, ...]]
    minimum: float
    side: str  # which exact functions the first parameter spans


CASES = {
    "svme": Case(on_pairs(losses.svme, constraint=EXACT), BOTH, WIDTH - TOP.sum(), "x"),
    "kise": Case(
        on_kernel(LAW.kernel, constraint=EXACT), INPUTS, WIDTH - TOP.sum(), "x"
    ),
    "kise_pairs": Case(
        on_views(losses.kise_pairs, LAW.inputs, constraint=EXACT),
        INPUTS,
        WIDTH - TOP.sum(),
        "x",
    ),
    "lora_kernel": Case(
        on_kernel(LAW.kernel, losses.lora_kernel), INPUTS, -(TOP**2).sum(), "x"
    ),
    "spectral_contrastive": Case(
        on_views(losses.spectral_contrastive), VIEWS, -(TOP**2).sum() / 2, "a"
    ),
    "spectral_contrastive_published, centred": Case(
        on_views(losses.spectral_contrastive_published, unbiased=False, centre=True),
        VIEWS,
        -(TOP**2).sum(),
        "a",
    ),
    "non_contrastive": Case(
        on_views(losses.non_contrastive, constraint=EXACT),
        VIEWS,
        2 * (1 - TOP).sum(),
        "a",
    ),
    "lora_svd": Case(on_pairs(losses.lora_svd), BOTH, -TOP.sum(), "x"),
    "lora_evd": Case(on_views(losses.lora_evd), VIEWS, -(TOP**2).sum(), "a"),
    "vamp, r = 1": Case(
        on_pairs(losses.vamp, r=1, ridge=0.0), BOTH, -np.sqrt(TOP).sum(), "x"
    ),
    "vamp, r = 2": Case(on_pairs(losses.vamp, ridge=0.0), BOTH, -TOP.sum(), "x"),
    "vamp_e": Case(on_pairs(losses.vamp_e), [*BOTH, (WIDTH, WIDTH)], -TOP.sum(), "x"),
    "ncp": Case(
        on_pairs(losses.ncp, regularisation=0.1), [*BOTH, (WIDTH,)], -TOP.sum(), "x"
    ),
    "orbital, p = 1": Case(
        on_views(losses.orbital_minimisation), VIEWS, -TOP.sum(), "a"
    ),
    "orbital, p = 2": Case(
        on_views(losses.orbital_minimisation, order=2), VIEWS, -TOP.sum(), "a"
    ),
    "orbital, shifted": Case(
        on_views(losses.orbital_minimisation, shift=0.5),
        VIEWS,
        -(TOP + 0.5).sum(),
        "a",
    ),
    "class_balanced": Case(
        lambda phi: losses.class_balanced(
            phi[LAW.pairs.first],
            LAW.pairs.second,
            NUM_A,
            weights=LAW.pairs.weights,
            ridge=0.0,
        ),
        INPUTS,
        NUM_A - 1 - TOP.sum(),
        "x",
    ),
    "class_balanced, a given head": Case(
        lambda phi, W, b: losses.class_balanced(
            phi[LAW.pairs.first],
            LAW.pairs.second,
            NUM_A,
            class_probabilities=LAW.p_a,
            head=(W, b),
            weights=LAW.pairs.weights,
        ),
        [*INPUTS, (WIDTH, NUM_A), (NUM_A,)],
        NUM_A - 1 - TOP.sum(),
        "x",
    ),
}


# Close to other cases, and longer.
SLOW = ("class_balanced, a given head", "orbital, p = 2")


@pytest.mark.slow_cases("vamp, r = 2")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in CASES
    ],
)
def test_minimum_and_span_are_those_of_the_theory(name: str) -> None:
    case = CASES[name]
    value, found = minimise(case.loss, case.shapes)
    assert abs(value - case.minimum) < VALUE
    exact, p = (LAW.left, LAW.p_x) if case.side == "x" else (LAW.right, LAW.p_a)
    assert largest_sine(found[0], exact[:, :WIDTH], p) < ANGLE
    if case.shapes[:2] == BOTH:
        assert largest_sine(found[1], LAW.right[:, :WIDTH], LAW.p_a) < ANGLE


def test_svme_learns_psi_as_the_image_of_phi() -> None:
    case = CASES["svme"]
    _, (phi, psi) = minimise(case.loss, case.shapes)
    image = LAW.table.T @ (phi - LAW.p_x @ phi) / LAW.p_a[:, None]
    centred = psi - LAW.p_a @ psi
    assert np.abs(image - centred).max() < ANGLE


def test_spectral_contrastive_learns_variances_that_are_the_spectrum() -> None:
    case = CASES["spectral_contrastive"]
    _, (psi,) = minimise(case.loss, case.shapes)
    variances = np.linalg.eigvalsh(covariance(psi, LAW.p_a))[::-1]
    assert np.abs(variances - TOP).max() < ANGLE


def test_the_published_contrastive_loss_spends_a_slot_on_the_constant() -> None:
    value, (psi,) = minimise(
        on_views(losses.spectral_contrastive_published, unbiased=False), VIEWS
    )
    assert abs(value + 1 + S2[0] ** 2) < VALUE
    expected = np.column_stack([np.ones(NUM_A), LAW.right[:, 0]])
    assert largest_sine(psi, expected, LAW.p_a, centre=False) < ANGLE


def test_ncp_orders_by_its_singular_values() -> None:
    case = CASES["ncp"]
    _, (phi, psi, sigma) = minimise(case.loss, case.shapes)
    order = np.argsort(-np.abs(sigma))
    assert np.abs(np.abs(sigma[order]) - LAW.values[:WIDTH]).max() < ANGLE
    for functions, exact, p in ((phi, LAW.left, LAW.p_x), (psi, LAW.right, LAW.p_a)):
        matched = alignment(functions[:, order], exact[:, :WIDTH], p)
        assert np.abs(matched - np.eye(WIDTH)).max() < ANGLE
        assert np.abs(covariance(functions, p) - np.eye(WIDTH)).max() < ANGLE


def test_orbital_minimisation_learns_an_orthonormal_basis() -> None:
    case = CASES["orbital, p = 1"]
    _, (psi,) = minimise(case.loss, case.shapes)
    assert np.abs(covariance(psi, LAW.p_a) - np.eye(WIDTH)).max() < ANGLE


def test_nested_orbital_minimisation_learns_orthonormal_functions() -> None:
    """The minimum with weights and a shift of one's own: −Σ m_l (λ_l + κ)."""
    alpha = np.array([0.3, 0.9])
    loss = on_views(
        losses.orbital_minimisation, nesting="joint", shift=0.5, mode_weights=alpha
    )
    value, (psi,) = minimise(loss, VIEWS)
    assert abs(value + (np.array([1.2, 0.9]) * (TOP + 0.5)).sum()) < VALUE
    matched = alignment(psi, LAW.right[:, :WIDTH], LAW.p_a)
    assert np.abs(matched - np.eye(WIDTH)).max() < ANGLE
    assert np.abs(covariance(psi, LAW.p_a) - np.eye(WIDTH)).max() < ANGLE


@pytest.mark.slow_cases("orbital", "low rank")
@pytest.mark.parametrize(
    ("nested", "plain", "laws"),
    [
        (
            on_views(losses.orbital_minimisation, nesting="joint", mode_weights=ALPHA),
            on_views(losses.orbital_minimisation),
            (LAW.p_a,),
        ),
        (
            on_pairs(losses.joint_nesting, mode_weights=ALPHA),
            on_pairs(losses.lora_svd),
            (LAW.p_x, LAW.p_a),
        ),
    ],
    ids=["orbital", "low rank"],
)
def test_joint_nesting_sums_the_objective_of_the_first_functions(
    nested: Any, plain: Any, laws: tuple[np.ndarray, ...]
) -> None:
    rng = np.random.default_rng(2)
    given = [rng.normal(size=(len(p), len(ALPHA))) for p in laws]
    parts = [
        alpha * float(plain(*(z[:, : j + 1] for z in given)))
        for j, alpha in enumerate(ALPHA)
    ]
    assert abs(float(nested(*given)) - sum(parts)) < tol(np.float64)


@pytest.mark.slow
def test_sequential_orbital_minimisation_has_the_value_of_the_plain_one() -> None:
    """And −4 A f_l + 2 Σ_{i≤l} (f_i R_il + A f_i C_il) as its gradient."""
    rng = np.random.default_rng(1)
    psi = rng.normal(size=(NUM_A, 3))
    psi = psi - LAW.p_a @ psi
    walk = LAW.table / LAW.p_x[:, None]
    A = (LAW.table.T / LAW.p_a[:, None]) @ walk + 0.5 * np.eye(NUM_A)
    plain = on_views(losses.orbital_minimisation, shift=0.5)
    nested = on_views(losses.orbital_minimisation, shift=0.5, nesting="sequential")
    value, gradient = jax.jit(jax.value_and_grad(nested))(psi)
    assert abs(value - jax.jit(plain)(psi)) < tol(np.float64)
    C, R = covariance(psi, LAW.p_a), psi.T @ (LAW.p_a[:, None] * (A @ psi))
    # The constant, which A has and the loss has not, is orthogonal to all.
    expected = -4 * A @ psi + 2 * (psi @ np.triu(R) + A @ psi @ np.triu(C))
    found = gradient / LAW.p_a[:, None]
    assert np.abs(found - expected).max() < tol(np.float64, size=10)


def test_orbital_minimisation_falls_without_bound_on_a_negative_mode() -> None:
    walk = enumerated(np.array([[0.1, 0.4], [0.4, 0.1]]))  # eigenvalue −0.6
    side = jnp.array([[1.0], [-1.0]])
    plain, shifted = jax.jit(
        lambda phi: [
            on_views(losses.orbital_minimisation, walk, shift=shift)(phi)
            for shift in (0.0, 0.6)
        ]
    )(30 * side)
    assert float(plain) < -1e5
    assert float(shifted) > -1e-6


# Neural Eigenmaps order the functions from this α on.
COPYING = float((S2[0] - S2[1]) / S2[0] ** 2)

ORDERED = {
    "joint_nesting": on_pairs(losses.joint_nesting),
    "sequential_nesting": on_pairs(losses.sequential_nesting),
    "orbital, joint": on_views(losses.orbital_minimisation, nesting="joint"),
    "orbital, sequential": on_views(losses.orbital_minimisation, nesting="sequential"),
    "neural_ef": on_views(losses.neural_ef),
    "neural_eigenmaps": on_views(losses.neural_eigenmaps, alpha=1.2 * COPYING),
}


def in_unit_scale(loss: Any, *laws: np.ndarray) -> Any:
    """The loss as a function of √p · values, in which descent is well conditioned."""
    return lambda *scaled: loss(
        *(z / np.sqrt(p)[:, None] for z, p in zip(scaled, laws, strict=True))
    )


@pytest.mark.fast("neural_ef")
@pytest.mark.parametrize("name", ORDERED)
def test_ordered_objectives_learn_the_functions_themselves(name: str) -> None:
    rng = np.random.default_rng(3)
    two = name.endswith("nesting")
    joint = "joint" in name
    marginals = (LAW.p_x, LAW.p_a) if two else (LAW.p_a,)
    start = [rng.normal(size=(len(p), WIDTH)) / 2 for p in marginals]
    loss = in_unit_scale(ORDERED[name], *marginals)
    value, found = descend(loss, start, rate=0.1, num_steps=4000)
    mode_weights = np.array([1.0, 0.5]) if joint else np.ones(WIDTH)
    assert abs(value + (mode_weights * TOP).sum()) < VALUE
    exact = (LAW.left, LAW.right) if two else (LAW.right,)
    for scaled, truth, p in zip(found, exact, marginals, strict=True):
        matched = alignment(scaled / np.sqrt(p)[:, None], truth[:, :WIDTH], p)
        assert np.abs(matched - np.eye(WIDTH)).max() < ANGLE


def test_joint_nesting_is_exact_in_each_pair_of_functions() -> None:
    value, (phi, psi) = minimise(ORDERED["joint_nesting"], BOTH)
    assert abs(value + (np.array([1.0, 0.5]) * TOP).sum()) < VALUE
    phi, psi = phi - LAW.p_x @ phi, psi - LAW.p_a @ psi
    for l in range(WIDTH):
        product = LAW.values[l] * np.outer(LAW.left[:, l], LAW.right[:, l])
        assert np.abs(np.outer(phi[:, l], psi[:, l]) - product).max() < ANGLE


def test_sequential_nesting_has_the_gradient_of_the_theory() -> None:
    """−2 T ψ_l + 2 Σ_{i≤l} φ_i [C_ψ]_il, as a function of x; and its mirror."""
    rng = np.random.default_rng(1)
    phi, psi = rng.normal(size=(NUM_X, 3)), rng.normal(size=(NUM_A, 3))
    phi, psi = phi - LAW.p_x @ phi, psi - LAW.p_a @ psi
    loss = on_pairs(losses.sequential_nesting)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(phi, psi)
    for mine, other, found, p, T in (
        (phi, psi, gradients[0], LAW.p_x, LAW.table / LAW.p_x[:, None]),
        (psi, phi, gradients[1], LAW.p_a, LAW.table.T / LAW.p_a[:, None]),
    ):
        C = np.triu(covariance(other, LAW.p_a if other is psi else LAW.p_x))
        expected = -2 * T @ other + 2 * mine @ C
        assert np.abs(found / p[:, None] - expected).max() < tol(np.float64, size=100)


@pytest.mark.slow
def test_neural_eigenmaps_copy_below_the_threshold() -> None:
    loss = on_views(losses.neural_eigenmaps, alpha=0.8 * COPYING)
    start = [np.random.default_rng(0).normal(size=(NUM_A, WIDTH))]
    scaled = in_unit_scale(loss, LAW.p_a)
    _, (found,) = descend(scaled, start, rate=0.3, num_steps=8000)
    matched = alignment(found / np.sqrt(LAW.p_a)[:, None], LAW.right, LAW.p_a)
    assert matched[:, 0].min() > 1 - ANGLE


@pytest.mark.slow
def test_squared_error_without_bias_learns_unbalanced_modes() -> None:
    """Thm 6 and 8: the top of T Λ T*, here with Λ g = g p_a, the constant included."""
    one_hot = np.eye(NUM_A)[LAW.pairs.second]
    for bias in (False, True):
        y = np.eye(NUM_A) - bias * LAW.p_a
        M = (LAW.table / np.sqrt(LAW.p_x)[:, None]) @ y
        u, s, _ = np.linalg.svd(M)
        energy = (LAW.p_a * (y**2).sum(1)).sum()
        value, (phi,) = minimise(
            lambda phi, bias=bias: losses.squared_error(
                phi[LAW.pairs.first],
                one_hot,
                bias=bias,
                ridge=0.0,
                weights=LAW.pairs.weights,
            ),
            INPUTS,
        )
        assert abs(value - (energy - (s[:WIDTH] ** 2).sum())) < VALUE
        exact = u[:, :WIDTH] / np.sqrt(LAW.p_x)[:, None]
        assert largest_sine(phi, exact, LAW.p_x, centre=bias) < ANGLE


def test_printed_class_balanced_risk_misses_the_contexture() -> None:
    """E1: weighting the loss is another problem, by an angle of several degrees."""
    at = LAW.pairs
    _, (phi,) = minimise(
        lambda phi: losses.class_balanced(
            phi[at.first],
            at.second,
            NUM_A,
            scaling="loss",
            ridge=0.0,
            weights=at.weights,
        ),
        INPUTS,
    )
    assert largest_sine(phi, LAW.left[:, :WIDTH], LAW.p_x) > 0.05
    # What it does learn: the problem in L²(ω P_X), with the conditional target there.
    heights = 1 / np.sqrt(LAW.p_a)
    omega = (LAW.table * heights).sum(1) / LAW.p_x
    p = LAW.p_x * omega / (LAW.p_x @ omega)
    target = LAW.table * heights / (LAW.p_x * omega)[:, None]
    u, _, _ = np.linalg.svd(np.sqrt(p)[:, None] * (target - p @ target))
    learned = u[:, :WIDTH] / np.sqrt(p)[:, None]
    assert largest_sine(phi, learned, p) < ANGLE


def test_cross_entropy_reaches_the_conditional_entropy() -> None:
    at = LAW.pairs
    value, _ = minimise(
        lambda logits: losses.cross_entropy(
            logits[at.first], at.second, weights=at.weights
        ),
        [(NUM_X, NUM_A)],
        num_starts=1,
    )
    conditional = LAW.table / LAW.p_x[:, None]
    assert abs(value + (LAW.table * np.log(conditional)).sum()) < VALUE


@pytest.mark.parametrize("loss", [losses.info_nce, losses.clip])
def test_softmax_contrast_learns_the_density_ratio(loss: Callable[..., Any]) -> None:
    """Minimum log N − I(X; A); critic log dP⁺/d(P_X P_A), up to c(x) or a constant."""
    at = LAW.pairs
    shapes = [(NUM_X, NUM_A), (NUM_A, NUM_A)]
    fn = on_pairs(loss, temperature=1.0, normalise=False)
    value, (phi, psi) = minimise(fn, shapes, num_starts=1)
    log_ratio = np.log(LAW.table / np.outer(LAW.p_x, LAW.p_a))
    information = (LAW.table * log_ratio).sum()
    assert abs(value - (np.log(len(at.weights)) - information)) < VALUE
    difference = phi @ psi.T - log_ratio
    axis = 1 if loss is losses.info_nce else None
    spread = difference - difference.mean(axis=axis, keepdims=True)
    assert np.abs(spread).max() < 10 * ANGLE


def test_simclr_of_unrelated_rows_is_a_simplex() -> None:
    count, t = 4, 0.5
    value, (z,) = minimise(
        lambda z: losses.simclr(z, z, temperature=t), [(count, count - 1)]
    )
    others = 2 * (count - 1) * np.exp(-1 / ((count - 1) * t))
    assert abs(value - (-1 / t + np.log(np.exp(1 / t) + others))) < VALUE
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    simplex = (count * np.eye(count) - 1) / (count - 1)
    assert np.abs(unit @ unit.T - simplex).max() < ANGLE


def test_reconstruction_learns_the_modes_that_move_the_input() -> None:
    """Thm 11: the top of T* Λ T with k_Λ = ⟨x̃, x̃'⟩."""
    x = np.random.default_rng(2).normal(size=(NUM_X, 3))
    at = LAW.pairs
    value, (psi,) = minimise(
        lambda psi: losses.reconstruction(
            psi[at.second], x[at.first], ridge=0.0, weights=at.weights
        ),
        VIEWS,
    )
    centred = x - LAW.p_x @ x
    M = (LAW.table.T / np.sqrt(LAW.p_a)[:, None]) @ centred
    u, s, _ = np.linalg.svd(M)
    energy = (LAW.p_x @ centred**2).sum()
    assert abs(value - (energy - (s[:WIDTH] ** 2).sum())) < VALUE
    exact = u[:, :WIDTH] / np.sqrt(LAW.p_a)[:, None]
    assert largest_sine(psi, exact, LAW.p_a) < ANGLE


def test_masked_reconstruction_is_minimal_at_the_conditional_mean() -> None:
    x = np.random.default_rng(2).normal(size=(NUM_X, 3))
    mask = np.array([[1.0, 0, 1]] * NUM_A) * (np.arange(NUM_A) > 0)[:, None]
    at = LAW.pairs
    value, (guess,) = minimise(
        lambda guess: losses.masked_reconstruction(
            guess[at.second], x[at.first], mask[at.second], weights=at.weights
        ),
        [(NUM_A, 3)],
        num_starts=1,
    )
    conditional = LAW.table.T / LAW.p_a[:, None]
    variance = conditional @ x**2 - (conditional @ x) ** 2
    expected = (LAW.p_a @ (mask * variance)).sum() / (LAW.p_a @ mask).sum()
    assert abs(value - expected) < VALUE
    assert np.abs((guess - conditional @ x) * mask).max() < ANGLE


def bipartite() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weighted bipartite graph: its edge law, its degrees, and the side of a node."""
    block = np.random.default_rng(5).gamma(1.0, size=(4, 3)) + 0.3
    edges = np.block([[np.zeros((4, 4)), block], [block.T, np.zeros((3, 3))]])
    edges = edges / edges.sum()
    return edges, edges.sum(0), np.repeat([1.0, -1.0], [4, 3])


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["plain", pytest.param("lazy", marks=pytest.mark.slow), "two steps"]
)
def test_graph_objective_on_a_bipartite_graph(form: str) -> None:
    """E2: the side has s = 1; one step ranks it last, two steps first."""
    edges, p, side = bipartite()
    walk = edges / p[:, None]
    law = edges if form != "two steps" else walk.T @ (p[:, None] * walk)
    eigenvalues, vectors = np.linalg.eigh(law / np.sqrt(np.outer(p, p)))
    descending = np.argsort(-eigenvalues)
    if form == "two steps":  # 1 is double, of the constant and the side
        exact = np.vstack([np.sqrt(p) * side, vectors[:, descending[2:4]].T])
        top = np.array([1.0, *eigenvalues[descending[2:4]]])
    else:
        exact = vectors[:, descending[1:4]].T
        top = eigenvalues[descending[1:4]]
    if form == "lazy":
        top = (1 + top) / 2
    at = enumerated(law)
    value, (phi,) = minimise(
        on_views(losses.graph, at, constraint=EXACT, lazy=form == "lazy"), [(7, 3)]
    )
    assert abs(value - 2 * (1 - top).sum()) < VALUE
    assert largest_sine(phi, exact.T / np.sqrt(p)[:, None], p) < ANGLE
    learned = basis(phi, p)
    missing = np.sqrt(p) * side - learned @ (learned.T @ (np.sqrt(p) * side))
    assert abs(np.linalg.norm(missing) - (form != "two steps")) < ANGLE


def test_running_moments_lead_to_the_contexture() -> None:
    at, rng = LAW.pairs, np.random.default_rng(0)

    def step(state: Any, _: None) -> tuple[Any, Any]:
        phi, psi, moments = state
        updated = losses.update_moments(moments, phi[at.first], weights=at.weights)
        loss = on_pairs(losses.svme, constraint=EXACT, moments=updated)
        value, (up, down) = jax.value_and_grad(loss, argnums=(0, 1))(phi, psi)
        # The loss knows no scale: steps are in proportion to that of the functions.
        rate = 0.3 * jnp.mean(phi**2)
        return (phi - rate * up, psi - rate * down, updated), value

    start = (
        jnp.asarray(rng.normal(size=(NUM_X, WIDTH))),
        jnp.asarray(rng.normal(size=(NUM_A, WIDTH))),
        losses.init_moments(WIDTH, jnp.float64),
    )
    (phi, _, _), values = jax.jit(
        lambda state: jax.lax.scan(step, state, None, length=6000)
    )(start)
    assert largest_sine(np.asarray(phi), LAW.left[:, :WIDTH], LAW.p_x) < 1e-3
    assert np.isfinite(np.asarray(values)).all()
