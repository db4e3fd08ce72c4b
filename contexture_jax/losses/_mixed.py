"""Objectives over several contexts of one X, a weight for each (theory.md §7.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_floating, is_traced
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import as_embedding, rescaled_together
from contexture_jax.losses._min_max import MixedLoss
from contexture_jax.losses._svme import scores_of_draws
from contexture_jax.losses._whiten import regularised, trace_ratio

__all__ = ["kise_mixed", "svme_mixed"]

Draws = Sequence[Sequence[ArrayLike]]


def svme_mixed(
    phi: ArrayLike,
    psi: Draws,
    part_weights: ArrayLike,
    *,
    ridge: float = 0.1,
    axis_name: Any = None,
) -> MixedLoss:
    """SVME of several contexts: one Φ, and for each context a Ψ of its own.

    Σ_j w_j L_j, L_j = d − E φ̃(X)ᵀ C⁻¹ φ̃(X') ḡ_j(X)ᵀ C_j⁻¹ ḡ_j(X'), as `svme_views`, and
    beside it what teaches each Ψ_j on its own draws, whatever its weight. L_j is d
    minus the ratio trace of Φ in context j at the best Ψ_j, so that the minimum of the
    sum is d − Σ_{i≤d} λ_i, the λ_i of Σ_j w_j T_j T_j*: the span of the leading
    functions of `contexts.convex_combination`.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: for each of two or more draws, the embeddings of A_j for every context,
            each of shape (b, k), all given the same x.
        part_weights: w_j, shape (j,), summing to 1.
        ridge: as `Whiten`.
        axis_name: the mapped axis over which the batch is cut.

    Returns:
        The sum, and L_j of each context.

    Raises:
        TypeError: if something is not floating.
        ValueError: if there are fewer draws than two, or sizes differ.

    References:
        Zhai 2025 (dissertation, arXiv 2504.19792), Algorithm 2; theory.md §7.8.
    """
    w = _as_weights(part_weights, psi)
    d = as_embedding(phi, "phi").shape[1]
    scores = [
        scores_of_draws(phi, *draws, ridge=ridge, axis_name=axis_name)
        for draws in zip(*psi, strict=True)
    ]
    parts = jnp.stack([d - score for score, _ in scores])
    widths = [as_embedding(one, "psi").shape[1] for one in psi[0]]
    own = sum(k - of_psi for k, (_, of_psi) in zip(widths, scores, strict=True))
    return MixedLoss(jnp.sum(w.astype(parts.dtype) * parts) + own, parts)


def kise_mixed(
    psi: Draws,
    part_weights: ArrayLike,
    *,
    ridge: float = 0.1,
    axis_name: Any = None,
) -> MixedLoss:
    """KISE of several contexts: Ψ_j of each, averaged to T Ψ = Σ_j w_j T_j Ψ_j.

    It is `kise_pairs` of Ψ(A) = Ψ_J(A_J) on two draws of A = (J, A_J), given the same x
    and independent, with the mean over J taken exactly: d − Tr C⁻¹ R of

        C = Σ_j w_j Cov Ψ_j,    R = E t t⁺ᵀ,  t = Σ_j w_j Ψ̃_j(A_j),

    all about the common mean. Its minimum is d − Σ_{i≤d} λ_i, the λ_i of Σ_j w_j T_j
    T_j*, whose leading functions T Ψ spans. The losses of the parts are L_j = d − ∂ Tr
    C⁻¹ R / ∂ w_j, with Σ_j w_j L_j the loss; where Ψ is best, L_j is d minus the ratio
    trace of T Ψ in context j.

    Args:
        psi: for each of two or more draws, the embeddings of A_j for every context,
            each of shape (b, d), all given the same x.
        part_weights: w_j, shape (j,), summing to 1.
        ridge: as `Whiten`.
        axis_name: the mapped axis over which the batch is cut.

    Returns:
        The sum, and L_j of each context.

    Raises:
        TypeError: if something is not floating.
        ValueError: if there are fewer draws than two, or sizes differ.

    References:
        Derived in theory.md §7.8.
    """
    w = _as_weights(part_weights, psi)
    num = w.shape[0]
    flat = [as_embedding(z, "psi") for draw in psi for z in draw]
    batch = batch_of(flat[0], axis_name=axis_name)
    flat, _ = rescaled_together(batch, *flat)
    w = w.astype(flat[0].dtype)

    def gain(w: Array, flat: list[Array]) -> Array:
        draws = [flat[i : i + num] for i in range(0, len(flat), num)]
        C, R = _moments_of_mixture(draws, w, batch)
        return trace_ratio(regularised(C, ridge), R)

    # Forward, as sums over devices are linear: the same on each, by any strategy.
    held = jax.lax.stop_gradient
    slopes = jax.jacfwd(gain)(held(w), [held(z) for z in flat])
    d = flat[0].shape[1]
    return MixedLoss(d - gain(w, flat), d - slopes)


def _moments_of_mixture(
    draws: list[list[Array]], w: Float[Array, " j"], batch: Batch
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    """C and R of `kise_mixed`, of degree 1 and 2 in w, from all pairs of draws."""
    num = len(draws)
    means = [sum(w[j] * batch.mean(z) for j, z in enumerate(draw)) for draw in draws]
    mean: Any = sum(means) / (num * jnp.sum(w))
    C: Any = 0
    averages = []
    for draw in draws:
        centred = [z - mean[None, :] for z in draw]
        C = C + sum(w[j] * batch.moment(z, z) for j, z in enumerate(centred)) / num
        averages.append(sum(w[j] * z for j, z in enumerate(centred)))
    # (b, d): over the draws, and each about that.
    total: Any = sum(averages) / num
    within = sum(batch.moment(t - total, t - total) for t in averages) / num
    return C, batch.moment(total, total) - within / (num - 1)


def _as_weights(part_weights: ArrayLike, psi: Draws) -> Float[Array, " j"]:
    # In the dtype of the embeddings: weights of NumPy would be float64 in a program.
    dtype = jnp.promote_types(jnp.result_type(*psi[0]), jnp.float32) if psi else None
    if not is_traced(part_weights) and np.asarray(part_weights).dtype.kind in "fiu":
        part_weights = np.asarray(part_weights).astype(dtype)
    w = as_floating(part_weights, "part_weights").astype(dtype)
    sizes = {len(draw) for draw in psi}
    if len(psi) < 2 or sizes != {w.shape[0]} or w.ndim != 1:
        msg = (
            "psi must hold two or more draws, each with an embedding for every one of"
            f" the part_weights; got {len(psi)} draws of {sorted(sizes)} embeddings and"
            f" weights of shape {w.shape}"
        )
        raise ValueError(msg)
    return w
