"""Dense storage: the joint table itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_ndim,
    is_concrete,
    on_cpu,
)
from contexture_jax._core.numerics import (
    Precision,
    mm,
    safe_reciprocal,
    transpose_rows,
)
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    pytree_dataclass,
    static_field,
)
from contexture_jax.operators._base import AssociationOperator, Cost, check_total

__all__ = ["DenseOperator", "dense_operator", "table_operator"]


@pytree_dataclass
class DenseOperator(AssociationOperator):
    """T from a dense joint table P: T g = D_X⁻¹ P g, T* f = D_A⁻¹ Pᵀ f.

    Attributes:
        joint: P, shape (n, m), summing to 1.
        p_x: row sums of P, shape (n,).
        p_a: column sums of P, shape (m,).
        transposed: Pᵀ stored row by row, shape (m, n), for as many numbers again; None:
            `joint` serves both directions.
        precision: the level of products with the table, of float32. Static.
    """

    _tables = ("joint", "transposed")

    joint: Float[Array, "n m"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    transposed: Float[Array, "m n"] | None = None
    precision: Precision = static_field(default="exact", kw_only=True)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        # D_X⁻¹ last: n · r products and not n · m, and 0 in rows without mass.
        return safe_reciprocal(self.p_x)[:, None] * mm(self.joint, g, self.precision)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f, shape (m, r)."""
        # A view, which products on CPU read at half the speed; `for_passes` stores it.
        back = self.joint.T if self.transposed is None else self.transposed
        return safe_reciprocal(self.p_a)[:, None] * mm(back, f, self.precision)

    def at_rows(self, rows: ArrayLike) -> DenseOperator:
        """The rows of the table, l · m numbers."""
        rows = jnp.asarray(rows)
        back = None if self.transposed is None else self.transposed[:, rows]
        return dataclasses.replace(
            self,
            joint=self.joint[rows],
            p_x=self.p_x[rows],
            transposed=back,
            fingerprint=None,
        )

    def for_passes(self) -> DenseOperator:
        """With its transpose stored, where products with a view are slow (on CPU)."""
        # In a trace it would be stored anew by each run of the program.
        if self.transposed is not None or not is_concrete(self) or not on_cpu(self.p_x):
            return self
        return dataclasses.replace(self, transposed=transpose_rows(self.joint))

    def squared_norm(self) -> Float[Array, ""]:
        """Σ P(x,a)² / (p_x p_a)."""
        # A sum that is fused: no table of squares, no product at a lower level.
        back = self.joint * safe_reciprocal(self.p_a)[None, :]
        return jnp.sum(jnp.sum(back * self.joint, axis=1) * safe_reciprocal(self.p_x))

    def cost(self, r: int) -> Cost:
        """One product with an n × m matrix."""
        check_integer(r, "r", low=0)
        n, m = self.shape
        size = self.dtype.itemsize
        copies = 1 if self.transposed is None else 2
        return Cost(
            flops=2 * n * m * r + n * r,
            argument_bytes=size * (copies * n * m + n + m + m * r),
            output_bytes=size * n * r,
            # The reciprocals of the marginal.
            temporary_bytes=size * n,
        )

    def as_matrix(self) -> Float[Array, "n m"]:
        """The matrix of T, entry P⁺(a|x)."""
        return safe_reciprocal(self.p_x)[:, None] * self.joint


def dense_operator(joint: ArrayLike) -> DenseOperator:
    """T of a joint table; the marginals are its own sums.

    Args:
        joint: P, shape (n, m), real numbers that sum to 1, signed for a teacher.

    Raises:
        TypeError: if the entries are not real numbers.
        ValueError: if it is no matrix, is empty, or sums to something else.
    """
    table = as_floating(joint, "joint")
    check_ndim(table, 2, "joint")
    if not table.size:
        msg = f"joint must not be empty; got shape {tuple(table.shape)}"
        raise ValueError(msg)
    op = table_operator(table)
    # Of sums that are there: the table is not read again.
    check_total(op.p_a.sum(), "joint")
    return op


def table_operator(table: Float[Array, "n m"]) -> DenseOperator:
    """The same of a table that is checked: known rows without mass may be all of it."""
    # Its own sums and no law that is given: T and T* are adjoint to rounding.
    return DenseOperator(table, jnp.sum(table, axis=1), jnp.sum(table, axis=0))
