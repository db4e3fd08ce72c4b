"""Two views of one context variable: contrastive and non-contrastive objectives."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from contexture_jax._core.checks import check_coefficient
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.numerics import safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import as_views, frobenius, view_moments
from contexture_jax.losses._constraint import Constraint, constrained, rescaled_for
from contexture_jax.losses._low_rank import negative_energy
from contexture_jax.losses._running import RunningMoments

__all__ = [
    "non_contrastive",
    "spectral_contrastive",
    "spectral_contrastive_published",
]


def spectral_contrastive(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """L_C = E [−⟨Ψ̃(A), Ψ̃(A⁺)⟩ + ½ ⟨Ψ̃(A), Ψ̃(A⁻)⟩²] = −Tr R + ½ ‖C‖²_F.

    A and A⁺ are two draws for one X, A⁻ is independent of them. Minimum
    −½ Σ_{i≤d} s_i⁴, at Ψ̃ = (s_1 ν_1, …, s_d ν_d) up to a rotation: Cov Ψ has the
    eigenvalues s_i², so that PCA of Ψ gives order and singular values.

    The constants are those of theory.md §0 E6: CTX prints L_C without the ½ of
    ½ ‖B − D‖² − ½ ‖D‖². Negatives are products of moments: no (b, b) array.

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        unbiased: take ‖C‖² as the product of the covariances of two halves of the
            batch, with Bessel's factor, so that the expected loss is the population's.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai et al. 2025 (CTX), §3; HaoChen et al. 2021, arXiv 2106.04156.
    """
    z, z_plus = as_views(z, z_plus)
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    C, R = view_moments(z, z_plus, batch, unbiased=unbiased)
    # ‖C‖² of one batch is too large by O(1 / b); Tr R is linear, and `view_moments`
    # gives it without bias already (theory.md §7.7).
    square = negative_energy(z, z_plus, batch) if unbiased else jnp.sum(C**2)
    return -jnp.trace(R) + square / 2


def spectral_contrastive_published(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    mu: float | None = None,
    unbiased: bool = True,
    centre: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """The spectral contrastive loss as published: −2 E z ᵀz⁺ + E (zᵀ z⁻)².

    Without centring one of the d slots is spent on the constant, s_0 = 1 (theory.md §0
    E13): minimum −Σ_{i<d} s_i⁴ over i = 0, …, d − 1, span of ν_0, …, ν_{d−1}. With
    `centre=True`, or one more column, nothing is lost: −Σ_{i≤d} s_i⁴.

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        mu: if given, rows longer than √μ are scaled to that length and the loss is
            divided by μ, as in the released code.
        unbiased: average (zᵀ z⁻)² over different rows i ≠ j of the first and the second
            view, as in the released code; else over all.
        centre: take the mean of both views off first.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        HaoChen, Wei, Gaidon, Ma 2021, arXiv 2106.04156, and its released code.
    """
    x, y = as_views(z, z_plus)
    batch = batch_of(x, weights=weights, axis_name=axis_name)
    scale = 1.0
    if mu is not None:
        scale = check_coefficient(mu, "mu", positive=True)
        # Each view by itself, and before the mean is taken, as in the released code.
        x, y = _clipped(x, scale), _clipped(y, scale)
    if centre:
        mean = ((batch.mean(x) + batch.mean(y)) / 2)[None, :]
        x, y = x - mean, y - mean
    similarity = batch.mean(jnp.sum(x * y, axis=1))
    # Negatives are a row of the first view and another of the second, as in the
    # released code; C of `view_moments` would join the views in both factors.
    return (-2 * similarity + _energy(x, y, batch, unbiased)) / scale


def non_contrastive(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    constraint: Constraint = "whiten",
    moments: RunningMoments | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """L_N = E ‖Ψ(A) − Ψ(A⁺)‖² subject to Cov Ψ = I.

    Minimum 2 Σ_{i≤d} (1 − s_i²) (theory.md §0 E6); recovers the span of ν_1, …, ν_d,
    unordered. With `SquaredPenalty(1.0)` it is 2 L_C + d, and every mode has the
    variance s_i²; with γ < 1 modes with 1 − s_i² ≥ γ collapse (theory.md §7.3).

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        constraint: as `svme`; `lora_evd`, which is 2 L_C, needs none.
        moments: running moments of both views; for "whiten" only.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai et al. 2025 (CTX), §3.
    """
    z, z_plus = as_views(z, z_plus)
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    (z, z_plus), exponent = rescaled_for(constraint, batch, z, z_plus)
    C, R = view_moments(z, z_plus, batch)
    return constrained(constraint, C, R, factor=2, moments=moments, exponent=exponent)


def _clipped(z: Float[Array, "b d"], mu: float) -> Float[Array, "b d"]:
    norm = safe_sqrt(jnp.sum(z**2, axis=1))
    shrink = jnp.where(norm > mu**0.5, mu**0.5 * safe_reciprocal(norm), 1)
    return z * shrink[:, None]


def _energy(
    x: Float[Array, "b d"], y: Float[Array, "b d"], batch: Batch, unbiased: bool
) -> Float[Array, ""]:
    """E (xᵀ y')², over i ≠ j if unbiased: moments less the pairs (i, i)."""
    # Σ_ij p_i p_j (x_iᵀ y_j)² = ⟨E x xᵀ, E y yᵀ⟩: two (d, d) moments, no (b, b) array.
    energy = frobenius(batch.moment(x, x), batch.moment(y, y))
    if not unbiased:
        return energy
    # (b,): the pairs (i, i), which are positives and no negatives.
    squares = jnp.sum(x * y, axis=1) ** 2
    if batch.probabilities is None:
        own = batch.mean(squares) / batch.global_size
    else:
        own = batch.mean(batch.probabilities * squares)
    # Over the mass that is left, 1 − Σ p_i².
    return (energy - own) * batch.bessel()
