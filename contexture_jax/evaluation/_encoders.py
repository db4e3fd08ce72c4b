"""Judging an encoder against the operator of a context."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    check_ndim,
    check_values,
)
from contexture_jax._core.numerics import mm, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.evaluation._common import (
    as_columns,
    as_epsilon,
    as_functions,
    as_spectrum,
    require_leading,
    singular_value_slack,
    weighted_basis,
)
from contexture_jax.operators import AssociationOperator, symmetrised_products

__all__ = [
    "ratio_trace",
    "ritz_values",
    "trace_gap",
    "trace_gap_bound",
]


def ratio_trace(phi: ArrayLike, op: AssociationOperator) -> Float[Array, ""]:
    """Tr(C⁻¹ B), how much of the spectrum the span of an encoder holds.

    C = Cov_{P_X}[Φ] and B = Cov_{P_A}[T* Φ]; at most Σ_{i≤d} s_i², with equality where
    Φ spans the top-d singular functions (Zhai et al. 2025 (CTX), App. C; theory.md §2).
    Any invertible linear map of the embedding leaves it unchanged.

    C is never formed: Φ is centred under P_X and orthonormalised by an SVD, and
    directions not above 10 √max(n, d) · eps of the largest are dropped, which makes C⁻¹
    a pseudo-inverse. Differentiable, in both modes, in the embedding and in the arrays
    of `op`, by the derivative of the span: also where an SVD would have none. Where
    directions are dropped the function jumps; the gradient is that at constant rank.

    Args:
        phi: embeddings of the rows of `op`, shape (n, d), cast to the dtype of `op`.
        op: the expectation operator, shape (n, m).

    Raises:
        ValueError: if an embedding is not finite (a trace gives NaN).
    """
    return jnp.trace(_dual_gram(phi, op))


def ritz_values(phi: ArrayLike, op: AssociationOperator) -> Float[Array, " d"]:
    """The generalised eigenvalues λ̂ of B v = λ C v, what an encoder knows of s_i².

    Descending, and at most s_i² for each i whatever Φ, by Courant–Fischer (theory.md
    §2). Those of missing rank are 0. Absolute error of order eps.

    Args:
        phi: embeddings of the rows of `op`, shape (n, d), cast to the dtype of `op`.
        op: the expectation operator, shape (n, m).

    Raises:
        ValueError: if an embedding is not finite (a trace gives NaN).
    """
    # (d, d): B where C = I, hence a symmetric problem and no generalised one.
    gram = _dual_gram(phi, op)
    finite = jnp.isfinite(gram).all()
    # Ascending from LAPACK; a Gram matrix has no negative ones but by rounding.
    values = jnp.linalg.eigvalsh(jnp.where(finite, gram, 0))[::-1]
    return jnp.where(finite, jnp.maximum(values, 0), jnp.nan)


def trace_gap(
    phi: ArrayLike,
    op: AssociationOperator,
    singular_values: ArrayLike,
    *,
    complete: bool = False,
) -> Float[Array, ""]:
    """How far an encoder is from holding the leading singular functions, in s² units.

        TG = min_{0≤d'≤d} { Σ_{i≤d'+1} s_i² − Σ_{i≤d'} λ̂_i }

    with the Ritz values λ̂ of the encoder, which attain the infimum over subspaces of
    its span (Zhai et al. 2025 (CTX), Def. 23; theory.md §2). At best s_{d+1}².

    Args:
        phi: embeddings of the rows of `op`, shape (n, d), cast to the dtype of `op`.
        op: the expectation operator, shape (n, m).
        singular_values: those of `op`, at least d + 1 of them unless `complete`.
        complete: whether all values that are not given are 0.

    Raises:
        ValueError: if there are fewer than d + 1 values and `complete` is False.
    """
    s = as_spectrum(singular_values).astype(op.dtype)
    phi = as_columns(phi, "phi", op.shape[0])
    # (d + 1,): Σ_{i≤d'+1} s_i² after the sum, for d' = 0, …, d.
    energy = require_leading(s, phi.shape[1] + 1, complete) ** 2
    # (d + 1,): Σ_{i≤d'} λ̂_i, 0 for d' = 0.
    held = jnp.pad(jnp.cumsum(ritz_values(phi, op)), (1, 0))
    # Negative by rounding alone: λ̂_i ≤ s_i² (theory.md §2.6).
    return jnp.maximum(jnp.min(jnp.cumsum(energy) - held), 0)


def trace_gap_bound(
    gap: ArrayLike, largest: ArrayLike, epsilon: ArrayLike
) -> Float[Array, ""]:
    """A bound on the worst-case error over F_ε of an encoder with a given trace gap.

        err ≤ min(1, (s_1² − (1 − ε)² + s_1 √TG) / (s_1² − TG)),   1 if TG ≥ s_1².

    Deviation from Zhai et al. 2025 (CTX), Thm 24, which prints TG for √TG and is false
    so (theory.md §2 and §0 E4).

    Args:
        gap: the trace gap TG, shape ().
        largest: s_1, shape ().
        epsilon: ε with 1 − s_1 ≤ ε ≤ 1, shape ().

    Raises:
        ValueError: if ε is outside that range, or `largest` outside (0, 1].
    """
    largest = as_floating(largest, "largest")
    check_ndim(largest, 0, "largest")
    slack = singular_value_slack(largest.dtype)
    check_values(largest, "largest", lambda v: (v > 0) & (v <= 1 + slack), "in (0, 1]")
    check_values(gap, "gap", lambda v: (v >= 0) & (v < np.inf), "non-negative")
    gap = jnp.asarray(gap, dtype=largest.dtype)
    eps = as_epsilon(epsilon, largest)
    # Not positive: the encoder may lack the leading function, and nothing is bounded.
    room = largest**2 - gap
    # √TG and not TG: the gap has the unit of s² (E4).
    top = largest**2 - (1 - eps) ** 2 + largest * jnp.sqrt(gap)
    bound = jnp.maximum(top, 0) / jnp.where(room > 0, room, 1)
    return jnp.where(room <= 0, 1, jnp.minimum(bound, 1))


def _dual_gram(phi: ArrayLike, op: AssociationOperator) -> Float[Array, "d d"]:
    """B in an orthonormal basis of the centred span of Φ, where C = I."""
    phi = as_functions(phi, "phi", op)
    basis, _ = weighted_basis(phi, op.p_x, centre=True)
    # (m, d): √p_a · T* f of the basis, by one half of a pass.
    image = symmetrised_products(op)[1](basis)
    root = safe_sqrt(op.p_a)[:, None]
    # The basis is centred, so that T* of it is: rounding on the way is taken off again.
    image = image - mm(root, mm(root.T, image))
    return mm(image.T, image)
