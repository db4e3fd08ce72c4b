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

__all__ = ["conjugate_gradients"]


class _State(NamedTuple):
    x: Array
    r: Array  # b − B x by recurrence
    d: Array  # the direction
    image: Array  # of d
    rho: Array  # ⟨r, r⟩ of the step before
    floor: Array
    number: Array
    go_on: Array


def conjugate_gradients(
    apply: Callable[[Array, Array], Array],
    image: Callable[[Array], Array],
    b: Float[Array, "n k"],
    weights: Float[Array, " n"],
    *,
    tol: Float[Array, ""],
    max_iterations: int,
) -> tuple[Float[Array, "n k"], Int[Array, ""]]:
    """Solve B x = b where ⟨u, v⟩ = Σ_i w_i u_i (R v)_i makes B self-adjoint, B > 0.

    Each column ends where its residual, as the recurrence has it, is at most `tol`
    times its first in the norm of ⟨·, ·⟩; a column that is done stays as it is. What
    the residual really is, the caller asks B. Columns of zeros are solved by zeros.

    Args:
        apply: (v, R v) → B v.
        image: v → R v, linear, applied once a step.
        b: the right-hand sides, shape (n, k).
        weights: w, shape (n,), not negative.
        tol: shape ().
        max_iterations: static.

    Returns:
        x, shape (n, k), and the number of steps, shape ().
    """
    # Of length 1, so that squares of residuals stay in range.
    scale = jnp.sqrt(jnp.sum(weights[:, None] * b**2, axis=0, keepdims=True))
    zeros, none = jnp.zeros_like(b), jnp.zeros(b.shape[1], b.dtype)

    def step(s: _State) -> _State:
        # The one product with R in the program of the loop.
        turned = image(s.r)
        rho = jnp.sum(weights[:, None] * s.r * turned, axis=0)
        floor = jnp.where(s.number == 0, tol**2 * rho, s.floor)
        live = rho > floor
        ratio = jnp.where(live, safe_divide(rho, s.rho), 0)[None, :]
        d, mapped = s.r + ratio * s.d, turned + ratio * s.image
        q = apply(d, mapped)
        curvature = jnp.sum(weights[:, None] * q * mapped, axis=0)
        # NaN fails both comparisons: a column that is lost stays at its last step.
        alpha = jnp.where(live & (curvature > 0), safe_divide(rho, curvature), 0)
        x, r = s.x + alpha[None, :] * d, s.r - alpha[None, :] * q
        go_on = jnp.any(alpha > 0) & (s.number + 1 < max_iterations)
        return _State(x, r, d, mapped, rho, floor, s.number + 1, go_on)

    start = _State(
        zeros,
        safe_divide(b, scale),
        zeros,
        zeros,
        none,
        none,
        jnp.zeros((), jnp.int32),
        jnp.ones((), bool),
    )
    ended = jax.lax.while_loop(lambda s: s.go_on, step, start)
    return ended.x * scale, ended.number
