import jax
import numpy as np
import pytest
from scipy import optimize

from contexture_jax import evaluation
from tests.conftest import X64
from tests.evaluation.finite import error_of_many, with_an_empty_row
from tests.tolerances import tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(5)
SPECTRUM = np.array([0.9, 0.6, 0.5, 0.3, 0.1, 0.0])
# At the edge of feasibility the dual is only good to eps^(1/2), by design.
EDGE = float(np.sqrt(np.finfo(float).eps)) * 10
TIGHT = tol(float, factor=10, size=100)

formula = jax.jit(evaluation.worst_case_error, static_argnums=1)
exact_error = jax.jit(evaluation.worst_case_error_of_coefficients)
error_of_operator = jax.jit(evaluation.worst_case_error_of)


def inside(s: np.ndarray, share: float) -> float:
    """An ε that lies `share` of the way into the range of Thm 16."""
    low, high = 1 - s[0], 1 - np.sqrt((s[0] ** 2 + s[1] ** 2) / 2)
    return low + share * (high - low)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_contexture_attains_the_formula_inside_its_range(dim, share):
    epsilon = inside(SPECTRUM, share)
    result = formula(SPECTRUM, dim, epsilon)
    energy = SPECTRUM**2
    expected = (energy[0] - (1 - epsilon) ** 2) / (energy[0] - energy[dim])
    np.testing.assert_allclose(result.value, expected, rtol=TIGHT)
    assert bool(result.inside_range)
    exact = exact_error(np.eye(6)[:, :2] * (np.arange(2) < dim), SPECTRUM, epsilon)
    np.testing.assert_allclose(exact, expected, atol=TIGHT)


def test_no_encoder_beats_the_formula_inside_its_range():
    shares = RNG.uniform(size=300)
    epsilons = np.array([inside(SPECTRUM, share) for share in shares])
    least = np.array([formula(SPECTRUM, 2, e).value for e in epsilons])
    # Half of the encoders are near the contexture, where it is hardest to lose.
    scale = np.where(np.arange(300) < 150, 0.1, 1.0)[:, None, None]
    encoders = np.eye(6)[None, :, :2] + scale * RNG.normal(size=(300, 6, 2))
    errors = np.asarray(error_of_many(encoders, np.tile(SPECTRUM, (300, 1)), epsilons))
    assert (errors >= least - TIGHT).all()
    assert (errors[:150] < 1).mean() > 0.5  # the trials are not vacuous


def test_the_dual_value_is_attained_by_a_target():
    """A constrained search over targets finds the value of the dual."""
    s, epsilon = SPECTRUM, 0.4
    for _ in range(3):
        phi = RNG.normal(size=(6, 2))
        basis = np.linalg.qr(phi)[0]

        def negative_error(f, basis=basis):
            f = f / np.linalg.norm(f)
            return ((basis.T @ f) ** 2).sum() - 1

        def slack(f):
            return (s**2 * f**2).sum() / (f**2).sum() - (1 - epsilon) ** 2

        constraint = {"type": "ineq", "fun": slack}
        found = []
        for _ in range(8):
            start = RNG.normal(size=6) * s
            result = optimize.minimize(
                negative_error, start, constraints=constraint, options={"ftol": 1e-14}
            )
            if slack(result.x) > -1e-9:
                found.append(-result.fun)
        exact = exact_error(phi, s, epsilon)
        # SLSQP stops at 1e-7 or so; a target can never do worse than the dual says.
        assert max(found) <= float(exact) + 1e-7
        np.testing.assert_allclose(max(found), exact, atol=1e-6)


@pytest.mark.slow
def test_the_two_forms_agree_and_ignore_rows_of_no_mass():
    context, op = with_an_empty_row(2)
    phi = context.left[:, :2] + 0.1 * RNG.normal(size=(8, 2))
    coefficients = context.left.T @ (context.p_x[:, None] * phi)
    epsilon = 1 - 0.8 * context.values[0]
    expected = exact_error(coefficients, context.values, epsilon)
    phi = np.vstack([np.full((1, 2), 9.0), phi])
    found = error_of_operator(phi, op, epsilon)
    np.testing.assert_allclose(found, expected, atol=TIGHT)


def test_at_the_edge_only_the_first_function_is_compatible():
    phi = RNG.normal(size=(6, 2))
    held = (np.linalg.qr(phi)[0][0] ** 2).sum()
    exact = exact_error(phi, SPECTRUM, 1 - SPECTRUM[0])
    np.testing.assert_allclose(exact, 1 - held, atol=EDGE)


def test_without_a_demand_on_compatibility_some_target_is_missed():
    phi = RNG.normal(size=(6, 2))
    exact = exact_error(phi, SPECTRUM, 1.0)
    np.testing.assert_allclose(exact, 1, atol=TIGHT)


def test_an_encoder_of_everything_misses_nothing():
    context, op = with_an_empty_row(2)
    exact = error_of_operator(np.vstack([np.zeros((1, 7)), context.left]), op, 0.9)
    np.testing.assert_allclose(exact, 0, atol=TIGHT)


def test_the_exact_error_has_the_right_gradient():
    phi, direction = RNG.normal(size=(2, 6, 2))

    def error(t):
        return exact_error(phi + t * direction, SPECTRUM, 0.15)

    step = 1e-5
    slope = (error(step) - error(-step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(error))(0.0), slope, rtol=1e-5)


@pytest.mark.slow
def test_values_that_are_missing_count_as_zero_only_if_said_so():
    with pytest.raises(ValueError, match="at least 3 values; got 2"):
        evaluation.worst_case_error(SPECTRUM[:2], 2, 0.2)
    found = evaluation.worst_case_error(SPECTRUM[:2], 2, 0.2, complete=True)
    expected = (0.81 - 0.64) / 0.81
    np.testing.assert_allclose(found.value, expected, rtol=TIGHT)


def test_the_formula_compiles_and_gives_nan_for_the_impossible():
    for judge in (lambda e: formula(SPECTRUM, 2, e).value, error_of_top_two):
        assert np.isnan(judge(0.05))
        assert np.isfinite(judge(0.15))


def error_of_top_two(epsilon: float):
    return exact_error(np.eye(6)[:, :2], SPECTRUM, epsilon)
