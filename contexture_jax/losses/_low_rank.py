"""Low-rank approximation of T and of T* T, and the nestings that order its modes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import (
    as_kernel_batch,
    as_pair,
    as_views,
    frobenius,
    kernel_moment,
    tail_weights,
    view_moments,
)

__all__ = [
    "joint_nesting",
    "lora_evd",
    "lora_kernel",
    "lora_svd",
    "negative_energy",
    "sequential_nesting",
]


def lora_svd(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−2 Tr C_φψ + Tr C_φ C_ψ = ‖T − Σ_l φ̃_l ψ̃_l*‖² − ‖T‖² (Hilbert–Schmidt).

    Minimum −Σ_{i≤d} s_i². Recovers the spans of μ_1, …, μ_d and ν_1, …, ν_d, unordered:
    (Φ, Ψ) and (Φ M, Ψ M⁻ᵀ) are equal for every invertible M. No constraint is needed;
    Rayleigh–Ritz gives the functions.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, d).
        unbiased: take the product of covariances from two halves of the batch, and
            covariances with Bessel's factor.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Ryu, Xu, Erol, Bu, Zheng, Wornell 2024 (NeuralSVD), arXiv 2402.03655; theory.md
        §7.4.
    """
    f, g = as_pair(phi, psi)
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    # Tr C_φψ needs the diagonal alone: b · d operations, not b · d².
    cross = jnp.sum(batch.mean(batch.centre(f) * batch.centre(g)))
    if not unbiased:
        f, g = batch.centre(f), batch.centre(g)
        return -2 * cross + frobenius(batch.moment(f, f), batch.moment(g, g))
    # A product of two moments of one batch counts each row with itself, and is too
    # large by O(1 / b) (theory.md §7.7); those of different rows are independent.
    C, D = _half_covariances(f, batch), _half_covariances(g, batch)
    product = frobenius(C[0], D[1]) + frobenius(C[1], D[0])
    # Linear in a covariance, where Bessel's factor is all that is needed.
    return -2 * cross * batch.bessel() + product / 2


def lora_evd(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−2 Tr R + ‖C‖²_F = ‖T* T − Σ_l ψ̃_l ψ̃_l*‖² − ‖T* T‖², twice L_C.

    R is the covariance of the two views and C that of one. Minimum −Σ_{i≤d} s_i⁴ at
    Ψ̃ = (s_1 ν_1, …, s_d ν_d) up to a rotation; PCA of Ψ gives the order.

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        unbiased: as `lora_svd`.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Ryu et al. 2024 (NeuralSVD), arXiv 2402.03655; theory.md §7.4.
    """
    z, z_plus = as_views(z, z_plus)
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    C, R = view_moments(z, z_plus, batch, unbiased=unbiased)
    # A square without bias takes the moments of two halves besides.
    square = negative_energy(z, z_plus, batch) if unbiased else jnp.sum(C**2)
    return -2 * jnp.trace(R) + square


def lora_kernel(
    phi: ArrayLike,
    kernel_matrix: ArrayLike,
    *,
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−2 Tr K + ‖C‖²_F with K = E Φ̃(X) k(X, X') Φ̃(X')ᵀ: `kise` without a constraint.

    The squared Hilbert–Schmidt distance of the kernel operator from Σ_l φ̃_l φ̃_l*, but
    for a constant. Minimum −Σ_{i≤d} λ_i², at φ̃_i = √λ_i μ_i up to a rotation, λ_i as in
    `kise`: s_i² for the dual kernel.

    Args:
        phi: embeddings of x, shape (b, d).
        kernel_matrix: k(x_i, x_j), shape (b, N), as `kise`.
        unbiased: of K, as `kise`.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Ryu et al. 2024 (NeuralSVD), arXiv 2402.03655; theory.md §7.4.
    """
    f, k, batch = as_kernel_batch(phi, kernel_matrix, weights, axis_name)
    # Centred, so that k and k − 1 are the same here too; without, one of the d
    # functions would be the constant (theory.md §0 E13).
    f = batch.centre(f)
    C, K = batch.moment(f, f), kernel_moment(f, k, batch, unbiased)
    return -2 * jnp.trace(K) + jnp.sum(C**2)


def joint_nesting(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    mode_weights: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Σ_j α_j · (the low-rank objective of the first j modes): ordered.

    Σ_l m_l (−2 [C_φψ]_ll) + Σ_ij m_max(i,j) [C_φ]_ij [C_ψ]_ij with m_l = Σ_{j≥l} α_j.
    Minimum −Σ_l m_l s_l², where φ̃_l ψ̃_l* = s_l μ_l ν_l* for every l, up to the scale
    (c, 1 / c) of each pair and rotations within repeated values.

    For two views of one encoder pass both: the objective is then that of T* T, with s²
    in the place of s.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, d).
        mode_weights: α, shape (d,), non-negative with α_d > 0; None: 1 / d each.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Ryu et al. 2024 (NeuralSVD), arXiv 2402.03655, joint nesting; theory.md §7.4.
    """
    f, g = as_pair(phi, psi)
    d = f.shape[1]
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    f, g = batch.centre(f), batch.centre(g)
    m = tail_weights(mode_weights, d, f.dtype)
    # (d, d): of the nested problems, the first that holds both mode i and mode j.
    later = np.maximum(*np.indices((d, d)))
    # (d,)
    cross = batch.mean(f * g)
    # (d, d)
    products = batch.moment(f, f) * batch.moment(g, g)
    return -2 * jnp.sum(m * cross) + jnp.sum(m[later] * products)


def sequential_nesting(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """`lora_svd` in value; in gradient, each mode sees the modes before it as fixed.

    The gradient in φ_l is −2 T ψ_l + 2 Σ_{i≤l} φ_i [C_ψ]_il, in ψ_l its mirror: mode l
    fits what the modes before it leave. Fixed point φ̃_l ψ̃_l* = s_l μ_l ν_l*, ordered,
    at the value −Σ_{i≤d} s_i². The gradient is not that of any function: use
    first-order methods, no line search.

    Built by stopped gradients: 2 [E φ̄_i φ_l] [E ψ̄_i ψ_l] for i < l, the bars marking
    what is held fixed, and E φ_l² E ψ_l² for i = l. For two views of one encoder pass
    both.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, d).
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Ryu et al. 2024 (NeuralSVD), arXiv 2402.03655, sequential nesting; theory.md
        §7.4.
    """
    f, g = as_pair(phi, psi)
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    f, g = batch.centre(f), batch.centre(g)
    # (d, d) each. Rows are held: row i of column l, i < l, is what mode l sees as
    # fixed.
    H = batch.moment(jax.lax.stop_gradient(f), f)
    G = batch.moment(jax.lax.stop_gradient(g), g)
    before = jnp.sum(jnp.triu(H * G, 1))
    # Both factors move in i = l, or the gradient in φ_l would be half of what it is in
    # the objective of mode l alone.
    own = jnp.sum(batch.mean(f**2) * batch.mean(g**2))
    return -2 * jnp.sum(batch.mean(f * g)) + 2 * before + own


def negative_energy(
    z: Float[Array, "b d"], z_plus: Float[Array, "b d"], batch: Batch
) -> Float[Array, ""]:
    """An unbiased estimate of ‖C‖²_F: ⟨C, C'⟩ of the two halves of the batch."""
    # Each half is centred about its own mean: about the mean of both they would not be
    # independent.
    even, odd = batch.halves()
    C = view_moments(z[0::2], z_plus[0::2], even, unbiased=True).covariance
    D = view_moments(z[1::2], z_plus[1::2], odd, unbiased=True).covariance
    return frobenius(C, D)


def _half_covariances(
    x: Float[Array, "b d"], batch: Batch
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    def covariance(part: Array, half: Batch) -> Array:
        part = half.centre(part)
        return half.moment(part, part) * half.bessel()

    even, odd = batch.halves()
    return covariance(x[0::2], even), covariance(x[1::2], odd)
