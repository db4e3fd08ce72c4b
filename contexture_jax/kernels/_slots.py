"""Sparse matrix times tall block, in the layout that XLA is fast with.

Rows are cut into pieces of at most `_MAX_WIDTH` entries, pieces of like width form a
bucket, and a bucket stores its entries slot by slot, shape (width, number of pieces).
A product adds up slots: `total += weight[j][:, None] * x[index[j]]`, which XLA fuses
into one loop without a temporary. Gathering into a 3-d array and reducing it, scatters
and segment sums are several times slower on CPU and take gigabytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from contexture_jax._core.types import Array, Float, Inexact, Int, Static, short_repr

__all__ = [
    "Bucket",
    "Slots",
    "make_slots",
    "paired_matmat",
    "slots_cost",
    "slots_matmat",
    "sum_slots",
]

# A bucket takes a tenth of a second to compile. Slots that are not used all read row 0,
# which stays in cache.
_WIDTHS = (2, 8, 16, 32, 64, 128, 256, 512)
_MAX_WIDTH = _WIDTHS[-1]
_UNROLLS = (10, 9, 8)  # slots in one step of the loop: the first that divides the width


@short_repr
class Bucket(NamedTuple):
    """Pieces of rows with the same number of slots, slot-major.

    Attributes:
        indices: which row of the block each entry multiplies, shape (width, pieces).
        weights: the entries, 0 in unused slots, shape (width, pieces); None: all 1.
    """

    indices: Int[Array, "w c"]
    weights: Inexact[Array, "w c"] | None


@short_repr
class Slots(NamedTuple):
    """A sparse (n, m) matrix for products with (m, r) blocks.

    Attributes:
        buckets: the entries, in buckets of ascending width.
        position: where each row's first piece is in the concatenated bucket results,
            shape (n,); rows without entries point past the end, at a row of zeros.
        extra_rows: rows that have further pieces, shape (e,).
        extra_pieces: where those are, shape (e,).
    """

    buckets: tuple[Bucket, ...]
    position: Int[Array, " n"]
    extra_rows: Int[Array, " e"]
    extra_pieces: Int[Array, " e"]

    def entries(self) -> list[Array]:
        """The stored weights, those of unused slots (0) included."""
        return [b.weights for b in self.buckets if b.weights is not None]


def make_slots(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, num_rows: int
) -> Slots:
    """Lay out the entries of a sparse matrix. Runs on the host.

    Args:
        rows: row numbers, shape (nnz,), ascending.
        columns: column numbers, shape (nnz,).
        weights: entries, shape (nnz,), floating.
        num_rows: n.
    """
    rows, columns, weights = map(np.asarray, (rows, columns, weights))
    degrees = np.bincount(rows, minlength=num_rows)
    starts = np.concatenate([[0], np.cumsum(degrees)])[:-1]
    num_pieces = -(-degrees // _MAX_WIDTH)
    piece_rows = np.repeat(np.arange(num_rows), num_pieces)
    first_piece = np.concatenate([[0], np.cumsum(num_pieces)])[:-1]
    number_in_row = np.arange(len(piece_rows)) - first_piece[piece_rows]
    offsets = number_in_row * _MAX_WIDTH
    piece_starts = starts[piece_rows] + offsets
    lengths = np.minimum(degrees[piece_rows] - offsets, _MAX_WIDTH)
    classes = np.searchsorted(_WIDTHS, lengths)

    buckets, done = [], 0
    position = np.empty(len(piece_rows), np.int32)
    for number, width in enumerate(_WIDTHS):
        members = np.flatnonzero(classes == number)
        if not len(members):
            continue
        slot = np.arange(width)[:, None]
        used = slot < lengths[members][None, :]
        entry = np.where(used, piece_starts[members][None, :] + slot, 0)
        buckets.append(
            Bucket(
                jnp.asarray(np.where(used, columns[entry], 0).astype(np.int32)),
                jnp.asarray(np.where(used, weights[entry], 0).astype(weights.dtype)),
            )
        )
        position[members] = done + np.arange(len(members), dtype=np.int32)
        done += len(members)

    has_entries = degrees > 0
    first = np.full(num_rows, done, np.int32)
    first[has_entries] = position[first_piece[has_entries]]
    further = number_in_row > 0
    return Slots(
        tuple(buckets),
        jnp.asarray(first),
        jnp.asarray(piece_rows[further].astype(np.int32)),
        jnp.asarray(position[further]),
    )


@jax.custom_vjp
def sum_slots(bucket: Bucket, x: Inexact[Array, "m r"]) -> Inexact[Array, "c r"]:
    """Σ_j weights[j] · x[indices[j]], `_UNROLL` slots in a step of the loop.

    Gradients, in reverse mode only, slot by slot: differentiating through the loop
    would store all that it gathers.
    """
    return _sum_slots_forward(bucket, x)


def _sum_slots_saved(bucket: Any, x: Any) -> tuple[Array, Any]:
    weights = bucket.weights
    wants = Static((weights is not None and weights.perturbed, x.perturbed))
    bucket, x = jax.tree.map(lambda primal: primal.value, (bucket, x))
    return _sum_slots_forward(bucket, x), (bucket, x, wants)


def _sum_slots_backward(saved: Any, out_bar: Any) -> tuple[Any, Array | None]:
    bucket, x, wants = saved
    if isinstance(out_bar, SymbolicZero):
        return None, None
    wants_weights, wants_x = wants.value
    bucket_bar = x_bar = None
    if wants_weights:
        weights_bar = jax.lax.map(
            lambda index: (out_bar * x[index]).sum(axis=1), bucket.indices
        )
        bucket_bar = bucket._replace(indices=None, weights=weights_bar)
    if wants_x:

        def scatter(j: Array, total: Array) -> Array:
            rows = out_bar
            if bucket.weights is not None:
                rows = bucket.weights[j][:, None] * rows
            return total.at[bucket.indices[j]].add(rows)

        width = bucket.indices.shape[0]
        x_bar = jax.lax.fori_loop(0, width, scatter, jnp.zeros_like(x))
    return bucket_bar, x_bar


sum_slots.defvjp(_sum_slots_saved, _sum_slots_backward, symbolic_zeros=True)


def _sum_slots_forward(bucket: Bucket, x: Array) -> Array:
    width, pieces = bucket.indices.shape
    unroll = next((u for u in _UNROLLS if width % u == 0), _UNROLLS[-1])

    def slot(j: Array | int) -> Array:
        rows = _rows(x, bucket.indices[j])
        return rows if bucket.weights is None else bucket.weights[j][:, None] * rows

    def step(number: Array | int, total: Array) -> Array:
        for j in range(unroll):
            total = total + slot(number * unroll + j)
        return total

    whole = width // unroll
    total = jnp.zeros((pieces, x.shape[1]), x.dtype)
    if whole:
        total = jax.lax.fori_loop(0, whole, step, total)
    for j in range(whole * unroll, width):
        total = total + slot(j)
    return total


def _rows(x: Array, index: Array) -> Array:
    """x[index] without the arithmetic that guards against bad indices: a third less."""
    return x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def slots_matmat(slots: Slots, x: Inexact[Array, "m r"]) -> Inexact[Array, "n r"]:
    """The sparse matrix times a block, shape (n, r)."""
    x = jnp.asarray(x)
    zero_row = jnp.zeros((1, x.shape[1]), x.dtype)
    parts = [sum_slots(bucket, x) for bucket in slots.buckets]
    pieces = jnp.concatenate([*parts, zero_row])
    out = _rows(pieces, slots.position)
    if slots.extra_rows.shape[0]:
        out = out.at[slots.extra_rows].add(pieces[slots.extra_pieces])
    return out


@jax.custom_vjp
def paired_matmat(
    layout: Slots | Bucket,
    transpose: Slots | Bucket,
    scale_out: Float[Array, " n"],
    scale_in: Float[Array, " m"],
    x: Float[Array, "m r"],
) -> Float[Array, "n r"]:
    """A product whose gradient in the block is a product with the stored transpose.

    Autodiff would scatter, which is several times slower (theory.md §6.10).

    Args:
        layout: a sparse (n, m) matrix W.
        transpose: B with Wᵀ = diag(scale_in) B diag(scale_out), shape (m, n).
        scale_out: shape (n,).
        scale_in: shape (m,).
        x: the block.
    """
    del transpose, scale_out, scale_in
    return _apply(layout, x)


def _apply(layout: Slots | Bucket, x: Array) -> Array:
    if isinstance(layout, Bucket):
        return sum_slots(layout, x)
    return slots_matmat(layout, x)


def _paired_saved(*arguments: Any) -> tuple[Array, Any]:
    return paired_matmat(*arguments), arguments


def _paired_backward(saved: Any, out_bar: Array) -> tuple[Any, ...]:
    layout, transpose, scale_out, scale_in, x = saved
    single = isinstance(layout, Bucket)
    buckets = (layout,) if single else layout.buckets
    # None in place of an array: no gradient.
    nothing: Any = None

    def product(weights: tuple[Any, ...]) -> Array:
        filled = tuple(
            bucket._replace(weights=w)
            for bucket, w in zip(buckets, weights, strict=True)
        )
        return _apply(filled[0] if single else layout._replace(buckets=filled), x)

    _, pull_back = jax.vjp(product, tuple(bucket.weights for bucket in buckets))
    (weights_bar,) = pull_back(out_bar)
    bars = tuple(Bucket(nothing, w) for w in weights_bar)
    layout_bar = bars[0] if single else Slots(bars, nothing, nothing, nothing)
    x_bar = scale_in[:, None] * _apply(transpose, scale_out[:, None] * out_bar)
    return layout_bar, None, None, None, x_bar


paired_matmat.defvjp(_paired_saved, _paired_backward)


def slots_cost(slots: Slots, r: int, itemsize: int) -> tuple[int, int, int]:
    """Flops, bytes of the layout, and bytes of work space of one product."""
    entries = sum(bucket.indices.size for bucket in slots.buckets)
    pieces = 1 + sum(bucket.indices.shape[1] for bucket in slots.buckets)
    weighted = sum(b.indices.size for b in slots.buckets if b.weights is not None)
    numbers = slots.position.size + 2 * slots.extra_rows.size
    layout = 4 * (entries + numbers) + itemsize * weighted
    # The results of the buckets, side by side before rows are put in order.
    return 2 * entries * r, layout, itemsize * pieces * r
