"""Sparse storage, for large contingency tables and observed pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from contexture_jax._core.checks import (
    as_integers,
    as_real,
    check_integer,
    check_ndim,
    check_values,
    floating_dtype,
)
from contexture_jax._core.numerics import safe_reciprocal
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.kernels import (
    Slots,
    make_slots,
    paired_matmat,
    slots_cost,
)
from contexture_jax.operators._base import AssociationOperator, Cost, as_law_of

__all__ = ["SparseOperator", "entry_operator", "sparse_operator"]


@pytree_dataclass
class SparseOperator(AssociationOperator):
    """T from the non-zero entries of a joint table, laid out for both directions.

    Attributes:
        forward: P⁺(a|x), an (n, m) matrix.
        backward: P⁺(x|a), an (m, n) matrix.
        p_x: row sums of the joint table, shape (n,).
        p_a: its column sums, shape (m,).
        norm2: ‖T‖²_HS, shape ().
    """

    forward: Slots
    backward: Slots
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    norm2: Float[Array, ""]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        inverse = safe_reciprocal(self.p_x)
        # Each layout is the other's pull-back, where autodiff would scatter.
        return paired_matmat(self.forward, self.backward, inverse, self.p_a, g)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f, shape (m, r)."""
        inverse = safe_reciprocal(self.p_a)
        return paired_matmat(self.backward, self.forward, inverse, self.p_x, f)

    def squared_norm(self) -> Float[Array, ""]:
        """Σ P(x,a)² / (p_x p_a) over the stored entries."""
        return self.norm2

    def cost(self, r: int) -> Cost:
        """The stored entries, padding included, times r."""
        check_integer(r, "r", low=0)
        n, m = self.shape
        size = self.dtype.itemsize
        # The work of one direction; the layouts of both are held.
        flops, forward, work = slots_cost(self.forward, r, size)
        _, backward, _ = slots_cost(self.backward, r, size)
        own = forward + backward + size * (n + m)
        return Cost(flops, own + size * m * r, size * n * r, work)


def sparse_operator(
    rows: ArrayLike, columns: ArrayLike, weights: ArrayLike, shape: tuple[int, int]
) -> SparseOperator:
    """T from the entries of a joint table that sums to 1. Runs on the host.

    Args:
        rows: row numbers, shape (nnz,), in any order.
        columns: column numbers, shape (nnz,).
        weights: P⁺(x, a) ≥ 0, shape (nnz,), real numbers that sum to 1; no place twice.
        shape: (n, m).

    Raises:
        TypeError: if row or column numbers are not integers, or weights no numbers.
        ValueError: if lengths differ, a number is outside `shape`, or the weights are
            no law.
    """
    n, m = (check_integer(side, "a side of shape", low=1) for side in shape)
    rows, columns = as_integers(rows, "rows"), as_integers(columns, "columns")
    for index, name, size in ((rows, "rows", n), (columns, "columns", m)):
        check_ndim(index, 1, name)
        check_values(
            index,
            name,
            lambda v, size=size: (v >= 0) & (v < size),
            f"between 0 and {size - 1}",
        )
    if len(rows) != len(columns):
        msg = (
            "rows and columns must have the same length; got"
            f" {len(rows)} and {len(columns)}"
        )
        raise ValueError(msg)
    dtype = floating_dtype(as_real(weights, "weights").dtype)
    # Not normalised: another sum than 1 is a mistake of the caller's.
    law = np.asarray(as_law_of(weights, "weights", len(rows), dtype))
    return entry_operator(rows, columns, law, (n, m))


def entry_operator(
    rows: np.ndarray, columns: np.ndarray, law: np.ndarray, shape: tuple[int, int]
) -> SparseOperator:
    """As `sparse_operator`, of entries that are checked, or of none at all."""
    (n, m), dtype = shape, law.dtype
    # Contexts give them in order: nothing to sort then.
    if (np.diff(rows) < 0).any():
        order = np.argsort(rows, kind="stable")
        rows, columns, law = rows[order], columns[order], law[order]
    # On the host in float64: marginals are divided by, and norm2 sums all entries.
    exact = law.astype(np.float64)
    p_x, p_a = np.bincount(rows, exact, n), np.bincount(columns, exact, m)
    # P⁺(a|x) and P⁺(x|a); entries of a mass of 0 are 0 themselves.
    forward = exact / np.where(p_x > 0, p_x, 1.0)[rows]
    backward = exact / np.where(p_a > 0, p_a, 1.0)[columns]
    # Σ P² / (p_x p_a), which takes each place to be there once.
    norm2 = np.asarray((forward * backward).sum())
    # By column, rows in order within it.
    order = np.argsort(columns, kind="stable")
    return SparseOperator(
        make_slots(rows, columns, forward.astype(dtype), n),
        make_slots(columns[order], rows[order], backward[order].astype(dtype), m),
        *jax.device_put(tuple(x.astype(dtype) for x in (p_x, p_a, norm2))),
    )
