"""Storage of contexts between numbered rows: what they share, they store once."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.checks import check_integer
from contexture_jax._core.types import Array, Float, Size, pytree_dataclass
from contexture_jax.contexts import NextToken, SameClass, SparseJoint, TimeLag
from contexture_jax.operators._adjoint import reverse
from contexture_jax.operators._base import AssociationOperator, Cost
from contexture_jax.operators._fixed_degree import fixed_degree_operator
from contexture_jax.operators._padding import as_long, replaced, with_rows
from contexture_jax.operators._sparse import entry_operator
from contexture_jax.operators.sharded._common import cut_of
from contexture_jax.operators.sharded._slots import shard_entries

__all__ = [
    "GroupedOperator",
    "SameClassOperator",
    "entries_operator",
    "group_operator",
    "next_token_operator",
    "same_class_operator",
    "time_lag_operator",
]


@pytree_dataclass
class GroupedOperator(AssociationOperator):
    """T = G S where A depends on the group of X alone: S is the law of A by group.

    G is an isometry of L²(P_X), as a group is a function of X: T has the singular
    values of S.

    Attributes:
        groups: G, from inputs to groups, n × g.
        law: S, from groups to context values, g × m.
        p_x: shape (n,).
        p_a: shape (m,).
    """

    groups: AssociationOperator
    law: AssociationOperator
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """G (S g)."""
        return self.groups.matmat(with_rows(self.law.matmat(g), self.groups.shape[1]))

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """S* (G* f)."""
        return self.law.rmatmat(with_rows(self.groups.rmatmat(f), self.law.shape[0]))

    def squared_norm(self) -> Float[Array, ""] | None:
        """That of S."""
        return self.law.squared_norm()

    def padded(self) -> AssociationOperator:
        """With the rows of G and S padded, as far as their devices cut them."""
        groups, law = self.groups.padded(), self.law.padded()
        if groups is self.groups and law is self.law:
            return self
        return replaced(self, groups=groups, law=law, p_x=groups.p_x, p_a=law.p_a)

    @property
    def share(self) -> tuple[Size, Size]:
        """Of X that of G, of A that of S."""
        return self.groups.share[0], self.law.share[1]

    def cost(self, r: int) -> Cost:
        """S, then G."""
        check_integer(r, "r", low=0)
        law, groups = self.law.cost(r), self.groups.cost(r)
        # (g, r): comes out of S and goes into G, work space of the whole.
        between = self.dtype.itemsize * self.law.share[0] * r
        return Cost(
            flops=law.flops + groups.flops,
            argument_bytes=law.argument_bytes + groups.argument_bytes - between,
            output_bytes=groups.output_bytes,
            temporary_bytes=max(law.temporary_bytes, groups.temporary_bytes) + between,
        )


@pytree_dataclass
class SameClassOperator(AssociationOperator):
    """T g = the mean of g over the other rows of the class of X.

    With M g the mean over all n_c of them, T g = M g + w (M g − g), w = 1 / (n_c − 1);
    it is its own adjoint. Nothing of size n × n is stored.

    Attributes:
        means: M, n × n.
        others: w of each row, shape (n,).
        p_x: shape (n,), all 1 / n.
        p_a: the same.
        norm2: ‖T‖²_HS = Σ_c n_c / (n_c − 1), shape ().
    """

    means: GroupedOperator
    others: Float[Array, " n"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " n"]
    norm2: Float[Array, ""]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "n r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        # (n_c M g − g) / (n_c − 1), without the product that cancels.
        mean = self.means.matmat(g)
        return mean + self.others[:, None] * (mean - g)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "n r"]:
        """T* f = T f."""
        # Pairs within a class are symmetric, and P_X = P_A.
        return self._matmat(f)

    def squared_norm(self) -> Float[Array, ""]:
        """Σ_c n_c / (n_c − 1)."""
        return self.norm2

    def padded(self) -> AssociationOperator:
        """With the rows of M padded."""
        means, cut = self.means.padded(), cut_of(self)
        if cut is None or means is self.means:
            return self
        others = as_long(self.others, means.shape[0], cut)
        return replaced(self, means=means, others=others, p_x=means.p_x, p_a=means.p_a)

    @property
    def share(self) -> tuple[Size, Size]:
        """That of M."""
        return self.means.share

    def collectives(self, r: int) -> tuple[Any, ...]:
        """Those of M g, in both products."""
        told = [c for c in self.means.collectives(r) if c.product == "matmat"]
        return (*told, *(c._replace(product="rmatmat") for c in told))

    def cost(self, r: int) -> Cost:
        """M, and three operations a number."""
        means = self.means.cost(r)
        n, size = self.share[0], self.dtype.itemsize
        return means._replace(
            flops=means.flops + 3 * n * r,
            argument_bytes=means.argument_bytes + size * n,
            temporary_bytes=means.temporary_bytes + means.output_bytes,
        )


def group_operator(
    codes: np.ndarray, num_groups: int, mesh: Mesh | None = None, axis: str = "x"
) -> AssociationOperator:
    """T of the law that gives each input its group, inputs being equally likely.

    Args:
        codes: the group of each input, shape (n,), integer.
        num_groups: g.
        mesh: devices to cut the rows over; None: one device.
        axis: of the mesh.
    """
    # Classes have no floating dtype of their own: JAX's default.
    n, dtype = len(codes), jnp.zeros(()).dtype
    p_x = np.full(n, 1.0 / n, dtype)
    if mesh is None:
        # One slot an input, of weight 1.
        return fixed_degree_operator(codes[:, None], None, p_x, num_groups)
    return shard_entries(np.arange(n), codes, p_x, (n, num_groups), mesh, axis)


def entries_operator(
    rows: Any,
    columns: Any,
    weights: Any,
    shape: tuple[int, int],
    mesh: Mesh | None = None,
    axis: str = "x",
) -> AssociationOperator:
    """T of a law given by its entries, on one device or over a mesh."""
    entries = (np.asarray(rows), np.asarray(columns), np.asarray(weights), shape)
    if mesh is None:
        return entry_operator(*entries)
    return shard_entries(*entries, mesh, axis)


def same_class_operator(
    context: SameClass, mesh: Mesh | None = None, axis: str = "x"
) -> AssociationOperator:
    """T of a same-class context: O(n) numbers, on one device or over a mesh."""
    group, counts = map(np.asarray, (context.groups.group, context.groups.counts))
    codes = np.asarray(context.inputs.codes)
    classes = group_operator(codes, len(counts), mesh, axis)
    if not np.array_equal(codes, group):  # new inputs
        # An input meets all known rows of its class: the law needs classes × rows.
        inputs = np.bincount(codes, minlength=len(counts))
        # The law of class and row, which is P_A as well: a row has one class.
        shares = (inputs / counts / len(codes)).astype(classes.dtype)[group]
        # Rows of classes without an input have no mass.
        rows = np.flatnonzero(shares)
        entries = (group[rows], rows, shares[rows], (len(counts), len(group)))
        law = entries_operator(*entries, mesh, axis)
        return GroupedOperator(classes, law, classes.p_x, law.p_a)
    # G G*: the mean over a class, as a function of each of its rows.
    means = GroupedOperator(classes, reverse(classes), classes.p_x, classes.p_x)
    if context.include_self:
        return means
    dtype = classes.dtype
    return SameClassOperator(
        means,
        # Every class has two rows: its context sees to that.
        jnp.asarray((1.0 / (counts - 1))[group], dtype),
        means.p_x,
        means.p_a,
        jnp.asarray((counts / (counts - 1)).sum(), dtype),
    )


def time_lag_operator(
    context: TimeLag, mesh: Mesh | None = None, axis: str = "x"
) -> AssociationOperator:
    """T of a time-lag context: an entry a time and lag."""
    rows, columns, shares = context.entries()
    weights = (shares / shares.sum()).astype(context.log_weights.dtype)
    return entries_operator(rows, columns, weights, context.shape, mesh, axis)


def next_token_operator(
    context: NextToken, mesh: Mesh | None = None, axis: str = "x"
) -> AssociationOperator:
    """T of a next-token context: windows that are equal have one row in storage."""
    joint: SparseJoint = context.joint()
    group = np.asarray(context.groups.group)
    groups = group_operator(group, joint.shape[0], mesh, axis)
    law = entries_operator(
        joint.rows, joint.columns, joint.weights, joint.shape, mesh, axis
    )
    return GroupedOperator(groups, law, groups.p_x, law.p_a)
