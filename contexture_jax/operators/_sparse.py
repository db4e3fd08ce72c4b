"""Sparse storage, for large contingency tables and observed pairs."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer
from contexture_jax._core.numerics import safe_reciprocal
from contexture_jax._core.types import Array, Float, pytree_dataclass
from contexture_jax.operators._base import AssociationOperator, Cost
from contexture_jax.operators._slots import (
    Slots,
    make_slots,
    paired_matmat,
    slots_cost,
)

__all__ = ["SparseOperator", "sparse_operator"]


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
        flops, forward, work = slots_cost(self.forward, r, size)
        _, backward, _ = slots_cost(self.backward, r, size)
        own = forward + backward + size * (n + m)
        return Cost(flops, own + size * m * r, size * n * r, work)


def sparse_operator(
    rows: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, int],
) -> SparseOperator:
    """T from the entries of a joint table that sums to 1. Runs on the host.

    Args:
        rows: row numbers, shape (nnz,), ascending.
        columns: column numbers, shape (nnz,).
        weights: P⁺(x, a) > 0, shape (nnz,), floating.
        shape: (n, m).
    """
    n, m = shape
    exact = weights.astype(np.float64)
    p_x = np.bincount(rows, exact, n)
    p_a = np.bincount(columns, exact, m)
    forward = exact / p_x[rows]
    backward = exact / p_a[columns]
    order = np.argsort(columns, kind="stable")
    dtype = weights.dtype
    return SparseOperator(
        make_slots(rows, columns, forward.astype(dtype), n),
        make_slots(columns[order], rows[order], backward[order].astype(dtype), m),
        jnp.asarray(p_x.astype(dtype)),
        jnp.asarray(p_a.astype(dtype)),
        jnp.asarray((forward * backward).sum().astype(dtype)),
    )
