"""A finite joint law stored as its non-zero entries."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.arrays import is_jax_sparse
from contexture_jax._core.checks import (
    as_real,
    check_concrete,
    check_integer,
    check_rows_have_mass,
    counted,
    floating_dtype,
    gathered,
)
from contexture_jax._core.numerics import normalised, safe_divide
from contexture_jax._core.types import (
    Array,
    Float,
    Int,
    UInt32,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._dense_joint import (
    are_indices,
    as_indices,
    as_table,
    check_profiles,
    check_width,
)
from contexture_jax.contexts._numbered import NumberedContext, lower_bound

__all__ = ["SparseJoint", "coordinates", "from_entries", "from_sparse"]

_WHOLE = 2.0**32


@pytree_dataclass
class SparseJoint(NumberedContext):
    """A joint law stored as its non-zero entries, sorted by row, then by column.

    Attributes:
        weights: P⁺(x, a) of the stored entries, shape (nnz,), summing to 1.
        rows: their row numbers, shape (nnz,), int32, ascending.
        columns: their column numbers, shape (nnz,), int32.
        ends: where the share of each in its row ends, in parts of 2³² and less one,
            after those before it: where a random word is looked up; shape (nnz,).
        size: `shape`, (n, m). Static.
        has_profiles: as in `DenseJoint`. Static.
    """

    weights: Float[Array, " nnz"]
    rows: Int[Array, " nnz"]
    columns: Int[Array, " nnz"]
    ends: UInt32[Array, " nnz"]
    size: tuple[int, int] = static_field()
    has_profiles: bool = static_field(default=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.size

    def table(self) -> Float[Array, "n m"]:
        """The joint law as a dense (n, m) table."""
        zeros = jnp.zeros(self.shape, self.weights.dtype)
        return zeros.at[self.rows, self.columns].add(self.weights)

    def _span(self, x: Array) -> tuple[Array, Array]:
        """Where the entries of a row begin, and end."""
        num = self.rows.shape[0]
        # By search in the sorted row numbers: no table of n + 1 starts is carried
        # along.
        begin = lower_bound(self.rows, 0, num, x)
        return begin, lower_bound(self.rows, begin, num, x + 1)

    def _has_law(self, x: Int[Array, " k"]) -> Array:
        # At once for all rows, where `_span` is for one.
        sides = (jnp.searchsorted(self.rows, x, side=s) for s in ("left", "right"))
        begin, end = sides
        return begin < end

    def _draw(self, key: Array, x: Array) -> Array:
        begin, end = self._span(x)
        # Whole words against whole words: each entry is drawn exactly as often as its
        # share of 2³² says, in float32 as well. The last of a row takes what is left.
        word = jax.random.bits(key, (), jnp.uint32)
        return self.columns[lower_bound(self.ends, begin, end - 1, word)]

    def _log_density(self, a: Array, x: Array) -> Array:
        begin, end = self._span(x)
        # Columns ascend within a row.
        place = lower_bound(self.columns, begin, end, a)
        found = (place < end) & (self.columns[place] == a)
        # p_x of all rows by one pass, which `vmap` makes once for a batch.
        mass = jax.ops.segment_sum(self.weights, self.rows, self.shape[0])[x]
        return jnp.log(safe_divide(jnp.where(found, self.weights[place], 0.0), mass))

    def _law_of_a(self) -> Float[Array, " m"]:
        return jax.ops.segment_sum(self.weights, self.columns, self.shape[1])

    def at(self, x_new: Any) -> SparseJoint:
        """Row numbers, shape (k,), or new rows of the table, dense or sparse (k, m).

        Rows without mass are as in `DenseJoint.at`.
        """
        check_concrete((self.rows, self.weights, x_new), "x_new, with the table,")
        if are_indices(x_new):
            new = self._rows_numbered(as_indices(x_new, self.shape[0]))
        else:
            check_profiles(self.has_profiles)
            new = from_sparse(x_new, "x_new")
            if new is None:
                # Dense rows become entries: the result is sparse as the context is.
                table = np.asarray(normalised(as_table(x_new, "x_new")))
                rows, columns = np.nonzero(table)
                new = coordinates(rows, columns, table[rows, columns], table.shape)
            check_width(new, self.shape[1])
            # An entry in each row is enough, as entries of 0 have been dropped.
            check_rows_have_mass(np.bincount(new.rows, minlength=new.shape[0]), "x_new")
        mass = np.bincount(new.rows, new.weights, new.shape[0])
        # First P⁺(a|x), then over the rows that have one: P_X is uniform on them.
        weights = np.asarray(new.weights) / mass[np.asarray(new.rows)]
        weights = weights / max(1, np.count_nonzero(mass))
        return dataclasses.replace(
            new,
            weights=jnp.asarray(weights, self.weights.dtype),
            has_profiles=self.has_profiles,
        )

    def _rows_numbered(self, x: np.ndarray) -> SparseJoint:
        # (n + 1,): where the entries of each row begin.
        starts = np.searchsorted(np.asarray(self.rows), np.arange(self.shape[0] + 1))
        lengths = np.diff(starts)[x]
        ends = np.cumsum(lengths)
        # Entry numbers of the rows asked for, one after the other: starts repeated, and
        # a running number within each.
        entries = (
            np.repeat(starts[x] - (ends - lengths), lengths)
            + np.arange(ends[-1] if len(ends) else 0)
        ).astype(np.int64)
        return coordinates(
            np.repeat(np.arange(len(x)), lengths),
            np.asarray(self.columns)[entries],
            np.asarray(self.weights)[entries],
            (len(x), self.shape[1]),
        )

    def reverse(self) -> SparseJoint:
        """The transposed law."""
        n, m = self.shape
        entries = self.columns, self.rows, self.weights
        # Sorted anew, by what were columns.
        return coordinates(*entries, (m, n), has_profiles=self.has_profiles)


def from_sparse(table: Any, name: str) -> SparseJoint | None:
    """The law of a sparse matrix of JAX or SciPy; None: it is something else."""
    if is_jax_sparse(table, "BCSR"):
        # One of the two formats of JAX is read; the other is converted.
        table = table.to_bcoo()
    if is_jax_sparse(table, "BCOO"):
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
        return from_entries(rows, columns, entries, table.shape, name)
    if hasattr(table, "tocoo"):  # scipy.sparse, without importing it
        coo = table.tocoo()
        return from_entries(coo.row, coo.col, coo.data, coo.shape, name)
    return None


def from_entries(
    rows: Any, columns: Any, weights: Any, shape: tuple[int, ...], name: str
) -> SparseJoint:
    """A sparse law from raw entries: checked, summed where they coincide, scaled."""
    if len(shape) != 2 or 0 in shape:
        msg = f"{name} must be a matrix that is not empty; got shape {tuple(shape)}"
        raise ValueError(msg)
    raw = np.asarray(as_real(weights, name))
    dtype = floating_dtype(raw.dtype)
    # In float64, whatever came: the law is rounded once, at the end.
    values = raw.astype(np.float64)
    # With the place of the first in the matrix: its number among the entries says
    # nothing.
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
    # Subnormal shares would be 0 on a device and not on the host.
    shares = np.where(shares >= np.finfo(dtype).tiny, shares, 0.0).astype(dtype)
    size = (int(shape[0]), int(shape[1]))
    return coordinates(rows, columns, shares, size)


def coordinates(
    rows: Any,
    columns: Any,
    weights: Any,
    shape: tuple[int, int],
    *,
    has_profiles: bool = True,
) -> SparseJoint:
    """Sort entries by row, then column; add up duplicates; drop zeros."""
    rows, columns, weights = (np.asarray(v) for v in (rows, columns, weights))
    check_integer(max(shape), "the larger side of the table", low=1, high=2**31 - 1)
    # One number an entry, to sort by both; int32 would overflow at 46,341².
    flat = rows.astype(np.int64) * shape[1] + columns
    unique, inverse = np.unique(flat, return_inverse=True)
    # In float64: pairs that are seen often add up without loss.
    summed = np.bincount(inverse, weights, len(unique))
    kept = summed > 0
    unique, summed = unique[kept], summed[kept]
    row = (unique // shape[1]).astype(np.int32)
    return SparseJoint(
        jnp.asarray(summed.astype(weights.dtype)),
        jnp.asarray(row),
        jnp.asarray((unique % shape[1]).astype(np.int32)),
        jnp.asarray(_ends(row, summed)),
        shape,
        has_profiles,
    )


def _ends(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`SparseJoint.ends` of entries sorted by row, shape (nnz,), uint32."""
    if not len(rows):
        return np.zeros(0, np.uint32)
    # Each row by itself: of running sums over all, small rows would have few digits.
    # (nnz,): P⁺(a|x).
    shares = weights / np.bincount(rows, weights)[rows]
    totals = np.cumsum(shares)
    # (nnz,): the ends of rows.
    is_last = np.append(rows[1:] != rows[:-1], True)
    starts = np.flatnonzero(np.append(True, is_last[:-1]))
    before = (totals - shares)[starts]
    # Running sums within each row: 1 at its end, up to rounding.
    inside = totals - np.repeat(before, np.diff(np.append(starts, len(rows))))
    # At least one word for the first entry, however small; 2³² at the end of a row,
    # whatever rounding says.
    ends = np.where(is_last, _WHOLE, np.clip(np.rint(inside * _WHOLE), 1.0, _WHOLE))
    return (ends - 1.0).astype(np.uint32)
