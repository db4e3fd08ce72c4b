"""How complex a context is: κ² by sampling, and the leverage of a probe."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_key,
    check_ndim,
    check_values,
)
from contexture_jax._core.intervals import Interval, check_level, normal_interval
from contexture_jax._core.numerics import mm, safe_divide, safe_reciprocal
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation._common import (
    as_columns,
    as_spectrum,
    as_weights,
    singular_value_slack,
)
from contexture_jax.evaluation._kernel import diagonal_at
from contexture_jax.operators import (
    AssociationOperator,
    check_monte_carlo,
    check_operator,
)

__all__ = [
    "KappaSample",
    "estimate_kappa_squared",
    "leverage_bound",
    "monte_carlo_kappa_squared",
    "probe_leverage",
]


@short_repr
class KappaSample(NamedTuple):
    """What some rows tell of κ_X² = sup_x k_X⁺(x, x).

    Attributes:
        lower: the largest k_X⁺(x, x) of the rows drawn, shape (): κ² is not less.
        upper: κ² is not more, shape (): the largest 1 / p_x of the rows not drawn, or
            `lower` if that is more. Certain, and mostly far above.
        mass: at the confidence `trace.level`, k_X⁺(x, x) > `lower` on rows of at most
            that mass, whatever the context. Static.
        trace: an interval for Σ_{i≥0} s_i² = E k_X⁺(X, X), which κ² is not below, shape
            (); that of the normal law.
    """

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    mass: float
    trace: Interval


def estimate_kappa_squared(
    op: AssociationOperator, num_points: int, *, key: Array, level: float = 0.9
) -> KappaSample:
    """κ_X² of a large context from N rows, each with its exact k_X⁺(x, x).

    A supremum has no interval from a sample without more being known: one row that was
    not drawn may hold it. Without assumptions there are three statements. The largest
    value found is a lower bound. k_X⁺(x, x) = Σ_a P⁺(a|x)² / P_A(a) ≤ 1 / p_x, as
    P_A(a) ≥ p_x P⁺(a|x), so that rows not drawn give an upper one. And all but a small
    mass lies below what was found: if k_X⁺ exceeds it on mass q, then N draws missed
    that with probability at most (1 − q)^N, so q ≤ 1 − (1 − level)^{1/N} at the level.

    Args:
        op: the expectation operator, shape (n, m).
        num_points: N, draws of X ~ P_X with replacement, at least 2.
        key: for the draws.
        level: the confidence of `mass` and of `trace`.

    Raises:
        TypeError: if `op` is no operator.
        ValueError: if a number is out of range.
    """
    check_operator(op, "op")
    check_key(key)
    level = check_level(level)
    num_points = check_integer(num_points, "num_points", low=2)
    draws = jax.random.choice(key, op.shape[0], (num_points,), p=op.p_x)
    values = diagonal_at(op, draws.astype(jnp.int32))
    lower = values.max()
    # Rows without mass are no part of the supremum, and their 1 / p_x is 0 here.
    ceilings = safe_reciprocal(op.p_x).at[draws].set(0.0)
    error = jnp.std(values, ddof=1) / num_points**0.5
    return KappaSample(
        lower,
        jnp.maximum(lower, ceilings.max()),
        1 - (1 - level) ** (1 / num_points),
        normal_interval(values.mean(), error, level),
    )


def monte_carlo_kappa_squared(
    op: AssociationOperator,
    *,
    key: Array,
    level: float = 0.9,
    num_replicates: int = 200,
) -> Interval:
    """κ_X² over the inputs of a context that has a sampler and a density.

    k_X⁺(x_i, x_i) = E r_i(A)² over A ~ P_A, r_i(a) = P⁺(a|x_i) / P_A(a), for the
    uniform law on the n inputs: the mean over the m draws of the operator is unbiased
    for each. The ends hold for all inputs at once, and so for the largest: estimates
    ± c standard errors, c the quantile of the largest of n standardised sums with
    normal multipliers (Chernozhukov, Chetverikov & Kato 2013), cut at 1 and at n. That
    is in the limit of many draws; of few that miss the largest ratios it is too low, as
    is any mean of heavy tails. The estimate, a maximum of unbiased ones, is too large
    on average. It says nothing of inputs beyond these: of an x at random
    k_X⁺(x, x) may be unbounded, as for a Gaussian pair.

    Args:
        op: of `monte_carlo_operator`.
        key: for the multipliers.
        level: the confidence.
        num_replicates: how many sums.

    Raises:
        TypeError: if `op` is another operator.
    """
    op = check_monte_carlo(op)
    check_key(key)
    level = check_level(level)
    num_replicates = check_integer(num_replicates, "num_replicates", low=2)
    n, m = op.shape
    # (n, m): r_i(a_j)²; a sharded table has rows of padding.
    squares = (n * m * op.joint[:n]) ** 2
    means = squares.mean(axis=1)
    rest = squares - means[:, None]
    # (n,): Draws that go round the inputs evenly scatter less than this says.
    errors = jnp.sqrt((rest**2).sum(axis=1) / (m * (m - 1)))
    multipliers = jax.random.normal(key, (m, num_replicates), rest.dtype)
    # (n, num_replicates): each of the law of its mean's error, from the same draws.
    sums = jnp.abs(mm(rest, multipliers)) / m
    reach = jnp.quantile(safe_divide(sums, errors[:, None]).max(axis=0), level)
    low, high = ((means + sign * reach * errors).max() for sign in (-1, 1))
    return Interval(means.max(), jnp.maximum(low, 1.0), jnp.clip(high, 1.0, n), level)


def probe_leverage(left: ArrayLike, p_x: ArrayLike | None = None) -> Float[Array, " k"]:
    """The largest leverage sup_x Σ_{i≤d} μ_i(x)² of a probe of d functions, each d.

    Its mean over P_X is d. With the constant of a bias it is 1 more. Rows of zero mass
    play no part.

    Args:
        left: functions as columns, orthonormal in L²(P_X), shape (n, k).
        p_x: probabilities of the rows, shape (n,); None: uniform.
    """
    mu = as_columns(left, "left")
    p = as_weights(p_x, mu.shape[0], mu.dtype)
    squares = jnp.where(p[:, None] > 0, mu**2, 0)
    return jnp.cumsum(squares, axis=1).max(axis=0)


def leverage_bound(
    singular_values: ArrayLike, kappa_squared: ArrayLike
) -> Float[Array, " k"]:
    """(κ_X² − 1) / s_d², which Σ_{i≤d} μ_i(x)² does not exceed, for d = 1, …, k.

    Since Σ_{i≥1} s_i² μ_i(x)² = k_X⁺(x, x) − 1 ≤ κ_X² − 1, and s_i ≥ s_d for i ≤ d
    (theory.md §3). With equality where d takes all s_i that are not 0, and these are
    equal.

    Args:
        singular_values: s_1, s_2, … shape (k,), in any order, floating.
        kappa_squared: κ_X², at least 1, shape ().

    Returns:
        Shape (k,); infinite where s_d = 0.
    """
    s = as_spectrum(singular_values)
    kappa = as_floating(kappa_squared, "kappa_squared").astype(s.dtype)
    check_ndim(kappa, 0, "kappa_squared")
    # A computed κ² of an independent context is 1 to rounding.
    slack = singular_value_slack(s.dtype)
    check_values(kappa, "kappa_squared", lambda v: v >= 1 - slack, "at least 1")
    above = jnp.maximum(kappa - 1, 0)
    bound = jnp.where(s > 0, safe_divide(above, s**2), jnp.inf)
    # Of an infinite value, which a trace cannot refuse, it would be 0.
    return jnp.where(jnp.isfinite(s), bound, jnp.nan)
