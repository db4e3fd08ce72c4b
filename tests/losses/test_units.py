"""What whitens depends on no unit of the embeddings, on one device or several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from contexture_jax import losses
from tests.conftest import X64
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
ROWS, RANK = 304, 3
RNG = np.random.default_rng(0)
A = RNG.normal(size=(ROWS, RANK)).astype(DTYPE)
NOISY = (A + 0.5 * RNG.normal(size=A.shape)).astype(DTYPE)
KERNEL = (A @ A.T).astype(DTYPE)
EXPONENTS = (-1000, -350, 350, 1000) if X64 else (-110, -40, -23, 33, 63, 110)

WHITENED = {
    "vamp 1": functools.partial(losses.vamp, r=1),
    "vamp 2": losses.vamp,
    "svme": losses.svme,
    "kise_pairs": losses.kise_pairs,
    "non_contrastive": losses.non_contrastive,
    "graph": losses.graph,
    "kise": lambda f, _: losses.kise(f, KERNEL),
    "squared_error": lambda f, _: losses.squared_error(f, A),
}


@pytest.mark.parametrize("name", WHITENED)
def test_a_loss_that_whitens_depends_on_no_unit(name):
    both = jax.jit(jax.value_and_grad(WHITENED[name]))
    value, slope = both(A, NOISY)
    for exponent in EXPONENTS:
        pair = np.ldexp(A, exponent), np.ldexp(NOISY, exponent)
        found, along = both(*pair)
        np.testing.assert_allclose(found, value, rtol=tol(DTYPE))
        # The slope is per unit; it leaves the range where the embedding is too small.
        if abs(exponent) < 100 or (X64 and abs(exponent) < 900):
            back = np.ldexp(np.asarray(along), exponent)
            np.testing.assert_allclose(back, slope, atol=tol(DTYPE))


@pytest.mark.parametrize("r", [1, 2])
def test_embeddings_of_two_units_score_as_of_one(r):
    loss = jax.jit(functools.partial(losses.vamp, r=r))
    pair = np.ldexp(A, EXPONENTS[0]), np.ldexp(A, EXPONENTS[-1])
    np.testing.assert_allclose(loss(*pair), -RANK, rtol=4e-6)


def test_running_moments_keep_their_unit_and_no_loss_sees_it():
    @jax.jit
    def both(z, z_plus):
        moments = losses.update_moments(losses.init_moments(RANK, DTYPE), z, z_plus)
        loss = losses.kise_pairs(z, z_plus, moments=moments)
        return loss, losses.whiten(z, moments)

    value, white = both(A, NOISY)
    for exponent in (-350, 350) if X64 else (-40, 40):
        found, same = both(np.ldexp(A, exponent), np.ldexp(NOISY, exponent))
        np.testing.assert_allclose(found, value, rtol=tol(DTYPE))
        np.testing.assert_allclose(same, white, atol=tol(DTYPE))


@pytest.mark.slow
def test_devices_and_rows_without_weight_agree_on_the_unit():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    weights = np.ones(ROWS, DTYPE)
    weights[::5] = 0
    # One device has entries far above those of the others, and one only zeros.
    rows = np.ldexp(A, EXPONENTS[0])
    rows[: ROWS // 4] *= 64
    rows[-ROWS // 4 :] = 0
    rows[::5] = np.ldexp(DTYPE(1), EXPONENTS[-1])

    def loss(f, w):
        return losses.vamp(f, f, weights=w, axis_name="data")

    cut = jax.jit(
        jax.shard_map(
            jax.value_and_grad(loss),
            mesh=mesh,
            in_specs=(PartitionSpec("data"), PartitionSpec("data")),
            out_specs=(PartitionSpec(), PartitionSpec("data")),
        )
    )
    value, _ = cut(jnp.asarray(rows), jnp.asarray(weights))
    np.testing.assert_allclose(value, -RANK, rtol=1e-5)
    np.testing.assert_allclose(
        losses.vamp(rows, rows, weights=weights), value, rtol=tol(DTYPE)
    )


@pytest.mark.parametrize("constant", [1e-3, 100.3])
def test_a_constant_embedding_scores_0(constant):
    flat = np.full_like(A, constant)
    np.testing.assert_allclose(losses.vamp(flat, A), 0, atol=1e-9)
    np.testing.assert_allclose(losses.vamp(flat, flat, r=1), 0, atol=1e-6)
