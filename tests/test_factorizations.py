"""Singular value decompositions, by the way of each platform, all run on CPU."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax._core import factorizations
from contexture_jax._core.factorizations import orthonormal_columns, singular_values
from contexture_jax._core.factorizations import thin_svd as on_this_platform
from tests.conftest import X64

WIDTH, ROWS = 24, 300
SPECTRA = {
    "slow": np.arange(1, WIDTH + 1) ** -0.5,
    "to rounding": np.logspace(0, -8, WIDTH),
    "equal": np.ones(WIDTH),
    "in two clusters": np.repeat([1.0, 1e-4], WIDTH // 2),
    "of rank 5": np.arange(WIDTH) < 5,
    "zero": np.zeros(WIDTH),
}


@jax.jit
def by_eigenvectors(a: Any) -> Any:
    """As on an accelerator."""
    return factorizations._by_products(a, factorizations._by_eigenvectors)


@jax.jit
def by_lapack(a: Any) -> Any:
    """As a large matrix on CPU."""
    return factorizations._by_products(a, factorizations._directly)


WAYS = {
    "here": on_this_platform,
    "LAPACK": by_lapack,
    "eigenvectors": by_eigenvectors,
}


def orthonormal(rng: Any, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    z = rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        z = z + 1j * rng.normal(size=shape)
    return np.linalg.qr(z)[0]


@pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.complex64, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("shape", [(WIDTH, WIDTH), (ROWS, WIDTH), (WIDTH, ROWS)])
@pytest.mark.parametrize("way", WAYS)
def test_triples_are_those_of_a_backward_stable_method(way, shape, dtype):
    for name, spectrum in SPECTRA.items():
        rng = np.random.default_rng(0)
        left, right = (orthonormal(rng, (size, WIDTH), dtype) for size in shape)
        a = ((left * spectrum) @ right.conj().T).astype(dtype)
        u, s, vh = (np.asarray(x) for x in WAYS[way](jnp.asarray(a)))
        v = vh.conj().T
        eps = np.finfo(dtype).eps
        near = {"atol": 60 * eps * spectrum[0], "rtol": 0, "err_msg": name}
        np.testing.assert_allclose(s, spectrum, **near)
        assert (np.diff(s) <= 0).all()
        np.testing.assert_allclose(a @ v, u * s, **near)
        np.testing.assert_allclose(a.conj().T @ u, v * s, **near)
        there = s > 100 * eps * spectrum[0]
        for x in (u[:, there], v[:, there]):
            product = x.conj().T @ x
            np.testing.assert_allclose(product, np.eye(len(product)), atol=60 * eps)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [5, 40])
def test_nan_comes_through(way, rows):
    for result in WAYS[way](jnp.ones((rows, 3)).at[1, 2].set(jnp.nan)):
        assert jnp.isnan(result).all()


def test_columns_become_orthonormal_in_order_and_those_that_add_nothing_zero():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype(np.float32)
    x[:, 2] = 1e-3 * x[:, 3] + x[:, 1]
    x = x * np.logspace(-25, 25, 6, dtype=np.float32)
    q = np.asarray(jax.jit(orthonormal_columns)(x))
    np.testing.assert_allclose(q.T @ q, np.eye(6), atol=2e-6)
    triangle = np.tril(
        q.T.astype(float) @ (x / np.linalg.norm(x.astype(float), axis=0))
    )
    np.testing.assert_allclose(triangle, np.diag(np.diagonal(triangle)), atol=2e-6)
    assert (np.diagonal(triangle) > 0).all()
    twice = np.eye(ROWS, 3, dtype=np.float32)
    twice = np.concatenate([twice, twice, 0 * twice], axis=1)
    q = np.asarray(jax.jit(orthonormal_columns)(twice))
    np.testing.assert_allclose(q[:, :3], twice[:, :3], atol=1e-6)
    np.testing.assert_array_equal(q[:, 3:], 0)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
@pytest.mark.parametrize(
    "dtype", [np.float64, np.complex128] if X64 else [np.float32, np.complex64]
)
def test_derivatives_are_those_of_jax(dtype, shape):
    rng = np.random.default_rng(0)
    real, imaginary = rng.normal(size=(2, 2, *shape))
    is_complex = np.issubdtype(dtype, np.complexfloating)
    a, step = jnp.asarray(real + 1j * imaginary if is_complex else real, dtype)

    def derivatives(function: Any) -> Any:
        return jax.jit(lambda a, step: jax.jvp(function, (a,), (step,))[1])(a, step)

    truth = derivatives(lambda a: tuple(jnp.linalg.svd(a, full_matrices=False)))
    near = {"atol": 1e3 * jnp.finfo(dtype).eps, "rtol": 0}
    for one, other in zip(derivatives(on_this_platform), truth, strict=True):
        np.testing.assert_allclose(one, other, **near)
    np.testing.assert_allclose(derivatives(singular_values), truth[1], **near)


def test_functions_of_the_span_of_equal_values_have_derivatives():
    rng = np.random.default_rng(0)
    weights, step = (jnp.asarray(rng.normal(size=(3, 3))) for _ in range(2))

    @jax.jit
    def of_span(a: Any) -> Any:
        u, s, vh = on_this_platform(a)
        total = (weights * (u[:, :2] @ u[:, :2].T)).sum()
        return total + (weights * (vh[:2].T @ vh[:2])).sum() + s[:2].sum()

    a = jnp.diag(jnp.asarray([2.0, 2.0, 1.0]))
    slopes = jax.jit(jax.grad(of_span))(a)
    if a.dtype == np.float64:
        size = 1e-5
        change = of_span(a + size * step) - of_span(a - size * step)
        slope = (slopes * step).sum()
        np.testing.assert_allclose(slope, change / (2 * size), rtol=1e-6)
    assert jnp.isfinite(slopes).all()
