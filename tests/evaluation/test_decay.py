import jax
import numpy as np
import pytest

from contexture_jax import evaluation
from tests.conftest import X64
from tests.tolerances import tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

SIZE = 40  # one size: the search compiles once

decay_rate = jax.jit(evaluation.decay_rate)


def misfit(rates: np.ndarray, s: np.ndarray) -> np.ndarray:
    i = np.arange(1, len(s) + 1)
    return ((s**2 - np.exp(-rates[:, None] * i)) ** 2).sum(1)


@pytest.mark.parametrize("rate", [1e-3, 0.1, 2.0, 30.0])
def test_an_exponential_spectrum_gives_its_rate(rate):
    s = np.exp(-rate * np.arange(1, SIZE + 1) / 2)
    found = decay_rate(s)
    np.testing.assert_allclose(found, rate, rtol=tol(float, size=SIZE))


@pytest.mark.parametrize(
    "spectrum",
    [
        np.where(np.arange(SIZE) < 9, 1.0, 0.0),  # labels
        np.full(SIZE, 0.5),
        np.append(0.95, np.full(SIZE - 1, 0.4)),  # one leading value and a flat rest
        np.append(0.2, np.zeros(SIZE - 1)),
        np.sort(np.random.default_rng(0).uniform(size=SIZE))[::-1],
    ],
)
def test_the_minimum_is_global(spectrum):
    found = float(decay_rate(spectrum))
    rates = np.append(0.0, np.geomspace(1e-6, 60, 20_001))
    assert misfit(np.array([found]), spectrum)[0] <= misfit(rates, spectrum).min()


def test_a_spectrum_of_ones_does_not_decay_and_one_of_zeros_does_at_once():
    assert float(decay_rate(np.ones(SIZE))) < tol(float)
    assert np.isinf(decay_rate(np.zeros(SIZE)))


def test_the_derivative_is_that_of_the_minimiser():
    s = np.sort(np.random.default_rng(1).uniform(size=SIZE))[::-1]
    direction = np.linspace(-1, 1, SIZE)
    step = 1e-5
    up = decay_rate(s + step * direction)
    down = decay_rate(s - step * direction)
    gradient = jax.jit(jax.grad(decay_rate))(s)
    np.testing.assert_allclose(
        gradient @ direction, (up - down) / (2 * step), rtol=1e-7
    )
