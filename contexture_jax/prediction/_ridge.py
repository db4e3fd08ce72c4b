"""Ridge regression, with its penalty and number of functions chosen in closed form."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_real, check_integer, check_nonnegative
from contexture_jax._core.either import (
    Either,
    as_devices,
    compiled_unless_numpy,
    inverse_factor,
    little_at_hand,
    mapped,
    namespace,
    product,
    quotient,
    scanned,
)
from contexture_jax._core.numerics import rank_cutoff
from contexture_jax._core.scaling import rescaled_either, times_power_of_two
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    summary,
)
from contexture_jax.prediction._target import (
    Scored,
    as_features,
    as_target,
    as_weights,
    fold_rows,
)

__all__ = [
    "RIDGES",
    "RidgeFit",
    "as_ridges",
    "fit_columns",
    "inverse_of_penalised",
    "least",
    "linear_scores",
    "ridge",
    "scaled",
]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@pytree_dataclass
class RidgeFit(Scored):
    """A linear function of features, and how it did on rows left out.

    Attributes:
        weights: shape (d, c); 0 beyond the first `dim` features.
        intercept: shape (c,).
        ridge: the α that was chosen, shape ().
        dim: the number of features that was, shape (), int32.
        errors: on rows left out, one row a number of features and one column an α: the
            share that is misclassified, or `squared_errors`. Shape (dims, ridges).
        squared_errors: the mean squared residual over the variance, columns pooled;
            infinite where the others say nothing of some row.
    """

    weights: Float[Array, "d c"]
    intercept: Float[Array, " c"]
    ridge: Float[Array, ""]
    dim: Int[Array, ""]
    errors: Float[Array, "dims ridges"]
    squared_errors: Float[Array, "dims ridges"]

    def scores(self, features: ArrayLike) -> Float[Array, "k c"]:
        """The values at other rows: one column a target or class."""
        x = as_features(features, "features", self.weights.shape[0])
        return linear_scores(x, self.weights, self.intercept)

    def predict(self, features: ArrayLike) -> Array | np.ndarray:
        """Classes, or numbers in the form of the target, at other rows."""
        return self.decided(self.scores(features))


def ridge(
    features: ArrayLike,
    y: ArrayLike,
    *,
    ridges: ArrayLike = RIDGES,
    dims: Sequence[int] | None = None,
    folds: int | ArrayLike | None = None,
    weights: ArrayLike | None = None,
    standardize: bool = False,
    num_classes: int | None = None,
) -> RidgeFit:
    """Ridge regression on the first d features, α and d by rows left out.

    w, b = argmin Σ_i p_i ‖y_i − b − z_i w‖² + α ‖w‖², p the weights over their sum.
    Classes are indicators, predicted by the largest value.

    All errors come from one Cholesky factor A = L Lᵀ for each α, of A = Φᵀ P Φ + α I
    with Φ = (1, z) and no penalty on the 1: the factor of the first d features is its
    leading part, so that with U = Φ L⁻ᵀ and V = L⁻¹ Φᵀ P Y the fit of the first d is
    Σ_{j≤d} U_j V_j, for every d at once. Of rows left out one by one the residual is
    that of the fit over 1 − h_i, h_i = p_i Σ_{j≤d} U_ij² (PRESS: Allen 1974). Of folds
    A is the sum over the others, each added once and none subtracted. Penalties are
    absolute, and weights of the rows that stay are not raised: leaving out one row or a
    fold of one row is the same.

    An α below the rounding of A, 10 √max(n, d + 1) · eps times its diagonal, counts as
    that: dependent features give the weights of little length. Pass by `jax.jit` and
    `jax.vmap`; each column of several targets has its own α and d by `jax.vmap` over
    them.

    Args:
        features: z, shape (n, d), of order 1 as the functions of `svd` are, or see
            `standardize`.
        y: floating numbers, shape (n,) or (n, c), or classes of any kind, shape (n,).
        ridges: values of α, not negative.
        dims: values of d; None: all features.
        folds: None: rows one by one; k: row i in fold i mod k; or names of the folds,
            shape (n,).
        weights: of the rows, shape (n,); None: alike.
        standardize: whether features are divided by their standard deviation first;
            weights come back in the unit of the features.
        num_classes: C for classes 0, …, C − 1; needed inside a trace.

    Raises:
        TypeError: if the target is neither numbers nor classes, or folds are traced.
        ValueError: if rows do not match, a number is not finite or out of range, there
            is one class, or a class without a row.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
        >>> fit = cx.prediction.ridge(x, x[:, 0] - 2 * x[:, 1], dims=[1, 2, 3])
        >>> int(fit.dim) >= 2, bool(fit.squared_errors.min() < 1e-3)
        (True, True)
        >>> fit.predict(x[:5]).shape
        (5,)
    """
    z = as_features(features, "features")
    n, d = z.shape
    target = as_target(y, n, z.dtype, num_classes)
    p = as_weights(weights, n, z.dtype)
    sizes = as_dims(dims, d)
    blocks = None if folds is None else fold_rows(folds, n)
    found = fit_columns(
        *little_at_hand((z, target.columns, p, blocks, as_ridges(ridges, z.dtype))),
        dims=sizes,
        of_classes=target.classes is not None,
        standardize=standardize,
    )
    return RidgeFit(target.classes, target.is_vector, *as_devices(found))


def linear_scores(x: Any, weights: Any, intercept: Any) -> Float[Array, "k c"]:
    """X w + b, in the dtype of the weights."""
    x, w, b = little_at_hand((x, weights, intercept))
    return as_devices(product(x.astype(w.dtype), w) + b[None, :])


def as_ridges(ridges: Any, dtype: Any) -> Float[Array, " r"]:
    """Penalties as a vector of one or more, none negative."""
    # Not as floats first: a program in float32 would hold a list in float64.
    given = as_real(ridges, "ridges")
    values = jnp.asarray(given[None] if given.ndim == 0 else given, dtype)
    if values.ndim != 1 or values.shape[0] == 0:
        msg = f"ridges must be a number or a list of them; got {summary(ridges)}"
        raise ValueError(msg)
    check_nonnegative(values, "ridges")
    return values


def as_dims(dims: Sequence[int] | None, d: int) -> tuple[int, ...]:
    if dims is None:
        return (d,)
    sizes = tuple(check_integer(size, "dims", low=1, high=d) for size in dims)
    if not sizes:
        raise ValueError("dims must name at least 1 number of features; got none")
    return sizes


def inverse_of_penalised(
    gram: Float[Any, "D D"], penalty: Any, num_rows: Any
) -> Float[Any, "D D"]:
    """L⁻¹ of L Lᵀ = gram + diag(penalty), the penalty no less than rounding."""
    xp, size = namespace(gram), gram.shape[0]
    diagonal = xp.diagonal(gram)
    cutoff = rank_cutoff((num_rows, size), gram.dtype, xp.ones((), gram.dtype))
    floor = cutoff * diagonal
    # A feature of zeros gets the weight 0.
    shift = xp.maximum(penalty, floor) + (diagonal == 0)
    return inverse_factor(gram + xp.diag(shift))[0]


def least(errors: Either, ties: Either) -> Int[Any, ""]:
    """Where errors are least, flat; of several, where `ties` are, then the first."""
    xp = namespace(errors)
    largest = np.finfo(ties.dtype).max
    ties = xp.minimum(ties, largest)
    return xp.argmin(xp.where(errors == errors.min(), ties, np.inf))


# Maps and scans that an eager call would trace each time.
@functools.partial(
    compiled_unless_numpy, static_argnames=("dims", "of_classes", "standardize")
)
def fit_columns(
    z: Float[Any, "n d"],
    y: Float[Any, "n c"],
    p: Float[Any, " n"],
    blocks: Any,
    ridges: Float[Any, " r"],
    *,
    dims: tuple[int, ...],
    of_classes: bool,
    standardize: bool,
) -> tuple[Either, ...]:
    """`ridge` of checked arrays: the fields of a fit, in their order."""
    xp, n = namespace(z), z.shape[0]
    mean, scale, z, penalty = scaled(z, p, standardize=standardize)
    phi = xp.concatenate([xp.ones_like(z[:, :1]), z], axis=1)
    penalised = xp.concatenate([xp.zeros_like(penalty[:1]), penalty])
    if blocks is None:
        parts = phi[None], y[None], p[None]
    else:
        rows, there = blocks
        parts = phi[rows], y[rows], xp.where(there, p[rows], 0)
    # (k, D, D) and (k, D, c)
    grams, moments = mapped(_moments, parts)
    gram, moment = grams.sum(axis=0), moments.sum(axis=0)
    if blocks is not None:
        grams, moments = _of_others(grams), _of_others(moments)

    def judged(alpha: Either) -> tuple[Either, Either]:
        def of_block(part: Any) -> tuple[Either, Either]:
            phi, y, p, gram, moment = part
            inverse = inverse_of_penalised(gram, alpha * penalised, n)
            u, v = product(phi, inverse.T), product(inverse, moment)
            return _errors(u, v, y, p, left_out=blocks is not None)

        squared, wrong = mapped(of_block, (*parts, grams, moments))
        at = np.asarray(dims)
        return squared.sum(axis=0)[at], wrong.sum(axis=0)[at]

    # (dims, r): shares of the variance, and of what is misclassified.
    squared, wrong = (e.T for e in mapped(judged, ridges))
    centred = y - product(p[None, :], y)
    squared = quotient(squared, xp.sum(p[:, None] * centred**2))
    errors = wrong if of_classes else squared
    best = least(errors, squared)
    alpha = ridges[best % len(ridges)]
    dim = xp.asarray(dims, np.int32)[best // len(ridges)]
    inverse = inverse_of_penalised(gram, alpha * penalised, n)
    # The factor of the first features is the leading part of L: 0 beyond them in V is
    # 0 beyond them in L⁻ᵀ V.
    kept = xp.arange(phi.shape[1]) <= dim
    w = product(inverse.T, xp.where(kept[:, None], product(inverse, moment), 0))
    slopes = w[1:] * scale[:, None]
    intercept = w[0] - product(mean[None, :], slopes)[0]
    return slopes, intercept, alpha, dim, errors, squared


def scaled(
    z: Float[Any, "n d"], p: Float[Any, " n"], *, standardize: bool
) -> tuple[Float[Any, " d"], Float[Any, " d"], Float[Any, "n d"], Either]:
    """The mean, a scale, (z − mean) times it, and what ‖w‖² weighs there, (d,)."""
    xp = namespace(z)
    # Twice: far from 0 the first mean is rounded by more than the features vary.
    first = product(p[None, :], z)
    second = product(p[None, :], z - first)
    mean = (first + second)[0]
    # At scales of their own, whose squares are in range.
    z, exponent = rescaled_either(z - first - second, axis=0)
    one = xp.ones_like(z[:1])
    by_exponent = np.ldexp if xp is np else times_power_of_two
    scale = by_exponent(one, -exponent)[0]
    penalty = xp.minimum(scale**2, float(np.finfo(z.dtype).max) ** 0.5)
    if standardize:
        inverse = quotient(one[0], xp.sqrt(product(p[None, :], z**2)[0]))
        z, scale, penalty = z * inverse[None, :], scale * inverse, xp.ones_like(scale)
    return mean, scale, z, penalty


def _moments(part: tuple[Either, Either, Either]) -> tuple[Either, Either]:
    phi, y, p = part
    weighted = p[:, None] * phi
    return product(weighted.T, phi), product(weighted.T, y)


def _of_others(sums: Float[Any, "k ..."]) -> Float[Any, "k ..."]:
    """Of each the sum over all others, without a difference that loses digits."""
    xp = namespace(sums)
    zero = xp.zeros_like(sums[:1])
    before = xp.cumsum(xp.concatenate([zero, sums[:-1]]), axis=0)
    after = xp.cumsum(xp.concatenate([zero, sums[:0:-1]]), axis=0)[::-1]
    return before + after


def _errors(u: Either, v: Either, y: Either, p: Either, *, left_out: bool) -> Any:
    """Σ p residual² and Σ p [misclassified] for each number of columns of U."""
    xp, rounding = namespace(u), 1e3 * float(np.finfo(u.dtype).eps)
    truth = xp.argmax(y, axis=1)

    def step(carry: Any, columns: Any) -> Any:
        guess, leverage = carry
        u, v = columns
        guess, leverage = guess + u[:, None] * v[None, :], leverage + u**2
        rest = y - guess
        if not left_out:
            kept = 1 - p * leverage
            # A row that the fit goes through whatever its value.
            alone = (kept <= rounding)[:, None]
            rest = xp.where(alone, np.inf, quotient(rest, kept[:, None]))
        told = xp.argmax(xp.where(xp.isinf(rest), 0, y - rest), axis=1)
        wrong = xp.sum(p * ((told != truth) | xp.isinf(rest).any(axis=1)))
        squared = xp.sum(xp.where(p > 0, p, 0)[:, None] * rest**2)
        return (guess, leverage), (squared, wrong)

    start = xp.zeros_like(y), xp.zeros_like(p)
    return scanned(step, start, (u.T, v))
