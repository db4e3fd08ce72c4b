"""Small numerical pieces: matrix products by level, safe divisions, rank cutoffs.

**How products are rounded.** No product of the package leaves that to the platform,
which would take TF32 on a GPU and bfloat16 on a TPU: each goes through `mm` or states
its precision itself. Levels, for float32:

| level | on a GPU or TPU | relative rounding of an operand |
| --- | --- | --- |
| "exact", the default | float32 on a GPU, six bfloat16 products on a TPU | 2⁻²⁴ |
| "split" | six bfloat16 products | 2⁻²⁴, of entries above 10⁻³³ |
| "high" | three bfloat16 products | 2⁻¹⁶ |
| "coarse" | one bfloat16 product | 2⁻⁸ |

Sums are float32 at every level. "split" is for GPUs whose tensor cores do six bfloat16
products sooner than their other cores one in float32; it and those below it need a
compute capability of 8. On CPU all levels are float32. Products of float64 and of
complex numbers are exact at every level; those with an operand in half precision are
products of half precision with sums, and a result, in float32 or what is wider.

Levels below "exact" are for products whose rounding a later exact one makes good: the
range finding of a solver, not moments, residuals, norms and what orthonormality or a
bound hangs on. The layers of a network are their own affair: they follow
`jax.default_matmul_precision`.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

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
from contexture_jax._core.types import Array, Float, Inexact, summary

__all__ = [
    "PRECISIONS",
    "Precision",
    "as_law",
    "cast_floating",
    "check_precision",
    "mm",
    "normalised",
    "rank_cutoff",
    "safe_divide",
    "safe_reciprocal",
    "safe_sqrt",
    "transpose_rows",
    "weights_or_nan",
]

Precision = Literal["exact", "split", "high", "coarse"]
# Of JAX, for float32.
PRECISIONS = {
    "exact": jax.lax.Precision.HIGHEST,
    "split": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6,
    "high": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    "coarse": jax.lax.DotAlgorithmPreset.BF16_BF16_F32,
}


def cast_floating(tree: Any, dtype: Any) -> Any:
    """A pytree with its real floating arrays in another dtype."""

    def cast(leaf: Any) -> Any:
        # Places and keys are left alone, and so are complex numbers.
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if real else leaf

    return jax.tree.map(cast, tree)


def check_precision(precision: Any) -> Precision:
    """Raise a `ValueError` unless it names a level of products."""
    if precision not in tuple(PRECISIONS):
        msg = f"precision must be one of {tuple(PRECISIONS)}; got {summary(precision)}"
        raise ValueError(msg)
    return precision


def mm(a: Array, b: Array, precision: Precision = "exact") -> Array:
    """Matrix product, the same on every platform up to what its level allows.

    Args:
        a: as of `jnp.matmul`.
        b: likewise.
        precision: the level, for float32; see the head of this module.

    Returns:
        In the wider dtype of the two, and no narrower than float32 if it is floating.
    """
    dtype = jnp.promote_types(a.dtype, b.dtype)
    halves = [x.dtype for x in (a, b) if jnp.issubdtype(x.dtype, jnp.floating)]
    halves = [half for half in halves if half.itemsize < 4]
    if halves:
        # float16 and bfloat16 together are float32: neither holds the other.
        narrow = functools.reduce(jnp.promote_types, halves)
        sums = jnp.promote_types(narrow, jnp.float32)
        out = jnp.matmul(
            a.astype(narrow),
            b.astype(narrow),
            precision=PRECISIONS["exact"],
            preferred_element_type=sums,
        )
        return out.astype(jnp.promote_types(dtype, sums))
    # Levels split float32 numbers; all others have one way to be multiplied.
    level = precision if dtype == jnp.float32 else "exact"
    return jnp.matmul(a, b, precision=PRECISIONS[level])


def safe_reciprocal(x: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """1 / x, and 0 where x is 0, with a finite gradient in both cases."""
    # The inner `where` keeps 1 / 0 out of the gradient, where 0 · ∞ is NaN.
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
        # Before the dtype of the shares: counts may be beyond its range.
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
    # Back to where they were cut.
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
    # Not a sum, which NaN in one place would make NaN in all.
    has_mass = (weights > 0).any(axis=axis, keepdims=True)
    return jnp.where(valid & has_mass, weights, jnp.nan)


def _shares(values: np.ndarray, axis: int | None) -> np.ndarray:
    """Weights over their sum, in their own dtype, which no scale overflows."""
    # A power of two, which costs no digit of a weight.
    _, exponent = np.frexp(values.max(axis=axis, keepdims=True, initial=0))
    scaled = np.ldexp(values, -exponent)
    # In float64, as a law of many rows must sum to 1.
    total = scaled.sum(axis=axis, keepdims=True, dtype=np.float64)
    return scaled / np.where(total > 0, total, 1.0).astype(values.dtype)


def rank_cutoff(
    shape: tuple[int, int], dtype: Any, largest: Float[Any, ""]
) -> Float[Any, ""]:
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
