"""Variational scores of T: VAMP-1, VAMP-2, VAMP-E, and neural conditional probability.

All are returned as losses, minus the score, and leave the constant functions out.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from contexture_jax._core.checks import as_floating, check_coefficient
from contexture_jax._core.factorizations import singular_values
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, ArrayLike, Float, summary
from contexture_jax.losses._common import as_pair, frobenius, rescaled_together
from contexture_jax.losses._constraint import covariance_penalty
from contexture_jax.losses._whiten import (
    Regularised,
    regularised,
    whitened_cross,
    whitened_rows,
)

__all__ = ["ncp", "split_score", "vamp", "vamp_e"]


def vamp(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    r: int = 2,
    ridge: float = 1e-6,
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−‖C_φ^(−1/2) C_φψ C_ψ^(−1/2)‖_r^r: minus the sum of r-th powers of correlations.

    Minimum −Σ_{i≤d} s_i^r. Recovers the spans of μ and ν; the SVD of the whitened
    cross-covariance gives order and singular values. The two embeddings may have
    different widths; then d is the smaller.

    r = 2 is computed with one Cholesky of each covariance. r = 1 takes the singular
    values of a d × d matrix; its gradient at a value of 0 is one of many, as that of
    an absolute value. A constant embedding scores 0, and so do directions that rounding
    cannot tell from none, those of dependent columns: the score is that of the span.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, k).
        r: 1 or 2.
        ridge: as `Whiten`, for both covariances.
        unbiased: for r = 2, leave out each pair's product with itself: the square of
            C_φψ is a mean over two independent pairs. With f̃, g̃ the whitened rows the
            score is (‖E f̃ g̃ᵀ‖² − Σ p_i² ‖f̃_i‖² ‖g̃_i‖²) / (1 − Σ p_i²). What is left
            out comes to d k / b where Φ and Ψ are independent, and hides the score
            unless b is far above d and k. The covariances stay those of the batch.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    Raises:
        ValueError: if r is not 1 or 2, or `unbiased` with r = 1 or a batch of 1 row.

    References:
        Wu, Noé 2020, arXiv 1707.04659; theory.md §7.4.
    """
    if r not in (1, 2):
        msg = f"r must be 1 or 2; got {summary(r)}"
        raise ValueError(msg)
    if unbiased and r != 2:
        msg = f"unbiased needs r = 2; got r = {r}"
        raise ValueError(msg)
    f, g = as_pair(phi, psi, same_width=False)
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    # Each in a unit of its own: the score depends on neither.
    ((f,), _), ((g,), _) = (rescaled_together(batch, z) for z in (f, g))
    # What rounding leaves of a constant has a mean too, and would score alone.
    f, g = batch.centre(f), batch.centre(g)
    # (d, d), (d, k), (k, k)
    C, cross, D = _centred_moments(f, g, batch)
    if unbiased:
        return -split_score(regularised(C, ridge), f, regularised(D, ridge), g, batch)
    # (d, k): T compressed to the two spans, in orthonormal bases of them.
    K = whitened_cross(regularised(C, ridge), cross, regularised(D, ridge))
    # The squared Frobenius norm: no singular value is computed or differentiated.
    if r == 2:
        return -jnp.sum(K**2)
    return -jnp.sum(singular_values(K))


def vamp_e(
    phi: ArrayLike,
    psi: ArrayLike,
    coupling: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−Tr (2 Sᵀ C_φψ − Sᵀ C_φ S C_ψ) = ‖T − Φ̃ S Ψ̃*‖² − ‖T‖² (Hilbert–Schmidt).

    Minimum −Σ_{i≤d} s_i², over S as well; spans of μ and ν. At the best S, which is
    C_φ⁻¹ C_φψ C_ψ⁻¹, it equals VAMP-2; nothing is inverted here. S = I is `lora_svd`.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, k).
        coupling: S, a parameter of the model, shape (d, k), or (d,) for a diagonal one.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Wu, Noé 2020, arXiv 1707.04659; theory.md §7.4.
    """
    C, cross, D, _ = _moments(phi, psi, weights, axis_name, same_width=False)
    S = as_floating(coupling, "coupling").astype(C.dtype)
    # A vector is a diagonal coupling where both widths are its length; anything else is
    # told below with the shape of a matrix.
    if S.ndim == 1 and C.shape == D.shape == (*S.shape, *S.shape):
        S = jnp.diag(S)
    if S.shape != cross.shape:
        msg = f"coupling must have shape {cross.shape}; got {S.shape}"
        raise ValueError(msg)
    # Tr Sᵀ C S D = ⟨C S, S D⟩.
    return -2 * frobenius(S, cross) + frobenius(mm(C, S), mm(S, D))


def ncp(
    phi: ArrayLike,
    psi: ArrayLike,
    singular_values: ArrayLike,
    *,
    regularisation: float = 1e-3,
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−2 Tr Σ C_φψ + Tr Σ C_φ Σ C_ψ + γ (Ω_φ + Ω_ψ), Σ = diag(σ).

    Ω_φ = ‖E φφᵀ − I‖²_F + 2 ‖E φ‖². Minimum −Σ_{i≤d} s_i² for every γ > 0, attained
    with Ω = 0 and hence only by the singular triples themselves: σ holds s_1, …, s_d in
    some order (σ orders them), φ_i = μ_i, ψ_i = ν_i up to rotation within repeated
    values. With γ = 0 it is `vamp_e` with a diagonal coupling: spans.

    σ is taken as given: the released code lets exp(−w²) multiply both sides in one mode
    and reads exp(−w²/2) at inference (theory.md §0 E16), so that only its whitened
    post-processing is consistent.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of the a paired with them, shape (b, d).
        singular_values: σ, a parameter of the model, shape (d,).
        regularisation: γ ≥ 0.
        unbiased: take the product of covariances from two halves of the batch. Ω is
            left as it is: it vanishes at the minimum.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Kostic, Pacreau, Turri, Novelli, Lounici, Pontil 2024, arXiv 2407.01171.
    """
    gamma = check_coefficient(regularisation, "regularisation")
    f, g = as_pair(phi, psi)
    C, cross, D, batch = _moments(f, g, weights, axis_name)
    sigma = as_floating(singular_values, "singular_values").astype(C.dtype)
    if sigma.shape != (C.shape[0],):
        msg = f"singular_values must have shape ({C.shape[0]},); got {sigma.shape}"
        raise ValueError(msg)
    # (d, d): σ_i σ_j, so that Tr Σ C Σ D is a sum of products of entries.
    both = sigma[:, None] * sigma[None, :]
    linear, square = jnp.sum(sigma * jnp.diagonal(cross)), jnp.sum(both * C * D)
    # As in `lora_svd`: the square from two halves, the linear term by Bessel's factor.
    if unbiased:
        linear = linear * batch.bessel()
        square = _split_energy(f, g, both, batch)
    # Of the raw second moments, so that functions with a mean pay: −2 Tr Σ C_φψ alone
    # does not see a mean.
    penalty = sum(_not_orthonormal(z, batch) for z in (f, g))
    return -2 * linear + square + gamma * penalty


def _moments(
    phi: Any, psi: Any, weights: Any, axis_name: Any, *, same_width: bool = True
) -> tuple[Array, Array, Array, Batch]:
    """C_φ, C_φψ, C_ψ, and the law of the batch."""
    f, g = as_pair(phi, psi, same_width=same_width)
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    return *_centred_moments(f, g, batch), batch


def split_score(
    C: Regularised,
    f: Float[Array, "b d"],
    D: Regularised,
    g: Float[Array, "b k"],
    batch: Batch,
) -> Float[Array, ""]:
    """VAMP-2 over two different pairs: E f̃ᵀ f̃' g̃ᵀ g̃'."""
    # (b, d), (b, k)
    f, g = whitened_rows(C, f), whitened_rows(D, g)
    # (b,): what a pair gives the square by meeting itself. Its mean is d k / b of the
    # score where Φ and Ψ are independent (theory.md §7.2).
    own = jnp.sum(f**2, axis=1) * jnp.sum(g**2, axis=1)
    p = batch.probabilities
    # p_i once more: the squares carry p_i², and `mean` brings one of them.
    share = 1 / batch.global_size if p is None else p
    return batch.bessel() * (jnp.sum(batch.moment(f, g) ** 2) - batch.mean(share * own))


def _centred_moments(
    f: Float[Array, "b d"], g: Float[Array, "b k"], batch: Batch
) -> tuple[Array, Array, Array]:
    f, g = batch.centre(f), batch.centre(g)
    return batch.moment(f, f), batch.moment(f, g), batch.moment(g, g)


def _not_orthonormal(z: Float[Array, "b d"], batch: Batch) -> Float[Array, ""]:
    # Ω is least, 0, exactly for mean-zero orthonormal functions.
    return covariance_penalty(batch.moment(z, z)) + 2 * jnp.sum(batch.mean(z) ** 2)


def _split_energy(
    f: Float[Array, "b d"], g: Float[Array, "b d"], both: Array, batch: Batch
) -> Float[Array, ""]:
    C, D = [], []
    # Rows start, start + 2, …, as `Batch.halves` has them.
    for start, half in enumerate(batch.halves()):
        x, y = half.centre(f[start::2]), half.centre(g[start::2])
        C.append(half.moment(x, x) * half.bessel())
        D.append(half.moment(y, y) * half.bessel())
    return (jnp.sum(both * C[0] * D[1]) + jnp.sum(both * C[1] * D[0])) / 2
