"""SVME and KISE: the contexture by two encoders, or by one and the dual kernel."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from contexture_jax._core.checks import as_floating
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import (
    as_embedding,
    as_pair,
    frobenius,
    view_moments,
)
from contexture_jax.losses._constraint import (
    Constraint,
    LowRank,
    as_constraint,
    constrained,
    in_unit_of,
)
from contexture_jax.losses._running import RunningMoments

__all__ = ["kise", "kise_pairs", "svme"]


def svme(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    constraint: Constraint = "whiten",
    moments: RunningMoments | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Single-view multi-encoder: E ‖Φ̃(X) − Ψ̃(A)‖² subject to Cov Φ = I.

    Minimum d − Σ_{i≤d} s_i². Recovers the span of μ_1, …, μ_d by Φ, unordered; at the
    optimum Ψ̃ = T* Φ̃. With `constraint="whiten"` the residual is measured in the metric
    C⁻¹ of Φ's covariance, which is SVME for the whitened embedding in any basis:

        Tr C⁻¹ E (φ̃ − ψ̃)(φ̃ − ψ̃)ᵀ = d − Tr C⁻¹ B,    B = C_φψ + C_ψφ − C_ψ.

    Its minimum over Ψ is d minus the ratio trace of Φ. The second form is computed: a
    ridge lowers Tr C⁻¹ B and can so never be a gain. Forward and backward each take
    two (b, d) × (d, d) products and one Cholesky of size d; no eigendecomposition.

    Where Φ is constant the loss is finite, d plus Tr C_ψ over the floor of the
    dtype, both in the unit of the larger, with gradient 0 in Φ: a constant encoder
    learns nothing from it.

    Args:
        phi: embeddings of x, shape (b, d), floating; half precision becomes float32.
        psi: embeddings of the a paired with them, shape (b, d).
        constraint: "whiten", "squared", "hinge", "none", or one of the classes with
            coefficients of your own. "none" is `lora_svd`.
        moments: running moments of Φ, this batch included; for "whiten" only.
        weights: of the pairs, shape (b,); None: uniform.
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai 2025 (dissertation, arXiv 2504.19792), ch. 2; theory.md §7.2.
    """
    f, g = as_pair(phi, psi)
    law = batch_of(f, weights=weights, axis_name=axis_name)
    (f, g), unit = in_unit_of(constraint, law, f, g)
    f, g = law.centre(f), law.centre(g)
    if isinstance(as_constraint(constraint), LowRank):
        C, C_psi, cross = law.moment(f, f), law.moment(g, g), law.mean(f * g)
        low_rank = -2 * jnp.sum(cross) + frobenius(C, C_psi)
        return constrained(
            constraint, C, C, low_rank, factor=1, moments=moments, unit=unit
        )
    residual = f - g
    C = law.moment(f, f)
    B = C - law.moment(residual, residual)
    return constrained(
        constraint, C, B, jnp.zeros(()), factor=1, moments=moments, unit=unit
    )


def kise(
    phi: ArrayLike,
    kernel_matrix: ArrayLike,
    *,
    constraint: Constraint = "whiten",
    moments: RunningMoments | None = None,
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Kernel-integral single-encoder: E ‖Φ̃‖² − E Φ̃(X)ᵀ k(X, X') Φ̃(X'), Cov Φ = I.

    X and X' are independent. Minimum d − Σ_{i≤d} λ_i with λ_i the leading eigenvalues
    of the kernel operator on mean-zero functions: λ_i = s_i² for the dual kernel k_X⁺.
    Recovers the span of μ_1, …, μ_d, unordered. k and k − 1 give the same loss, since
    Φ is centred. Any positive semi-definite kernel may be used.

    Args:
        phi: embeddings of x, shape (b, d).
        kernel_matrix: k(x_i, x_j), shape (b, N): rows for the local batch, columns for
            the rows of all devices in their order, N = b on one device.
        constraint: as `svme`; "none" is −2 Tr K + ‖C‖²_F with K = E Φ̃ k Φ̃'ᵀ, of
            minimum −Σ λ_i².
        moments: running moments of Φ; for "whiten" only.
        unbiased: leave out the pairs (i, i), which are not independent and hold the
            large diagonal of k, and divide by 1 − Σ p_i² = 1 − 1 / N. The estimate of
            E Φᵀ k Φ' is unbiased then; centring by the batch's mean still biases by
            O(1 / N).
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai 2025 (dissertation, arXiv 2504.19792), ch. 2; theory.md §7.2.
    """
    f = as_embedding(phi, "phi")
    law = batch_of(f, weights=weights, axis_name=axis_name)
    k = as_floating(kernel_matrix, "kernel_matrix").astype(f.dtype)
    if k.shape != (f.shape[0], law.global_size):
        msg = (
            "kernel_matrix must have one row for each local row and one column for each"
            f" row of all devices, shape {(f.shape[0], law.global_size)}; got {k.shape}"
        )
        raise ValueError(msg)
    (f,), unit = in_unit_of(constraint, law, f)
    f = law.centre(f)
    C, K = law.moment(f, f), _kernel_moment(f, k, law, unbiased)
    low_rank = -2 * jnp.trace(K) + jnp.sum(C**2)
    return constrained(constraint, C, K, low_rank, factor=1, moments=moments, unit=unit)


def kise_pairs(
    phi: ArrayLike,
    phi_plus: ArrayLike,
    *,
    constraint: Constraint = "whiten",
    moments: RunningMoments | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """KISE from pairs: X and X⁺ drawn from P_X(x) k(x, x') P_X(x').

    For the dual kernel that is two inputs that share a context: A from P⁺(· | X), then
    X⁺ from P⁺(· | A). Then E Φ̃(X)ᵀ k(X, X') Φ̃(X') = E Φ̃(X)ᵀ Φ̃(X⁺), and no kernel has
    to be known. Same minimum and minimisers as `kise`.

    Args:
        phi: embeddings of x, shape (b, d).
        phi_plus: embeddings of x⁺ by the same encoder, shape (b, d).
        constraint: as `kise`.
        moments: running moments of both views; for "whiten" only.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.
    """
    f, f_plus = as_pair(phi, phi_plus, ("phi", "phi_plus"))
    law = batch_of(f, weights=weights, axis_name=axis_name)
    (f, f_plus), unit = in_unit_of(constraint, law, f, f_plus)
    C, R = view_moments(f, f_plus, law)
    low_rank = -2 * jnp.trace(R) + jnp.sum(C**2)
    return constrained(constraint, C, R, low_rank, factor=1, moments=moments, unit=unit)


def _kernel_moment(
    f: Float[Array, "b d"], k: Float[Array, "b n"], law: Batch, unbiased: bool
) -> Float[Array, "d d"]:
    """E f(X) k(X, X') f(X')ᵀ, symmetrised; f centred."""
    everyone = law.gather(f)
    if law.probabilities is not None:
        everyone = law.gather(law.probabilities)[:, None] * everyone
    else:
        everyone = everyone / law.global_size
    if unbiased:
        factor = law.bessel()
        own = law.row_numbers()[:, None]
        k = jnp.where(own == jnp.arange(k.shape[1])[None, :], 0, k) * factor
    K = law.moment(f, mm(k, everyone))
    return (K + K.T) / 2
