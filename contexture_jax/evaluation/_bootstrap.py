"""How far the spectrum of a sample of pairs can be from that of the law behind it.

Sampling error alone: every spectrum here is computed exactly. What a truncated or
iterative *solver* leaves open is another question, with bounds of another type:
`solvers.certify`. The two kinds are never added up. Everything is for tables that can
be dense, n · m entries, and for pairs that are drawn independently.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_key, check_values
from contexture_jax._core.factorizations import singular_values
from contexture_jax._core.intervals import (
    Interval,
    check_level,
    normal_interval,
)
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr, summary
from contexture_jax.evaluation._pairs import (
    PairSample,
    check_rank,
    count_cells,
    map_keys,
    observe,
    plug_in_tau,
    spectrum_of,
    symmetrised,
)

__all__ = ["SpectrumSampling", "bootstrap_interval", "bootstrap_spectrum"]


@short_repr
class SpectrumSampling(NamedTuple):
    """Bootstrap intervals for the spectrum of the law that a sample came from.

    Attributes:
        singular_values: an interval for each s_i alone, shape (rank,).
        band: the plug-in values, and an interval for all s_i at once, at least the
            level, also where values are repeated or 0, shape (rank,).
        total: an interval for Σ s_i², shape ().
        independence_bias: the mean of the plug-in Σ s_i² if X and A were independent,
            (n − 1)(m − 1) / (N − 1), shape ().
        tau: an interval for τ: the plug-in value, between the smallest and the largest
            τ of any spectrum in the band, shape ().
        replicates: the plug-in values of each replicate, shape (num_replicates, rank).
    """

    singular_values: Interval
    band: Interval
    total: Interval
    independence_bias: Float[Array, ""]
    tau: Interval
    replicates: Float[Array, "b rank"]


def bootstrap_spectrum(
    sample: PairSample,
    rank: int,
    *,
    key: Array,
    num_replicates: int = 1000,
    level: float = 0.9,
) -> SpectrumSampling:
    """Bootstrap intervals for singular values, Σ s_i² and τ of the law of the pairs.

    Pairs are drawn anew, N with replacement (Efron 1979), and each replicate's whole
    spectrum is computed. Plug-in values are too large, by about as much again in each
    replicate as in the sample (theory.md §3.6), so percentiles of replicates are of no
    use here. Instead:

    * each s_i alone: s_i² is estimated by 2 ŝ_i² − mean of ŝ*_i², with the standard
      deviation of ŝ*_i² for an interval by the normal law; roots of both ends, cut at
      0. Near nominal for values that are simple, apart from each other and above the
      noise, and conservative at 0; too short for repeated values, whose order the
      sample makes up, and for tables with N not well above n · m. Symmetric functions
      of a cluster, such as its mean of s_i², are regular: `bootstrap_interval` of
      `replicates`;
    * all s_i at once: |ŝ_i − s_i| ≤ ‖M̂ − M‖ for every i (Weyl), and the distribution
      of ‖M̂ − M‖ is that of ‖M* − M̂‖ in the limit, M being smooth in the table. The
      band holds whatever the multiplicities, and is wide;
    * τ: of all spectra in the band. τ itself is no regular function of a sample, as a
      minimum over d that shares out the noise of all values.

    Coverage was measured by simulation: theory.md §3.7.

    Args:
        sample: N pairs, as from `pair_sample` or `counted_sample`.
        rank: how many singular values, at most min(n, m) − 1. Static, as are the next
            two.
        key: random key.
        num_replicates: how many samples are drawn.
        level: the confidence, between 0 and 1.

    Returns:
        A `SpectrumSampling`, in JAX's default floating dtype. Works under `jit` and
        `vmap` over samples of one size.

    Raises:
        ValueError: if an argument is out of range.

    References:
        Efron 1979, *Ann. Statist.* 7; Efron & Tibshirani 1993, *An Introduction to the
        Bootstrap*, §10, §13. Sampling laws of correspondence analysis: O'Neill 1978,
        *Aust. J. Stat.* 20; Greenacre 1984, ch. 8.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> sample = cx.evaluation.counted_sample([[30, 5], [8, 40]])
        >>> found = cx.evaluation.bootstrap_spectrum(
        ...     sample, 1, key=jax.random.key(0), num_replicates=200
        ... )
        >>> low, high = found.singular_values.lower[0], found.singular_values.upper[0]
        >>> bool(0.5 < low < 0.7 < high < 0.9)
        True
    """
    rank = check_rank(sample, rank)
    num_replicates = check_integer(num_replicates, "num_replicates", low=2)
    level = check_level(level)
    check_key(key)
    observed, values = observe(sample)
    keys = jax.random.split(key, num_replicates)

    def replicate(one: Array) -> Array:
        # (N,): which pairs the resample holds.
        drawn = jax.random.randint(one, (sample.num_pairs,), 0, sample.num_pairs)
        matrix = symmetrised(
            count_cells(sample.cells[drawn], sample.shape, observed.dtype)
        )
        # ‖M* − M̂‖ in the spectral norm, which moves no singular value by more (Weyl).
        gap = singular_values(matrix - observed)[0]
        return jnp.concatenate([spectrum_of(matrix), gap[None]])

    # (num_replicates, k + 1): a spectrum and its gap in each row.
    drawn = map_keys(replicate, keys, sample)
    replicates, gaps = drawn[:, :-1], drawn[:, -1]
    # One radius for all values: the law of the norm knows nothing of multiplicities,
    # where single values have no normal limit (theory.md §3.7).
    reach = jnp.quantile(gaps, level)
    low, high = jnp.maximum(values - reach, 0.0), jnp.minimum(values + reach, 1.0)
    # In squares, whose bias is about that of Σ s_i² and comes off; percentiles of
    # replicates would have it twice.
    squares = bootstrap_interval(values**2, replicates**2, level=level)
    # Of the whole spectrum, and not of the `rank` values that are returned.
    total = bootstrap_interval(
        (values**2).sum(), (replicates**2).sum(axis=1), level=level
    )
    n, m = sample.shape
    tau = plug_in_tau(values)
    # From the whole band too: τ shares out the energy of all values.
    tau_low, tau_high = _tau_range(low, high)
    return SpectrumSampling(
        jax.tree.map(lambda x: jnp.sqrt(jnp.clip(x, 0.0, 1.0))[:rank], squares),
        Interval(values[:rank], low[:rank], high[:rank], level),
        jax.tree.map(lambda x: jnp.maximum(x, 0.0), total),
        jnp.asarray((n - 1) * (m - 1) / (sample.num_pairs - 1), values.dtype),
        Interval(tau, tau_low, tau_high, level),
        replicates[:, :rank],
    )


def bootstrap_interval(
    estimate: ArrayLike,
    replicates: ArrayLike,
    *,
    level: float = 0.9,
    kind: Literal["normal", "basic", "percentile"] = "normal",
) -> Interval:
    """A confidence interval from an estimate and its bootstrap replicates.

    With the mean m* and the standard deviation of the replicates, their quantiles q*,
    and α = 1 − level:

    * "normal": 2 θ̂ − m* ± z_{1−α/2} · sd*, which takes the bias off;
    * "basic": [2 θ̂ − q*_{1−α/2}, 2 θ̂ − q*_{α/2}], which does so too;
    * "percentile": [q*_{α/2}, q*_{1−α/2}], for estimates without bias only.

    The estimate of the result is 2 θ̂ − m* for the first two and θ̂ for the last.

    Args:
        estimate: θ̂, any shape.
        replicates: shape (b, …), the same shape behind the first axis.
        level: the confidence.
        kind: which of the three.

    Raises:
        ValueError: if a number is NaN, or `kind` or `level` is none of those.
    """
    level = check_level(level)
    for numbers, name in ((estimate, "estimate"), (replicates, "replicates")):
        check_values(numbers, name, lambda v: ~np.isnan(v), "numbers")
    theta, drawn = jnp.asarray(estimate), jnp.asarray(replicates)
    # θ̂ − (m* − θ̂): replicates are as far from θ̂ as θ̂ is from the truth, on average.
    corrected = 2 * theta - drawn.mean(axis=0)
    if kind == "normal":
        return normal_interval(corrected, drawn.std(axis=0, ddof=1), level)
    if kind not in ("basic", "percentile"):
        msg = f'kind must be "normal", "basic" or "percentile"; got {summary(kind)}'
        raise ValueError(msg)
    # At (1 ± level) / 2.
    low, high = (
        jnp.quantile(drawn, 0.5 + sign * level / 2, axis=0) for sign in (-1, 1)
    )
    # Errors q* − θ̂ are taken off, so that the upper quantile makes the lower end.
    if kind == "basic":
        return Interval(corrected, 2 * theta - high, 2 * theta - low, level)
    return Interval(theta, low, high, level)


def _tau_range(
    low: Float[Array, " k"], high: Float[Array, " k"], max_dim: int = 512
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The smallest and the largest τ of spectra with low ≤ s ≤ high.

    Each τ_d rises with s_1, …, s_d and falls with s_{d+2}, …; s_{d+1} is in both terms,
    and taking either end in each bounds it from outside.
    """
    # A sample's spectrum is whole: d0 values, continued by a 0 (theory.md §0 E12).
    num = min(max_dim, low.shape[0])
    # (num + 1,) each: the energies and the one after them.
    padded = [jnp.pad(x**2, (0, 1))[: num + 1] for x in (low, high)]
    (small, small_next), (large, large_next) = ((e[:-1], e[1:]) for e in padded)
    head_small, head_large = jnp.cumsum(small), jnp.cumsum(large)
    rest_small, rest_large = small.sum() - head_small, large.sum() - head_large
    # At the upper end of the band s_{d+1} may be 1, where no d is enough.
    room = 1 - large_next
    open_ = room > 32 * jnp.finfo(low.dtype).eps
    worst = jnp.where(open_, 1 / jnp.where(open_, room, 1.0), jnp.inf)
    best = 1 / jnp.maximum(1 - small_next, jnp.finfo(low.dtype).tiny)
    # Where the whole band starts at 0, what is in the head can be all or nothing.
    # Differences of a sum and its parts, which rounding may leave below 0.
    ends = jnp.maximum(rest_small, 0.0), jnp.maximum(rest_large, 0.0)
    lowest = best + safe_divide(head_small, head_small + ends[1])
    highest = worst + safe_divide(head_large, head_large + ends[0])
    return lowest.min(), highest.min()
