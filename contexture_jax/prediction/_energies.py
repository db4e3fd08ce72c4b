"""What a small labelled sample says of a target along functions, and of its noise."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, Float

__all__ = ["Expected", "Forms", "expected_of", "share_misclassified"]

_POWERS = (0.0, 1.0, 2.0, 4.0, 8.0)  # p in v_i ∝ s_i^p
_RATIOS = tuple(np.geomspace(1e-3, 1e3, 25).tolist())  # of signal to noise
_NODES, _MASSES = np.polynomial.hermite_e.hermegauss(24)


class Forms(NamedTuple):
    """Figures uᵀ S u + e σ² of a target with the coefficients u and the noise σ².

    Attributes:
        signal: S, symmetric, shape (k, d, d).
        noise: e, shape (k,).
    """

    signal: Float[Array, "k d d"]
    noise: Float[Array, " k"]


class Expected(NamedTuple):
    """Figures over the variance, averaged over beliefs by how likely they make labels.

    Attributes:
        values: shape (k,).
        standard_errors: of them, shape (k,).
        energies: u_i², shape (d,).
        rest: σ², shape ().
    """

    values: Float[Array, " k"]
    standard_errors: Float[Array, " k"]
    energies: Float[Array, " d"]
    rest: Float[Array, ""]


# Decompositions one after the other, which an eager call would trace each time.
@functools.partial(jax.jit, static_argnames=("of_classes",))
def expected_of(
    mu: Float[Array, "l d"],
    y: Float[Array, "l c"],
    spectrum: Float[Array, " d"] | None,
    covariance: Float[Array, "d d"],
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
    rows, columns = y.shape
    # Of so many columns that are free.
    free = columns - 1 if of_classes else columns
    degrees = (rows - 1) * free
    mu, y = (x - x.mean(axis=0, keepdims=True) for x in (mu, y))
    # The variance is one form more.
    one = Forms(covariance[None], jnp.ones_like(forms.noise[:1]))
    forms = jax.tree.map(lambda *parts: jnp.concatenate(parts), forms, one)
    powers = jnp.asarray(_POWERS, mu.dtype)
    fall = jnp.ones_like(mu[0])
    if spectrum is None:
        powers = powers[:1]
    else:
        fall = safe_divide(spectrum, spectrum.max())
    priors = fall[None, :] ** powers[:, None]
    found = jax.lax.map(
        lambda v: _believed(v, mu, y, forms, free, degrees),
        priors / priors.sum(axis=1, keepdims=True),
    )
    # (beliefs, …)
    density, values, variance, energies, rest = (
        part.reshape(-1, *part.shape[2:]) for part in found
    )
    weights = jax.nn.softmax(density)
    mean = mm(weights[None, :], values)[0]
    variance = mm(weights[None, :], variance + (values - mean[None, :]) ** 2)[0]
    return Expected(
        mean,
        jnp.sqrt(variance),
        mm(weights[None, :], energies)[0],
        jnp.sum(weights * rest),
    )


def _believed(
    v: Float[Array, " d"],
    mu: Float[Array, "l d"],
    y: Float[Array, "l c"],
    forms: Forms,
    free: int,
    degrees: int,
) -> tuple[Array, ...]:
    """For one v and each ρ: the density, quotients, their variance, energies, rest."""
    ratios = jnp.asarray(_RATIOS, mu.dtype)[:, None]
    left, s, right = thin_svd(mu * jnp.sqrt(v)[None, :])
    # (k, c) and (k,): labels along directions of the sample, and energies there.
    along = mm(left.T, y)
    seen = jnp.sum(along**2, axis=1)
    # (ratios, k)
    grown = 1 + ratios * (s**2)[None, :]
    outside = jnp.maximum(jnp.sum(y**2) - seen.sum(), 0)
    squares = outside + jnp.sum(seen[None, :] / grown, axis=1)
    noise = jnp.maximum(squares / degrees, jnp.finfo(y.dtype).tiny)[:, None]
    density = -free / 2 * jnp.log(grown).sum(axis=1)
    density = density - degrees / 2 * jnp.log(noise[:, 0])
    # Of u given the labels: its mean, by directions, and how the labels narrow it.
    gain = ratios * s[None, :] / grown
    turned = right * jnp.sqrt(v)[None, :]
    inner = jax.lax.map(lambda form: mm(mm(turned, form), turned.T), forms.signal)
    outer = mm(along, along.T)[None] * inner
    of_means = jnp.einsum("rk,fkl,rl->rf", gain, outer, gain, precision="highest")
    narrowed = mm(gain * s[None, :], jnp.diagonal(inner, axis1=1, axis2=2).T)
    diagonal = jnp.diagonal(forms.signal, axis1=1, axis2=2)
    spread = jnp.maximum(mm(diagonal, v[:, None]).T - narrowed, 0)
    spread = free * ratios * noise * spread
    figures = of_means + spread + free * noise * forms.noise[None, :]
    # Single u_i: the squared mean over all columns, and the variance in one.
    columns = gain.T[:, :, None] * along[:, None, :]
    means = mm(turned.T, columns.reshape(len(s), -1))
    means = jnp.sum(means.reshape(len(v), -1, y.shape[1]) ** 2, axis=2).T
    own = jnp.maximum(v[None, :] - mm(gain * s[None, :], turned**2), 0)
    own = ratios * noise * own
    quotients, variance = _quotients(figures, diagonal, own, means, free)
    rest = free * noise / figures[:, -1:]
    moved = (forms.noise[None, :-1] - quotients) * rest
    variance = variance + moved**2 * (2 / degrees)
    energies = safe_divide(means + free * own, figures[:, -1:])
    return density, quotients, variance, energies, rest[:, 0]


def _quotients(
    figures: Array, diagonal: Array, own: Array, means: Array, free: int
) -> tuple[Array, Array]:
    """Figures over the last, and how the scatter of single u_i moves these."""
    whole = figures[:, -1:]
    quotients = figures[:, :-1] / whole
    scatter = own * (2 * free * own + 4 * means)
    moved = diagonal[None, :-1] - quotients[:, :, None] * diagonal[None, -1:]
    moved = moved / whole[:, :, None]
    return quotients, jnp.sum(moved**2 * scatter[:, None], axis=2)


@jax.jit
def share_misclassified(
    law: Float[Array, " C"],
    shared: Float[Array, " sizes"],
    own: Float[Array, " sizes"],
) -> Float[Array, " sizes"]:
    """The share that the largest score misclassifies, scores being normal in a class.

    Args:
        law: shares of the classes.
        shared: the covariance of scores with indicators over the variance of these,
            summed over the classes.
        own: the variance of the scores, likewise.
    """
    dtype = law.dtype
    variance = jnp.sum(law * (1 - law))
    within = jnp.maximum(own - shared**2, 0) * variance / (len(law) - 1)
    width = jnp.sqrt(jnp.maximum(within, jnp.finfo(dtype).tiny))
    # (sizes, C, C): by how much a class has the larger score, on average.
    apart = law[:, None] - law[None, :]
    ahead = apart[None] + shared[:, None, None] * (1 - apart[None])
    nodes, masses = jnp.asarray(_NODES, dtype), jnp.asarray(_MASSES, dtype)
    steps = (ahead / width[:, None, None])[..., None] + nodes[None, None, None]
    others = ~jnp.eye(len(law), dtype=bool)[None, :, :, None]
    below = jnp.where(others, jax.scipy.stats.norm.logcdf(steps), 0)
    right = jnp.sum(jnp.exp(below.sum(axis=2)) * masses[None, None], axis=2)
    right = right / masses.sum()
    return jnp.clip(1 - mm(right, law[:, None])[:, 0], 0, 1)
