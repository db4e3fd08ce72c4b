"""Ridge regression, with its penalty and number of functions chosen in closed form."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_real, check_integer, check_nonnegative
from contexture_jax._core.either import inverse_factor
from contexture_jax._core.numerics import (
    mm,
    rank_cutoff,
    safe_divide,
    safe_reciprocal,
)
from contexture_jax._core.scaling import rescaled, times_power_of_two
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
        return mm(x.astype(self.weights.dtype), self.weights) + self.intercept[None, :]

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
        z,
        target.columns,
        p,
        blocks,
        as_ridges(ridges, z.dtype),
        dims=sizes,
        of_classes=target.classes is not None,
        standardize=standardize,
    )
    return RidgeFit(target.classes, target.is_vector, *found)


def as_ridges(ridges: Any, dtype: Any) -> Float[Array, " r"]:
    """Penalties as a vector of one or more, none negative."""
    # Not as floats first: a program in float32 would hold a list in float64.
    values = jnp.atleast_1d(jnp.asarray(as_real(ridges, "ridges"), dtype))
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
    gram: Float[Array, "D D"], penalty: Any, num_rows: int
) -> Float[Array, "D D"]:
    """L⁻¹ of L Lᵀ = gram + diag(penalty), the penalty no less than rounding."""
    size, diagonal = gram.shape[0], jnp.diagonal(gram)
    cutoff = rank_cutoff((num_rows, size), gram.dtype, jnp.ones((), gram.dtype))
    floor = cutoff * diagonal
    # A feature of zeros gets the weight 0.
    shift = jnp.maximum(penalty, floor) + (diagonal == 0)
    return inverse_factor(gram + jnp.diag(shift))[0]


def least(errors: Float[Array, "..."], ties: Float[Array, "..."]) -> Int[Array, ""]:
    """Where errors are least, flat; of several, where `ties` are, then the first."""
    largest = jnp.finfo(ties.dtype).max
    ties = jnp.minimum(ties, largest)
    return jnp.argmin(jnp.where(errors == errors.min(), ties, jnp.inf))


# Scans and maps that an eager call would trace each time.
@functools.partial(jax.jit, static_argnames=("dims", "of_classes", "standardize"))
def fit_columns(
    z: Float[Array, "n d"],
    y: Float[Array, "n c"],
    p: Float[Array, " n"],
    blocks: Any,
    ridges: Float[Array, " r"],
    *,
    dims: tuple[int, ...],
    of_classes: bool,
    standardize: bool,
) -> tuple[Array, ...]:
    """`ridge` of checked arrays: the fields of a fit, in their order."""
    n = z.shape[0]
    mean, scale, z, penalty = scaled(z, p, standardize=standardize)
    phi = jnp.concatenate([jnp.ones_like(z[:, :1]), z], axis=1)
    penalised = jnp.concatenate([jnp.zeros_like(penalty[:1]), penalty])
    if blocks is None:
        parts = phi[None], y[None], p[None]
    else:
        rows, there = blocks
        parts = phi[rows], y[rows], jnp.where(there, p[rows], 0)
    # (k, D, D) and (k, D, c)
    grams, moments = jax.lax.map(_moments, parts)
    gram, moment = grams.sum(axis=0), moments.sum(axis=0)
    if blocks is not None:
        grams, moments = _of_others(grams), _of_others(moments)

    def judged(alpha: Array) -> tuple[Array, Array]:
        def of_block(part: Any) -> tuple[Array, Array]:
            phi, y, p, gram, moment = part
            inverse = inverse_of_penalised(gram, alpha * penalised, n)
            u, v = mm(phi, inverse.T), mm(inverse, moment)
            return _errors(u, v, y, p, left_out=blocks is not None)

        squared, wrong = jax.lax.map(of_block, (*parts, grams, moments))
        at = jnp.asarray(dims)
        return squared.sum(axis=0)[at], wrong.sum(axis=0)[at]

    # (dims, r): shares of the variance, and of what is misclassified.
    squared, wrong = (e.T for e in jax.lax.map(judged, ridges))
    centred = y - mm(p[None, :], y)
    squared = safe_divide(squared, jnp.sum(p[:, None] * centred**2))
    errors = wrong if of_classes else squared
    best = least(errors, squared)
    alpha, dim = ridges[best % len(ridges)], jnp.asarray(dims)[best // len(ridges)]
    inverse = inverse_of_penalised(gram, alpha * penalised, n)
    # The factor of the first features is the leading part of L: 0 beyond them in V is
    # 0 beyond them in L⁻ᵀ V.
    kept = jnp.arange(phi.shape[1]) <= dim
    w = mm(inverse.T, jnp.where(kept[:, None], mm(inverse, moment), 0))
    slopes = w[1:] * scale[:, None]
    intercept = w[0] - mm(mean[None, :], slopes)[0]
    return slopes, intercept, alpha, dim.astype(jnp.int32), errors, squared


def scaled(
    z: Float[Array, "n d"], p: Float[Array, " n"], *, standardize: bool
) -> tuple[Float[Array, " d"], Float[Array, " d"], Float[Array, "n d"], Array]:
    """The mean, a scale, (z − mean) times it, and what ‖w‖² weighs there, (d,)."""
    # Twice: far from 0 the first mean is rounded by more than the features vary.
    first = mm(p[None, :], z)
    second = mm(p[None, :], z - first)
    mean = (first + second)[0]
    # At scales of their own, whose squares are in range.
    z, exponent = rescaled(z - first - second, axis=0)
    scale = times_power_of_two(jnp.ones_like(z[:1]), -exponent)[0]
    penalty = jnp.minimum(scale**2, float(jnp.finfo(z.dtype).max) ** 0.5)
    if standardize:
        inverse = safe_reciprocal(jnp.sqrt(mm(p[None, :], z**2)[0]))
        z, scale, penalty = z * inverse[None, :], scale * inverse, jnp.ones_like(scale)
    return mean, scale, z, penalty


def _moments(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    phi, y, p = part
    weighted = p[:, None] * phi
    return mm(weighted.T, phi), mm(weighted.T, y)


def _of_others(sums: Float[Array, "k ..."]) -> Float[Array, "k ..."]:
    """Of each the sum over all others, without a difference that loses digits."""
    zero = jnp.zeros_like(sums[:1])
    before = jnp.cumsum(jnp.concatenate([zero, sums[:-1]]), axis=0)
    after = jnp.cumsum(jnp.concatenate([zero, sums[:0:-1]]), axis=0)[::-1]
    return before + after


def _errors(u: Array, v: Array, y: Array, p: Array, *, left_out: bool) -> Any:
    """Σ p residual² and Σ p [misclassified] for each number of columns of U."""
    rounding = 1e3 * float(jnp.finfo(u.dtype).eps)
    truth = jnp.argmax(y, axis=1)

    def step(carry: Any, columns: Any) -> Any:
        guess, leverage = carry
        u, v = columns
        guess, leverage = guess + u[:, None] * v[None, :], leverage + u**2
        rest = y - guess
        if not left_out:
            kept = 1 - p * leverage
            # A row that the fit goes through whatever its value.
            alone = (kept <= rounding)[:, None]
            rest = jnp.where(alone, jnp.inf, rest * safe_reciprocal(kept)[:, None])
        told = jnp.argmax(jnp.where(jnp.isinf(rest), 0, y - rest), axis=1)
        wrong = jnp.sum(p * ((told != truth) | jnp.isinf(rest).any(axis=1)))
        squared = jnp.sum(jnp.where(p > 0, p, 0)[:, None] * rest**2)
        return (guess, leverage), (squared, wrong)

    start = jnp.zeros_like(y), jnp.zeros_like(p)
    return jax.lax.scan(step, start, (u.T, v))[1]
