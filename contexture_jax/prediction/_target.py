"""What is predicted and from what, and which rows are left out together."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_array,
    as_floating,
    check_concrete,
    check_finite,
    check_integer,
    check_ndim,
    check_values,
    is_traced,
)
from contexture_jax._core.classes import class_codes
from contexture_jax._core.either import (
    as_devices,
    at_hand,
    little_at_hand,
    namespace,
)
from contexture_jax._core.numerics import as_law
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Bool,
    Float,
    Int,
    pytree_dataclass,
    static_field,
    summary,
)

__all__ = [
    "Scored",
    "Target",
    "as_features",
    "as_target",
    "as_weights",
    "fold_rows",
    "held_out",
]


class Target(NamedTuple):
    """A target as columns of numbers.

    Attributes:
        columns: numbers, or the indicators of the classes, shape (n, c).
        classes: what the columns stand for; None: numbers.
        is_vector: whether numbers came as a vector.
    """

    columns: Float[Array, "n c"]
    classes: tuple[Any, ...] | None
    is_vector: bool


@pytree_dataclass
class Scored:
    """What the scores of a fit stand for: the fields that all fits have.

    Attributes:
        classes: the classes in the order of the scores; None for numbers. Static.
        is_vector: whether numbers came as a vector. Static.
    """

    classes: tuple[Any, ...] | None = static_field()
    is_vector: bool = static_field()

    def decided(self, scores: Float[Array, "k c"]) -> Array | np.ndarray:
        """The class with the largest score, or the numbers as the target had them.

        Classes with names come as an array of NumPy, those of a trace and classes 0, …,
        C − 1 as one of JAX.
        """
        if self.classes is None:
            return scores[:, 0] if self.is_vector else scores
        (scores,) = little_at_hand((scores,))
        best = as_devices(namespace(scores).argmax(scores, axis=1).astype(np.int32))
        if self.classes == tuple(range(len(self.classes))):
            return best
        return np.array(self.classes)[np.asarray(best)]


def as_features(x: ArrayLike, name: str, width: int | None = None) -> Float[Array, ...]:
    """A finite floating matrix with a column or more, or of so many columns."""
    x = as_floating(x, name)
    check_ndim(x, 2, name)
    if x.shape[1] == 0 or (width is not None and x.shape[1] != width):
        expected = "at least 1 column" if width is None else f"{width} column(s)"
        msg = f"{name} must have {expected}; got shape {tuple(x.shape)}"
        raise ValueError(msg)
    check_finite(x, name)
    return x


def as_weights(weights: Any, num_rows: int, dtype: Any) -> Float[Array, " n"]:
    """Weights that sum to 1; uniform where None."""
    if weights is None:
        return jnp.asarray(np.full(num_rows, 1 / num_rows, dtype))
    return as_law(weights, "weights", num_rows, dtype)


def as_target(
    y: Any, num_rows: int, dtype: Any, num_classes: int | None = None, name: str = "y"
) -> Target:
    """Floating numbers as they are, all else as classes.

    Args:
        y: shape (n,), or numbers of shape (n, c).
        num_rows: n.
        dtype: of the columns.
        num_classes: C, for classes 0, …, C − 1; needed for classes inside a trace.
        name: what the caller calls it, for the message.

    Raises:
        TypeError: if it holds neither, or integers are traced without `num_classes`.
        ValueError: if the number of rows is another, numbers are not finite or of one
            value, there are fewer than 2 classes, or one of 0, …, C − 1 has no row.
    """
    array = jnp.asarray(y) if is_traced(y) else None
    kind = array.dtype if array is not None else as_array(y, name).dtype
    if jnp.issubdtype(kind, jnp.floating) and num_classes is None:
        return _numbers(as_floating(y, name).astype(dtype), num_rows, name)
    if num_classes is not None:
        num_classes = check_integer(num_classes, "num_classes", low=2)
    if array is None:
        codes, classes = _codes(y, num_classes, name)
    elif num_classes is None or not jnp.issubdtype(kind, jnp.integer):
        msg = (
            f"{name} must be numbers, or integer classes with num_classes given, inside"
            f" a trace; got {summary(array)}"
        )
        raise TypeError(msg)
    else:
        codes, classes = array, tuple(range(num_classes))
    _check_rows(codes, num_rows, name, 1)
    if isinstance(codes, np.ndarray):
        columns = jnp.asarray(np.eye(len(classes), dtype=dtype)[codes])
    else:
        columns = jax.nn.one_hot(codes, len(classes), dtype=dtype)
    return Target(columns, classes, True)


def _numbers(y: Array, num_rows: int, name: str) -> Target:
    _check_rows(y, num_rows, name, 2)
    check_finite(y, name)
    (given,) = at_hand((y,))
    columns = as_devices(given[:, None] if y.ndim == 1 else given)
    if not is_traced(y) and not np.ptp(np.asarray(columns), axis=0).any():
        msg = f"{name} must vary over the rows; got one value in all of them"
        raise ValueError(msg)
    return Target(columns, None, y.ndim == 1)


def _codes(
    y: Any, num_classes: int | None, name: str
) -> tuple[np.ndarray, tuple[Any, ...]]:
    values, codes = class_codes(y, name, discrete=True)
    if num_classes is not None:
        if values.dtype.kind not in "iu":
            msg = f"{name} must hold integers with num_classes given; got text"
            raise TypeError(msg)
        check_values(
            values,
            name,
            lambda v: v < num_classes,
            f"below {num_classes} = num_classes",
        )
        check_values(values, name, lambda v: v >= 0, "at least 0")
        missing = np.setdiff1d(np.arange(num_classes), values)
        if len(missing):
            msg = (
                f"{name} must have a row of each of {num_classes} classes; got none of"
                f" class {missing[0]}: label one, or leave the class out"
            )
            raise ValueError(msg)
    if len(values) < 2:
        msg = f"{name} must have at least 2 classes; got {summary(values.tolist())}"
        raise ValueError(msg)
    return codes, tuple(values.tolist())


def _check_rows(y: Any, num_rows: int, name: str, most: int) -> None:
    if not 1 <= y.ndim <= most or y.shape[0] != num_rows or 0 in y.shape:
        msg = f"{name} must have {num_rows} rows; got shape {tuple(y.shape)}"
        raise ValueError(msg)


def fold_rows(
    folds: Any, num_rows: int
) -> tuple[Int[np.ndarray, "k m"], Bool[np.ndarray, "k m"]]:
    """The rows of each fold by number, and which of them are there and no padding.

    Args:
        folds: k, for row i in fold i mod k; or the fold of each row, shape (n,),
            anything that names classes.
        num_rows: n.

    Raises:
        TypeError: if it is traced.
        ValueError: if there are fewer than 2 folds, or more than rows.
    """
    check_concrete(folds, "folds")
    if np.ndim(folds) == 0:
        count = check_integer(folds, "folds", low=2, high=num_rows)
        which = np.arange(num_rows) % count
    else:
        _, which = class_codes(folds, "folds")
        _check_rows(which, num_rows, "folds", 1)
        if which.max() == 0:
            raise ValueError("folds must be at least 2; got 1")
    sizes = np.bincount(which)
    there = np.arange(sizes.max())[None, :] < sizes[:, None]
    rows = np.zeros(there.shape, np.int32)
    rows[there] = np.argsort(which, kind="stable")
    return rows, there


def held_out(
    rows: Int[np.ndarray, "k m"], there: Bool[np.ndarray, "k m"], num_rows: int
) -> Bool[np.ndarray, "k n"]:
    """Which rows each fold of `fold_rows` leaves out."""
    held = np.zeros((len(rows), num_rows), bool)
    for mask, some, real in zip(held, rows, there, strict=True):
        mask[some[real]] = True
    return held
