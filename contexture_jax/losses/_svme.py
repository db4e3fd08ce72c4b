"""SVME and KISE: the contexture by two encoders, or by one and the dual kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from contexture_jax._core.moments import batch_of
from contexture_jax._core.types import Array, ArrayLike, Float, summary
from contexture_jax.losses._common import (
    as_embedding,
    as_kernel_batch,
    as_pair,
    as_views,
    kernel_moment,
    rescaled_together,
    through_kernels,
    view_moments,
)
from contexture_jax.losses._constraint import (
    Constraint,
    Whiten,
    as_constraint,
    constrained,
    rescaled_for,
)
from contexture_jax.losses._running import RunningMoments
from contexture_jax.losses._vamp import split_score, vamp
from contexture_jax.losses._whiten import regularised, trace_ratio

__all__ = ["kise", "kise_pairs", "scores_of_draws", "svme", "svme_views"]


def svme(
    phi: ArrayLike,
    psi: ArrayLike,
    *,
    constraint: Constraint = "whiten",
    moments: RunningMoments | None = None,
    solved: bool = False,
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

    Descending in both, Ψ lags behind T* Φ: a direction that Ψ does not have yet gives Φ
    no gradient. With `solved`, Ψ̃ = W g̃ with g the columns of `psi` and W the best map,
    C_φg C_g⁻¹. The minimum over W is

        d − Tr C⁻¹ C_φg C_g⁻¹ C_gφ = d − E φ̃(X)ᵀ C⁻¹ φ̃(X') g̃(A)ᵀ C_g⁻¹ g̃(A')

    over independent pairs (X, A) and (X', A'): KISE with the part of the dual kernel
    that g spans, or d plus `vamp`. Of a batch only different pairs are taken: a W
    judged on the rows that it was fitted to gains d k / b from noise alone. Minimum and
    minimisers in Φ are the same for k ≥ d, and no basis of g enters.

    Args:
        phi: embeddings of x, shape (b, d), floating; half precision becomes float32.
        psi: embeddings of the a paired with them, shape (b, d); (b, k) if `solved`.
        constraint: "whiten", "squared", "hinge", or one of the classes with
            coefficients of your own. `lora_svd` needs none.
        moments: running moments of Φ, this batch included; for "whiten" only.
        solved: whether the last linear map of Ψ is solved in the batch; for "whiten"
            without running moments. The ridge is that of Φ and of g. The batch may be
            smaller than d: then take a ridge of 0.1.
        weights: of the pairs, shape (b,); None: uniform.
        axis_name: the mapped axis over which the batch is cut.

    Raises:
        ValueError: if `solved` is asked for with another constraint or with moments.

    References:
        Zhai 2025 (dissertation, arXiv 2504.19792), ch. 2; theory.md §7.2.
    """
    if solved:
        return _solved(phi, psi, constraint, moments, weights, axis_name)
    f, g = as_pair(phi, psi)
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    # Together: f − g is meaningless in two units.
    (f, g), exponent = rescaled_for(constraint, batch, f, g)
    f, g = batch.centre(f), batch.centre(g)
    residual = f - g
    C = batch.moment(f, f)
    # C_φψ + C_ψφ − C_ψ by one product in place of three.
    B = C - batch.moment(residual, residual)
    return constrained(constraint, C, B, factor=1, moments=moments, exponent=exponent)


def svme_views(
    phi: ArrayLike,
    psi: ArrayLike,
    psi_plus: ArrayLike,
    *more: ArrayLike,
    ridge: float = 0.1,
    kernels: Sequence[ArrayLike] = (),
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """SVME with Ψ solved, from draws of A for each x: Φ and Ψ help each other.

    The sum of `svme(solved=True)`, with the mean of the draws for g in the products,
    and of `kise_pairs` of Ψ on each two draws, which finds the functions of A without
    Φ:

        d − E φ̃(X)ᵀ C⁻¹ φ̃(X') ḡ(X)ᵀ C_g⁻¹ ḡ(X') + k − E g̃(A)ᵀ C_g⁻¹ g̃(A⁺)

    over independent X and X', with ḡ the mean of g̃ over the draws of an x. Minimum
    d − Σ_{i≤min(d,k)} s_i² + k − Σ_{i≤k} s_i². Recovers the spans of μ by Φ and of ν by
    Ψ. The mean has less variance than one draw, and Φ never waits for Ψ: it learns as
    KISE does on pairs of inputs, which a sampler of A alone cannot draw.

    Args:
        phi: embeddings of x, shape (b, d).
        psi: embeddings of a first a for each x, shape (b, k).
        psi_plus: of a second, independent given x, shape (b, k).
        *more: of others, likewise. With r draws the part of the mean that is noise is
            1/r of that of one.
        ridge: as `Whiten`, for both covariances.
        kernels: of steps before A in a convolution, each of shape (b, N), as `kise`
            takes them: the functions that A is to tell are T_{k_r} … T_{k_1} Φ.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        theory.md §7.2, §7.8.
    """
    score, own = scores_of_draws(
        phi,
        psi,
        psi_plus,
        *more,
        ridge=ridge,
        kernels=kernels,
        weights=weights,
        axis_name=axis_name,
    )
    widths = [as_embedding(z, "embeddings").shape[1] for z in (phi, psi)]
    return sum(widths) - (score + own)


def scores_of_draws(
    phi: ArrayLike,
    psi: ArrayLike,
    psi_plus: ArrayLike,
    *more: ArrayLike,
    ridge: float,
    kernels: Sequence[ArrayLike] = (),
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What A tells of Φ, and what its draws tell of Ψ, as in `svme_views`."""
    views = [as_pair(psi, z, ("psi", "psi_plus"))[1] for z in (psi_plus, *more)]
    f, first = as_pair(phi, psi, same_width=False)
    dtype = jnp.result_type(f, *views)
    f, *g = (z.astype(dtype) for z in (f, first, *views))
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    # Φ and Ψ in units of their own: each is whitened by its own covariance, and the two
    # never meet but in correlations.
    (f,), _ = rescaled_together(batch, f)
    g, _ = rescaled_together(batch, *g)
    mean = sum(g[1:], g[0]) / len(g)
    # Draws about their own mean: what of Ψ(A) varies given x.
    within = sum(batch.moment(z - mean, z - mean) for z in g) / len(g)
    f, mean = batch.centre(f), batch.centre(mean)
    between = batch.moment(mean, mean)
    # (d, d); D and R are (k, k).
    C = regularised(batch.moment(f, f), ridge)
    # D is the law of one draw and not of the mean, which has less variance: the
    # objective is in the metric of Ψ itself. R is the mean over pairs of draws.
    D = regularised(between + within, ridge)
    R = between - within / (len(g) - 1)
    f = through_kernels(f, kernels, batch)
    # Φ against ḡ over different rows, and Ψ on its own draws.
    return split_score(C, f, D, mean, batch), trace_ratio(D, R)


def kise(
    phi: ArrayLike,
    kernel_matrix: ArrayLike,
    *,
    constraint: Constraint = "whiten",
    moments: RunningMoments | None = None,
    unbiased: bool = False,
    kernels: Sequence[ArrayLike] = (),
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
        constraint: as `svme`; `lora_kernel` needs none.
        moments: running moments of Φ; for "whiten" only.
        unbiased: leave out the pairs (i, i), which are not independent and hold the
            large diagonal of k, and divide by 1 − Σ p_i² = 1 − 1 / N. The estimate of
            E Φᵀ k Φ' is unbiased then; centring by the batch's mean still biases by
            O(1 / N).
        kernels: of the steps before it in a convolution, first to last, each of shape
            (b, N) as `kernel_matrix`: E Bᵀ k B' takes the place of E Φᵀ k Φ', with B =
            T_{k_r} … T_{k_1} Φ by means over the other rows of the batch (Algorithm 1).
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai 2025 (dissertation, arXiv 2504.19792), ch. 2 and 4; theory.md §7.2, §7.8.
    """
    f, k, batch = as_kernel_batch(phi, kernel_matrix, weights, axis_name)
    # k has no unit of f's, so that C and K are both over 4^e.
    (f,), exponent = rescaled_for(constraint, batch, f)
    f = batch.centre(f)
    C = batch.moment(f, f)
    # The constraint stays that of Φ: of what the steps make of it, it would be met by
    # the functions of the last context alone.
    f = through_kernels(f, kernels, batch)
    # (d, d); E f k f'ᵀ, the B of theory.md §7.3.
    K = kernel_moment(f, k, batch, unbiased)
    return constrained(constraint, C, K, factor=1, moments=moments, exponent=exponent)


def kise_pairs(
    z: ArrayLike,
    z_plus: ArrayLike,
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
        z: embeddings Φ(x), shape (b, d).
        z_plus: embeddings Φ(x⁺) by the same encoder, shape (b, d).
        constraint: as `svme`; `lora_evd` needs none.
        moments: running moments of both views; for "whiten" only.
        weights: of the pairs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.
    """
    z, z_plus = as_views(z, z_plus)
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    (z, z_plus), exponent = rescaled_for(constraint, batch, z, z_plus)
    # R is that of T T* here, where `non_contrastive` has that of T* T; both are B of
    # theory.md §7.3, with κ = 1 and 2.
    C, R = view_moments(z, z_plus, batch)
    return constrained(constraint, C, R, factor=1, moments=moments, exponent=exponent)


def _solved(
    phi: ArrayLike,
    psi: ArrayLike,
    constraint: Constraint,
    moments: RunningMoments | None,
    weights: ArrayLike | None,
    axis_name: Any,
) -> Float[Array, ""]:
    form = as_constraint(constraint)
    # The best W is put in for a Φ that is whitened, by C and C_g of the same rows:
    # running moments are those of Φ alone.
    if moments is not None or not isinstance(form, Whiten):
        msg = (
            "solved needs constraint='whiten' without running moments;"
            f" got {summary(form if moments is None else moments)}"
        )
        raise ValueError(msg)
    score = vamp(
        phi,
        psi,
        ridge=form.ridge,
        unbiased=True,
        weights=weights,
        axis_name=axis_name,
    )
    # d − VAMP-2, as `score` is a loss (theory.md §7.2).
    return as_embedding(phi, "phi").shape[1] + score
