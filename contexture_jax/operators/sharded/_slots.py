"""Sparse and fixed-degree storage over a mesh.

Where A is small, its blocks of functions live on every device: T g is local and T* f
takes one sum over devices. Where A is as large as X, its functions are cut over the
devices too and go round a ring. A device meets the blocks one after the other and adds
up the entries whose column is in the block that visits, so that neither (n, r) nor
(m, r) numbers are ever in one place.

All devices run one program, so their layouts have one shape, that of the fullest. In a
ring the block that a device starts with has a layout of its own: data that lie in order
have most of their entries there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.types import (
    Array,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.kernels import Bucket, sum_slots
from contexture_jax.operators._base import Cost
from contexture_jax.operators.sharded._common import (
    Collective,
    ShardedOperator,
    pad_rows,
    padded_size,
    place_law,
    place_rows,
    place_whole,
    spmd,
)

__all__ = ["ShardedSparseOperator", "shard_entries"]

# Rows are cut into pieces of the first widths while they are at least as long; what is
# left becomes one piece of the narrowest of the last widths that holds it.
_WHOLE = (512, 64, 16)
_WIDTHS = (1, 2, 4, 8, 16, 64, 512)


class _ShardBucket(NamedTuple):
    """Pieces of rows with the same number of slots, for each device.

    A further axis after the first numbers the steps of a ring, where there are several.

    Attributes:
        indices: which row of the block each entry multiplies, shape (k, width, pieces).
        weights: the entries, 0 in unused slots, the same shape.
        rows: the row that each piece adds to, shape (k, pieces); unused ones lie past
            the end.
    """

    indices: Int[Array, "..."]
    weights: Float[Array, "..."]
    rows: Int[Array, "..."]


class _Layout(NamedTuple):
    """A matrix whose rows are cut over devices, by the block of columns it meets.

    Attributes:
        own: the entries in the block that a device starts with; all of them where
            columns are not cut.
        others: those in the blocks that come after it, with an axis of steps.
        last: those in the block that comes last, which goes on to nobody.
    """

    own: tuple[_ShardBucket, ...]
    others: tuple[_ShardBucket, ...]
    last: tuple[_ShardBucket, ...]


@pytree_dataclass
class ShardedSparseOperator(ShardedOperator):
    """T from the non-zero entries of a joint table whose rows are cut over a mesh.

    Attributes:
        forward: P⁺(a|x).
        backward: P⁺(x|a).
        p_x: shape (n,).
        p_a: shape (m,).
        norm2: ‖T‖²_HS, shape ().
        mesh: the devices. Static.
        axis: the axis of the mesh that cuts the rows. Static.
        ring: whether functions of A are cut like those of X, and go round. Static.
    """

    forward: _Layout
    backward: _Layout
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    norm2: Float[Array, ""]
    mesh: Mesh = static_field()
    axis: str = static_field()
    ring: bool = static_field()
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        n, axis = self.shape[0], self.axis
        if self.ring:
            return self._go_round(self.forward, g, n)
        share = padded_size(n, self.num_devices) // self.num_devices
        local = spmd(_multiply, self.mesh, (axis, None), axis, share)
        return local(self.forward.own, g)[:n]

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f, shape (m, r)."""
        m, axis = self.shape[1], self.axis
        if self.ring:
            return self._go_round(self.backward, f, m)
        total = spmd(_multiply_and_sum, self.mesh, (axis, axis), None, m, axis)
        return total(self.backward.own, pad_rows(f, self.num_devices))

    def _go_round(self, layout: _Layout, block: Array, num_rows: int) -> Array:
        """The product with a block whose rows are cut over the devices."""
        k, axis = self.num_devices, self.axis
        share = padded_size(num_rows, k) // k
        run = spmd(_multiply_in_ring, self.mesh, (axis, axis), axis, share, axis, k)
        return run(layout, pad_rows(block, k))[:num_rows]

    def squared_norm(self) -> Float[Array, ""]:
        """Σ P(x,a)² / (p_x p_a) over the entries."""
        return self.norm2

    def cost(self, r: int) -> Cost:
        """Of one device: its entries, padding included, times r."""
        k, size = self.num_devices, self.dtype.itemsize
        rows, columns = (padded_size(s, k) // k for s in self.shape)
        taken = columns if self.ring else self.shape[1]
        buckets = jax.tree.leaves(
            self.forward, is_leaf=lambda node: isinstance(node, _ShardBucket)
        )
        entries = sum(b.indices.size for b in buckets) // k
        pieces = sum(b.rows.size for b in buckets) // k
        widest = max((b.rows.shape[-1] for b in buckets), default=0)
        return Cost(
            flops=2 * entries * r + pieces * r,
            argument_bytes=(4 + size) * entries
            + 4 * pieces
            + size * (rows + taken + taken * r),
            output_bytes=size * rows * r,
            # One bucket's sums, and in a ring the block that goes and that which comes.
            temporary_bytes=size * r * (widest + (2 * columns if self.ring else 0)),
        )

    def collectives(self, r: int) -> tuple[Collective, ...]:
        """In a ring k − 1 hops of a block, else one all-reduce of (m, r)."""
        k, size = self.num_devices, self.dtype.itemsize
        n, m = self.shape
        if k == 1:
            return ()
        if not self.ring:
            return (Collective("rmatmat", "all-reduce", size * m * r, 1),)
        hop = "collective-permute"
        return (
            Collective("matmat", hop, size * (padded_size(m, k) // k) * r, k - 1),
            Collective("rmatmat", hop, size * (padded_size(n, k) // k) * r, k - 1),
        )


def shard_entries(
    rows: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, int],
    mesh: Mesh,
    axis: str,
    *,
    dtype: Any = None,
) -> ShardedSparseOperator:
    """T from the entries of a joint table that sums to 1. Runs on the host.

    Functions of A are cut over the devices if an (m, r) block is larger than a device's
    share of an (n, r) block.

    Args:
        rows: row numbers, shape (nnz,).
        columns: column numbers, shape (nnz,); an entry may come in several parts.
        weights: P⁺(x, a), shape (nnz,), floating.
        shape: (n, m).
        mesh: the devices.
        axis: the axis of the mesh that cuts the rows.
        dtype: of the operator; None: that of the weights.
    """
    (n, m), k = shape, mesh.shape[axis]
    dtype = np.dtype(weights.dtype if dtype is None else dtype)
    share_x, share_a = (padded_size(size, k) // k for size in shape)
    ring = m > share_x
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    # Parts of an entry are added in float64, and so are marginals.
    exact = weights.astype(np.float64)
    p_x, p_a = np.bincount(rows, exact, n), np.bincount(columns, exact, m)
    # Entries of rows and columns without mass have none themselves.
    forward = exact / np.where(p_x > 0, p_x, 1.0)[rows]
    backward = exact / np.where(p_a > 0, p_a, 1.0)[columns]
    # The device of a row, and whose block of functions it meets.
    home, visitor = rows // share_x, columns // share_a if ring else rows // share_x
    layouts = (
        _lay_out(
            home,
            # After t hops device i has the block of i + t.
            (visitor - home) % k,
            rows % share_x,
            columns % share_a if ring else columns,
            forward.astype(dtype),
            num_rows=share_x,
            mesh=mesh,
            axis=axis,
        ),
        _lay_out(
            visitor,
            (home - visitor) % k,
            columns % share_a if ring else columns,
            rows % share_x,
            backward.astype(dtype),
            num_rows=share_a if ring else m,
            mesh=mesh,
            axis=axis,
        ),
    )
    norm2 = np.asarray(_squared_norm(rows, columns, forward, backward))
    return ShardedSparseOperator(
        *layouts,
        place_law(p_x.astype(dtype), mesh, axis),
        place_law(p_a.astype(dtype), mesh, axis)
        if ring
        else place_whole(p_a.astype(dtype), mesh),
        place_whole(norm2.astype(dtype), mesh),
        mesh,
        axis,
        ring,
    )


def _squared_norm(
    rows: np.ndarray, columns: np.ndarray, forward: np.ndarray, backward: np.ndarray
) -> float:
    """Σ P(a|x) P(x|a), parts of one entry added up first."""
    # The square of a sum is more than the squares of its parts.
    _, entry = np.unique(
        rows * (columns.max(initial=0) + 1) + columns, return_inverse=True
    )
    return float(np.bincount(entry, forward) @ np.bincount(entry, backward))


def _lay_out(
    device: np.ndarray,
    step: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    weight: np.ndarray,
    *,
    num_rows: int,
    mesh: Mesh,
    axis: str,
) -> _Layout:
    """Cut the entries by device and step of the ring, each part in buckets."""
    k = mesh.shape[axis]

    def part(first: int, length: int) -> tuple[_ShardBucket, ...]:
        here = (step >= first) & (step < first + length)
        # All groups have the shape of the fullest: one program for all devices.
        group = device[here] * length + (step[here] - first)
        buckets = _make_buckets(
            group, row[here], column[here], weight[here], k * length, num_rows
        )
        return tuple(buckets)

    def by_step(bucket: _ShardBucket) -> _ShardBucket:
        return _ShardBucket(*(x.reshape(k, k - 2, *x.shape[1:]) for x in bucket))

    # Stacked for a scan; the first and the last step stand apart, of other sizes.
    others = tuple(map(by_step, part(1, k - 2))) if k > 2 else ()
    layout = _Layout(part(0, 1), others, part(k - 1, 1) if k > 1 else ())
    return place_rows(layout, mesh, axis)


def _make_buckets(
    group: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    weight: np.ndarray,
    num_groups: int,
    num_rows: int,
) -> list[_ShardBucket]:
    """Buckets with a leading axis of groups, as wide as the fullest group needs."""
    # A line is a row of one group, whose entries are neighbours once sorted.
    key = group * num_rows + row
    order = np.argsort(key, kind="stable")
    column, weight = column[order], weight[order]
    lines, starts, degrees = np.unique(
        key[order], return_index=True, return_counts=True
    )
    start, length, pieces = starts, degrees, []
    # In pieces: one long line would widen every other.
    for width in _WHOLE:
        number = length // width
        line = np.repeat(np.arange(len(lines)), number)
        offset = np.arange(len(line)) - np.repeat(np.cumsum(number) - number, number)
        pieces.append((line, start[line] + width * offset, np.full_like(line, width)))
        start, length = start + width * number, length - width * number
    # Shorter than the narrowest of those pieces.
    left = np.flatnonzero(length)
    pieces.append((left, start[left], length[left]))
    line, start, length = map(np.concatenate, zip(*pieces, strict=True))
    buckets, below = [], 0
    for width in _WIDTHS:
        # Pieces that this width holds and no narrower one.
        members = np.flatnonzero((length > below) & (length <= width))
        below = width
        if not len(members):
            continue
        # By group, and in a group by row: the sums are written in order.
        members = members[np.argsort(line[members], kind="stable")]
        owner, target = np.divmod(lines[line[members]], num_rows)
        sizes = np.bincount(owner, minlength=num_groups)
        # The number of a piece within its group.
        place = np.arange(len(members)) - (np.cumsum(sizes) - sizes)[owner]
        shape = (num_groups, width, int(sizes.max()))
        indices: Any = np.zeros(shape, np.int32)
        weights: Any = np.zeros(shape, weight.dtype)
        # Pieces that are not used add past the end, where `_add` drops them.
        rows: Any = np.full((num_groups, shape[2]), num_rows, np.int32)
        rows[owner, place] = target
        # By slots, of which there are few; entries would be a loop of Python over all.
        for slot in range(width):
            used = length[members] > slot
            entry = start[members[used]] + slot
            indices[owner[used], slot, place[used]] = column[entry]
            weights[owner[used], slot, place[used]] = weight[entry]
        buckets.append(_ShardBucket(indices, weights, rows))
    return buckets


def _multiply(num_rows: int, buckets: tuple[_ShardBucket, ...], x: Array) -> Array:
    """The product of a device's entries with a block."""
    return _add(_zeros(num_rows, x), _strip(buckets), x)


def _multiply_and_sum(
    num_rows: int, axis: str, buckets: tuple[_ShardBucket, ...], x: Array
) -> Array:
    """The sum of the products of all devices."""
    return jax.lax.psum(_multiply(num_rows, buckets, x), axis)


def _multiply_in_ring(
    num_rows: int, axis: str, num_devices: int, layout: _Layout, x: Array
) -> Array:
    """The product of a device's rows with a block that is cut over the devices."""

    def pass_on(x: Array) -> Array:
        hops = [(i, (i - 1) % num_devices) for i in range(num_devices)]
        return jax.lax.ppermute(x, axis, hops)

    def step(
        state: tuple[Array, Array], buckets: tuple[_ShardBucket, ...]
    ) -> tuple[tuple[Array, Array], None]:
        x, out = state
        # The block goes on while it is used.
        return (pass_on(x), _add(out, buckets, x)), None

    out = _multiply(num_rows, layout.own, x)
    if num_devices == 1:
        return out
    state, others = (pass_on(x), out), _strip(layout.others)
    # One step is compiled, whatever the number of devices.
    (x, out), _ = jax.lax.scan(step, state, others, length=num_devices - 2)
    return _add(out, _strip(layout.last), x)


def _add(
    out: Float[Array, "n r"], buckets: tuple[_ShardBucket, ...], x: Float[Array, "m r"]
) -> Float[Array, "n r"]:
    """Add the product of the buckets of one device with a block."""
    for bucket in buckets:
        sums = sum_slots(Bucket(bucket.indices, bucket.weights), x)
        # A long row is several pieces, which add up.
        out = out.at[bucket.rows].add(sums, mode="drop")
    return out


def _strip(buckets: tuple[_ShardBucket, ...]) -> tuple[_ShardBucket, ...]:
    """The part of one device, without the axis of devices."""
    return jax.tree.map(lambda x: x[0], buckets)


def _zeros(num_rows: int, like: Array) -> Array:
    return jnp.zeros((num_rows, like.shape[1]), like.dtype)
