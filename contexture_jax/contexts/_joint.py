"""Finite joint laws: tables, observed pairs, labels, conditional laws, chains."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_ndim,
    check_nonnegative,
    check_probabilities,
    check_rows_have_mass,
    check_values,
    floating_dtype,
    is_concrete,
)
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._base import Context

__all__ = [
    "DenseJoint",
    "Labels",
    "SparseJoint",
    "conditional",
    "coordinates",
    "joint",
    "labels",
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

    def sample(self, key: Array, x: Int[Array, "..."]) -> Int[Array, "..."]:
        """Draw one column number a ~ P⁺(·|x) for each row number in `x`."""
        return jax.random.categorical(key, jnp.log(self.probabilities[x]), axis=-1)

    def log_density(
        self, a: Int[Array, "..."], x: Int[Array, "..."]
    ) -> Float[Array, "..."]:
        """Log P⁺(a|x) for row numbers `x` and column numbers `a`."""
        rows = self.probabilities.sum(axis=1)
        return jnp.log(self.probabilities[x, a]) - jnp.log(rows[x])

    def kernel(self, x: Int[Array, " k"], x2: Int[Array, " l"]) -> Float[Array, "k l"]:
        """The dual kernel k_X⁺ between the rows numbered `x` and `x2`."""
        p_a = self.probabilities.sum(axis=0)[None, :]
        rows = safe_divide(
            self.probabilities, self.probabilities.sum(axis=1, keepdims=True)
        )
        return mm(safe_divide(rows[x], p_a), rows[x2].T)

    def at(self, x_new: Any) -> "DenseJoint":
        """Row numbers, shape (k,), or new rows of the table, shape (k, m)."""
        num_columns = self.probabilities.shape[1]
        if _are_indices(x_new):
            rows = self.probabilities[
                _check_indices(x_new, self.probabilities.shape[0])
            ]
        else:
            _check_profiles(self.has_profiles)
            rows = _as_table(x_new, "x_new").astype(self.probabilities.dtype)
            _check_num_columns(rows, num_columns)
        mass = rows.sum(axis=1, keepdims=True)
        check_rows_have_mass(mass[:, 0], "x_new")
        return DenseJoint(rows / mass / rows.shape[0])

    def reverse(self) -> "DenseJoint":
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

    def at(self, x_new: Any) -> "SparseJoint":
        """Row numbers, shape (k,), or new rows of the table, dense or sparse (k, m)."""
        if _are_indices(x_new):
            x_new = _check_indices(x_new, self.shape[0])
            starts = np.searchsorted(self.rows, np.arange(self.shape[0] + 1))
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
            new = joint(x_new)
            if isinstance(new, DenseJoint):
                new = _sparse_from_dense(new.probabilities)
            if new.shape[1] != self.shape[1]:
                msg = f"x_new must have {self.shape[1]} columns; got {new.shape[1]}"
                raise ValueError(msg)
        mass = np.bincount(new.rows, new.weights, new.shape[0])
        check_rows_have_mass(mass, "x_new")
        weights = np.asarray(new.weights) / mass[np.asarray(new.rows)] / new.shape[0]
        return SparseJoint(
            jnp.asarray(weights, self.weights.dtype), new.rows, new.columns, new.shape
        )

    def reverse(self) -> "SparseJoint":
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


@pytree_dataclass
class Labels(Context):
    """X is an example, A its class: P⁺(a|x) = 1[a = y(x)] (theory.md §4).

    The singular values are 1, with multiplicity (number of classes − 1), then 0.

    Attributes:
        codes: class of each example as a number in 0, …, C−1, shape (n,), int32.
        classes: the class values as given, ascending, shape (C,).
    """

    codes: Int[Array, " n"]
    classes: Int[Array, " c"]

    def table(self) -> Float[Array, "n c"]:
        """The joint law, shape (n, C)."""
        hot = jax.nn.one_hot(self.codes, self.classes.shape[0])
        return hot / self.codes.shape[0]

    def kernel(self, x: Int[Array, " k"], x2: Int[Array, " l"]) -> Float[Array, "k l"]:
        """k_X⁺(x, x2) = 1[y(x) = y(x2)] / P(y(x)), between examples by number."""
        hot = jax.nn.one_hot(self.codes, self.classes.shape[0])
        share = hot.mean(axis=0)
        same = self.codes[x][:, None] == self.codes[x2][None, :]
        return same / share[self.codes[x]][:, None]

    def at(self, x_new: Any) -> "Labels":
        """Examples given by their class values, shape (k,)."""
        values = _as_class_values(x_new, "x_new")
        classes = np.asarray(self.classes)
        codes = np.clip(np.searchsorted(classes, values), 0, len(classes) - 1)
        unknown = classes[codes] != values
        if unknown.any():
            msg = (
                f"x_new must hold classes among {classes.tolist()};"
                f" got {values[unknown][0]}"
            )
            raise ValueError(msg)
        return Labels(jnp.asarray(codes, jnp.int32), self.classes)

    def reverse(self) -> SparseJoint:
        """The law with rows = classes (by number) and columns = examples."""
        n = self.codes.shape[0]
        weights = np.full(n, 1.0 / n, jnp.zeros(()).dtype)
        shape = (self.classes.shape[0], n)
        return coordinates(self.codes, np.arange(n), weights, shape)


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
            entry, or no mass at all.
    """
    if isinstance(table, sparse.BCOO):
        if table.n_batch or table.n_dense or table.ndim != 2:
            msg = (
                "table must be a plain BCOO matrix (n_batch = n_dense = 0);"
                f" got shape {table.shape}, n_batch {table.n_batch},"
                f" n_dense {table.n_dense}"
            )
            raise ValueError(msg)
        indices = np.asarray(table.indices)
        inside = (indices < np.asarray(table.shape)).all(axis=1)  # BCOO pads outside
        rows, columns = indices[inside].T
        return _normalised(rows, columns, np.asarray(table.data)[inside], table.shape)
    if hasattr(table, "tocoo"):  # scipy.sparse, without importing it
        coo = table.tocoo()
        return _normalised(coo.row, coo.col, coo.data, coo.shape)
    probabilities = _as_table(table, "table")
    return DenseJoint(probabilities / probabilities.sum())


def pairs(
    x_index: ArrayLike,
    a_index: ArrayLike,
    weights: ArrayLike | None = None,
    shape: tuple[int, int] | None = None,
) -> SparseJoint:
    """A context from observed pairs (x, a): the empirical joint law (theory.md §1).

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
        _as_integers(x_index, "x_index"),
        _as_integers(a_index, "a_index"),
    )
    if rows.shape != columns.shape:
        msg = (
            "x_index and a_index must have the same length; got"
            f" {rows.shape[0]} and {columns.shape[0]}"
        )
        raise ValueError(msg)
    if rows.size == 0:
        raise ValueError("x_index and a_index must hold at least one pair; got none")
    if shape is None:
        shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    for name, index, size in (
        ("x_index", rows, shape[0]),
        ("a_index", columns, shape[1]),
    ):
        check_values(
            index,
            name,
            lambda v, size=size: (v >= 0) & (v < size),
            f"between 0 and {size - 1}",
        )
    if weights is None:
        values = np.ones(rows.shape, jnp.zeros(()).dtype)
    else:
        values = np.asarray(as_floating(weights, "weights"))
        if values.shape != rows.shape:
            msg = f"weights must have shape {rows.shape}; got {values.shape}"
            raise ValueError(msg)
        check_nonnegative(values, "weights")
    return _normalised(rows, columns, values, shape)


def labels(y: ArrayLike) -> Labels:
    """A context whose A is the class of X: P⁺(a|x) = 1[a = y(x)] (theory.md §4).

    Args:
        y: class of each example, shape (n,), integer (or boolean); any integers do.

    Raises:
        TypeError: if `y` is not of integers.
        ValueError: if `y` is not a non-empty vector.
    """
    values = _as_class_values(y, "y")
    classes, codes = np.unique(values, return_inverse=True)
    return Labels(jnp.asarray(codes, jnp.int32), jnp.asarray(classes))


def conditional(matrix: ArrayLike, p_x: ArrayLike | None = None) -> DenseJoint:
    """A context from conditional laws, as an attention map is (theory.md §4).

    Args:
        matrix: P⁺(a|x) up to a scale for each row, shape (n, m), non-negative.
        p_x: law of X, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if a row has no mass, or an entry is negative or not finite.
    """
    rows = _as_table(matrix, "matrix")
    mass = rows.sum(axis=1, keepdims=True)
    check_rows_have_mass(mass[:, 0], "matrix")
    num_rows = rows.shape[0]
    if p_x is None:
        weights = jnp.full((num_rows,), 1.0 / num_rows, rows.dtype)
    else:
        weights = as_floating(p_x, "p_x").astype(rows.dtype)
        check_probabilities(weights, "p_x", num_rows)
        weights = weights / weights.sum()
    return DenseJoint(weights[:, None] * (rows / mass))


def markov(transition: ArrayLike) -> DenseJoint:
    """A context (now, next) from a transition matrix, started at its stationary law.

    Args:
        transition: row-stochastic matrix, shape (n, n).

    Raises:
        ValueError: if the matrix is not square, a row does not sum to 1, or the
            stationary law is not unique.
    """
    rows = _as_table(transition, "transition")
    if rows.shape[0] != rows.shape[1]:
        msg = f"transition must be square; got shape {rows.shape}"
        raise ValueError(msg)
    tolerance = rows.shape[0] * float(np.sqrt(np.finfo(rows.dtype).eps))
    check_values(
        rows.sum(axis=1),
        "the row sums of transition",
        lambda v: np.abs(v - 1) <= tolerance,
        "1",
    )
    matrix = np.asarray(rows, np.float64)
    # The stationary law is the left null vector of I - T: the last right singular
    # vector of its transpose, unique if only one singular value vanishes.
    _, values, vectors = np.linalg.svd(matrix.T - np.eye(len(matrix)))
    if len(matrix) > 1 and values[-2] <= tolerance:
        raise ValueError(
            "transition must have one stationary law; this chain splits into several"
            " closed classes: give the law you mean with `conditional(matrix, p_x)`"
        )
    stationary = np.abs(vectors[-1])
    return conditional(rows, p_x=jnp.asarray(stationary / stationary.sum(), rows.dtype))


def _as_table(table: Any, name: str) -> Float[Array, "n m"]:
    values = as_floating(table, name)
    check_ndim(values, 2, name)
    if values.size == 0:
        msg = f"{name} must not be empty; got shape {values.shape}"
        raise ValueError(msg)
    check_nonnegative(values, name)
    if is_concrete(values) and not bool(values.sum() > 0):
        msg = f"{name} must have positive total mass; all its entries are 0"
        raise ValueError(msg)
    return values


def _normalised(
    rows: Any, columns: Any, weights: Any, shape: tuple[int, ...]
) -> SparseJoint:
    """A sparse law from raw entries: checked, summed where they coincide, scaled."""
    if len(shape) != 2 or 0 in shape:
        msg = f"table must be a matrix that is not empty; got shape {tuple(shape)}"
        raise ValueError(msg)
    dtype = floating_dtype(np.asarray(weights).dtype)
    values = np.asarray(weights).astype(np.float64)
    check_nonnegative(values, "table")
    total = values.sum()
    if not total > 0:
        raise ValueError("table must have positive total mass; all its entries are 0")
    size = (int(shape[0]), int(shape[1]))
    return coordinates(rows, columns, (values / total).astype(dtype), size)


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


def _as_integers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        msg = f"{name} must hold integers; got dtype {array.dtype}"
        raise TypeError(msg)
    check_ndim(array, 1, name)
    return array.astype(np.int64)


def _as_class_values(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind == "b":
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu":
        msg = f"{name} must hold integer classes; got dtype {array.dtype}"
        raise TypeError(msg)
    check_ndim(array, 1, name)
    if array.size == 0:
        msg = f"{name} must not be empty"
        raise ValueError(msg)
    return array


def _are_indices(x_new: Any) -> bool:
    if hasattr(x_new, "tocoo") or isinstance(x_new, sparse.BCOO):
        return False
    array = x_new if isinstance(x_new, jax.Array) else np.asarray(x_new)
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


def _check_num_columns(rows: Array, num_columns: int) -> None:
    if rows.shape[1] != num_columns:
        msg = f"x_new must have {num_columns} columns; got {rows.shape[1]}"
        raise ValueError(msg)
