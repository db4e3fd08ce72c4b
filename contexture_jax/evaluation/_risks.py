"""What a model loses where the law of the rows is another, from its losses alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    as_integers,
    check_finite,
    check_integer,
    check_key,
    check_ndim,
    check_values,
    is_traced,
)
from contexture_jax._core.intervals import Interval, check_level, normal_interval
from contexture_jax._core.moments import Batch
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.risks import Descending, chi_squared_risk, tail_mean
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.evaluation._bootstrap import bootstrap_interval
from contexture_jax.evaluation._common import as_weights

__all__ = ["ShiftedRisks", "shifted_risks"]


@short_repr
class ShiftedRisks(NamedTuple):
    """Mean losses of a model under its own law and under the worst ones near it.

    Each `estimate` is the risk of the rows given, and the ends are for their law.

    Attributes:
        mean: E ℓ, shape ().
        cvar: the mean of the worst share α, for each α, shape (number of α,).
        chi_squared: the largest mean over χ²(Q, P) ≤ ρ, for each ρ, shape (number
            of ρ,).
        groups: E[ℓ | g], shape (G,); None without groups.
        worst_group: the largest of them, shape (); None without groups.
        alphas: α, shape (number of α,).
        radii: ρ, shape (number of ρ,).
    """

    mean: Interval
    cvar: Interval
    chi_squared: Interval
    groups: Interval | None
    worst_group: Interval | None
    alphas: Float[Array, " a"]
    radii: Float[Array, " r"]


def shifted_risks(
    losses: ArrayLike,
    *,
    key: Array,
    alphas: Sequence[float] = (0.05, 0.1, 0.25, 0.5),
    radii: Sequence[float] = (0.1, 1.0, 4.0),
    trim: float = 0.0,
    groups: ArrayLike | None = None,
    num_groups: int | None = None,
    weights: ArrayLike | None = None,
    num_replicates: int = 500,
    level: float = 0.9,
) -> ShiftedRisks:
    """Judge any model under a shifted law: its losses on held-out rows go in.

    Every `estimate` is the risk of the rows given, exactly: the mean of the losses,
    `losses.cvar`, `losses.chi_squared_dro`. The ends are for the law that the rows were
    drawn from. Each replicate gives the rows independent exponential weights (the
    Bayesian bootstrap), under which no group is ever empty. Intervals are normal. The
    risks of a sample are too small on average, except for means; this bias is taken off
    the ends, which therefore do not lie evenly about the estimate. (Their middle is
    the estimate without bias.) The interval of the worst group comes from a band for
    all groups at once, as a maximum is no smooth function (theory.md §9.1). A risk that
    hangs on a handful of rows, α n below about 20, has an interval that is too short.

    Args:
        losses: ℓ of each row, shape (n,), floating.
        key: random key.
        alphas: shares α in (0, 1].
        radii: ρ ≥ 0.
        trim: ε in [0, 1): the worst rows that are dropped from CVaR and χ² risk.
        groups: g of each row, shape (n,), integers.
        num_groups: G, for groups 0, …, G − 1, each with a row; None: their largest and
            one more.
        weights: of the rows, shape (n,); uniform by default.
        num_replicates: how often the rows are weighted anew.
        level: the confidence.

    Raises:
        ValueError: if a shape or a number is out of range, or a group has no row.

    References:
        Rubin 1981, *Ann. Statist.* 9; theory.md §9.1.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> losses = jax.random.exponential(jax.random.key(0), (500,))
        >>> found = cx.evaluation.shifted_risks(losses, key=jax.random.key(1))
        >>> bool(found.mean.upper < found.cvar.lower[-1] < found.cvar.lower[0])
        True
    """
    values = as_floating(losses, "losses")
    check_ndim(values, 1, "losses")
    check_finite(values, "losses")
    p = as_weights(weights, values.shape[0], values.dtype)
    check_values(alphas, "alphas", lambda v: (v > 0) & (v <= 1), "in (0, 1]")
    check_values(radii, "radii", lambda v: np.isfinite(v) & (v >= 0), "not negative")
    check_values(trim, "trim", lambda v: (v >= 0) & (v < 1), "in [0, 1)")
    num_replicates = check_integer(num_replicates, "num_replicates", low=2)
    level = check_level(level)
    check_key(key)
    codes, count = _as_groups(groups, num_groups, p)
    order = jnp.argsort(jnp.where(p > 0, -values, jnp.inf))
    # Rows without probability count as the least, as everywhere.
    z, p, codes = values[order], p[order], codes[order]
    z = jnp.where(p > 0, z, jnp.min(jnp.where(p > 0, z, z[0])))
    numbers = jnp.asarray([*alphas, *radii], z.dtype)

    # (replicates + 1, risks) and (replicates + 1, G)
    risks, means = _replicated(
        key,
        (z, p, codes),
        numbers,
        num_alphas=len(alphas),
        num_groups=count,
        trim=trim,
        num_replicates=num_replicates,
    )
    by_group = worst = None
    if groups is not None:
        by_group, worst = _of_means(means, level), _worst(means, level)
    last = 1 + len(alphas)
    return ShiftedRisks(
        _of_means(risks[:, 0], level),
        _of_suprema(risks[:, 1:last], level),
        _of_suprema(risks[:, last:], level),
        by_group,
        worst,
        numbers[: len(alphas)],
        numbers[len(alphas) :],
    )


@functools.partial(
    jax.jit, static_argnames=("num_alphas", "num_groups", "trim", "num_replicates")
)
def _replicated(
    key: Array,
    rows: tuple[Array, Array, Array],
    numbers: Float[Array, " k"],
    *,
    num_alphas: int,
    num_groups: int,
    trim: float,
    num_replicates: int,
) -> tuple[Float[Array, "b 1+k"], Float[Array, "b g"]]:
    """Of the rows themselves first, then of rows that are weighted anew."""
    z, p, codes = rows

    def replicate(given: tuple[Array, Array]) -> tuple[Array, Array]:
        one, number = given
        drawn = jax.random.exponential(one, p.shape, p.dtype)
        q = p * jnp.where(number > 0, drawn, 1)
        q = q / q.sum()
        means = _by_group(z, q, codes, num_groups)
        return _risks(z, q, numbers, num_alphas, trim), means

    keys = jax.random.split(key, num_replicates + 1)
    steps = jnp.arange(num_replicates + 1, dtype=jnp.int32)
    return jax.lax.map(replicate, (keys, steps))


def _risks(
    z: Float[Array, " n"],
    q: Float[Array, " n"],
    numbers: Float[Array, " k"],
    num_alphas: int,
    trim: float,
) -> Float[Array, " 1+k"]:
    """Mean, CVaR and χ² risks of sorted losses under one law."""
    law, order = Batch(q, q.shape[0], None), Descending(z, q)
    cvar = [tail_mean(z, law, order, a, trim) for a in numbers[:num_alphas]]
    ball = [chi_squared_risk(z, law, order, r, trim) for r in numbers[num_alphas:]]
    return jnp.stack([law.mean(z), *cvar, *ball])


def _by_group(
    z: Float[Array, " n"], q: Float[Array, " n"], codes: Int[Array, " n"], count: int
) -> Float[Array, " g"]:
    sums, masses = (
        jax.ops.segment_sum(x, codes, num_segments=count) for x in (q * z, q)
    )
    return safe_divide(sums, masses)


def _of_means(drawn: Float[Array, "b ..."], level: float) -> Interval:
    # The mean of replicates is that of the sample but for the luck of the draws.
    return normal_interval(drawn[0], drawn[1:].std(axis=0, ddof=1), level)


def _of_suprema(drawn: Float[Array, "b k"], level: float) -> Interval:
    found = bootstrap_interval(drawn[0], drawn[1:], level=level)
    return Interval(drawn[0], found.lower, found.upper, level)


def _worst(means: Float[Array, "b g"], level: float) -> Interval:
    """The largest group mean, from a band that holds for all groups at once."""
    value, drawn = means[0], means[1:]
    error = drawn.std(axis=0, ddof=1)
    gaps = jnp.abs(safe_divide(drawn - value[None, :], error[None, :])).max(axis=1)
    reach = jnp.quantile(gaps, level) * error
    return Interval(value.max(), (value - reach).max(), (value + reach).max(), level)


def _as_groups(
    groups: Any, num_groups: int | None, p: Float[Array, " n"]
) -> tuple[Int[Array, " n"], int]:
    if groups is None:
        return jnp.zeros(p.shape, jnp.int32), 1
    codes = groups if is_traced(groups) else as_integers(groups, "groups")
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        msg = f"groups must be integers; got dtype {codes.dtype}"
        raise TypeError(msg)
    if codes.shape != p.shape:
        msg = f"groups must have shape {p.shape}, as losses; got {codes.shape}"
        raise ValueError(msg)
    if num_groups is None:
        if is_traced(codes):
            msg = "groups must be concrete, or num_groups given; got a tracer"
            raise TypeError(msg)
        num_groups = int(np.max(np.asarray(codes))) + 1
    count = check_integer(num_groups, "num_groups", low=1)
    check_values(
        codes, "groups", lambda v: (v >= 0) & (v < count), f"in 0..{count - 1}"
    )
    codes = jnp.asarray(codes, jnp.int32)
    if not is_traced(codes, p):
        held = np.bincount(np.asarray(codes), np.asarray(p), count)
        check_values(held, "the mass of groups", lambda v: v > 0, "positive")
    return codes, count
