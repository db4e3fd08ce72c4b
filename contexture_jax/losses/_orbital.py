"""Orbital minimisation: orthonormal functions without an orthonormality constraint."""

import math
from typing import Any

import jax.numpy as jnp

from contexture_jax._core.checks import check_integer, check_number
from contexture_jax._core.moments import batch_of
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import as_pair, view_moments

__all__ = ["orbital_minimisation"]


def orbital_minimisation(
    phi: ArrayLike,
    phi_plus: ArrayLike,
    *,
    order: int = 1,
    shift: float = 0.0,
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

    Args:
        phi: embeddings of x, shape (b, d).
        phi_plus: embeddings of x⁺ by the same encoder, shape (b, d).
        order: p, 1 or 2 in the paper; at least 1.
        shift: κ ≥ 0.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Ryu, Zhou, Wornell 2025, arXiv 2510.21952; theory.md §7.4.
    """
    p = check_integer(order, "order", low=1)
    kappa = check_number(shift, "shift")
    if not kappa >= 0:
        msg = f"shift must not be negative; got {shift}"
        raise ValueError(msg)
    z, z_plus = as_pair(phi, phi_plus, ("phi", "phi_plus"))
    law = batch_of(z, weights=weights, axis_name=axis_name)
    C, R = view_moments(z, z_plus, law)
    product, value = R + kappa * C, jnp.zeros((), dtype=C.dtype)
    for k in range(1, 2 * p + 1):
        value = value + (-1) ** k * math.comb(2 * p, k) * jnp.trace(product)
        if k < 2 * p:
            product = mm(C, product)
    return value
