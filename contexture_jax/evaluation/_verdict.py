"""Whether an association is too weak, too strong or moderate: a rule of thumb."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from contexture_jax._core.checks import check_integer, is_concrete
from contexture_jax._core.types import ArrayLike, short_repr, summary
from contexture_jax.evaluation._common import (
    as_number,
    as_spectrum,
    singular_value_slack,
)
from contexture_jax.evaluation._spectra import usefulness
from contexture_jax.evaluation._usefulness_bounds import Truncated, as_truncated, bounds

__all__ = ["Verdict", "verdict"]


@short_repr
class Verdict(NamedTuple):
    """What to make of a spectrum, in words.

    Attributes:
        association: "too weak", "moderate", "too strong" or "undecided".
        reason: why, with the figures that decided.
    """

    association: Literal["too weak", "moderate", "too strong", "undecided"]
    reason: str


# The thresholds of `verdict`; conventions, not theorems.
_WEAK_ENERGY = 0.1
_MARGIN = 0.05
_EDGE_CHI_SQUARED = 1.0
# What may be computed to decide, if rounder than all that counts.
_ROUND_RANKS = (64, 100, 150, 200, 300, 400)


def verdict(
    singular_values: ArrayLike,
    beta: float = 1.0,
    max_dim: int = 512,
    *,
    complete: bool = False,
    tail_energy: ArrayLike | None = None,
    num_values: int | None = None,
    tail_error: ArrayLike = 0.0,
) -> Verdict:
    """Whether an association is too weak, too strong or moderate: a rule of thumb.

    τ alone cannot tell: it is near 1 + β at both extremes (Zhai et al. 2025 (CTX), §5),
    and below that for a weak association whose few small values decay slowly, since
    its second term only sees their ratios. In this order:

    1. s_1² < 0.1: "too weak". No function of the context predicts even a tenth of the
       variance of any function of the input.
    2. τ < 1 + 0.95 β: "moderate". Some d pays.
    3. Σ s_i² ≤ 1 and s_1² < 0.95: "too weak"; no more than one function in all, and
       that not known.
    4. "too strong": functions that the context all but determines, be it one (s_1 = 1,
       as of labels of two classes).

    A figure that equals its threshold to rounding (1000 eps) counts as equal to it, so
    that rounding never decides: s_1² = 0.1 is not below 0.1, Σ s_i² = 1 is not above 1.

    With the head of a spectrum only, step 2 takes `usefulness_bounds` if `tail_energy`
    and `num_values` are given; if 1 + 0.95 β lies between them, the verdict is
    "undecided", and names a rank that should decide. Without them τ is that of the
    head, and step 4 is "undecided" if the values stop before `max_dim` and the last
    still has 1 / (1 − s²) > 1.05.

    The thresholds are heuristics, set on Gaussian pairs and on k-NN and RBF contexts of
    small tables; compare contexts by τ, and use this to know when to abstain.

    Args:
        singular_values: as for `usefulness`, and concrete; all 0 is "too weak".
        beta: as for `usefulness`.
        max_dim: as for `usefulness`.
        complete: as for `usefulness`.
        tail_energy: Σ of s_i² beyond the values, as `SolveInfo.tail_energy`, shape ().
        num_values: how many values there are in all.
        tail_error: the standard error of `tail_energy`.

    Raises:
        TypeError: if the values are traced.
        ValueError: if only one of `tail_energy` and `num_values` is given.
    """
    s = as_spectrum(singular_values)
    if not is_concrete(s):
        msg = "singular_values must be concrete to be judged in words; got a tracer"
        raise TypeError(msg)
    if (tail_energy is None) != (num_values is None):
        msg = (
            "tail_energy and num_values go together; got"
            f" {summary(tail_energy)} and {summary(num_values)}"
        )
        raise ValueError(msg)
    beta = as_number(beta, "beta")
    max_dim = check_integer(max_dim, "max_dim", low=1)
    slack = singular_value_slack(s.dtype)
    energy = np.asarray(s, np.float64) ** 2
    top, total = float(energy[0]), float(energy.sum())
    if top < _WEAK_ENERGY - slack:
        return Verdict("too weak", f"s_1² = {top:.3g} is below {_WEAK_ENERGY}")
    edge = 1 + (1 - _MARGIN) * beta
    below = edge * (1 - slack)
    if complete:
        known = as_truncated(s, 0.0, s.shape[0])
    elif num_values is not None:
        known = as_truncated(s, tail_energy, num_values, tail_error)
        total += max(0.0, as_number(tail_energy, "tail_energy"))
    else:
        known = None
    if known is not None:
        low, high, best_dim = bounds(known, beta, max_dim)
    else:
        result = usefulness(s, beta, max_dim)
        low = high = float(result.tau)
        best_dim = int(result.best_dim)
    near = f"{_named(low, high)} is not below {edge:.4g}"
    if high < below:
        reason = f"{_named(low, high)} at d = {best_dim} is below {edge:.4g}"
        return Verdict("moderate", reason)
    if low < below and known is not None:
        reason = (
            f"tau is between {low:.4g} and {high:.4g}, on both sides of {edge:.4g}:"
            f" {_advice(known, beta, max_dim, below)}"
        )
        return Verdict("undecided", reason)
    if total <= _EDGE_CHI_SQUARED + slack and top < 1 - _MARGIN - slack:
        reason = f"{near} and the sum of s_i² is {total:.3g}, not above 1"
        return Verdict("too weak", reason)
    if known is None and s.shape[0] <= max_dim:
        last = float(energy[-1])
        if last * (1 + _MARGIN) > _MARGIN:
            reason = (
                f"{near}, but the last of {s.shape[0]} values still has s² ="
                f" {last:.3g}: compute more"
            )
            return Verdict("undecided", reason)
    what = f"the sum of s_i² is {total:.4g}"
    if known is not None and total >= known.num_values * (1 - slack):
        what = f"all {known.num_values} singular values are 1: T is a projection"
    elif total <= _EDGE_CHI_SQUARED + slack:
        what = f"s_1² = {top:.3g}: the context all but determines a function"
    return Verdict("too strong", f"{near} and {what}")


def _named(low: float, high: float) -> str:
    if high - low <= 5e-4 * high or low == high:
        return f"tau = {high:.4g}"
    return f"tau between {low:.4g} and {high:.4g}"


def _advice(known: Truncated, beta: float, max_dim: int, below: float) -> str:
    """What rank is sure to tell, and what smaller one would if the tail is geometric.

    Of all tails with the energy that is left, s_{r+j}² = s_r² q^j with q = t / (t +
    s_r²) is the one that goes on as a geometric series.
    """
    r, t = len(known.head), known.tail_high
    # With max_dim + 1 values τ is determined; fewer, if there are no more.
    certain = min(known.num_values, max_dim + 1)
    # Σ_{j≥1} s_r² q^j = t.
    ratio = t / (t + known.ceiling)
    model = known.ceiling * ratio ** np.arange(1, known.num_values - r + 1)
    whole = np.concatenate([known.head, model])
    for rank in _ROUND_RANKS:
        if r < rank < certain:
            rest = float(whole[rank:].sum())
            # What would be known then, if the tail were geometric.
            guess = known._replace(
                head=whole[:rank],
                tail_low=rest,
                tail_high=rest,
                ceiling=float(whole[rank - 1]),
            )
            low, high, _ = bounds(guess, beta, max_dim)
            if high < below or low >= below:
                return f"a rank of {rank} should tell, one of {certain} will"
    return f"a rank of {certain} will tell"
