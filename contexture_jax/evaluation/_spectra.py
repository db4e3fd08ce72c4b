"""Judging a context by its singular values alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_ndim,
    check_nonnegative,
    is_concrete,
)
from contexture_jax._core.either import (
    Either,
    at_hand,
    compiled_unless_numpy,
    namespace,
)
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr, summary
from contexture_jax.evaluation._common import as_spectrum, require_leading

__all__ = [
    "Usefulness",
    "chi_squared",
    "chi_squared_bias",
    "effective_rank",
    "maximal_correlation",
    "usefulness",
]


@short_repr
class Usefulness(NamedTuple):
    """The metric τ of a context: the lower, the better.

    Attributes:
        tau: min_d τ_d, shape (); infinite if every τ_d is.
        best_dim: the smallest d that attains it, between 1 and d0, shape (); 0 if
            every τ_d is infinite. So it is where s_{d+1} = 1 for every d ≤ d0: groups
            of inputs that share no a, as under labels, of which d0 + 2 or more exist.
        curve: τ_d for d = 1, …, d0, shape (d0,).
    """

    tau: Float[Array, ""]
    best_dim: Int[Array, ""]
    curve: Float[Array, " d0"]


def usefulness(
    singular_values: ArrayLike,
    beta: ArrayLike = 1.0,
    max_dim: int = 512,
    *,
    complete: bool = False,
) -> Usefulness:
    """How useful a context is, judged by its spectrum: τ = min_d τ_d.

        τ_d = 1 / (1 − s_{d+1}²) + β Σ_{i≤d} s_i² / Σ_{i≤d0} s_i²,   d = 1, …, d0

    (Zhai et al. 2025 (CTX), §5; theory.md §3 and §0 E12). The first term is the price
    of what d functions leave out, the second that of what they take in. Two things the
    paper leaves open: d = 0 is not allowed, or weak contexts would score well, and d0
    dimensions need the d0 + 1 largest singular values. So

    * by default the values are the head of a longer spectrum, whose rest is unknown,
      and d0 = min(max_dim, k − 1) for k values;
    * with `complete` the values are all there are (a finite context has at most
      min(n, m) − 1): those beyond are 0, and d0 = min(max_dim, k).

    τ_d is infinite while 1 − s_{d+1}² ≤ 32 eps. An extreme association of either kind,
    near 0 or near 1, can give τ near 1 + β: see `verdict`. Differentiable in the
    values where s_{d+1} < 1.

    Args:
        singular_values: s_1, s_2, … without the trivial s_0 = 1, shape (k,), in any
            order, floating.
        beta: the weight β of the second term.
        max_dim: the largest d0.
        complete: whether all values that are not given are 0.

    Returns:
        A `Usefulness`, in the dtype of the values.

    Raises:
        ValueError: if there are fewer than 2 values and `complete` is False, if a value
            is not in [0, 1], or if all are 0, for which τ is undefined (NaN inside a
            trace).
    """
    s = as_spectrum(singular_values)
    max_dim = check_integer(max_dim, "max_dim", low=1)
    num_dims = min(max_dim, s.shape[0] if complete else s.shape[0] - 1)
    # One value of a longer spectrum: τ_1 would need the second.
    if num_dims == 0:
        require_leading(s, 2, complete)  # raises
    here = is_concrete(s, beta)
    weight = (np if here else jnp).asarray(beta, dtype=s.dtype)
    s = np.asarray(s) if here else s
    if is_concrete(s) and not float(np.asarray(s)[0]) > 0:
        msg = (
            "singular_values must not all be 0: the context is independent of the"
            " input and tau is undefined"
        )
        raise ValueError(msg)
    # (d0 + 1,): d0 values to take in, and the one after them for the price (E12).
    leading = require_leading(s, num_dims + 1, complete)
    return Usefulness(*jax.device_put(_usefulness(leading, weight)))


@compiled_unless_numpy
def _usefulness(
    s: Float[Either, " k"], beta: Float[Either, ""]
) -> tuple[Float[Either, ""], Int[Either, ""], Float[Either, " d0"]]:
    xp = namespace(s)
    energy = s**2
    # (d0,)
    room = 1 - energy[1:]
    open_ = room > 32 * float(jnp.finfo(s.dtype).eps)
    # The inner `where` is for the gradient: that of a branch not taken is 0 · ∞ = NaN.
    left_out = xp.where(open_, 1 / xp.where(open_, room, 1), xp.inf)
    taken_in = xp.cumsum(energy[:-1]) / xp.sum(energy[:-1])
    curve = left_out + beta * taken_in
    tau = xp.min(curve)
    # `argmin` gives the first: the smallest d of those that attain it.
    best_dim = xp.where(xp.isfinite(tau), xp.argmin(curve) + 1, 0)
    return tau, best_dim, curve


def chi_squared(singular_values: ArrayLike) -> Float[Array, ""]:
    """χ²(P⁺ ‖ P_X P_A) = Σ_{i≥1} s_i²: 0 iff X and A are independent (theory.md §1).

    In correspondence analysis this is the total inertia. A truncated spectrum gives a
    lower bound; `SolveInfo.total_energy` is the whole.
    """
    s = at_hand(as_spectrum(singular_values))
    return jax.device_put((s**2).sum())


def maximal_correlation(singular_values: ArrayLike) -> Float[Array, ""]:
    """The Hirschfeld–Gebelein–Rényi maximal correlation of X and A, s_1."""
    return jax.device_put(at_hand(as_spectrum(singular_values)).max())


def effective_rank(
    singular_values: ArrayLike,
    kind: str = "participation",
) -> Float[Array, ""]:
    """How many directions carry the spectrum; k for k equal values (theory.md §3).

    * "participation": (Σ s_i²)² / Σ s_i⁴, the participation ratio of the energies.
    * "entropy": exp H(s / Σ s), H the Shannon entropy (RankMe: Garrido et al. 2023,
      arXiv 2210.02885).

    Args:
        singular_values: of a context, or of any matrix, shape (k,), non-negative.
        kind: which of the two.

    Returns:
        A number between 1 and k; 0 if all values are 0.

    Raises:
        ValueError: if `kind` is another, or a value is negative.
    """
    s = as_floating(singular_values, "singular_values")
    check_ndim(s, 1, "singular_values")
    check_nonnegative(s, "singular_values")
    # Neither depends on the scale; at scale 1 fourth powers stay in range.
    s = safe_divide(s, jnp.max(s, initial=0))
    if kind == "participation":
        return safe_divide(jnp.sum(s**2) ** 2, jnp.sum(s**4))
    if kind == "entropy":
        # Of s and not of s², as in RankMe, which is defined for the values of a matrix.
        p = safe_divide(s, jnp.sum(s))
        entropy = -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)))
        return jnp.where(jnp.sum(p) == 0, 0, jnp.exp(entropy))
    msg = f'kind must be "participation" or "entropy"; got {summary(kind)}'
    raise ValueError(msg)


def chi_squared_bias(n_x: int, n_a: int, num_samples: int) -> float:
    """What Σ s_i² of a table of counts is on average when X and A are independent.

    (n_x − 1)(n_a − 1) / N, the degrees of freedom of the χ² test over the sample size
    (theory.md §3): a plug-in spectrum that is not well above this shows noise.

    Args:
        n_x: the number of rows with positive mass.
        n_a: the number of columns with positive mass.
        num_samples: the number N of pairs that were counted.
    """
    n_x = check_integer(n_x, "n_x", low=1)
    n_a = check_integer(n_a, "n_a", low=1)
    num_samples = check_integer(num_samples, "num_samples", low=1)
    return (n_x - 1) * (n_a - 1) / num_samples
