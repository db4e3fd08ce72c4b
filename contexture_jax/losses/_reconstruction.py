"""Reconstruction of the input: denoising and masked autoencoding."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from contexture_jax._core.checks import as_floating, as_real
from contexture_jax._core.moments import batch_of
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._supervised import Head, squared_error

__all__ = ["masked_reconstruction", "reconstruction"]


def reconstruction(
    psi: ArrayLike,
    x: ArrayLike,
    *,
    head: Head | None = None,
    ridge: float = 1e-6,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """E ‖Ψ(A) W + b − X‖², A a corrupted X: the denoising autoencoder.

    It is `squared_error` with the roles of X and A exchanged: minimum E ‖X̃‖² − Σ_{i≤d}
    κ_i with κ_i the leading eigenvalues of T* Λ T, k_Λ = ⟨x̃, x̃'⟩. Recovers the span of
    its top-d eigenfunctions, functions of a. They are those of the contexture only
    where Λ is the identity on the span. The average encoder T Ψ, which a downstream
    task would use, spans an invariant subspace of T T* Λ, an operator that is not
    self-adjoint: its eigenfunctions are not orthogonal (theory.md §7.5).

    Args:
        psi: embeddings of a, shape (b, d).
        x: what is to be reconstructed, shape (b, ...), floating.
        head: (W, b), a linear decoder, or None: the best one on the batch.
        ridge: as `squared_error`.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai et al. 2025 (CTX), Thm 11.
    """
    target = as_floating(x, "x")
    # Before the reshape below, which needs a number of rows.
    if target.ndim == 0:
        msg = "x must have a leading axis of rows; got shape ()"
        raise ValueError(msg)
    return squared_error(
        psi,
        # Pixels and channels are so many coordinates of X̃: the squared error adds over
        # them.
        target.reshape(target.shape[0], -1),
        head=head,
        ridge=ridge,
        weights=weights,
        axis_name=axis_name,
    )


def masked_reconstruction(
    prediction: ArrayLike,
    x: ArrayLike,
    mask: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """E Σ_masked (x̂ − x)² / E #masked: the masked autoencoder's error per masked entry.

    Numerator and denominator are summed over all devices before they are divided; a
    batch without masked entries gives 0. Minimum: the mean of Var(X_j | A) over masked
    entries, at x̂ = E[X | A], which a nonlinear decoder can reach whatever Ψ spans, so
    long as Ψ tells apart what E[X | A] does.

    Args:
        prediction: x̂, a decoder's output, shape (b, ...).
        x: the input, the same shape.
        mask: 1 or True where the input was hidden; the same shape.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        He, Chen, Xie, Li, Dollár, Girshick 2022, arXiv 2111.06377.
    """
    guess = as_floating(prediction, "prediction")
    truth = as_floating(x, "x").astype(guess.dtype)
    hidden = jnp.asarray(as_real(mask, "mask"), guess.dtype)
    if not guess.shape == truth.shape == hidden.shape or guess.ndim < 2:
        msg = (
            "prediction, x and mask must have the same shape (b, ...) of at least 2"
            f" dimensions; got {guess.shape}, {truth.shape} and {hidden.shape}"
        )
        raise ValueError(msg)
    batch = batch_of(guess, weights=weights, axis_name=axis_name)
    # All but the rows.
    axes = tuple(range(1, guess.ndim))
    error = batch.mean(jnp.sum(hidden * (guess - truth) ** 2, axis=axes))
    # A ratio of sums over the whole batch. A mean of the rows' own ratios would weigh
    # an entry by how few are masked beside it.
    return safe_divide(error, batch.mean(jnp.sum(hidden, axis=axes)))
