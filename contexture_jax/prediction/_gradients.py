"""Conjugate gradients for many columns, each with its own steps.

`jax.scipy.sparse.linalg.cg` takes a block for one long vector, whose steps are those of
no column, knows the Euclidean inner product alone, and says nothing of how it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, Float, Int

__all__ = ["conjugate_gradients", "lengths"]


class _State(NamedTuple):
    x: Array
    r: Array  # b − B x by recurrence
    d: Array  # the direction
    rho: Array  # ‖r‖²
    number: Array
    go_on: Array


def lengths(x: Float[Array, "n k"], weights: Float[Array, " n"]) -> Float[Array, " k"]:
    """The norms of columns, √(Σ_i w_i x_i²)."""
    return jnp.sqrt(jnp.sum(weights[:, None] * x**2, axis=0))


def conjugate_gradients(
    apply: Callable[[Array], Array],
    b: Float[Array, "n k"],
    weights: Float[Array, " n"],
    *,
    tol: Float[Array, ""],
    max_iterations: int,
) -> tuple[Float[Array, "n k"], Int[Array, ""]]:
    """Solve B x = b, B self-adjoint and positive in ⟨u, v⟩ = Σ_i w_i u_i v_i.

    Each column ends where its residual, as the recurrence has it, is at most `tol`
    times the right-hand side; a column that is done stays as it is. What the residual
    really is, the caller asks B. Columns of zeros are solved by zeros.

    Args:
        apply: v → B v, linear, of blocks.
        b: the right-hand sides, shape (n, k).
        weights: w, shape (n,), not negative.
        tol: shape ().
        max_iterations: static.

    Returns:
        x, shape (n, k), and the number of steps, shape ().
    """
    # Of length 1, so that squares of residuals stay in range.
    scale = lengths(b, weights)[None, :]
    first = safe_divide(b, scale)

    def step(s: _State) -> _State:
        q = apply(s.d)
        curvature = jnp.sum(weights[:, None] * s.d * q, axis=0)
        # NaN fails both comparisons: a column that is lost stays at its last step.
        live = (s.rho > tol**2) & (curvature > 0)
        alpha = jnp.where(live, safe_divide(s.rho, curvature), 0)
        x, r = s.x + alpha[None, :] * s.d, s.r - alpha[None, :] * q
        rho = lengths(r, weights) ** 2
        d = r + jnp.where(live, safe_divide(rho, s.rho), 0)[None, :] * s.d
        number = s.number + live.any()
        go_on = (live & (rho > tol**2)).any() & (number < max_iterations)
        return _State(x, r, d, rho, number, go_on)

    start = _State(
        jnp.zeros_like(b),
        first,
        first,
        lengths(first, weights) ** 2,
        jnp.zeros((), jnp.int32),
        jnp.ones((), bool),
    )
    ended = jax.lax.while_loop(lambda s: s.go_on, step, start)
    return ended.x * scale, ended.number
