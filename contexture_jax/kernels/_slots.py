"""Sparse matrix times tall block, in the layout that XLA is fast with.

A slot holds one entry of each of many rows, and a product adds up slots:
`total += weight[:, None] * x[index]`, which XLA fuses into one loop without a
temporary, shared among cores. Gathering into a 3-d array and reducing it, scatters of
entries and segment sums are several times slower on CPU and take gigabytes.

The first entries of all rows are in common slots, as many as most rows have. Entries
are in order of their columns, so that the rows of a slot read one part of the block,
which is in cache then. What longer rows have beyond is cut into pieces, which are
sorted by length and taken in slices of equal size, each with as many slots as its
longest piece has entries; the sums of a slice stay in cache until they are added to
their rows.

Shapes follow from the numbers of rows and entries: the length of a piece and the size
of a slice do, and with them how much room slots take at most, whatever the degrees.
How many slots are common and how many a slice has is data. So matrices of like sizes
share a program, and there are two loops in it, however uneven the rows are.
"""

from __future__ import annotations

import math
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
_SLICES = 32  # about so many of them, unless they would be too small or too large
_SMALLEST, _LARGEST = 64, 2048  # pieces in a slice
_STEPS = ((12, 8), (6, 4), (2, 2))  # from this mean degree on, slots at a time
_UNUSED = 0.22  # of common slots, at most, as a share of all entries
# What a product takes, measured in entries of common slots: an unused place, which
# reads a row that is in cache; an entry of a slice; and adding a piece to its row.
_UNUSED_TIME, _SLICED_TIME, _PIECE_TIME = 0.6, 1.2, 10
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
        indices: which row of the block each entry multiplies, shape (l,): common slots,
            n places each, then those of each slice in turn, c places each.
        weights: the entries, 0 in unused places, shape (l,).
        counts: how many slots are common, and how many slices have any, shape (2,).
        starts: the first place of each slice and the end of the last, shape (s + 1,).
        rows: the row that each piece is of, n where there is none, shape (s, c).
        num_rows: n.
        step: how many slots are added at a time.
    """

    indices: Int[Array, " l"]
    weights: Inexact[Array, " l"]
    counts: Int[Array, " 2"]
    starts: Int[Array, " s1"]
    rows: Int[Array, "s c"]
    num_rows: Static
    step: Static


class _Sizes(NamedTuple):
    """What follows from the numbers of rows and of entries.

    Attributes:
        length: of a piece, at most.
        step: slots that are added at a time.
        pieces: in a slice.
        slices: how many hold all pieces.
        unused: places of common slots that may be unused.
        places: in all slots together, at most.
    """

    length: int
    step: int
    pieces: int
    slices: int
    unused: int
    places: int


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
    # A row of k entries has ⌈k / length⌉ pieces at most; all together have no more
    # than this, whatever their degrees.
    most = num_rows + entries // length
    pieces = most // (_SLICES * _SMALLEST) * _SMALLEST
    pieces = min(_LARGEST, max(_SMALLEST, pieces))
    unused = int(_UNUSED * entries)
    # Each slot is read whole.
    places = max(entries + unused + length * pieces, num_rows)
    return _Sizes(length, step, pieces, -(-most // pieces), unused, places)


def _common_slots(degrees: np.ndarray, unused: int) -> int:
    """How many slots all rows share: those with which a product takes least time."""
    n = len(degrees)
    longest = (int(degrees.sum()) + unused) // n
    # (longest + 1,) from here on: with 0, 1, … slots.
    of_degree = np.bincount(np.minimum(degrees, longest + 1), minlength=longest + 2)
    longer = n - np.cumsum(of_degree)[:-1]
    taken = np.cumsum(np.append(0, longer[:-1]))
    empty = n * np.arange(longest + 1) - taken
    sliced = degrees.sum() - taken
    time = taken + _UNUSED_TIME * empty + _SLICED_TIME * sliced + _PIECE_TIME * longer
    return int(np.argmin(np.where(empty <= unused, time, np.inf)))


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
    index = np.zeros(sizes.places, np.int32)
    weight = np.zeros(sizes.places, weights.dtype)
    common = _common_slots(degrees, sizes.unused)
    slot = np.arange(len(rows)) - first_entry[rows]
    within = slot < common
    place = (slot * num_rows + rows)[within]
    index[place], weight[place] = columns[within], weights[within]

    beyond = np.maximum(degrees - common, 0)
    num_pieces = -(-beyond // sizes.length)
    first_piece = np.cumsum(num_pieces) - num_pieces
    # (pieces,) from here on. A row that has none keeps its sum of common slots.
    row = np.repeat(np.arange(num_rows), num_pieces)
    offset = (np.arange(len(row)) - first_piece[row]) * sizes.length
    length = np.minimum(beyond[row] - offset, sizes.length)
    offset += common

    # Longest first: each slice is as long as its longest piece.
    order = np.argsort(-length, kind="stable")
    # In a slice by row, so that the sums are added in order.
    order = order[np.lexsort((row[order], np.arange(len(row)) // sizes.pieces))]
    shape = (sizes.slices, sizes.pieces)
    lengths, entries = np.zeros((2, *shape), np.int64)
    lengths.flat[: len(row)] = length[order]
    entries.flat[: len(row)] = (first_entry[row] + offset)[order]
    # Row n, which is out of range: what is added to it is dropped.
    rows_of = np.full(shape, num_rows, np.int32)
    rows_of.flat[: len(row)] = row[order]
    num_slots = lengths.max(axis=1)
    starts = np.cumsum(np.append(common * num_rows, num_slots * sizes.pieces))
    used_slices = np.count_nonzero(num_slots)
    for number in range(used_slices):
        slot = np.arange(num_slots[number])[:, None]
        used = slot < lengths[number][None, :]
        entry = np.where(used, entries[number][None, :] + slot, 0)
        places = slice(*starts[number : number + 2])
        index[places] = np.where(used, columns[entry], 0).reshape(-1)
        weight[places] = np.where(used, weights[entry], 0).reshape(-1)
    counts = np.array([common, used_slices], np.int32)
    # Not `jnp.asarray`, which compiles a program for each shape.
    arrays = jax.device_put((index, weight, counts, starts.astype(np.int32), rows_of))
    return Slots(*arrays, num_rows=Static(num_rows), step=Static(sizes.step))


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
    _, _, counts, starts, rows_of, num_rows, _ = slots
    pieces = rows_of.shape[1]

    def add_slice(number: Array, out: Array) -> Array:
        begin, end = starts[number], starts[number + 1]
        total = _sum_of(slots, x, begin, (end - begin) // pieces, pieces)
        # Added and not set: a slice may hold several pieces of a row.
        return out.at[rows_of[number]].add(total, mode="drop")

    out = _sum_of(slots, x, starts[0] * 0, counts[0], num_rows.value)
    return jax.lax.fori_loop(0, counts[1], add_slice, out)


def _sum_of(slots: Slots, x: Array, begin: Array, count: Array, size: int) -> Array:
    """Σ over `count` slots from the place `begin` on, shape (size, r)."""
    step = slots.step.value

    def add_step(turn: Array, total: Array) -> Array:
        for j in range(step):
            slot = turn * step + j
            index, weight = _slot(slots, begin + slot * size, size)
            # What a last step sees beyond counts as unused.
            there = slot < count
            rows = _rows(x, jnp.where(there, index, 0))
            total = total + jnp.where(there, weight, 0)[:, None] * rows
        return total

    # Data, so that the loop is a `while`, which JAX does not reverse: hence the rule
    # for gradients below.
    total = jnp.zeros((size, x.shape[1]), x.dtype)
    return jax.lax.fori_loop(0, -(-count // step), add_step, total)


def _slot(slots: Slots, place: Array, size: int) -> tuple[Array, Array]:
    """Indices and weights, shape (size,)."""
    index = jax.lax.dynamic_slice_in_dim(slots.indices, place, size)
    return index, jax.lax.dynamic_slice_in_dim(slots.weights, place, size)


def _slots_matmat_saved(slots: Any, x: Any) -> tuple[Array, Any]:
    wants = Static((slots.weights.perturbed, x.perturbed))
    slots, x = jax.tree.map(lambda primal: primal.value, (slots, x))
    return _multiply(slots, x), (slots, x, wants)


def _slots_matmat_backward(saved: Any, out_bar: Any) -> tuple[Any, Array | None]:
    slots, x, wants = saved
    if isinstance(out_bar, SymbolicZero):
        return None, None
    wants_weights, wants_x = wants.value
    _, _, counts, starts, rows_of, num_rows, _ = slots

    def add_slot(bars: Any, of_pieces: Array, place: Array) -> tuple[Array, Array]:
        weights_bar, x_bar = bars
        index, weight = _slot(slots, place, len(of_pieces))
        if wants_weights:
            product = (of_pieces * x[index]).sum(axis=1)
            weights_bar = jax.lax.dynamic_update_slice_in_dim(
                weights_bar, product, place, axis=0
            )
        if wants_x:
            x_bar = x_bar.at[index].add(weight[:, None] * of_pieces)
        return weights_bar, x_bar

    def add_slice(number: Array, bars: Any) -> tuple[Array, Array]:
        begin, end = starts[number], starts[number + 1]
        # Of each piece, the cotangent of its row.
        of_pieces = out_bar.at[rows_of[number]].get(mode="fill", fill_value=0)
        size = rows_of.shape[1]
        return jax.lax.fori_loop(
            0,
            (end - begin) // size,
            lambda slot, bars: add_slot(bars, of_pieces, begin + slot * size),
            bars,
        )

    bars = jax.lax.fori_loop(
        0,
        counts[0],
        lambda slot, bars: add_slot(bars, out_bar, slot * num_rows.value),
        (jnp.zeros_like(slots.weights), jnp.zeros_like(x)),
    )
    weights_bar, x_bar = jax.lax.fori_loop(0, counts[1], add_slice, bars)
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
    # The sums of a slice, before they are added to their rows.
    work = itemsize * slots.rows.shape[1] * r
    # Common places that may be unused take little: their entries are in cache.
    entries = int(slots.indices.size / (1 + _UNUSED))
    return 2 * entries * r, layout, work
