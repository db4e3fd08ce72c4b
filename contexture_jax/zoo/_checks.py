"""Checks of the parameters of families: expected and received, as everywhere."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.arrays import raise_not
from contexture_jax._core.checks import (
    as_array,
    as_device_array,
    as_floating,
    as_real,
    check_ndim,
    check_values,
    is_concrete,
)
from contexture_jax._core.types import Array, ArrayLike, summary

__all__ = [
    "as_inputs",
    "as_integers",
    "as_samples",
    "check_fraction",
    "check_law",
    "check_parameter",
    "check_positive",
]

# Laws may come in float32: a sum is taken for 1 if it is 1 to this.
_LAW_TOLERANCE = 1e-6


def check_parameter(
    value: ArrayLike, name: str, ok: Callable[[np.ndarray], np.ndarray], expected: str
) -> float | Array:
    """Return a real scalar, a Python float if it is concrete, where `ok` holds.

    Raises:
        TypeError: if it is not a real number.
        ValueError: if it is no scalar, or not `expected`.
    """
    # A traced parameter, for `sample` and `log_density`, which alone take one.
    if not is_concrete(value):
        return jnp.asarray(value)
    if not isinstance(value, jax.Array):
        value = as_array(value, name)
    if value.dtype.kind not in "iuf":
        msg = f"{name} must be a real number; got {summary(value)}"
        raise TypeError(msg)
    check_ndim(value, 0, name)
    check_values(value, name, ok, expected)
    # Hashable and exact: a family is static but for what is traced.
    return float(value)


def as_samples(
    density: Callable[[np.ndarray], np.ndarray], points: np.ndarray, name: str
) -> np.ndarray:
    """What a caller's density is at some points, in float64.

    Raises:
        ValueError: if it changes the shape, is negative or not finite, or has no mass.
    """
    samples = np.asarray(density(points), dtype=np.float64)
    if samples.shape != points.shape:
        msg = f"{name} must map shape {points.shape} to itself; got {samples.shape}"
        raise ValueError(msg)
    if not np.isfinite(samples).all() or samples.min() < 0 or samples.max() == 0:
        msg = (
            f"{name} must be finite and non-negative with positive mass; got values"
            f" from {samples.min()} to {samples.max()}"
        )
        raise ValueError(msg)
    return samples


def check_fraction(
    value: ArrayLike, name: str, *, below_one: bool = False
) -> float | Array:
    """Return a probability in [0, 1], or in [0, 1) if `below_one`."""
    if below_one:
        return check_parameter(value, name, lambda v: (v >= 0) & (v < 1), "in [0, 1)")
    return check_parameter(value, name, lambda v: (v >= 0) & (v <= 1), "in [0, 1]")


def check_positive(value: ArrayLike, name: str) -> float | Array:
    """Return a finite positive number."""
    return check_parameter(
        value, name, lambda v: np.isfinite(v) & (v > 0), "finite and positive"
    )


def check_law(
    probabilities: ArrayLike, name: str, *, positive: bool = False
) -> np.ndarray:
    """Return a probability vector as NumPy float64 of sum exactly 1 to rounding.

    Args:
        probabilities: shape (q,), non-negative, of sum 1 to 1e-6.
        name: what the caller calls it, for the message.
        positive: whether zeros are refused too.

    Raises:
        ValueError: if it is no vector, or an entry or the sum is wrong.
    """
    law = np.asarray(as_real(probabilities, name), dtype=np.float64)
    check_ndim(law, 1, name)
    if law.size == 0:
        msg = f"{name} must have at least one entry; got none"
        raise ValueError(msg)
    if positive:
        check_values(law, name, lambda v: (v > 0) & (v <= 1), "in (0, 1]")
    else:
        check_values(law, name, lambda v: (v >= 0) & (v <= 1), "in [0, 1]")
    total = float(law.sum())
    if abs(total - 1.0) > _LAW_TOLERANCE:
        msg = f"{name} must sum to 1; got a sum of {total:.9g}"
        raise ValueError(msg)
    # Once more in float64, so that masses of float32 sum to 1 to its rounding.
    return law / total


def as_integers(x: ArrayLike, name: str) -> Array:
    """Convert to an integer JAX array.

    Raises:
        TypeError: if `x` does not hold integers.
    """
    given, x = x, as_real(x, name)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise_not("integers", given, x, name)
    return as_device_array(x, name)


def as_inputs(x: ArrayLike, name: str, size: int) -> Array:
    """Convert to a floating JAX array whose last axis has `size` entries.

    Raises:
        ValueError: if the last axis is missing or of another size.
    """
    x = as_floating(x, name)
    if x.ndim == 0 or x.shape[-1] != size:
        msg = f"{name} must have shape (..., {size}); got {tuple(x.shape)}"
        raise ValueError(msg)
    return x
