"""Numbers and vectors of any scale, where no square leaves the range of a dtype."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_real, check_ndim, is_concrete
from contexture_jax._core.features import uniform_law
from contexture_jax._core.numerics import as_law, safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float

__all__ = [
    "finite_or_nan",
    "in_unit",
    "largest_norm",
    "law_of_rows",
    "row_norms",
    "safe_exponents",
    "scaled_number",
]


def finite_or_nan(x: Array) -> Array:
    """What a trace cannot refuse must not look like a law."""
    return jnp.where(jnp.isfinite(x), x, jnp.nan)


def safe_exponents(dtype: Any) -> tuple[int, int]:
    """Powers of 2 that are far inside the range of a dtype."""
    info = jnp.finfo(dtype)
    return int(info.minexp) + 1, int(info.maxexp) - 2


def in_unit(x: Array) -> tuple[Array, Array]:
    """The array in a power of 2 near its largest entry, and the exponent of that."""
    _, exponent = jnp.frexp(jnp.abs(x).max())
    # So that the inverse power is a normal number too.
    exponent = jnp.clip(exponent, *(-e for e in reversed(safe_exponents(x.dtype))))
    return x * jnp.ldexp(jnp.ones((), x.dtype), -exponent), exponent


def row_norms(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Of rows; no square leaves the range."""
    unit = jnp.abs(x).max(axis=1)
    # Entries at most 1 in modulus: the sum of squares is at most d.
    scaled = x * safe_reciprocal(unit)[:, None]
    return unit * safe_sqrt((scaled * scaled).sum(axis=1))


def largest_norm(x: np.ndarray) -> float:
    """Of a row; no square leaves the range."""
    unit = float(np.abs(x).max(initial=0))
    if not unit:
        return 0.0
    scaled = x / x.dtype.type(unit)
    return unit * float(np.einsum("ij,ij->i", scaled, scaled).max()) ** 0.5


def scaled_number(
    value: ArrayLike, name: str, dtype: Any
) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
    """A scalar in a dtype; where that cannot hold it, as a number times 4^exponent."""
    given = as_real(value, name)
    check_ndim(given, 0, name)
    if not is_concrete(given):
        return jnp.asarray(given, dtype), None
    exact = np.asarray(given, np.float64)
    low, high = (np.ldexp(1.0, e) for e in safe_exponents(dtype))
    size = np.abs(exact)
    if not np.isfinite(exact) or exact == 0 or low <= size <= high:
        return jnp.asarray(exact, dtype), None
    # Half of it: γ and scale multiply products of two vectors, each of which takes
    # 2^exponent.
    exponent = int(np.frexp(exact)[1]) // 2
    return (
        jnp.asarray(np.ldexp(exact, -2 * exponent), dtype),
        jnp.asarray(exponent, dtype),
    )


def law_of_rows(p_x: ArrayLike | None, rows: Array) -> Float[Array, " n"]:
    """The law of X that was given, checked; None: uniform on the rows."""
    if p_x is None:
        return uniform_law(rows)
    return as_law(p_x, "p_x", rows.shape[0], rows.dtype)
