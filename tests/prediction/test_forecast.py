"""The error that is told before training, and the error that is then measured."""

import jax
import numpy as np
import pytest

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


def test_a_small_sample_tells_the_error_without_bias():
    labelled = [RNG.integers(0, ROWS, 150) for _ in range(40)]
    tell = jax.jit(lambda mu, y: forecast_error(mu, y, SIZES, ridge=0.1))
    told = [tell(MU[rows].astype(DTYPE), Y[rows].astype(DTYPE)) for rows in labelled]
    errors = np.array([t.errors for t in told])
    expected = ridge_error(ENERGIES, SIZES, ridge=0.1, rest=REST)
    np.testing.assert_allclose(errors.mean(axis=0), expected, rtol=0.06)
    # The deviation is that of the estimates.
    ratio = np.mean([t.standard_errors for t in told], axis=0) / errors.std(axis=0)
    assert ((ratio > 0.7) & (ratio < 1.6)).all()


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
    with pytest.raises(ValueError, match="at least 4 rows"):
        forecast_error(MU[:2].astype(DTYPE), Y[:2].astype(DTYPE), 5, ridge=0.1)
    with pytest.raises(ValueError, match="num_samples must be between 2 and 1999"):
        learning_curve(MU.astype(DTYPE), Y.astype(DTYPE), 2000, key=jax.random.key(0))
