"""The error of ridge regression before it is trained, and as it is measured."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_device_array,
    as_floating,
    as_real,
    check_coefficient,
    check_integer,
    check_key,
    check_ndim,
    check_nonnegative,
    check_values,
)
from contexture_jax._core.either import (
    Either,
    as_devices,
    compiled_unless_numpy,
    little_at_hand,
    mapped,
    namespace,
    product,
)
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.prediction._energies import (
    Forms,
    expected_of,
    share_misclassified,
)
from contexture_jax.prediction._ridge import (
    as_ridges,
    fit_columns,
    inverse_of_penalised,
)
from contexture_jax.prediction._target import as_features, as_target

__all__ = [
    "ErrorForecast",
    "LearningCurve",
    "forecast_error",
    "learning_curve",
    "ridge_error",
]

_BISECTIONS = 100
_AS_SAID = 3.0  # rows left out that are thought to have gone as is said without them


@short_repr
class ErrorForecast(NamedTuple):
    """The error to expect of ridge regression on given numbers of labels.

    Attributes:
        errors: mean squared error on new rows over the variance of the target, shape
            (sizes,).
        standard_errors: of `errors`, by the labels that they were estimated from, shape
            (sizes,).
        energies: u_i² over that variance, shape (d,).
        rest: the share that no linear function of them tells, noise in it, shape ().
        misclassified: of classes the share that is, on new rows, shape (sizes,); None
            for numbers.
    """

    errors: Float[Array, " sizes"]
    standard_errors: Float[Array, " sizes"]
    energies: Float[Array, " d"]
    rest: Float[Array, ""]
    misclassified: Float[Array, " sizes"] | None = None


@short_repr
class LearningCurve(NamedTuple):
    """Errors on all rows that a fit has not seen.

    Attributes:
        num_samples: labels of each fit, shape (sizes,), int32.
        errors: the share that is misclassified, or `squared_errors`, shape (sizes,
            splits).
        squared_errors: the mean squared residual over the variance of the target, shape
            (sizes, splits).
    """

    num_samples: Int[Array, " sizes"]
    errors: Float[Array, "sizes splits"]
    squared_errors: Float[Array, "sizes splits"]


def ridge_error(
    energies: ArrayLike,
    num_samples: ArrayLike,
    *,
    ridge: ArrayLike,
    rest: ArrayLike = 0.0,
    eigenvalues: ArrayLike | None = None,
) -> Float[Array, " sizes"]:
    """The mean squared error of ridge regression on new rows, by a formula.

    Of y = b + Σ_i u_i μ_i + ξ, ξ of variance σ² and uncorrelated with all μ_i, fitted
    to n labels by the minimum of (1/n) Σ (y − b − Σ w_i √λ_i μ_i)² + β ‖w‖²:

        error = E₀ (Σ_i (1 − L_i)² u_i² + σ²),  L_i = λ_i / (λ_i + κ),
        E₀ = n / (n − 1 − Σ_i L_i²),  where κ solves  1 + Σ_i L_i + n β / κ = n.

    That is the deterministic equivalent of kernel ridge regression (Canatar, Bordelon &
    Pehlevan 2021; Simon, Dickens, Karkada & DeWeese 2023), with the bias as one more
    function, which is learned in full. Assumed: labels drawn independently from P_X;
    functions orthonormal there, and rows of them as if they were Gaussian, so that no
    row has a leverage far above the mean, and n and d not tiny, nor n within a few of
    d + 1 where β is small. Functions that live on a few rows, as of a graph with small
    components, break it. What is outside the functions counts as noise, in σ².

    Args:
        energies: u_i², shape (d,).
        num_samples: n, above 1, shape (sizes,) or ().
        ridge: β, not negative, shape ().
        rest: σ², shape ().
        eigenvalues: λ_i, shape (d,): s(s_i²) of `stkr`; None: 1, `ridge` on functions.

    Returns:
        The error, in the unit of the energies, for each n; infinite where β = 0 and
        n = d + 1.

    Raises:
        ValueError: if shapes differ or a number is out of range.
    """
    u = as_floating(energies, "energies")
    check_ndim(u, 1, "energies")
    _, learned, inflation = _shares_learned(u, num_samples, ridge, eigenvalues)
    missed = mm((1 - learned) ** 2, u[:, None])[:, 0]
    return inflation * (missed + jnp.asarray(rest, u.dtype))


def _shares_learned(
    u: Array, num_samples: ArrayLike, ridge: ArrayLike, eigenvalues: ArrayLike | None
) -> tuple[Float[Array, " sizes"], Float[Array, "sizes d"], Float[Array, " sizes"]]:
    """The n, L_i and E₀ for each, of what `ridge_error` takes, checked."""
    lam = jnp.ones_like(u)
    if eigenvalues is not None:
        lam = jnp.asarray(as_real(eigenvalues, "eigenvalues"), u.dtype)
        check_nonnegative(lam, "eigenvalues")
        if lam.shape != u.shape:
            msg = f"eigenvalues must have shape {u.shape}, as energies; got {lam.shape}"
            raise ValueError(msg)
    n = jnp.atleast_1d(jnp.asarray(as_real(num_samples, "num_samples"), u.dtype))
    check_ndim(n, 1, "num_samples")
    check_values(n, "num_samples", lambda v: v > 1, "above 1")
    check_coefficient(ridge, "ridge")
    return n, *_learnability(lam, n, jnp.asarray(ridge, u.dtype))


def _learnability(
    lam: Float[Array, " d"], n: Float[Array, " sizes"], beta: Float[Array, ""]
) -> tuple[Float[Array, "sizes d"], Float[Array, " sizes"]]:
    """L_i and E₀ for each n."""
    # κ lies below this, and where it ends up at the lower end it is 0 to rounding.
    top = (lam.sum() + n * beta) / (n - 1)
    tiny = jnp.log(jnp.finfo(lam.dtype).eps) * 2

    def shares(log_kappa: Array) -> tuple[Array, Array]:
        kappa = top * jnp.exp(log_kappa)
        return safe_divide(lam[None, :], lam[None, :] + kappa[:, None]), kappa

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        learned, kappa = shares(middle)
        # The left side falls as κ grows.
        above = 1 + learned.sum(axis=1) + safe_divide(n * beta, kappa) > n
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    ends = jnp.full_like(n, tiny), jnp.zeros_like(n)
    _, high = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)
    learned, _ = shares(high)
    room = n - 1 - jnp.sum(learned**2, axis=1)
    return learned, jnp.where(room > 0, safe_divide(n, room), jnp.inf)


def forecast_error(
    functions: ArrayLike,
    labels: ArrayLike,
    rows: ArrayLike,
    num_samples: ArrayLike,
    *,
    key: Array,
    ridge: float,
    singular_values: ArrayLike | None = None,
    num_draws: int = 20,
    num_classes: int | None = None,
) -> ErrorForecast:
    """The error of ridge regression on n labels, from a small labelled sample.

    How n rows drawn at random learn Σ u_i μ_i and noise of variance σ², and what they
    miss on all others, is known without a label: uᵀ S u + e σ², the mean over draws of
    rows. u and σ² are what the l labels speak for: of normal u_i with variances ∝ s_i^p
    and normal noise, p and the ratio of signal to noise averaged over a grid, each
    weighing as the density that it gives the labels. So few labels say little of each
    u_i, but together how much of the target the functions hold and how it falls along
    the spectrum. What they do not hold is noise. Columns of classes are pooled.

    The share misclassified is that of scores which are normal within a class, alike in
    all directions, with the mean and the scatter that u and σ² give at n labels, and
    classes closer or further by one factor for all n: that which makes it, of l labels,
    what these misclassify left out one by one. (Both derived in theory.md §8.4.)

    **When it is unreliable**: `standard_errors` hold what the labels leave open of u
    and σ², and how much of the error is in how few rows, by the labels left out one by
    one. Of classes that only rows at their borders get wrong, a sample holds a handful
    of these or none: the shares misclassified that several samples forecast scatter
    widely, each by about one factor for all n, and one without such a row cannot know
    that there are any. Of three classes or more, some of which are nearer than others,
    they fall too fast with n. Not held: that a target varies otherwise where it is
    outside the functions than noise does, nor the chance of single draws of n rows.

    Args:
        functions: μ_i on all rows, shape (N, d), of order 1: `result.left`.
        labels: of the labelled rows, as of `ridge`, shape (l,) or (l, c), l ≥ 4.
        rows: which rows these are, shape (l,).
        num_samples: n, between 2 and N − 1, shape (sizes,) or ().
        key: of the draws.
        ridge: β of `ridge` on the functions, one number.
        singular_values: s_i of the functions, shape (d,); None: p = 0, all alike.
        num_draws: for each n.
        num_classes: as of `ridge`.

    Raises:
        TypeError: as `ridge`.
        ValueError: as `ridge`, if there are fewer than 4 labels, or a number is out of
            range.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> rng = np.random.default_rng(0)
        >>> mu = np.linalg.qr(rng.normal(size=(2000, 20)))[0] * 2000**0.5
        >>> y = (mu[:, 0] + 0.5 * rng.normal(size=2000)).astype("float32")
        >>> mu, rows = mu.astype("float32"), np.arange(100)
        >>> how = {"key": jax.random.key(0), "num_samples": [400]}
        >>> told = cx.prediction.forecast_error(mu, y[rows], rows, ridge=0.01, **how)
        >>> measured = cx.prediction.learning_curve(mu, y, ridges=0.01, **how)
        >>> bool(abs(told.errors[0] / measured.squared_errors.mean() - 1) < 0.2)
        True
    """
    mu = as_features(functions, "functions")
    at = as_device_array(rows, "rows")
    if not jnp.issubdtype(at.dtype, jnp.integer):
        raise TypeError(f"rows must hold numbers of rows; got dtype {at.dtype}")
    check_ndim(at, 1, "rows")
    total, count = len(mu), len(at)
    if not 4 <= count <= total:
        msg = f"rows must name at least 4 labelled rows and at most {total}; got"
        raise ValueError(f"{msg} {count}")
    check_values(
        at, "rows", lambda v: (v >= 0) & (v < total), f"between 0 and {total - 1}"
    )
    target = as_target(labels, count, mu.dtype, num_classes, name="labels")
    columns, of_classes = target.columns, target.classes is not None
    spectrum = None
    if singular_values is not None:
        spectrum = jnp.asarray(as_real(singular_values, "singular_values"), mu.dtype)
        check_nonnegative(spectrum, "singular_values")
        if spectrum.shape != mu.shape[1:]:
            msg = (
                f"singular_values must have shape {mu.shape[1:]}, one a function; got"
                f" {spectrum.shape}"
            )
            raise ValueError(msg)
    check_key(key)
    beta = jnp.asarray(check_coefficient(ridge, "ridge"), mu.dtype)
    sizes = _as_sizes(num_samples, total)
    draws = _draws(key, check_integer(num_draws, "num_draws", low=1), total)
    given = mu, at, columns, spectrum, draws, beta
    mu, at, columns, spectrum, draws, beta = little_at_hand(given)
    # The labels themselves, one left out, come last.
    whole = [_learned(mu, draws, beta, size=n) for n in (*sizes, count - 1)]
    xp = namespace(mu)
    forms = jax.tree.map(lambda *parts: xp.concatenate(parts), *whole)
    told = expected_of(
        mu[at], columns, spectrum, _covariance(mu), forms, of_classes=of_classes
    )
    # (sizes + 1, 3): errors, scores with themselves, and what there is to learn.
    values = told.values.reshape(-1, 3)
    wrong = None
    if of_classes:
        noise = forms.noise.reshape(-1, 3)
        # Of scores with the target: of the three, less what the noise has in them.
        shared = values[:, 2] + values[:, 1] - values[:, 0]
        shared = (shared + (noise[:, 0] - noise[:, 1]) * told.rest) / 2
        law = columns.mean(axis=0)
        seen = _misclassified_left_out(mu[at], columns, beta)
        sureness = xp.asarray(count / (count + _AS_SAID), law.dtype)
        wrong = share_misclassified(law, shared, values[:, 1], seen, sureness)[:-1]
    errors = told.standard_errors.reshape(-1, 3)[:-1, 0]
    found = values[:-1, 0], errors, told.energies, told.rest
    return ErrorForecast(*as_devices(found), misclassified=wrong)


def _as_sizes(num_samples: ArrayLike, total: int) -> list[int]:
    return [
        check_integer(n, "num_samples", low=2, high=total - 1)
        for n in np.atleast_1d(num_samples).tolist()
    ]


def _draws(key: Array, count: int, total: int) -> Int[Array, "draws N"]:
    return jax.vmap(lambda k: jax.random.permutation(k, total))(
        jax.random.split(key, count)
    )


@compiled_unless_numpy
def _covariance(mu: Either) -> Either:
    z = mu - mu.mean(axis=0, keepdims=True)
    return product(z.T, z) / len(mu)


@functools.partial(compiled_unless_numpy, static_argnames=("size",))
def _learned(mu: Either, draws: Either, beta: Either, *, size: int) -> Forms:
    """What ridge regression on n rows makes of u and σ² on the others, three forms.

    Its error, the variance of its scores, and the variance of the functions.
    """
    xp, (total, d) = namespace(mu), mu.shape
    sums, squares = mu.sum(axis=0), product(mu.T, mu)

    def one(draw: Either) -> Forms:
        seen = mu[draw[:size]]
        mean = seen.mean(axis=0)
        z = seen - mean[None, :]
        gram = product(z.T, z) / size
        inverse = inverse_of_penalised(gram, beta, size)
        inverse = product(inverse.T, inverse)
        # Of the other rows about the mean of these.
        rest, center = total - size, sums - size * mean
        other = (squares - product(seen.T, seen)) / rest
        cross = xp.outer(center / rest, mean)
        other = other - cross - cross.T + xp.outer(mean, mean)
        # û = A u + R zᵀ ξ / n with A = R G, so that u − û has I − A.
        kept = product(inverse, gram)
        missed = xp.eye(d, dtype=mu.dtype) - kept
        signal = [product(product(m.T, other), m) for m in (missed, kept)]
        scatter = xp.sum(product(kept, inverse) * other) / size
        own = xp.stack([1 + 1 / size + scatter, scatter, xp.zeros_like(scatter)])
        return Forms(xp.stack([*signal, other]), own)

    return jax.tree.map(lambda part: part.mean(axis=0), mapped(one, draws))


def _misclassified_left_out(z: Either, y: Either, ridge: Either) -> Float[Any, ""]:
    """The share of rows that are, each by a fit to the others."""
    xp, rows = namespace(z), len(z)
    p = xp.full(rows, 1 / rows, z.dtype)
    # Weights of rows stay 1 / l where one is left out.
    alpha = xp.reshape(ridge * (rows - 1) / rows, (1,))
    how: Any = {"dims": (z.shape[1],), "of_classes": True, "standardize": False}
    *_, errors, _ = fit_columns(z, y, p, None, alpha, **how)
    return errors[0, 0]


def learning_curve(
    features: ArrayLike,
    y: ArrayLike,
    num_samples: ArrayLike,
    *,
    key: Array,
    ridges: ArrayLike = 1e-3,
    num_splits: int = 10,
    num_classes: int | None = None,
) -> LearningCurve:
    """The error of `ridge` on n rows drawn at random, on all others.

    Of several α each fit takes the one with the least error on rows left out one by
    one.

    Args:
        features: shape (N, d).
        y: as of `ridge`, shape (N,) or (N, c).
        num_samples: n, between 2 and N − 1, shape (sizes,) or ().
        key: for the draws: those of a smaller n are a part of those of a larger.
        ridges: as of `ridge`.
        num_splits: draws.
        num_classes: as of `ridge`.

    Raises:
        TypeError: as `ridge`.
        ValueError: as `ridge`, and if a number is out of range.
    """
    z = as_features(features, "features")
    total = z.shape[0]
    target = as_target(y, total, z.dtype, num_classes)
    check_key(key)
    sizes = _as_sizes(num_samples, total)
    draws = _draws(key, check_integer(num_splits, "num_splits", low=1), total)
    values, of_classes = as_ridges(ridges, z.dtype), target.classes is not None
    given = little_at_hand((z, target.columns, draws, values))
    found = [_measured(*given, size=n, of_classes=of_classes) for n in sizes]
    errors, squared = (
        as_devices(namespace(part[0]).stack(part)) for part in zip(*found, strict=True)
    )
    return LearningCurve(jnp.asarray(np.asarray(sizes, np.int32)), errors, squared)


# All fits of one size, one after the other, as one program.
@functools.partial(compiled_unless_numpy, static_argnames=("size", "of_classes"))
def _measured(
    z: Either, y: Either, draws: Either, ridges: Either, *, size: int, of_classes: bool
) -> tuple[Either, Either]:
    xp = namespace(z)
    # (1,): the variance of all, which does not depend on the draw.
    variance = xp.mean(xp.sum((y - y.mean(axis=0, keepdims=True)) ** 2, axis=1))

    def one(draw: Either) -> tuple[Either, Either]:
        train, test = draw[:size], draw[size:]
        p = xp.full(size, 1 / size, z.dtype)
        slopes, intercept, *_ = fit_columns(
            z[train],
            y[train],
            p,
            None,
            ridges,
            dims=(z.shape[1],),
            of_classes=of_classes,
            standardize=False,
        )
        guess = product(z[test], slopes) + intercept[None, :]
        squared = xp.mean(xp.sum((guess - y[test]) ** 2, axis=1)) / variance
        wrong = xp.argmax(guess, axis=1) != xp.argmax(y[test], axis=1)
        return xp.mean(wrong, dtype=z.dtype) if of_classes else squared, squared

    return mapped(one, draws)
