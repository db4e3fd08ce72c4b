"""Rows of sparse entries in pieces of few widths, for each device as many of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.types import Array, Float, Int
from contexture_jax.kernels import Bucket, add_rows, sum_slots

__all__ = [
    "WIDEST",
    "Entries",
    "ShardBucket",
    "add_buckets",
    "alike_buckets",
    "bucket_of_rows",
    "by_step",
    "even_buckets",
    "fullest",
    "make_buckets",
    "pieces_of",
]

# Rows are cut into pieces of the first widths while they are at least as long; what is
# left becomes one piece of the narrowest of the last widths that holds it.
_WHOLE = (512, 64, 16)
_WIDTHS = (1, 2, 4, 8, 16, 64, 512)
# But a piece each, as wide as the longest row, where that is no wider than this, and at
# least this much of the slots is used: as lists of neighbours, and classes.
WIDEST, _USED = 128, 0.9


class ShardBucket(NamedTuple):
    """Pieces of rows with the same number of slots, for each device.

    A further axis after the first numbers the steps of a ring, or the rounds of an
    exchange, where there are several.

    Attributes:
        indices: which row of the block each entry multiplies, shape (k, width, pieces).
        weights: the entries, 0 in unused slots, the same shape.
        rows: the row that each piece adds to, shape (k, pieces); unused ones lie past
            the end. None: the pieces are the rows, in order.
    """

    indices: Int[Any, "..."]
    weights: Float[Any, "..."]
    rows: Int[Any, "..."] | None

    def map(self, function: Callable[[Any], Any]) -> ShardBucket:
        """With a function of each array."""
        return jax.tree.map(function, self)


class Entries(NamedTuple):
    """Entries by the devices of their row and of their column, each of shape (nnz,).

    Attributes:
        home: the device of the row.
        visitor: that of the column; of the row where columns are not cut.
        row: within the share of that device.
        column: likewise.
        weight: floating.
    """

    home: np.ndarray
    visitor: np.ndarray
    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray

    def where(self, mask: np.ndarray) -> Entries:
        """Some of them."""
        return Entries(*(x[mask] for x in self))


def bucket_of_rows(
    group: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    weight: np.ndarray,
    num_groups: int,
    num_rows: int,
) -> ShardBucket | None:
    """The bucket whose pieces are the rows, where these are about equally long.

    None: some row is far longer than others.
    """
    # Most rows of many groups may be empty: they are not counted then.
    if not len(row) or len(row) < _USED * num_groups * num_rows:
        return None
    key = group * num_rows + row
    degrees = np.bincount(key, minlength=num_groups * num_rows)
    shape = (num_groups, int(degrees.max()), num_rows)
    if shape[1] > WIDEST or len(key) < _USED * np.prod(shape):
        return None
    order = np.argsort(key, kind="stable")
    owner, target = np.divmod(key[order], num_rows)
    slot = np.arange(len(key)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    indices: Any = np.zeros(shape, np.int32)
    weights: Any = np.zeros(shape, weight.dtype)
    indices[owner, slot, target] = column[order]
    weights[owner, slot, target] = weight[order]
    return ShardBucket(indices, weights, None)


def make_buckets(
    group: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    weight: np.ndarray,
    num_groups: int,
    num_rows: int,
) -> tuple[ShardBucket, ...]:
    """Buckets with a leading axis of groups, as wide as the fullest group needs."""
    alike = bucket_of_rows(group, row, column, weight, num_groups, num_rows)
    if alike is not None:
        return (alike,)
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
        # Pieces that are not used add past the end, where sums drop them.
        rows: Any = np.full((num_groups, shape[2]), num_rows, np.int32)
        rows[owner, place] = target
        # By slots, of which there are few; entries would be a loop of Python over all.
        for slot in range(width):
            used = length[members] > slot
            entry = start[members[used]] + slot
            indices[owner[used], slot, place[used]] = column[entry]
            weights[owner[used], slot, place[used]] = weight[entry]
        buckets.append(ShardBucket(indices, weights, rows))
    return tuple(buckets)


def add_buckets(
    tile: int,
    out: Float[Array, "n r"],
    buckets: tuple[ShardBucket, ...],
    x: Float[Array, "m r"],
) -> Float[Array, "n r"]:
    """Add the product of the buckets of one device with a block.

    Args:
        tile: pieces that are added at a time.
        out: what the product is added to.
        buckets: without an axis of devices.
        x: the block.
    """

    def add(bucket: ShardBucket, out: Array) -> Array:
        sums = sum_slots(Bucket(bucket.indices, bucket.weights), x)
        # A long row is several pieces, which add up.
        return out + sums if bucket.rows is None else add_rows(out, bucket.rows, sums)

    for bucket in buckets:
        pieces = bucket.indices.shape[-1]
        # Where pieces are rows their sums are added up where they go.
        whole, rest = divmod(pieces, tile) if bucket.rows is not None else (0, pieces)

        def add_tile(number: Array, out: Array, bucket: ShardBucket = bucket) -> Array:
            cut = functools.partial(
                jax.lax.dynamic_slice_in_dim,
                start_index=number * tile,
                slice_size=tile,
                axis=-1,
            )
            return add(bucket.map(cut), out)

        if whole:
            out = jax.lax.fori_loop(0, whole, add_tile, out)
        if rest:
            left = whole * tile
            out = add(bucket.map(lambda x, left=left: x[..., left:]), out)
    return out


def by_step(
    buckets: tuple[ShardBucket, ...], num_devices: int
) -> tuple[ShardBucket, ...]:
    """Buckets of groups that are steps of devices, with an axis for each of the two."""
    k = num_devices
    return jax.tree.map(lambda x: x.reshape(k, x.shape[0] // k, *x.shape[1:]), buckets)


def alike_buckets(
    lead: tuple[int, ...], num_rows: int, degree: int, dtype: Any
) -> tuple[ShardBucket, ...]:
    """The shapes of the one bucket of rows that have as many entries as each other.

    Args:
        lead: the axes of devices, and of steps.
        num_rows: of a part.
        degree: entries of a row, `WIDEST` at most.
        dtype: of the weights.
    """
    shape = (*lead, degree, num_rows)
    index, weight = (jax.ShapeDtypeStruct(shape, kind) for kind in (np.int32, dtype))
    return (ShardBucket(index, weight, None),)


def even_buckets(
    lead: tuple[int, ...],
    num_rows: int,
    cases: list[tuple[float, float]],
    own: int,
    dtype: Any,
) -> Any:  # buckets of shapes
    """The shapes of buckets of rows whose lengths are Poisson, from sizes alone.

    Each bucket has the largest number of pieces of all cases, and as many standard
    deviations more as the fullest of all parts is likely to have.

    Args:
        lead: the axes of devices, and of steps.
        num_rows: of a part.
        cases: how many rows there may be, of what mean length.
        own: entries of each row beside those.
        dtype: of the weights.
    """
    counts = np.max([n * pieces_of(mean, own) for n, mean in cases], axis=0)
    # Of p pieces a row the variance is p (1 − p), where p is small.
    spread = np.sqrt(counts * (1.0 - np.minimum(counts / num_rows, 0.5)))
    sizes = np.ceil(counts + fullest(int(np.prod(lead))) * spread).astype(int)
    return tuple(
        ShardBucket(
            jax.ShapeDtypeStruct((*lead, width, size), np.int32),
            jax.ShapeDtypeStruct((*lead, width, size), dtype),
            jax.ShapeDtypeStruct((*lead, size), np.int32),
        )
        for width, size, count in zip(_WIDTHS, sizes.tolist(), counts, strict=True)
        # Of fewer, no device is likely to have one.
        if count * np.prod(lead) > 1
    )


def fullest(num_parts: int) -> float:
    """Standard deviations by which the fullest of some parts is above the mean."""
    return 1.0 + (2.0 * np.log(num_parts)) ** 0.5


def pieces_of(mean: float, own: int) -> np.ndarray:
    """Pieces of each of `_WIDTHS` that a row has on average, its length being Poisson.

    `own` entries come beside.
    """
    top = int(mean + 10.0 * mean**0.5 + 10.0)
    # exp(−λ) λ^l / l!, by logarithms.
    factorials = np.cumsum(np.log(np.maximum(np.arange(top), 1)))
    chance = np.exp(np.arange(top) * np.log(max(mean, 1e-9)) - mean - factorials)
    length, counts = np.arange(top) + own, np.zeros(len(_WIDTHS))
    for width in _WHOLE:
        counts[_WIDTHS.index(width)] += (chance * (length // width)).sum()
        length = length % width
    # The narrowest that holds what is left, of those below the narrowest whole piece.
    which = np.searchsorted(_WIDTHS, length)
    np.add.at(counts, which[length > 0], chance[length > 0])
    return counts
