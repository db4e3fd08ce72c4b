"""Finite joint laws: tables, observed pairs, conditional laws, chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from contexture_jax._core.arrays import kind_of, warn_if_float64
from contexture_jax._core.checks import (
    as_array,
    as_integers,
    as_real,
    check_concrete,
    check_integer,
    check_key,
    check_mass,
    check_ndim,
    check_nonnegative,
    check_rows_have_mass,
    check_values,
    counted,
    floating_dtype,
    gathered,
    is_traced,
    spans_processes,
)
from contexture_jax._core.numerics import (
    as_law,
    mm,
    normalised,
    safe_divide,
    weights_or_nan,
)
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
    summary,
)
from contexture_jax.contexts._base import Context, as_numbers

__all__ = [
    "DenseJoint",
    "SparseJoint",
    "conditional",
    "coordinates",
    "joint",
    "markov",
    "pairs",
]


@pytree_dataclass
class DenseJoint(Context):
    """A joint law stored as a dense table (theory.md §1).

    Attributes:
        probabilities: P⁺(x, a), shape (n, m), non-negative, summing to 1.
        has_profiles: whether rows of what the constructor took are rows of the table up
            to scale, so that `at` can take new ones. Static.
    """

    probabilities: Float[Array, "n m"]
    has_profiles: bool = static_field(default=True)

    def table(self) -> Float[Array, "n m"]:
        """The joint law, shape (n, m)."""
        return self.probabilities

    def sample(self, key: Array, x: ArrayLike) -> Int[Array, "..."]:
        """Draw one column number a ~ P⁺(·|x) for each row number in `x`."""
        check_key(key)
        rows = self.probabilities[as_numbers(x, "x", self.probabilities.shape[0])]
        return jax.random.categorical(key, jnp.log(rows), axis=-1)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Float[Array, "..."]:
        """Log P⁺(a|x) for row numbers `x` and column numbers `a`."""
        n, m = self.probabilities.shape
        x, a = as_numbers(x, "x", n), as_numbers(a, "a", m)
        rows = self.probabilities.sum(axis=1)
        return jnp.log(self.probabilities[x, a]) - jnp.log(rows[x])

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """The dual kernel k_X⁺ between the rows numbered `x` and `x2`."""
        n = self.probabilities.shape[0]
        x, x2 = as_numbers(x, "x", n), as_numbers(x2, "x2", n)
        p_a = self.probabilities.sum(axis=0)[None, :]
        rows = safe_divide(
            self.probabilities, self.probabilities.sum(axis=1, keepdims=True)
        )
        return mm(safe_divide(rows[x], p_a), rows[x2].T)

    def at(self, x_new: Any) -> DenseJoint:
        """Row numbers, shape (k,), or new rows of the table, shape (k, m).

        Rows without mass are kept and masked if given by number; new ones are refused.
        """
        num_columns = self.probabilities.shape[1]
        if _are_indices(x_new):
            index = _check_indices(x_new, self.probabilities.shape[0])
            rows = self.probabilities[index]
        else:
            _check_profiles(self.has_profiles)
            rows = _as_table(x_new, "x_new")
            _check_num_columns(rows, num_columns)
            _check_rows(rows, "x_new")
            rows = weights_or_nan(rows, axis=1)
            rows = normalised(rows, axis=1, dtype=self.probabilities.dtype)
        shares = normalised(normalised(rows, axis=1))
        return DenseJoint(shares, has_profiles=self.has_profiles)

    def reverse(self) -> DenseJoint:
        """The transposed table."""
        return DenseJoint(self.probabilities.T, has_profiles=self.has_profiles)


@pytree_dataclass
class SparseJoint(Context):
    """A joint law stored as its non-zero entries, sorted by row, then by column.

    Attributes:
        weights: P⁺(x, a) of the stored entries, shape (nnz,), summing to 1.
        rows: their row numbers, shape (nnz,), int32, ascending.
        columns: their column numbers, shape (nnz,), int32.
        shape: (n, m). Static.
        has_profiles: as in `DenseJoint`. Static.
    """

    weights: Float[Array, " nnz"]
    rows: Int[Array, " nnz"]
    columns: Int[Array, " nnz"]
    shape: tuple[int, int] = static_field()
    has_profiles: bool = static_field(default=True)

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table."""
        zeros = jnp.zeros(self.shape, self.weights.dtype)
        return zeros.at[self.rows, self.columns].add(self.weights)

    def at(self, x_new: Any) -> SparseJoint:
        """Row numbers, shape (k,), or new rows of the table, dense or sparse (k, m).

        Rows without mass are as in `DenseJoint.at`.
        """
        check_concrete((self.rows, self.weights, x_new), "x_new, with the table,")
        if _are_indices(x_new):
            x_new = _check_indices(x_new, self.shape[0])
            starts = np.searchsorted(
                np.asarray(self.rows), np.arange(self.shape[0] + 1)
            )
            lengths = np.diff(starts)[x_new]
            ends = np.cumsum(lengths)
            entries = (
                np.repeat(starts[x_new] - (ends - lengths), lengths)
                + np.arange(ends[-1] if len(ends) else 0)
            ).astype(np.int64)
            new = coordinates(
                np.repeat(np.arange(len(x_new)), lengths),
                np.asarray(self.columns)[entries],
                np.asarray(self.weights)[entries],
                (len(x_new), self.shape[1]),
            )
        else:
            _check_profiles(self.has_profiles)
            new = _joint(x_new, "x_new")
            if isinstance(new, DenseJoint):
                new = _sparse_from_dense(new.probabilities)
            if new.shape[1] != self.shape[1]:
                msg = f"x_new must have {self.shape[1]} columns; got {new.shape[1]}"
                raise ValueError(msg)
            check_rows_have_mass(np.bincount(new.rows, minlength=new.shape[0]), "x_new")
        mass = np.bincount(new.rows, new.weights, new.shape[0])
        weights = np.asarray(new.weights) / mass[np.asarray(new.rows)]
        weights = weights / max(1, np.count_nonzero(mass))
        return SparseJoint(
            jnp.asarray(weights, self.weights.dtype),
            new.rows,
            new.columns,
            new.shape,
            has_profiles=self.has_profiles,
        )

    def reverse(self) -> SparseJoint:
        """The transposed law."""
        n, m = self.shape
        reversed_ = coordinates(self.columns, self.rows, self.weights, (m, n))
        return SparseJoint(
            reversed_.weights,
            reversed_.rows,
            reversed_.columns,
            reversed_.shape,
            has_profiles=self.has_profiles,
        )


def joint(table: Any) -> DenseJoint | SparseJoint:
    """A context from a joint table; counts are normalised (theory.md §1).

    Args:
        table: P⁺(x, a) up to scale, shape (n, m), non-negative: an array, a
            `jax.experimental.sparse.BCOO` or a `scipy.sparse` matrix or array.
            Integers and half precision become float32 (float64 for integers under
            x64); float32 and float64 are kept.

    Returns:
        A dense or a sparse context, as `table` is. Rows and columns without mass are
        kept and masked: they get the value 0 in every function.

    Raises:
        TypeError: if the entries are not real numbers.
        ValueError: if `table` is not a matrix, is empty, has a negative or non-finite
            entry, or no mass at all; inside a trace the law is NaN then.
    """
    return _joint(table, "table")


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
        values = np.ones(rows.shape, jnp.zeros(()).dtype)
    else:
        check_concrete(weights, "weights")
        values = gathered(as_real(weights, "weights"))
        warn_if_float64(weights, values, "weights")
        if values.shape != rows.shape:
            msg = f"weights must have shape {rows.shape}; got {values.shape}"
            raise ValueError(msg)
        check_nonnegative(values, "weights")
    return _normalised(rows, columns, values, shape, "weights")


def conditional(matrix: ArrayLike, p_x: ArrayLike | None = None) -> DenseJoint:
    """A context from conditional laws, as an attention map is (theory.md §4).

    Args:
        matrix: P⁺(a|x) up to a scale for each row, shape (n, m), non-negative.
        p_x: law of X, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if a row has no mass, or an entry is negative or not finite; inside
            a trace the law is NaN then.
    """
    rows = _as_table(matrix, "matrix")
    _check_rows(rows, "matrix")
    shares = normalised(weights_or_nan(rows, axis=1), axis=1)
    num_rows = shares.shape[0]
    if p_x is None:
        weights = jnp.full((num_rows,), 1.0 / num_rows, shares.dtype)
    else:
        weights = as_law(p_x, "p_x", num_rows, shares.dtype)
    return DenseJoint(weights[:, None] * shares)


def markov(transition: ArrayLike) -> DenseJoint:
    """A context (now, next) from a transition matrix, started at its stationary law.

    Args:
        transition: row-stochastic matrix, shape (n, n).

    Raises:
        ValueError: if the matrix is not square, a row does not sum to 1, or the
            stationary law is not unique.
    """
    check_concrete(transition, "transition")
    rows = gathered(_as_table(transition, "transition"))
    if rows.shape[0] != rows.shape[1]:
        msg = f"transition must be square; got shape {rows.shape}"
        raise ValueError(msg)
    eps = np.finfo(floating_dtype(rows.dtype)).eps
    tolerance = rows.shape[0] * float(np.sqrt(eps))
    matrix = rows.astype(np.float64)
    check_values(
        matrix.sum(axis=1),
        "the row sums of transition",
        lambda v: np.abs(v - 1) <= tolerance,
        "1",
    )
    # The stationary law is the left null vector of I - T: the last right singular
    # vector of its transpose, unique if only one singular value vanishes.
    _, values, vectors = np.linalg.svd(matrix.T - np.eye(len(matrix)))
    if len(matrix) > 1 and values[-2] <= tolerance:
        raise ValueError(
            "transition must have one stationary law; this chain splits into several"
            " closed classes: give the law you mean with `conditional(matrix, p_x)`"
        )
    stationary = np.abs(vectors[-1])
    return conditional(rows, p_x=stationary)


def _joint(table: Any, name: str) -> DenseJoint | SparseJoint:
    if isinstance(table, sparse.BCSR):
        table = table.to_bcoo()
    if isinstance(table, sparse.BCOO):
        check_concrete(table, f"a BCOO ({name})")
        if table.n_batch or table.n_dense or table.ndim != 2:
            msg = (
                f"{name} must be a plain BCOO matrix (n_batch = n_dense = 0);"
                f" got shape {table.shape}, n_batch {table.n_batch},"
                f" n_dense {table.n_dense}"
            )
            raise ValueError(msg)
        indices = gathered(table.indices)
        inside = (indices < np.asarray(table.shape)).all(axis=1)  # BCOO pads outside
        rows, columns = indices[inside].T
        entries = gathered(table.data)[inside]
        return _normalised(rows, columns, entries, table.shape, name)
    if hasattr(table, "tocoo"):  # scipy.sparse, without importing it
        coo = table.tocoo()
        return _normalised(coo.row, coo.col, coo.data, coo.shape, name)
    return DenseJoint(normalised(weights_or_nan(_as_table(table, name))))


def _as_table(table: Any, name: str) -> Array | np.ndarray:
    """A table of weights, checked; as NumPy has it, whose range may be wider."""
    values = as_real(table, name)
    warn_if_float64(table, values, name)
    if isinstance(values, jax.Array):
        values = values.astype(floating_dtype(values.dtype))
    check_ndim(values, 2, name)
    if values.size == 0:
        msg = f"{name} must not be empty; got shape {values.shape}"
        raise ValueError(msg)
    check_nonnegative(values, name)
    check_mass(values, name)
    return values


def _normalised(
    rows: Any, columns: Any, weights: Any, shape: tuple[int, ...], name: str
) -> SparseJoint:
    """A sparse law from raw entries: checked, summed where they coincide, scaled."""
    if len(shape) != 2 or 0 in shape:
        msg = f"{name} must be a matrix that is not empty; got shape {tuple(shape)}"
        raise ValueError(msg)
    raw = np.asarray(as_real(weights, name))
    dtype = floating_dtype(raw.dtype)
    values = raw.astype(np.float64)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        first = int(np.argmax(bad))
        place = f"[{int(rows[first])}, {int(columns[first])}]"
        msg = (
            f"{name} must be finite and non-negative; got {values[first]} at"
            f" {name}{place} ({counted(bad.sum(), 'bad value')})"
        )
        raise ValueError(msg)
    largest = values.max(initial=0)
    if not largest > 0:
        msg = f"{name} must have positive total mass; all its entries are 0"
        raise ValueError(msg)
    values = values / largest  # a sum of large weights would overflow
    shares = values / values.sum()
    shares = np.where(shares >= np.finfo(dtype).tiny, shares, 0.0).astype(dtype)
    size = (int(shape[0]), int(shape[1]))
    return coordinates(rows, columns, shares, size)


def coordinates(
    rows: Any, columns: Any, weights: Any, shape: tuple[int, int]
) -> SparseJoint:
    """Sort entries by row, then column; add up duplicates; drop zeros."""
    rows, columns, weights = (np.asarray(v) for v in (rows, columns, weights))
    check_integer(max(shape), "the larger side of the table", low=1, high=2**31 - 1)
    flat = rows.astype(np.int64) * shape[1] + columns
    unique, inverse = np.unique(flat, return_inverse=True)
    summed = np.bincount(inverse, weights, len(unique))
    kept = summed > 0
    unique, summed = unique[kept], summed[kept]
    return SparseJoint(
        jnp.asarray(summed.astype(weights.dtype)),
        jnp.asarray((unique // shape[1]).astype(np.int32)),
        jnp.asarray((unique % shape[1]).astype(np.int32)),
        shape,
    )


def _sparse_from_dense(table: Array) -> SparseJoint:
    values = np.asarray(table)
    rows, columns = np.nonzero(values)
    return coordinates(rows, columns, values[rows, columns], values.shape)


def _check_rows(rows: Array | np.ndarray, name: str) -> None:
    if not is_traced(rows):
        # On the host: devices take subnormal numbers for 0.
        largest = rows if spans_processes(rows) else np.asarray(rows)
        check_rows_have_mass(largest.max(axis=1), name)


def _as_numbers(values: Any, name: str) -> np.ndarray:
    """One side of pairs; of features and names the message says what to do."""
    check_concrete(values, name)
    array = as_array(values, name)
    if array.dtype.kind in "fOUST":
        hint = (
            "number the values, as np.unique(values, return_inverse=True)[1] does"
            if array.dtype.kind in "OUST" or array.ndim == 1
            else "aligned features have no law of their own; train two towers on them,"
            " as by losses.svme(phi(x), psi(a)), or compare them by evaluation.cca"
        )
        msg = f"{name} must hold integers; got {kind_of(array)}, shape {array.shape}"
        raise TypeError(f"{msg}: {hint}")
    return _as_integers(values, name)


def _as_shape(shape: Any) -> tuple[int, int]:
    sizes = tuple(shape) if isinstance(shape, (Sequence, np.ndarray)) else ()
    if len(sizes) != 2:
        msg = f"shape must be two numbers (n, m); got {summary(shape)}"
        raise ValueError(msg)
    n, m = (check_integer(size, "each number of shape", low=1) for size in sizes)
    return n, m


def _as_integers(values: Any, name: str) -> np.ndarray:
    array = as_integers(values, name)
    check_ndim(array, 1, name)
    return array


def _are_indices(x_new: Any) -> bool:
    if hasattr(x_new, "tocoo") or isinstance(x_new, (sparse.BCOO, sparse.BCSR)):
        return False
    array = x_new if isinstance(x_new, jax.Array) else as_array(x_new, "x_new")
    return array.ndim == 1 and jnp.issubdtype(array.dtype, jnp.integer)


def _check_indices(x_new: Any, size: int) -> np.ndarray:
    index = _as_integers(x_new, "x_new")
    check_values(
        index, "x_new", lambda v: (v >= 0) & (v < size), f"between 0 and {size - 1}"
    )
    return index


def _check_profiles(has_profiles: bool) -> None:
    if not has_profiles:
        raise ValueError(
            "x_new must be row numbers here: a new row of a lazy walk would hold a step"
            " to itself, and has no column for it"
        )


def _check_num_columns(rows: Array | np.ndarray, num_columns: int) -> None:
    if rows.shape[1] != num_columns:
        msg = f"x_new must have {num_columns} columns; got {rows.shape[1]}"
        raise ValueError(msg)
