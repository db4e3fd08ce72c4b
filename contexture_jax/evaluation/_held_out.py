"""Singular functions of one half of a sample, measured on the other half."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_key
from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.intervals import (
    Interval,
    check_level,
    correlation_interval,
)
from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.types import Array, Float, short_repr
from contexture_jax.evaluation._pairs import (
    PairSample,
    check_rank,
    count_cells,
)
from contexture_jax.operators import (
    dense_operator,
    symmetrised_matrix,
    to_functions,
)

__all__ = ["HeldOut", "held_out_spectrum"]


@short_repr
class HeldOut(NamedTuple):
    """Singular functions of one half of a sample, measured on the other, both ways.

    Attributes:
        optimistic: the values on the halves that the functions were fitted to, averaged
            over the two, shape (rank,).
        held_out: correlation of f_i(X) and g_i(A) on the other halves, averaged, and an
            interval for the correlations of these functions under the law of the
            pairs, shape (rank,).
        standard_error: of `held_out`, given the functions, shape (rank,).
        left: f of each half, shape (2, n, rank).
        right: g of each half, shape (2, m, rank).
    """

    optimistic: Float[Array, " rank"]
    held_out: Interval
    standard_error: Float[Array, " rank"]
    left: Float[Array, "2 n rank"]
    right: Float[Array, "2 m rank"]


def held_out_spectrum(
    sample: PairSample, rank: int, *, key: Array, level: float = 0.9
) -> HeldOut:
    """Singular values that functions keep on pairs they were not fitted to.

    The pairs are halved at random. Functions f_i, g_i of one half are measured on the
    other by the correlation of f_i(X) and g_i(A), and the other way round. For given
    functions that is a plain sample correlation, with the standard error of its
    influence function,

        ψ(x, a) = f̃ g̃ − ½ r (f̃² + g̃²),   f̃, g̃ of mean 0 and variance 1 there,

    and it estimates their correlation under the law of the pairs, which no functions
    take above s_1 (theory.md §3.7). So the first held-out value errs below the truth on
    average, as the plug-in `optimistic` one errs above it. The interval is for the
    correlations of *these* functions (the mean of the two halves), not for s_i; it is
    short where N is not well above the size of the table, as rare cells make
    correlations skew. Errors of the two
    halves are correlated, since each half has also chosen functions: the standard error
    of their mean is taken as if they were equal, which makes the interval conservative.

    Args:
        sample: N ≥ 4 pairs.
        rank: how many functions.
        key: random key.
        level: the confidence.
    """
    rank = check_rank(sample, rank)
    level = check_level(level)
    check_key(key)
    # Two pairs a half: one alone has no correlation.
    half = sample.num_pairs // 2
    if half < 2:
        msg = f"sample must hold at least 4 pairs to be halved; got {sample.num_pairs}"
        raise ValueError(msg)
    # A sample may come sorted, as from counts: its first half would be other classes.
    cells = jax.random.permutation(key, sample.cells)
    dtype = jnp.zeros(()).dtype
    parts = [count_cells(c, sample.shape, dtype) for c in (cells[:half], cells[half:])]
    # Of each half (s, μ, ν), measured on the other.
    fitted = [_functions(counts, rank) for counts in parts]
    measured = [
        _correlations(other, left, right)
        for other, (_, left, right) in zip(parts[::-1], fitted, strict=True)
    ]
    values = 0.5 * (measured[0][0] + measured[1][0])
    # Standard deviations are added, as for errors that move together; independent
    # halves would have their variances added, and √2 less (theory.md §3.7).
    error = 0.5 * (jnp.sqrt(measured[0][1]) + jnp.sqrt(measured[1][1]))
    return HeldOut(
        0.5 * (fitted[0][0] + fitted[1][0]),
        correlation_interval(values, error, level),
        error,
        jnp.stack([fitted[0][1], fitted[1][1]]),
        jnp.stack([fitted[0][2], fitted[1][2]]),
    )


def _functions(counts: Float[Array, "n m"], rank: int) -> tuple[Array, Array, Array]:
    """s, μ and ν of a table, shapes (rank,), (n, rank), (m, rank)."""
    op = dense_operator(counts / counts.sum())
    # Rows that a half has not seen are 0 here, and their functions with them.
    matrix = symmetrised_matrix(op, deflated=True)
    u, s, vh = thin_svd(matrix)
    left, right = to_functions(op, u[:, :rank], vh[:rank].T)
    return jnp.clip(s[:rank], 0.0, 1.0), left, right


def _correlations(
    counts: Float[Array, "n m"], left: Float[Array, "n r"], right: Float[Array, "m r"]
) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    """Correlations of f_i(X) and g_i(A) in a table, and their sampling variances."""
    num_pairs = counts.sum()
    joint = counts / num_pairs
    # Standardised under the law of *this* half: functions that have mean 0 and variance
    # 1 on the one have neither on the other.
    f, g = (
        _standardised(left, joint.sum(axis=1)),
        _standardised(right, joint.sum(axis=0)),
    )
    # (r,): Σ_xa P(x, a) f(x) g(a).
    values = (f * mm(joint, g)).sum(axis=0)

    def variance(f: Array, g: Array, r: Array) -> Array:
        # (n, m), for one function at a time.
        influence = f[:, None] * g[None, :] - 0.5 * r * (
            f[:, None] ** 2 + g[None, :] ** 2
        )
        return (joint * influence**2).sum() / num_pairs

    return values, jax.vmap(variance, in_axes=(1, 1, 0))(f, g, values)


def _standardised(x: Float[Array, "n r"], weights: Float[Array, " n"]) -> Array:
    centred = x - mm(weights[None, :], x)
    # A function that is constant on the rows of this half correlates with nothing: 0.
    return centred * safe_reciprocal(jnp.sqrt(mm(weights[None, :], centred**2)))
