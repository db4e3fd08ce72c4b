"""Gram-only orthonormalisation: complete, orthonormal and true to the span."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax.solvers import _orthonormal
from contexture_jax.solvers._orthonormal import orthonormalize
from contexture_jax.solvers._random import make_seed
from tests.conftest import X64
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
NUM_ROWS, WIDTH = 120, 10
SEED = make_seed(jax.random.key(0))
SEED_HERE = np.uint32(SEED)


def with_singular_values(values):
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(NUM_ROWS, WIDTH)))
    v, _ = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))
    return u * values @ v.T


def blocks():
    rng = np.random.default_rng(1)
    random = rng.normal(size=(NUM_ROWS, WIDTH))
    return {
        "random": random,
        "zero": np.zeros_like(random),
        "repeated columns": np.repeat(random[:, :2], WIDTH // 2, axis=1),
        "rank 3": random[:, :3] @ rng.normal(size=(3, WIDTH)),
        "columns of very different lengths": random * 10.0 ** -np.arange(WIDTH),
        "condition number 1e3": with_singular_values(np.logspace(0, -3, WIDTH)),
        "condition number beyond the dtype": with_singular_values(
            np.logspace(0, -20, WIDTH)
        ),
        "tiny": random * 1e-30,
        "huge": random * 1e30,
    }


BLOCKS = blocks()


@jax.jit
def run(block, basis):
    return orthonormalize(block, SEED, basis=basis)


@jax.jit
def run_loose(block):
    return orthonormalize(block, SEED, loose=True)


NO_BASIS = np.zeros((NUM_ROWS, 4), DTYPE)
BASIS = np.linalg.qr(np.random.default_rng(2).normal(size=(NUM_ROWS, 4)))[0].astype(
    DTYPE
)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_result_is_orthonormal_and_its_span_holds_the_block(name):
    block = jnp.asarray(BLOCKS[name], DTYPE)
    q = np.asarray(run(block, NO_BASIS), np.float64)
    np.testing.assert_allclose(
        q.T @ q, np.eye(WIDTH), atol=tol(DTYPE, factor=10, size=WIDTH)
    )
    columns = np.asarray(block, np.float64)
    left = np.linalg.norm(columns - q @ (q.T @ columns), axis=0)
    largest = np.linalg.norm(columns, axis=0).max()
    assert left.max() <= tol(DTYPE, factor=10, size=WIDTH) * max(largest, 1e-300)


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_it_stays_off_a_basis_even_if_the_block_lies_in_it(inside):
    mixed = BASIS @ np.ones((4, WIDTH)) + (1 - inside) * 1e-3 * BLOCKS["random"]
    q = np.asarray(run(jnp.asarray(mixed, DTYPE), BASIS), np.float64)
    np.testing.assert_allclose(
        q.T @ q, np.eye(WIDTH), atol=tol(DTYPE, factor=10, size=WIDTH)
    )
    assert np.abs(BASIS.T @ q).max() < tol(DTYPE, factor=10, size=WIDTH)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_loose_basis_has_the_span_and_is_nearly_orthonormal(name):
    block = jnp.asarray(BLOCKS[name], DTYPE)
    q = np.asarray(run_loose(block), np.float64)
    eigenvalues = np.linalg.eigvalsh(q.T @ q)
    assert 0.89 < eigenvalues[0] <= eigenvalues[-1] < 1.01
    columns = np.asarray(block, np.float64)
    left = np.linalg.norm(columns - q @ np.linalg.lstsq(q, columns)[0], axis=0)
    largest = np.linalg.norm(columns, axis=0).max()
    assert left.max() <= tol(DTYPE, factor=10, size=WIDTH) * max(largest, 1e-300)


def test_not_a_number_comes_through():
    block = jnp.asarray(BLOCKS["random"], DTYPE).at[3, 2].set(jnp.nan)
    assert np.isnan(np.asarray(run(block, NO_BASIS))).any()


@pytest.mark.parametrize(
    ("inside", "cosine", "rounds"), [(0.0, 0.05, 1), (300.0, 0.05, 2), (0.0, -0.1, 2)]
)
def test_columns_far_from_dependent_take_one_round_if_they_are_clean(
    inside, cosine, rounds, monkeypatch
):
    rng = np.random.default_rng(3)
    # Off the basis and at equal angles: −1/9 would make columns depend on each other.
    q, _ = np.linalg.qr(np.concatenate([BASIS, BLOCKS["random"]], axis=1))
    gram = np.full((WIDTH, WIDTH), cosine) + (1 - cosine) * np.eye(WIDTH)
    off = q[:, 4:] @ np.linalg.cholesky(gram).T
    # Most of each column along the basis, or none; of any lengths.
    along = inside * BASIS @ rng.normal(size=(4, WIDTH))
    block = ((off + along) * 10.0 ** rng.uniform(-3, 3, WIDTH)).astype(DTYPE)
    turn, seen = _orthonormal._turn_of, []
    monkeypatch.setattr(
        _orthonormal, "_turn_of", lambda *of: seen.append(1) or turn(*of)
    )
    q = orthonormalize(block, SEED_HERE, basis=BASIS)
    assert len(seen) == rounds
    atol = tol(DTYPE, factor=10, size=WIDTH)
    np.testing.assert_allclose(q.T @ q, np.eye(WIDTH), atol=atol)
    assert np.abs(BASIS.T @ q).max() < atol
