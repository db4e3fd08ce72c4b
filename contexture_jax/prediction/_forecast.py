"""The error of ridge regression before it is trained, and as it is measured."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    as_real,
    check_coefficient,
    check_integer,
    check_key,
    check_ndim,
    check_nonnegative,
    check_values,
)
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.prediction._ridge import (
    RIDGES,
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


@short_repr
class ErrorForecast(NamedTuple):
    """The error to expect of ridge regression on given numbers of labels.

    Attributes:
        errors: mean squared error on new rows over the variance of the target, shape
            (sizes,).
        standard_errors: of `errors`, by the labels that they were estimated from, shape
            (sizes,).
        energies: the share of the variance along each function, shape (d,).
        rest: the share that no linear function of them tells, noise in it, shape ().
    """

    errors: Float[Array, " sizes"]
    standard_errors: Float[Array, " sizes"]
    energies: Float[Array, " d"]
    rest: Float[Array, ""]


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
    slopes, inflation = _slopes(u, num_samples, ridge, eigenvalues)
    return mm(slopes, u[:, None])[:, 0] + inflation * jnp.asarray(rest, u.dtype)


def _slopes(
    u: Array, num_samples: ArrayLike, ridge: ArrayLike, eigenvalues: ArrayLike | None
) -> tuple[Float[Array, "sizes d"], Float[Array, " sizes"]]:
    """What each energy and what the rest weighs in the error, for each n."""
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
    learned, inflation = _learnability(lam, n, jnp.asarray(ridge, u.dtype))
    return inflation[:, None] * (1 - learned) ** 2, inflation


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
    y: ArrayLike,
    num_samples: ArrayLike,
    *,
    ridge: ArrayLike,
    eigenvalues: ArrayLike | None = None,
    num_classes: int | None = None,
) -> ErrorForecast:
    """The error of ridge regression on n labels, from a small labelled sample.

    What l labelled rows tell: their own error E, each row left out in turn, by the best
    of a few ridges. `ridge_error` at l − 1 labels, solved for the share t of the
    variance along all functions together, gives t; the rest 1 − t is noise and what
    the functions do not hold, which ridge regression cannot tell apart. Within t each
    function has its part by û_i² = (Σ_j z_ij)² − Σ_j z_ij², z_ij = ỹ_j μ_i(x_j), where
    that is positive: it has the mean of a multiple of u_i², and matters only where
    eigenvalues differ. Columns of classes are pooled. Standard errors are those of E
    over the l rows, carried on; they say nothing of the assumptions that `ridge_error`
    names.

    Args:
        functions: μ_i on the labelled rows, shape (l, d), which are orthonormal in
            L²(P_X) on all rows: `result.left[rows]`.
        y: of the labelled rows, as of `ridge`, shape (l,) or (l, c).
        num_samples: n, shape (sizes,) or ().
        ridge: β.
        eigenvalues: as of `ridge_error`.
        num_classes: as of `ridge`.

    Raises:
        TypeError: as `ridge`.
        ValueError: as `ridge` and `ridge_error`, and if there are fewer than 4 rows.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> rng = np.random.default_rng(0)
        >>> mu = np.linalg.qr(rng.normal(size=(4000, 20)))[0] * 4000**0.5
        >>> y = (mu[:, 0] + 0.5 * rng.normal(size=4000)).astype("float32")
        >>> mu = mu.astype("float32")
        >>> told = cx.prediction.forecast_error(mu[:300], y[:300], [100], ridge=0.01)
        >>> measured = cx.prediction.learning_curve(
        ...     mu, y, [100], ridges=0.01, key=jax.random.key(0)
        ... )
        >>> bool(abs(told.errors[0] / measured.squared_errors.mean() - 1) < 0.2)
        True
    """
    mu = as_features(functions, "functions")
    rows = mu.shape[0]
    if rows < 4:
        raise ValueError(f"functions must have at least 4 rows; got {rows}")
    columns = as_target(y, rows, mu.dtype, num_classes).columns
    y_rest = columns - columns.mean(axis=0, keepdims=True)
    sums = mm(mu.T, y_rest)
    pairs = jnp.sum(sums**2, axis=1) - mm((mu**2).T, y_rest**2).sum(axis=1)
    parts = jnp.maximum(pairs, 0)
    parts = jnp.where(parts.sum() > 0, safe_divide(parts, parts.sum()), 1 / len(parts))
    lam = jnp.ones_like(parts)
    if eigenvalues is not None:
        lam = jnp.asarray(as_real(eigenvalues, "eigenvalues"), mu.dtype)
    slopes, inflation = _slopes(parts, num_samples, ridge, eigenvalues)
    alpha, error, deviation = _left_out(mu * jnp.sqrt(lam)[None, :], columns)
    # Weights of rows stay 1 / l where one is left out.
    own = rows - 1, alpha * rows / (rows - 1), eigenvalues
    own_slopes, own_inflation = _slopes(parts, *own)
    # Both are straight lines in t: from all noise to none.
    line = mm(own_slopes, parts[:, None])[0, 0] - own_inflation[0]
    share = jnp.clip((error - own_inflation[0]) / line, 0, 1)
    steep = mm(slopes, parts[:, None])[:, 0] - inflation
    return ErrorForecast(
        inflation + share * steep,
        jnp.abs(steep / line) * deviation,
        share * parts,
        1 - share,
    )


def _left_out(z: Array, y: Array) -> tuple[Array, Array, Array]:
    """The best α, the error on rows left out one by one, and its deviation."""
    rows = len(z)
    p, grid = jnp.full(rows, 1 / rows, z.dtype), as_ridges(RIDGES, z.dtype)
    slopes, _, alpha, *_ = fit_columns(
        z,
        y,
        p,
        None,
        grid,
        dims=(z.shape[1],),
        of_classes=False,
        standardize=False,
    )
    z = z - z.mean(axis=0, keepdims=True)
    inverse = inverse_of_penalised(mm(z.T, z) / rows, alpha, rows)
    leverage = (1 + jnp.sum(mm(z, inverse.T) ** 2, axis=1)) / rows
    y = y - y.mean(axis=0, keepdims=True)
    rest = safe_divide(y - mm(z, slopes), (1 - leverage)[:, None])
    lengths, spread = jnp.sum(rest**2, axis=1), jnp.sum(y**2, axis=1)
    error = lengths.mean() / (spread.sum() / (rows - 1))
    # Of a quotient of two means.
    apart = (lengths - error * spread) / spread.mean()
    return alpha, error, jnp.std(apart) / rows**0.5


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
    num_splits = check_integer(num_splits, "num_splits", low=1)
    sizes = [
        check_integer(n, "num_samples", low=2, high=total - 1)
        for n in np.atleast_1d(num_samples).tolist()
    ]
    draws = jax.vmap(lambda k: jax.random.permutation(k, total))(
        jax.random.split(key, num_splits)
    )
    values, of_classes = as_ridges(ridges, z.dtype), target.classes is not None
    found = [
        _measured(z, target.columns, draws, values, size=n, of_classes=of_classes)
        for n in sizes
    ]
    errors, squared = (jnp.stack(part) for part in zip(*found, strict=True))
    return LearningCurve(jnp.asarray(sizes, jnp.int32), errors, squared)


# All fits of one size, one after the other, as one program.
@functools.partial(jax.jit, static_argnames=("size", "of_classes"))
def _measured(
    z: Array, y: Array, draws: Array, ridges: Array, *, size: int, of_classes: bool
) -> tuple[Array, Array]:
    # (1,): the variance of all, which does not depend on the draw.
    variance = jnp.mean(jnp.sum((y - y.mean(axis=0, keepdims=True)) ** 2, axis=1))

    def one(draw: Array) -> tuple[Array, Array]:
        train, test = draw[:size], draw[size:]
        p = jnp.full(size, 1 / size, z.dtype)
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
        guess = mm(z[test], slopes) + intercept[None, :]
        squared = jnp.mean(jnp.sum((guess - y[test]) ** 2, axis=1)) / variance
        wrong = jnp.argmax(guess, axis=1) != jnp.argmax(y[test], axis=1)
        return jnp.mean(wrong, dtype=z.dtype) if of_classes else squared, squared

    return jax.lax.map(one, draws)
