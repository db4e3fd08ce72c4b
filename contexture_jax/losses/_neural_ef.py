"""Ordered eigenfunctions by stopped gradients: NeuralEF and Neural Eigenmaps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_coefficient
from contexture_jax._core.moments import batch_of
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import as_views, unit_variance

__all__ = ["neural_ef", "neural_eigenmaps"]


def neural_ef(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−Σ_i (R_ii − Σ_{j<i} R_ij² / R_jj), ψ_j held fixed in the second sum.

    R = E ψ̂(A) ψ̂(A⁺)ᵀ of the centred columns, scaled to mean square 1 over both views.
    Minimum −Σ_{i≤d} s_i². Recovers ν_1, …, ν_d themselves, ordered, whatever the
    (positive semi-definite) spectrum. Like `sequential_nesting` its gradient is not
    that of a function.

    R_jj, a variance in the population, may come out small or negative from a batch; it
    is taken as at least √eps of the dtype. A constant column counts as 0 and has
    gradient 0: it stays where it is.

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Deng, Shi, Zhu 2022, arXiv 2205.00165; theory.md §7.4.
    """
    R, fixed = _positive_moments(z, z_plus, weights, axis_name)
    # R_jj is a divisor. The floor leaves the penalty R_ij² / R_jj finite where a batch
    # puts R_jj below 0, and plays no part for an s_j² above it.
    floor = float(np.finfo(R.dtype).eps) ** 0.5
    heights = jax.lax.stop_gradient(jnp.maximum(R, floor))
    # Row j over R_jj, above the diagonal: function i > j pays for what ν_j explains
    # already, λ_j c² for a component c (theory.md §7.4).
    return -jnp.sum(R) + jnp.sum(jnp.triu(fixed**2 / heights[:, None], 1))


def neural_eigenmaps(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    alpha: float = 10.0,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−Σ_i R_ii + α Σ_{j<i} R_ij², ψ_j held fixed in the second sum.

    R as in `neural_ef`. Minimum −Σ_{i≤d} s_i². Recovers ν_1, …, ν_d, ordered, if and
    only if α > (λ_j − λ_i) / λ_j² for all competing pairs j < i, with λ = s²; below
    that ψ_i copies ψ_j, since copying gains λ_j − λ_i and costs α λ_j². The published α
    belongs to columns of mean square t and is t times smaller: multiply by t.

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        alpha: α ≥ 0.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Deng, Shi, Zhang, Cui, Lu, Zhu 2022, arXiv 2210.12637; theory.md §7.4.
    """
    strength = check_coefficient(alpha, "alpha")
    R, fixed = _positive_moments(z, z_plus, weights, axis_name)
    return -jnp.sum(R) + strength * jnp.sum(jnp.triu(fixed**2, 1))


def _positive_moments(
    z: ArrayLike, z_plus: ArrayLike, weights: Any, axis_name: Any
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """R_ii, and R_ji with no gradient to function j, the row."""
    z, z_plus = as_views(z, z_plus)
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    # (1, d), of both views: one law has one mean.
    mean = ((batch.mean(z) + batch.mean(z_plus)) / 2)[None, :]
    z, z_plus = unit_variance(z - mean, z_plus - mean, batch)
    # (d, d). Either view may stand in the row, and only the row is held; the mean of
    # both estimates has less variance, and the same gradient in expectation.
    fixed = batch.moment(jax.lax.stop_gradient(z), z_plus)
    mirror = batch.moment(jax.lax.stop_gradient(z_plus), z)
    return batch.mean(z * z_plus), (fixed + mirror) / 2
