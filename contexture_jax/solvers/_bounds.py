"""The arithmetic of `certify`: from residuals, energies and probes to bounds.

Outside a trace NumPy does it, in float64: these are some dozen small steps, and a
program of them takes longer to compile than all else that `certify` does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.either import Either, namespace
from contexture_jax._core.scaling import rescaled, times_power_of_two
from contexture_jax._core.types import Array, Bool, Float, Int, short_repr
from contexture_jax.solvers._linear_map import rounding_of

__all__ = ["Bounds", "Found", "Known", "bounds_from"]


@short_repr
class Bounds(NamedTuple):
    """Upper bounds, which need to know that no singular value was missed.

    Attributes:
        upper: s_i(M) ≤ upper_i, shape (rank,), descending.
        next_upper: s_{rank+1}(M) ≤ next_upper, shape ().
        cluster_sines: for each i the sine of the largest angle between the computed
            span of the cluster of i and the true one is at most this, on the left and
            on the right, shape (rank,); 1 says nothing.
        leading_sines: likewise for the span of the first i functions, the contexture of
            dimension i, shape (rank,).
    """

    upper: Float[Array, " rank"]
    next_upper: Float[Array, ""]
    cluster_sines: Float[Array, " rank"]
    leading_sines: Float[Array, " rank"]


class Known(NamedTuple):
    """What bounds are made of: all arrays of JAX, or all of NumPy.

    Attributes:
        values: computed, shape (rank,).
        left_residuals: shape (rank,).
        right_residuals: shape (rank,).
        total_energy: shape ().
        tail_energy: shape ().
        tail_error: 0 where the energies are exact, shape ().
        scale: a bound on the norm before deflation, which no value exceeds, shape (); 0
            if there is none; None if it is not known: rounding is then that of 1.
        cluster_tol: shape ().
        same: whether all of it is of one law, shape ().
        lost: how far the computed bases are from orthonormal ones, shape (); None: not
            measured.
        remainder: what the probes say that ‖M₂₂‖ is at most, shape (), with `lost`.
    """

    values: Float[Either, " rank"]
    left_residuals: Float[Either, " rank"]
    right_residuals: Float[Either, " rank"]
    total_energy: Float[Either, ""]
    tail_energy: Float[Either, ""]
    tail_error: Float[Either, ""]
    scale: Float[Either, ""] | None
    cluster_tol: Float[Either, ""]
    same: Bool[Either, ""]
    lost: Float[Either, ""] | None = None
    remainder: Float[Either, ""] | None = None


class Found(NamedTuple):
    """The fields of a `Certificate`, and whether what they are made of agrees.

    Attributes:
        lower: shape (rank,).
        proved: see `Bounds`.
        if_found: likewise.
        cluster: shape (rank,).
        cut: shape ().
        rounding: shape ().
        coherent: shape (); where it is False, the others say nothing.
    """

    lower: Float[Either, " rank"]
    proved: Bounds
    if_found: Bounds
    cluster: Int[Either, " rank"]
    cut: Bool[Either, ""]
    rounding: Float[Either, ""]
    coherent: Bool[Either, ""]


def bounds_from(
    known: Known, shape: tuple[int, int], dtype: Any, *, orthonormal: bool
) -> Found:
    """The bounds of `certify`, NaN where their parts do not belong together.

    Args:
        known: what they are made of.
        shape: (n, m) of the operator.
        dtype: in which the values were computed.
        orthonormal: whether the bases are known to be so, up to rounding.
    """
    xp = namespace(known.values)
    # At a scale of their own squares of values stay in range.
    s, exponent = _rescaled(known.values)
    one, ceiling = xp.ones_like(s[0]), xp.inf
    # What is in the unit of values goes by 2^e, energies by 4^e: powers of two, exact.
    left_residuals, right_residuals, scale, cluster_tol = (
        _times(x, -exponent)
        for x in (
            known.left_residuals,
            known.right_residuals,
            one if known.scale is None else known.scale,
            known.cluster_tol,
        )
    )
    if known.scale is not None:
        ceiling = xp.where(known.scale > 0, scale, xp.inf)
    total, tail = (
        _times(x, -2 * exponent) for x in (known.total_energy, known.tail_energy)
    )
    head = xp.sum(s**2)
    slack = rounding_of(shape, dtype)
    # The model of theory.md §6.11: the deflated norm has been rounded like the rest.
    rounding = slack * xp.maximum(scale, s[0])
    # The energies of large or small matrices may have left the range of the dtype.
    lowest = float(jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps)
    in_range = xp.isfinite(total) & (known.total_energy > lowest)
    # Of one solve the whole is head and tail, to the rounding of ‖M‖_F² before
    # deflation, of which scale² was a part.
    gap = xp.abs(total - head - xp.maximum(tail, 0))
    coherent = ~(in_range & (gap > 4 * slack * (scale**2 + total)))
    # The energies are sums of squares; an estimate bounds nothing. The head is Σ s_i²
    # if M V = U S, and otherwise (‖s‖ − ‖e‖)² at least.
    hidden = 2 * xp.linalg.norm(s) * xp.linalg.norm(left_residuals)
    if not orthonormal and known.lost is not None:
        # What they hold is less than Σ s_i² by as much.
        hidden = hidden + 2 * head * known.lost
    tail = xp.maximum(tail, 0) + hidden + slack * (scale**2 + total)
    # The zero matrix has energies below `lowest`, and they are exact.
    exact = (known.tail_error == 0) & (in_range | (s[0] == 0))
    tail = xp.where(exact, tail, xp.inf)
    # ‖M₂₂‖ ≤ ‖M₂₂‖_F: no value that was missed is larger.
    remainder = xp.sqrt(tail)
    if known.lost is not None and known.remainder is not None:
        # M is seen between two bases, each of which may be off by as much.
        rounding = rounding + 2 * xp.maximum(scale, s[0]) * known.lost
        probed = _times(known.remainder, -exponent)
        remainder = xp.minimum(remainder, probed + rounding)
    residuals = Residuals(left_residuals, right_residuals, rounding)
    lower = _lower(s, residuals)
    cluster = _clusters(s, residuals, cluster_tol)
    make = functools.partial(_bounds, s, residuals, lower, cluster, tail, ceiling)
    # t is what energy and probes allow, or s_r if nothing was missed: (2, r) each.
    both = _each(make, xp.stack([remainder, xp.minimum(remainder, s[-1])]))
    # s_{r+1} may be as large as the least that s_r can be.
    cut = both.next_upper[0] >= lower[-1]
    # Bounds that cross are of no matrix: some part is that of another one.
    coherent = coherent & ~(lower[None, :] > both.upper).any()

    def given(x: Either) -> Either:
        # A trace cannot raise.
        return xp.where(coherent & (known.same != 0), _times(x, exponent), xp.nan)

    both = both._replace(upper=given(both.upper), next_upper=given(both.next_upper))
    proved, if_found = (Bounds(*(x[i] for x in both)) for i in (0, 1))
    return Found(
        given(lower), proved, if_found, cluster, cut, given(rounding), coherent
    )


def _each(make: Callable[[Any], Bounds], ends: Float[Either, " two"]) -> Bounds:
    if namespace(ends) is jnp:
        return jax.vmap(make)(ends)
    fields: Any = map(np.stack, zip(*map(make, ends), strict=True))
    return Bounds(*fields)


def _rescaled(s: Float[Either, " r"]) -> tuple[Float[Either, " r"], Int[Either, ""]]:
    if namespace(s) is jnp:
        s, exponent = rescaled(s)
        return s, exponent[0]
    top = np.abs(s).max()
    # Mantissas of frexp are in [1/2, 1), entries of `rescaled` in [1, 2).
    exponent = np.frexp(top)[1] - 1 if top > 0 and np.isfinite(top) else np.intc(0)
    return _times(s, -exponent), exponent


def _times(x: Float[Either, "..."], exponent: Int[Either, ""]) -> Float[Either, "..."]:
    if namespace(x) is jnp:
        return times_power_of_two(x, exponent)
    return np.ldexp(x, exponent)


def _running_min(x: Float[Either, " r"]) -> Float[Either, " r"]:
    if namespace(x) is jnp:
        return jax.lax.cummin(x)
    return np.minimum.accumulate(x)


class Residuals(NamedTuple):
    """Of the computed triples, and what rounding adds."""

    left: Float[Either, " rank"]
    right: Float[Either, " rank"]
    rounding: Float[Either, ""]


def _lower(s: Float[Either, " r"], residuals: Residuals) -> Float[Either, " r"]:
    left, right = (_cumulative_norm(x) for x in residuals[:2])
    xp = namespace(s)
    # U_kᵀ M V_k has smaller values than M, and is S_k up to the smaller of both norms.
    single = s - xp.minimum(left, right) - residuals.rounding
    # s_k(M) ≥ s_j(M) for j ≥ k.
    return xp.maximum(-_running_min(-single[::-1])[::-1], 0.0)


def _clusters(
    s: Float[Either, " r"], residuals: Residuals, tol: Float[Either, ""]
) -> Int[Either, " r"]:
    """Join neighbours whose residual intervals meet, or that are closer than `tol`."""
    xp = namespace(s)
    # Some value is within the residual of each computed one; where two such intervals
    # meet it may be the same.
    reach = xp.maximum(residuals.left, residuals.right) + residuals.rounding
    # (r − 1,), by neighbours: a chain of close values is one cluster.
    apart = s[:-1] - s[1:] > xp.maximum(reach[:-1] + reach[1:], tol)
    return xp.concatenate([xp.zeros(1, xp.int32), xp.cumsum(apart, dtype=xp.int32)])


def _bounds(
    s: Float[Either, " r"],
    residuals: Residuals,
    lower: Float[Either, " r"],
    cluster: Int[Either, " r"],
    tail: Float[Either, ""],
    ceiling: Any,
    remainder: Float[Either, ""],
) -> Bounds:
    xp = namespace(s)
    upper, next_upper = _upper(s, residuals, tail, remainder)
    # Values descend: what bounds one bounds all behind it.
    upper = xp.minimum(_running_min(upper), ceiling)
    next_upper = xp.minimum(next_upper, upper[-1])
    return Bounds(
        upper,
        next_upper,
        _cluster_sines(s, residuals, lower, cluster, upper, next_upper),
        _leading_sines(s, residuals, upper, next_upper),
    )


def _upper(
    s: Float[Either, " r"],
    residuals: Residuals,
    tail: Float[Either, ""],
    remainder: Float[Either, ""],
) -> tuple[Float[Either, " r"], Float[Either, ""]]:
    """The bounds of `certify` on s_1, …, s_r and on s_{r+1}, before they are sorted."""
    xp = namespace(s)
    num = s.shape[0]
    rows = xp.arange(num)
    above = rows[:, None] <= rows[None, :]  # k ≤ j
    rounding = residuals.rounding
    # (r,): ‖e_{1..j}‖, by which E Vᵀ moves a value at most.
    left = _cumulative_norm(residuals.left) + rounding
    # norms[k, j] = ‖f_{k..j}‖; the last column is ‖f_{k..r}‖.
    norms = _norms_from(residuals.right) + rounding
    # What is left beside the first j triples: the others and what was missed.
    others = _two_by_two(s, norms[:, -1], remainder) + left[-1]
    # (r,): nor has it more energy than the rest of the head and the tail.
    energy = tail + xp.cumsum((s**2)[::-1])[::-1]
    others = xp.minimum(others, xp.sqrt(energy))
    # t_j at [j]; beside all r triples there is only what was missed.
    beside = xp.concatenate([others[1:], remainder[None]])
    # (r, r): h(s_k, ‖f_{k..j}‖, t_j) + ‖e_{1..j}‖ at [k, j]; the best j ≥ k counts.
    upper = _two_by_two(s[:, None], norms, beside[None, :]) + left[None, :]
    upper = xp.where(above, upper, xp.inf).min(axis=1)
    # Energy alone: levels[a, k] has the squares of the last k − a + 1 values up to k.
    squares = _norms_from(s) ** 2
    # q x² ≤ s_{k−q+1}² + … + s_k² + tail for x = s_k(M) and every q ≤ k.
    count = xp.where(above, rows[None, :] - rows[:, None] + 1, 1)
    levels = xp.sqrt((tail + squares) / count) + rounding
    by_energy = xp.where(above, levels, xp.inf).min(axis=0)
    # Interlacing: without its first r rows M is M₂₂, and E.
    return xp.minimum(upper, by_energy), remainder + left[-1]


def _two_by_two(a: Either, f: Either, t: Either) -> Either:
    """The norm of [[a, f], [0, t]], without squares that cancel."""
    xp = namespace(a)
    return 0.5 * (xp.hypot(a + t, f) + xp.hypot(a - t, f))


def _norms_from(x: Float[Either, " r"]) -> Float[Either, "r r"]:
    """‖x_{k..j}‖ at [k, j], j ≥ k, by sums of what it has and no differences."""
    xp = namespace(x)
    rows = xp.arange(x.shape[0])
    kept = xp.where(rows[:, None] <= rows[None, :], x[None, :] ** 2, 0.0)
    return xp.sqrt(xp.cumsum(kept, axis=1))


def _cumulative_norm(x: Float[Either, " r"]) -> Float[Either, " r"]:
    xp = namespace(x)
    return xp.sqrt(xp.cumsum(x**2))


def _cluster_sines(
    s: Float[Either, " r"],
    residuals: Residuals,
    lower: Float[Either, " r"],
    cluster: Int[Either, " r"],
    upper: Float[Either, " r"],
    next_upper: Float[Either, ""],
) -> Float[Either, " r"]:
    """Wedin's bound for each cluster, against the true values on both sides of it."""
    xp = namespace(s)
    # (r, r): by how many clusters j stands behind i.
    step = cluster[None, :] - cluster[:, None]
    same = step == 0
    squares = residuals.left**2 + residuals.right**2 + 2 * residuals.rounding**2
    size = xp.sqrt(xp.where(same, squares[None, :], 0.0).sum(axis=1))
    top = xp.where(same, s[None, :], -xp.inf).max(axis=1)
    bottom = xp.where(same, s[None, :], xp.inf).min(axis=1)
    # True neighbours, by their bounds on the near side; at either end there are none.
    over = xp.where(step == -1, lower[None, :], xp.inf).min(axis=1)
    under = xp.where(step == 1, upper[None, :], -xp.inf).max(axis=1)
    # Behind the last cluster comes what was not computed.
    under = xp.maximum(under, xp.where(cluster == cluster[-1], next_upper, -xp.inf))
    return _ratio(size, xp.minimum(over - top, bottom - under))


def _leading_sines(
    s: Float[Either, " r"],
    residuals: Residuals,
    upper: Float[Either, " r"],
    next_upper: Float[Either, ""],
) -> Float[Either, " r"]:
    """Wedin's bound for the first d functions, d = 1, …, rank."""
    xp = namespace(s)
    left, right = (_cumulative_norm(x) for x in residuals[:2])
    # There are no values above the first d: the larger of both norms is enough.
    under = xp.concatenate([upper[1:], next_upper[None]])
    return _ratio(xp.maximum(left, right) + residuals.rounding, s - under)


def _ratio(size: Float[Either, " r"], gap: Float[Either, " r"]) -> Float[Either, " r"]:
    """The quotient size / gap where that says anything, else 1."""
    xp = namespace(size)
    # No sine is above 1; NaN compares false and becomes 1, too.
    useful = gap > size
    return xp.where(useful, size / xp.where(useful, gap, 1.0), 1.0)
