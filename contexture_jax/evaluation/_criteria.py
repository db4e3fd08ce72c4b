"""Criteria of a context that need no labels: of its spectrum, and of its span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_floating, check_integer, check_values
from contexture_jax._core.either import Either, at_hand, namespace, product
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.evaluation._alignment import clusters
from contexture_jax.evaluation._common import (
    as_columns,
    as_number,
    as_spectrum,
    as_weights,
    centred_columns,
    require_leading,
    singular_value_slack,
)
from contexture_jax.evaluation._spectra import usefulness
from contexture_jax.evaluation._worst_case import worst_case_curve

__all__ = [
    "SpanStability",
    "SpectralGaps",
    "UsefulnessGrid",
    "cluster_dimension",
    "energy_dimension",
    "span_stability",
    "spectral_gaps",
    "tail_shares",
    "usefulness_grid",
    "worst_case_dimension",
]


@short_repr
class UsefulnessGrid(NamedTuple):
    """τ for every pair of a β and a d0.

    Attributes:
        tau: shape (number of β, number of d0).
        best_dim: the d that attains it, same shape; 0 where τ is infinite.
    """

    tau: Float[Array, "b r"]
    best_dim: Int[Array, "b r"]


def usefulness_grid(
    singular_values: ArrayLike,
    betas: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
    max_dims: Sequence[int] = (8, 32, 128, 512),
    *,
    complete: bool = False,
) -> UsefulnessGrid:
    """τ over ranges of the two numbers that its definition leaves free.

    The order of contexts by τ depends on both: β weighs what d functions take in, and
    d0 what counts as all. A spectrum that is cut at d0 by one context and has ended
    long before in another is compared at different shares of its energy. Abstain where
    the order of two contexts changes over the grid.

    Args:
        singular_values: as for `usefulness`.
        betas: the values of β.
        max_dims: the values of d0.
        complete: as for `usefulness`.

    Raises:
        ValueError: as `usefulness`, or if a range is empty.
    """
    s = as_spectrum(singular_values)
    if not len(betas) or not len(max_dims):
        msg = (
            "betas and max_dims must each hold a value; got"
            f" {len(betas)} and {len(max_dims)}"
        )
        raise ValueError(msg)
    rows = []
    for beta in betas:
        found = [usefulness(s, beta, size, complete=complete) for size in max_dims]
        rows.append(at_hand(([f.tau for f in found], [f.best_dim for f in found])))
    xp = namespace(rows[0][0][0])
    tau, best_dim = (
        xp.stack([xp.stack(row[part]) for row in rows]) for part in range(2)
    )
    return UsefulnessGrid(*jax.device_put((tau, best_dim)))


def tail_shares(
    singular_values: ArrayLike, *, tail_energy: ArrayLike = 0.0
) -> Float[Array, " k"]:
    """The share of χ² = Σ_{i≥1} s_i² that lies beyond the first d, d = 1, …, k.

    (Σ_{i>d} s_i² + t) / (Σ_i s_i² + t), t the energy beyond the values given. One less
    it is the ratio trace of the best d functions over that of all (theory.md §2): what
    of the dual kernel d functions keep, in the norm of its trace. It is 0 at once for
    labels, and stays near 1 for a context whose functions all count alike. Of scale it
    knows nothing: a weak context with one function has a tail of 0 too.

    Args:
        singular_values: s_1, s_2, … shape (k,), in any order, floating.
        tail_energy: t, shape (), concrete, as `SolveInfo.tail_energy`.

    Raises:
        ValueError: if all energy is 0 (NaN inside a trace), or t is negative.
    """
    s = at_hand(as_spectrum(singular_values))
    return jax.device_put(_tail_shares(s, tail_energy))


def _tail_shares(s: Float[Either, " k"], tail_energy: Any) -> Float[Either, " k"]:
    xp = namespace(s)
    tail = as_number(tail_energy, "tail_energy")
    if tail < 0:
        msg = f"tail_energy must be non-negative; got {tail:g}"
        raise ValueError(msg)
    # From the small end: a difference of sums would round as the whole does.
    beyond = xp.flip(xp.cumsum(xp.flip(s**2)))
    total = beyond[0] + tail
    if xp is np and not total > 0:
        msg = "singular_values must not all be 0: no share of their energy is defined"
        raise ValueError(msg)
    return (xp.pad(beyond[1:], (0, 1)) + tail) / total


def energy_dimension(
    singular_values: ArrayLike, share: ArrayLike, *, tail_energy: ArrayLike = 0.0
) -> Int[Array, "*shape"]:
    """The smallest d whose functions keep a stated share of Σ_{i≥1} s_i².

    A d that needs no target and no β, and is the whole of a cluster of equal values
    unless the share says otherwise. A share kept to rounding (1000 eps) is kept.

    Args:
        singular_values: as for `tail_shares`.
        share: what is to be kept, above 0 and at most 1, any shape.
        tail_energy: as for `tail_shares`; without it the values given are all.

    Returns:
        d, of the shape of `share`; 0 where the values given do not hold that share.

    Raises:
        ValueError: if a share is out of range, or all energy is 0.
    """
    s = at_hand(as_spectrum(singular_values))
    check_values(share, "share", lambda v: (v > 0) & (v <= 1), "above 0 and at most 1")
    kept = 1 - _tail_shares(s, tail_energy)
    xp = namespace(s)
    wanted = as_floating(share, "share").astype(s.dtype)
    wanted = at_hand(wanted) if xp is np else wanted
    # (*shape, k)
    enough = kept >= wanted[..., None] - singular_value_slack(s.dtype)
    first = xp.where(enough.any(-1), enough.argmax(-1) + 1, 0)
    return jax.device_put(first.astype(np.int32))


@short_repr
class SpectralGaps(NamedTuple):
    """What separates d functions from the next.

    Attributes:
        gaps: s_d² − s_{d+1}² for d = 1, …, d0, shape (d0,).
        best_dim: the smallest d of the largest gap, shape (); 0 if all values are equal
            to rounding.
    """

    gaps: Float[Array, " d0"]
    best_dim: Int[Array, ""]


def spectral_gaps(
    singular_values: ArrayLike, max_dim: int = 512, *, complete: bool = False
) -> SpectralGaps:
    """The gap s_d² − s_{d+1}² after each d: whether the span of d functions is known.

    If T T* is estimated as T T* + E, the span of its first d functions moves by at most
    2 ‖E‖ / gap, in the sine of the largest angle (Davis & Kahan 1970, and Weyl for the
    gap of the other). So at a gap another sample finds the same functions, and a d
    inside a cluster, gap 0, is no property of the context. It is no measure of use: of
    a few clusters the largest gap is mostly after the first.

    Args:
        singular_values: as for `usefulness`.
        max_dim: as for `usefulness`.
        complete: as for `usefulness`.

    Raises:
        ValueError: if there is 1 value and `complete` is False.
    """
    s = at_hand(as_spectrum(singular_values))
    xp = namespace(s)
    energy = _leading(s, max_dim, complete) ** 2
    gaps = energy[:-1] - energy[1:]
    is_one = gaps.max() > singular_value_slack(s.dtype)
    best = xp.where(is_one, gaps.argmax() + 1, 0).astype(np.int32)
    return SpectralGaps(*jax.device_put((gaps, best)))


def _leading(s: Float[Either, " k"], max_dim: int, complete: bool) -> Any:
    """s_1, …, s_{d0+1}, with d0 as in `usefulness`."""
    max_dim = check_integer(max_dim, "max_dim", low=1)
    num_dims = min(max_dim, s.shape[0] if complete else max(1, s.shape[0] - 1))
    return require_leading(s, num_dims + 1, complete)


def cluster_dimension(
    singular_values: ArrayLike, dim: int, *, gap: float = 0.01
) -> int:
    """The end of the cluster that the d-th function is in: at least `dim`.

    Functions of a cluster are one another's equals, so whatever asked for d of them
    asked for all. τ = min_d τ_d does not see this: of nine values of .98 and a small
    tenth it may take the first alone.

    Args:
        singular_values: as for `clusters`, concrete.
        dim: d, between 1 and k.
        gap: as for `clusters`.

    Raises:
        ValueError: if d is out of range.
    """
    runs = clusters(singular_values, gap=gap)
    dim = check_integer(dim, "dim", low=1, high=runs[-1][1])
    return next(end for _, end in runs if end >= dim)


def worst_case_dimension(
    singular_values: ArrayLike,
    epsilon: ArrayLike,
    error: ArrayLike,
    *,
    complete: bool = False,
) -> Int[Array, ""]:
    """The smallest d whose worst-case error over F_ε is at most `error`.

    Of targets that the context can tell something of, ρ ≥ 1 − ε, and of the best
    encoder: see `worst_case_curve`. A context with s_1 < 1 − ε has no such target and
    says nothing: abstain. Contexts with the same d promise it for different targets,
    the stronger for more.

    Args:
        singular_values: as for `worst_case_curve`.
        epsilon: ε, shape (), with 1 − s_1 ≤ ε ≤ 1.
        error: as a share of the variance of the target, shape ().
        complete: as for `worst_case_curve`.

    Returns:
        d, shape (); 0 if no d of those known is enough.
    """
    most = as_floating(error, "error")
    check_values(most, "error", lambda v: (v >= 0) & (v <= 1), "between 0 and 1")
    curve = at_hand(worst_case_curve(singular_values, epsilon, complete=complete))
    xp = namespace(curve)
    most = at_hand(most.astype(curve.dtype)) + singular_value_slack(curve.dtype)
    enough = curve <= most
    first = xp.where(enough.any(), enough.argmax() + 1, 0)
    return jax.device_put(first.astype(np.int32))


@short_repr
class SpanStability(NamedTuple):
    """How much of the span of the first d functions comes back in other samples.

    Attributes:
        shares: the mean squared cosine of the d principal angles, between 0 and 1, of
            each resample and d = 1, …, k, shape (b, k).
        null: its mean for a span at random, d / (n − 1), n the rows with mass, shape
            (k,).
    """

    shares: Float[Array, "b k"]
    null: Float[Array, " k"]


def span_stability(
    left: ArrayLike, resampled: ArrayLike, p_x: ArrayLike | None = None
) -> SpanStability:
    """The stability under resampling of span(μ_1, …, μ_d), for every d at once.

    ‖P_d Q_d‖²_F / d with P_d and Q_d the projectors of L²(P_X) on the first d functions
    of either: 1 for one span, d / (n − 1) on average for one at random. What the
    resamples are is the caller's: contexts made of other rows or other draws, their
    functions taken to the same n rows by `extend`. A context whose span does not come
    back is too fine for its sample, whatever its spectrum says.

    Args:
        left: functions as columns, in their order, shape (n, k).
        resampled: those of each resample on the same rows, shape (b, n, k).
        p_x: probabilities of the rows, shape (n,); None: uniform.

    Raises:
        ValueError: if the shapes do not fit, or functions are linearly dependent
            beside the constant (NaN inside a trace).
    """
    mu = as_columns(left, "left")
    n, k = mu.shape
    others = as_floating(resampled, "resampled")
    if others.ndim != 3 or others.shape[1:] != (n, k):
        msg = f"resampled must have shape (b, {n}, {k}), as left; got {others.shape}"
        raise ValueError(msg)
    p = as_weights(p_x, n, mu.dtype)
    first = _nested_basis(mu, p, "left")
    shares = []
    for number in range(others.shape[0]):
        name = f"resampled[{number}]"
        other = as_columns(others[number].astype(mu.dtype), name)
        basis = _nested_basis(other, p, name)
        overlap = namespace(first).square(product(first.T, basis))
        # The d-th entry of the diagonal is the sum over the leading d × d block.
        sums = overlap.cumsum(0).cumsum(1).diagonal()
        shares.append(sums / np.arange(1, k + 1, dtype=mu.dtype))
    xp = namespace(shares[0])
    num_rows = (at_hand(p) > 0).sum()
    null = np.arange(1, k + 1, dtype=mu.dtype) / (num_rows - 1)
    return SpanStability(*jax.device_put((xp.stack(shares), null.astype(mu.dtype))))


def _nested_basis(x: Array, p: Array, name: str) -> Float[Either, "n k"]:
    """√p · x centred and orthonormal, whose first d columns span those of x."""
    _, centred, floor = centred_columns(x, p)
    y, floor, root = at_hand((centred, floor, jnp.sqrt(p)))
    xp = namespace(y)
    basis, factor = xp.linalg.qr(root[:, None] * y)
    # A column within the span of those before it has no direction of its own.
    varies = (abs(factor.diagonal()) > floor).all() & (x.shape[1] < x.shape[0])
    if xp is np and not varies:
        msg = f"{name} must hold linearly independent functions, none of them constant"
        raise ValueError(msg)
    return basis + xp.where(varies, 0, np.nan).astype(basis.dtype)
