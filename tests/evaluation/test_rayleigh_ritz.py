"""From encoders to ordered functions: exact for a known law, honest on samples."""

import functools

import jax
import numpy as np
import pytest

import contexture_jax as cx
from tests.conftest import X64
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(3)
N, M, D = 9, 8, 3


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    table = rng.gamma(0.5, size=(N, M)).astype(DTYPE)
    op = cx.association_operator(cx.contexts.joint(table))
    exact, _ = cx.svd(op, M - 1, key=KEY, method="exact")
    return op, exact


def mixed(functions, seed=1):
    """An invertible map of functions, and constants."""
    d = functions.shape[1]
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) + 2 * np.eye(d)
    return np.asarray(functions) @ mix.astype(DTYPE) + rng.normal(size=d).astype(DTYPE)


def enumerated(op):
    """All pairs of a finite law with their probabilities."""
    joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
    x, a = np.indices(joint.shape).reshape(2, -1)
    return x, a, joint.reshape(-1)


@pytest.mark.slow
def test_a_rotated_contexture_gets_its_order_back():
    op, exact = problem()
    phi = mixed(exact.left[:, :D])
    found = cx.evaluation.rayleigh_ritz(phi, op)
    s = exact.singular_values[:D]
    atol = tol(DTYPE, factor=50)
    np.testing.assert_allclose(found.singular_values, s, atol=atol)
    np.testing.assert_allclose(np.abs(found.left), np.abs(exact.left[:, :D]), atol=atol)
    np.testing.assert_allclose(
        np.abs(found.right), np.abs(exact.right[:, :D]), atol=atol
    )
    np.testing.assert_allclose(
        op.rmatmat(found.left), found.right * s[None, :], atol=atol
    )
    np.testing.assert_allclose(found.transform(phi), found.left, atol=atol)


@pytest.mark.slow
def test_any_encoder_errs_below_and_the_rank_cuts():
    op, exact = problem()
    rng = np.random.default_rng(2)
    s = np.asarray(exact.singular_values)
    for _ in range(5):
        phi = rng.normal(size=(N, 4)).astype(DTYPE)
        found = cx.evaluation.rayleigh_ritz(phi, op)
        assert (np.asarray(found.singular_values) <= s[:4] + tol(DTYPE)).all()
        np.testing.assert_allclose(
            found.singular_values**2,
            cx.evaluation.ritz_values(phi, op),
            atol=tol(DTYPE, factor=20),
        )
        law = np.asarray(op.p_x)
        np.testing.assert_allclose(law @ found.left, 0, atol=tol(DTYPE, factor=20))
        np.testing.assert_allclose(
            found.left.T @ (law[:, None] * found.left),
            np.eye(4),
            atol=tol(DTYPE, factor=50),
        )
        two = cx.evaluation.rayleigh_ritz(phi, op, rank=2)
        np.testing.assert_array_equal(two.left, found.left[:, :2])


@pytest.mark.slow
def test_missing_rank_gives_zeros():
    op, exact = problem()
    mu = np.asarray(exact.left[:, :1])
    phi = np.concatenate([mu, 2 * mu, np.ones_like(mu), np.zeros_like(mu)], axis=1)
    found = cx.evaluation.rayleigh_ritz(phi, op)
    s = float(exact.singular_values[0])
    np.testing.assert_allclose(
        found.singular_values, [s, 0, 0, 0], atol=tol(DTYPE, factor=20)
    )
    assert np.isfinite(found.left).all()
    np.testing.assert_array_equal(found.right[:, 1:], 0)


@pytest.mark.slow_cases("False", "True")
@pytest.mark.parametrize("positive", [False, True])
def test_weighted_pairs_of_the_whole_law_give_the_exact_values(positive):
    op, exact = problem()
    x, a, law = enumerated(op)
    phi = mixed(exact.left[:, :D])
    if positive:
        back = np.asarray(op.as_matrix()) * np.asarray(op.p_x)[:, None]
        back = back / back.sum(axis=0)
        kernel = np.asarray(op.as_matrix()) @ back.T
        x, partner = np.indices(kernel.shape).reshape(2, -1)
        law = (np.asarray(op.p_x)[:, None] * kernel).reshape(-1)
        other = phi[partner]
    else:
        other = mixed(exact.right[:, :D], seed=4)[a]
    found = cx.evaluation.rayleigh_ritz(
        phi[x], other, positive=positive, weights=law.astype(DTYPE)
    )
    np.testing.assert_allclose(
        found.singular_values, exact.singular_values[:D], atol=tol(DTYPE, factor=100)
    )
    np.testing.assert_allclose(
        np.abs(found.transform(phi)),
        np.abs(exact.left[:, :D]),
        atol=tol(DTYPE, factor=100),
    )


@pytest.mark.slow
@pytest.mark.parametrize("positive", [False, True])
def test_unrelated_pairs_look_related_unless_held_out(positive):
    rng = np.random.default_rng(5)
    phi, other = rng.normal(size=(2, 400, 20)).astype(DTYPE)
    found = cx.evaluation.rayleigh_ritz(phi, other, positive=positive, key=KEY, rank=5)
    held_out = found.held_out
    assert held_out is not None
    assert (np.asarray(found.singular_values) > 0.25).all()
    assert (np.asarray(held_out.lower) <= 0.01).all()
    limit = 0.15 if not positive else 0.4  # square roots of correlations
    assert (np.asarray(held_out.estimate) < limit).all()


@pytest.mark.slow
def test_late_functions_are_not_credited_with_what_early_ones_hold():
    """Too many waves for the pairs: functions come in the wrong order."""

    def waves(z):
        parts = [f(k * z / 2) for k in range(1, 6) for f in (np.sin, np.cos)]
        return np.concatenate(parts, axis=1).astype(DTYPE)

    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(2, 300, 1))
    held_out = cx.evaluation.rayleigh_ritz(
        waves(x), waves(0.8 * x + 0.6 * z), rank=6, key=jax.random.key(1)
    ).held_out
    assert held_out is not None
    truth = 0.8 ** np.arange(1, 7)
    assert (np.cumsum(held_out.estimate) < np.cumsum(truth)).all()
    assert (np.asarray(held_out.lower) < truth).all()


@pytest.mark.slow
@pytest.mark.parametrize("positive", [False, True])
def test_held_out_intervals_hold_the_truth_of_functions_that_are_known(positive):
    """One exact function a side: nothing is fitted but signs and scales."""
    op, exact = problem()
    x, a, law = enumerated(op)
    rng = np.random.default_rng(6)
    s = float(exact.singular_values[0])
    covered = 0
    for number in range(20):
        pairs = rng.choice(len(law), size=600, p=law / law.sum())
        phi = np.asarray(exact.left[:, :1])[x[pairs]]
        other = np.asarray(exact.right[:, :1])[a[pairs]]
        if positive:  # any pair of standardised variables serves
            phi, other = phi / np.std(phi), other / np.std(other)
        found = cx.evaluation.rayleigh_ritz(
            phi, other, positive=positive, key=jax.random.key(number)
        )
        assert found.held_out is not None
        low, high = float(found.held_out.lower[0]), float(found.held_out.upper[0])
        truth = s**0.5 if positive else s
        covered += low <= truth <= high
    assert covered >= 14


@pytest.mark.slow_cases("other5-options5-held-out values need pairs of equal weight")
@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        ("op", {"key": KEY}, "an operator is the law itself"),
        (np.zeros((4, 2)), {}, "other must have 9 rows"),
        (np.zeros((9, 3)), {"positive": True}, "must have the shape of phi"),
        (np.zeros((9, 2)), {"rank": 3}, "rank must be between 1 and 2"),
        (np.full((9, 2), np.nan), {}, "other must be finite; got nan"),
        (
            np.zeros((9, 2)),
            {"key": KEY, "weights": np.full(9, 1 / 9)},
            "held-out values need pairs of equal weight",
        ),
    ],
)
def test_bad_arguments_are_refused(other, options, message):
    other = problem()[0] if isinstance(other, str) else other
    with pytest.raises(ValueError, match=message):
        cx.evaluation.rayleigh_ritz(np.ones((9, 2)), other, **options)
