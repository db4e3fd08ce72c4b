"""Orbital minimisation: orthonormal functions without an orthonormality constraint."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_coefficient, check_integer
from contexture_jax._core.moments import batch_of
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, ArrayLike, Float, summary
from contexture_jax.losses._common import as_views, tail_weights, view_moments

__all__ = ["orbital_minimisation"]

# Binomial coefficients near 1e11 there: their sum keeps five digits of float64.
_HIGHEST_ORDER = 20


def orbital_minimisation(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    order: int = 1,
    shift: float = 0.0,
    nesting: str | None = None,
    mode_weights: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Tr (I − V Vᵀ)^(2p) (A + κ I) less its value at V = 0, p the order, κ the shift.

    A is the operator of the pair (X, X⁺), V the functions. In moments, with C of one
    view and R of both, Σ_{k=1}^{2p} (−1)^k binom(2p, k) Tr C^(k−1) (R + κ C): for p = 1
    it is −2 Tr R + Tr C R + κ (‖C − I‖²_F − d). Minimum −Σ_{i≤d} (λ_i + κ), λ_i the
    eigenvalues of A on mean-zero functions (s_i² for two views of one context).
    Recovers an orthonormal basis of the top-d span, in any rotation.

    Positive semi-definite A + κ I only: along a negative eigenvalue the loss falls
    without bound. Two views of one context give A = T* T, which has none, but its
    estimate R from a small batch may: choose κ > 0, or a larger batch. For a graph, κ
    = 1 makes every A + κ I positive; see also `graph`.

    Nesting orders the functions, for p = 1. "joint" sums the objective of the first j
    functions, α_j times: Σ_l m_l (−2 R_ll) + Σ_ij m_max(i,j) C_ij R_ij with R for R + κ
    C and m_l = Σ_{j≥l} α_j; minimum −Σ_l m_l (λ_l + κ), at the eigenfunctions alone, up
    to sign and rotations within repeated values. "sequential" has the value of the
    plain objective, and lets each function see those before it as fixed; its fixed
    point is the same, and its gradient that of no function: use first-order methods.

    Args:
        z: embeddings Φ(x), shape (b, d).
        z_plus: embeddings Φ(x⁺) by the same encoder, shape (b, d).
        order: p, 1 or 2 in the paper; 1 to 20.
        shift: κ ≥ 0.
        nesting: None, "joint" or "sequential".
        mode_weights: α of "joint", shape (d,), non-negative with α_d > 0; None: 1 / d
            each.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    Raises:
        ValueError: also for a nesting with p > 1, and for `mode_weights` without
            "joint".

    References:
        Ryu, Zhou, Wornell 2025, arXiv 2510.21952; theory.md §7.4.
    """
    p = check_integer(order, "order", low=1, high=_HIGHEST_ORDER)
    kappa = check_coefficient(shift, "shift")
    z, z_plus = as_views(z, z_plus)
    _check_nesting(nesting, p, mode_weights)
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    C, R = view_moments(z, z_plus, batch)
    # The moment of A + κ I, that of the identity being C. Everything below is the
    # objective of a positive semi-definite operator then.
    R = R + kappa * C
    if nesting == "joint":
        m = tail_weights(mode_weights, C.shape[0], C.dtype)
        # As in `joint_nesting`: max(i, j) is the first nested problem with both
        # functions.
        later = np.maximum(*np.indices(C.shape))
        return jnp.sum(m[later] * C * R) - 2 * jnp.sum(m * jnp.diagonal(R))
    if nesting == "sequential":
        # The values of C and R, with the functions of the rows held: i < l does not
        # move for the sake of l.
        H, G = view_moments(z, z_plus, batch, hold_rows=True)
        # H (G + κ H) is C (R + κ C) entry by entry; its gradient in f_l is half of 2
        # Σ_{i<l} (f_i R_il + A f_i C_il), hence the 2 below (theory.md §7.4).
        before = jnp.sum(jnp.triu(H * (G + kappa * H), 1))
        return 2 * before + jnp.sum(jnp.diagonal(C * R)) - 2 * jnp.trace(R)
    # Invariant: `product` is C^(k−1) R; each further power is one product of size d.
    product, value = R, jnp.zeros((), dtype=C.dtype)
    for k in range(1, 2 * p + 1):
        value = value + (-1) ** k * math.comb(2 * p, k) * jnp.trace(product)
        if k < 2 * p:
            product = mm(C, product)
    return value


def _check_nesting(nesting: str | None, p: int, mode_weights: Any) -> None:
    if nesting not in (None, "joint", "sequential"):
        msg = f"nesting must be None, 'joint' or 'sequential'; got {summary(nesting)}"
        raise ValueError(msg)
    if nesting is not None and p != 1:
        msg = f"nesting is for order = 1; got nesting={summary(nesting)} and order={p}"
        raise ValueError(msg)
    if mode_weights is not None and nesting != "joint":
        msg = f"mode_weights are for nesting='joint'; got nesting={summary(nesting)}"
        raise ValueError(msg)
