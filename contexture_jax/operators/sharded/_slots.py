"""Sparse and fixed-degree storage over a mesh.

Where A is small, its blocks of functions live on every device: T g is local and T* f
takes one sum over devices. Where A is as large as X, its functions are cut over the
devices too and go round a ring. A device meets the blocks one after the other and adds
up the entries whose column is in the block that visits, so that neither (n, r) nor
(m, r) numbers are ever in one place. Where a device needs less than half of what would
visit it, all devices send each other what is needed, in rounds of about a block. Two
CPU devices bring both blocks together where rows have as many entries as each other:
nothing has to be added to a row then. Values that very many others meet would fill some
blocks far beyond the rest: one sum tells them to all devices.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.types import (
    Array,
    Float,
    Size,
    pytree_dataclass,
    static_field,
)
from contexture_jax.kernels import add_rows
from contexture_jax.operators._base import Cost
from contexture_jax.operators.sharded._buckets import ShardBucket, add_buckets
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
from contexture_jax.operators.sharded._dealing import deal, undeal
from contexture_jax.operators.sharded._exchange import Exchange
from contexture_jax.operators.sharded._layout import (
    Hubs,
    Layout,
    even_layout,
    goes_round,
    lay_out_both,
)

__all__ = ["ShardedSparseOperator", "neighbor_shapes", "shard_entries"]

# Pieces whose sums a CPU has in cache; an accelerator is to have few steps.
_TILE, _ALL = 2048, 2**31


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
        dealt: whether X and A are dealt out anew for products, so that devices have as
            many entries as each other. Static.
    """

    forward: Layout
    backward: Layout
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    norm2: Float[Array, ""]
    mesh: Mesh = static_field()
    axis: str = static_field()
    ring: bool = static_field()
    dealt: bool = static_field(default=False)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    @property
    def cut_fields(self) -> tuple[str, ...]:
        """Both layouts and the law of X; that of A where its functions go round."""
        return ("forward", "backward", "p_x", *(("p_a",) if self.ring else ()))

    @property
    def share(self) -> tuple[Size, Size]:
        """Rows of X, and of A where its functions go round, else all of those."""
        rows, columns = super().share
        return rows, columns if self.ring else self.shape[1]

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        n, axis = self.shape[0], self.axis
        if self.ring:
            return self._go_round(self.forward, g, n)
        share = padded_size(n, self.num_devices) // self.num_devices
        local = spmd(_multiply, self.mesh, (axis, None), axis, self._tile, share)
        return local(self.forward.own, g)[:n]

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f, shape (m, r)."""
        m, axis = self.shape[1], self.axis
        if self.ring:
            return self._go_round(self.backward, f, m)
        take, static = (axis, axis), (self._tile, m, axis)
        total = spmd(_multiply_and_sum, self.mesh, take, None, *static)
        return total(self.backward.own, pad_rows(f, self.num_devices))

    def _go_round(self, layout: Layout, block: Array, num_rows: int) -> Array:
        """The product with a block whose rows are cut over the devices."""
        k, axis = self.num_devices, self.axis
        multiply = _multiply_dealt if self.dealt else _multiply_in_ring
        share = padded_size(num_rows, k) // k
        static = (self._tile, share, axis, k)
        run = spmd(multiply, self.mesh, (axis, axis), axis, *static)
        return run(layout, pad_rows(block, k))[:num_rows]

    def squared_norm(self) -> Float[Array, ""]:
        """Σ P(x,a)² / (p_x p_a) over the entries."""
        return self.norm2

    @property
    def _tile(self) -> int:
        """Pieces that are added at a time."""
        return _TILE if _is_cpu(self.mesh) else _ALL

    @property
    def num_hubs(self) -> int:
        """How many inputs and context values all devices are told of by a sum."""
        hubs = self.forward.hubs
        return 0 if hubs is None else hubs.taken.shape[1] + hubs.given.shape[1]

    def cost(self, r: int) -> Cost:
        """Of one device: its entries, padding included, times r."""
        k, size = self.num_devices, self.dtype.itemsize
        rows, taken = self.share
        told = 2 * self.forward.num_told(taken) if self.ring else 0
        buckets, hubs = self.forward.buckets, self.num_hubs
        entries = sum(b.indices.size for b in buckets) // k
        added = [b.rows for b in buckets if b.rows is not None]
        pieces = sum(rows.size for rows in added) // k
        widest = max((rows.shape[-1] for rows in added), default=0)
        return Cost(
            flops=2 * entries * r + (pieces + hubs) * r,
            argument_bytes=(4 + size) * entries
            + 4 * (pieces + hubs)
            + size * (rows + taken + taken * r),
            output_bytes=size * rows * r,
            # The sums of one bucket, or of a tile of it; what goes and what comes, a
            # block in a ring; and the functions of hubs.
            temporary_bytes=size * r * (min(widest, self._tile) + told + 2 * hubs),
        )

    def collectives(self, r: int) -> tuple[Collective, ...]:
        """In a ring k − 1 hops of a block, or an exchange, and a sum of hubs.

        Else a sum of (m, r).
        """
        k, size = self.num_devices, self.dtype.itemsize
        n, m = self.shape
        if k == 1:
            return ()
        if not self.ring:
            return (Collective("rmatmat", "all-reduce", size * m * r, 1),)
        # Of X and of A, as they go round: dealt, a multiple of the devices.
        x, a = (padded_size(side, k) // k for side in (n, m))
        if self.dealt:
            x, a = (padded_size(share, k) for share in (x, a))
        hops: list[Any] = []
        for product, layout, share in (
            ("matmat", self.forward, a),
            ("rmatmat", self.backward, x),
        ):
            told = size * r * layout.num_told(share)
            if layout.is_joint.value:
                hops.append((product, "all-gather", told, 1))
            elif layout.exchange is None:
                hops += [(product, "collective-permute", told, k - 1)]
            else:
                rounds = layout.exchange.send.shape[1]
                hops += [(product, "all-to-all", told, rounds)]
        x, a = size * r * x, size * r * a
        for product in ("matmat", "rmatmat"):
            hops += [(product, "all-reduce", size * self.num_hubs * r, 1)]
            hops += [(product, "all-to-all", block, self.dealt) for block in (x, a)]
        return tuple(Collective(*each) for each in hops if each[2] * each[3])


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
    n, m = shape
    dtype = np.dtype(weights.dtype if dtype is None else dtype)
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    # Parts of an entry are added in float64, and so are marginals.
    exact = weights.astype(np.float64)
    p_x, p_a = np.bincount(rows, exact, n), np.bincount(columns, exact, m)
    # Entries of rows and columns without mass have none themselves.
    forward = exact / np.where(p_x > 0, p_x, 1.0)[rows]
    backward = exact / np.where(p_a > 0, p_a, 1.0)[columns]
    there, back, dealt = lay_out_both(
        rows,
        columns,
        (forward, backward),
        shape,
        mesh.shape[axis],
        dtype,
        joins=_is_cpu(mesh),
    )
    ring = goes_round(shape, mesh.shape[axis])
    norm2 = np.asarray(_squared_norm(rows, columns, forward, backward))
    place_a = place_law if ring else lambda law, mesh, _: place_whole(law, mesh)
    return ShardedSparseOperator(
        place_rows(there, mesh, axis),
        place_rows(back, mesh, axis),
        place_law(p_x.astype(dtype), mesh, axis),
        place_a(p_a.astype(dtype), mesh, axis),
        place_whole(norm2.astype(dtype), mesh),
        mesh,
        axis,
        ring,
        dealt,
    )


def _is_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def neighbor_shapes(
    shape: tuple[int, int],
    num_neighbors: int,
    max_degree: int,
    mesh: Mesh,
    axis: str,
    *,
    dtype: Any,
) -> ShardedSparseOperator:
    """T of a neighbour graph whose entries lie evenly, as shapes: see `even_layout`.

    Args:
        shape: (n, m).
        num_neighbors: K, entries of a row.
        max_degree: entries of a column at most.
        mesh: the devices.
        axis: the axis of the mesh that cuts the rows.
        dtype: of the operator.
    """
    (n, m), k = shape, mesh.shape[axis]
    if k > 1 and not goes_round(shape, k):
        msg = (
            "neighbours must be among more points than a device has inputs; got"
            f" {n} inputs over {k} devices and {m} points"
        )
        raise ValueError(msg)
    share_x, share_a = (padded_size(size, k) // k for size in shape)
    mean, sides = n * num_neighbors / m, (share_x, share_a)
    lay = functools.partial(even_layout, dtype=dtype, joins=_is_cpu(mesh))
    layouts = (
        lay(sides, float(num_neighbors), float(num_neighbors), k, alike=True),
        lay(sides[::-1], mean, max(mean, float(max_degree)), k),
    )
    laws = [jax.ShapeDtypeStruct(side, dtype) for side in ((n,), (m,), ())]
    build: Any = functools.partial(
        ShardedSparseOperator, mesh=mesh, axis=axis, ring=k > 1
    )
    return jax.eval_shape(build, *layouts, *laws)


def _squared_norm(
    rows: np.ndarray, columns: np.ndarray, forward: np.ndarray, backward: np.ndarray
) -> float:
    """Σ P(a|x) P(x|a), parts of one entry added up first."""
    # The square of a sum is more than the squares of its parts.
    _, entry = np.unique(
        rows * (columns.max(initial=0) + 1) + columns, return_inverse=True
    )
    return float(np.bincount(entry, forward) @ np.bincount(entry, backward))


def _multiply(
    tile: int, num_rows: int, buckets: tuple[ShardBucket, ...], x: Array
) -> Array:
    """The product of a device's entries with a block."""
    return add_buckets(tile, _zeros(num_rows, x), _strip(buckets), x)


def _multiply_and_sum(
    tile: int, num_rows: int, axis: str, buckets: tuple[ShardBucket, ...], x: Array
) -> Array:
    """The sum of the products of all devices."""
    return jax.lax.psum(_multiply(tile, num_rows, buckets, x), axis)


def _multiply_in_ring(
    tile: int, num_rows: int, axis: str, num_devices: int, layout: Layout, x: Array
) -> Array:
    """The product of a device's rows with a block that is cut over the devices."""

    def pass_on(x: Array) -> Array:
        hops = [(i, (i - 1) % num_devices) for i in range(num_devices)]
        return jax.lax.ppermute(x, axis, hops)

    def step(
        state: tuple[Array, Array], buckets: tuple[ShardBucket, ...]
    ) -> tuple[tuple[Array, Array], None]:
        x, out = state
        # The block goes on while it is used.
        return (pass_on(x), add_buckets(tile, out, buckets, x)), None

    is_joint = layout.is_joint.value
    met = jax.lax.all_gather(x, axis, tiled=True) if is_joint else x
    out = _multiply(tile, num_rows, layout.own, met)
    if layout.hubs is not None:
        out = _add_hubs(tile, out, layout.hubs, x, axis)
    if layout.exchange is not None:
        return _add_exchanged(tile, out, layout.exchange, x, axis)
    if is_joint or num_devices == 1:
        return out
    state = pass_on(x), out
    if num_devices > 2:
        state, _ = step(state, _strip(layout.first))
        # One step is compiled, whatever the number of devices.
        others = _strip(layout.others)
        state, _ = jax.lax.scan(step, state, others, length=num_devices - 3)
    x, out = state
    return add_buckets(tile, out, _strip(layout.last), x)


def _multiply_dealt(
    tile: int, num_rows: int, axis: str, num_devices: int, layout: Layout, x: Array
) -> Array:
    """`_multiply_in_ring` with what goes in, and what comes out, dealt out anew."""
    share = padded_size(num_rows, num_devices)
    x = deal(x, axis, num_devices)
    out = _multiply_in_ring(tile, share, axis, num_devices, layout, x)
    return undeal(out, axis, num_devices)[:num_rows]


def _add_hubs(tile: int, out: Array, hubs: Hubs, x: Array, axis: str) -> Array:
    """Add what entries in hubs give, with one sum over the devices."""
    taken, given = hubs.taken[0], hubs.given[0]
    # (h, r) and (g, r): of the first each hub is on one device, and 0 on the others.
    own = x.at[taken].get(mode="fill", fill_value=0)
    parts = _multiply(tile, given.shape[0], hubs.reduce, x)
    whole = jax.lax.psum(jnp.concatenate([own, parts]), axis)
    out = add_buckets(tile, out, _strip(hubs.gather), whole[: len(taken)])
    return add_rows(out, given, whole[len(taken) :])


def _add_exchanged(
    tile: int, out: Array, exchange: Exchange, x: Array, axis: str
) -> Array:
    """Add what entries in the rows of other devices give, which come in rounds."""

    def step(
        out: Array, turn: tuple[Array, tuple[ShardBucket, ...]]
    ) -> tuple[Array, None]:
        send, buckets = turn
        # (k p, r): to each device what it needs, and then from each.
        parts = x.at[send].get(mode="fill", fill_value=0)
        parts = jax.lax.all_to_all(parts, axis, 0, 0, tiled=True)
        return add_buckets(tile, out, buckets, parts), None

    out, _ = jax.lax.scan(step, out, (exchange.send[0], _strip(exchange.buckets)))
    return out


def _strip(buckets: tuple[ShardBucket, ...]) -> tuple[ShardBucket, ...]:
    """The part of one device, without the axis of devices."""
    return jax.tree.map(lambda x: x[0], buckets)


def _zeros(num_rows: int, like: Array) -> Array:
    return jnp.zeros((num_rows, like.shape[1]), like.dtype)
