"""Context complexity, leverage and the bounds of a probe, against closed forms."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax import evaluation
from contexture_jax._core.intervals import student_interval
from tests import oracle
from tests.conftest import X64
from tests.evaluation.finite import Finite, finite, random_context, with_an_empty_row
from tests.tolerances import promised

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

EXACT = promised(np.float64)
CONTEXT = random_context(4)
LAW = np.array([0.5, 0.3, 0.15, 0.05])

# Compiled once for each shape, where eager calls compile each operation.
kappa_squared = jax.jit(evaluation.kappa_squared)


def parity_flips(p: float, num_bits: int) -> np.ndarray:
    """Bits seen through binary symmetric channels: homogeneous."""
    one = np.array([[1 - p, p], [p, 1 - p]]) / 2
    return functools.reduce(np.kron, [one] * num_bits)


# κ_X² of tables in closed form, beside the table.
CLOSED_FORMS = {
    "labels: 1 / min p_c": (np.kron(np.diag(LAW), np.full((2, 1), 0.5)), 1 / LAW.min()),
    "A = X: 1 / min p": (np.diag(LAW), 1 / LAW.min()),
    "independent: 1": (np.outer(LAW, [0.25, 0.75]), 1.0),
    "flips: (1 + (1 − 2p)²)^d": (parity_flips(0.1, 3), (1 + 0.8**2) ** 3),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_kappa_in_closed_form(name):
    table, expected = CLOSED_FORMS[name]
    context = finite(table)
    np.testing.assert_allclose(kappa_squared(context.op), expected, rtol=EXACT)
    # sup (1 + χ²(P⁺(·|x) ‖ P_A)).
    rows = context.table / context.p_x[:, None]
    chi = ((rows - context.p_a) ** 2 / context.p_a).sum(1)
    np.testing.assert_allclose(expected, 1 + chi.max(), rtol=EXACT)
    # Σ_{i≥0} s_i² from below, with equality for homogeneous contexts.
    total = 1 + (context.values**2).sum()
    if np.ptp(context.p_x) == 0 and name != "labels: 1 / min p_c":
        np.testing.assert_allclose(expected, total, rtol=EXACT)
    assert expected >= total - EXACT


def test_kappa_of_the_zoo_is_the_energy_where_it_is_homogeneous():
    for context in (cx.zoo.lazy_ring(9, 0.2), cx.zoo.complete_graph(7)):
        op = cx.association_operator(cx.contexts.joint(context.table()))
        expected = 1 + float(context.total_energy())
        np.testing.assert_allclose(kappa_squared(op), expected, rtol=EXACT)


@pytest.mark.slow
def test_sampled_rows_bracket_kappa_and_tell_the_mass_beyond(key):
    found = evaluation.estimate_kappa_squared(CONTEXT.op, 3, key=key)
    kappa = float(kappa_squared(CONTEXT.op))
    assert found.lower <= kappa + EXACT <= found.upper + 2 * EXACT
    np.testing.assert_allclose(found.mass, 1 - 0.1 ** (1 / 3), rtol=EXACT)
    # All rows drawn: both ends are κ² itself.
    every = evaluation.estimate_kappa_squared(CONTEXT.op, 4000, key=key)
    np.testing.assert_allclose([every.lower, every.upper], kappa, rtol=EXACT)
    trace = 1 + (CONTEXT.values**2).sum()
    assert abs(every.trace.estimate - trace) < 3 * (every.trace.upper - trace + 1e-3)


@pytest.mark.slow
def test_identity_has_its_ceiling_at_rows_not_drawn(key):
    # Uniform on 6: k(x, x) = 1 / p = 6, above and below.
    op = finite(np.eye(6)).op
    found = evaluation.estimate_kappa_squared(op, 2, key=key)
    np.testing.assert_allclose([found.lower, found.upper], 6.0, rtol=EXACT)


@pytest.mark.slow
def test_the_monte_carlo_interval_covers_kappa():
    # AWGN on a grid of inputs: k(x, x) by quadrature over a.
    x = jnp.linspace(-1, 1, 12)[:, None]
    context = cx.contexts.gaussian_noise(0.75)
    a = np.linspace(-6, 6, 20_001)
    key = jax.random.key(3)
    make = functools.partial(cx.operators.monte_carlo_operator, context, x, 2000)
    # The scale of the noise, from the density itself.
    logs = cx.contexts.all_log_densities(context, jnp.asarray(a[:, None]), x, len(a))
    density = np.exp(np.asarray(logs))
    mixture = density.mean(axis=1)
    truth = ((density**2 / mixture[:, None]).sum(0) * (a[1] - a[0])).max()
    covered = 0
    for number in range(60):
        keys = jax.random.split(jax.random.fold_in(key, number))
        found = evaluation.monte_carlo_kappa_squared(make(key=keys[0]), key=keys[1])
        covered += bool(found.lower <= truth <= found.upper)
    assert covered >= 50  # of 54 at the level 0.9; it is conservative


def test_other_operators_have_no_monte_carlo_interval(key):
    with pytest.raises(TypeError, match="monte_carlo_operator"):
        evaluation.monte_carlo_kappa_squared(CONTEXT.op, key=key)


@pytest.mark.slow
def test_leverage_is_bounded_and_the_bound_is_attained():
    kappa = float(kappa_squared(CONTEXT.op))
    rank = int((CONTEXT.values > 1e-9).sum())
    lever = evaluation.probe_leverage(CONTEXT.left, CONTEXT.p_x)
    bound = evaluation.leverage_bound(CONTEXT.values, kappa)
    assert (lever <= bound + EXACT).all()
    assert np.isinf(bound[rank:]).all()
    # Labels: all s_i = 1 and k(x, x) − 1 = Σ μ_i² exactly.
    labels = finite(np.kron(np.diag(LAW), np.full((2, 1), 0.5)))
    lever = evaluation.probe_leverage(labels.left[:, :3], labels.p_x)
    bound = evaluation.leverage_bound(labels.values[:3], 1 / LAW.min())
    np.testing.assert_allclose([lever[2], bound[2]], 1 / LAW.min() - 1, rtol=EXACT)


def test_rows_without_mass_have_no_leverage():
    context, op = with_an_empty_row(2)
    left = np.vstack([np.full((1, 3), 1e6), context.left[:, :3]])
    np.testing.assert_allclose(
        evaluation.probe_leverage(left, op.p_x),
        evaluation.probe_leverage(context.left[:, :3], context.p_x),
        rtol=EXACT,
    )


def test_kappa_below_one_is_refused():
    with pytest.raises(ValueError, match="kappa_squared must be at least 1"):
        evaluation.leverage_bound([0.5], 0.9)


def test_the_tradeoff_follows_its_formula():
    a, lever, n, noise = np.array([0.5, 0.1]), np.array([1.0, 3.0]), 400, 0.3
    found = evaluation.probe_tradeoff(a, lever, n, noise, failure=0.1)
    for d in (1, 2):
        # λ by Newton from the root of 1 − λ + λ ln λ = (L / n) ln((d + 1) / failure).
        size, price = 1 + lever[d - 1], (1 + lever[d - 1]) / n * math.log((d + 1) / 0.1)
        lam = 0.8
        for _ in range(50):
            lam -= (1 - lam + lam * math.log(lam) - price) / math.log(lam)
        expected = a[d - 1] * size / (n * lam**2) + noise * (d + 1) / (n * lam)
        np.testing.assert_allclose(found.estimation[d - 1], expected, rtol=EXACT)
    np.testing.assert_allclose(
        found.least, a + noise * np.array([2, 3]) / n, rtol=EXACT
    )
    np.testing.assert_allclose(found.total, a + found.estimation, rtol=EXACT)
    # Too few labels for any d: no bound, and no d.
    few = evaluation.probe_tradeoff(a, lever, 3)
    assert np.isinf(few.total).all()
    assert int(few.best_dim) == 0


def probe_errors(context: Finite, f: np.ndarray, d: int, n: int, noise: float):
    """Errors of least squares on n rows drawn at random, and λ_min, many times."""
    rng = np.random.default_rng(d)
    phi = np.column_stack([np.ones(len(f)), context.left[:, :d]])
    errors, smallest = [], []
    for _ in range(600):
        rows = rng.choice(len(f), n, p=context.p_x)
        y = f[rows] + noise**0.5 * rng.normal(size=n)
        fitted = phi @ np.linalg.lstsq(phi[rows], y, rcond=None)[0]
        errors.append(context.p_x @ (fitted - f) ** 2)
        smallest.append(np.linalg.eigvalsh(phi[rows].T @ phi[rows] / n)[0])
    return np.array(errors), np.array(smallest)


def test_the_error_of_probes_lies_between_the_bounds():
    table = np.random.default_rng(5).gamma(2.0, size=(12, 9)) + 0.5
    context = finite(table)
    f = context.left @ np.array([1, 0.6, 0.4, 0.3, *[0.1] * 7])
    a = 1.61 + 0.07 - np.cumsum([1, 0.36, 0.16])
    lever = evaluation.probe_leverage(context.left[:, :3], context.p_x)
    found = evaluation.probe_tradeoff(a, lever, 150, 0.5, failure=0.1)
    for d in (1, 3):
        errors, smallest = probe_errors(context, f, d, 150, 0.5)
        spread = 5 * errors.std() / len(errors) ** 0.5
        assert found.least[d - 1] - spread < errors.mean() < found.total[d - 1]
        # The event has at least the probability that was promised.
        size = 1 + lever[d - 1]
        lam = 0.5
        price = math.exp(-150 / size * (1 - lam + lam * math.log(lam))) * (d + 1)
        assert (smallest < lam).mean() <= price + 5 * (price / 600) ** 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leverage": [1.0]}, "one shape"),
        ({"num_samples": 0}, "num_samples must be"),
        ({"noise": -1.0}, "noise must be non-negative"),
        ({"failure": 1.0}, "failure must be between 0 and 1"),
        ({"approximation": [0.5, np.nan]}, "approximation must be non-negative"),
    ],
)
def test_a_tradeoff_of_bad_numbers_is_refused(change, message):
    given = {"approximation": [0.5, 0.1], "leverage": [1.0, 2.0], "num_samples": 50}
    with pytest.raises(ValueError, match=message):
        evaluation.probe_tradeoff(**(given | change))


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_leaving_one_out_is_fitting_to_the_others(ridge):
    f = np.random.default_rng(0).normal(size=(9, 2)) + 5
    args = f, CONTEXT.left[:, :3], CONTEXT.p_x
    found = evaluation.leave_one_out_errors(*args, ridges=(ridge,))
    centred = f - CONTEXT.p_x @ f
    variance = CONTEXT.p_x @ (centred**2).sum(1)
    for d in (1, 3):
        phi = np.column_stack([np.ones(9), CONTEXT.left[:, :d]])
        total = 0.0
        for row in range(9):
            root = np.sqrt(np.delete(CONTEXT.p_x, row))[:, None]
            others = root * np.delete(phi, row, 0), root * np.delete(f, row, 0)
            # A penalty on all but the bias, as d rows more.
            more = ridge**0.5 * np.eye(d + 1)[1:]
            others = (
                np.vstack([others[0], more]),
                np.vstack([others[1], np.zeros((d, 2))]),
            )
            beta = np.linalg.lstsq(*others, rcond=None)[0]
            total += CONTEXT.p_x[row] * ((phi[row] @ beta - f[row]) ** 2).sum()
        np.testing.assert_allclose(found[d - 1], total / variance, rtol=1e-8)


def test_functions_that_know_a_row_alone_say_nothing_of_it():
    # All n − 1 functions: every row is fitted whatever its value.
    f = np.arange(9.0)
    found = evaluation.leave_one_out_errors(f, CONTEXT.left, CONTEXT.p_x)
    assert np.isinf(found[-1])
    # With a penalty, however small, such a row is predicted by the mean of the others.
    found = evaluation.leave_one_out_errors(
        f, CONTEXT.left, CONTEXT.p_x, ridges=(0.0, 1e-4)
    )
    rest = (f - CONTEXT.p_x @ f) ** 2
    mean = CONTEXT.p_x @ (rest / (1 - CONTEXT.p_x) ** 2) / (CONTEXT.p_x @ rest)
    np.testing.assert_allclose(found[-1], mean, rtol=1e-8)
    with pytest.raises(ValueError, match="target must have 9 rows"):
        evaluation.leave_one_out_errors(f[:8], CONTEXT.left, CONTEXT.p_x)
    with pytest.raises(ValueError, match="must not be constant"):
        evaluation.leave_one_out_errors(np.full(9, 1 / 3), CONTEXT.left, CONTEXT.p_x)


def test_student_quantiles_are_those_of_the_tables():
    for freedom, expected in ((1, 6.313752), (7, 1.894579), (30, 1.697261)):
        one = student_interval(jnp.zeros(()), jnp.ones(()), 0.9, freedom)
        np.testing.assert_allclose(one.upper, expected, atol=1e-6)


def rbf_spectrum(x: np.ndarray, rows: np.ndarray, gamma: float = 0.3) -> np.ndarray:
    """All singular values of an RBF context whose values are its rows."""
    part = x[rows]
    squares = ((part[:, None] - part[None]) ** 2).sum(-1)
    table = np.exp(-gamma * squares)
    table /= table.sum(axis=1, keepdims=True) * len(part)
    s = np.linalg.svd(oracle.symmetrised(table, deflated=True), compute_uv=False)
    return np.clip(s[:-1], 0, 1)


def test_all_rows_are_no_subset_and_have_no_error(key):
    x = np.random.default_rng(0).normal(size=(30, 2))
    spectrum = functools.partial(rbf_spectrum, x)
    found = evaluation.subset_usefulness(
        spectrum, 30, key=key, max_dim=4, subset_size=30, num_subsets=2
    )
    tau = evaluation.usefulness(spectrum(np.arange(30)), 1.0, 4, complete=True).tau
    ends = [found.estimate, found.lower, found.upper]
    np.testing.assert_allclose(ends, float(tau), rtol=EXACT)


def test_an_infinite_subset_tells_nothing(key):
    found = evaluation.subset_usefulness(
        lambda rows: np.ones(len(rows) - 1), 40, key=key, max_dim=3, subset_size=20
    )
    assert float(found.lower) == 1
    assert np.isinf([found.estimate, found.upper]).all()


def three_clusters() -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.concatenate([rng.normal(c, 0.7, size=(300, 2)) for c in (-1, 0.5, 2)])


def test_a_kernel_too_narrow_for_subsets_is_abstained_from(key):
    # τ is 2.23 and that of subsets 2.05 to 2.1: points of them are mostly alone.
    narrow = functools.partial(rbf_spectrum, three_clusters(), gamma=3.0)
    found = evaluation.subset_usefulness(
        narrow, 900, key=key, max_dim=24, num_subsets=3
    )
    assert (float(found.lower), np.isinf(found.upper)) == (1, True)
    assert float(found.estimate) == pytest.approx(2.07, abs=0.05)


def test_neighbours_that_quarters_of_a_subset_do_not_resolve_are_abstained_from(key):
    # A quarter of 400 rows are 11 of 45, and 3 of 11, which are at the extreme: τ of
    # subsets falls faster with each doubling of the rows, and is far from its end.
    x = np.random.default_rng(0).random((400, 8))

    def spectrum(rows):
        distances = ((x[rows][:, None] - x[rows][None]) ** 2).sum(axis=2)
        nearest = np.argsort(distances, axis=1)[:, : max(1, round(len(rows) / 4))]
        law = np.zeros(distances.shape)
        np.put_along_axis(law, nearest, 1 / nearest.shape[1], axis=1)
        table = law[:, law.any(axis=0)] / len(rows)
        s = np.linalg.svd(oracle.symmetrised(table, deflated=True), compute_uv=False)
        return np.clip(s[:-1], 0, 1)

    found = evaluation.subset_usefulness(spectrum, 400, key=key, max_dim=16)
    assert (float(found.lower), np.isinf(found.upper)) == (1, True)


def test_a_few_rows_far_away_that_decide_are_abstained_from(key):
    x = np.random.default_rng(0).normal(size=(600, 3))
    x[:12] *= 30
    far = functools.partial(rbf_spectrum, x, gamma=0.01)
    found = evaluation.subset_usefulness(far, 600, key=key, max_dim=16)
    assert (float(found.lower), np.isinf(found.upper)) == (1, True)
    # Without them there is nothing to abstain from.
    found = evaluation.subset_usefulness(
        functools.partial(rbf_spectrum, x[12:], gamma=0.01), 588, key=key, max_dim=16
    )
    assert np.isfinite(found.upper)


@pytest.mark.slow
def test_the_interval_from_subsets_covers_tau():
    x = three_clusters()
    spectrum, d0 = functools.partial(rbf_spectrum, x), 24
    every = spectrum(np.arange(len(x)))
    tau = float(evaluation.usefulness(every, 1.0, d0, complete=True).tau)
    covered = 0
    for number in range(40):
        found = evaluation.subset_usefulness(
            spectrum, len(x), key=jax.random.key(number), max_dim=d0
        )
        covered += bool(found.lower <= tau <= found.upper)
    # Of 36 at the level 0.9, less four standard deviations.
    assert covered >= 28


def test_a_context_in_place_of_an_operator_is_told():
    context: Any = cx.contexts.joint([[2.0, 1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match="op must be an operator, as from"):
        evaluation.kappa_squared(context)
    with pytest.raises(TypeError, match="op must be an operator, as from"):
        evaluation.estimate_kappa_squared(context, 10, key=jax.random.key(0))
