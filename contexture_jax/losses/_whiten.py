"""Covariances solved exactly: Tr C⁻¹ B by one Cholesky, and its derivative by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular

from contexture_jax._core.checks import check_coefficient, check_number
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float

__all__ = ["cholesky", "regularised", "trace_ratio", "whitened_cross"]


def regularised(C: Float[Array, "d d"], ridge: float) -> Float[Array, "d d"]:
    """C + max(ridge / d, 4 eps) · Tr C · I, and a positive floor where Tr C is 0.

    The shift is relative to the mean variance, so that no objective depends on the
    scale of its embeddings, and never below what rounding can take from the smallest
    eigenvalue. The floor, tiny^0.4 of the dtype (7e-16 in float32), keeps the inverse
    and its square finite.
    """
    d = C.shape[0]
    info = np.finfo(C.dtype)
    check_coefficient(check_number(ridge, "ridge"), "ridge")
    share = max(ridge / d, 4 * float(info.eps))
    shift = share * jnp.trace(C) + float(info.tiny) ** 0.4
    return C + shift * jnp.eye(d, dtype=C.dtype)


def cholesky(C: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The lower factor of C; of C + 1000 eps · Tr C · I where C has none.

    What is not finite in C stays so in the factor.
    """
    lift = 1e3 * float(np.finfo(C.dtype).eps) * jnp.trace(C)
    factor = jnp.linalg.cholesky(C)
    lifted = C + lift * jnp.eye(C.shape[0], dtype=C.dtype)
    return jax.lax.cond(
        jnp.all(jnp.isfinite(factor)),
        lambda: factor,
        lambda: jnp.linalg.cholesky(lifted),
    )


@jax.custom_jvp
def trace_ratio(C: Float[Array, "d d"], B: Float[Array, "d d"]) -> Float[Array, ""]:
    """Tr C⁻¹ B for a symmetric positive definite C.

    d Tr C⁻¹ B = Tr C⁻¹ dB − Tr (C⁻¹ B C⁻¹) dC: beside the Cholesky factor, products and
    solves of size d × d; nothing is differentiated through the factorisation, so no
    eigenvalue gap is divided by. Moments pass the two matrices C⁻¹ and C⁻¹ B C⁻¹ on to
    the embeddings as (b, d) × (d, d) products.
    """
    return jnp.sum(_inverse(C) * B.T)


@trace_ratio.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    C, B = primals
    dC, dB = tangents
    inverse = _inverse(C)
    K = mm(mm(inverse, B), inverse)
    return jnp.sum(inverse * B.T), jnp.sum(inverse * dB.T) - jnp.sum(K.T * dC)


def _inverse(C: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return cho_solve((cholesky(C), True), jnp.eye(C.shape[0], dtype=C.dtype))


def whitened_cross(
    C: Float[Array, "d d"], C_cross: Float[Array, "d k"], D: Float[Array, "k k"]
) -> Float[Array, "d k"]:
    """L_C⁻¹ C_cross L_D⁻ᵀ with C = L_C L_Cᵀ, D = L_D L_Dᵀ."""
    left = solve_triangular(cholesky(C), C_cross, lower=True)
    return solve_triangular(cholesky(D), left.T, lower=True).T
