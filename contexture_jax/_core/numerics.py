"""Small numerical pieces: exact matrix products, safe divisions, rank cutoffs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.types import Array, Float, Inexact

__all__ = ["mm", "rank_cutoff", "safe_divide", "safe_reciprocal", "safe_sqrt"]


def mm(a: Array, b: Array) -> Array:
    """Matrix product at full precision of the dtype on every backend.

    Accelerators multiply f32 in bf16 or TF32 by default, which is too coarse for
    whatever decides orthogonality, rank or a residual.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def safe_reciprocal(x: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """1 / x, and 0 where x is 0, with a finite gradient in both cases."""
    nonzero = x != 0
    return jnp.where(nonzero, 1.0 / jnp.where(nonzero, x, jnp.ones_like(x)), 0.0)


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """√x, with the gradient 0 where x is 0."""
    nonzero = x != 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, x, jnp.ones_like(x))), 0.0)


def safe_divide(a: Array, b: Array) -> Array:
    """The quotient a / b, and 0 where b is 0."""
    return a * safe_reciprocal(b)


def rank_cutoff(
    shape: tuple[int, int], dtype: Any, largest: Float[Array, ""]
) -> Float[Array, ""]:
    """10 · √max(n, m) · eps · s_max: singular values not above it count as zero.

    The square root, where LAPACK's users write max(n, m), is how rounding in sums of
    that length behaves; the linear law would call 1 % of s_max zero in float32 at
    100,000 rows.
    """
    eps = float(np.finfo(dtype).eps)
    return 10.0 * max(shape) ** 0.5 * eps * largest


@jax.jit
def transpose_rows(a: Array) -> Array:
    """The conjugate transpose with its rows in order.

    A program of its own: inside a larger one XLA would keep a view, which products on
    CPU read at half the speed.
    """
    return a.conj().T
