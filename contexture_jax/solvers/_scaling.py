"""Matrices of any size of entries: scaled so that squares are in range."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.types import Array, Float
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._results import SolveInfo, SVDResult

__all__ = ["choose_scale", "in_range", "scaled_map", "unscaled"]


def choose_scale(
    entries: list[Array], squared_norm: Float[Array, ""] | None
) -> tuple[Float[Array, ""], Float[Array, ""] | None]:
    """A power of 4 near the largest entry, or 1 where that is not needed.

    Args:
        entries: arrays that hold the entries of a matrix, or a sample of its image.
        squared_norm: their sum of squares, which may have left the range of the dtype;
            None if unknown.

    Returns:
        The scale, shape (), and the sum of squares of the entries over it.
    """
    real = jnp.zeros((), entries[0].dtype).real.dtype

    def largest() -> Float[Array, ""]:
        # A sparse matrix may store nothing.
        each = [jnp.abs(x).max() for x in entries if x.size]
        top = jnp.stack([jnp.zeros((), real), *each]).max()
        # What is not finite stays, for the status to name.
        sane = (top > 0) & jnp.isfinite(top)
        # A power of 4, whose root is exact as well: `scaled_map` takes it twice.
        half = jnp.round(0.5 * jnp.log2(jnp.where(sane, top, 1.0)))
        # That the dtype has: the largest entries are beyond it by a factor.
        half = jnp.minimum(half, (jnp.finfo(real).maxexp - 1) // 2)
        return jnp.ldexp(jnp.ones((), real), 2 * half.astype(jnp.int32))

    if squared_norm is None:
        return largest(), None
    fits = in_range(squared_norm)
    # A conditional: most matrices are not read again.
    scale = jax.lax.cond(fits, lambda: jnp.ones((), real), largest)

    def over_scale() -> Float[Array, ""]:
        # Summed anew: the sum that was given overflowed, or lost its small terms.
        squares = [(jnp.abs(x / scale.astype(x.dtype)) ** 2).sum() for x in entries]
        return jnp.stack(squares).sum()

    norm = squared_norm.astype(real)
    return scale, jax.lax.cond(fits, lambda: norm, over_scale)


def in_range(squared_norm: Any) -> Any:
    """Whether a matrix of that squared norm needs no scale."""
    # Room for a fourth power: the image of an image is squared.
    margin = float(np.finfo(squared_norm.dtype).tiny) ** 0.25
    return (squared_norm > margin**2) & (squared_norm < margin**-2)


def scaled_map(a: LinearMap, scale: Float[Array, ""]) -> LinearMap:
    """M / scale, half of the factor before a product and half after it."""
    half = jax.lax.rsqrt(scale).astype(a.dtype)

    return a._replace(
        matmat=lambda g: half * a.matmat(half * g),
        rmatmat=lambda f: half * a.rmatmat(half * f),
    )


def unscaled(
    result: SVDResult, info: SolveInfo, scale: Float[Array, ""]
) -> tuple[SVDResult, SolveInfo]:
    """Singular values, residuals and energies of M from those of M / scale."""

    def squared(energy: Array) -> Array:
        # One after the other: their product may be infinite, and an energy 0.
        return scale * (scale * energy)

    return result._replace(
        singular_values=scale * result.singular_values
    ), dataclasses.replace(
        info,
        residuals=scale * info.residuals,
        left_residuals=scale * info.left_residuals,
        right_residuals=scale * info.right_residuals,
        total_energy=squared(info.total_energy),
        tail_energy=squared(info.tail_energy),
        tail_error=squared(info.tail_error),
        scale=None if info.scale is None else scale * info.scale,
    )
