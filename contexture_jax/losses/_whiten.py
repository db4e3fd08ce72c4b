"""Covariances solved exactly: Tr C⁻¹ B by one Cholesky, and its derivative by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular

from contexture_jax._core.checks import check_coefficient, check_number
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Bool, Float

__all__ = [
    "Regularised",
    "cholesky",
    "regularised",
    "trace_ratio",
    "whitened_cross",
    "whitened_rows",
]


class Regularised(NamedTuple):
    """A covariance with a ridge.

    Attributes:
        matrix: C + shift · I, shape (d, d).
        shift: shape (). It says what is ridge alone, and has no gradient of its own.
    """

    matrix: Float[Array, "d d"]
    shift: Float[Array, ""]


def regularised(C: Float[Array, "d d"], ridge: float) -> Regularised:
    """C + max(ridge / d, 4 eps) · Tr C · I, and a positive floor where Tr C is 0.

    The shift is relative to the mean variance, so that no objective depends on the
    scale of its embeddings, and never below what rounding can take from the smallest
    eigenvalue. The floor, tiny^0.45 of the dtype (8e-18 in float32), keeps the inverse
    and its square finite. It is for embeddings of entries near 1, `rescaled_together`.
    """
    d = C.shape[0]
    info = np.finfo(C.dtype)
    check_coefficient(check_number(ridge, "ridge"), "ridge")
    share = max(ridge / d, 4 * float(info.eps))
    # With a gradient, as part of C: held, the loss would not be invariant to scale.
    shift = share * jnp.trace(C) + float(info.tiny) ** 0.45
    return Regularised(C + shift * jnp.eye(d, dtype=C.dtype), shift)


def cholesky(C: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The lower factor of C; of C + 1000 eps · Tr C · I where C has none.

    What is not finite in C stays so in the factor.
    """
    lift = 1e3 * float(np.finfo(C.dtype).eps) * jnp.trace(C)
    factor = jnp.linalg.cholesky(C)
    lifted = C + lift * jnp.eye(C.shape[0], dtype=C.dtype)
    # A branch, as the second factorisation is hardly ever needed; NaN and infinity fail
    # both, and go on as NaN.
    return jax.lax.cond(
        jnp.all(jnp.isfinite(factor)),
        lambda: factor,
        lambda: jnp.linalg.cholesky(lifted),
    )


@jax.custom_jvp
def trace_ratio(C: Regularised, B: Float[Array, "d d"]) -> Float[Array, ""]:
    """Tr C⁻¹ B for a symmetric positive definite C.

    d Tr C⁻¹ B = Tr C⁻¹ dB − Tr (C⁻¹ B C⁻¹) dC: beside the Cholesky factor, products and
    solves of size d × d; nothing is differentiated through the factorisation, so no
    eigenvalue gap is divided by. Moments pass the two matrices C⁻¹ and C⁻¹ B C⁻¹ on to
    the embeddings as (b, d) × (d, d) products.

    Directions that rounding cannot tell from none, those of dependent columns, are left
    out of C⁻¹: there B is rounding as well, and the quotient of the two may be
    anything. The gradient is that at constant rank.
    """
    # Tr C⁻¹ B entry by entry: d² operations after the inverse, not d³.
    return jnp.sum(_inverse(C) * B.T)


@trace_ratio.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    C, B = primals
    dC, dB = tangents
    inverse = _inverse(C)
    # (d, d)
    K = mm(mm(inverse, B), inverse)
    # dC holds the change of the ridge, which is part of the matrix; the tangent of
    # `shift` itself would count it twice.
    slope = jnp.sum(inverse * dB.T) - jnp.sum(K.T * dC.matrix)
    return jnp.sum(inverse * B.T), slope


def whitened_cross(
    C: Regularised, C_cross: Float[Array, "d k"], D: Regularised
) -> Float[Array, "d k"]:
    """W_Cᵀ C_cross W_D with W_Cᵀ C W_C = I, W_Dᵀ D W_D = I.

    By the Cholesky factors, where C and D have full rank to rounding. Elsewhere on the
    span of what is resolved, with 0 for the rest, as in `trace_ratio`: the eigenvectors
    are held fixed, and in their coordinates both covariances are near I.
    """
    factors = cholesky(C.matrix), cholesky(D.matrix)

    def plain() -> Array:
        return _by_factors(factors[0], C_cross, factors[1])

    def on_resolved() -> Array:
        # Columns that are not resolved are 0: a 1 on their diagonal lets the
        # factorisation through, and what they give is 0.
        (U, lost), (V, lacking) = _resolved(C), _resolved(D)
        return _by_factors(
            cholesky(mm(U.T, mm(C.matrix, U)) + jnp.diag(lost)),
            mm(U.T, mm(C_cross, V)),
            cholesky(mm(V.T, mm(D.matrix, V)) + jnp.diag(lacking)),
        )

    # Either may lack a direction; one branch serves both, and the cheap one is the
    # rule.
    full = _is_full(C, factors[0]) & _is_full(D, factors[1])
    return jax.lax.cond(full, plain, on_resolved)


def whitened_rows(C: Regularised, z: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Rows Wᵀ z with Wᵀ C W = I, on what is resolved alone as `whitened_cross`."""
    factor = cholesky(C.matrix)

    def plain() -> Array:
        # L⁻¹ z for each row, (d, b) by one solve.
        return solve_triangular(factor, z.T, lower=True).T

    def on_resolved() -> Array:
        U, lost = _resolved(C)
        inner = cholesky(mm(U.T, mm(C.matrix, U)) + jnp.diag(lost))
        return solve_triangular(inner, mm(z, U).T, lower=True).T

    return jax.lax.cond(_is_full(C, factor), plain, on_resolved)


def _by_factors(one: Array, C_cross: Array, two: Array) -> Array:
    # L_C⁻¹ X, then from the right L_D⁻ᵀ: (d, k) throughout.
    left = solve_triangular(one, C_cross, lower=True)
    return solve_triangular(two, left.T, lower=True).T


def _inverse(C: Regularised) -> Float[Array, "d d"]:
    factor = cholesky(C.matrix)

    def on_resolved() -> Array:
        U, _ = _resolved(C)
        # Uᵀ C U = I on the resolved directions: U Uᵀ inverts C there and is 0
        # elsewhere.
        return mm(U, U.T)

    eye = jnp.eye(factor.shape[0], dtype=factor.dtype)
    return jax.lax.cond(
        _is_full(C, factor), lambda: cho_solve((factor, True), eye), on_resolved
    )


def _is_full(C: Regularised, factor: Float[Array, "d d"]) -> Bool[Array, ""]:
    """Whether every direction is well above rounding, as far as the factor tells.

    What is not finite counts as full, and stays so.
    """
    # The least squared diagonal entry is never below the least eigenvalue, but may be
    # above it: hence four times the threshold of `_resolved`, to be sure of going
    # there. The ridge is taken off first: it is no variance.
    smallest = jnp.min(jnp.diagonal(factor)) ** 2 - C.shift
    # Negated, as every comparison with NaN is false.
    return ~(smallest <= 4 * _noise(C.matrix))


def _resolved(C: Regularised) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    """U with Uᵀ C U = I on what is resolved and columns 0 for the rest; 1 for those.

    Resolved are the directions whose variance without the ridge is above 16 eps of the
    largest, some eight times what rounding in the moments makes of none.
    """
    # Without a gradient: that of eigenvectors divides by gaps, and equal ones are
    # common.
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(C.matrix))
    kept = values - C.shift > _noise(C.matrix)
    scale = jax.lax.rsqrt(jnp.where(kept, values, 1))
    U = jnp.where(kept[None, :], vectors * scale[None, :], 0)
    return jax.lax.stop_gradient(U), jnp.where(kept, 0, 1).astype(values.dtype)


def _noise(C: Float[Array, "d d"]) -> Float[Array, ""]:
    """16 eps of the largest eigenvalue, taken as the Frobenius norm."""
    # Between the largest eigenvalue and √d times it, for the price of a sum.
    scale = jax.lax.stop_gradient(jnp.sqrt(jnp.sum(C**2)))
    return 16 * float(np.finfo(C.dtype).eps) * scale
