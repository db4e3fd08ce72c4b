"""What is known of τ when only the head of a spectrum and its energy are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from contexture_jax._core.checks import check_integer, is_concrete
from contexture_jax._core.types import ArrayLike, short_repr
from contexture_jax.evaluation._common import as_number, as_spectrum

__all__ = ["Truncated", "UsefulnessBounds", "as_truncated", "usefulness_bounds"]

_GRID = 512  # values that s_{d+1}² is tried at: the bounds are loose by about 1 / _GRID
_SIGMAS = 4.0
_ROUNDING = 100.0  # of a sum of energies, in eps


@short_repr
class UsefulnessBounds(NamedTuple):
    """Between what the τ of a whole spectrum lies.

    Attributes:
        lower: τ is at least this; infinite if no number of dimensions is enough.
        upper: τ is at most this; infinite if it may be.
        best_dim: the d at which `upper` is: 0 if it is infinite.
    """

    lower: float
    upper: float
    best_dim: int


@short_repr
class Truncated(NamedTuple):
    """The head of a spectrum and what is known of its tail, on the host.

    Attributes:
        head: s_1², …, s_r², descending, shape (r,), float64.
        tail_low: Σ_{i>r} s_i² is at least this.
        tail_high: and at most this.
        ceiling: no s_i² of the tail is above this.
        num_values: how many values there are in all, r included.
        eps: of the dtype that the values came in.
    """

    head: np.ndarray
    tail_low: float
    tail_high: float
    ceiling: float
    num_values: int
    eps: float


def as_truncated(
    singular_values: ArrayLike,
    tail_energy: Any,
    num_values: Any,
    tail_error: Any = 0.0,
) -> Truncated:
    """Check a head and its tail, and widen the tail by what is not exact in it."""
    s = as_spectrum(singular_values)
    if not is_concrete(s):
        msg = "singular_values must be concrete to be bounded; got a tracer"
        raise TypeError(msg)
    tail = as_number(tail_energy, "tail_energy")
    error = as_number(tail_error, "tail_error")
    count = check_integer(num_values, "num_values", low=s.shape[0])
    # Bounds are formed in float64 whatever the values came in; `eps` remembers what
    # that was.
    head = np.asarray(s, np.float64) ** 2
    eps = float(np.finfo(s.dtype).eps)
    ceiling = float(head[-1])
    # The tail is a difference of energies, and rounds as they do.
    spread = _SIGMAS * error + _ROUNDING * eps * (1.0 + head.sum() + max(tail, 0.0))
    # No tail holds more than that: none of its values is above s_r².
    largest = (count - len(head)) * ceiling
    low, high = max(0.0, tail - spread), min(max(0.0, tail + spread), largest)
    # An estimate of the tail may exceed the largest possible: then that is both ends.
    return Truncated(head, min(low, high), high, ceiling, count, eps)


def usefulness_bounds(
    singular_values: ArrayLike,
    tail_energy: ArrayLike,
    num_values: int,
    beta: float = 1.0,
    max_dim: int = 512,
    *,
    tail_error: ArrayLike = 0.0,
) -> UsefulnessBounds:
    """Bounds on τ = min_{d ≤ d0} τ_d, d0 = max_dim, from the r leading values.

    What the values beyond r must satisfy: they descend, none is above s_r, there are
    `num_values` − r of them, and their energies sum to `tail_energy`. Each τ_d (see
    `usefulness`) is bounded over all such tails, and τ by the minima over d (theory.md
    §3.1). For d < r only the denominator E = Σ_{i≤d0} s_i² is unknown, which lies
    between the head and the head plus the tail. For d ≥ r let x = s_{d+1}² and y =
    Σ_{r<i≤d} s_i². Then (d − r) x ≤ y ≤ (d − r) s_r², what is left of the tail is at
    most (num_values − d) x, and

        τ_d ≥ min_x 1 / (1 − x) + β (h + y) / (h + y + min(t − y, (d0 − d) x)),

    h and t the energies of head and tail, y as small as that allows. The minimum is
    taken over cells of x, of which each is bounded by its ends, so the bound holds.

    Args:
        singular_values: s_1, …, s_r without the trivial s_0 = 1, shape (r,), concrete;
            the largest there are.
        tail_energy: Σ_{i>r} s_i², as `SolveInfo.tail_energy`, shape ().
        num_values: how many values there are, min(n, m) − 1 of an n × m context.
        beta: as for `usefulness`.
        max_dim: as for `usefulness`.
        tail_error: standard error of `tail_energy`, as `SolveInfo.tail_error`; the
            bounds allow for four.

    Raises:
        TypeError: if an argument is no number, or is traced.
        ValueError: if `num_values` is below r, or all energy is 0.
    """
    known = as_truncated(singular_values, tail_energy, num_values, tail_error)
    max_dim = check_integer(max_dim, "max_dim", low=1)
    return bounds(known, as_number(beta, "beta"), max_dim)


def bounds(known: Truncated, beta: float, max_dim: int) -> UsefulnessBounds:
    """The same, of what `as_truncated` has checked."""
    head, r = known.head, len(known.head)
    if not head[0] > 0:
        raise ValueError("singular_values must not all be 0: tau is undefined")
    # d0: no more dimensions than there are values.
    num_dims = min(max_dim, known.num_values)
    beyond = known.num_values - r
    # Nothing of the tail enters any τ_d: a curve, and no bounds.
    if beyond == 0 or num_dims < r:
        # Beyond the last of all values is 0; otherwise the head goes on past d0.
        energy = np.pad(head, (0, 1))[: num_dims + 1]
        shares = np.cumsum(energy[:-1]) / energy[:-1].sum()
        curve = _price(energy[1:], known.eps) + beta * shares
        return _ends(curve, curve)
    h = head.sum()
    in_range = num_dims - r
    # What d0 − r values of the tail can hold, at the most and at the least: an even
    # share of it, as they are its largest.
    most = min(known.tail_high, in_range * known.ceiling)
    least = known.tail_low * in_range / beyond
    # d = 1, …, r − 1: s_{d+1} and what d dimensions take in are known, only the
    # denominator is not.
    taken = np.cumsum(head[:-1])
    price = _price(head[1:], known.eps)
    low = [price + beta * taken / (h + most)]
    high = [price + beta * taken / (h + least)]
    d = np.arange(r, num_dims + 1)
    # d = r, …, d0, where s_{d+1} is in the tail.
    low.append(_lowest(known, beta, num_dims, d))
    # The (d + 1 − r) largest of the tail hold at most all of it.
    largest = np.minimum(known.ceiling, known.tail_high / (d + 1.0 - r))
    # After the last value there is none.
    largest[d == known.num_values] = 0.0
    # (h + y) / (h + E) is largest for the largest y, (d − r) s_r² at most, and the
    # least E.
    held = np.minimum((d - r) * known.ceiling, least)
    high.append(_price(largest, known.eps) + beta * (h + held) / (h + least))
    return _ends(np.concatenate(low), np.concatenate(high))


def _lowest(known: Truncated, beta: float, num_dims: int, d: np.ndarray) -> np.ndarray:
    """The lower bound on τ_d for d ≥ r, shape of `d`."""
    r, h = len(known.head), known.head.sum()
    # (k,): how many values there are after the d-th.
    beyond = known.num_values - d
    # What s_{d+1}² may be: the values up to d cannot hold all of the tail.
    least = (known.tail_low - (d - r) * known.ceiling) / np.maximum(beyond, 1)
    least = np.clip(least, 0.0, known.ceiling)
    # s_{d+1}² is the least of d + 1 − r values of the tail.
    most = np.minimum(known.ceiling, known.tail_high / (d + 1.0 - r))
    least, most = (np.where(beyond > 0, v, 0.0) for v in (least, most))
    steps = np.linspace(0.0, 1.0, _GRID + 1)
    # (k, _GRID + 1): the ends of the cells.
    x = least[:, None] + (np.maximum(most, least) - least)[:, None] * steps
    left, right = x[:, :-1], x[:, 1:]
    tail = known.tail_high
    # Over a cell, the smallest y that any x in it allows: the left end in the first
    # bound, the right end in the second.
    y = np.maximum((d - r)[:, None] * left, known.tail_low - beyond[:, None] * right)
    y = np.clip(y, 0.0, None)
    # And the largest rest, so that the share below is a lower bound on all of the cell.
    rest = np.minimum(tail - y, (num_dims - d)[:, None] * right)
    share = (h + y) / (h + y + np.clip(rest, 0.0, None))
    # The price at the left end is the cheapest of the cell: nothing between grid points
    # is missed.
    return (_price(left, known.eps) + beta * share).min(axis=1)


def _price(energy: np.ndarray, eps: float) -> np.ndarray:
    """1 / (1 − s²), infinite where that is 1 to rounding (32 eps, as `usefulness`)."""
    room = 1.0 - energy
    open_ = room > 32 * eps
    return np.where(open_, 1.0 / np.where(open_, room, 1.0), np.inf)


def _ends(low: np.ndarray, high: np.ndarray) -> UsefulnessBounds:
    # The d of the upper bound: one that is sure to cost no more than that.
    best = 0 if np.isinf(high).all() else int(np.argmin(high)) + 1
    return UsefulnessBounds(float(low.min()), float(high.min()), best)
