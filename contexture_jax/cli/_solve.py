"""The heavy part of a run: the spectrum of a context, and its judges.

Imports JAX; the command imports this only after the input has been found good.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import contexture_jax as cx
from contexture_jax.data import InputError, Target

__all__ = [
    "Judgement",
    "Sampling",
    "Spectrum",
    "TargetJudgement",
    "judge",
    "sampling",
    "solve",
]

_LEVEL = 0.9

_ROUNDING = 100.0
_SMALL_TABLE = 2**22  # entries up to which all singular values take a second or two


class Spectrum(NamedTuple):
    """A solved context, on the host.

    Attributes:
        singular_values: shape (rank,).
        left: shape (n, rank).
        right: shape (m, rank).
        p_x: shape (n,).
        p_a: shape (m,).
        residuals: shape (rank,).
        num_passes: passes of the solver.
        total_energy: Σ_{i≥1} s_i², the χ² of the context.
        tail_energy: Σ_{i>rank} s_i².
        tail_error: standard error of the two energies.
        status: a `Status`.
        method: the method that ran.
        reason: why.
        complete: whether the values that were not computed are all 0.
        certificate: numerical bounds on the values and spans.
        num_values: how many values there are beside the trivial one.
    """

    singular_values: np.ndarray
    left: np.ndarray
    right: np.ndarray
    p_x: np.ndarray
    p_a: np.ndarray
    residuals: np.ndarray
    num_passes: float
    total_energy: float
    tail_energy: float
    tail_error: float
    status: cx.Status
    method: str
    reason: str
    complete: bool
    certificate: cx.solvers.Certificate
    num_values: int


class Sampling(NamedTuple):
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
    spectrum: cx.evaluation.SpectrumSampling
    null: cx.evaluation.PermutationNull


class TargetJudgement(NamedTuple):
    """A target beside the functions of a context.

    Attributes:
        energy: the share of its variance along each function, shape (rank,). Classes
            count alike, however many rows each has.
        compatibility: ρ, pooled over classes in the same way.
        class_compatibility: ρ of the indicator of each class; empty for numbers.
    """

    energy: np.ndarray
    compatibility: float
    class_compatibility: dict[str, float]


class Judgement(NamedTuple):
    """What the judges say of a spectrum.

    Attributes:
        usefulness: τ, the best d and the curve of the computed values, d0 = rank − 1
            unless these are all; None where undefined.
        bounds: between what τ for d0 = 512 lies; None where undefined.
        decay_rate: λ of s_i² ≈ e^{−λi}; infinite if all values are 0.
        association: "too weak", "moderate", "too strong" or "undecided".
        reason: why.
        target: the target's, or None.
        notes: what could not be judged, and why.
    """

    usefulness: cx.evaluation.Usefulness | None
    bounds: cx.evaluation.UsefulnessBounds | None
    decay_rate: float
    association: str
    reason: str
    target: TargetJudgement | None
    notes: list[str]


def num_triples(op: cx.AssociationOperator) -> int:
    """How many singular triples an operator has beside the trivial one."""
    return min(int(np.count_nonzero(np.asarray(p))) for p in (op.p_x, op.p_a)) - 1


def solve(
    op: cx.AssociationOperator,
    rank: int,
    *,
    limit: int,
    seed: int,
    method: Any,
    tol: float | None,
    max_passes: int | None,
) -> Spectrum:
    """Run `cx.svd` and bring everything to the host.

    Args:
        op: the operator.
        rank: how many triples to compute.
        limit: how many there are beside the trivial one whose value is not 0.
        seed: of the key.
        method: as for `cx.svd`.
        tol: as for `cx.svd`.
        max_passes: as for `cx.svd`.
    """
    result, info = cx.svd(
        op,
        rank,
        key=jax.random.key(seed),
        method=method,
        tol=tol,
        max_passes=max_passes,
    )
    status = info.status
    # With random probes of what was not found: where the tail is heavy, bounds from its
    # energy alone say nothing.
    certificate = cx.solvers.certify(result, info, op, key=jax.random.key(seed + 1))
    return Spectrum(
        singular_values=np.asarray(result.singular_values),
        left=np.asarray(result.left),
        right=np.asarray(result.right),
        p_x=np.asarray(op.p_x),
        p_a=np.asarray(op.p_a),
        residuals=np.asarray(info.residuals),
        num_passes=float(info.num_passes),
        total_energy=float(info.total_energy),
        tail_energy=float(info.tail_energy),
        tail_error=float(info.tail_error),
        status=status,
        method=str(info.method),
        reason=str(info.reason),
        complete=rank == limit or status == cx.Status.RANK_DEFICIENT,
        certificate=jax.device_get(certificate),
        num_values=limit,
    )


def sampling(
    counts: np.ndarray, rank: int, *, num_replicates: int, seed: int
) -> Sampling:
    """Resample the pairs that a table counts, and pair them at random.

    Args:
        counts: shape (n, m).
        rank: how many singular values.
        num_replicates: how often to do each.
        seed: of the key.

    Raises:
        InputError: if the table does not count pairs, or has too many.
    """
    used = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    try:
        sample = cx.evaluation.counted_sample(used)
    except ValueError as error:
        raise InputError(
            f"--bootstrap takes a table that counts pairs: {error}"
        ) from None
    keys = jax.random.split(jax.random.key(seed + 2))
    found = _resample(sample, keys, rank=rank, num_replicates=num_replicates)
    return Sampling(sample.num_pairs, num_replicates, _LEVEL, *jax.device_get(found))


@functools.partial(jax.jit, static_argnames=("rank", "num_replicates"))
def _resample(
    sample: cx.evaluation.PairSample, keys: jax.Array, *, rank: int, num_replicates: int
) -> tuple[cx.evaluation.SpectrumSampling, cx.evaluation.PermutationNull]:
    return (
        cx.evaluation.bootstrap_spectrum(
            sample, rank, key=keys[0], num_replicates=num_replicates, level=_LEVEL
        ),
        cx.evaluation.permutation_null(
            sample, rank, key=keys[1], num_permutations=num_replicates
        ),
    )


def judge(
    spectrum: Spectrum, op: cx.AssociationOperator, target: Target | None
) -> Judgement:
    """Judge a spectrum by itself and, if there is one, by a target."""
    values, complete = _above_rounding(spectrum.singular_values), spectrum.complete
    notes, useful, bounds = [], None, None
    if values[0] <= 0:
        notes.append("tau is undefined: all singular values are 0")
    elif len(values) < 2 and not complete:
        notes.append("tau needs two singular values: --rank 2 or more")
    else:
        useful = cx.evaluation.usefulness(values, complete=complete)
    known = values
    tail = {"tail_energy": spectrum.tail_energy, "num_values": spectrum.num_values}
    if complete:
        tail = {"tail_energy": 0.0, "num_values": len(values)}
    elif op.shape[0] * op.shape[1] <= _SMALL_TABLE:
        known = _above_rounding(_all_values(op)[: spectrum.num_values])
        tail = {"tail_energy": 0.0, "num_values": len(known)}
    else:
        tail["tail_error"] = spectrum.tail_error
    association, reason = cx.evaluation.verdict(known, **tail)
    reason = reason.replace("a rank of", "--rank")
    if values[0] > 0:
        bounds = cx.evaluation.usefulness_bounds(known, **tail)
    judged = None
    if target is not None:
        judged = _judge_target(spectrum, op, target)
        if judged is None:
            notes.append(
                f'target "{target.name}" is constant on the rows that have weight:'
                " not judged"
            )
    return Judgement(
        useful,
        bounds,
        float(_decay_rate(values)),
        association,
        reason,
        judged,
        notes,
    )


def _above_rounding(values: np.ndarray) -> np.ndarray:
    """The judges look at ratios, and would take rounding beside s_0 for a spectrum."""
    rounding = _ROUNDING * np.finfo(values.dtype).eps
    return np.where(values > rounding, values, np.zeros_like(values))


def _all_values(op: cx.AssociationOperator) -> np.ndarray:
    """Every non-trivial singular value of a small operator, in its dtype.

    From the eigenvalues of the smaller Gram matrix, in float64: τ looks at energies.
    """
    joint = np.asarray(op.p_x, np.float64)[:, None] * np.asarray(_as_matrix(op))
    p_x, p_a = joint.sum(axis=1), joint.sum(axis=0)
    scale = np.sqrt(np.outer(p_x, p_a))
    centred = (joint - np.outer(p_x, p_a)) / np.where(scale > 0, scale, 1.0)
    if centred.shape[0] < centred.shape[1]:
        centred = centred.T
    energy = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    return np.sqrt(np.clip(energy, 0.0, 1.0)).astype(op.dtype)


def _judge_target(
    spectrum: Spectrum, op: cx.AssociationOperator, target: Target
) -> TargetJudgement | None:
    left, p_x = spectrum.left, spectrum.p_x
    seen = target.values[p_x > 0]
    if seen.size == 0 or (seen == seen[0]).all():
        return None
    if target.kind == "numbers":
        # Of order 1, so that squares of a large unit do not overflow float32.
        f = (target.values - seen.mean()) / np.abs(seen - seen.mean()).max()
        f = f.astype(left.dtype)
        energy, rho = _judge_numbers(f, left, op)
        return TargetJudgement(np.asarray(energy), float(rho), {})
    mass = np.bincount(target.values, p_x, len(target.class_names))
    energy, each = map(
        np.asarray,
        _judge_classes(target.values.astype(np.int32), left, op, num_classes=len(mass)),
    )
    # The variance of the indicator of class c over p_c is 1 - p_c, C - 1 in all.
    # Classes whose rows have no weight have no compatibility.
    present = np.flatnonzero(mass)
    weights = 1.0 - mass[present] / mass.sum()
    pooled = np.sqrt(np.sum(weights * each[present] ** 2) / np.sum(weights))
    rhos = {target.class_names[c]: float(each[c]) for c in present}
    return TargetJudgement(energy, float(pooled), rhos)


# Each a program of its own: run one operation at a time, JAX would compile dozens.
_decay_rate = jax.jit(cx.evaluation.decay_rate)
_as_matrix = jax.jit(lambda op: op.as_matrix())


@jax.jit
def _judge_numbers(
    f: jax.Array, left: jax.Array, op: cx.AssociationOperator
) -> tuple[jax.Array, jax.Array]:
    energy = cx.evaluation.target_energy(f, left, op.p_x)
    return energy.fractions, cx.evaluation.compatibility(f, op)


@functools.partial(jax.jit, static_argnames="num_classes")
def _judge_classes(
    codes: jax.Array, left: jax.Array, op: cx.AssociationOperator, *, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    energy = cx.evaluation.class_energy(codes, left, op.p_x, num_classes)
    indicators = jax.nn.one_hot(codes, num_classes, dtype=left.dtype)
    return energy.fractions, cx.evaluation.compatibility(indicators, op)
