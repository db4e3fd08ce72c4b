"""Small numerical pieces: exact matrix products, safe divisions, rank cutoffs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_real,
    check_probabilities,
    floating_dtype,
    is_concrete,
    is_traced,
)
from contexture_jax._core.types import Array, Float, Inexact

__all__ = [
    "as_law",
    "cast_floating",
    "mm",
    "normalised",
    "rank_cutoff",
    "safe_divide",
    "safe_reciprocal",
    "safe_sqrt",
    "transpose_rows",
    "weights_or_nan",
]


def cast_floating(tree: Any, dtype: Any) -> Any:
    """A pytree with its real floating arrays in another dtype."""

    def cast(leaf: Any) -> Any:
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if real else leaf

    return jax.tree.map(cast, tree)


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


def normalised(
    weights: Array | np.ndarray, axis: int | None = None, *, dtype: Any = None
) -> Array:
    """Non-negative weights over their sum along `axis`, however large or small.

    The scale of the largest is taken off first, or a sum of large weights would
    overflow. Concrete weights are normalised on the host, since devices flush subnormal
    numbers to 0; those of NumPy before they become what JAX works in, so that float64
    counts need not fit float32. Shares below the smallest normal number are 0, and so
    are all shares where all weights are.

    Args:
        weights: any shape, non-negative; floating if it is an array of JAX.
        axis: what to sum over; None: everything.
        dtype: of the shares; None: that of work on `weights`.
    """
    dtype = np.dtype(floating_dtype(weights.dtype) if dtype is None else dtype)
    tiny = jnp.finfo(dtype).tiny
    if isinstance(weights, np.ndarray):
        shares = _shares(weights.astype(np.float64), axis)
        return jnp.asarray(np.where(shares >= tiny, shares, 0.0).astype(dtype))
    weights = weights.astype(dtype)
    if not is_concrete(weights):
        largest = weights.max(axis=axis, keepdims=True, initial=0)
        # Shares do not depend on the scale: no gradient through it.
        scaled = safe_divide(weights, jax.lax.stop_gradient(largest))
        shares = safe_divide(scaled, scaled.sum(axis=axis, keepdims=True))
        return jnp.where(shares < tiny, 0.0, shares)  # NaN stays
    shares = _shares(np.asarray(weights), axis)
    shares = np.where(shares >= tiny, shares, np.zeros_like(shares))
    if len(weights.sharding.device_set) > 1:
        return jax.device_put(shares, weights.sharding)
    return jnp.asarray(shares)


def as_law(weights: Any, name: str, size: int, dtype: Any) -> Array:
    """Weights of values as a law: `normalised`, whatever holds them.

    Args:
        weights: shape (size,), non-negative.
        name: what the caller calls it, for the message.
        size: how many values there are.
        dtype: of the law.

    Raises:
        TypeError: if `weights` are not real numbers.
        ValueError: if their number is another, one is negative or not finite, or all
            are 0.
    """
    given = as_real(weights, name)
    check_probabilities(given, name, size)
    return normalised(weights_or_nan(given), dtype=dtype)


def weights_or_nan(
    weights: Array | np.ndarray, axis: int | None = None
) -> Array | np.ndarray:
    """Weights, with NaN for what a trace cannot refuse and must not look like a law.

    Args:
        weights: any shape; those that are not traced have been checked.
        axis: what holds a law of its own, as in `normalised`; None: everything.

    Returns:
        Traced weights as floating numbers: NaN where one is negative or not finite,
        and in all of a law without mass. Others as they are.
    """
    if not is_traced(weights):
        return weights
    weights = weights.astype(floating_dtype(weights.dtype))
    valid = jnp.isfinite(weights) & (weights >= 0)
    has_mass = (weights > 0).any(axis=axis, keepdims=True)
    return jnp.where(valid & has_mass, weights, jnp.nan)


def _shares(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Weights over their sum, in their own dtype, which no scale overflows."""
    _, exponent = np.frexp(values.max(axis=axis, keepdims=True, initial=0))
    scaled = np.ldexp(values, -exponent)
    total = scaled.sum(axis=axis, keepdims=True, dtype=np.float64)
    return scaled / np.where(total > 0, total, 1.0).astype(values.dtype)


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
