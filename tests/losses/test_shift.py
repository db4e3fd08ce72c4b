"""Reductions of per-example losses against the laws over which they are the worst."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linprog

from contexture_jax import losses, training
from tests.conftest import X64
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
ROWS = 7
ALPHAS = (0.05, 0.3, 0.6, 1.0)
RADII = (0.0, 0.04, 0.7, 3.0, 30.0)


def trimmed(values: np.ndarray, p: np.ndarray, trim: float) -> np.ndarray:
    """The law without its worst share, row by row."""
    q, left = p.copy(), trim
    for i in np.argsort(-values):
        taken = min(left, q[i])
        q[i], left = q[i] - taken, left - taken
    return q / (1 - trim)


def worst_tail(values: np.ndarray, p: np.ndarray, alpha: float) -> float:
    """The largest Σ q ℓ over q ≤ p / α, by linear programming."""
    bounds = np.stack([np.zeros_like(p), p / alpha], axis=1)
    found = linprog(-values, A_eq=np.ones((1, len(p))), b_eq=[1.0], bounds=bounds)
    return -found.fun


def worst_in_ball(values: np.ndarray, p: np.ndarray, radius: float) -> float:
    """The largest Σ q ℓ over Σ q² / p ≤ 1 + ρ: the stationary point of each support."""
    best, some = -np.inf, np.flatnonzero(p > 0)
    for size in range(1, len(some) + 1):
        for support in map(list, itertools.combinations(some, size)):
            mass = p[support].sum()
            mean = p[support] @ values[support] / mass
            centred = values[support] - mean
            variance = p[support] @ centred**2 / mass
            outside = p[np.setdiff1d(some, support)].sum()
            room = radius * mass - outside
            if room < -1e-12:
                continue
            slope = np.sqrt(max(room, 0) / variance) if variance > 1e-20 else 0.0
            q = p[support] / mass * (1 + slope * centred)
            if (q >= -1e-12).all():
                best = max(best, q @ values[support])
    return best


PRIMAL = {"cvar": worst_tail, "chi_squared_dro": worst_in_ball}


@functools.cache
def compiled(name: str) -> Any:
    def risk(values: Any, number: Any, trim: Any, weights: Any) -> Any:
        return getattr(losses, name)(values, number, trim=trim, weights=weights)

    return jax.jit(jax.value_and_grad(risk))


def risk(name: str, values: Any, number: float, trim: float = 0.0, p: Any = None):
    """A risk and its gradient; rows without probability, of any loss, fill it up."""
    size = len(values)
    filled = np.full(10, 1e7, DTYPE)
    filled[:size], filled[size + 1 :] = values, np.nan
    weights = np.zeros(10, DTYPE)
    weights[:size] = 1 if p is None else p
    value, slope = compiled(name)(filled, DTYPE(number), DTYPE(trim), weights)
    np.testing.assert_array_equal(slope[weights == 0], 0)
    return value, slope[:size]


@pytest.mark.parametrize(
    ("name", "numbers"), [("cvar", ALPHAS), ("chi_squared_dro", RADII)]
)
@pytest.mark.parametrize("trim", [0.2, pytest.param(0.0, marks=pytest.mark.slow)])
def test_risk_and_gradient_are_those_of_the_primal_problem(name, numbers, trim):
    rng = np.random.default_rng(5)
    laws = np.stack([np.ones(ROWS), *rng.uniform(0.2, 2, size=(2, ROWS))]).astype(DTYPE)
    for weights, number in itertools.product(laws, numbers):
        v = rng.exponential(size=ROWS).astype(DTYPE)
        found, slopes = risk(name, v, number, trim, weights)
        p = weights.astype(np.float64) / weights.astype(np.float64).sum()

        def primal(v, p=p, number=number):
            return PRIMAL[name](v, trimmed(v, p, trim), number)

        v = v.astype(np.float64)
        np.testing.assert_allclose(found, primal(v), rtol=tol(DTYPE, size=10))
        steps = 1e-5 * np.eye(ROWS)
        slope = [(primal(v + step) - primal(v - step)) / 2e-5 for step in steps]
        accuracy = 1e-8 if X64 else 10 * tol(DTYPE)
        np.testing.assert_allclose(slopes, slope, atol=accuracy)


def test_rows_that_tie_at_the_threshold_count_alike():
    values = np.array([3.0, 1.0, 2.0, 2.0, 2.0], DTYPE)
    near = functools.partial(np.testing.assert_allclose, rtol=tol(DTYPE))
    near(risk("cvar", values, 0.4)[1], [1 / 2, 0, 1 / 6, 1 / 6, 1 / 6])
    # The largest has the mass 1 / (1 + ρ): nothing else counts, in value and slope.
    for found, slope in (
        risk("cvar", values, 0.2),
        risk("chi_squared_dro", values, 4.0),
    ):
        near(found, 3.0)
        near(slope, [1, 0, 0, 0, 0], atol=tol(DTYPE))
    found, slope = risk("chi_squared_dro", np.full(5, 2.0), 1.0)
    near(found, 2.0)
    near(slope, 1 / 5)


@pytest.mark.parametrize(("name", "number"), [("cvar", 0.5), ("chi_squared_dro", 0.5)])
def test_a_dropped_outlier_leaves_no_trace_and_a_risk_has_a_unit(name, number):
    """Ten rows: sums of 1 / 10 are not what 3 / 10 is."""
    rest = np.arange(7.0)
    expected, _ = risk(name, rest, number)
    found, slope = risk(name, [9e9, 8e9, 7e9, *rest], number, 0.3)
    np.testing.assert_allclose(found, expected, rtol=tol(DTYPE, size=10))
    np.testing.assert_array_equal(slope[:3], 0)
    for scale in (1e-30, 1e30):
        there, _ = risk(name, rest * scale, number)
        np.testing.assert_allclose(there / scale, expected, rtol=tol(DTYPE))


def test_published_trimming_by_whole_rows_leaves_out_a_part():
    """theory.md §9.1: of 8 rows the worst tenth is no row, and the loss 0."""
    values = np.arange(8.0).astype(DTYPE)[::-1]
    first, last = (int(share * 8) for share in (0.0, 0.1))
    assert values[first:last].sum() / (0.1 * 8) == 0
    np.testing.assert_allclose(risk("cvar", values, 0.1)[0], 7, rtol=tol(DTYPE))


def test_weighting_rows_is_taking_the_mean_under_another_law():
    values, ratios = np.random.default_rng(1).exponential(size=(2, 6)).astype(DTYPE)
    groups = np.array([0, 0, 1, 1, 1, 3])
    by_group = np.array([values[groups == g].mean() for g in (0, 1, 3)])
    q = np.array([0.4, 0.1, 0.3, 0.2])
    near = functools.partial(np.testing.assert_allclose, rtol=tol(DTYPE))

    @jax.jit
    def ours(values, ratios):
        known = [0.25] * 4
        return (
            losses.importance_weighted(values, ratios),
            losses.importance_weighted(values, ratios, clip=0.5, normalised=False),
            losses.group_weighted(values, groups, q),
            losses.group_weighted(values, groups, q, group_probabilities=known),
        )

    expected = (
        np.average(values, weights=ratios),
        np.mean(np.minimum(ratios, 0.5) * values),
        q[[0, 1, 3]] @ by_group,
        np.mean(4 * q[groups] * values),
    )
    near(ours(values, ratios), expected)


def test_group_weights_rise_with_the_loss_and_wait_for_absent_groups():
    values = np.array([1.0, 3.0, 5.0], DTYPE)
    groups, q = np.array([0, 0, 2]), np.array([0.2, 0.5, 0.3], DTYPE)
    step = jax.jit(functools.partial(losses.group_dro, rate=0.1))
    loss, raised = step(values, groups, q)
    grown = q[[0, 2]] * np.exp([0.2, 0.5])
    expected = 0.5 * grown / grown.sum()
    near = functools.partial(np.testing.assert_allclose, rtol=tol(DTYPE))
    near(raised, [expected[0], 0.5, expected[1]])
    near(loss, expected @ [2, 5])
    # Neither a common constant nor a loss whose exponential overflows is in the way.
    for values_there in (values + 100, 1e6 * values):
        _, there = step(values_there, groups, q)
        near(there.sum(), 1)
    near(step(values + 64, groups, q)[1], raised)


def test_micro_batches_have_one_threshold():
    rng = np.random.default_rng(3)
    rows = {"x": rng.normal(size=(12, 2)), "y": rng.normal(size=(12, 1))}
    rows = jax.tree.map(lambda a: a.astype(np.float32), rows)
    objective = training.from_loss(
        lambda predicted, y, *, axis_name=None: losses.cvar(
            losses.squared_errors(predicted, y), 0.3, axis_name=axis_name
        )
    )

    def encode(params: Any, batch: Any, key: Any) -> Any:
        del key
        return jnp.matmul(batch["x"], params, precision="highest"), batch["y"]

    ends = []
    for pieces in (1, 4):
        step = training.make_step(
            encode, objective, optax.sgd(0.1), num_micro_batches=pieces
        )
        state = training.init_state(jnp.ones((2, 1)), optax.sgd(0.1))
        ends.append(jax.jit(step)(state, rows, jax.random.key(0))[0].params)
    np.testing.assert_allclose(*ends, rtol=tol(np.float32))
