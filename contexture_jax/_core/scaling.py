"""Arrays at a scale of their own: exact powers of two, for entries of any size.

Squares of entries above 2⁶⁴ or below 2⁻⁶³ leave the range of float32. Devices flush
subnormal numbers to 0, in comparisons too, so that exponents are read off the bits.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.processes import ready
from contexture_jax._core.types import Array, Float, Int

__all__ = ["common_exponent", "rescaled", "rescaled_either", "times_power_of_two"]


def rescaled(
    x: Float[Array, "*s"], *, axis: int | None = None
) -> tuple[Float[Array, "*s"], Int[Array, "..."]]:
    """The entries over the power of two below the largest, and that exponent.

    Args:
        x: floating, any shape.
        axis: what shares a scale: 0 for each column of a matrix; None: all of it.

    Returns:
        x · 2^(−e), of entries below 2 in modulus, with the gradient of a constant e;
        and e with the reduced axes kept: 0 where all entries are 0 or one is not
        finite.
    """
    # Of bits, through which no gradient goes.
    top = jnp.max(_magnitude(x), axis=axis, keepdims=True, initial=0)
    exponent = _exponent(ready(top), x.dtype)
    return times_power_of_two(x, -exponent), exponent


def rescaled_either(
    x: Float[Any, "*s"], *, axis: int | None = None
) -> tuple[Float[Any, "*s"], Int[Any, "..."]]:
    """As `rescaled`, of an array of JAX or of NumPy, and by it."""
    if not isinstance(x, np.ndarray):
        return rescaled(x, axis=axis)
    top = np.max(np.abs(x), axis=axis, keepdims=True, initial=0)
    known = (top > 0) & np.isfinite(top)
    exponent = np.where(known, np.frexp(top)[1] - 1, 0).astype(np.int32)
    return np.ldexp(x, -exponent), exponent


def common_exponent(
    *arrays: Float[Array, ...], axis_name: Any = None
) -> Int[Array, ""]:
    """The e of `rescaled` of all entries of arrays of one dtype together.

    Args:
        *arrays: floating.
        axis_name: the mapped axis over whose devices the largest is taken.
    """
    held = [_magnitude(jax.lax.stop_gradient(x)) for x in arrays]
    if len({x.shape for x in held}) == 1:
        # Entry by entry first: one reduction and not one an array.
        held = [functools.reduce(jnp.maximum, held)]
    # One axis first, along which CPUs take whole vectors: half the time of all at once.
    tops = [jnp.max(jnp.atleast_1d(x), axis=0, initial=0) for x in held]
    top = functools.reduce(jnp.maximum, [jnp.max(x, initial=0) for x in tops])
    if axis_name is not None:
        top = jax.lax.pmax(top, axis_name)
    return _exponent(ready(top), arrays[0].dtype)


def _exponent(top: Array, dtype: Any) -> Int[Array, ...]:
    """Of the largest number by its bits; 0 for 0 and what is not finite."""
    bits, mantissa, bias = _layout(dtype)
    # 0 of a subnormal number, whose leading bit tells instead.
    biased = (top >> mantissa).astype(jnp.int32)
    leading = bits - 1 - jax.lax.clz(top).astype(jnp.int32)
    exponent = jnp.where(biased > 0, biased - bias, leading - (bias + mantissa - 1))
    # All bits of the exponent are set in infinity and NaN.
    return jnp.where((top == 0) | (biased > 2 * bias), 0, exponent)


@jax.custom_jvp
def times_power_of_two(
    x: Float[Array, "*s"], exponent: Int[Array, "..."]
) -> Float[Array, "*s"]:
    """X · 2^exponent, exact unless that leaves the normal range; x may be subnormal."""
    _, mantissa, bias = _layout(x.dtype)
    magnitude = _magnitude(x)
    subnormal = (magnitude >> mantissa) == 0
    # As an integer the fraction of a subnormal number is exact.
    raised = magnitude.astype(x.dtype) * 2.0**-mantissa
    # They differ in the sign bit alone.
    negative = jax.lax.bitcast_convert_type(x, magnitude.dtype) != magnitude
    y = jnp.where(subnormal, jnp.where(negative, -raised, raised), x)
    # A subnormal number is `raised` times 2^(1 − bias).
    return _scaled(y, jnp.where(subnormal, exponent - (bias - 1), exponent))


@times_power_of_two.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    x, exponent = primals
    return times_power_of_two(x, exponent), _scaled(tangents[0], exponent)


def _scaled(x: Array, exponent: Array) -> Array:
    """In two steps: 2^exponent alone may leave the range."""
    _, mantissa, bias = _layout(x.dtype)

    def power(k: Array) -> Array:
        # Out of bits: `exp2` need not be exact.
        biased = jnp.clip(k + bias, 0, 2 * bias)
        word = biased.astype(_unsigned(x.dtype)) << mantissa
        return jax.lax.bitcast_convert_type(word, x.dtype)

    half = exponent // 2
    return x * power(half) * power(exponent - half)


def _magnitude(x: Array) -> Array:
    """The bits of |x|, which order as the numbers do."""
    return (jax.lax.bitcast_convert_type(x, _unsigned(x.dtype)) << 1) >> 1


def _layout(dtype: Any) -> tuple[int, int, int]:
    """Bits of a number, bits of its mantissa, bias of its exponent."""
    info = jnp.finfo(dtype)
    return info.bits, info.nmant, info.maxexp - 1


def _unsigned(dtype: Any) -> Any:
    return np.dtype(f"uint{8 * np.dtype(dtype).itemsize}")
