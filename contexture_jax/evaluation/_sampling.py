"""How far the spectrum of a sample of pairs can be from that of the law behind it.

Sampling error alone: every spectrum here is computed exactly. What a truncated or
iterative *solver* leaves open is another question, with bounds of another type:
`solvers.certify`. The two kinds are never added up. Everything is for tables that can
be dense, n · m entries, and for pairs that are drawn independently.
"""

from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    check_integer,
    check_key,
    check_ndim,
    check_values,
    is_concrete,
)
from contexture_jax._core.numerics import mm, safe_divide, safe_reciprocal
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.evaluation._common import map_blocks
from contexture_jax.evaluation._spectra import usefulness

__all__ = [
    "HeldOut",
    "Interval",
    "PairSample",
    "PermutationNull",
    "SpectrumSampling",
    "bootstrap_interval",
    "bootstrap_spectrum",
    "counted_sample",
    "held_out_spectrum",
    "pair_sample",
    "permutation_null",
]

_MAX_PAIRS = 2**26
_MAX_ENTRIES = 2**24


@pytree_dataclass
class PairSample:
    """N observed pairs (x, a), drawn independently from one law.

    Attributes:
        cells: x · m + a for each pair, shape (N,), int32.
        shape: (n, m). Static.
    """

    cells: Int[Array, " pairs"]
    shape: tuple[int, int] = static_field()

    @property
    def num_pairs(self) -> int:
        """N."""
        return self.cells.shape[0]


class Interval(NamedTuple):
    """What a sample says of a number: a confidence interval, of sampling error alone.

    Attributes:
        estimate: the plug-in value.
        corrected: the same with its estimated bias taken off.
        lower: lower end.
        upper: upper end.
    """

    estimate: Float[Array, "*shape"]
    corrected: Float[Array, "*shape"]
    lower: Float[Array, "*shape"]
    upper: Float[Array, "*shape"]


class SpectrumSampling(NamedTuple):
    """Bootstrap intervals for the spectrum of the law that a sample came from.

    Attributes:
        singular_values: an interval for each s_i alone, shape (rank,).
        band_lower: with `band_upper` an interval for all s_i at once, at least the
            level, also where values are repeated or 0, shape (rank,).
        band_upper: shape (rank,).
        total: an interval for Σ s_i², shape ().
        independence_bias: the mean of the plug-in Σ s_i² if X and A were independent,
            (n − 1)(m − 1) / (N − 1), shape ().
        tau: an interval for τ: the plug-in value (`corrected` is the same), between the
            smallest and the largest τ of any spectrum in the band, shape ().
        replicates: the plug-in values of each replicate, shape (num_replicates, rank).
    """

    singular_values: Interval
    band_lower: Float[Array, " rank"]
    band_upper: Float[Array, " rank"]
    total: Interval
    independence_bias: Float[Array, ""]
    tau: Interval
    replicates: Float[Array, "b rank"]


class HeldOut(NamedTuple):
    """Singular functions of one half of a sample, measured on the other, both ways.

    Attributes:
        optimistic: the values on the halves that the functions were fitted to, averaged
            over the two, shape (rank,).
        held_out: correlation of f_i(X) and g_i(A) on the other halves, averaged, shape
            (rank,).
        standard_error: of `held_out`, given the functions, shape (rank,).
        lower: lower end of the interval for the correlations of these functions under
            the law of the pairs, shape (rank,).
        upper: upper end, shape (rank,).
        left: f of each half, shape (2, n, rank).
        right: g of each half, shape (2, m, rank).
    """

    optimistic: Float[Array, " rank"]
    held_out: Float[Array, " rank"]
    standard_error: Float[Array, " rank"]
    lower: Float[Array, " rank"]
    upper: Float[Array, " rank"]
    left: Float[Array, "2 n rank"]
    right: Float[Array, "2 m rank"]


class PermutationNull(NamedTuple):
    """The spectrum of a sample beside those of the same margins, paired at random.

    Attributes:
        p_values: share of pairings whose *largest* value is at least s_i, shape
            (rank,).
        total_p_value: share whose Σ s_i² is at least the observed one, shape ().
        tau_p_value: share whose τ is at most the observed one, shape ().
        singular_values: under the null, shape (num_permutations, rank).
        totals: Σ s_i² under the null, shape (num_permutations,).
        taus: τ under the null, shape (num_permutations,).
    """

    p_values: Float[Array, " rank"]
    total_p_value: Float[Array, ""]
    tau_p_value: Float[Array, ""]
    singular_values: Float[Array, "b rank"]
    totals: Float[Array, " b"]
    taus: Float[Array, " b"]


def pair_sample(
    x_index: ArrayLike, a_index: ArrayLike, shape: tuple[int, int] | None = None
) -> PairSample:
    """A sample from observed pairs; runs on the host.

    Args:
        x_index: number of the input in each pair, shape (N,), integer, from 0.
        a_index: number of the context value in each pair, shape (N,), integer.
        shape: (n, m); None: one more than the largest numbers seen.

    Raises:
        TypeError: if the numbers are not integers.
        ValueError: if lengths differ, there are fewer than 2 pairs, or a number is
            outside `shape`.
    """
    index = [np.asarray(x_index), np.asarray(a_index)]
    for values, name in zip(index, ("x_index", "a_index"), strict=True):
        check_ndim(values, 1, name)
        if values.dtype.kind not in "iu":
            msg = f"{name} must hold integers; got dtype {values.dtype}"
            raise TypeError(msg)
    if index[0].shape != index[1].shape or index[0].size < 2:
        msg = (
            "x_index and a_index must have one length, at least 2; got"
            f" {index[0].size} and {index[1].size}"
        )
        raise ValueError(msg)
    if shape is None:
        shape = (int(index[0].max()) + 1, int(index[1].max()) + 1)
    for values, name, size in zip(index, ("x_index", "a_index"), shape, strict=True):
        check_values(
            values,
            name,
            lambda v, size=size: (v >= 0) & (v < size),
            f"between 0 and {size - 1}",
        )
    _check_size(index[0].size, shape)
    cells = index[0].astype(np.int64) * shape[1] + index[1]
    return PairSample(jnp.asarray(cells, jnp.int32), (int(shape[0]), int(shape[1])))


def counted_sample(counts: ArrayLike) -> PairSample:
    """A sample from its table of counts; runs on the host.

    Args:
        counts: how often each pair was seen, shape (n, m), whole numbers ≥ 0.

    Raises:
        ValueError: if an entry is no whole number, or there are fewer than 2 pairs.
    """
    table = np.asarray(counts)
    check_ndim(table, 2, "counts")
    check_values(
        table,
        "counts",
        lambda v: np.isfinite(v) & (v >= 0) & (v == np.floor(v)),
        "whole numbers of pairs",
    )
    total = float(table.sum())
    if total < 2:
        msg = f"counts must hold at least 2 pairs; got {total:g}"
        raise ValueError(msg)
    _check_size(total, table.shape)
    cells = np.repeat(np.arange(table.size), table.reshape(-1).astype(np.int64))
    return PairSample(jnp.asarray(cells, jnp.int32), (table.shape[0], table.shape[1]))


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
    rank = _check_rank(sample, rank)
    num_replicates = check_integer(num_replicates, "num_replicates", low=2)
    _check_level(level)
    check_key(key)
    observed, values = _observed(sample)
    keys = jax.random.split(key, num_replicates)

    def replicate(one: Array) -> Array:
        drawn = jax.random.randint(one, (sample.num_pairs,), 0, sample.num_pairs)
        matrix = _matrix(_counts(sample.cells[drawn], sample.shape, observed.dtype))
        gap = jnp.linalg.svd(matrix - observed, compute_uv=False)[0]
        return jnp.concatenate([_singular_values(matrix), gap[None]])

    drawn = _map_keys(replicate, keys, sample)
    replicates, gaps = drawn[:, :-1], drawn[:, -1]
    reach = jnp.quantile(gaps, level)
    low, high = jnp.maximum(values - reach, 0.0), jnp.minimum(values + reach, 1.0)
    squares = bootstrap_interval(values**2, replicates**2, level=level)
    total = bootstrap_interval(
        (values**2).sum(), (replicates**2).sum(axis=1), level=level
    )
    n, m = sample.shape
    tau = _tau(values)
    tau_low, tau_high = _tau_range(low, high)
    return SpectrumSampling(
        Interval(*(jnp.sqrt(jnp.clip(x, 0.0, 1.0))[:rank] for x in squares)),
        low[:rank],
        high[:rank],
        Interval(*(jnp.maximum(x, 0.0) for x in total)),
        jnp.asarray((n - 1) * (m - 1) / (sample.num_pairs - 1), values.dtype),
        Interval(tau, tau, tau_low, tau_high),
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

    Args:
        estimate: θ̂, any shape.
        replicates: shape (b, …), the same shape behind the first axis.
        level: the confidence.
        kind: which of the three.
    """
    _check_level(level)
    theta, drawn = jnp.asarray(estimate), jnp.asarray(replicates)
    mean = drawn.mean(axis=0)
    corrected = 2 * theta - mean
    if kind == "normal":
        reach = NormalDist().inv_cdf(0.5 + level / 2) * drawn.std(axis=0, ddof=1)
        return Interval(theta, corrected, corrected - reach, corrected + reach)
    if kind not in ("basic", "percentile"):
        msg = f'kind must be "normal", "basic" or "percentile"; got {kind!r}'
        raise ValueError(msg)
    low, high = (
        jnp.quantile(drawn, 0.5 + sign * level / 2, axis=0) for sign in (-1, 1)
    )
    if kind == "basic":
        return Interval(theta, corrected, 2 * theta - high, 2 * theta - low)
    return Interval(theta, corrected, low, high)


def held_out_spectrum(
    sample: PairSample, rank: int, *, key: Array, level: float = 0.9
) -> HeldOut:
    """Singular values that functions keep on pairs they were not fitted to.

    The pairs are halved at random. Functions f_i, g_i of one half are measured on the
    other by the correlation of f_i(X) and g_i(A), and the other way round. For given
    functions that is a plain sample correlation, with the standard error of its
    influence function,

        ψ(x, a) = f̃ g̃ − ½ r (f̃² + g̃²),   f̃, g̃ of mean 0 and variance 1 there,

    and it estimates their correlation under the law of the pairs, which is at most s_1
    for every pair of functions, and for orthonormal families at most Σ_{i≤k} s_i in
    sum (theory.md §3.7). So held-out values err below the truth on average, as the
    plug-in `optimistic` ones err above it. The interval is for the correlations of
    *these* functions (the mean of the two halves), not for s_i.

    Args:
        sample: N ≥ 4 pairs.
        rank: how many functions.
        key: random key.
        level: the confidence.
    """
    rank = _check_rank(sample, rank)
    _check_level(level)
    check_key(key)
    half = sample.num_pairs // 2
    if half < 2:
        msg = f"sample must hold at least 4 pairs to be halved; got {sample.num_pairs}"
        raise ValueError(msg)
    cells = jax.random.permutation(key, sample.cells)
    dtype = jnp.zeros(()).dtype
    parts = [_counts(c, sample.shape, dtype) for c in (cells[:half], cells[half:])]
    fitted = [_functions(counts, rank) for counts in parts]
    measured = [
        _correlations(other, left, right)
        for other, (_, left, right) in zip(parts[::-1], fitted, strict=True)
    ]
    held_out = 0.5 * (measured[0][0] + measured[1][0])
    error = 0.5 * jnp.sqrt(measured[0][1] + measured[1][1])
    reach = NormalDist().inv_cdf(0.5 + level / 2) * error
    return HeldOut(
        0.5 * (fitted[0][0] + fitted[1][0]),
        held_out,
        error,
        jnp.maximum(held_out - reach, -1.0),
        jnp.minimum(held_out + reach, 1.0),
        jnp.stack([fitted[0][1], fitted[1][1]]),
        jnp.stack([fitted[0][2], fitted[1][2]]),
    )


def permutation_null(
    sample: PairSample, rank: int, *, key: Array, num_permutations: int = 1000
) -> PermutationNull:
    """What the spectrum would be if the same inputs and contexts met at random.

    Permuting the pairing keeps both margins and makes X and A independent. p-values are
    (1 + #{null ≥ observed}) / (1 + num_permutations), exact for independence whatever N
    (Phipson & Smyth 2010). Each s_i is held against the null of the *largest* value:
    that of the i-th would be too small for a value that comes after i − 1 real ones.
    So "s_i is above the noise" is said falsely of any value with probability at most p,
    if all are noise; after real values the test is approximate.

    Args:
        sample: N pairs.
        rank: how many singular values.
        key: random key.
        num_permutations: how many.
    """
    rank = _check_rank(sample, rank)
    num_permutations = check_integer(num_permutations, "num_permutations", low=1)
    check_key(key)
    _, values = _observed(sample)
    m = sample.shape[1]
    inputs, contexts = sample.cells // m * m, sample.cells % m
    keys = jax.random.split(key, num_permutations)

    def replicate(one: Array) -> Array:
        cells = inputs + jax.random.permutation(one, contexts)
        return _singular_values(_matrix(_counts(cells, sample.shape, values.dtype)))

    null = _map_keys(replicate, keys, sample)
    totals, taus = (null**2).sum(axis=1), jax.vmap(_tau)(null)
    tau = _tau(values)
    # A tie that rounding breaks must count as a tie.
    slack = 100 * jnp.finfo(values.dtype).eps
    return PermutationNull(
        _p_value(null[:, :1] >= values[None, :rank] - slack),
        _p_value(totals >= (values**2).sum() - slack),
        _p_value(taus <= tau + slack),
        null[:, :rank],
        totals,
        taus,
    )


def _p_value(reached: Array) -> Array:
    return (1 + reached.sum(axis=0)) / (1 + reached.shape[0])


def _check_size(num_pairs: float, shape: Any) -> None:
    if num_pairs > _MAX_PAIRS or shape[0] * shape[1] > _MAX_ENTRIES:
        msg = (
            f"a sample must have at most {_MAX_PAIRS} pairs and a table of at most"
            f" {_MAX_ENTRIES} entries; got {num_pairs:.0f} and {shape[0]} × {shape[1]}"
        )
        raise ValueError(msg)


def _check_rank(sample: PairSample, rank: int) -> int:
    high = min(sample.shape) - 1
    if high < 1:
        msg = f"sample must have at least 2 rows and 2 columns; got {sample.shape}"
        raise ValueError(msg)
    return check_integer(rank, "rank", low=1, high=high)


def _check_level(level: float) -> None:
    check_values(np.asarray(level), "level", lambda v: (v > 0) & (v < 1), "in (0, 1)")


def _map_keys(one: Any, keys: Array, sample: PairSample) -> Array:
    """Replicates in blocks that fit into work space."""
    entries = sample.num_pairs + 4 * sample.shape[0] * sample.shape[1]
    index = jnp.arange(keys.shape[0])
    return map_blocks(lambda i: jax.vmap(one)(keys[i]), index, row_entries=entries)


def _counts(
    cells: Int[Array, " pairs"], shape: tuple[int, int], dtype: Any
) -> Float[Array, "n m"]:
    zeros = jnp.zeros((shape[0] * shape[1],), dtype)
    return zeros.at[cells].add(1.0).reshape(shape)


def _matrix(counts: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """D_X^{-1/2} P D_A^{-1/2} − √p_x √p_aᵀ; 0 in empty rows and columns."""
    joint = counts / counts.sum()
    root_x, root_a = jnp.sqrt(joint.sum(axis=1)), jnp.sqrt(joint.sum(axis=0))
    scaled = safe_reciprocal(root_x)[:, None] * joint * safe_reciprocal(root_a)[None, :]
    return scaled - root_x[:, None] * root_a[None, :]


def _singular_values(matrix: Float[Array, "n m"]) -> Float[Array, " k"]:
    """All of them but the trivial one, which is 0 here and comes last."""
    return jnp.clip(jnp.linalg.svd(matrix, compute_uv=False)[:-1], 0.0, 1.0)


def _observed(sample: PairSample) -> tuple[Float[Array, "n m"], Float[Array, " k"]]:
    matrix = _matrix(_counts(sample.cells, sample.shape, jnp.zeros(()).dtype))
    return matrix, _singular_values(matrix)


def _tau(values: Float[Array, " k"]) -> Float[Array, ""]:
    """τ of a whole spectrum; NaN where all of it is 0."""
    if is_concrete(values) and not float(values[0]) > 0:
        return jnp.full((), jnp.nan, values.dtype)
    return usefulness(values, complete=True).tau


def _tau_range(
    low: Float[Array, " k"], high: Float[Array, " k"], max_dim: int = 512
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The smallest and the largest τ of spectra with low ≤ s ≤ high.

    Each τ_d rises with s_1, …, s_d and falls with s_{d+2}, …; s_{d+1} is in both terms,
    and taking either end in each bounds it from outside.
    """
    num = min(max_dim, low.shape[0])
    padded = [jnp.pad(x**2, (0, 1))[: num + 1] for x in (low, high)]
    (small, small_next), (large, large_next) = ((e[:-1], e[1:]) for e in padded)
    head_small, head_large = jnp.cumsum(small), jnp.cumsum(large)
    rest_small, rest_large = small.sum() - head_small, large.sum() - head_large
    room = 1 - large_next
    open_ = room > 32 * jnp.finfo(low.dtype).eps
    worst = jnp.where(open_, 1 / jnp.where(open_, room, 1.0), jnp.inf)
    best = 1 / jnp.maximum(1 - small_next, jnp.finfo(low.dtype).tiny)
    # Where the whole band starts at 0, what is in the head can be all or nothing.
    ends = jnp.maximum(rest_small, 0.0), jnp.maximum(rest_large, 0.0)
    lowest = best + safe_divide(head_small, head_small + ends[1])
    highest = worst + safe_divide(head_large, head_large + ends[0])
    return lowest.min(), highest.min()


def _functions(counts: Float[Array, "n m"], rank: int) -> tuple[Array, Array, Array]:
    """s, μ and ν of a table, shapes (rank,), (n, rank), (m, rank)."""
    joint = counts / counts.sum()
    u, s, vh = jnp.linalg.svd(_matrix(counts), full_matrices=False)
    left = safe_reciprocal(jnp.sqrt(joint.sum(axis=1)))[:, None] * u[:, :rank]
    right = safe_reciprocal(jnp.sqrt(joint.sum(axis=0)))[:, None] * vh[:rank].T
    return jnp.clip(s[:rank], 0.0, 1.0), left, right


def _correlations(
    counts: Float[Array, "n m"], left: Float[Array, "n r"], right: Float[Array, "m r"]
) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    """Correlations of f_i(X) and g_i(A) in a table, and their sampling variances."""
    num_pairs = counts.sum()
    joint = counts / num_pairs
    f, g = (
        _standardised(left, joint.sum(axis=1)),
        _standardised(right, joint.sum(axis=0)),
    )
    values = (f * mm(joint, g)).sum(axis=0)

    def variance(f: Array, g: Array, r: Array) -> Array:
        influence = f[:, None] * g[None, :] - 0.5 * r * (
            f[:, None] ** 2 + g[None, :] ** 2
        )
        return (joint * influence**2).sum() / num_pairs

    return values, jax.vmap(variance, in_axes=(1, 1, 0))(f, g, values)


def _standardised(x: Float[Array, "n r"], law: Float[Array, " n"]) -> Array:
    centred = x - mm(law[None, :], x)
    return centred * safe_reciprocal(jnp.sqrt(mm(law[None, :], centred**2)))
