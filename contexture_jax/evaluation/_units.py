"""What the units and the directions of a representation tell of classes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.chance import (
    Compared,
    judged_by_chance,
    without_groups,
)
from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.classes import class_codes
from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.intervals import Interval, check_level
from contexture_jax._core.numerics import mm, safe_divide, safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.evaluation._common import (
    as_columns,
    centred_columns,
    weighted_basis,
)
from contexture_jax.evaluation._similarity import other_neighbors, unit_columns

__all__ = ["Units", "neighbor_purity", "principal_directions", "units"]


@short_repr
class Units(NamedTuple):
    """What each unit tells of classes, beside labels that are shuffled.

    Attributes:
        classes: the C classes, ascending.
        selectivity: of each unit for each class the standardised mean difference, (mean
            within − mean without) / pooled standard deviation, shape (u, C).
        explained: of each unit the share of its variance that lies between classes,
            shape (u,).
        purity: of that share what the one class tells that tells most, against all
            others: 1 for an indicator of one class, shape (u,).
        null: `explained` of shuffled labels: its mean, (C − 1) / (n − 1), between
            quantiles over shuffles, each of shape (u,).
        p_values: (1 + shuffles that reach `explained`) / (1 + their number), shape
            (u,).
        pooled: the share between classes of the variance of all units together, shape
            (): 1 where each class has collapsed to a point (NC1 of Papyan et al. 2020).
    """

    classes: tuple[Any, ...]
    selectivity: Float[Array, "u c"]
    explained: Float[Array, " u"]
    purity: Float[Array, " u"]
    null: Interval
    p_values: Float[Array, " u"]
    pooled: Float[Array, ""]


def units(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
) -> Units:
    """The selectivity and the purity of each unit for classes.

    Of directions take those of `principal_directions`, or any others as columns.

    Args:
        x: activations, shape (n, u), floating.
        labels: integers, booleans or text, shape (n,).
        key: random key of the shuffles.
        num_permutations: how many.
        level: of the quantiles of the null.

    Raises:
        TypeError: if labels are no classes.
        ValueError: if rows do not match, there is one class, or a number is not finite.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> y = [0, 1, 2] * 20
        >>> x = jax.nn.one_hot(jax.numpy.array(y), 3)
        >>> cx.evaluation.units(x, y, key=jax.random.key(0)).purity.round(3).tolist()
        [1.0, 1.0, 1.0]
    """
    x = as_columns(x, "x")
    classes, codes = _classes(labels, x.shape[0])
    check_key(key)
    num = check_integer(num_permutations, "num_permutations", low=1)
    level = check_level(level)
    found = _of_classes(x, jnp.asarray(codes), len(classes), key, num, level)
    selectivity, explained, purity, ends, p_values, pooled = found
    mean, low, high = ends
    null = Interval(mean, low, high, level)
    return Units(classes, selectivity, explained, purity, null, p_values, pooled)


def principal_directions(x: ArrayLike) -> Float[Array, "n k"]:
    """The scores of the principal components, by descending variance, as columns.

    Args:
        x: shape (n, d), floating.
    """
    x = as_columns(x, "x")
    n = x.shape[0]
    basis, s, _ = thin_svd(unit_columns(x, jnp.full(n, 1 / n, x.dtype)))
    return basis * s[None, :]


def neighbor_purity(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    key: Array,
    num_neighbors: int = 10,
    whiten: bool = False,
    num_permutations: int = 99,
    level: float = 0.9,
) -> Compared:
    """The mean share of a row's nearest other rows that are of its class.

    By chance Σ_c n_c (n_c − 1) / (n (n − 1)), n_c the rows of class c.

    Args:
        x: shape (n, d), floating, n ≥ 8.
        labels: as for `units`.
        key: random key of shuffles and groups.
        num_neighbors: at most n / 2.
        whiten: whether features are whitened first.
        num_permutations: how many shuffles.
        level: of both intervals.

    Raises:
        ValueError: as `units`, or if rows are fewer than 8.
    """
    x = as_columns(x, "x")
    n = x.shape[0]
    _, codes = _classes(labels, n)
    check_integer(n, "the number of rows of x", low=8)
    k = check_integer(num_neighbors, "num_neighbors", low=1, high=n // 2)
    if whiten:
        x = weighted_basis(x, jnp.full(n, 1 / n, x.dtype), centre=True)[0]
    near = other_neighbors(x, min(n - 1, 2 * k + 10))
    num = check_integer(num_permutations, "num_permutations", low=1)
    dtype = str(x.dtype)
    return _pure(near, jnp.asarray(codes), key, k, num, check_level(level), dtype)


def _classes(labels: Any, num_rows: int) -> tuple[tuple[Any, ...], Any]:
    classes, codes = class_codes(labels, "labels", discrete=True)
    if len(codes) != num_rows:
        raise ValueError(f"labels must have {num_rows} rows; got {len(codes)}")
    if len(classes) < 2:
        msg = f"labels must hold at least 2 classes; got {classes.tolist()}"
        raise ValueError(msg)
    return tuple(classes.tolist()), codes


@functools.partial(
    jax.jit, static_argnames=("num_neighbors", "num_permutations", "level", "dtype")
)
def _pure(
    near: Int[Array, "n l"],
    codes: Int[Array, " n"],
    key: Array,
    num_neighbors: int,
    num_permutations: int,
    level: float,
    dtype: str,
) -> Compared:
    n, k = near.shape[0], num_neighbors
    keys = jax.random.split(key)

    def share(codes: Array) -> Array:
        return jnp.mean((codes[near[:, :k]] == codes[:, None]).astype(dtype))

    def without(rows: Array) -> Array:
        kept = jnp.zeros(n, bool).at[rows].set(True)
        # The first k of those that are left.
        used = kept[near] & (jnp.cumsum(kept[near], axis=1) <= k) & kept[:, None]
        same = jnp.sum(used & (codes[near] == codes[:, None]), dtype=dtype)
        return same / jnp.sum(used, dtype=dtype)

    null = jax.lax.map(
        lambda one: share(jax.random.permutation(one, codes)),
        jax.random.split(keys[0], num_permutations),
    )
    groups = without_groups(without, keys[1], n)
    return judged_by_chance(share(codes), null, groups, n, level, unbiased=True)


@functools.partial(
    jax.jit, static_argnames=("num_classes", "num_permutations", "level")
)
def _of_classes(
    x: Float[Array, "n u"],
    codes: Int[Array, " n"],
    num_classes: int,
    key: Array,
    num_permutations: int,
    level: float,
) -> tuple[Any, ...]:
    n = x.shape[0]
    # One unit for all, as `pooled` counts them by their variances.
    left = unit_columns(x, jnp.full(n, 1 / n, x.dtype))
    _, z, floor = centred_columns(left, jnp.full(n, 1 / n, x.dtype))
    total = jnp.sum(z**2, axis=0)
    # What is left of a constant unit is rounding, and tells nothing.
    total = jnp.where(jnp.sqrt(total / n) > floor, total, 0)
    counts = jnp.bincount(codes, length=num_classes).astype(x.dtype)

    def between(codes: Array) -> tuple[Array, Array]:
        """Means of the classes (C, u), and the squares between them (u,)."""
        one_hot = jax.nn.one_hot(codes, num_classes, dtype=x.dtype)
        means = mm(one_hot.T, z) / counts[:, None]
        return means, jnp.sum(counts[:, None] * means**2, axis=0)

    means, squares = between(codes)
    explained = safe_divide(squares, total)
    # n_c m_c² and what the others, whose mean is −n_c m_c / (n − n_c), add to it.
    alone = (counts * n / (n - counts))[:, None] * means**2
    slack = 100 * float(jnp.finfo(x.dtype).eps)
    # Of a unit that is an indicator rounding is left within.
    within = total[None, :] - alone
    within = jnp.where(within > slack * total[None, :], within, 0)
    rest = safe_sqrt(within / (n - 2))
    apart = means * (n / (n - counts))[:, None]
    null = jax.lax.map(
        lambda one: safe_divide(between(jax.random.permutation(one, codes))[1], total),
        jax.random.split(key, num_permutations),
    )
    reached = jnp.sum(null >= explained[None, :] - slack, axis=0)
    low, high = (jnp.quantile(null, 0.5 + sign * level / 2, axis=0) for sign in (-1, 1))
    # No spread within: the difference is infinite.
    difference = jnp.where(rest > 0, apart * safe_reciprocal(rest), jnp.inf * apart)
    is_told = (apart != 0) & (total > 0)[None, :]
    selectivity = jnp.where(is_told, difference, 0)
    return (
        selectivity.T,
        explained,
        safe_divide(alone.max(axis=0), squares),
        (null.mean(axis=0), low, high),
        ((1 + reached) / (1 + num_permutations)).astype(x.dtype),
        safe_divide(squares.sum(), total.sum()),
    )
