"""The regularisers of encoders that read a context, beside their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import evaluation, losses
from tests.conftest import X64
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
Z = np.random.default_rng(1).normal(size=(10, 3, 4)).astype(DTYPE)


def test_the_use_of_the_context_is_what_the_judge_calls_dependence():
    z = Z.mean(axis=1, keepdims=True) + Z / 8
    pooled = evaluation.context_dependence(z, key=jax.random.key(0)).pooled
    found = losses.context_use(z, least=0.9)
    expected = 1 - np.sqrt(float(pooled) / 0.9)
    np.testing.assert_allclose(found, expected, rtol=tol(DTYPE, size=10))
    assert losses.context_use(z, least=float(pooled) / 2) == 0
    assert losses.context_use(np.ones((4, 2, 3), DTYPE)) == 1


def test_a_context_that_is_almost_ignored_has_a_slope():
    @jax.jit
    @jax.grad
    def slope(size):
        x = Z[:, :1, :]
        return losses.context_use(x + size * Z)

    # The root is linear: one slope however small the effect.
    first, second = slope(jnp.asarray(1e-3, DTYPE)), slope(jnp.asarray(1e-4, DTYPE))
    assert first < -1
    assert second == pytest.approx(float(first), rel=0.02)
    assert abs(slope(jnp.zeros((), DTYPE))) < tol(DTYPE)


def test_entropies_are_of_each_input():
    one = np.eye(4, dtype=DTYPE)
    assert losses.context_entropy(one) == 1
    # All inputs together use all contexts; each uses two.
    pairs = (one + np.roll(one, 1, axis=1)) / 2
    assert losses.context_entropy(pairs) == pytest.approx(0.5)
    heads = np.stack([one, np.full_like(one, 0.25)], axis=1)
    assert losses.context_entropy(heads) == pytest.approx(0.5)
    gradient = jax.grad(losses.context_entropy)(jnp.asarray(pairs))
    assert np.isfinite(gradient).all()


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="at least 2 contexts"):
        losses.context_use(Z[:, :1])
    with pytest.raises(ValueError, match=r"least must be in \(0, 1\]"):
        losses.context_use(Z, least=0.0)
    with pytest.raises(ValueError, match="non-negative"):
        losses.context_entropy(Z[0])
    with pytest.raises(ValueError, match=r"row sums of attention must be 1; got"):
        losses.context_entropy(np.full((2, 4), 0.75, DTYPE))
    with pytest.raises(ValueError, match="m at least 2"):
        losses.context_entropy(np.ones((3, 1), DTYPE))
