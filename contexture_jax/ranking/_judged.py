"""One context, solved and judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from contexture_jax._core.threads import num_cores
from contexture_jax._core.types import Float, short_repr
from contexture_jax.contexts import Context
from contexture_jax.evaluation import (
    column_errors,
    decay_rate,
    effective_rank,
    energy_dimension,
    estimate_kernel_deviation,
    num_singular_values,
    usefulness,
    verdict,
)
from contexture_jax.operators import AssociationOperator, association_operator
from contexture_jax.ranking._eigen import leading_eigenpairs
from contexture_jax.ranking._family import ContextSpec, NamedContext
from contexture_jax.ranking._probe import ProbeErrors
from contexture_jax.ranking._table import TableMap
from contexture_jax.ranking._triples import leading_triples
from contexture_jax.solvers import Status, certify, svd

__all__ = [
    "RankedContext",
    "Solved",
    "are_solved_beside",
    "is_too_strong",
    "judged",
    "judged_by_columns",
    "solved",
    "solved_context",
]

_EXACT = 2000  # rows up to which LAPACK finds all values in a second or two
_DENSE = 8000  # rows up to which a table of their kernel pays
_BESIDE = 256 * 2**20  # bytes that a core solves a context in, beside the others
_DEVIATION_ROWS = 250  # a thousand take as long as a pass of a solve
_ROUNDING = 100.0
_EIGENVALUE_ROUNDING = 1e-13  # of s², which are at most 1, in float64
_SLOW = 32  # eps of float32: 1 − s² below that is rounding
_EDGE = 0.95  # of β, as in `verdict`
_FUNCTIONS_FLOOR = 1e-3  # singular values below leave functions to rounding
_MAX_PASSES = 20


@short_repr
class RankedContext(NamedTuple):
    """What is known of one context of a family.

    Attributes:
        spec: the context.
        tau: τ; infinite where every τ_d is; None where undefined: all values are 0.
        tau_lower: τ is at least this, by bounds on every value.
        tau_upper: and at most this; both are `tau` where all values are exact.
        best_dim: the d of τ, which need not be one to train with; 0 if τ is infinite.
        energy_dim: the least d that keeps the stated share of Σ s_i²; None if more
            than were computed.
        decay_rate: λ of s_i² ≈ e^{−λi}.
        chi_squared: Σ s_i² of all values.
        deviation: mean |k_X⁺(x, x′) − 1|; of a `NamedContext` or of more than 8,000
            rows over 250 draws.
        effective_rank: the participation ratio of the values computed.
        association: the word of `evaluation.verdict`.
        reason: why, with figures; of a context that failed, what went wrong.
        abstains: whether τ cannot tell: the verdict is not "moderate", or the bounds on
            τ are not on one side of where it would be.
        status: of the solver; "enough" where its bounds proved "too strong" before
            residuals were small; "failed".
        probe: errors on the target, if there is one.
        column_error: of the first `best_dim` functions on the columns of x, as a share
            of their variance: what `ProbeErrors.error` would be if the target were
            one more column (`evaluation.column_errors`).
        least_column_error: of as many functions as are best for the columns, as
            `ProbeErrors.validated_error`.
        column_dim: that many.
    """

    spec: ContextSpec | NamedContext
    tau: float | None = None
    tau_lower: float | None = None
    tau_upper: float | None = None
    best_dim: int | None = None
    energy_dim: int | None = None
    decay_rate: float | None = None
    chi_squared: float | None = None
    deviation: float | None = None
    effective_rank: float | None = None
    association: str = "undecided"
    reason: str = ""
    abstains: bool = True
    status: str = "failed"
    probe: ProbeErrors | None = None
    column_error: float | None = None
    least_column_error: float | None = None
    column_dim: int | None = None


class Solved(NamedTuple):
    """The head of a spectrum with bounds, on the host.

    Attributes:
        values: s_1, s_2, …, shape (r,), float64.
        lower: each is at least this, shape (r,).
        upper: and at most this, shape (r,).
        left: functions of the rows, orthonormal, shape (n, k): of all values, or of a
            large table those up to where nothing follows but rounding.
        chi_squared: Σ s_i² of all.
        deviation: of the dual kernel from 1.
        complete: whether there are no more values.
        status: of the solver, or "enough" where the caller needed no more.
    """

    values: Float[np.ndarray, " r"]
    lower: Float[np.ndarray, " r"]
    upper: Float[np.ndarray, " r"]
    left: Float[np.ndarray, "n r"]
    chi_squared: float
    deviation: float
    complete: bool
    status: str

    @property
    def above_rounding(self) -> Float[np.ndarray, " r"]:
        """The values in float32, and 0 for those that are left to rounding."""
        floor = _ROUNDING * np.finfo(np.float32).eps
        return np.where(self.values > floor, self.values, 0.0).astype(np.float32)

    @property
    def functions(self) -> Float[np.ndarray, "n k"]:
        """The functions that are not left to rounding; the first in any case."""
        return self.left[:, : max(1, int((self.values > _FUNCTIONS_FLOOR).sum()))]


def solved(
    gathered: np.ndarray,
    rank: int,
    *,
    tol: float,
    seed: int,
    is_enough: Callable[[np.ndarray], bool] | None = None,
) -> Solved:
    """The spectrum of P⁺(a|x), whose rows `gathered` holds but for a factor.

    P_X is uniform, P_A = Σ P_X(x) P⁺(·|x). Of the kernel M Mᵀ, (k_X⁺ − 1) / n: all
    eigenvalues in float64 up to 2,000 rows, the leading ones in float32 with bounds up
    to 8,000; of more rows triples of M, with bounds, for which no kernel is made.

    Args:
        gathered: non-negative, shape (n, n), every row with mass.
        rank: how many values.
        tol: the relative residual.
        seed: of the solver.
        is_enough: of many rows, whether no more need be known, from lower bounds on
            the values.
    """
    n = len(gathered)
    if n > _DENSE:
        return _solved_large(gathered, rank, tol=tol, seed=seed, is_enough=is_enough)
    law = gathered.astype(np.float64 if n <= _EXACT else np.float32)
    law /= law.sum(axis=1, keepdims=True)
    p_a = law.mean(axis=0, dtype=np.float64)
    # Nothing where a row is nobody's neighbour.
    scale = 1 / np.sqrt(n * np.where(p_a > 0, p_a, np.inf))
    law -= p_a.astype(law.dtype)
    law *= scale.astype(law.dtype)
    kernel = law @ law.T
    del law
    deviation = n * float(np.abs(kernel).mean(dtype=np.float64))
    total = float(np.trace(kernel, dtype=np.float64))
    if n <= _EXACT:
        return _solved_exactly(kernel, rank, total, deviation)
    found = leading_eigenpairs(kernel, rank, tol=tol, seed=seed)
    return Solved(
        np.sqrt(found.values),
        np.sqrt(found.lower),
        np.sqrt(found.upper),
        found.vectors.astype(np.float64) * np.sqrt(n),
        total,
        deviation,
        rank >= n - 1,
        str(Status.CONVERGED if found.is_converged else Status.MAX_PASSES),
    )


def are_solved_beside(num_rows: int, num_contexts: int) -> bool:
    """Whether each core solves a context by itself, sooner than all of them one.

    Of small tables much is done by one core in any case; of large ones as many tables
    as cores would not fit.
    """
    entry = 8 if num_rows <= _EXACT else 4
    # The law, the kernel, and what is left of it.
    return num_contexts >= num_cores() > 1 and 3 * entry * num_rows**2 <= _BESIDE


def _solved_large(
    gathered: np.ndarray,
    rank: int,
    *,
    tol: float,
    seed: int,
    is_enough: Callable[[np.ndarray], bool] | None,
) -> Solved:
    """The same of many rows, of which no kernel is made."""
    n = len(gathered)
    a = TableMap(gathered)
    found = leading_triples(a, rank, tol=tol, seed=seed, is_enough=is_enough)
    key, uniform = jax.random.key(seed + 1), np.full(n, 1 / n, np.float32)
    draws = np.asarray(jax.random.choice(key, n, (_DEVIATION_ROWS,), p=uniform))
    kernel = a.matmat(a.rows(draws).T)
    return Solved(
        found.values,
        found.lower,
        found.upper,
        found.left * np.float32(n**0.5),
        a.energy,
        n * float(np.abs(kernel).mean(dtype=np.float64)),
        rank >= n - 1,
        found.status,
    )


def solved_context(
    context: Context, num_rows: int, max_dim: int, *, tol: float, seed: int
) -> Solved:
    """The same of any finite context.

    Up to 8,000 rows of one weight by its table; else by `svd` and `certify`.

    Args:
        context: with an operator.
        num_rows: that it must have.
        max_dim: d0; one value more is computed.
        tol: the relative residual.
        seed: of the solver.

    Raises:
        ValueError: if it has other rows, or no value but the trivial one.
    """
    table = _small_table(context, num_rows)
    if table is not None:
        return solved(table, min(max_dim + 1, num_rows - 1), tol=tol, seed=seed)
    op = association_operator(context)
    there = num_singular_values(op)
    if op.shape[0] != num_rows or there < 1:
        msg = (
            f"a context of {num_rows} rows and of 2 values or more was expected; got"
            f" one of shape {op.shape}"
        )
        raise ValueError(msg)
    rank = min(max_dim + 1, there)
    drawn = min(max(num_rows, 2), _DEVIATION_ROWS)
    key = jax.random.key(seed + 1)
    deviation = estimate_kernel_deviation(op, drawn, key=key).estimate.item()
    return _certified(op, rank, rank >= there, deviation, tol=tol, seed=seed)


def _small_table(context: Context, num_rows: int) -> np.ndarray | None:
    """P⁺(x, a), if a table pays and P_X is uniform."""
    if num_rows > _DENSE or "table" not in context.capabilities:
        return None
    table = np.asarray(context.table())
    uniform = np.full(num_rows, 1 / num_rows)
    # A table of a float32 law sums to 1 / n to its rounding.
    same = len(table) == num_rows and np.allclose(table.sum(axis=1), uniform, 1e-4, 0)
    return table if same and min(table.shape) > 1 else None


def _certified(
    op: AssociationOperator,
    rank: int,
    complete: bool,
    deviation: float,
    *,
    tol: float,
    seed: int,
) -> Solved:
    key, probes = jax.random.split(jax.random.key(seed))
    result, info = svd(op, rank, key=key, tol=tol, max_passes=_MAX_PASSES)
    if str(info.status) in ("non-finite", "above one"):
        raise ValueError(f"the spectrum is {info.status}")
    found = certify(result, info, op, key=probes)
    s, lower, upper, left = (
        np.asarray(v, np.float64)
        for v in (
            result.singular_values,
            found.lower,
            found.proved.upper,
            result.left,
        )
    )
    return Solved(
        s,
        np.clip(lower, 0.0, s),
        np.clip(upper, s, 1.0),
        left,
        float(info.total_energy),
        deviation,
        # A solver that ran out of rank has found every value that is not 0.
        complete or info.status == Status.RANK_DEFICIENT,
        str(info.status),
    )


def _solved_exactly(
    kernel: np.ndarray, rank: int, total: float, deviation: float
) -> Solved:
    n = len(kernel)
    # Its functions are of mean 0: the constant is where the kernel of M is.
    energies, left = np.linalg.eigh(kernel)
    energies, left = energies[: -n - 1 : -1], left[:, ::-1]
    energies = np.where(energies > _EIGENVALUE_ROUNDING * n, energies, 0.0)
    values = np.sqrt(np.clip(energies[: n - 1], 0.0, 1.0))[:rank]
    return Solved(
        values,
        values,
        values,
        left[:, :rank] * np.sqrt(n),
        total,
        deviation,
        rank >= n - 1,
        str(Status.CONVERGED),
    )


def judged(
    spec: ContextSpec | NamedContext,
    found: Solved,
    *,
    max_dim: int,
    beta: float,
    energy_share: float,
) -> RankedContext:
    """What the judges of a spectrum say; no probe."""
    s = found.above_rounding
    total = found.chi_squared
    energy_dim = 0
    if total > 0:
        tail = max(0.0, total - float((s.astype(np.float64) ** 2).sum()))
        energy_dim = int(energy_dimension(s, energy_share, tail_energy=tail))
    tau = best_dim = low = high = None
    if s[0] > 0:
        useful = usefulness(s, beta, max_dim, complete=found.complete)
        tau, best_dim = float(useful.tau), int(useful.best_dim)
        low, high = _bracket(found.lower, found.upper, found.complete, beta, max_dim)
        # In float64, where τ is of float32.
        low, high = min(low, tau), max(high, tau)
    word, reason = verdict(s, beta, max_dim, complete=found.complete)
    edge = 1 + _EDGE * beta
    is_open = low is not None and high is not None and low < edge <= high
    if word == "moderate" and is_open:
        word = "undecided"
        reason = f"tau is between {low:.4g} and {high:.4g}, on both sides of {edge:.4g}"
    return RankedContext(
        spec,
        tau=tau,
        tau_lower=low,
        tau_upper=high,
        best_dim=best_dim,
        energy_dim=energy_dim or None,
        decay_rate=float(decay_rate(s)),
        chi_squared=total,
        deviation=found.deviation,
        effective_rank=float(effective_rank(s)),
        association=word,
        reason=reason,
        abstains=word != "moderate",
        status=found.status,
    )


def judged_by_columns(
    row: RankedContext, found: Solved, x: Float[np.ndarray, "n c"]
) -> RankedContext:
    """With what the columns of the rows say."""
    errors, least, dim, _ = column_errors(x, found.functions.astype(np.float32))
    at = min(row.best_dim or 1, errors.shape[0]) - 1
    return row._replace(
        column_error=float(errors[at]),
        least_column_error=float(least),
        column_dim=int(dim),
    )


def is_too_strong(lower: Float[np.ndarray, " r"], *, beta: float, max_dim: int) -> bool:
    """Whether τ cannot be low whatever the values are, from lower bounds on them.

    All else being at most 1. More than one function is all but determined then: what
    `verdict` calls "too strong".

    Args:
        lower: descending.
        beta: β of τ.
        max_dim: d0 of τ, below the number of bounds.
    """
    if len(lower) <= max_dim:
        return False
    known = np.clip(lower, 0.0, 1.0)
    least, _ = _bracket(known, np.ones_like(known), False, beta, max_dim)
    return least >= 1 + beta and float((known**2).sum()) > 2


def _bracket(
    lower: Float[np.ndarray, " r"],
    upper: Float[np.ndarray, " r"],
    complete: bool,
    beta: float,
    max_dim: int,
) -> tuple[float, float]:
    """Between what τ lies if every s_i is within its bounds.

    τ_d grows with s_{d+1} and with s_1, …, s_d, and falls with the others.
    """
    low, high = lower**2, upper**2
    if complete:
        low, high = np.append(low, 0.0), np.append(high, 0.0)
    num_dims = min(max_dim, len(low) - 1)
    ends = []
    for own, other in ((low, high), (high, low)):
        taken, rest = np.cumsum(own[:num_dims]), np.cumsum(other[:num_dims][::-1])[::-1]
        # Σ_{d<i≤d0} at the other end.
        rest = np.append(rest[1:], 0.0)
        share = taken / np.maximum(taken + rest, np.finfo(float).tiny)
        room = 1.0 - own[1 : num_dims + 1]
        is_open = room > _SLOW * np.finfo(np.float32).eps
        price = np.where(is_open, 1.0 / np.where(is_open, room, 1.0), np.inf)
        ends.append(float((price + beta * share).min()))
    return ends[0], ends[1]
