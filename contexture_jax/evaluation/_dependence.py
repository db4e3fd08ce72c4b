"""Units and spans that depend on the context in which an input is read."""

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
from contexture_jax._core.checks import (
    as_floating,
    check_finite,
    check_integer,
    check_key,
    check_ndim,
)
from contexture_jax._core.intervals import Interval, check_level
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation._common import weighted_basis

__all__ = ["ContextDependence", "context_dependence", "context_stability"]


@short_repr
class ContextDependence(NamedTuple):
    """The two-way decomposition of the variance of each unit.

    V = V^X + V^A + V^XA; shares are 0 of a constant unit.

    Attributes:
        of_input: V^X / V, what the input alone tells, shape (u,).
        of_context: V^A / V, what the context alone does, alike for all inputs, shape
            (u,).
        of_both: V^XA / V, what neither does alone, shape (u,).
        dependence: (V^A + V^XA) / V of each unit, shape (u,): 0 where the context is
            ignored.
        pooled: the same of all units together, by their variances, shape ().
        null: `of_context` with the contexts of each input shuffled: its mean, which is
            `dependence` over their number, between quantiles, each of shape (u,).
        p_values: (1 + shuffles that reach `of_context`) / (1 + their number), shape
            (u,).
    """

    of_input: Float[Array, " u"]
    of_context: Float[Array, " u"]
    of_both: Float[Array, " u"]
    dependence: Float[Array, " u"]
    pooled: Float[Array, ""]
    null: Interval
    p_values: Float[Array, " u"]


def context_dependence(
    z: ArrayLike,
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
) -> ContextDependence:
    """How much of each unit is due to the context that an input is read in.

    Activations z[x, a, u] of every input in every context, as of an encoder that reads
    both. With averages over what is a dot, V^X is the variance of z[x, ·, u], V^A that
    of z[·, a, u], and V^XA what is left (theory.md §3.10).

    Args:
        z: shape (n, m, u), floating, n and m at least 2.
        key: random key of the shuffles.
        num_permutations: how many.
        level: of the quantiles of the null.

    Raises:
        TypeError: if `z` is not floating.
        ValueError: if a shape does not fit or a number is not finite.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x, a = jax.numpy.arange(6.0)[:, None], jax.numpy.arange(4.0)[None, :]
        >>> z = jax.numpy.stack([x + 0 * a, a + 0 * x, x * a], axis=2)
        >>> found = cx.evaluation.context_dependence(z, key=jax.random.key(0))
        >>> [round(float(share), 3) for share in found.dependence]
        [0.0, 1.0, 0.636]
    """
    z = _activations(z)
    check_key(key)
    num = check_integer(num_permutations, "num_permutations", low=1)
    return _decomposed(z, key, num, check_level(level))


def context_stability(
    z: ArrayLike,
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
) -> Compared:
    """The mean CCA of Φ(·|a) and Φ(·|a') over all pairs of contexts.

    1 where every context gives the same span: what a linear probe can read does not
    depend on the context, although units may. Chance shuffles the inputs of each
    context, so that it is near d / (n − 1).

    Args:
        z: activations, shape (n, m, d), floating, n ≥ 8 and m ≥ 2; d < n for a value
            below 1.
        key: random key of shuffles and groups.
        num_permutations: how many shuffles.
        level: of both intervals.

    Raises:
        TypeError: if `z` is not floating.
        ValueError: if a shape does not fit or a number is not finite.
    """
    z = _activations(z)
    check_integer(z.shape[0], "the number of inputs of z", low=8)
    check_key(key)
    num = check_integer(num_permutations, "num_permutations", low=1)
    return _stable(z, jax.random.split(key), num, check_level(level))


def _activations(z: Any) -> Float[Array, "n m u"]:
    z = as_floating(z, "z")
    check_ndim(z, 3, "z")
    check_finite(z, "z")
    for size, what in zip(z.shape, ("inputs", "contexts", "units"), strict=True):
        check_integer(size, f"the number of {what} of z", low=1 + (what != "units"))
    return z


@functools.partial(jax.jit, static_argnames=("num_permutations", "level"))
def _decomposed(
    z: Float[Array, "n m u"], key: Array, num_permutations: int, level: float
) -> ContextDependence:
    n, m, u = z.shape
    flat, _ = rescaled(z.reshape(n * m, u))
    z = flat.reshape(n, m, u)
    # Twice: of a unit far from 0 the first mean is rounded.
    for _ in range(2):
        z = z - z.mean(axis=(0, 1), keepdims=True)
    total = (z**2).mean(axis=(0, 1))
    # Rounding of a constant is no variance.
    size = jnp.abs(flat).max(axis=0) * 100 * float(jnp.finfo(z.dtype).eps)
    total = jnp.where(total > size**2, total, 0)
    of_input = z.mean(axis=1)
    rest = z - of_input[:, None, :]

    def by_context(rest: Float[Array, "n m u"]) -> Float[Array, " u"]:
        return safe_divide((rest.mean(axis=0) ** 2).mean(axis=0), total)

    within = (rest**2).mean(axis=(0, 1))
    alone = by_context(rest)
    dependence = safe_divide(within, total)

    def shuffled(key: Array) -> Float[Array, " u"]:
        # One order for all units of an input, another for each input.
        orders = jax.vmap(lambda k: jax.random.permutation(k, m))(
            jax.random.split(key, n)
        )
        return by_context(jnp.take_along_axis(rest, orders[:, :, None], axis=1))

    null = jax.lax.map(shuffled, jax.random.split(key, num_permutations))
    slack = 100 * float(jnp.finfo(z.dtype).eps)
    reached = jnp.sum(null >= alone[None, :] - slack, axis=0)
    low, high = (jnp.quantile(null, 0.5 + sign * level / 2, axis=0) for sign in (-1, 1))
    return ContextDependence(
        safe_divide((of_input**2).mean(axis=0), total),
        alone,
        jnp.maximum(dependence - alone, 0),
        dependence,
        safe_divide(jnp.where(total > 0, within, 0).sum(), total.sum()),
        Interval(null.mean(axis=0), low, high, level),
        ((1 + reached) / (1 + num_permutations)).astype(z.dtype),
    )


@functools.partial(jax.jit, static_argnames=("num_permutations", "level"))
def _stable(
    z: Float[Array, "n m d"], keys: Array, num_permutations: int, level: float
) -> Compared:
    n, m, d = z.shape

    def bases(rows: Array) -> tuple[Float[Array, "m k d"], Array]:
        some = z[rows].transpose(1, 0, 2)
        weights = jnp.full(some.shape[1], 1 / some.shape[1], z.dtype)
        return jax.lax.map(lambda x: weighted_basis(x, weights, centre=True), some)

    def score(found: tuple[Array, Array]) -> Float[Array, ""]:
        basis, ranks = found
        flat = basis.transpose(1, 0, 2).reshape(-1, m * d)
        squares = (mm(flat.T, flat) ** 2).reshape(m, d, m, d).sum(axis=(1, 3))
        # Beyond the lower rank there is no canonical correlation.
        most = jnp.minimum(ranks[:, None], ranks[None, :]).astype(z.dtype)
        pairs = jnp.where(jnp.eye(m, dtype=bool), 0, safe_divide(squares, most))
        return pairs.sum() / (m * (m - 1))

    everything = jnp.arange(n)
    basis, ranks = bases(everything)

    def shuffled(key: Array) -> Float[Array, ""]:
        orders = jax.vmap(lambda k: jax.random.permutation(k, n))(
            jax.random.split(key, m)
        )
        return score((jnp.take_along_axis(basis, orders[:, :, None], axis=1), ranks))

    null = jax.lax.map(shuffled, jax.random.split(keys[0], num_permutations))
    groups = without_groups(lambda rows: score(bases(rows)), keys[1], n)
    return judged_by_chance(score((basis, ranks)), null, groups, n, level)
