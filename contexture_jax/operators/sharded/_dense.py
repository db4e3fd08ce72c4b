"""Dense and low-rank storage over a mesh: local products and one sum over devices."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from contexture_jax._core.numerics import Precision, mm, safe_reciprocal
from contexture_jax._core.types import (
    Array,
    Float,
    Size,
    pytree_dataclass,
    static_field,
)
from contexture_jax.operators._base import Cost
from contexture_jax.operators._dense import DenseOperator
from contexture_jax.operators._low_rank import LowRankOperator
from contexture_jax.operators.sharded._common import (
    Collective,
    ShardedOperator,
    pad_rows,
    place_law,
    place_rows,
    place_whole,
    spmd,
)

__all__ = [
    "ShardedDenseOperator",
    "ShardedLowRankOperator",
    "shard_dense",
    "shard_low_rank",
]


@pytree_dataclass
class ShardedDenseOperator(ShardedOperator):
    """T from a dense joint table whose rows are cut over a mesh.

    Blocks of functions of A are small beside a share of the table and live on every
    device. T g is local; T* f takes one sum of an (m, r) block over the devices.

    Attributes:
        joint: P with padding, shape (n2, m), rows sharded.
        p_x: row sums, shape (n,).
        p_a: column sums, shape (m,).
        mesh: the devices. Static.
        axis: the axis of the mesh that cuts the rows. Static.
        precision: the level of products with the table, of float32. Static.
    """

    _tables = ("joint",)

    joint: Float[Array, "n2 m"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    mesh: Mesh = static_field()
    axis: str = static_field()
    precision: Precision = static_field(default="exact", kw_only=True)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    @property
    def cut_fields(self) -> tuple[str, ...]:
        """All but the law of A."""
        return ("joint", "p_x")

    @property
    def share(self) -> tuple[Size, Size]:
        """Rows of X; functions of A are whole on each device."""
        return super().share[0], self.shape[1]

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        take = (self.axis, None)
        local = spmd(_local_product, self.mesh, take, self.axis, self.precision)
        # (n2, r) and then without the rows of padding.
        out = local(self.joint, g)[: self.shape[0]]
        return safe_reciprocal(self.p_x)[:, None] * out

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f, shape (m, r)."""
        axis = self.axis
        static = axis, self.precision
        total = spmd(_sum_over_rows, self.mesh, (axis, axis), None, *static)
        # Padding is 0 in both, and adds nothing.
        out = total(self.joint, pad_rows(f, self.num_devices))
        return safe_reciprocal(self.p_a)[:, None] * out

    def squared_norm(self) -> Float[Array, ""]:
        """Σ P(x,a)² / (p_x p_a)."""
        # As on one device: the compiler sums over the cut.
        back = self.joint * safe_reciprocal(self.p_a)[None, :]
        rows = jnp.sum(back * self.joint, axis=1)[: self.shape[0]]
        return jnp.sum(rows * safe_reciprocal(self.p_x))

    def cost(self, r: int) -> Cost:
        """Of one device: a product with its share of the rows."""
        # Padding is multiplied like the rest.
        rows, m = self.share
        size = self.dtype.itemsize
        return Cost(
            flops=2 * rows * m * r + rows * r,
            argument_bytes=size * (rows * m + rows + m + m * r),
            output_bytes=size * rows * r,
            temporary_bytes=size * rows * r,
        )

    def collectives(self, r: int) -> tuple[Collective, ...]:
        """One all-reduce of (m, r) in `rmatmat`."""
        if self.num_devices == 1:
            return ()
        size = self.dtype.itemsize * self.shape[1] * r
        return (Collective("rmatmat", "all-reduce", size, 1),)


@pytree_dataclass
class ShardedLowRankOperator(ShardedOperator):
    """T with density 1 + ⟨l(x), r(a)⟩, the rows of both features cut over a mesh.

    Either product takes one sum of an (e + 1, r) block over the devices.

    Attributes:
        left: l with padding, shape (n2, e), rows sharded.
        right: r with padding, shape (m2, e), rows sharded.
        p_x: shape (n,).
        p_a: shape (m,).
        mesh: the devices. Static.
        axis: the axis of the mesh that cuts the rows. Static.
        precision: the level of products with the features, of float32. Static.
    """

    _tables = ("left", "right")

    left: Float[Array, "n2 e"]
    right: Float[Array, "m2 e"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    mesh: Mesh = static_field()
    axis: str = static_field()
    precision: Precision = static_field(default="exact", kw_only=True)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    @property
    def cut_fields(self) -> tuple[str, ...]:
        """All of them."""
        return ("left", "right", "p_x", "p_a")

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g = E g + l ⟨r, g⟩, shape (n, r)."""
        out = self._apply(self.left, self.right, self.p_a, g)[: self.shape[0]]
        return jnp.where(self.p_x[:, None] > 0, out, 0.0)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f = E f + r ⟨l, f⟩, shape (m, r)."""
        out = self._apply(self.right, self.left, self.p_x, f)[: self.shape[1]]
        return jnp.where(self.p_a[:, None] > 0, out, 0.0)

    def _apply(self, out: Array, into: Array, law: Array, block: Array) -> Array:
        axis = self.axis
        # Zeros in the padding, for the mean as well.
        weighted = pad_rows(law[:, None] * block, self.num_devices)
        static = axis, self.precision
        # X and A are both cut: a device has a share of either.
        local = spmd(_through_features, self.mesh, (axis,) * 3, axis, *static)
        return local(out, into, weighted)

    def squared_norm(self) -> Float[Array, ""]:
        """1 + Tr(Cov l · Cov r)."""
        k = self.num_devices
        # (e, e) each, whole on every device.
        left = mm(self.left.T, pad_rows(self.p_x[:, None], k) * self.left)
        right = mm(self.right.T, pad_rows(self.p_a[:, None], k) * self.right)
        return 1.0 + (left * right.T).sum()

    def cost(self, r: int) -> Cost:
        """Of one device: two products of width e with its shares."""
        rows, columns = self.share
        e = self.left.shape[1]
        size = self.dtype.itemsize
        return Cost(
            flops=2 * (rows + columns) * (e + 1) * r,
            argument_bytes=size * ((rows + columns) * (e + 1) + columns * r),
            output_bytes=size * rows * r,
            temporary_bytes=size * (columns * (r + e + 1) + (2 * e + rows) * r),
        )

    def collectives(self, r: int) -> tuple[Collective, ...]:
        """One all-reduce of (e + 1, r) in either product."""
        if self.num_devices == 1:
            return ()
        size = self.dtype.itemsize * (self.left.shape[1] + 1) * r
        return (
            Collective("matmat", "all-reduce", size, 1),
            Collective("rmatmat", "all-reduce", size, 1),
        )


def shard_dense(op: DenseOperator, mesh: Mesh, axis: str) -> ShardedDenseOperator:
    """The same operator over a mesh."""
    # Rows of zeros have no mass: the marginals are those of the table.
    joint = pad_rows(op.joint, mesh.shape[axis])
    return ShardedDenseOperator(
        place_rows(joint, mesh, axis),
        place_law(op.p_x, mesh, axis),
        # As blocks of functions of A, on every device.
        place_whole(op.p_a, mesh),
        mesh,
        axis,
    )


def shard_low_rank(
    op: LowRankOperator, mesh: Mesh, axis: str
) -> ShardedLowRankOperator:
    """The same operator over a mesh."""
    left, right = (pad_rows(x, mesh.shape[axis]) for x in (op.left, op.right))
    return ShardedLowRankOperator(
        place_rows(left, mesh, axis),
        place_rows(right, mesh, axis),
        place_law(op.p_x, mesh, axis),
        place_law(op.p_a, mesh, axis),
        mesh,
        axis,
    )


def _local_product(precision: Precision, joint: Array, g: Array) -> Array:
    return mm(joint, g, precision)


def _sum_over_rows(axis: str, precision: Precision, joint: Array, f: Array) -> Array:
    return jax.lax.psum(mm(joint.T, f, precision), axis)


def _through_features(
    axis: str, precision: Precision, out: Array, into: Array, weighted: Array
) -> Array:
    # A feature of ones brings the mean along: one sum over devices, and not two.
    ones = jnp.ones((into.shape[0], 1), into.dtype)
    moments = mm(jnp.concatenate([into, ones], axis=1).T, weighted, precision)
    # (e + 1, r): all that devices tell each other.
    moments = jax.lax.psum(moments, axis)
    return mm(out, moments[:-1], precision) + moments[-1:]
