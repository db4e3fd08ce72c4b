"""Contexts between rows of data: a row of the same class, a step later in time."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_array,
    as_real,
    check_concrete,
    check_integer,
    check_ndim,
    check_nonnegative,
    gathered,
)
from contexture_jax._core.classes import class_codes
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    short_repr,
    static_field,
)
from contexture_jax.contexts._labels import Labels, labels_of
from contexture_jax.contexts._numbered import NumberedContext, shares_of
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates

__all__ = [
    "Groups",
    "SameClass",
    "TimeLag",
    "make_groups",
    "same_class",
    "time_lag",
]


@short_repr
class Groups(NamedTuple):
    """Numbers 0, …, n − 1 in groups.

    Attributes:
        group: the group of each, shape (n,), int32.
        order: the numbers, group by group, shape (n,), int32.
        place: where each is within its group, shape (n,), int32.
        starts: where each group starts in `order`, shape (g,), int32.
        counts: how many it has, shape (g,), int32.
    """

    group: Int[Array, " n"]
    order: Int[Array, " n"]
    place: Int[Array, " n"]
    starts: Int[Array, " g"]
    counts: Int[Array, " g"]


def make_groups(group: np.ndarray, within: np.ndarray | None = None) -> Groups:
    """Sort by group, and within one by `within`, on the host."""
    n = len(group)
    # The last key is the first criterion; within a group by number, or as asked.
    order = np.lexsort((np.arange(n) if within is None else within, group))
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    place = np.empty(n, np.int64)
    # The inverse permutation, from the start of each group.
    place[order] = np.arange(n) - starts[group[order]]
    arrays = (group, order, place, starts, counts)
    return Groups(*(jnp.asarray(array, jnp.int32) for array in arrays))


@pytree_dataclass
class SameClass(NumberedContext):
    """A is a row of the class of X, uniformly chosen.

    Attributes:
        groups: rows by class.
        inputs: the classes of the inputs: of the rows themselves, but after `at`.
        include_self: whether A may be X. Static.
    """

    groups: Groups
    inputs: Labels
    include_self: bool = static_field(default=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n); after `at` (k, n)."""
        return self.inputs.codes.shape[0], self.groups.group.shape[0]

    def at(self, x_new: Any) -> SameClass:
        """New inputs given by their classes, shape (k,).

        They are none of the rows, each of which in their class is equally likely: with
        `include_self` that is also the law of a row of the class.
        """
        # `place` is of rows: an input from outside has none to leave out.
        return SameClass(self.groups, self.inputs.at(x_new), include_self=True)

    def _num_choices(self, x: Array) -> Array:
        return self.groups.counts[self.inputs.codes[x]] - (not self.include_self)

    def _draw(self, key: Array, x: Array) -> Array:
        groups = self.groups
        which = jax.random.randint(key, (), 0, self._num_choices(x), jnp.int32)
        if not self.include_self:
            # Uniform on n_c − 1 places, and those from its own on are one further: no
            # draw is thrown away.
            which = which + (which >= groups.place[x])
        return groups.order[groups.starts[self.inputs.codes[x]] + which]

    def _log_density(self, a: Array, x: Array) -> Array:
        is_same = self.groups.group[a] == self.inputs.codes[x]
        possible = is_same & (self.include_self | (a != x))
        # Of n_c rows, or of the n_c − 1 others (theory.md §4.7).
        share = -jnp.log(self._num_choices(x).astype(jnp.zeros(()).dtype))
        return jnp.where(possible, share, -jnp.inf)

    def _law_of_a(self) -> Array:
        # The share of a class over its rows: no sum over the table is needed. Without
        # `include_self` two rows are as likely in either order, and P_A is the same.
        shares = shares_of(self.inputs.codes, self.inputs.num_classes)
        return (shares / self.groups.counts)[self.groups.group]


def same_class(y: ArrayLike, *, include_self: bool = False) -> SameClass:
    """X and A are two rows of the same class (supervised contrastive pairs).

    With `include_self` the dual kernel is that of `labels`: s = 1 for C − 1 functions,
    then 0. Without, one of class c has in addition the value 1 / (n_c − 1), n_c − 1
    times.

    Args:
        y: class of each row, shape (n,): integers, booleans, text or anything that
            NumPy sorts, as an array, a list or a column of a frame.
        include_self: whether a row may be its own context value.

    Raises:
        TypeError: if `y` is of several types.
        ValueError: if `y` is no vector, a class is missing (None, NaN), or one has one
            row only and `include_self` is False.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> context = cx.contexts.same_class([0, 0, 1, 1])
        >>> context.sample(jax.random.key(0), jax.numpy.arange(4)).tolist()
        [1, 0, 3, 2]
    """
    check_concrete(y, "y")
    classes, codes = class_codes(y, "y")
    groups = make_groups(codes)
    # A class of one row has no other: its law would be empty.
    lonely = np.flatnonzero(np.asarray(groups.counts) == 1)
    if lonely.size and not include_self:
        which = classes[lonely].tolist()[0]
        msg = (
            f"every class must have two rows; class {which!r} has one: leave it out,"
            " or let rows be their own with include_self=True"
        )
        raise ValueError(msg)
    return SameClass(groups, labels_of(classes, codes), bool(include_self))


@pytree_dataclass
class TimeLag(NumberedContext):
    """A is the time X + τ in the same series, with a random lag τ.

    P⁺(x + τ|x) is proportional to the weight of τ among the lags that stay within the
    series; a time without any has no law and no mass.

    Attributes:
        lags: distinct, shape (k,), int32.
        log_weights: log weights of the lags, the largest 0, shape (k,).
        begin: first time of the series of each time, shape (n,), int32.
        end: one past its last, shape (n,), int32.
    """

    _WITH_LAW: ClassVar[str] = (
        "times from which a lag stays within the series, as in `inputs()`"
    )

    lags: Int[Array, " k"]
    log_weights: Float[Array, " k"]
    begin: Int[Array, " n"]
    end: Int[Array, " n"]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        n = self.begin.shape[0]
        return n, n

    def _logits(self, x: Array) -> tuple[Array, Array]:
        # (k,): where each lag leads.
        times = x + self.lags
        inside = (times >= self.begin[x]) & (times < self.end[x])
        return times, jnp.where(inside, self.log_weights, -jnp.inf)

    def inputs(self) -> np.ndarray:
        """The times that have a law, ascending, on the host."""
        return np.unique(self.entries()[0])

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times x, times a and P⁺(a|x), each of one length, by x; on the host."""
        return self._entries(np.arange(self.shape[0]))

    def _entries(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same with places in `x` for times x."""
        begin, end = (np.asarray(times)[x] for times in (self.begin, self.end))
        lags, logs = np.asarray(self.lags), np.asarray(self.log_weights, np.float64)
        # (n, k) at once, on the host, in int64: a lag may lead out of the range of
        # int32.
        times = x[:, None] + lags[None, :].astype(np.int64)
        inside = (times >= begin[:, None]) & (times < end[:, None])
        rows, which = np.nonzero(inside & np.isfinite(logs)[None, :])
        # Of the weights that stay within: others may be larger by any factor.
        top = np.full(len(begin), -np.inf)
        np.maximum.at(top, rows, logs[which])
        shares = np.exp(logs[which] - top[rows])
        shares = shares / np.bincount(rows, shares, len(begin))[rows]
        return rows, times[rows, which], shares

    def at(self, x_new: ArrayLike) -> SparseJoint:
        """Some of the times, by number, shape (k,)."""
        check_concrete((self.log_weights, x_new), "x_new, with the series,")
        times = np.asarray(self._inputs(x_new, "x_new"))
        check_ndim(times, 1, "x_new")
        rows, columns, shares = self._entries(times)
        weights = (shares / len(times)).astype(self.log_weights.dtype)
        return coordinates(rows, columns, weights, (len(times), self.shape[1]))

    def _has_law(self, x: Int[Array, " k"]) -> np.ndarray:
        # What the operator masks is what `sample` refuses.
        return np.isin(gathered(x), self.inputs())

    def _draw(self, key: Array, x: Array) -> Array:
        times, logits = self._logits(x)
        return times[jax.random.categorical(key, logits)]

    def _log_density(self, a: Array, x: Array) -> Array:
        times, logits = self._logits(x)
        total = jax.nn.logsumexp(logits)
        # Lags are distinct, so that one hits at most; −∞ if none does.
        hit = jax.nn.logsumexp(jnp.where(times == a, logits, -jnp.inf))
        return jnp.where(jnp.isfinite(total), hit - total, -jnp.inf)


def time_lag(
    lengths: ArrayLike,
    lags: ArrayLike = 1,
    weights: ArrayLike | None = None,
) -> TimeLag:
    """X is a time, A the time a lag later (or earlier) in the same series.

    Times are row numbers of data that an encoder sees: `x[context.sample(key, rows)]`
    goes with `x[rows]` in training. The law between the times themselves says little:
    of one lag it moves each time to one other, and all its singular values are 1. To
    rank functions of what is observed at a time,

    * of states, numbered from 0: `pairs(states[:-1], states[1:])`, which counts how
      often one follows another;
    * of features, floating: train two towers on `(x[:-1], x[1:])` by `losses.svme` or
      `losses.vamp`, or compare the two arrays by `evaluation.cca`.

    Args:
        lengths: steps of the series, or of several ones whose steps are numbered one
            series after the other.
        lags: one lag or several distinct ones; negative is earlier, 0 allowed.
        weights: weight of each lag, non-negative, up to a scale; None: equal.

    Raises:
        ValueError: if lags repeat, weights do not fit, or no time has a law.

    Example:
        >>> import contexture_jax as cx
        >>> context = cx.contexts.time_lag(100, lags=(1, 2))
        >>> context.inputs().max()
        np.int64(98)
    """
    parts = _integers(lengths, "lengths", low=1)
    steps = _integers(lags, "lags", low=-(2**31))
    if len(np.unique(steps)) != len(steps):
        msg = f"lags must be distinct; got {steps.tolist()}"
        raise ValueError(msg)
    check_concrete((lengths, lags, weights), "lengths, lags and weights")
    shares = (
        np.ones(len(steps))
        if weights is None
        else np.asarray(as_real(weights, "weights"))
    )
    if shares.shape != steps.shape:
        msg = f"weights must have shape {steps.shape}; got {shares.shape}"
        raise ValueError(msg)
    check_nonnegative(shares, "weights")
    # Series lie one after the other: each time knows where its own begins and ends.
    ends = np.cumsum(parts)
    # Of the largest: logarithms of large weights have few digits left in float32.
    relative = shares.astype(np.float64) / max(float(shares.max()), 5e-324)
    with np.errstate(divide="ignore"):
        log_weights = np.log(relative)
    context = TimeLag(
        jnp.asarray(steps, jnp.int32),
        jnp.asarray(log_weights, jnp.zeros(()).dtype),
        jnp.asarray(np.repeat(ends - parts, parts), jnp.int32),
        jnp.asarray(np.repeat(ends, parts), jnp.int32),
    )
    if context.inputs().size == 0:
        msg = (
            f"some lag must stay within a series; got lags {steps.tolist()} with"
            f" weights {shares.tolist()} for lengths {parts.tolist()}"
        )
        raise ValueError(msg)
    return context


def _integers(values: Any, name: str, *, low: int) -> np.ndarray:
    """A non-empty vector of integers from one or several."""
    several = np.atleast_1d(as_array(values, name))
    check_ndim(several, 1, name)
    if several.size == 0:
        msg = f"{name} must have at least one entry; got none"
        raise ValueError(msg)
    return np.array([check_integer(v, name, low=low) for v in several.tolist()])
