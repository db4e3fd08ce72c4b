"""Criteria of contexts that see no labels, and how they go with errors.

Each is a score of what is known of a solved context, lower for better; NaN or infinite
where it abstains. They were listed before any figure was seen, but for the last one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import contexture_jax as cx

__all__ = ["BASELINE", "CRITERIA", "Seen", "correlated", "halves", "held_against"]

E = cx.evaluation
BASELINE = "tau"
FEWEST = 8  # contexts that a correlation is of


class Seen(NamedTuple):
    """What is known of a context without labels.

    Attributes:
        tau: τ, as published.
        values: s_1, s_2, …, shape (r,), float32.
        complete: whether there are no more.
        chi_squared: Σ s_i² of all.
        num_rows: of the table.
        best_dim: the d of τ.
        columns: the leave-one-out error of a ridge probe of the first d functions on
            the columns of the table, pooled, d = 1, …, shape (k,).
        leverage: sup_x Σ_{i≤d} μ_i(x)², d = 1, …, shape (k,).
        halves: see `half_spans`; empty: not known.
    """

    tau: float
    values: np.ndarray
    complete: bool
    chi_squared: float
    num_rows: int
    best_dim: int
    columns: np.ndarray
    leverage: np.ndarray
    halves: np.ndarray


Score = Callable[[Seen], float]


def half_spans(
    left: np.ndarray, values: np.ndarray, *, most: int = 64, seed: int = 0
) -> np.ndarray:
    """What two halves of the rows agree in: `evaluation.span_stability` of them.

    Of each half the leading functions of the kernel Σ s_i² μ_i μ_iᵀ between its rows,
    taken to all rows by the same kernel. In the basis of μ they are S W, with W the
    eigenvectors of the second moments of S μ over the half.

    Args:
        left: μ, orthonormal, shape (n, r).
        values: s, above 0, shape (r,).
        most: the largest d.
        seed: of the halves.

    Returns:
        The mean squared cosine of the principal angles for d = 1, …, shape (k,).
    """
    rows = np.random.default_rng(seed).permutation(len(left))
    bases = []
    for half in np.array_split(rows, 2):
        z = left[half] * values
        z = z - z.mean(axis=0)
        _, vectors = np.linalg.eigh(z.T @ z)
        bases.append(np.linalg.qr(values[:, None] * vectors[:, : -most - 1 : -1])[0])
    shared = (bases[0].T @ bases[1]) ** 2
    sums = shared.cumsum(axis=0).cumsum(axis=1).diagonal()
    return sums / np.arange(1, len(sums) + 1)


def tau(beta: float, max_dim: int = 512) -> Score:
    return lambda seen: float(
        E.usefulness(seen.values, beta, max_dim, complete=seen.complete).tau
    )


def log(score: Score) -> Score:
    return lambda seen: math.log(score(seen))


def rest_of(seen: Seen) -> float:
    """Σ s_i² beyond the values."""
    return max(seen.chi_squared - float((seen.values.astype(float) ** 2).sum()), 0.0)


def energy(share: float) -> Score:
    """The d that keeps a share of the energy; all rows if those known do not."""

    def score(seen: Seen) -> float:
        found = int(E.energy_dimension(seen.values, share, tail_energy=rest_of(seen)))
        return float(found or seen.num_rows)

    return score


def tail(dim: int) -> Score:
    def score(seen: Seen) -> float:
        tails = E.tail_shares(seen.values, tail_energy=rest_of(seen))
        return float(tails[:dim][-1])

    return score


def expected_risk(seen: Seen) -> float:
    """min_d of the tail and d / n: of targets with u_i² ∝ s_i², on average."""
    tails = np.asarray(E.tail_shares(seen.values, tail_energy=rest_of(seen)))
    return float((tails + np.arange(1, len(tails) + 1) / seen.num_rows).min())


def gap(seen: Seen) -> float:
    return -float(E.spectral_gaps(seen.values, complete=seen.complete).gaps.max())


def worst_case(epsilon: float, dim: int) -> Score:
    """The worst-case error of d functions; NaN where no target is that compatible."""

    def score(seen: Seen) -> float:
        if seen.values[0] < 1 - epsilon:
            return math.nan
        curve = E.worst_case_curve(seen.values, epsilon, complete=seen.complete)
        return float(curve[:dim][-1])

    return score


def moderate(score: Score) -> Score:
    """But for contexts of which τ cannot tell."""

    def told(seen: Seen) -> float:
        word = E.verdict(seen.values, complete=seen.complete).association
        return score(seen) if word == "moderate" else math.nan

    return told


def from_middle(seen: Seen) -> float:
    """How far χ² is, in its logarithm, from the middle of 1 and its maximum."""
    return abs(math.log(seen.chi_squared) - 0.5 * math.log(seen.num_rows - 1))


def columns_on_average(seen: Seen) -> float:
    """The error on columns, averaged over the powers of two."""
    places = 2 ** np.arange(int(math.log2(len(seen.columns))) + 1) - 1
    return float(seen.columns[places].mean())


def columns_at(seen: Seen) -> float:
    return float(seen.columns[min(max(seen.best_dim, 1), len(seen.columns)) - 1])


def unstable(seen: Seen) -> float:
    """The share of a span that the other half lacks, averaged over powers of two."""
    if not len(seen.halves):
        return math.nan
    places = 2 ** np.arange(int(math.log2(len(seen.halves))) + 1) - 1
    return 1 - float(seen.halves[places].mean())


CRITERIA: dict[str, Score] = {
    BASELINE: lambda seen: seen.tau,
    "log tau": lambda seen: math.log(seen.tau),
    "-1 / tau": lambda seen: -1 / seen.tau,
    "tau, moderate only": moderate(lambda seen: seen.tau),
    "tau, beta 1/4": tau(0.25),
    "tau, beta 4": tau(4.0),
    "log tau, beta 4": log(tau(4.0)),
    "tau, beta 16": tau(16.0),
    "tau, d0 = 32": tau(1.0, 32),
    "tau, d0 = 128": tau(1.0, 128),
    "log d of 90 % of the energy": log(energy(0.9)),
    "log d of 50 % of the energy": log(energy(0.5)),
    "tail beyond 16": tail(16),
    "tail beyond 64": tail(64),
    "expected risk": expected_risk,
    "largest gap": gap,
    "worst case, eps 0.2, d = 16": worst_case(0.2, 16),
    "decay rate": lambda seen: float(E.decay_rate(seen.values)),
    "log chi squared": lambda seen: math.log(seen.chi_squared),
    "-log chi squared": lambda seen: -math.log(seen.chi_squared),
    "log chi squared from its middle": from_middle,
    "log effective rank": lambda seen: math.log(E.effective_rank(seen.values)),
    "log leverage of 16": lambda seen: math.log(seen.leverage[:16][-1]),
    "columns at d of tau": columns_at,
    "columns at their best d": lambda seen: float(seen.columns.min()),
    "columns, mean over d": columns_on_average,
    "span of halves, mean over d": unstable,
}


def correlated(scores: ArrayLike, errors: ArrayLike) -> dict[str, Any]:
    """Pearson and distance correlation over the contexts that have both."""
    one, two = np.asarray(scores, float), np.asarray(errors, float)
    told = np.isfinite(one) & np.isfinite(two)
    one, two = one[told], two[told]
    found = {"contexts": int(told.sum()), "pearson": None, "distance": None}
    if told.sum() >= FEWEST and np.ptp(one) > 0 and np.ptp(two) > 0:
        found["pearson"] = round(E.pearson_correlation(one, two), 4)
        found["distance"] = round(E.distance_correlation(one, two), 4)
    return found


def held_against(
    scores: dict[str, list[float]], errors: ArrayLike
) -> list[dict[str, Any]]:
    """Each criterion and τ beside each other, over the contexts that both order."""
    baseline = np.asarray(scores[BASELINE], float)
    found = []
    for name, own in scores.items():
        both = np.isfinite(baseline) & np.isfinite(own)
        other = correlated(np.where(both, baseline, np.nan), errors)
        row = correlated(np.where(both, own, np.nan), errors)
        told = row["pearson"] is not None and other["pearson"] is not None
        wins = told and all(row[k] >= other[k] for k in ("pearson", "distance"))
        row |= {"tau": [other["pearson"], other["distance"]], "at_least_tau": wins}
        found.append({"name": name, **row})
    return found


def halves(titles: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tables to choose a criterion on, and those that it is reported on."""
    ordered = sorted(titles)
    return ordered[::2], ordered[1::2]
