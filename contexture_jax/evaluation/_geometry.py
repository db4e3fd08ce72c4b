"""The shape of one representation: how many directions it has, and uses."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, is_traced
from contexture_jax._core.factorizations import singular_values
from contexture_jax._core.intervals import Interval, check_level, normal_interval
from contexture_jax._core.numerics import safe_divide, safe_reciprocal
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.evaluation._common import as_columns, as_number, map_blocks
from contexture_jax.evaluation._similarity import other_neighbors, unit_columns
from contexture_jax.evaluation._spectra import effective_rank

__all__ = ["Geometry", "geometry", "intrinsic_dimension"]


@short_repr
class Geometry(NamedTuple):
    """How a representation fills its space; the first four of centred features.

    Attributes:
        explained: the share of the variance of each principal component, descending,
            shape (min(n, d),).
        effective_rank: the participation ratio (Σ λ)² / Σ λ² of those shares, shape ().
        entropy_rank: exp H(σ / Σ σ), σ the singular values (RankMe: Garrido et al.
            2023, arXiv 2210.02885, of features as given), shape ().
        num_directions: the fewest components that hold a share of the variance, int32.
        collapsed: the share of the d directions whose standard deviation is no more
            than a thousandth of the largest one's: 0 where there is no dimensional
            collapse (Jing et al. 2022, arXiv 2110.09348).
        anisotropy: the mean cosine of two different rows, features as given: 0 where
            they point everywhere alike (Ethayarajh 2019, arXiv 1909.00512).
        intrinsic_dimension: as `intrinsic_dimension`, with an interval.
    """

    explained: Float[Array, " k"]
    effective_rank: Float[Array, ""]
    entropy_rank: Float[Array, ""]
    num_directions: Int[Array, ""]
    collapsed: Float[Array, ""]
    anisotropy: Float[Array, ""]
    intrinsic_dimension: Interval


def geometry(x: ArrayLike, *, energy: float = 0.99, level: float = 0.9) -> Geometry:
    """Effective rank, collapse, anisotropy and intrinsic dimension of a representation.

    Args:
        x: shape (n, d), floating, n ≥ 4.
        energy: what share of the variance `num_directions` are to hold.
        level: of the interval.

    Raises:
        ValueError: if rows are fewer than 4, or a number is not finite or out of range.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> plane = jax.random.normal(jax.random.key(0), (400, 2)) @ jax.numpy.eye(2, 8)
        >>> found = cx.evaluation.geometry(plane)
        >>> bool(1.9 < found.effective_rank <= 2), float(found.collapsed)
        (True, 0.75)
        >>> bool(1.7 < found.intrinsic_dimension.estimate < 2.3)
        True
    """
    x, _ = rescaled(as_columns(x, "x"))
    energy = as_number(energy, "energy")
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1]; got {energy}")
    dimension = intrinsic_dimension(x, level=level)
    shares, *sizes = _of_columns(x, energy)
    rank, entropy, num, collapsed, cosine = sizes
    return Geometry(shares, rank, entropy, num, collapsed, cosine, dimension)


def intrinsic_dimension(x: ArrayLike, *, level: float = 0.9) -> Interval:
    """The dimension of the set that rows lie near, from their two nearest neighbours.

    The ratio μ = r₂ / r₁ of the distances to the second and to the first has the law 1
    − μ^{−d} where the density hardly changes over them (TwoNN: Facco et al. 2017,
    *Sci. Rep.* 7, 12140). d is (N − 1) / Σ log μ, without bias for N independent ones
    (Denti et al. 2022, *Sci. Rep.* 12, 20005), in place of the line that Facco et al.
    fit; its standard deviation is d / √N. Of equal rows one is taken. Too small by the
    edges of the set, and far so where n is no match for a large d.

    Args:
        x: shape (n, d), floating, n ≥ 4.
        level: of the interval.

    Raises:
        ValueError: if rows are fewer than 4, all are one, or a number is not finite.
    """
    x, _ = rescaled(as_columns(x, "x"))
    level = check_level(level)
    n = x.shape[0]
    check_integer(n, "the number of rows of x", low=4)
    if not is_traced(x):
        # Copies have no nearest neighbour but themselves.
        x = jnp.asarray(np.unique(np.asarray(x), axis=0))
        if x.shape[0] < 4:
            raise ValueError(f"x must have 4 different rows; got {x.shape[0]}")
    near = other_neighbors(x, 2)
    estimate, count = _two_nearest(x, near)
    return normal_interval(estimate, estimate / jnp.sqrt(count), level)


@jax.jit
def _two_nearest(
    x: Float[Array, "n d"], near: Int[Array, "n 2"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    def lengths(rows: Int[Array, " b"]) -> Float[Array, "b 2"]:
        apart = x[near[rows]] - x[rows][:, None, :]
        return jnp.linalg.norm(apart, axis=2)

    numbers = jnp.arange(x.shape[0], dtype=jnp.int32)
    r = map_blocks(lengths, numbers, row_entries=2 * x.shape[1])
    used = r[:, 0] > 0
    ratio = jnp.where(used, r[:, 1], 1) / jnp.where(used, r[:, 0], 1)
    count, total = jnp.sum(used, dtype=x.dtype), jnp.sum(jnp.log(ratio))
    return (count - 1) / total, count


@functools.partial(jax.jit, static_argnames="energy")
def _of_columns(x: Float[Array, "n d"], energy: float) -> tuple[Array, ...]:
    n, d = x.shape
    s = singular_values(unit_columns(x, jnp.full(n, 1 / n, x.dtype)))
    explained = safe_divide(s**2, jnp.sum(s**2))
    before = jnp.cumsum(explained) - explained
    num = jnp.sum((before < energy) & (s > 0), dtype=jnp.int32)
    above = jnp.sum(s > 1e-3 * s[0], dtype=x.dtype)
    unit = x * safe_reciprocal(jnp.linalg.norm(x, axis=1, keepdims=True))
    # ‖Σ u‖² holds each pair twice, and each row with itself.
    own = jnp.sum(unit**2)
    together = jnp.sum(unit.sum(axis=0) ** 2) - own
    return (
        explained,
        effective_rank(s),
        effective_rank(s, "entropy"),
        num,
        1 - above / d,
        together / n / (n - 1),  # whose product is beyond int32
    )
