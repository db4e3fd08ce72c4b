"""Feature vectors at the door, and the law that gives each of them the same share."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_array,
    as_floating,
    check_finite,
    check_ndim,
    is_concrete,
)
from contexture_jax._core.types import Array, ArrayLike, Float

__all__ = ["as_features", "new_rows", "uniform_law"]

_LOOK = 1024  # rows in which lost digits are looked for
_LOST = 1e-5  # share of a standard deviation that rounding may cost in silence


def as_features(x: ArrayLike, name: str) -> Float[Array, "n d"]:
    """Convert to a floating matrix; raise unless it is finite and not empty.

    Warns:
        UserWarning: if float32 rounds off what a column varies by.
    """
    values = _matrix(x, name)
    # An array of JAX has lost its digits before it came here.
    from_host = not isinstance(x, jax.Array) and is_concrete(values)
    if from_host and values.dtype == np.float32:
        _warn_of_lost_digits(as_array(x, name), name)
    return values


def _warn_of_lost_digits(x: np.ndarray, name: str) -> None:
    """Seconds since 1970, say: float32 holds them to 64 or 128."""
    if not (x.dtype == np.float64 or (x.dtype.kind in "iu" and x.dtype.itemsize > 2)):
        return
    # Spread over all rows, as those of a series are in order.
    some = x[:: -(-len(x) // _LOOK)]
    spread = some.astype(np.float64).std(axis=0)
    lost = np.abs(some.astype(np.float32).astype(np.float64) - some).max(axis=0)
    # A constant column has nothing to lose.
    worst = int(np.argmax(lost / np.where(spread > 0, spread, np.inf)))
    if lost[worst] > _LOST * spread[worst] > 0:
        warnings.warn(
            f"column {worst} of {name} varies by {spread[worst]:.2g} around"
            f" {some[:, worst].mean():.6g}, where float32 rounds by {lost[worst]:.2g}:"
            f" subtract an offset from it first ({name} - {name}.mean(axis=0), and the"
            " same from new points), or set jax_enable_x64",
            UserWarning,
            stacklevel=4,
        )


def _matrix(x: ArrayLike, name: str) -> Float[Array, "n d"]:
    values = as_floating(x, name)
    check_ndim(values, 2, name)
    if values.size == 0:
        msg = f"{name} must not be empty; got shape {values.shape}"
        raise ValueError(msg)
    check_finite(values, name)
    return values


def uniform_law(rows: Array) -> Float[Array, " n"]:
    """The law that gives each row 1 / n."""
    n = rows.shape[0]
    if not is_concrete(rows):
        return jnp.full((n,), 1.0 / n, rows.dtype)
    # For which JAX would compile a program for each n.
    return jax.device_put(np.full(n, 1.0 / n, rows.dtype))


def new_rows(
    x_new: ArrayLike, points: Array, name: str = "x_new"
) -> Float[Array, "k d"]:
    """New feature vectors: as `as_features`, of the width and dtype of `points`."""
    # No warning again: the points had it.
    new = _matrix(x_new, name).astype(points.dtype)
    if new.shape[1] != points.shape[1]:
        msg = f"{name} must have {points.shape[1]} columns; got shape {new.shape}"
        raise ValueError(msg)
    return new
