"""Sparse matrix times tall block, in the layout that XLA is fast with.

Rows are cut into pieces, which are sorted by length and taken in slices of equal size;
a slice is stored slot by slot, as many as its longest piece has entries. A product adds
up slots: `total += weight[j][:, None] * x[index[j]]`, which XLA fuses into one loop
without a temporary. Gathering into a 3-d array and reducing it, scatters of entries and
segment sums are several times slower on CPU and take gigabytes.

A turn adds a few slots of one slice. All slices take their first turn, then all their
second: the entries of a row are in order of their columns, so that turns after each
other read the same part of the block, which is in cache then.

Shapes follow from the numbers of rows and entries: the length of a piece and the size
of a slice do, and with them how many slots and turns there are at most, whatever the
degrees. Which slots a turn takes is data. So matrices of like sizes share a program,
and there is one loop in it, however uneven the rows are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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

# Pieces are at most so long, or some times the mean degree, whichever is less.
_LONGEST, _SHORTEST, _TIMES_MEAN = 512, 4, 4
_SLICES = 16  # about so many of them, unless they would be too small or too large
_SMALLEST, _LARGEST = 64, 2048  # pieces in a slice
_CHUNK = 256  # further pieces that are added to their rows at a time
_STEPS = ((12, 8), (6, 4), (2, 2))  # from this mean degree on, slots at a time
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
        indices: which row of the block each entry multiplies, shape (l, c): slots of c
            pieces of rows, those of each slice in turn.
        weights: the entries, 0 in unused slots, shape (l, c).
        turns: of each turn its first slot, the end of its slice's slots and the number
            of the slice, shape (t, 3).
        rows: the row that each piece is of, n where there is none, shape (s, c).
        first: which of all pieces is the first of a row, shape (n,); of an empty row,
            one that has no entries.
        further: which are no row's first, shape (e,); out of range where there is none.
        counts: how many turns there are, and how many further pieces, shape (2,).
        step: how many slots are added at a time.
    """

    indices: Int[Array, "l c"]
    weights: Inexact[Array, "l c"]
    turns: Int[Array, "t 3"]
    rows: Int[Array, "s c"]
    first: Int[Array, " n"]
    further: Int[Array, " e"]
    counts: Int[Array, " 2"]
    step: Static


class _Sizes(NamedTuple):
    """What follows from the numbers of rows and of entries.

    Attributes:
        length: of a piece, at most.
        step: slots that are added at a time.
        pieces: in a slice.
        slices: how many hold all pieces.
        slots: how many there are at most.
        turns: how many there are at most.
        further: how many pieces that are not the first of a row there are at most.
    """

    length: int
    step: int
    pieces: int
    slices: int
    slots: int
    turns: int
    further: int


def _sizes(num_rows: int, num_entries: int) -> _Sizes:
    """Of a layout; of a few numbers of entries, so that like ones share a program.

    Slices are sorted: the longest piece of one is no longer than any of the one before,
    so that the sum of longest pieces times the size of a slice is at most all entries
    and one slice of pieces of full length.
    """
    # Five binary digits of the number are kept: at most a sixteenth more slots.
    unit = 2 ** max(0, num_entries.bit_length() - 5)
    entries = max(1, -(-num_entries // unit) * unit)
    mean = entries / num_rows
    # A slice of pieces of full length is to be a small share of all entries.
    length = min(_LONGEST, math.ceil(_TIMES_MEAN * mean), entries // (16 * _SMALLEST))
    length = max(_SHORTEST, length)
    step = next((size for least, size in _STEPS if mean >= least), 1)
    # A row of k entries has ⌈k / length⌉ pieces; all together have no more than this,
    # whatever their degrees.
    further = entries // length
    places = num_rows + further
    pieces = places // (_SLICES * _SMALLEST) * _SMALLEST
    pieces = min(_LARGEST, max(_SMALLEST, pieces))
    slices = -(-places // pieces)
    slots = -(-entries // pieces) + length
    # A slice's last turn may be a short one.
    turns = slots // step + slices
    further = max(1, -(-further // _CHUNK)) * _CHUNK
    return _Sizes(length, step, pieces, slices, slots, turns, further)


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
    sizes = _sizes(num_rows, len(rows))
    degrees = np.bincount(rows, minlength=num_rows)
    first_entry = np.cumsum(degrees) - degrees
    num_pieces = -(-degrees // sizes.length)
    first_piece = np.cumsum(num_pieces) - num_pieces
    # (pieces,) from here on. An empty row has none, and keeps the 0 that a product
    # starts from.
    row = np.repeat(np.arange(num_rows), num_pieces)
    offset = (np.arange(len(row)) - first_piece[row]) * sizes.length
    length = np.minimum(degrees[row] - offset, sizes.length)

    # Longest first: each slice is as long as its longest piece.
    order = np.argsort(-length, kind="stable")
    # In a slice by row, so that the sums are read in order.
    order = order[np.lexsort((row[order], np.arange(len(row)) // sizes.pieces))]
    places = (sizes.slices, sizes.pieces)
    lengths, entries = np.zeros((2, *places), np.int64)
    lengths.flat[: len(row)] = length[order]
    entries.flat[: len(row)] = (first_entry[row] + offset)[order]
    rows_of = np.full(places, num_rows, np.int32)
    rows_of.flat[: len(row)] = row[order]
    starts = np.cumsum(np.append(0, lengths.max(axis=1)))
    shape = (sizes.slots, sizes.pieces)
    index, weight = np.zeros(shape, np.int32), np.zeros(shape, weights.dtype)
    for number in np.flatnonzero(np.diff(starts)):
        begin, end = starts[number : number + 2]
        slot = np.arange(end - begin)[:, None]
        used = slot < lengths[number][None, :]
        entry = np.where(used, entries[number][None, :] + slot, 0)
        index[begin:end] = np.where(used, columns[entry], 0)
        weight[begin:end] = np.where(used, weights[entry], 0)
    turns, num_turns = _turns(starts, sizes)
    place = np.empty(len(row), np.int32)
    place[order] = np.arange(len(row))
    # Where a row is empty there are fewer pieces than places, and the last has none.
    first = np.full(num_rows, rows_of.size - 1, np.int32)
    first[degrees > 0] = place[offset == 0]
    others = place[offset > 0]
    further = np.full(sizes.further, rows_of.size, np.int32)
    further[: len(others)] = others
    counts = np.array([num_turns, len(others)], np.int32)
    # Not `jnp.asarray`, which compiles a program for each shape.
    arrays = jax.device_put((index, weight, turns, rows_of, first, further, counts))
    return Slots(*arrays, step=Static(sizes.step))


def _turns(starts: np.ndarray, sizes: _Sizes) -> tuple[np.ndarray, int]:
    """The turns in order, and how many of them there are."""
    num_turns = -(-np.diff(starts) // sizes.step)
    number = np.repeat(np.arange(sizes.slices), num_turns)
    of_slice = np.arange(len(number)) - (np.cumsum(num_turns) - num_turns)[number]
    begin = starts[number] + of_slice * sizes.step
    turns = np.zeros((sizes.turns, 3), np.int32)
    order = np.argsort(of_slice, kind="stable")
    turns[: len(order)] = np.stack([begin, starts[number + 1], number], axis=1)[order]
    return turns, len(order)


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


@jax.custom_vjp
def slots_matmat(slots: Slots, x: Inexact[Array, "m r"]) -> Inexact[Array, "n r"]:
    """The sparse matrix times a block, shape (n, r).

    Gradients, in reverse mode only, slot by slot, as those of `sum_slots`.
    """
    return _multiply(slots, x)


def _multiply(slots: Slots, x: Array) -> Array:
    _, _, turns, rows_of, first, further, counts, _ = slots
    pieces = rows_of.shape[1]

    def add_turn(turn: Array, sums: Array) -> Array:
        place = turns[turn, 2] * pieces
        total = jax.lax.dynamic_slice_in_dim(sums, place, pieces)
        for index, weight in _slots_of(slots, turn):
            total = total + weight[:, None] * _rows(x, index)
        # In one loop with what writes it, XLA would take one core for both.
        total = jax.lax.optimization_barrier(total)
        return jax.lax.dynamic_update_slice_in_dim(sums, total, place, axis=0)

    # How often is data, so that the loops are a `while`, which JAX does not reverse:
    # hence the rule for gradients below.
    sums = jnp.zeros((rows_of.size, x.shape[1]), x.dtype)
    sums = jax.lax.fori_loop(0, counts[0], add_turn, sums)

    def add_further(chunk: Array, out: Array) -> Array:
        places = jax.lax.dynamic_slice_in_dim(further, chunk * _CHUNK, _CHUNK)
        rows = rows_of.reshape(-1).at[places].get(mode="fill", fill_value=len(out))
        more = sums.at[places].get(mode="fill", fill_value=0)
        return out.at[rows].add(more, mode="drop")

    chunks = -(-counts[1] // _CHUNK)
    return jax.lax.fori_loop(0, chunks, add_further, _rows(sums, first))


def _slots_of(slots: Slots, turn: Array) -> Iterator[tuple[Array, Array]]:
    """Indices and weights of each slot of a turn, shape (c,)."""
    begin, end = slots.turns[turn, 0], slots.turns[turn, 1]
    for j in range(slots.step.value):
        # What a last turn sees of the next slice counts as unused.
        there = begin + j < end
        index = jnp.where(there, slots.indices[begin + j], 0)
        yield index, jnp.where(there, slots.weights[begin + j], 0)


def _slots_matmat_saved(slots: Any, x: Any) -> tuple[Array, Any]:
    wants = Static((slots.weights.perturbed, x.perturbed))
    slots, x = jax.tree.map(lambda primal: primal.value, (slots, x))
    return _multiply(slots, x), (slots, x, wants)


def _slots_matmat_backward(saved: Any, out_bar: Any) -> tuple[Any, Array | None]:
    slots, x, wants = saved
    if isinstance(out_bar, SymbolicZero):
        return None, None
    wants_weights, wants_x = wants.value
    _, _, turns, rows_of, _, _, counts, _ = slots

    def add_turn(turn: Array, bars: tuple[Array, Array]) -> tuple[Array, Array]:
        weights_bar, x_bar = bars
        begin, end, number = turns[turn]
        # Of each piece, the cotangent of its row.
        of_pieces = out_bar.at[rows_of[number]].get(mode="fill", fill_value=0)
        for j, (index, weight) in enumerate(_slots_of(slots, turn)):
            if wants_weights:
                product = (of_pieces * x[index]).sum(axis=1)
                # What is seen of the next slice is its own to set.
                slot = jnp.where(begin + j < end, begin + j, slots.indices.shape[0])
                weights_bar = weights_bar.at[slot].set(product, mode="drop")
            if wants_x:
                x_bar = x_bar.at[index].add(weight[:, None] * of_pieces)
        return weights_bar, x_bar

    bars = (jnp.zeros_like(slots.weights), jnp.zeros_like(x))
    weights_bar, x_bar = jax.lax.fori_loop(0, counts[0], add_turn, bars)
    slots_bar = _nothing(slots)._replace(weights=weights_bar)
    return slots_bar if wants_weights else None, x_bar if wants_x else None


slots_matmat.defvjp(_slots_matmat_saved, _slots_matmat_backward, symbolic_zeros=True)


def _nothing(layout: Any) -> Any:
    """None in place of each array: no gradient."""
    return type(layout)(*(None,) * len(layout))


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
    # By the weights of `layout` alone: the transpose holds the same entries again.
    _, pull_back = jax.vjp(
        lambda weights: _apply(layout._replace(weights=weights), x), layout.weights
    )
    layout_bar = _nothing(layout)._replace(weights=pull_back(out_bar)[0])
    x_bar = scale_in[:, None] * _apply(transpose, scale_out[:, None] * out_bar)
    return layout_bar, None, None, None, x_bar


paired_matmat.defvjp(_paired_saved, _paired_backward)


def slots_cost(slots: Slots, r: int, itemsize: int) -> tuple[int, int, int]:
    """Flops, bytes of the layout, and bytes of work space of one product."""
    integers = jax.tree.leaves(slots._replace(weights=None))
    layout = 4 * sum(array.size for array in integers)
    layout += itemsize * slots.weights.size
    # The sums of all pieces, before they are taken to their rows.
    work = itemsize * slots.rows.size * r
    return 2 * slots.indices.size * r, layout, work
