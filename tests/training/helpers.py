"""A small two-tower problem whose loss is nonlinear in moments of the batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import contexture_jax as cx

FEATURES, WIDTH, DIM = 12, 8, 3
OPTIMIZER = optax.adam(1e-2)


def data(rows: int = 320) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(rows, FEATURES))


def parameters() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(1), 3)
    return {
        "in": jax.random.normal(keys[0], (FEATURES, WIDTH)) / 3,
        "phi": jax.random.normal(keys[1], (WIDTH, DIM)) / 3,
        "psi": jax.random.normal(keys[2], (WIDTH, DIM)) / 3,
    }


def noisy(key: jax.Array, x: jax.Array) -> jax.Array:
    return x + 0.3 * jax.random.normal(key, x.shape, x.dtype)


def encode(params: Any, batch: jax.Array, keys: jax.Array) -> tuple[Any, Any]:
    """Both towers; the second sees noise that is drawn row by row."""
    view = cx.training.per_row(noisy)(keys, batch)
    phi = jnp.tanh(batch @ params["in"]) @ params["phi"]
    psi = jnp.tanh(view @ params["in"]) @ params["psi"]
    return phi, psi


def moment(a: jax.Array, b: jax.Array, axis_name: str | None) -> jax.Array:
    local = a.T @ b / a.shape[0]
    return local if axis_name is None else jax.lax.pmean(local, axis_name)


def objective(
    embeddings: tuple[jax.Array, jax.Array],
    running: jax.Array,
    *,
    axis_name: str | None = None,
) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
    """−Tr(C_φ⁻¹ C_φψ C_ψ⁻¹ C_ψφ), with a running mean of C_φ as state."""
    phi, psi = embeddings
    ridge = 1e-2 * jnp.eye(DIM, dtype=phi.dtype)
    c_phi = moment(phi, phi, axis_name)
    running = 0.5 * running + 0.5 * jax.lax.stop_gradient(c_phi)
    cross = moment(phi, psi, axis_name)
    left = jnp.linalg.solve(0.5 * (c_phi + running) + ridge, cross)
    right = jnp.linalg.solve(moment(psi, psi, axis_name) + ridge, cross.T)
    trace = jnp.trace(left @ right)
    return -trace, (running, {"largest": jnp.max(jnp.diag(c_phi))})


def initial_state(optimizer: Any = OPTIMIZER, **options: Any) -> cx.training.TrainState:
    return cx.training.init_state(
        parameters(), optimizer, loss_state=jnp.eye(DIM), **options
    )


def make_step(optimizer: Any = OPTIMIZER, **options: Any) -> Any:
    return cx.training.make_step(
        encode, objective, optimizer, **({"row_keys": True} | options)
    )


def difference(a: Any, b: Any) -> float:
    """The largest difference of two pytrees over the largest entry of its leaf."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))))
        / max(float(np.max(np.abs(np.asarray(y, np.float64)))), 1e-30)
        for x, y in pairs
    )


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)
