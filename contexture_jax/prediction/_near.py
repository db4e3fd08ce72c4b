"""Prediction by the nearest rows, their number chosen by rows left out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from contexture_jax._core.checks import check_integer, is_concrete
from contexture_jax._core.either import (
    Either,
    as_devices,
    compiled_unless_numpy,
    fold,
    little_at_hand,
    namespace,
    product,
    quotient,
    scanned,
)
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts import nearest_neighbors as find_nearest
from contexture_jax.prediction._ridge import least
from contexture_jax.prediction._target import (
    Scored,
    as_features,
    as_target,
    as_weights,
)

__all__ = ["NeighborsFit", "nearest_neighbors"]

_CANDIDATES = (1, 2, 5, 10, 20)


@pytree_dataclass
class NeighborsFit(Scored):
    """Rows to look among, and how they did on each other.

    Attributes:
        candidates: the values of k, ascending. Static.
        points: the features, shape (n, d).
        columns: the target, one column a number or class, shape (n, c).
        row_weights: of the rows, with sum 1, shape (n,).
        num_neighbors: the k that was chosen, shape (), int32.
        errors: of each k, on rows left out one by one: the share that is misclassified,
            or `squared_errors`. Shape (ks,).
        squared_errors: the mean squared residual over the variance.
    """

    candidates: tuple[int, ...] = static_field()
    points: Float[Array, "n d"]
    columns: Float[Array, "n c"]
    row_weights: Float[Array, " n"]
    num_neighbors: Int[Array, ""]
    errors: Float[Array, " ks"]
    squared_errors: Float[Array, " ks"]

    def scores(self, features: ArrayLike) -> Float[Array, "k c"]:
        """The weighted mean of the target over the rows nearest to others."""
        x = as_features(features, "features", self.points.shape[1])
        x = x.astype(self.points.dtype)
        near = _search(x, self.points, self.candidates[-1])
        given = near, self.columns, self.row_weights, self.num_neighbors
        return as_devices(_at_chosen(*little_at_hand(given)))

    def predict(self, features: ArrayLike) -> Array | np.ndarray:
        """Classes, or numbers in the form of the target, at other rows."""
        return self.decided(self.scores(features))


def nearest_neighbors(
    features: ArrayLike,
    y: ArrayLike,
    *,
    num_neighbors: int | Sequence[int] | None = None,
    weights: ArrayLike | None = None,
    num_classes: int | None = None,
) -> NeighborsFit:
    """The mean of the target over the k nearest rows, k by rows left out one by one.

    Σ w_j y_j / Σ w_j over the k rows that are nearest in Euclidean distance, w the
    weights; classes are indicators, predicted by the largest share, of equal ones the
    first. A row left out has the others for neighbours, so that one search gives the
    error of every k. The search is that of the k-NN context, exact; inside a trace to
    rounding. Where all k have no weight, the mean is that of all rows.

    Args:
        features: shape (n, d); distances are those of what is given, in its units.
        y: floating numbers, shape (n,) or (n, c), or classes of any kind, shape (n,).
        num_neighbors: values of k, at most n − 1 each; None: those of
            1, 2, 5, 10 and 20 that are.
        weights: of the rows, shape (n,); None: alike.
        num_classes: C for classes 0, …, C − 1; needed inside a trace.

    Raises:
        TypeError: as `ridge`.
        ValueError: as `ridge`, and if a k is out of range.
    """
    z = as_features(features, "features")
    n = z.shape[0]
    target = as_target(y, n, z.dtype, num_classes)
    p = as_weights(weights, n, z.dtype)
    if num_neighbors is None:
        num_neighbors = [k for k in _CANDIDATES if k < n] or 1
    given = np.atleast_1d(np.asarray(num_neighbors)).tolist()
    counts = {check_integer(k, "num_neighbors", low=1, high=n - 1) for k in given}
    if not counts:
        raise ValueError("num_neighbors must name at least 1 number; got none")
    candidates = tuple(sorted(counts))
    # One more than asked for: each row finds itself.
    near = _search(z, z, candidates[-1] + 1)
    chosen, errors, squared = _judge(
        *little_at_hand((near, target.columns, p)),
        candidates=candidates,
        of_classes=target.classes is not None,
    )
    return NeighborsFit(
        target.classes,
        target.is_vector,
        candidates,
        z,
        target.columns,
        p,
        *as_devices((chosen, errors, squared)),
    )


def _search(
    queries: Float[Array, "q d"], points: Float[Array, "n d"], count: int
) -> Int[Array, "q count"]:
    if not is_concrete(queries, points):
        return find_nearest(queries, points, count)
    # Exact, also within a trace of something else.
    with jax.ensure_compile_time_eval():
        return find_nearest(queries, points, count)


# A scan that an eager call would trace each time, as below.
@functools.partial(compiled_unless_numpy, static_argnames=("candidates", "of_classes"))
def _judge(
    near: Int[Any, "n k"],
    y: Float[Any, "n c"],
    p: Float[Any, " n"],
    *,
    candidates: tuple[int, ...],
    of_classes: bool,
) -> tuple[Either, Either, Either]:
    xp = namespace(y)
    own = near == xp.arange(near.shape[0], dtype=near.dtype)[:, None]
    # A row that so many equal ones precede is not in its own list: the last one goes.
    order = xp.argsort(own, axis=1, stable=True)
    near = xp.take_along_axis(near, order, axis=1)[:, :-1]
    truth, mean = xp.argmax(y, axis=1), product(p[None, :], y)

    def step(carry: tuple[Either, Either], columns: tuple[Either]) -> tuple:
        (total, mass), (rows,) = carry, columns
        total, mass = total + p[rows][:, None] * y[rows], mass + p[rows]
        guess = _or_mean(total, mass, mean)
        squared = xp.sum(p[:, None] * (y - guess) ** 2)
        wrong = xp.sum(p * (xp.argmax(guess, axis=1) != truth))
        return (total, mass), (squared, wrong)

    start = xp.zeros_like(y), xp.zeros_like(p)
    squared, wrong = scanned(step, start, (near.T,))
    counts = xp.asarray(candidates, np.int32)
    squared = quotient(squared, xp.sum(p[:, None] * (y - mean) ** 2))[counts - 1]
    errors = wrong[counts - 1] if of_classes else squared
    return counts[least(errors, squared)], errors, squared


@compiled_unless_numpy
def _at_chosen(
    near: Int[Any, "q k"], y: Float[Any, "n c"], p: Float[Any, " n"], count: Either
) -> Float[Any, "q c"]:
    xp = namespace(y)

    def step(carry: tuple[Either, Either], slot: tuple[Either, Either]) -> tuple:
        total, mass = carry
        number, rows = slot
        weight = xp.where(number < count, p[rows], 0)
        return total + weight[:, None] * y[rows], mass + weight

    numbers = xp.arange(near.shape[1], dtype=np.int32)
    zeros = xp.zeros(near.shape[:1], y.dtype)
    start = xp.zeros((near.shape[0], y.shape[1]), y.dtype), zeros
    total, mass = fold(step, start, (numbers, near.T))
    return _or_mean(total, mass, product(p[None, :], y))


def _or_mean(total: Either, mass: Either, mean: Either) -> Either:
    shares = quotient(total, mass[:, None])
    return namespace(total).where(mass[:, None] > 0, shares, mean)
