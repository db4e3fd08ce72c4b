"""Fused kernels, run step by step, against the forms for XLA."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax.kernels import (
    Form,
    Implementation,
    exp_matmul,
    logsumexp_rows,
)

PLAIN = Form("distances", 3, plain=True, exact=False)
# Past one block of 512 in both directions, and not by whole blocks.
N, M, R = 520, 1030, 5
F32 = np.float32


@pytest.fixture(scope="module")
def arrays() -> tuple[jax.Array, ...]:
    """Log weights are between −8 and 0."""
    rng = np.random.default_rng(0)
    x, a = (rng.uniform(0, 1.3, (size, 3)) for size in (N, M))
    queries = np.column_stack([2 * x, -(x**2).sum(1), np.ones(N)])
    keys = np.column_stack([a, np.ones(M), -(a**2).sum(1)])
    values, bar = rng.normal(size=(M, R)), rng.normal(size=(N, R))
    return tuple(jnp.asarray(v, F32) for v in (queries, keys, values, bar))


def truth(arrays: tuple[jax.Array, ...], power: float) -> tuple[np.ndarray, ...]:
    """The product and its cotangents, in float64."""
    queries, keys, values, bar = (np.asarray(x, float) for x in arrays)
    scores = np.exp(power * queries @ keys.T)
    weights = power * scores * (bar @ values.T)
    return scores @ values, weights @ keys, weights.T @ queries, scores.T @ bar


def assert_near(found: object, exact: np.ndarray) -> None:
    error = np.abs(np.asarray(found, float) - exact).max()
    assert error <= 4e-6 * np.abs(exact).max()


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_products_and_cotangents(
    arrays: tuple[jax.Array, ...], implementation: Implementation
) -> None:
    product = functools.partial(
        exp_matmul, form=PLAIN, tile_size=512, power=2.0, implementation=implementation
    )
    out, pull = jax.vjp(product, *arrays[:3])
    for found, exact in zip((out, *pull(arrays[3])), truth(arrays, 2.0), strict=True):
        assert_near(found, exact)


@pytest.mark.parametrize("implementation", ["xla", "interpret"])
def test_log_sum_exp_and_its_gradient(
    arrays: tuple[jax.Array, ...], implementation: Implementation
) -> None:
    lse = functools.partial(
        logsumexp_rows, form=PLAIN, tile_size=512, implementation=implementation
    )
    queries, keys, _, bar = arrays
    (high, low), pull = jax.vjp(lse, queries, keys)
    logits = np.asarray(queries, float) @ np.asarray(keys, float).T
    exact = np.log(np.exp(logits).sum(1))
    assert_near(high + low, exact)
    assert (low >= 0).all()
    assert (low <= np.log(M)).all()
    weights = np.asarray(bar[:, :1], float) * np.exp(logits - exact[:, None])
    queries_bar, keys_bar = pull((jnp.zeros_like(low), bar[:, 0]))
    assert_near(queries_bar, weights @ np.asarray(keys, float))
    # The column that offsets of rows multiply holds no variable.
    found, exact = (np.delete(x, 3, 1) for x in (keys_bar, weights.T @ queries))
    assert_near(found, exact)
