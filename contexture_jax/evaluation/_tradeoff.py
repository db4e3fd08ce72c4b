"""What a probe of d functions loses by too few of them, and by too few labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_finite,
    check_integer,
    check_ndim,
    check_values,
    is_concrete,
)
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.evaluation._common import as_columns, as_number, as_weights

__all__ = ["ProbeTradeoff", "leave_one_out_errors", "probe_tradeoff"]

# So many halvings leave no digit of the smallest eigenvalue open.
_BISECTIONS = 60


@short_repr
class ProbeTradeoff(NamedTuple):
    """Approximation against estimation for d = 1, …, k, in the unit of the target².

    Attributes:
        approximation: what no probe of d functions can predict, shape (k,).
        estimation: what more the least squares of n labels may lose on average, shape
            (k,); infinite where n labels promise nothing for d functions.
        total: the sum of both: an upper bound on the mean error, shape (k,).
        least: a lower bound on it, shape (k,).
        best_dim: the smallest d of the smallest total, shape (); 0 if all are infinite.
        failure: the probability that the draw of inputs is none of those that the
            upper bound is for.
    """

    approximation: Float[Array, " k"]
    estimation: Float[Array, " k"]
    total: Float[Array, " k"]
    least: Float[Array, " k"]
    best_dim: Int[Array, ""]
    failure: float


def probe_tradeoff(
    approximation: ArrayLike,
    leverage: ArrayLike,
    num_samples: int,
    noise: ArrayLike = 0.0,
    *,
    failure: float = 0.05,
) -> ProbeTradeoff:
    """Two-sided bounds on the error of a least-squares probe, over d.

    Assumed: n inputs drawn independently from P_X; y = f(x) + ξ with E[ξ|x] = 0 and
    Var[ξ|x] ≤ σ²; a probe with bias, fitted by least squares without a penalty on the
    *exact* functions μ_1, …, μ_d. Its error is ‖f̂ − f‖² in L²(P_X). With a_d =
    ‖f − f_d‖² the approximation error, L_d = 1 + sup_x Σ_{i≤d} μ_i(x)² the leverage and
    G the empirical second moments of (1, μ_1, …, μ_d), whose mean is the identity,

        E[‖f̂ − f‖²; λ_min(G) ≥ λ] ≤ a_d + a_d L_d / (n λ²) + σ² (d + 1) / (n λ),
        P(λ_min(G) < λ) ≤ (d + 1) exp(−(n / L_d) (1 − λ + λ ln λ)),

    the latter by the matrix Chernoff bound (Tropp 2012, *Found. Comput. Math.* 12,
    Thm 1.1), the former since the coefficients of f̂ − f_d are
    G⁻¹ (1/n) Σ_j φ(x_j) (f(x_j) − f_d(x_j) + ξ_j): f − f_d is orthogonal to φ, so that
    the squared length of its mean is at most a_d L_d / n on average. λ is taken as
    large as `failure` allows: it goes to 1 as n grows, and there is none while n is not
    above L_d ln((d + 1) / failure), where the bound is infinite. No constant is left
    out. From below, as E tr G⁻¹ ≥ d + 1,

        E‖f̂ − f‖² ≥ a_d + σ² (d + 1) / n,  if Var[ξ|x] = σ² and G is invertible.

    What it is not: a bound for a probe with a penalty, which may do better where n is
    small, for functions that were learned, or for a d that was chosen by the labels.

    Args:
        approximation: a_d for d = 1, …, k, shape (k,): the variance of the target times
            1 − Σ_{i≤d} u_i² (`target_energy`) for a known target, or times
            `worst_case_curve` for one of which ρ ≥ 1 − ε is known.
        leverage: sup_x Σ_{i≤d} μ_i(x)², shape (k,): `probe_leverage`, or the
            `leverage_bound` of κ².
        num_samples: n, how many labels.
        noise: σ², shape ().
        failure: between 0 and 1.

    Raises:
        TypeError: if an argument is traced.
        ValueError: if shapes differ, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> found = cx.evaluation.probe_tradeoff(
        ...     [0.5, 0.1, 0.09], [1.0, 2.0, 9.0], 200, noise=0.1
        ... )
        >>> int(found.best_dim)
        2
        >>> bool(np.all(found.least <= found.total))
        True
    """
    left_out = _nonnegative(approximation, "approximation")
    lever = _nonnegative(leverage, "leverage", infinite=True)
    if left_out.shape != lever.shape:
        msg = (
            "approximation and leverage must have one shape (k,); got"
            f" {left_out.shape} and {lever.shape}"
        )
        raise ValueError(msg)
    n = check_integer(num_samples, "num_samples", low=1)
    variance = as_number(noise, "noise")
    if variance < 0:
        raise ValueError(f"noise must be non-negative; got {variance:g}")
    failure = as_number(failure, "failure")
    if not 0 < failure < 1:
        raise ValueError(f"failure must be between 0 and 1; got {failure:g}")
    # (k,): d + 1 functions, that of the bias among them.
    count = np.arange(2, len(left_out) + 2)
    smallest = _smallest_eigenvalue((1 + lever) / n * np.log(count / failure))
    with np.errstate(divide="ignore", invalid="ignore"):
        by_inputs = left_out * (1 + lever) / (n * smallest**2)
        estimation = by_inputs + variance * count / (n * smallest)
    estimation = np.where(smallest > 0, estimation, np.inf)
    total = left_out + estimation
    best = int(total.argmin()) + 1 if np.isfinite(total).any() else 0
    least = left_out + variance * count / n
    # Worked out in float64, given back in JAX's default.
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    arrays = (left_out, estimation, total, least)
    left_out, estimation, total, least = (
        jax.device_put(a.astype(dtype)) for a in arrays
    )
    best_dim = jax.device_put(np.int32(best))
    return ProbeTradeoff(left_out, estimation, total, least, best_dim, failure)


def _smallest_eigenvalue(price: np.ndarray) -> np.ndarray:
    """The λ in (0, 1) at which 1 − λ + λ ln λ = `price`; 0 where there is none."""
    low, high = np.zeros_like(price), np.ones_like(price)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        # It falls from 1 at λ = 0 to 0 at λ = 1.
        above = 1 - middle + middle * np.log(middle) > price
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    # The lower end, at which the inequality holds.
    return np.where(price < 1, low, 0.0)


def _nonnegative(x: Any, name: str, *, infinite: bool = False) -> np.ndarray:
    if not is_concrete(x):
        raise TypeError(f"{name} must be concrete; got a tracer")
    array = np.asarray(as_array(x, name), np.float64)
    check_ndim(array, 1, name)
    if array.shape[0] == 0:
        raise ValueError(f"{name} must hold at least 1 value; got shape (0,)")
    expected = "non-negative" + ("" if infinite else " and finite")
    check_values(
        array, name, lambda v: (v >= 0) & (infinite | np.isfinite(v)), expected
    )
    return array


def leave_one_out_errors(
    target: ArrayLike,
    left: ArrayLike,
    p_x: ArrayLike | None = None,
    *,
    ridges: Sequence[float] = (0.0,),
) -> Float[Array, " k"]:
    """The error of a probe of the first d functions on rows it has not seen, each d.

    Each row is predicted by the minimum of Σ p (y − b − Σ_i w_i μ_i)² + λ ‖w‖² over all
    other rows. With functions that are orthonormal in L²(P_X) that needs no fit: w_i is
    ⟨y, μ_i⟩ / (1 + λ), and the residual of row x is that of the fit to all rows over
    1 − h(x), h(x) = p_x (1 + Σ_{i≤d} μ_i(x)² / (1 + λ)) (PRESS: Allen 1974). The error
    is E[residual²] over the variance of the target, so that 1 less it is the
    leave-one-out R², whose largest value is at the d of validation. Functions must not
    have seen the target; inputs they may have. Without a penalty one row that a
    function knows alone, h near 1, may be all of the error; with one it counts as
    predicted by the mean.

    Args:
        target: shape (n,) or (n, c), real: numbers, or the columns of a code of
            classes, which are pooled as in `target_energy`.
        left: functions as columns, orthonormal in L²(P_X), shape (n, k).
        p_x: probabilities of the rows, shape (n,); None: uniform.
        ridges: values of λ, non-negative, of which each d takes the one with the least
            error.

    Returns:
        Shape (k,); infinite where the others say nothing of a row, h(x) = 1.

    Raises:
        TypeError: if an argument is traced.
        ValueError: if shapes do not fit, or the target is constant.
    """
    if not is_concrete(target, left, p_x):
        raise TypeError("target, left and p_x must be concrete; got a tracer")
    mu = as_columns(left, "left")
    f = np.asarray(as_array(target, "target"), np.float64)
    f = f[:, None] if f.ndim == 1 else f
    if f.ndim != 2 or len(f) != mu.shape[0] or not f.size:
        msg = f"target must have {mu.shape[0]} rows, as left; got shape {f.shape}"
        raise ValueError(msg)
    check_finite(f, "target")
    p = np.asarray(as_weights(p_x, mu.shape[0], mu.dtype), np.float64)
    rounding = 1e3 * float(np.finfo(mu.dtype).eps)
    mu = np.asarray(mu, np.float64)
    seen = p > 0
    mu, f, p = mu[seen], f[seen], p[seen]
    f = f / max(np.abs(f).max(), np.finfo(np.float64).tiny)
    rest = f - np.matmul(p, f)
    variance = np.dot(p, (rest**2).sum(axis=1))
    # Of a target of order 1 in float64, whose mean is rounded.
    if not (np.abs(rest).max() > 1e3 * np.finfo(np.float64).eps and variance > 0):
        raise ValueError("target must not be constant on the rows that have mass")
    # (number of ridges, 1)
    shrunk = 1 / (1 + _nonnegative(ridges, "ridges")[:, None])
    errors, leverage = np.empty(mu.shape[1]), np.zeros_like(p)
    weighted, centred = np.matmul((p[:, None] * mu).T, rest), rest
    deviations = _products(centred, centred)
    for d, column in enumerate(mu.T):
        rest = rest - column[:, None] * weighted[d]
        leverage = leverage + p * column**2
        # The residual is (1 − c) centred + c rest, c = 1 / (1 + λ).
        mixed = 2 * shrunk * (1 - shrunk) * _products(centred, rest)
        squares = shrunk**2 * _products(rest, rest) + mixed
        squares = np.maximum(squares + (1 - shrunk) ** 2 * deviations, 0.0)
        kept = 1 - p - shrunk * leverage
        # A row that the fit goes through whatever its value: nothing is left to tell.
        alone = kept <= rounding
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.matmul(np.where(alone, np.inf, squares / kept**2), p) / variance
        errors[d] = each.min()
    return jax.device_put(errors.astype(jax.dtypes.canonicalize_dtype(np.float64)))


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """⟨a_x, b_x⟩ of each row, without a table of products."""
    return np.einsum("ij,ij->i", a, b)
