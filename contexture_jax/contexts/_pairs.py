"""Observed pairs as a context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.arrays import kind_of, warn_if_float64
from contexture_jax._core.checks import (
    as_array,
    as_integers,
    as_real,
    check_concrete,
    check_integer,
    check_ndim,
    check_nonnegative,
    check_values,
    gathered,
)
from contexture_jax._core.types import ArrayLike, summary
from contexture_jax.contexts._sparse_joint import SparseJoint, from_entries

__all__ = ["pairs"]


def pairs(
    x_index: ArrayLike,
    a_index: ArrayLike,
    weights: ArrayLike | None = None,
    shape: tuple[int, int] | None = None,
) -> SparseJoint:
    """A context from observed pairs (x, a): the empirical joint law (theory.md §1).

    For inputs and context values that are numbered and seen many times: states and the
    states that follow, users and items. If every x is seen once, as image i with
    caption i, all singular values are 1. Two aligned arrays of features have no law of
    their own: train two towers on their rows by `losses.svme`, or compare them by
    `evaluation.cca`; or number what is alike (clusters, words) and pair the numbers.

    Args:
        x_index: number of the input in each pair, shape (N,), integer, from 0.
        a_index: number of the context value in each pair, shape (N,), integer.
        weights: weight of each pair, shape (N,), non-negative; None: all equal. Pairs
            that occur more than once add up.
        shape: (n, m); None: one more than the largest numbers seen.

    Raises:
        TypeError: if the numbers are not integers.
        ValueError: if lengths differ, a number is outside `shape`, or a weight is
            negative or not finite.
    """
    rows, columns = (
        _as_numbers(x_index, "x_index"),
        _as_numbers(a_index, "a_index"),
    )
    if rows.shape != columns.shape:
        msg = (
            "x_index and a_index must have the same length; got"
            f" {rows.shape[0]} and {columns.shape[0]}"
        )
        raise ValueError(msg)
    if rows.size == 0:
        raise ValueError("x_index and a_index must hold at least one pair; got none")
    # Negative numbers before the sizes: `max` would hide them.
    indices = {"x_index": rows, "a_index": columns}
    if shape is None:
        for name, index in indices.items():
            check_values(index, name, lambda v: v >= 0, "0 or more")
        shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    else:
        shape = _as_shape(shape)
    for (name, index), size in zip(indices.items(), shape, strict=True):
        check_values(
            index,
            name,
            lambda v, size=size: (v >= 0) & (v < size),
            f"between 0 and {size - 1}",
        )
    if weights is None:
        # In the default dtype of JAX, as counts have none of their own.
        values = np.ones(rows.shape, jnp.zeros(()).dtype)
    else:
        check_concrete(weights, "weights")
        values = gathered(as_real(weights, "weights"))
        warn_if_float64(weights, values, "weights")
        if values.shape != rows.shape:
            msg = f"weights must have shape {rows.shape}; got {values.shape}"
            raise ValueError(msg)
        check_nonnegative(values, "weights")
    # Pairs seen several times add up: the table of counts over N.
    return from_entries(rows, columns, values, shape, "weights")


def _as_numbers(values: Any, name: str) -> np.ndarray:
    """One side of pairs; of features and names the message says what to do."""
    check_concrete(values, name)
    array = as_array(values, name)
    # By kind before `as_integers`: who passes features has usually mistaken what this
    # function is for.
    if array.dtype.kind in "fOUST":
        hint = (
            "number the values, as np.unique(values, return_inverse=True)[1] does"
            if array.dtype.kind in "OUST" or array.ndim == 1
            else "aligned features have no law of their own; train two towers on them,"
            " as by losses.svme(phi(x), psi(a)), or compare them by evaluation.cca"
        )
        msg = f"{name} must hold integers; got {kind_of(array)}, shape {array.shape}"
        raise TypeError(f"{msg}: {hint}")
    numbers = as_integers(values, name)
    check_ndim(numbers, 1, name)
    return numbers


def _as_shape(shape: Any) -> tuple[int, int]:
    sizes = tuple(shape) if isinstance(shape, (Sequence, np.ndarray)) else ()
    if len(sizes) != 2:
        msg = f"shape must be two numbers (n, m); got {summary(shape)}"
        raise ValueError(msg)
    n, m = (check_integer(size, "each number of shape", low=1) for size in sizes)
    return n, m
