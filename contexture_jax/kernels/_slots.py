"""Sparse matrix times tall block, in the layout that XLA is fast with.

A slot holds one entry of each of many rows, and a product adds up slots:
`total += weight[:, None] * x[index]`, which XLA fuses into one loop without a
temporary, shared among cores. Gathering into a 3-d array and reducing it, scatters of
entries and segment sums are several times slower on CPU and take gigabytes.

Rows are cut into pieces of bounded length, which are sorted by length and taken in
tiles of equal size, each with as many slots as its longest piece has entries (sliced
ELLPACK: Kreutzer, Hager, Wellein, Fehske & Bishop 2014). The sums of a tile stay in
cache until they are added to their rows. Entries of a row are in order of their
columns, so that the rows of a slot read one part of the block.

Shapes follow from the numbers of rows and entries: the length of a piece and the size
of a tile do, and with them how much room slots take at most, whatever the degrees. How
many slots a tile has is data. So matrices of like sizes share a program, and there is
one loop in it, however uneven the rows are.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from contexture_jax._core.types import Array, Float, Inexact, Int, Static, short_repr
from contexture_jax.kernels._fused_rows import sum_rows

__all__ = [
    "Bucket",
    "Slots",
    "add_rows",
    "make_slots",
    "paired_matmat",
    "slots_at_a_time",
    "slots_cost",
    "slots_matmat",
    "sum_slots",
]

_SHARE = 0.15  # of all entries: what a tile of pieces of full length has
# Pieces in a tile: on a CPU as many as have their sums in cache; an accelerator starts
# a program for each step of a tile, and is to have few of them.
_SMALLEST, _LARGEST, _LARGEST_THERE = 64, 4096, 65_536
_SHORTEST, _LONGEST = 4, 512  # entries of a piece
# From this mean degree on: slots at a time, and at a time of those that are left over.
_STEPS = ((12, (8, 2)), (4, (4, 1)), (0, (2, 1)))
_VECTOR = 16  # numbers that XLA's scatter adds at a time on a CPU, where they divide r
_UNROLLS = (10, 9, 8)  # slots in one step of the loop: the first that divides the width


@short_repr
class Bucket(NamedTuple):
    """Pieces of rows with the same number of slots, slot-major.

    Attributes:
        indices: which row of the block each entry multiplies, shape (width, pieces).
        weights: the entries, 0 in unused slots, shape (width, pieces); None: all 1.
        implementation: of their sums, as of `by_implementation`.
    """

    indices: Int[Array, "w c"]
    weights: Inexact[Array, "w c"] | None
    implementation: Static = Static("xla")


@short_repr
class Slots(NamedTuple):
    """A sparse (n, m) matrix for products with (m, r) blocks.

    Attributes:
        indices: which row of the block each entry multiplies, shape (l,): the slots of
            each tile in turn, c places each.
        weights: the entries, 0 in unused places, shape (l,).
        starts: the first place of each tile and the end of the last, shape (t + 1,).
        rows: the row that each piece is of, n where there is none, shape (t, c).
        num_tiles: how many have slots, shape ().
        num_rows: n.
        steps: how many slots are added at a time, and how many of those left over.
    """

    indices: Int[Array, " l"]
    weights: Inexact[Array, " l"]
    starts: Int[Array, " t1"]
    rows: Int[Array, "t c"]
    num_tiles: Int[Array, ""]
    num_rows: Static
    steps: Static


class _Sizes(NamedTuple):
    """What follows from the numbers of rows and of entries.

    Attributes:
        length: of a piece, at most; a multiple of the lesser step.
        steps: slots that are added at a time, and of those left over.
        pieces: in a tile.
        tiles: how many hold all pieces.
        places: in all slots together, at most.
    """

    length: int
    steps: tuple[int, int]
    pieces: int
    tiles: int
    places: int


def _sizes(num_rows: int, num_entries: int) -> _Sizes:
    """Of a layout; of a few numbers of entries, so that like ones share a program.

    Tiles are sorted: the longest piece of one is no longer than any of the one before,
    so that the sum of longest pieces times the size of a tile is at most all entries
    and one tile of pieces of full length; and what makes the slots of a tile a multiple
    of the step, where not all its pieces are of full length.
    """
    # Five binary digits of the number are kept: at most a sixteenth more slots.
    unit = 2 ** max(0, num_entries.bit_length() - 5)
    entries = max(1, -(-num_entries // unit) * unit)
    steps = next(sizes for least, sizes in _STEPS if entries >= least * num_rows)
    # Rows of one and a half times the mean degree are whole at least.
    pieces = int(_SHARE * num_rows / 1.5) // _SMALLEST * _SMALLEST
    is_cpu = jax.default_backend() == "cpu"
    pieces = min(_LARGEST if is_cpu else _LARGEST_THERE, max(_SMALLEST, pieces))
    length = min(_LONGEST, max(_SHORTEST, int(_SHARE * entries) // pieces))
    step = steps[1]
    length = -(-length // step) * step
    # A row of k entries has ⌈k / length⌉ pieces at most.
    tiles = -(-(num_rows + entries // length) // pieces)
    places = entries + length * pieces + (step - 1) * (num_rows + pieces)
    return _Sizes(length, steps, pieces, tiles, places)


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
    num_pieces = -(-degrees // sizes.length)
    first_piece = np.cumsum(num_pieces) - num_pieces
    # (pieces,) from here on.
    row = np.repeat(np.arange(num_rows), num_pieces)
    offset = (np.arange(len(row)) - first_piece[row]) * sizes.length
    length = np.minimum(degrees[row] - offset, sizes.length)
    # Longest first; in a tile by row, so that the sums are added in order.
    order = np.argsort(-length, kind="stable")
    order = order[np.lexsort((order, np.arange(len(row)) // sizes.pieces))]
    shape = (sizes.tiles, sizes.pieces)
    longest = np.zeros(shape, np.int64)
    longest.flat[: len(row)] = length[order]
    step = sizes.steps[1]
    num_slots = -(-longest.max(axis=1) // step) * step
    starts = np.cumsum(np.append(0, num_slots * sizes.pieces))
    # Row n, which is out of range: what is added to it is dropped.
    rows_of = np.full(shape, num_rows, np.int32)
    rows_of.flat[: len(row)] = row[order]

    # The first place of each piece.
    tile, within = np.divmod(np.arange(len(row)), sizes.pieces)
    place = np.empty(len(row), np.int64)
    place[order] = starts[tile] + within
    # (nnz,): entries are in the order of pieces, one behind the other in their slots.
    place -= (np.cumsum(length) - length) * sizes.pieces
    place = np.repeat(place, length)
    place += np.arange(0, len(rows) * sizes.pieces, sizes.pieces)
    index = np.zeros(sizes.places, np.int32)
    weight = np.zeros(sizes.places, weights.dtype)
    index[place], weight[place] = columns, weights
    # Not `jnp.asarray`, which compiles a program for each shape.
    arrays = jax.device_put(
        (
            index,
            weight,
            starts.astype(np.int32),
            rows_of,
            np.asarray(np.count_nonzero(num_slots), np.int32),
        )
    )
    return Slots(*arrays, num_rows=Static(num_rows), steps=Static(sizes.steps))


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
            return add_rows(total, bucket.indices[j], rows)

        width = bucket.indices.shape[0]
        x_bar = jax.lax.fori_loop(0, width, scatter, jnp.zeros_like(x))
    return bucket_bar, x_bar


sum_slots.defvjp(_sum_slots_saved, _sum_slots_backward, symbolic_zeros=True)


def _sum_slots_forward(bucket: Bucket, x: Array) -> Array:
    return sum_rows(_sum_slots_by_steps, bucket, x, bucket.implementation.value)


def slots_at_a_time(width: int) -> int:
    """How many of the slots of a bucket are added in one step of the loop."""
    return next((u for u in _UNROLLS if width % u == 0), _UNROLLS[-1])


def _sum_slots_by_steps(bucket: Bucket, x: Array) -> Array:
    width, pieces = bucket.indices.shape
    unroll = slots_at_a_time(width)

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
    def add_tile(number: Array, out: Array) -> Array:
        total = _sum_of(slots, x, slots.starts[number], slots.starts[number + 1])
        # Added and not set: a tile may hold several pieces of a row.
        return add_rows(out, slots.rows[number], total)

    out = jnp.zeros((slots.num_rows.value, x.shape[1]), x.dtype)
    return jax.lax.fori_loop(0, slots.num_tiles, add_tile, out)


def add_rows(
    out: Inexact[Array, "n r"], rows: Int[Array, " c"], sums: Inexact[Array, "c r"]
) -> Inexact[Array, "n r"]:
    """Sums added to their rows, those beyond the last dropped, in vectors of columns.

    Args:
        out: what they are added to.
        rows: the row of each; several may be of one.
        sums: in the order of `rows`.
    """
    r = out.shape[1]
    for first, end in itertools.pairwise(sorted({0, r // _VECTOR * _VECTOR, r})):
        out = out.at[rows, first:end].add(sums[:, first:end], mode="drop")
    return out


def _sum_of(slots: Slots, x: Array, begin: Array, end: Array) -> Array:
    """Σ over the slots of a tile, shape (c, r)."""
    pieces = slots.rows.shape[1]
    # Data, so that the loops are a `while`, which JAX does not reverse: hence the rule
    # for gradients below.
    total = jnp.zeros((pieces, x.shape[1]), x.dtype)
    for step in slots.steps.value:
        number = (end - begin) // (step * pieces)

        def add_step(
            turn: Array, total: Array, begin: Array = begin, step: int = step
        ) -> Array:
            for j in range(step):
                index, weight = _slot(slots, begin + (turn * step + j) * pieces)
                total = total + weight[:, None] * _rows(x, index)
            return total

        total = jax.lax.fori_loop(0, number, add_step, total)
        begin = begin + number * step * pieces
    return total


def _slot(slots: Slots, place: Array) -> tuple[Array, Array]:
    """Indices and weights, shape (c,)."""
    size = slots.rows.shape[1]
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
    pieces = slots.rows.shape[1]

    def add_slot(place: Array, of_pieces: Array, bars: Any) -> tuple[Array, Array]:
        weights_bar, x_bar = bars
        index, weight = _slot(slots, place)
        if wants_weights:
            product = (of_pieces * x[index]).sum(axis=1)
            weights_bar = jax.lax.dynamic_update_slice_in_dim(
                weights_bar, product, place, axis=0
            )
        if wants_x:
            x_bar = add_rows(x_bar, index, weight[:, None] * of_pieces)
        return weights_bar, x_bar

    def add_tile(number: Array, bars: Any) -> tuple[Array, Array]:
        begin, end = slots.starts[number], slots.starts[number + 1]
        # Of each piece, the cotangent of its row.
        of_pieces = out_bar.at[slots.rows[number]].get(mode="fill", fill_value=0)
        return jax.lax.fori_loop(
            0,
            (end - begin) // pieces,
            lambda slot, bars: add_slot(begin + slot * pieces, of_pieces, bars),
            bars,
        )

    nothing = jnp.zeros_like(slots.weights), jnp.zeros_like(x)
    weights_bar, x_bar = jax.lax.fori_loop(0, slots.num_tiles, add_tile, nothing)
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
    # The sums of a tile, before they are added to their rows.
    work = itemsize * slots.rows.shape[1] * r
    # Places that may be unused take little: what they read is in cache.
    entries = int(slots.indices.size / (1 + 2 * _SHARE))
    return 2 * entries * r, layout, work
