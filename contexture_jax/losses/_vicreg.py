"""Redundancy reduction: VICReg and Barlow Twins."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from contexture_jax._core.checks import check_coefficient
from contexture_jax._core.moments import batch_of
from contexture_jax._core.numerics import safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float, summary
from contexture_jax.losses._common import as_views
from contexture_jax.losses._constraint import hinge_penalty

__all__ = ["barlow_twins", "vicreg"]


def vicreg(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    epsilon: float = 1e-4,
    average: str = "width",
    unbiased: bool = False,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """λ E‖z − z⁺‖² / d + μ · hinge + ν · (off-diagonal covariances), of both views.

    hinge is mean_i (1 − √(C_ii + ε))₊ averaged over the views, and the last term the
    sum over the views of Σ_{i≠j} C_ij² / d (`average="pairs"`: over d (d − 1), as in
    the dissertation's code; weaker by d − 1, theory.md §0 E15).

    Recovers the span of ν_1, …, ν_d if the covariance of the minimiser is invertible;
    PCA orders it. It need not be: where s is well below 1 and ν small, as published,
    coordinates copy one another (theory.md §7.3).

    For d = 1 the variance is θ with √(θ + ε) = min(1, μ / (4 λ (1 − s²))), 0 where that
    is below √ε: full variance if and only if μ ≥ 4 λ (1 − s²).

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        invariance: λ ≥ 0.
        variance: μ ≥ 0.
        covariance: ν ≥ 0.
        epsilon: ε > 0, within the root.
        average: what the sum of squared covariances is divided by.
        unbiased: covariances with Bessel's factor, as in the released code.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Bardes, Ponce, LeCun 2022, arXiv 2105.04906; the factor ½ of the hinge
        is that of its released code.
    """
    x, y = as_views(z, z_plus)
    if average not in ("width", "pairs"):
        msg = f"average must be 'width' or 'pairs'; got {summary(average)}"
        raise ValueError(msg)
    invariance = check_coefficient(invariance, "invariance")
    variance = check_coefficient(variance, "variance")
    covariance = check_coefficient(covariance, "covariance")
    epsilon = check_coefficient(epsilon, "epsilon", positive=True)
    d = x.shape[1]
    batch = batch_of(x, weights=weights, axis_name=axis_name)
    # Raw, not centred: the means of the views are to agree as well.
    distance = batch.mean(jnp.sum((x - y) ** 2, axis=1)) / d
    factor = batch.bessel() if unbiased else 1.0
    hinges, squares = [], []
    # Each view about its own mean and by itself, as published; `view_moments` would
    # join them.
    for view in (batch.centre(x), batch.centre(y)):
        hinge, square = hinge_penalty(batch.moment(view, view) * factor, epsilon)
        hinges.append(hinge)
        squares.append(square)
    # E15: the dissertation's code averages over the pairs.
    count = d if average == "width" else max(d * (d - 1), 1)
    return (
        invariance * distance
        + variance * (hinges[0] + hinges[1]) / 2
        + covariance * (squares[0] + squares[1]) / count
    )


def barlow_twins(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    off_diagonal: float = 0.0051,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij², C the cross-correlation of the two views.

    Warning (theory.md §0 E18): not an exact extractor. With a small λ, the published
    one included, the minimiser in the population has every coordinate equal to ν_1, at
    about d (1 − s_1²)² + λ d (d − 1) s_1⁴. Below λ = 1 rotated coordinates of equal
    correlation are preferred. Only for λ > 1 are eigen-aligned coordinates, in any
    order, at Σ_i (1 − s_i²)², and then only while giving up ν_d for a copy of another
    does not pay. Nothing of this is seen with over-parameterised encoders on few data,
    where s ≈ 1.

    A constant column has correlations 0 and gradient 0.

    Args:
        z: embeddings Ψ(a), shape (b, d).
        z_plus: embeddings Ψ(a⁺) by the same encoder, shape (b, d).
        off_diagonal: λ ≥ 0.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zbontar, Jing, Misra, LeCun, Deny 2021, arXiv 2103.03230, eq. 1–2.
    """
    x, y = as_views(z, z_plus)
    strength = check_coefficient(off_diagonal, "off_diagonal")
    batch = batch_of(x, weights=weights, axis_name=axis_name)
    x, y = batch.centre(x), batch.centre(y)
    # Each by its own deviation, so that C_ii is a correlation, at most 1 in modulus.
    x, y = (v * safe_reciprocal(safe_sqrt(batch.mean(v**2)))[None, :] for v in (x, y))
    # (d, d), not symmetric in a batch: the sum below runs over both triangles.
    C = batch.moment(x, y)
    own = jnp.diagonal(C)
    others = jnp.sum((C - jnp.diag(own)) ** 2)
    return jnp.sum((1 - own) ** 2) + strength * others
