"""What a small labelled sample says of a target along functions, and of its noise."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.either import (
    Either,
    compiled_unless_numpy,
    mapped,
    namespace,
    product,
    quotient,
)
from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float

__all__ = ["Expected", "Forms", "expected_of", "share_misclassified"]

_POWERS = (0.0, 1.0, 2.0, 4.0, 8.0)  # p in v_i ∝ s_i^p
_RATIOS = tuple(np.geomspace(1e-3, 1e3, 25).tolist())  # of signal to noise
# Factors of how far classes are apart, and how often their range is halved.
_FURTHEST, _HALVINGS = 4.0, 20
_NODES, _MASSES = np.polynomial.hermite_e.hermegauss(24)


class Forms(NamedTuple):
    """Figures uᵀ S u + e σ² of a target with the coefficients u and the noise σ².

    Attributes:
        signal: S, symmetric, shape (k, d, d).
        noise: e, shape (k,).
    """

    signal: Float[Any, "k d d"]
    noise: Float[Any, " k"]


class Expected(NamedTuple):
    """Figures over the variance, averaged over beliefs by how likely they make labels.

    Attributes:
        values: shape (k,).
        standard_errors: of them, shape (k,).
        energies: u_i², shape (d,).
        rest: σ², shape ().
    """

    values: Float[Any, " k"]
    standard_errors: Float[Any, " k"]
    energies: Float[Any, " d"]
    rest: Float[Any, ""]


# Decompositions one after the other, which an eager call would trace each time.
@functools.partial(compiled_unless_numpy, static_argnames=("of_classes",))
def expected_of(
    mu: Float[Any, "l d"],
    y: Float[Any, "l c"],
    spectrum: Float[Any, " d"] | None,
    covariance: Float[Any, "d d"],
    forms: Forms,
    *,
    of_classes: bool,
) -> Expected:
    """The mean of each form over the variance uᵀ C u + σ², given the labels.

    Of y = b + Σ u_i μ_i + ξ with ξ normal of variance σ² and u_i normal of variance
    ρ σ² v_i, Σ v_i = 1, v_i ∝ s_i^p, for p and ρ on a grid. σ² is what makes the
    labels likeliest, each (p, ρ) weighs as their density, b out of it (theory.md §8.4).

    Args:
        mu: functions at the labelled rows.
        y: columns of numbers, or indicators.
        spectrum: s_i; None: p = 0 alone.
        covariance: C, of the functions over all rows.
        forms: what is asked for.
        of_classes: whether columns are indicators, of which one follows from the rest.
    """
    xp, (rows, columns) = namespace(mu), y.shape
    # Of so many columns that are free.
    free = columns - 1 if of_classes else columns
    degrees = (rows - 1) * free
    mu, y = (x - x.mean(axis=0, keepdims=True) for x in (mu, y))
    # The variance is one form more.
    one = Forms(covariance[None], xp.ones_like(forms.noise[:1]))
    forms = jax.tree.map(lambda *parts: xp.concatenate(parts), forms, one)
    powers = xp.asarray(_POWERS, mu.dtype)
    fall = xp.ones_like(mu[0])
    if spectrum is None:
        powers = powers[:1]
    else:
        fall = quotient(spectrum, spectrum.max())
    priors = fall[None, :] ** powers[:, None]
    found = mapped(
        lambda v: _believed(v, mu, y, forms, free, degrees),
        priors / priors.sum(axis=1, keepdims=True),
    )
    # (beliefs, …)
    density, values, variance, energies, rest = (
        part.reshape(-1, *part.shape[2:]) for part in found
    )
    weights = xp.exp(density - density.max())
    weights = weights / weights.sum()
    mean = product(weights[None, :], values)[0]
    variance = product(weights[None, :], variance + (values - mean[None, :]) ** 2)[0]
    return Expected(
        mean,
        xp.sqrt(variance),
        product(weights[None, :], energies)[0],
        xp.sum(weights * rest),
    )


def _believed(
    v: Float[Any, " d"],
    mu: Float[Any, "l d"],
    y: Float[Any, "l c"],
    forms: Forms,
    free: int,
    degrees: int,
) -> tuple[Either, ...]:
    """For one v and each ρ: the density, quotients, their variance, energies, rest."""
    xp = namespace(mu)
    ratios = xp.asarray(_RATIOS, mu.dtype)[:, None]
    factors = thin_svd if xp is jnp else _thin_svd
    left, s, right = factors(mu * xp.sqrt(v)[None, :])
    # (k, c) and (k,): labels along directions of the sample, and energies there.
    along = product(left.T, y)
    seen = xp.sum(along**2, axis=1)
    # (ratios, k)
    grown = 1 + ratios * (s**2)[None, :]
    outside = xp.maximum(xp.sum(y**2) - seen.sum(), 0)
    squares = outside + xp.sum(seen[None, :] / grown, axis=1)
    noise = xp.maximum(squares / degrees, np.finfo(y.dtype).tiny)[:, None]
    density = -free / 2 * xp.log(grown).sum(axis=1)
    density = density - degrees / 2 * xp.log(noise[:, 0])
    # Of u given the labels: its mean, by directions, and how the labels narrow it.
    gain = ratios * s[None, :] / grown
    turned = right * xp.sqrt(v)[None, :]
    inner = mapped(lambda S: product(product(turned, S), turned.T), forms.signal)
    outer = product(along, along.T)[None] * inner
    # (forms, ratios), turned.
    of_means = mapped(lambda one: (product(gain, one) * gain).sum(axis=1), outer).T
    narrowed = product(gain * s[None, :], xp.diagonal(inner, axis1=1, axis2=2).T)
    diagonal = xp.diagonal(forms.signal, axis1=1, axis2=2)
    spread = xp.maximum(product(diagonal, v[:, None]).T - narrowed, 0)
    spread = free * ratios * noise * spread
    figures = of_means + spread + free * noise * forms.noise[None, :]
    # Single u_i: the squared mean over all columns, and the variance in one.
    columns = gain.T[:, :, None] * along[:, None, :]
    means = product(turned.T, columns.reshape(len(s), -1))
    means = xp.sum(means.reshape(len(v), -1, y.shape[1]) ** 2, axis=2).T
    own = xp.maximum(v[None, :] - product(gain * s[None, :], turned**2), 0)
    own = ratios * noise * own
    quotients, variance = _quotients(figures, diagonal, own, means, free)
    rest = free * noise / figures[:, -1:]
    moved = (forms.noise[None, :-1] - quotients) * rest
    shares = ratios * (s**2)[None, :] / grown
    tails = mapped(lambda share: _scatter_left_out(left, y, along, share), shares)
    variance = variance + moved**2 * xp.maximum(tails, 2 / degrees)[:, None]
    energies = quotient(means + free * own, figures[:, -1:])
    return density, quotients, variance, energies, rest[:, 0]


def _scatter_left_out(
    left: Float[Any, "l k"],
    y: Float[Any, "l c"],
    along: Float[Any, "k c"],
    share: Float[Any, " k"],
) -> Float[Any, ""]:
    """The variance of the mean squared residual over its square, by rows left out.

    2 / (l c) for normal noise. Of classes, where a few rows make all the error, more.
    """
    xp, rows = namespace(y), len(y)
    kept = 1 - 1 / rows - product(left**2, share[:, None])
    kept = xp.maximum(kept, float(np.finfo(y.dtype).eps) ** 0.5)
    fit = product(left, share[:, None] * along)
    squares = xp.sum(((y - fit) / kept) ** 2, axis=1)
    return xp.mean((quotient(squares, squares.mean()) - 1) ** 2) / rows


def _thin_svd(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.linalg.svd(a, full_matrices=False)


def _quotients(
    figures: Either, diagonal: Either, own: Either, means: Either, free: int
) -> tuple[Either, Either]:
    """Figures over the last, and how the scatter of single u_i moves these."""
    xp = namespace(figures)
    whole = figures[:, -1:]
    quotients = figures[:, :-1] / whole
    scatter = own * (2 * free * own + 4 * means)
    moved = diagonal[None, :-1] - quotients[:, :, None] * diagonal[None, -1:]
    moved = moved / whole[:, :, None]
    return quotients, xp.sum(moved**2 * scatter[:, None], axis=2)


@jax.jit
def share_misclassified(
    law: Float[Array, " C"],
    shared: Float[Array, " sizes"],
    own: Float[Array, " sizes"],
    last: Float[Array, ""],
    sureness: Float[Array, ""],
) -> Float[Array, " sizes"]:
    """The share that the largest score misclassifies, scores being normal in a class.

    By how many deviations classes are apart is off by one factor for all sizes, which
    makes the last of them what has been seen there.

    Args:
        law: shares of the classes.
        shared: the covariance of scores with indicators over the variance of these,
            summed over the classes.
        own: the variance of the scores, likewise.
        last: the share that is misclassified at the last size.
        sureness: how much that counts, beside 1 − it for what is said without it.
    """
    dtype = law.dtype
    variance = jnp.sum(law * (1 - law))
    within = jnp.maximum(own - shared**2, 0) * variance / (len(law) - 1)
    width = jnp.sqrt(jnp.maximum(within, jnp.finfo(dtype).tiny))
    # (sizes, C, C): by how much a class has the larger score, on average.
    apart = law[:, None] - law[None, :]
    ahead = apart[None] + shared[:, None, None] * (1 - apart[None])
    margins = ahead / width[:, None, None]
    seen = sureness * last + (1 - sureness) * _misclassified(law, margins[-1:])[0]

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        # Fewer are misclassified as classes are further apart.
        too_many = _misclassified(law, middle * margins[-1:])[0] > seen
        return jnp.where(too_many, middle, low), jnp.where(too_many, high, middle)

    ends = jnp.zeros((), dtype), jnp.full((), _FURTHEST, dtype)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
    return _misclassified(law, (low + high) / 2 * margins)


def _misclassified(
    law: Float[Array, " C"], margins: Float[Array, "sizes C C"]
) -> Float[Array, " sizes"]:
    dtype = law.dtype
    nodes, masses = jnp.asarray(_NODES, dtype), jnp.asarray(_MASSES, dtype)
    steps = margins[..., None] + nodes[None, None, None]
    others = ~jnp.eye(len(law), dtype=bool)[None, :, :, None]
    below = jnp.where(others, jax.scipy.stats.norm.logcdf(steps), 0)
    right = jnp.sum(jnp.exp(below.sum(axis=2)) * masses[None, None], axis=2)
    right = right / masses.sum()
    return jnp.clip(1 - mm(right, law[:, None])[:, 0], 0, 1)
