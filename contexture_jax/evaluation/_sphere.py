"""How a representation lies on the sphere: uniformity, and alignment of two views."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_integer, check_number, is_traced
from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.evaluation._common import as_columns, map_blocks

__all__ = ["SphereGeometry", "sphere_geometry"]

_MOST_TERMS = 200


@short_repr
class SphereGeometry(NamedTuple):
    """Rows as directions (Wang & Isola 2020, arXiv 2005.10242).

    Attributes:
        uniformity: log E exp(−t |u − u'|²) over pairs of different rows, shape (): at
            most 0, lower where directions are more spread.
        uniform: the same of the uniform law on that sphere, the least that any law has,
            in closed form, shape ().
        alignment: E |u − u⁺|² of two views of a row, shape (), at least 0; None without
            them.
        by_chance: the same of views of different rows, exactly, shape ().
    """

    uniformity: Float[Array, ""]
    uniform: Float[Array, ""]
    alignment: Float[Array, ""] | None
    by_chance: Float[Array, ""] | None


def sphere_geometry(
    x: ArrayLike, x_plus: ArrayLike | None = None, *, temperature: float = 2.0
) -> SphereGeometry:
    """Uniformity of the directions of rows, and alignment of those of two views.

    All pairs count, by blocks. On the sphere in d dimensions |u − u'|² = 2 − 2 cos, and
    E exp(2 t cos) = Σ_j t^{2j} / (j! (d/2)_j) for a uniform direction.

    Args:
        x: shape (n, d), floating, n ≥ 2, no row 0.
        x_plus: another view of each row, shape (n, d).
        temperature: t > 0.

    Raises:
        ValueError: if shapes do not fit, a row is 0, or a number is not finite or out
            of range.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (500, 3))
        >>> found = cx.evaluation.sphere_geometry(x, x + 0.1)
        >>> bool(abs(found.uniformity - found.uniform) < 0.02)
        True
        >>> bool(found.alignment < 0.1 < 1.9 < found.by_chance < 2.1)
        True
    """
    u = _directions(x, "x")
    n, d = u.shape
    check_integer(n, "the number of rows of x", low=2)
    t = check_number(temperature, "temperature")
    if not 0 < t < math.inf:
        raise ValueError(f"temperature must be positive; got {temperature}")
    alignment = by_chance = None
    if x_plus is not None:
        v = _directions(x_plus, "x_plus")
        if v.shape != u.shape:
            raise ValueError(f"x_plus must have shape {u.shape}; got {v.shape}")
        own = jnp.sum(u * v)
        alignment = 2 - 2 * own / n
        others = jnp.sum(u.sum(axis=0) * v.sum(axis=0)) - own
        by_chance = 2 - 2 * others / n / (n - 1)
    uniform = jnp.asarray(_of_uniform(t, d), u.dtype)
    return SphereGeometry(_log_mean(u, t), uniform, alignment, by_chance)


def _directions(x: ArrayLike, name: str) -> Float[Array, "n d"]:
    x, _ = rescaled(as_columns(x, name))
    lengths = jnp.linalg.norm(x, axis=1, keepdims=True)
    if not is_traced(x) and not bool((lengths > 0).all()):
        raise ValueError(f"{name} must have no row of zeros, which has no direction")
    return x * safe_reciprocal(lengths)


def _of_uniform(t: float, d: int) -> float:
    term = total = 1.0
    for j in range(_MOST_TERMS):
        term *= t * t / ((j + 1) * (d / 2 + j))
        total += term
    return math.log(total) - 2 * t


@functools.partial(jax.jit, static_argnames="t")
def _log_mean(u: Float[Array, "n d"], t: float) -> Float[Array, ""]:
    n = u.shape[0]

    def sums(rows: Int[Array, " b"]) -> Float[Array, " b"]:
        # Of a row with itself exp 0, which is no pair.
        near = jnp.exp(2 * t * jnp.minimum(mm(u[rows], u.T) - 1, 0))
        own = jnp.arange(n)[None, :] == rows[:, None]
        return jnp.where(own, 0, near).sum(axis=1)

    numbers = jnp.arange(n, dtype=jnp.int32)
    return jnp.log(jnp.mean(map_blocks(sums, numbers, row_entries=n)) / (n - 1))
