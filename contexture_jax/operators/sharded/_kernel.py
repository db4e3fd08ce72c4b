"""Blocked kernel storage over a mesh: keys go round a ring, tiles never leave a device.

Rows of X and of A are cut over the devices. A block of keys with its values visits one
device after the other, and each adds up its tiles of the block that visits. Memory is
linear in n / devices, work is n · m / devices, and each hop of a few numbers a row is
beside work of n / devices numbers a row.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from contexture_jax._core.checks import is_traced
from contexture_jax._core.numerics import Precision, safe_reciprocal
from contexture_jax._core.types import Array, Float, pytree_dataclass, static_field
from contexture_jax.contexts import SoftmaxContext
from contexture_jax.kernels import (
    MASKED,
    Form,
    Implementation,
    exp_matmul,
    logsumexp_rows,
    masked,
    normalise,
    padded,
    shifted,
    tile_shape,
)
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

__all__ = ["ShardedKernelOperator", "shard_softmax"]


class _Ring(NamedTuple):
    """Who passes blocks to whom, and what is done with tiles; hashable."""

    mesh: Mesh
    axis: str
    tile_size: int
    form: Form
    power: float = 1.0
    precision: Precision = "exact"
    implementation: Implementation = "xla"

    @property
    def size(self) -> int:
        return self.mesh.shape[self.axis]

    def pass_on(self, x: Array) -> Array:
        # To the device before: device i meets the blocks i, i + 1, ….
        k = self.size
        return jax.lax.ppermute(x, self.axis, [(i, (i - 1) % k) for i in range(k)])

    def local_product(self, queries: Array, keys: Array, values: Array) -> Array:
        return exp_matmul(
            queries,
            keys,
            values,
            form=self.form,
            tile_size=self.tile_size,
            power=self.power,
            precision=self.precision,
            implementation=self.implementation,
        )


@pytree_dataclass
class ShardedKernelOperator(ShardedOperator):
    """T of a softmax law over a mesh, recomputed in tiles.

    Differentiable in its arrays in reverse mode, by a rule that goes round the ring
    once more and stores no tile.

    Attributes:
        queries: a row an x, with −log Z(x) folded in, and padding, shape (n2, e), rows
            sharded.
        keys: a row an a, with the bias folded in, and padding, shape (m2, e), rows
            sharded.
        p_x: shape (n,).
        p_a: Σ_x p_x P⁺(·|x), shape (m,).
        norm2: ‖T‖²_HS, shape ().
        mesh: the devices. Static.
        axis: the axis of the mesh that cuts the rows. Static.
        tile_size: the largest side of a tile. Static.
        form: how log P⁺(a|x) comes from the two. Static.
        precision: the level of products with tiles of weights, of float32; log weights
            are exact. Static.
        implementation: of the products, as of `with_implementation`. Static.
    """

    queries: Float[Array, "n2 e"]
    keys: Float[Array, "m2 e"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    norm2: Float[Array, ""]
    mesh: Mesh = static_field()
    axis: str = static_field()
    tile_size: int = static_field()
    form: Form = static_field()
    precision: Precision = static_field(default="exact", kw_only=True)
    implementation: Implementation = static_field(default="xla", kw_only=True)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    @property
    def cut_fields(self) -> tuple[str, ...]:
        """All but the norm."""
        return ("queries", "keys", "p_x", "p_a")

    @property
    def _ring(self) -> _Ring:
        ring = _Ring(self.mesh, self.axis, self.tile_size, self.form)
        return ring._replace(
            precision=self.precision, implementation=self.implementation
        )

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, shape (n, r)."""
        # Keys of padding are masked: no value of theirs counts.
        values = pad_rows(g, self.num_devices)
        out = _ring_exp_matmul(self.queries, self.keys, values, self._ring)
        return jnp.where(self.p_x[:, None] > 0, out[: self.shape[0]], 0.0)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f = (1 / p_a) Σ_x p_x P⁺(a|x) f(x), shape (m, r)."""
        # Queries of padding have weights, too, but values of 0.
        values = pad_rows(self.p_x[:, None] * f, self.num_devices)
        total = _ring_exp_matmul(self.keys, self.queries, values, self._ring)
        return safe_reciprocal(self.p_a)[:, None] * total[: self.shape[1]]

    def squared_norm(self) -> Float[Array, ""]:
        """Σ_x p_x Σ_a P⁺(a|x)² / p_a."""
        return self.norm2

    def cost(self, r: int) -> Cost:
        """Of one device: its rows with every column."""
        k, size = self.num_devices, self.dtype.itemsize
        n, m = self.share
        e = self.queries.shape[1]
        rows, columns = tile_shape(n, m, self.tile_size)
        padded_n, padded_m = -(-n // rows) * rows, -(-m // columns) * columns
        return Cost(
            flops=k * padded_n * padded_m * (self.form.flops() + 1 + 2 * r),
            argument_bytes=size * ((n + m) * e + n + m + m * r),
            output_bytes=size * n * r,
            temporary_bytes=size
            * (
                (1 + self.form.tiles()) * rows * columns
                # The block that goes and that which comes, and the sums.
                + 2 * m * (e + r)
                + padded_n * r
                + (padded_n * e if padded_n != n else 0)
                + (padded_m * (e + r) if padded_m != m else 0)
            ),
        )

    def collectives(self, r: int) -> tuple[Collective, ...]:
        """Hops of a block of keys, or of queries, with its values: k − 1 a product."""
        k = self.num_devices
        if k == 1:
            return ()
        n, m = (padded_size(s, k) // k for s in self.shape)
        row = self.dtype.itemsize * (self.queries.shape[1] + r)
        hop = "collective-permute"
        return (
            Collective("matmat", hop, m * row, k - 1),
            Collective("rmatmat", hop, n * row, k - 1),
        )


def shard_softmax(
    context: SoftmaxContext, mesh: Mesh, axis: str, tile_size: int
) -> ShardedKernelOperator:
    """T of a softmax context over a mesh: Z, P_A and the norm by rings as well."""
    form = context.form()
    if mesh.is_multi_process and not is_traced(context):
        return _compiled(context, form, mesh, axis, tile_size)
    return _shard(context, form, mesh, axis, tile_size)


def _shard(
    context: SoftmaxContext, form: Form, mesh: Mesh, axis: str, tile_size: int
) -> ShardedKernelOperator:
    scores = context.scores(form)
    ring = _Ring(mesh, axis, tile_size, form)
    k = ring.size
    m = len(scores.keys)
    # Padding must not count in Z, and has one of its own.
    queries = pad_rows(scores.queries, k)
    keys = masked(form, padded(form, scores.keys, padded_size(m, k)), m)
    queries, keys = (place_rows(x, mesh, axis) for x in (queries, keys))
    # A ring for log Z(x), which goes into the queries (theory.md §4.4).
    queries, _, _ = normalise(
        form, queries, keys, functools.partial(_ring_logsumexp, ring=ring)
    )

    # (n2, 1): padding has no mass, so that it does not matter what law it has.
    weights = pad_rows(context.p_x[:, None], k)
    p_a = _ring_exp_matmul(keys, queries, weights, ring)[:m]
    inverse = pad_rows(safe_reciprocal(p_a), k)
    # Σ_a P⁺(a|x)² / p_a by doubled logits (theory.md §6.7).
    squares = _ring_exp_matmul(queries, keys, inverse, ring._replace(power=2.0))
    norm2 = (weights * jnp.where(weights > 0, squares, 0.0)).sum()
    return ShardedKernelOperator(
        queries,
        keys,
        place_law(context.p_x, mesh, axis),
        place_law(p_a[:, 0], mesh, axis),
        place_whole(norm2, mesh),
        mesh,
        axis,
        tile_size,
        form,
    )


# Of several processes one may wait for another in each operation.
_compiled = jax.jit(_shard, static_argnums=(1, 2, 3, 4))


def _exp_matmul(
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    values: Float[Array, "m r"],
    ring: _Ring,
) -> Float[Array, "n r"]:
    """exp(power · L) V with the rows of all four cut over the devices."""
    axis = ring.axis
    run = spmd(_multiply_in_ring, ring.mesh, (axis,) * 3, axis, ring)
    return run(queries, keys, values)


def _multiply_in_ring(ring: _Ring, queries: Array, keys: Array, values: Array) -> Array:
    """The rows of one device."""
    e = keys.shape[1]

    def add(block: Array, out: Array) -> Array:
        key, value = block[:, :e], block[:, e:]
        return out + ring.local_product(queries, key, value)

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        block, out = state
        # The block goes on while it is used.
        return ring.pass_on(block), add(block, out)

    # One array, so that a hop is one message.
    block = jnp.concatenate([keys, values], axis=1)
    out = jnp.zeros((queries.shape[0], values.shape[1]), values.dtype)
    # The last block that visits goes on to nobody.
    block, out = jax.lax.fori_loop(0, ring.size - 1, step, (block, out))
    return add(block, out)


def _exp_matmul_forward(
    queries: Array, keys: Array, values: Array, ring: _Ring
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _ring_exp_matmul(queries, keys, values, ring), (queries, keys, values)


def _exp_matmul_backward(
    ring: _Ring, kept: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    axis = ring.axis
    back = spmd(_pull_back_in_ring, ring.mesh, (axis,) * 4, (axis,) * 3, ring)
    return back(*kept, cotangent)


def _pull_back_in_ring(
    ring: _Ring, queries: Array, keys: Array, values: Array, cotangent: Array
) -> tuple[Array, Array, Array]:
    """Keys and values go round with their cotangents, and come home with them."""
    e, width = keys.shape[1], keys.shape[1] + values.shape[1]

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        block, for_queries = state
        key, value = block[:, :e], block[:, e:width]
        # Tiles are formed again: none was kept.
        _, pull_back = jax.vjp(ring.local_product, queries, key, value)
        new = pull_back(cotangent)
        block = block.at[:, width:].add(jnp.concatenate(new[1:], axis=1))
        # A hop more than forward: cotangents belong where their block came from.
        if ring.size > 1:
            block = ring.pass_on(block)
        return block, for_queries + new[0]

    both = jnp.concatenate([keys, values], axis=1)
    # Behind keys and values their cotangents, (m2 / k, 2 (e + r)).
    start = (
        jnp.concatenate([both, jnp.zeros_like(both)], axis=1),
        jnp.zeros_like(queries),
    )
    block, for_queries = jax.lax.fori_loop(0, ring.size, step, start)
    return for_queries, block[:, width : width + e], block[:, width + e :]


_ring_exp_matmul = jax.custom_vjp(_exp_matmul, nondiff_argnums=(3,))
_ring_exp_matmul.defvjp(_exp_matmul_forward, _exp_matmul_backward)


def _logsumexp(
    queries: Float[Array, "n e"], keys: Float[Array, "m e"], ring: _Ring
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """`logsumexp_rows` with the rows of both cut over the devices."""
    axis = ring.axis
    run = spmd(_logsumexp_in_ring, ring.mesh, (axis, axis), (axis, axis), ring)
    return run(queries, keys)


def _logsumexp_in_ring(ring: _Ring, queries: Array, keys: Array) -> tuple[Array, Array]:
    """The rows of one device."""

    def add(block: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
        here = logsumexp_rows(queries, block, form=ring.form, tile_size=ring.tile_size)
        # In two parts, the largest logit and the rest (theory.md §4.4).
        high = jnp.maximum(total[0], here[0])
        # Exponents are at most a rest, the logarithm of a count.
        parts = [jnp.exp(one - high + rest) for one, rest in (total, here)]
        return high, jnp.log(parts[0] + parts[1])

    def step(_: Array, state: tuple) -> tuple[Array, tuple[Array, Array]]:
        block, total = state
        return ring.pass_on(block), add(block, total)

    # Finite: −∞ less itself is NaN.
    none = jnp.full(queries.shape[:1], MASKED, queries.dtype)
    start = (keys, (none, none))
    return add(*jax.lax.fori_loop(0, ring.size - 1, step, start))


def _logsumexp_forward(
    queries: Array, keys: Array, ring: _Ring
) -> tuple[tuple[Array, Array], tuple]:
    out = _ring_logsumexp(queries, keys, ring)
    return out, (queries, keys, out)


def _logsumexp_backward(
    ring: _Ring, kept: tuple, cotangent: tuple[Array, Array]
) -> tuple[Array, Array]:
    """With the softmax P of the scores and the cotangent c, c ∘ P is that of L."""
    queries, keys, out = kept
    ones = jnp.ones((len(keys), 1), keys.dtype)
    # exp(L − lse) is that softmax: the rule of the product, with ones for values.
    arrays = shifted(ring.form, queries, *out), keys, ones
    return _exp_matmul_backward(ring, arrays, cotangent[1][:, None])[:2]


_ring_logsumexp = jax.custom_vjp(_logsumexp, nondiff_argnums=(2,))
_ring_logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)
