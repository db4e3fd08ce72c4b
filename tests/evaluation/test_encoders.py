import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import evaluation
from tests.conftest import X64
from tests.evaluation.finite import finite, random_context, with_an_empty_row
from tests.tolerances import tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

CONTEXT = random_context(0)
RNG = np.random.default_rng(11)
PHI = RNG.normal(size=(9, 3))
TIGHT = tol(float, factor=10, size=100)

# Compiled, since eager calls compile each operation; errors are tested eagerly.
ratio_trace = jax.jit(evaluation.ratio_trace)
ritz_values = jax.jit(evaluation.ritz_values)
trace_gap = jax.jit(evaluation.trace_gap, static_argnames="complete")
compatibility = jax.jit(evaluation.compatibility)
target_energy = jax.jit(evaluation.target_energy)
class_energy = jax.jit(evaluation.class_energy, static_argnums=3)
ritz_of_many = jax.jit(jax.vmap(lambda phi: evaluation.ritz_values(phi, CONTEXT.op)))


def covariances(phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C = Cov_{P_X} Φ and B = Cov_{P_A} T* Φ, from their definitions."""
    image = (CONTEXT.table / CONTEXT.p_a).T @ phi
    phi, image = phi - CONTEXT.p_x @ phi, image - CONTEXT.p_a @ image
    return (CONTEXT.p_x * phi.T) @ phi, (CONTEXT.p_a * image.T) @ image


def test_ratio_trace_follows_its_definition():
    C, B = covariances(PHI)
    expected = np.trace(np.linalg.solve(C, B))
    np.testing.assert_allclose(ratio_trace(PHI, CONTEXT.op), expected, rtol=TIGHT)


def test_ritz_values_solve_the_generalised_eigenproblem():
    C, B = covariances(PHI)
    expected = np.sort(np.linalg.eigvals(np.linalg.solve(C, B)).real)[::-1]
    np.testing.assert_allclose(ritz_values(PHI, CONTEXT.op), expected, atol=TIGHT)


def test_ratio_trace_sees_only_the_span():
    mixed = PHI @ np.diag([1e6, 1.0, 1e-6]) @ RNG.normal(size=(3, 3))
    shifted = PHI @ RNG.normal(size=(3, 3)) + 5
    truth = ratio_trace(PHI, CONTEXT.op)
    np.testing.assert_allclose(ratio_trace(shifted, CONTEXT.op), truth, rtol=TIGHT)
    np.testing.assert_allclose(  # the condition number of the map is 1e12
        ratio_trace(mixed, CONTEXT.op), truth, rtol=tol(float, factor=1e13)
    )


def test_columns_of_very_different_scale_lose_nothing():
    scaled = PHI * np.array([1e8, 1.0, 1e-8])[None, :]
    np.testing.assert_allclose(
        ratio_trace(scaled, CONTEXT.op),
        ratio_trace(PHI, CONTEXT.op),
        rtol=TIGHT,
    )


def test_repeated_and_constant_columns_add_nothing():
    deficient = np.column_stack([PHI, PHI @ [1, 2, 3], np.full(9, 1e3)])
    ritz = ritz_values(deficient, CONTEXT.op)
    np.testing.assert_allclose(ritz[:3], ritz_values(PHI, CONTEXT.op), atol=TIGHT)
    np.testing.assert_allclose(ritz[3:], 0, atol=TIGHT)


def test_the_singular_functions_attain_the_largest_ratio_trace():
    top = CONTEXT.left[:, :3] @ RNG.normal(size=(3, 3))
    ritz = ritz_values(top, CONTEXT.op)
    np.testing.assert_allclose(ritz, CONTEXT.values[:3] ** 2, atol=TIGHT)


def test_ritz_values_never_exceed_the_truth():
    ritz = ritz_of_many(RNG.normal(size=(500, 9, 3)))
    assert (np.asarray(ritz) <= CONTEXT.values[:3] ** 2 + TIGHT).all()


def test_rows_of_no_mass_do_not_count():
    rest, op = with_an_empty_row(1)
    phi = np.vstack([np.full((1, 3), 1e3), rest.left[:, :3]])
    np.testing.assert_allclose(ritz_values(phi, op), rest.values[:3] ** 2, atol=TIGHT)
    np.testing.assert_allclose(compatibility(phi[:, 0], op), rest.values[0], rtol=TIGHT)


def test_embeddings_must_have_the_rows_of_the_operator():
    with pytest.raises(ValueError, match=r"phi must have 9 rows; got shape \(8, 3\)"):
        evaluation.ratio_trace(PHI[:8], CONTEXT.op)
    with pytest.raises(ValueError, match=r"at least 1 column; got shape \(9, 0\)"):
        evaluation.ratio_trace(PHI[:, :0], CONTEXT.op)


def test_ratio_trace_has_the_right_gradient():
    direction, step = RNG.normal(size=PHI.shape), 1e-6
    slope = ratio_trace(PHI + step * direction, CONTEXT.op)
    slope -= ratio_trace(PHI - step * direction, CONTEXT.op)
    gradient = jax.jit(jax.grad(ratio_trace))(jnp.asarray(PHI), CONTEXT.op)
    np.testing.assert_allclose(
        (gradient * direction).sum(), slope / (2 * step), rtol=1e-6
    )


@pytest.mark.slow
def test_trace_gap_follows_its_definition():
    energy, ritz = CONTEXT.values**2, ritz_values(PHI, CONTEXT.op)
    expected = min(energy[: d + 1].sum() - ritz[:d].sum() for d in range(4))
    gap = trace_gap(PHI, CONTEXT.op, CONTEXT.values)
    np.testing.assert_allclose(gap, expected, rtol=TIGHT)


def test_trace_gap_of_the_contexture_is_the_next_energy():
    gap = trace_gap(CONTEXT.left[:, :3], CONTEXT.op, CONTEXT.values)
    np.testing.assert_allclose(gap, CONTEXT.values[3] ** 2, rtol=TIGHT)


def test_trace_gap_needs_one_value_more_than_dimensions():
    with pytest.raises(ValueError, match="at least 4 values; got 3"):
        evaluation.trace_gap(PHI, CONTEXT.op, CONTEXT.values[:3])
    complete = trace_gap(PHI, CONTEXT.op, CONTEXT.values[:3], complete=True)
    padded = np.where(np.arange(8) < 3, CONTEXT.values, 0)
    expected = trace_gap(PHI, CONTEXT.op, padded)
    np.testing.assert_allclose(complete, expected, rtol=TIGHT)


def test_trace_gap_bound_is_vacuous_for_a_gap_as_large_as_the_first_energy():
    assert float(evaluation.trace_gap_bound(0.25, 0.5, 0.6)) == 1.0
    assert float(evaluation.trace_gap_bound(0.0, 0.5, 0.5)) == 0.0


def test_trace_gap_bound_refuses_what_cannot_be():
    with pytest.raises(ValueError, match=r"epsilon must be at least 1 - s_1 = 0\.5"):
        evaluation.trace_gap_bound(0.1, 0.5, 0.4)
    with pytest.raises(ValueError, match="gap must be non-negative"):
        evaluation.trace_gap_bound(-0.1, 0.5, 0.6)
    with pytest.raises(ValueError, match=r"largest must be in \(0, 1\]"):
        evaluation.trace_gap_bound(0.1, 0.0, 0.6)


def test_compatibility_is_the_mean_of_the_energies():
    u = RNG.normal(size=8)
    expected = np.sqrt((CONTEXT.values**2 * u**2).sum() / (u**2).sum())
    found = compatibility(CONTEXT.left @ u + 3.0, CONTEXT.op)
    np.testing.assert_allclose(found, expected, rtol=TIGHT)


def test_compatibility_of_columns_is_that_of_each():
    found = compatibility(CONTEXT.left[:, :4], CONTEXT.op)
    np.testing.assert_allclose(found, CONTEXT.values[:4], rtol=TIGHT)


@pytest.mark.slow
def test_the_compatibility_of_a_constant_is_refused():
    constant = np.column_stack([PHI[:, 0], np.full(9, 0.1)])
    with pytest.raises(ValueError, match=r"f must vary.*constant column\(s\) \[1\]"):
        evaluation.compatibility(constant, CONTEXT.op)
    traced = compatibility(constant, CONTEXT.op)
    np.testing.assert_array_equal(np.isnan(traced), [False, True])


def test_energies_of_a_target_are_the_gains_of_the_best_probe():
    target = RNG.normal(size=(9, 2))
    energy = target_energy(target, CONTEXT.left, CONTEXT.p_x)
    root = np.sqrt(CONTEXT.p_x)[:, None]
    centred = root * (target - CONTEXT.p_x @ target)
    for d in (1, 4):
        design = root * np.column_stack([np.ones(9), CONTEXT.left[:, :d]])
        fit = design @ np.linalg.lstsq(design, centred)[0]
        explained = (fit**2).sum() / (centred**2).sum()
        np.testing.assert_allclose(
            energy.fractions[:d].sum(), explained, rtol=tol(float, size=100)
        )


def test_all_functions_together_hold_all_the_energy():
    numeric = target_energy(PHI[:, :2], CONTEXT.left, CONTEXT.p_x)
    classes = class_energy(np.arange(9) % 4, CONTEXT.left, CONTEXT.p_x, 5)
    for energy in (numeric, classes):
        np.testing.assert_allclose(energy.fractions.sum(), 1, rtol=TIGHT)
        np.testing.assert_allclose(energy.remainder, 0, atol=TIGHT)


def test_the_remainder_is_what_the_functions_do_not_hold():
    energy = target_energy(PHI[:, 0], CONTEXT.left[:, :4], CONTEXT.p_x)
    expected = 1 - energy.fractions.sum()
    assert 0 < float(energy.remainder) < 1
    np.testing.assert_allclose(energy.remainder, expected, rtol=TIGHT)


@pytest.mark.slow
def test_the_energy_of_classes_is_the_variance_between_them():
    y = np.array([7, 7, -2, -2, 7, 0, 0, -2, 7])
    energy = evaluation.class_energy(y, CONTEXT.left[:, :4], CONTEXT.p_x)
    for i in range(4):
        mu, between = CONTEXT.left[:, i], 0.0
        for label in (-2, 0, 7):
            p = CONTEXT.p_x * (y == label)
            between += (p @ mu) ** 2 / p.sum()
        np.testing.assert_allclose(energy.fractions[i], between / 2, rtol=TIGHT)


def test_class_energy_compiles_when_told_the_number_of_classes():
    y = np.arange(9) % 3
    energy = evaluation.class_energy(y, CONTEXT.left[:, :4], CONTEXT.p_x)
    compiled = class_energy(y, CONTEXT.left[:, :4], CONTEXT.p_x, 5)
    np.testing.assert_allclose(compiled.fractions, energy.fractions, rtol=TIGHT)


@pytest.mark.slow
def test_targets_without_energy_or_of_the_wrong_kind_are_refused():
    left, p_x = CONTEXT.left, CONTEXT.p_x
    with pytest.raises(ValueError, match="target must vary"):
        evaluation.target_energy(np.ones(9), left, p_x)
    with pytest.raises(ValueError, match="at least 2 classes with mass; got 1"):
        evaluation.class_energy(np.zeros(9, int), left, p_x)
    with pytest.raises(TypeError, match="labels must hold integer classes, or text"):
        evaluation.class_energy(np.zeros(9), left, p_x)
    with pytest.raises(ValueError, match=r"labels must have shape \(9,\); got \(8,\)"):
        evaluation.class_energy(np.zeros(8, int), left, p_x)
    with pytest.raises(ValueError, match=r"labels must be in 0..1; got 2"):
        evaluation.class_energy(np.arange(9) % 3, left, p_x, 2)
    with pytest.raises(TypeError, match="num_classes"):
        jax.jit(lambda y: evaluation.class_energy(y, left, p_x))(np.arange(9))


def test_the_labels_of_a_label_context_hold_no_energy_elsewhere():
    y = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2])
    context = finite(np.eye(3)[y])
    energy = class_energy(y, context.left, context.p_x, 5)
    expected = np.where(np.arange(8) < 2, 0.5, 0)
    np.testing.assert_allclose(energy.fractions, expected, atol=TIGHT)
