"""Whether the density of a context is that of its sampler: a test of their draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_rows, check_integer, check_key
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.contexts._base import Context, as_context
from contexture_jax.contexts._sampling import one_each

__all__ = ["DensityCheck", "all_log_densities", "check_density", "judge_density"]

_MOST_DRAWS = 1024  # that the statistics look at, of however many
_FEWEST_ROWS = 64
_ALIKE = 16  # that part of all draws which counts as near alike, the nearest
_FLOOR = 3.0  # log posteriors this far below 1 / n count alike


@short_repr
class DensityCheck(NamedTuple):
    """What draws of a context say of its density.

    Attributes:
        p_value: of the hypothesis that the density is that of the sampler, up to a
            factor that depends on a alone; it exceeds the chance of as much or more
            under it.
        scores: three statistics over their standard deviations, near N(0, 1) or less
            spread out where the density is right: of `posterior`, `normaliser` and
            `neighbor`, as `check_density` explains; shape (3,).
        num_impossible: draws to which the density of their own x is 0; not one is
            possible, and with one the p-value is 0.
        num_draws: how many draws were looked at.
    """

    p_value: float
    scores: np.ndarray
    num_impossible: int
    num_draws: int


def check_density(
    context: Context | Any, x: ArrayLike, *, key: Array, num_samples: int = 1024
) -> DensityCheck:
    """Test whether `log_density` belongs to `sample`, on inputs x.

    Draws a_j ~ P⁺(·|x_{r_j}), evenly for up to `num_samples` / 8 of the inputs. If the
    density is right, and only then for all x, which input a draw came from has the law
    π_j(i) ∝ P⁺(a_j|x_i) given a_j: all that an operator takes from a density. So for
    any function t_j(i) of a_j,

        S = Σ_j [t_j(r_j) − Σ_i π_j(i) t_j(i)]

    has mean 0 and at most the variance Σ_j Var_{i ~ π_j} t_j(i). Three are taken:

    * posterior: t = log π_j(i), cut from below: densities too wide, too narrow, or of
      another law altogether;
    * normaliser: t = how often x_i is named by π in the other half of the draws: a
      factor of x that the density lacks or has too much;
    * neighbor: t = how near to a_j the draws of x_i in the other half are, as the mean
      of −log of their rank among all draws there: what a tells of x and the density
      does not, as one that is constant in x.

    Each has a bound on its p-value by Bernstein's inequality, valid at any level and
    sample size; three times the smallest is the p-value.

    Args:
        context: one with `sample` and `log_density`, of whatever class.
        x: inputs, leading axis n.
        key: random key.
        num_samples: how many draws, at least 16.

    Returns:
        A `DensityCheck`, on the host.

    Raises:
        CapabilityError: if the context has no `sample` or no `log_density`.
        ValueError: if samples or densities have another shape than x calls for, or a
            density is NaN or infinite.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (50, 2))
        >>> noise = cx.contexts.gaussian_noise(0.5)
        >>> found = cx.contexts.check_density(noise, x, key=jax.random.key(1))
        >>> bool(found.p_value > 1e-3)
        True
    """
    check_key(key)
    context = as_context(context, needs=("sample", "log_density"))
    num_samples = check_integer(num_samples, "num_samples", low=16)
    x = as_rows(x, "x")
    key_rows, key_values = jax.random.split(key)
    # Eight draws a row at least: the halves below need several of each.
    num_rows = min(x.shape[0], num_samples // 8)
    x = x[jax.random.permutation(key_rows, x.shape[0])[:num_rows]]
    # Evenly: weights then hardly differ, and the bound on the variance grows with the
    # largest.
    rows = jnp.arange(num_samples) % num_rows
    samples = context.sample(key_values, x[rows])
    logs = all_log_densities(context, samples, x, num_samples)
    return judge_density(samples, rows, logs)


def all_log_densities(
    context: Context, a: Any, x: Array, num_samples: int | None = None
) -> Float[Array, "m n"]:
    """Log P⁺(a_j|x_i) for all pairs, a row at a time, with its shape checked."""
    for leaf in jax.tree.leaves(a):  # of one array, or of a tuple as `join` has it
        if num_samples is not None and leaf.shape[:1] != (num_samples,):
            msg = (
                f"sample must give one a for each of {num_samples} inputs; got shape"
                f" {tuple(leaf.shape)}"
            )
            raise ValueError(msg)
    # A kind may know one measure for all x_i, as `corruption` does (theory.md §4.7).
    of_pairs: Any = getattr(context, "log_densities", None)
    if callable(of_pairs):
        found: Any = of_pairs(a, x)
        return found
    n = x.shape[0]

    def row(one: Any) -> Array:
        # (n, …): one a against every x.
        many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), one)
        return one_each(context.log_density(many, x), n)

    return jax.lax.map(row, a)


def judge_density(samples: Any, rows: Any, logs: Any) -> DensityCheck:
    """The statistics of `check_density`, of draws that are there already.

    Args:
        samples: a_j, leading axis m, concrete; an array or a tuple of them.
        rows: r_j, where they were drawn, whatever chose them but a, shape (m,).
        logs: log P⁺(a_j|x_i), shape (m, n).

    Raises:
        ValueError: if a density is NaN or infinite.
    """
    rows = np.asarray(rows)
    m, n = logs.shape
    # So few rows that each has several draws, if it can.
    num_rows = min(n, max(_FEWEST_ROWS, -(-_MOST_DRAWS * n // m)))
    # Spread over all rows: inputs may be in an order that means something.
    chosen = np.unique(np.linspace(0, n - 1, num_rows).astype(int))
    draws = np.flatnonzero(np.isin(rows, chosen))[:_MOST_DRAWS]
    present, own = np.unique(rows[draws], return_inverse=True)
    # (draws, rows): posteriors over these rows alone are still the law of which of
    # *them* a draw came from.
    logs = np.asarray(logs[draws][:, present], np.float64)
    if np.isnan(logs).any() or (logs == np.inf).any():
        bad = logs[np.isnan(logs) | (logs == np.inf)][0]
        msg = f"log_density must be a number below infinity; got {bad}"
        raise ValueError(msg)
    impossible = int((logs[np.arange(len(draws)), own] == -np.inf).sum())
    values = _as_one([np.asarray(leaf[draws]) for leaf in jax.tree.leaves(samples)])
    # Three statistics, and Bonferroni's factor below for having looked at three.
    tests = [_posterior(logs, own), *_by_halves(values, logs, own)]
    p_value = min(1.0, len(tests) * min(p for _, p in tests))
    return DensityCheck(
        # The density rules out what the sampler drew: no statistics are needed.
        0.0 if impossible else p_value,
        np.array([score for score, _ in tests]),
        impossible,
        len(draws),
    )


def _as_one(parts: list[np.ndarray]) -> np.ndarray:
    """Draws as one array, leading axis the draws."""
    if len(parts) == 1:
        return parts[0]
    flat = [part.reshape(len(part), -1).astype(np.float64) for part in parts]
    return np.concatenate(flat, axis=1)


def _posterior(logs: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    posterior = _normalised(logs)
    # Cut from below, so that t has a bounded reach: Bernstein's inequality needs one,
    # and log posteriors have none.
    floor = -math.log(logs.shape[1]) - _FLOOR
    with np.errstate(divide="ignore"):
        t = np.maximum(np.log(posterior), floor)
    return _score(t, posterior, own)


def _by_halves(
    values: np.ndarray, logs: np.ndarray, own: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What one half of the draws proposes, tested on the other."""
    # Alternately in each row, so that both halves have draws of all.
    order = np.argsort(own, kind="stable")
    number = np.empty_like(own)
    number[order] = np.arange(len(own))
    first = number % 2 == 0
    one, two = np.flatnonzero(first), np.flatnonzero(~first)
    # Nothing to test on: no evidence against.
    if len(two) == 0:
        return (0.0, 1.0), (0.0, 1.0)
    # Only rows that the second half has draws of: their prior is equal by the weights.
    present, within = np.unique(own[two], return_inverse=True)
    posterior = _normalised(logs[two][:, present])
    # How often π names a row, over the mean of 1; under a right density about 1.
    named = _normalised(logs[one])[:, present].mean(axis=0) * logs.shape[1]
    proposal = np.broadcast_to(np.clip(named - 1.0, -1.0, 1.0), posterior.shape)
    # One draw a row, the nearest, would say too little where rows are much alike.
    # (two, one): what is proposed depends on the first half alone, so that given a_j it
    # is a fixed function of i.
    nearness = _nearness(values[two], values[one])
    # (one, rows)
    is_of = own[one][:, None] == present[None, :]
    of_rows = nearness @ is_of / np.maximum(is_of.sum(axis=0), 1)
    return (
        _score(proposal, posterior, within),
        _score(of_rows, posterior, within),
    )


def _normalised(logs: np.ndarray) -> np.ndarray:
    """Posteriors of equal prior; uniform where all densities are 0."""
    # The largest is taken off, or densities in many coordinates would all underflow.
    top = logs.max(axis=1, keepdims=True)
    logs = np.where(np.isfinite(top), logs - np.where(np.isfinite(top), top, 0.0), 0.0)
    weights = np.exp(logs)
    return weights / weights.sum(axis=1, keepdims=True)


def _score(
    t: np.ndarray, posterior: np.ndarray, own: np.ndarray
) -> tuple[float, float]:
    """S over its standard deviation, and a bound on the p-value.

    Rows count alike however often they were drawn: then the mean over rows of what a
    row adds is 0, and with weights w_j the variance at most max w · Σ_j w_j Var t_j.
    """
    num_rows = posterior.shape[1]
    counts = np.bincount(own, minlength=num_rows)
    # So many draws as a row has, so much less each counts: π has an equal prior.
    w = len(own) / (counts > 0).sum() / counts[own]
    # (draws,): E_π t_j and Var_π t_j.
    mean = (posterior * t).sum(axis=1)
    variance = (posterior * (t - mean[:, None]) ** 2).sum(axis=1)
    total = float((w * (t[np.arange(len(own)), own] - mean)).sum())
    spread = float(w.max() * (w * variance).sum())
    # The most that one draw can add, for Bernstein's inequality.
    reach = float(w.max() * (t.max(axis=1) - t.min(axis=1)).max())
    # Sums of so many differences round.
    noise = 1e-6 * max(reach, 1.0) * len(own) ** 0.5
    beyond = max(abs(total) - noise, 0.0)
    if beyond == 0.0:
        return 0.0, 1.0
    # Bernstein: P(|S| ≥ s) ≤ 2 exp(−s² / (2 (V + R s / 3))). A normal law would do for
    # the middle and not for p-values of 10⁻⁶.
    exponent = beyond**2 / (2.0 * (spread + reach * beyond / 3.0))
    score = math.copysign(beyond, total) / math.sqrt(max(spread, noise**2))
    return score, min(1.0, 2.0 * math.exp(-exponent))


def _nearness(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """−log of the share of `among` that is as near to each value, at most log 16."""
    distances = np.array(list(_distances(values, among)))
    order = np.argsort(distances, axis=1)
    ordered = np.take_along_axis(distances, order, axis=1)
    # The mean of both sides: ties, as of integers, share their rank.
    is_new = ordered[:, 1:] != ordered[:, :-1]
    edge, place = np.ones((len(ordered), 1), bool), np.arange(ordered.shape[1])
    first = np.where(np.hstack([edge, is_new]), place, 0)
    last = np.where(np.hstack([is_new, edge]), place + 1, len(place))
    first = np.maximum.accumulate(first, axis=1)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(distances.shape)
    np.put_along_axis(ranks, order, 0.5 * (first + last), axis=1)
    return np.minimum(-np.log(ranks / len(among)), math.log(_ALIKE))


def _distances(values: np.ndarray, among: np.ndarray) -> Iterator[np.ndarray]:
    """Of each value from the others: squared, or of integers how many differ."""
    flat, others = (x.reshape(len(x), -1) for x in (values, among))
    if not jnp.issubdtype(flat.dtype, jnp.inexact):
        flat, others = (x.astype(np.float64) for x in (flat, others))
        width = 1.0 + np.ptp(others)
        for one in flat:
            # How far, where as many differ.
            by = np.abs(one[None, :] - others)
            yield (by > 0).sum(axis=1) + np.minimum(by / width, 1.0).mean(axis=1) / 2
        return
    # NaN may be a value, as the `fill` of an erasure.
    flat, others = (np.nan_to_num(x.astype(np.float64)) for x in (flat, others))
    # Columns of unlike units count alike.
    center, scale = others.mean(axis=0), others.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    flat, others = ((x - center) / scale for x in (flat, others))
    # |b|² − 2 ⟨a, b⟩: ranks do not see the |a|² that all share.
    norms = (others**2).sum(axis=1)
    yield from norms[None, :] - 2.0 * flat @ others.T
