"""The judges of a solved context together: its spectrum, a target, a table of counts.

Each is for eager callers, and a program or two: run one operation at a time, JAX would
compile dozens.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np

from contexture_jax._core.checks import as_array, check_ndim, check_values, gathered
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation._bootstrap import SpectrumSampling, bootstrap_spectrum
from contexture_jax.evaluation._decay import decay_rate
from contexture_jax.evaluation._pairs import PairSample, counted_sample
from contexture_jax.evaluation._permutation import PermutationNull, permutation_null
from contexture_jax.evaluation._spectra import Usefulness, usefulness
from contexture_jax.evaluation._targets import (
    class_energy,
    compatibility,
    target_energy,
)
from contexture_jax.evaluation._tradeoff import leave_one_out_errors
from contexture_jax.evaluation._usefulness_bounds import (
    UsefulnessBounds,
    usefulness_bounds,
)
from contexture_jax.evaluation._verdict import Verdict, verdict
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers import SolveInfo, Status, SVDResult, all_singular_values

__all__ = [
    "CountsJudgement",
    "SpectrumJudgement",
    "TargetJudgement",
    "judge_counts",
    "judge_spectrum",
    "judge_target",
    "num_singular_values",
]

_ROUNDING = 100.0
_SMALL_TABLE = 2**22  # entries up to which all singular values take a second or two
_MOST_PRODUCTS = 2**31  # some seconds
_RIDGES = (1.0, 1e-2, 1e-4)


@short_repr
class SpectrumJudgement(NamedTuple):
    """What the judges say of a spectrum of which the head has been computed.

    Attributes:
        usefulness: τ, the best d and the curve of the computed values, d0 = rank − 1
            unless these are all; None where undefined: all are 0, or one of several.
        bounds: between what τ for d0 = 512 lies; None where all are 0.
        decay_rate: λ of s_i² ≈ e^{−λi}; infinite if all values are 0.
        verdict: what to make of it, in words.
    """

    usefulness: Usefulness | None
    bounds: UsefulnessBounds | None
    decay_rate: float
    verdict: Verdict


@short_repr
class TargetJudgement(NamedTuple):
    """A target beside the functions of a context.

    Attributes:
        energy: the share of its variance along each function, shape (rank,). Classes
            count alike, however many rows each has.
        compatibility: ρ, pooled over classes in the same way.
        class_compatibility: ρ of the indicator of each class that has weight, by the
            number of the class; empty for numbers.
        left_out: the error of a ridge probe of the first d functions on each row left
            out in turn, a share of the variance, shape (rank,): the least of
            `leave_one_out_errors` for λ = 1, 1e-2 and 1e-4; classes count alike. None
            where that takes more than 2³¹ products.
    """

    energy: Float[np.ndarray, " rank"]
    compatibility: float
    class_compatibility: dict[int, float]
    left_out: Float[np.ndarray, " rank"] | None


@short_repr
class CountsJudgement(NamedTuple):
    """What a table of counts says of the law that its pairs were drawn from.

    Attributes:
        num_pairs: N.
        num_replicates: resamples, and random pairings.
        level: confidence of the intervals.
        spectrum: bootstrap intervals.
        null: the spectra of random pairings.
    """

    num_pairs: int
    num_replicates: int
    level: float
    spectrum: SpectrumSampling
    null: PermutationNull


def num_singular_values(op: AssociationOperator) -> int:
    """How many singular values an operator has beside the trivial one.

    One less than the smaller number of rows or of columns that have weight; some of
    them may be 0.
    """
    # Rows without weight are masked and have no singular vector of their own.
    laws = (op.p_x, op.p_a)
    return min(int(np.count_nonzero(gathered(law))) for law in laws) - 1


def judge_spectrum(
    result: SVDResult,
    info: SolveInfo,
    op: AssociationOperator,
    *,
    num_values: int | None = None,
) -> SpectrumJudgement:
    """Judge the head of a spectrum: τ, what τ of all of it can be, decay, a verdict.

    Values of at most 100 eps count as 0: the judges look at ratios, and would take
    rounding beside s_0 = 1 for a spectrum. What is beyond the head is taken

    * as 0, where the head is all there is or the solver found no more;
    * as it is, for a table of at most 2²² entries, whose values are all computed, by
      the eigenvalues of the smaller Gram matrix in float64;
    * as any tail of the energy that `info` says is left, otherwise.

    Args:
        result: from `svd`.
        info: from the same call.
        op: what was solved.
        num_values: how many values of `op` may be other than 0, if that is known to
            be fewer than `num_singular_values`.

    Raises:
        TypeError: if the values are traced.
        ValueError: if a value is not in [0, 1].
    """
    count = num_singular_values(op) if num_values is None else num_values
    values = _above_rounding(np.asarray(result.singular_values))
    # A solver that ran out of rank has found every value that is not 0.
    complete = len(values) >= count or info.status == Status.RANK_DEFICIENT
    known, tail = values, {"tail_energy": 0.0, "num_values": len(values)}
    if not complete and op.shape[0] * op.shape[1] <= _SMALL_TABLE:
        known = _above_rounding(np.asarray(all_singular_values(op))[:count])
        tail = {"tail_energy": 0.0, "num_values": len(known)}
    elif not complete:
        tail = {"tail_energy": float(info.tail_energy), "num_values": count}
        tail["tail_error"] = float(info.tail_error)
    useful = bounds = None
    # An all-zero spectrum has no τ (E12); its verdict is "too weak" all the same.
    if values[0] > 0:
        bounds = usefulness_bounds(known, **tail)
        # τ_1 needs s_2: of one value, unless it is the only one, there are bounds
        # alone.
        if complete or len(values) > 1:
            useful = usefulness(values, complete=complete)
    rate = float(decay_rate(values))
    return SpectrumJudgement(useful, bounds, rate, verdict(known, **tail))


def judge_target(
    y: ArrayLike,
    left: ArrayLike,
    op: AssociationOperator,
    *,
    num_classes: int | None = None,
) -> TargetJudgement | None:
    """How much of a target the functions of a context hold, and ρ with the context.

    The indicator of a class counts by its variance over its share, 1 − p_c: ρ² =
    Σ_c (1 − p_c) ρ_c² / Σ_c (1 − p_c) over the classes that have weight.

    Args:
        y: numbers, shape (n,); or the number of the class of each row, integer, if
            `num_classes` is given.
        left: orthonormal functions of the rows, shape (n, rank).
        op: whose functions they are.
        num_classes: how many classes there are; None for a target of numbers.

    Returns:
        The judgement; None if the target is constant on the rows that have weight.

    Raises:
        TypeError: if classes are not integers.
        ValueError: if the shape of `y` is another, a number is not finite, or a class
            not below `num_classes`.
    """
    # On the host: what is judged may be refused in words, and arrays of 64 bits stay
    # so.
    y, p_x = np.asarray(as_array(y, "y")), gathered(op.p_x)
    check_ndim(y, 1, "y")
    if len(y) != op.shape[0]:
        msg = f"y must have shape ({op.shape[0]},), as op has rows; got {y.shape}"
        raise ValueError(msg)
    check_values(y, "y", np.isfinite, "finite")
    # Rows without weight cannot make a target vary.
    seen = y[p_x > 0]
    if seen.size == 0 or (seen == seen[0]).all():
        return None
    if num_classes is None:
        # Of order 1, so that squares of a large unit do not overflow float32.
        f = (y - seen.mean()) / np.abs(seen - seen.mean()).max()
        energy, rho = _judge_numbers(f.astype(op.dtype), left, op)
        left_out = _left_out(f[:, None], left, p_x)
        return TargetJudgement(np.asarray(energy), float(rho), {}, left_out)
    if y.dtype.kind not in "iu":
        msg = f"y must hold the numbers of classes; got dtype {y.dtype}"
        raise TypeError(msg)
    inside = f"between 0 and {num_classes - 1}"
    check_values(y, "y", lambda v: (v >= 0) & (v < num_classes), inside)
    judged = _judge_classes(y.astype(np.int32), left, op, num_classes=num_classes)
    energy, each = map(np.asarray, judged)
    # Classes whose rows have no weight have no compatibility.
    mass = np.bincount(y, p_x, num_classes)
    present = np.flatnonzero(mass)
    # The variance of the indicator over its share, p_c (1 − p_c) / p_c: in the code of
    # theory.md §2.8 each class has this variance.
    weights = 1.0 - mass[present] / mass.sum()
    pooled = np.sqrt(np.sum(weights * each[present] ** 2) / np.sum(weights))
    rhos = {int(c): float(each[c]) for c in present}
    # Column c over √p_c, so that each class counts alike (theory.md §2.8).
    code = (y[:, None] == present) / np.sqrt(mass[present])
    left_out = _left_out(code, left, p_x)
    return TargetJudgement(energy, float(pooled), rhos, left_out)


def judge_counts(
    counts: ArrayLike,
    rank: int,
    *,
    key: Array,
    num_replicates: int = 1000,
    level: float = 0.9,
) -> CountsJudgement:
    """Resample the pairs that a table counts, and pair them at random.

    See `bootstrap_spectrum` and `permutation_null`. Rows and columns without any pair
    are left out.

    Args:
        counts: whole numbers, shape (n, m).
        rank: how many singular values, at most min(n, m) − 1 of the rows and columns
            that have pairs.
        key: random key.
        num_replicates: how often to do each.
        level: the confidence of the intervals.

    Raises:
        ValueError: if the table does not count pairs, or has too many.
    """
    table = np.asarray(as_array(counts, "counts"))
    check_ndim(table, 2, "counts")
    # Empty rows and columns have no margin to condition on, and would make the bias (n
    # − 1)(m − 1) / (N − 1) too large.
    sample = counted_sample(table[table.any(axis=1)][:, table.any(axis=0)])
    # One program for both, compiled once for a shape of table.
    found = _resample(
        sample,
        jax.random.split(key),
        rank=rank,
        num_replicates=num_replicates,
        level=level,
    )
    return CountsJudgement(
        sample.num_pairs, num_replicates, level, *jax.device_get(found)
    )


def _left_out(
    target: np.ndarray, left: ArrayLike, p_x: np.ndarray
) -> np.ndarray | None:
    mu = gathered(left)
    if target.size * mu.shape[1] > _MOST_PRODUCTS:
        return None
    return np.asarray(leave_one_out_errors(target, mu, p_x, ridges=_RIDGES))


def _above_rounding(values: np.ndarray) -> np.ndarray:
    rounding = _ROUNDING * np.finfo(values.dtype).eps
    return np.where(values > rounding, values, np.zeros_like(values))


@jax.jit
def _judge_numbers(
    f: Array, left: Array, op: AssociationOperator
) -> tuple[Array, Array]:
    return target_energy(f, left, op.p_x).fractions, compatibility(f, op)


@functools.partial(jax.jit, static_argnames="num_classes")
def _judge_classes(
    codes: Array, left: Array, op: AssociationOperator, *, num_classes: int
) -> tuple[Array, Array]:
    energy = class_energy(codes, left, op.p_x, num_classes)
    indicators = jax.nn.one_hot(codes, num_classes, dtype=left.dtype)
    return energy.fractions, compatibility(indicators, op)


@functools.partial(jax.jit, static_argnames=("rank", "num_replicates", "level"))
def _resample(
    sample: PairSample, keys: Array, *, rank: int, num_replicates: int, level: float
) -> tuple[SpectrumSampling, PermutationNull]:
    return (
        bootstrap_spectrum(
            sample, rank, key=keys[0], num_replicates=num_replicates, level=level
        ),
        permutation_null(sample, rank, key=keys[1], num_permutations=num_replicates),
    )
