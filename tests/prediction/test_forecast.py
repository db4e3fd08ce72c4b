"""The error that is told before training, and the error that is then measured."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.prediction import forecast_error, learning_curve, ridge_error
from tests.conftest import X64

DTYPE = np.float64 if X64 else np.float32
RNG = np.random.default_rng(11)
ROWS, D = 2000, 24
MU = np.linalg.qr(RNG.normal(size=(ROWS, D)))[0]
MU = np.linalg.qr(MU - MU.mean(axis=0))[0] * ROWS**0.5
U = 0.8 ** np.arange(D)
Y = MU @ U + 0.7 * RNG.normal(size=ROWS)
ENERGIES = (MU.T @ (Y - Y.mean()) / ROWS) ** 2 / Y.var()
REST = 1 - ENERGIES.sum()
SIZES = [50, 200]


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_the_formula_is_the_mean_over_many_fits(ridge):
    measured = learning_curve(
        MU.astype(DTYPE),
        Y.astype(DTYPE),
        SIZES,
        ridges=ridge,
        num_splits=60,
        key=jax.random.key(0),
    )
    told = ridge_error(ENERGIES, SIZES, ridge=ridge, rest=REST)
    mean = np.asarray(measured.squared_errors).mean(axis=1)
    np.testing.assert_allclose(told, mean, rtol=0.08)


@pytest.mark.slow
def test_a_small_sample_tells_the_error_without_bias():
    labelled = [RNG.integers(0, ROWS, 150) for _ in range(40)]
    mu, y = jnp.asarray(MU, DTYPE), jnp.asarray(Y, DTYPE)

    @jax.jit
    def tell(rows):
        how: Any = {"key": jax.random.key(0), "ridge": 0.1, "num_draws": 10}
        return forecast_error(mu, y[rows], rows, SIZES, **how)

    told = [tell(rows) for rows in labelled]
    errors = np.array([t.errors for t in told])
    expected = ridge_error(ENERGIES, SIZES, ridge=0.1, rest=REST)
    np.testing.assert_allclose(errors.mean(axis=0), expected, rtol=0.1)
    # The deviation is that of the estimates.
    ratio = np.mean([t.standard_errors for t in told], axis=0) / errors.std(axis=0)
    assert ((ratio > 0.5) & (ratio < 2)).all()


def test_of_known_functions_of_few_rows_it_is_what_the_same_draws_miss():
    rng = np.random.default_rng(3)
    # Each lives on a few rows of a hundred, which a small draw may not hold.
    mu = np.where(rng.random((100, 6)) < 0.06, 3.0, 0.05 * rng.normal(size=(100, 6)))
    y = (mu @ [1.0, -1.0, 0.5, 0.5, 2.0, 1.0]).astype(DTYPE)
    how: Any = {"key": jax.random.key(1), "num_samples": [8, 40]}
    told = forecast_error(
        mu.astype(DTYPE), y, np.arange(100), ridge=0.01, num_draws=7, **how
    )
    curve = learning_curve(mu.astype(DTYPE), y, ridges=0.01, num_splits=7, **how)
    measured = np.asarray(curve.squared_errors).mean(axis=1)
    np.testing.assert_allclose(told.errors, measured, rtol=5e-3)
    assert measured[0] > 5 * measured[1]
    # A sample that says little: the noise is not known to be none, and it says so.
    few = forecast_error(
        mu.astype(DTYPE), y[:6], np.arange(6), ridge=0.01, num_draws=7, **how
    )
    assert (np.asarray(few.standard_errors) > 20 * np.asarray(told.standard_errors))[1]


def test_error_that_few_rows_make_is_known_less_well():
    # A sample of 100 holds from none to six of these.
    rare = (RNG.random(ROWS) < 0.03) * RNG.choice([-1.0, 1.0], ROWS)
    mu, y = MU.astype(DTYPE), (MU[:, 0] + 6 * rare).astype(DTYPE)
    how: Any = {"key": jax.random.key(0), "ridge": 0.1, "num_draws": 2}
    told = [
        forecast_error(mu, y[rows], rows, SIZES, **how)
        for rows in np.split(RNG.permutation(ROWS), 20)
    ]
    deviation = np.std([one.errors for one in told], axis=0)
    said = np.mean([one.standard_errors for one in told], axis=0)
    assert ((said > 0.7 * deviation) & (said < 1.4 * deviation)).all(), said / deviation


@pytest.mark.slow
def test_the_share_misclassified_is_that_of_many_fits():
    y = np.digitize(Y, [-0.6, 0.6]).astype(np.int32)
    sizes, rows = [60, 300], RNG.permutation(ROWS)[:200]
    how: Any = {"key": jax.random.key(2), "num_samples": sizes, "num_classes": 3}
    mu = MU.astype(DTYPE)
    told = forecast_error(mu, y[rows], rows, ridge=0.1, **how)
    measured = learning_curve(mu, y, ridges=0.1, num_splits=20, **how)
    mean = np.asarray(measured.errors).mean(axis=1)
    np.testing.assert_allclose(np.asarray(told.misclassified), mean, rtol=0.2)
    assert (
        forecast_error(
            mu, Y[rows].astype(DTYPE), rows, sizes, key=how["key"], ridge=0.1
        ).misclassified
        is None
    )


@pytest.mark.slow
def test_a_spectrum_tells_where_the_target_is():
    # 20 labels and 24 functions: without it all functions have their share.
    s = (0.7 ** np.arange(D)).astype(DTYPE)
    y = (MU @ s + 0.1 * RNG.normal(size=ROWS)).astype(DTYPE)
    how: Any = {"key": jax.random.key(0), "ridge": 0.1, "num_draws": 4}
    mu = MU.astype(DTYPE)
    measured = learning_curve(mu, y, [800], ridges=0.1, key=jax.random.key(0))
    off = {}
    for name, spectrum in (("with", s), ("without", None)):
        told = [
            float(
                forecast_error(
                    mu, y[rows], rows, [800], singular_values=spectrum, **how
                ).errors[0]
            )
            for rows in np.split(RNG.permutation(ROWS)[:400], 20)
        ]
        ratios = np.array(told) / np.asarray(measured.squared_errors).mean()
        off[name] = np.abs(ratios - 1).mean()
    assert off["with"] < 0.7 * off["without"]


@pytest.mark.slow
def test_eigenvalues_are_those_of_functions_scaled():
    lam = 0.7 ** np.arange(D)
    curve = learning_curve(
        (MU * np.sqrt(lam)).astype(DTYPE),
        Y.astype(DTYPE),
        SIZES,
        ridges=0.01,
        num_splits=60,
        key=jax.random.key(1),
    )
    told = ridge_error(ENERGIES, SIZES, ridge=0.01, rest=REST, eigenvalues=lam)
    mean = np.asarray(curve.squared_errors).mean(axis=1)
    np.testing.assert_allclose(told, mean, rtol=0.08)


@pytest.mark.slow
def test_classes_have_two_errors():
    y = np.where(Y > 0, "more", "less")
    curve = learning_curve(
        MU.astype(DTYPE), y, 200, num_splits=60, key=jax.random.key(0)
    )
    assert curve.errors.shape == curve.squared_errors.shape == (1, 60)
    assert (np.asarray(curve.errors) < np.asarray(curve.squared_errors)).all()


def test_what_tells_nothing_is_refused():
    with pytest.raises(ValueError, match="num_samples must be above 1"):
        ridge_error([1.0], 1, ridge=0.1)
    with pytest.raises(ValueError, match=r"eigenvalues must have shape \(1,\)"):
        ridge_error([1.0], 5, ridge=0.1, eigenvalues=[1.0, 2.0])
    mu, y = MU.astype(DTYPE), Y.astype(DTYPE)
    how: Any = {"key": jax.random.key(0)}
    with pytest.raises(ValueError, match="at least 4 labelled rows"):
        forecast_error(mu, y[:2], [0, 1], 5, ridge=0.1, **how)
    with pytest.raises(ValueError, match="rows must be between 0 and 1999"):
        forecast_error(mu, y[:4], [0, 1, 2, ROWS], 5, ridge=0.1, **how)
    with pytest.raises(ValueError, match=r"singular_values must have shape \(24,\)"):
        forecast_error(
            mu, y[:4], np.arange(4), 5, ridge=0.1, singular_values=[1.0], **how
        )
    with pytest.raises(ValueError, match="num_samples must be between 2 and 1999"):
        learning_curve(MU.astype(DTYPE), Y.astype(DTYPE), 2000, key=jax.random.key(0))


@pytest.mark.slow
def test_of_clumps_that_touch_as_many_are_misclassified_as_is_said():
    """Scores of clumps are not normal: by a factor of shares .06 in place of .14."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, 4, 800)
    x = (rng.normal(size=(800, 4)) + 2.5 * np.eye(4)[y]).astype(DTYPE)
    op = cx.association_operator(cx.contexts.knn(x, 30))
    found, _ = cx.svd(op, 16, key=jax.random.key(0), tol=1e-3)
    how: Any = {"num_samples": [40, 80], "num_classes": 4, "key": jax.random.key(1)}
    s, mu = found.singular_values, found.left
    told = [
        forecast_error(mu, y[rows], rows, ridge=0.1, singular_values=s, **how)
        for rows in (rng.permutation(800)[:40] for _ in range(20))
    ]
    said = np.mean([np.asarray(each.misclassified) for each in told], axis=0)
    measured = learning_curve(mu, y, ridges=0.1, num_splits=40, **how)
    mean = np.asarray(measured.errors).mean(axis=1)
    # For more labels too low, as some clumps are nearer than others.
    assert (np.abs(said / mean - 1) < [0.1, 0.3]).all(), said / mean
