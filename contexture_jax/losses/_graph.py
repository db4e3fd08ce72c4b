"""The graph objective: neighbours have similar embeddings."""

from __future__ import annotations

from typing import Any

from contexture_jax._core.moments import batch_of
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._common import as_views, view_moments
from contexture_jax.losses._constraint import Constraint, constrained, rescaled_for
from contexture_jax.losses._running import RunningMoments

__all__ = ["graph"]


def graph(
    z: ArrayLike,
    z_plus: ArrayLike,
    *,
    lazy: bool = False,
    constraint: Constraint = "whiten",
    moments: RunningMoments | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """E_{(u,v)} ‖Φ(u) − Φ(v)‖² over edges, subject to Cov Φ = I under the degree law.

    Minimum 2 Σ_{i≤d} (1 − λ_i) with λ_1 ≥ λ_2 ≥ … the *signed* eigenvalues of the walk
    T on mean-zero functions; recovers the span of their eigenfunctions, unordered. The
    contexture of the walk ranks by s_i = |λ_i| instead: the side of a bipartite graph,
    λ = −1 and s = 1, is its first function and the last one here (theory.md §0 E2).
    Three ways to have both agree:

    * a walk with no negative eigenvalue;
    * `lazy=True`: the walk that stays with probability ½. Its λ is (1 + λ) / 2, all
      non-negative, so that the minimum is Σ (1 − λ_i) and the span the contexture of
      the lazy walk, in the same signed order;
    * two steps: pass two independent neighbours of one node. Their operator is T², and
      the span that of the contexture of T, ranked by |λ|.

    Args:
        z: embeddings Φ(u), shape (b, d), edges drawn in proportion to their weight.
        z_plus: embeddings Φ(v) of its neighbours, shape (b, d). Both directions of an
            edge count alike: the estimate is symmetrised.
        lazy: as above.
        constraint: as `svme`, with the scale of `non_contrastive`. `lora_evd` of both
            ends needs none.
        moments: running moments of both ends; for "whiten" only.
        weights: of the edges, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai et al. 2025 (CTX), Thm 12; theory.md §7.5.
    """
    z, z_plus = as_views(z, z_plus)
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    (z, z_plus), exponent = rescaled_for(constraint, batch, z, z_plus)
    C, R = view_moments(z, z_plus, batch)
    # The moment of (I + T) / 2: a walk that stays where it is has C for R.
    if lazy:
        R = (C + R) / 2
    # E ‖Φ(u) − Φ(v)‖² = 2 (Tr C − Tr R), hence the factor.
    return constrained(constraint, C, R, factor=2, moments=moments, exponent=exponent)
