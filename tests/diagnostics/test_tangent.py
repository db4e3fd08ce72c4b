"""The tangent kernel by products of derivatives, beside the dense Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import contexture_jax as cx
from contexture_jax.diagnostics import tangent_operator
from tests.conftest import X64
from tests.tolerances import promised

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(4)
KEY = jax.random.key(4)
N = 12
X = RNG.normal(size=(N, 3))
PARAMS = {
    "w": RNG.normal(size=(3, 4)),
    "b": RNG.normal(size=4),
    "v": RNG.normal(size=(4, 2)),
}


def apply(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None, :]) @ params["v"] + 7


def kernel_of() -> tuple[np.ndarray, np.ndarray]:
    """The centred kernel of the dense Jacobian, and its eigenvalues."""
    flat, unravel = ravel_pytree(PARAMS)
    jacobian = jax.jacrev(lambda p: apply(unravel(p), X))(flat)
    kernel = np.einsum("icp,jcp->ij", jacobian, jacobian)
    centre = np.eye(N) - 1 / N
    kernel = centre @ kernel @ centre
    return kernel, np.linalg.eigvalsh(kernel)[::-1]


def test_products_and_energy_are_those_of_the_dense_jacobian():
    op = tangent_operator(apply, PARAMS, X, key=KEY)
    kernel, values = kernel_of()
    dense = 1 + N * kernel / values[0]
    slack = promised(np.float64)
    assert op.shape == (N, 2 * sum(p.size for p in PARAMS.values()) + 1)
    # T T* = T_k: of unit vectors the columns of k p.
    image = op.matmat(op.rmatmat(np.eye(N)))
    np.testing.assert_allclose(image, dense / N, rtol=0, atol=slack)
    # Of one width: each compiles derivatives both ways.
    f, g = RNG.normal(size=(N, N)), RNG.normal(size=(op.shape[1], N))
    np.testing.assert_allclose(
        f.T @ (op.p_x[:, None] * op.matmat(g)),
        (op.p_a[:, None] * op.rmatmat(f)).T @ g,
        rtol=0,
        atol=slack,
    )
    assert op.squared_norm() == pytest.approx(1 + values.sum() / values[0])


@pytest.mark.slow
def test_the_spectrum_is_that_of_the_dense_jacobian():
    found, _ = cx.svd(tangent_operator(apply, PARAMS, X, key=KEY), 5, key=KEY)
    values = kernel_of()[1]
    expected = np.sqrt(values[:5] / values[0])
    np.testing.assert_allclose(found.singular_values, expected, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_flax_model_is_taken_as_its_function():
    from flax import nnx

    config = cx.models.MLPConfig(in_features=3, out_features=1, hidden=(5,))
    params, function = cx.models.functional(cx.models.MLP(config, rngs=nnx.Rngs(0)))
    x = X.astype(np.float32)
    op = tangent_operator(function, params, x, key=KEY)
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacrev(lambda p: function(unravel(p), x)[:, 0])(flat)
    jacobian = np.asarray(jacobian)
    exact = np.linalg.svd(jacobian - jacobian.mean(axis=0), compute_uv=False)
    found, _ = cx.svd(op, 4, key=KEY)
    np.testing.assert_allclose(
        found.singular_values, exact[:4] / exact[0], rtol=0, atol=promised(np.float32)
    )


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="all rows of x have one derivative"):
        tangent_operator(lambda w, x: w + 0 * x[:, 0], jnp.ones(()), X, key=KEY)
    with pytest.raises(ValueError, match=r"must have shape \(12,\) or \(12, c\)"):
        tangent_operator(lambda w, x: w * x[:2, 0], jnp.ones(()), X, key=KEY)
    with pytest.raises(ValueError, match="at least 2 rows"):
        tangent_operator(apply, PARAMS, X[:1], key=KEY)
