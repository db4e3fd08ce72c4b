"""τ of a table too large to be solved, from contexts made of some of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.intervals import Interval, check_level, student_interval
from contexture_jax._core.types import ArrayLike, Float
from contexture_jax.evaluation._spectra import usefulness

__all__ = ["subset_usefulness"]

_PARTS = 1, 2, 4  # a subset whole, in halves, in quarters
_FEWEST = 8  # rows, so that a quarter has a singular value
_EDGE = 0.95  # of β, as in `verdict`
_SCATTER = 0.1  # of β, between subsets: beyond that a few rows decide


def subset_usefulness(
    spectrum_of: Callable[[np.ndarray], ArrayLike],
    num_rows: int,
    *,
    key: Any,
    beta: float = 1.0,
    max_dim: int = 512,
    subset_size: int | None = None,
    num_subsets: int = 8,
    level: float = 0.9,
    complete: bool = True,
) -> Interval:
    """An interval for τ of n rows, from B random subsets of m = ⌈d0 ln d0⌉ rows.

    The rate m = Θ(d0 log d0) is that of the d0 leading eigenvalues (theory.md §3.8);
    the factor 1 is a choice, not a theorem. Subsets are drawn independently, each
    without replacement, so that their τ are independent given the table, but those of
    m rows are not τ of n on average. What is assumed of their means is

        E τ_m = τ_n + c (1 / m − 1 / n),

    and each subset is solved by halves too: with τ_{m/2} the mean of its two halves,
    τ_m − (1 − m / n)(τ_{m/2} − τ_m) has the mean τ_n. The interval is the hull of
    Student's of the B numbers so corrected, and of those as they are, made wider on
    both sides by (1 − m / n) times as much as the mean of τ changed over the last two
    doublings of the rows, from quarters to halves and from halves to all, whichever is
    more: as much may come yet. It is cut at 1.

    Where m rows do not resolve the context, most points of a subset are alone: an RBF
    context narrower than their distances, or few neighbours. Then τ_m, τ_{m/2} and τ_n
    differ by much more than they scatter, not in one direction, and nothing of m rows
    tells. Such a spectrum is at an extreme: the mean of τ_m, τ_{m/2} or τ_{m/4} is not
    below 1 + 0.95 β, where `verdict` finds no d that pays. And where a few rows far
    from all others decide, which only some subsets hold, τ_m scatters, with a standard
    deviation above β / 10 between subsets. In both cases the interval abstains: it
    reaches from 1 to infinity. So it does for weak contexts, with τ near 1 + β.

    Measured on eight tables, among them wine, breast cancer and digits, fourteen
    contexts of each, d0 from 8 to 64 and 8 draws at the level 0.9
    (`benchmarks/tau_of_subsets.py`): of 3,472 intervals 1,808 were told, and 1,764 of
    these, 98 %, held τ. Least often they do, 78 %, for RBF contexts so narrow that they
    are hardly ever told of (γ three over the median squared distance). Neighbours of a
    quarter of the rows and more are told of, those of fewer seldom.

    **What it does not see**: rows far from all others that no subset has. In breast
    cancer, d0 = 32, 62 of the 72 intervals told held τ.

    A context on fewer rows must be of the same kind: of k neighbours in n rows take
    k m / n in m.

    Args:
        spectrum_of: the singular values, without the trivial one, of the context made
            of some rows, shape (r,), or of several contexts, shape (c, r), where a row
            of NaN tells nothing: takes the numbers of m, m / 2 or m / 4 of them,
            ascending.
        num_rows: n, at least 8.
        key: random key.
        beta: as for `usefulness`.
        max_dim: d0, as for `usefulness`.
        subset_size: m, at least 8 and at most n; parts of it leave out rows that make
            no whole. None: ⌈d0 ln d0⌉, at least 8, or n if that is less.
        num_subsets: B, at least 2.
        level: the confidence.
        complete: as for `usefulness`: whether `spectrum_of` gives all values.

    Returns:
        The interval, shape () or (c,). Where it abstains the upper end is infinite and
        the lower one 1; the estimate is infinite, too, if τ of a subset is.

    Raises:
        ValueError: if a number is out of range, as `usefulness`, or if spectra of
            several contexts are not always of as many.
    """
    check_key(key)
    level = check_level(level)
    n = check_integer(num_rows, "num_rows", low=_FEWEST)
    max_dim = check_integer(max_dim, "max_dim", low=1)
    num_subsets = check_integer(num_subsets, "num_subsets", low=2)
    if subset_size is None:
        subset_size = min(n, max(_FEWEST, math.ceil(max_dim * math.log(max_dim))))
    m = check_integer(subset_size, "subset_size", low=_FEWEST, high=n)

    def taus(rows: np.ndarray) -> Float[np.ndarray, "*c"]:
        spectra = np.asarray(spectrum_of(np.sort(rows)))
        each = spectra if spectra.ndim == 2 else spectra[None]
        told = [
            np.inf
            if np.isnan(s).all()
            else usefulness(s, beta, max_dim, complete=complete).tau
            for s in each
        ]
        return np.array(told, np.float64).reshape(spectra.shape[:-1])

    seed = np.asarray(jax.random.bits(key, (4,), jnp.uint32))
    rng = np.random.default_rng(seed)
    # (subsets, levels, …): τ of the whole, and the means of its halves and quarters.
    subsets = []
    for _ in range(num_subsets):
        rows = rng.permutation(n)[:m]
        levels = []
        for parts in _PARTS:
            size = m // parts
            each = [taus(rows[k * size : (k + 1) * size]) for k in range(parts)]
            levels.append(np.mean(each, axis=0))
        subsets.append(levels)
    found = np.array(subsets)
    is_known = np.isfinite(found).all(axis=(0, 1))
    known = np.where(is_known, found, 0.0)
    whole, halves = known[:, 0], known[:, 1]
    middles = known.mean(axis=0)
    # (2, subsets, …): corrected, and as they are.
    both = np.stack([whole - (1 - m / n) * (halves - whole), whole])
    means, errors = both.mean(axis=1), both.std(axis=1, ddof=1) / num_subsets**0.5
    told = student_interval(
        jnp.asarray(means), jnp.asarray(errors), level, num_subsets - 1
    )
    change = (1 - m / n) * np.abs(np.diff(middles, axis=0)).max(axis=0)
    # All rows are no subset, whose spectrum is what it is.
    is_extreme = (middles.max(axis=0) >= 1 + _EDGE * beta) & (m < n)
    is_wild = (whole.std(axis=0, ddof=1) > _SCATTER * beta) & (m < n)
    is_told = is_known & ~is_extreme & ~is_wild
    ends = (
        jnp.where(is_told, told.estimate[0], np.where(is_known, middles[0], np.inf)),
        jnp.where(is_told, told.lower.min(axis=0) - change, 1.0),
        jnp.where(is_told, told.upper.max(axis=0) + change, jnp.inf),
    )
    middle, low, high = (jnp.maximum(end, 1.0) for end in ends)
    return Interval(middle, low, high, level)
