"""Embeddings with dependent columns: scores of their span, never above its maximum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import losses
from tests.conftest import X64
from tests.tolerances import tol

ROWS, RANK = 512, 3
RNG = np.random.default_rng(0)
U, V = RNG.normal(size=(2, ROWS, RANK))
V = U + V
# The sum of squared canonical correlations of U and V, in float64.
Q, P = (np.linalg.qr(x - x.mean(axis=0))[0] for x in (U, V))
CORRELATIONS = np.linalg.svd(Q.T @ P, compute_uv=False)

# Each with the value that it has at its best, from the correlations s of two spans.
SCORES = {
    "vamp 1": (functools.partial(losses.vamp, r=1), lambda s: -s.sum()),
    "vamp 2": (functools.partial(losses.vamp, r=2), lambda s: -(s**2).sum()),
}


def wide(x: np.ndarray, width: int, seed: int = 1) -> np.ndarray:
    mixing = np.random.default_rng(seed).normal(size=(x.shape[1], width))
    return (x @ mixing).astype(np.float32)


@pytest.mark.slow_cases("203-vamp 2", "32-vamp 1", "32-vamp 2")
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("width", [203, 32])
def test_dependent_columns_score_as_their_span(name, width):
    loss, best = SCORES[name]
    phi, psi = wide(U, width), wide(V, width, seed=2)
    for other, s in ((phi, np.ones(RANK)), (psi, CORRELATIONS)):
        value, slope = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(phi, other)
        # The ridge takes as much as it is of the variance of the three.
        assert best(s) * (1 + tol(np.float32, factor=30)) <= value
        np.testing.assert_allclose(value, best(s), rtol=1e-4)
        assert all(np.isfinite(x).all() for x in slope)


@pytest.mark.slow_cases("203", "32")
@pytest.mark.parametrize("width", [203, 32])
def test_constraints_and_heads_see_the_span_of_dependent_columns(width):
    phi = wide(U, width)
    np.testing.assert_allclose(losses.svme(phi, phi), width - RANK, atol=1e-4)
    target = phi[:, :2]
    error = losses.squared_error(phi, target)
    assert 0 <= error <= 1e-5 * (target**2).sum(axis=1).mean()


@pytest.mark.slow
def test_the_gradient_is_that_of_the_columns_that_are_independent():
    dtype = np.float64 if X64 else np.float32
    mixing = jnp.asarray(RNG.normal(size=(RANK, 9)), dtype)
    pair = jnp.asarray(U, dtype), jnp.asarray(V, dtype)
    for loss in (
        functools.partial(losses.vamp, ridge=0.0),
        functools.partial(losses.vamp, r=1, ridge=0.0),
        functools.partial(losses.svme, constraint=losses.Whiten(0.0)),
    ):

        def mixed(phi, psi, loss=loss):
            return loss(phi @ mixing, psi @ mixing)

        slopes = [jax.jit(jax.grad(f, argnums=(0, 1)))(*pair) for f in (loss, mixed)]
        for found, expected in zip(slopes[1], slopes[0], strict=True):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                found, expected, atol=float(scale) * tol(dtype, factor=2000)
            )
