"""How the entries of a sparse matrix lie on devices: made on the host, from numbers.

All devices run one program, so their layouts have one shape, that of the fullest. In a
ring the block that a device starts with has a layout of its own, and so have its two
neighbours: data that lie in order have most of their entries there. Rows and columns
that would make some block much fuller than others are hubs, and kept apart.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.types import Int, Static
from contexture_jax.operators.sharded._buckets import (
    WIDEST,
    Entries,
    ShardBucket,
    alike_buckets,
    bucket_of_rows,
    by_step,
    even_buckets,
    fullest,
    make_buckets,
)
from contexture_jax.operators.sharded._common import padded_size
from contexture_jax.operators.sharded._exchange import (
    Exchange,
    exchange_of,
    pays,
    rounds_of,
)

__all__ = [
    "Hubs",
    "Layout",
    "arrange",
    "choose_hubs",
    "deals_to",
    "even_layout",
    "goes_round",
    "lay_out",
    "lay_out_both",
]

# Blocks of columns are left as they are while none has more than this of the mean, and
# hubs are taken out of them until none has more than that.
_UNEVEN, _EVEN = 1.25, 1.1
# Rows and columns are dealt where parts as large as the fullest have room for more than
# so many times the entries, and than so many times the room after that.
_ROOMY, _DEALING = 1.5, 1.25


class Hubs(NamedTuple):
    """The entries of hubs, which stay where the other end is: no block goes round.

    One sum over the devices brings the functions of hubs among the columns to all, and
    adds up those of hubs among the rows.

    Attributes:
        taken: which row of its block each hub among the columns is, shape (k, h); past
            the end on devices that do not have it.
        given: likewise of those among the rows, shape (k, g).
        gather: entries in hubs among the columns; indices are numbers of hubs.
        reduce: entries in hubs among the rows; rows are numbers of hubs.
    """

    taken: Int[Any, "k h"]
    given: Int[Any, "k g"]
    gather: tuple[ShardBucket, ...]
    reduce: tuple[ShardBucket, ...]


class Layout(NamedTuple):
    """A matrix whose rows are cut over devices, by the block of columns it meets.

    Attributes:
        own: the entries in the block that a device starts with; all of them where
            columns are not cut, or where blocks are brought together.
        first: those in the block that comes first.
        others: those in the blocks that come after it, with an axis of steps.
        last: those in the block that comes last, which goes on to nobody.
        hubs: those of hubs; None: there are none.
        exchange: those in all blocks but the own, in place of a ring; None: a ring.
        is_joint: whether two devices bring both blocks together. Static.
    """

    own: tuple[ShardBucket, ...]
    first: tuple[ShardBucket, ...] = ()
    others: tuple[ShardBucket, ...] = ()
    last: tuple[ShardBucket, ...] = ()
    hubs: Hubs | None = None
    exchange: Exchange | None = None
    is_joint: Static = Static(value=False)

    def num_told(self, share: int) -> int:
        """Rows that a device tells at a time; in a ring its share."""
        if self.exchange is None:
            return share
        return self.exchange.send.shape[-1]

    @property
    def buckets(self) -> list[ShardBucket]:
        """All of them."""

        def is_bucket(node: Any) -> bool:
            return isinstance(node, ShardBucket)

        return list(filter(is_bucket, jax.tree.leaves(self, is_leaf=is_bucket)))


def choose_hubs(number: np.ndarray, share: int, num_devices: int) -> np.ndarray:
    """The columns without which the blocks of columns hold about as much as each other.

    None where they do so with all. At most a quarter of a block, which is what each
    device has of them all then.

    Args:
        number: the column of each entry, shape (nnz,).
        share: columns in a block.
        num_devices: blocks.

    Returns:
        Their numbers, ascending.
    """
    if _is_even(number, share, num_devices):
        return number[:0]
    degrees = np.bincount(number, minlength=share * num_devices)
    # (k, share): the fullest columns of each block first.
    order = np.argsort(-degrees.reshape(num_devices, share), axis=1, kind="stable")
    sizes = np.take_along_axis(degrees.reshape(num_devices, share), order, axis=1)
    # (k, share + 1): what is left of a block without the first ones.
    left = np.cumsum(sizes[:, ::-1], axis=1)[:, ::-1]
    left = np.pad(left, ((0, 0), (0, 1)))
    counts, most = np.zeros(num_devices, np.int64), left[:, 0].max()
    blocks = np.arange(num_devices)
    while most > _EVEN * left[blocks, counts].mean():
        # As few of each block as leave it no more than a little less.
        new = (left > most / _EVEN).sum(axis=1)
        if new.sum() > share // 4:
            break
        counts, most = new, left[blocks, new].max()
    block, place = np.nonzero(np.arange(share) < counts[:, None])
    return np.sort(block * share + order[block, place])


class Arrangement(NamedTuple):
    """Where rows and columns go, so that devices meet as many entries in each step.

    Attributes:
        rows: the row of each entry as rows are dealt, shape (nnz,).
        columns: likewise.
        share: rows and columns of a device then.
        hubs: numbers of hubs among rows and among columns then, ascending.
        masks: which entries are kept with a hub among rows, and among columns.
        dealt: whether they are dealt out.
    """

    rows: np.ndarray
    columns: np.ndarray
    share: tuple[int, int]
    hubs: tuple[np.ndarray, np.ndarray]
    masks: tuple[np.ndarray, np.ndarray]
    dealt: bool

    def room(self, num_devices: int) -> int:
        """Entries that a layout has room for: steps that are alike have one size."""
        k, inside = num_devices, ~(self.masks[0] | self.masks[1])
        home, visitor = (
            x[inside] // share for x, share in zip(self[:2], self.share, strict=True)
        )
        counts = np.bincount(home * k + visitor, minlength=k * k).reshape(k, k)
        # (k, k): what device i meets after t hops.
        steps = np.arange(k)[:, None] + np.arange(k)
        fullest = np.take_along_axis(counts, steps % k, axis=1).max(axis=0)
        alike = fullest[2:-1]
        one_by_one = fullest.sum() - alike.sum()
        filled = one_by_one + len(alike) * alike.max(initial=0)
        return int(k * filled + np.count_nonzero(~inside))


def arrange(
    rows: np.ndarray, columns: np.ndarray, share: tuple[int, int], num_devices: int
) -> Arrangement:
    """Hubs, and whether rows and columns are dealt out like cards.

    Where blocks lie evenly but for hubs they are not: that takes two hops. Columns that
    are sorted by how often they are met, and clusters over several devices, are.

    Args:
        rows: the row of each entry, shape (nnz,).
        columns: likewise.
        share: rows and columns of a device.
        num_devices: k.
    """
    plain = _arranged(rows, columns, share, num_devices)
    room = plain.room(num_devices)
    if room <= _ROOMY * len(rows):
        return plain
    (rows, one), (columns, other) = (
        _dealt(number, size, num_devices)
        for number, size in zip((rows, columns), share, strict=True)
    )
    dealt = _arranged(rows, columns, (one, other), num_devices, dealt=True)
    return dealt if _DEALING * dealt.room(num_devices) < room else plain


def _arranged(
    rows: np.ndarray,
    columns: np.ndarray,
    share: tuple[int, int],
    num_devices: int,
    *,
    dealt: bool = False,
) -> Arrangement:
    hubs_a = choose_hubs(columns, share[1], num_devices)
    in_a = np.isin(columns, hubs_a)
    # Of what hubs among the columns leave.
    hubs_x = choose_hubs(rows[~in_a], share[0], num_devices)
    in_x = ~in_a & np.isin(rows, hubs_x)
    return Arrangement(rows, columns, share, (hubs_x, hubs_a), (in_x, in_a), dealt)


def _dealt(number: np.ndarray, share: int, num_devices: int) -> tuple[np.ndarray, int]:
    """Where rows go that are dealt out, and how many a device then has."""
    home, place = np.divmod(number, share)
    turn, card = np.divmod(place, num_devices)
    # What a device gets of each other.
    hand = -(-share // num_devices)
    first = deals_to(home.astype(np.uint32), turn.astype(np.uint32), num_devices)
    owner = (card + first) % num_devices
    return owner * hand * num_devices + home * hand + turn, hand * num_devices


def deals_to(device: Any, turn: Any, num_devices: int) -> Any:
    """Which device gets the first row of a turn: a hash, so that no order survives."""
    h = device * np.uint32(0x9E3779B1) + turn * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return ((h ^ (h >> np.uint32(13))) % np.uint32(num_devices)).astype(np.int32)


def _is_even(number: np.ndarray, share: int, num_devices: int) -> bool:
    sizes = np.bincount(number // share, minlength=num_devices)
    return bool(sizes.max() <= _UNEVEN * sizes.mean())


def lay_out(
    entries: Entries,
    num_devices: int,
    share: tuple[int, int],
    hubs: tuple[np.ndarray, np.ndarray] | None = None,
    masks: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    joins: bool = False,
) -> Layout:
    """Cut entries by device and step of the ring, each part in buckets. Of NumPy.

    Args:
        entries: all of them.
        num_devices: k.
        share: rows and columns of a device.
        hubs: numbers of hubs among the columns and among the rows, ascending; None:
            none.
        masks: which entries are kept with either.
        joins: whether two devices bring both blocks together, where all rows have as
            many entries as each other.
    """
    k, (num_rows, num_columns) = num_devices, share
    apart = None
    if hubs is not None and masks is not None and any(map(len, hubs)):
        (taken, given), (in_taken, in_given) = hubs, masks
        one, other = entries.where(in_taken), entries.where(in_given)
        entries = entries.where(~(in_taken | in_given))
        place = np.searchsorted(taken, one.visitor * num_columns + one.column)
        target = np.searchsorted(given, other.home * num_rows + other.row)
        apart = Hubs(
            _owned(taken, num_columns, k),
            _owned(given, num_rows, k),
            make_buckets(one.home, one.row, place, one.weight, k, num_rows),
            make_buckets(
                other.visitor, target, other.column, other.weight, k, len(given)
            ),
        )
    there = exchange_of(entries, k, share) if hubs is not None else None
    if there is not None:
        here = entries.where(entries.visitor == entries.home)
        own = make_buckets(here.home, here.row, here.column, here.weight, k, num_rows)
        return Layout(own, hubs=apart, exchange=there)
    # After t hops device i has the block of i + t.
    step = (entries.visitor - entries.home) % k
    if joins and k == 2:
        # Where pieces are rows nothing has to be added to a row. Otherwise a block that
        # is met alone is the smaller one, and more of it is in cache.
        column = entries.visitor * num_columns + entries.column
        line = entries.home, entries.row
        alike = bucket_of_rows(*line, column, entries.weight, k, num_rows)
        if alike is not None:
            return Layout((alike,), hubs=apart, is_joint=Static(value=True))

    def part(first: int, length: int) -> tuple[ShardBucket, ...]:
        if length < 1:
            return ()
        here = (step >= first) & (step < first + length)
        some = entries.where(here)
        # All groups have the shape of the fullest: one program for all devices.
        group = some.home * length + (step[here] - first)
        return make_buckets(
            group, some.row, some.column, some.weight, k * length, num_rows
        )

    # Stacked for a scan; the first two and the last step stand apart, of other sizes.
    return Layout(
        part(0, 1),
        part(1, 1) if k > 2 else (),
        by_step(part(2, k - 3), k),
        part(k - 1, 1) if k > 1 else (),
        apart,
    )


def goes_round(shape: tuple[int, int], num_devices: int) -> bool:
    """Whether functions of A are cut: m is more than a device has of n."""
    return shape[1] > padded_size(shape[0], num_devices) // num_devices


def lay_out_both(
    rows: np.ndarray,
    columns: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
    num_devices: int,
    dtype: Any,
    *,
    joins: bool = False,
) -> tuple[Layout, Layout, bool]:
    """A matrix and its transpose, of NumPy, and whether they are dealt.

    Args:
        rows: row numbers, shape (nnz,), int64.
        columns: column numbers, likewise.
        weights: entries of the matrix, and of the transpose.
        shape: (n, m).
        num_devices: k.
        dtype: of the weights as they are stored.
        joins: whether two devices bring both blocks together, as on a CPU, where they
            are in one memory: nothing goes on while they multiply.
    """
    k, m = num_devices, shape[1]
    share_x, share_a = (padded_size(size, k) // k for size in shape)
    forward, backward = (weight.astype(dtype) for weight in weights)
    home, row = np.divmod(rows, share_x)
    if not goes_round(shape, k):
        there = Entries(home, home, row, columns, forward)
        back = Entries(home, home, columns, row, backward)
        flat = lay_out(there, k, (share_x, m)), lay_out(back, k, (m, share_x))
        return *flat, False
    placed = arrange(rows, columns, (share_x, share_a), k)
    (home, row), (visitor, column) = (
        np.divmod(number, share)
        for number, share in zip(placed[:2], placed.share, strict=True)
    )
    there = Entries(home, visitor, row, column, forward)
    back = Entries(visitor, home, column, row, backward)
    (share_x, share_a), (hubs_x, hubs_a) = placed.share, placed.hubs
    in_x, in_a = placed.masks
    lay = functools.partial(lay_out, num_devices=k, joins=joins)
    # Of a layout its columns, which are taken, come first.
    return (
        lay(there, share=(share_x, share_a), hubs=(hubs_a, hubs_x), masks=(in_a, in_x)),
        lay(back, share=(share_a, share_x), hubs=(hubs_x, hubs_a), masks=(in_x, in_a)),
        placed.dealt,
    )


def _owned(numbers: np.ndarray, share: int, num_devices: int) -> np.ndarray:
    """Where in its share each device has some rows; past the end where it has not."""
    is_own = numbers // share == np.arange(num_devices)[:, None]
    return np.where(is_own, numbers % share, share).astype(np.int32)


def even_layout(
    share: tuple[int, int],
    degree: float,
    most: float,
    num_devices: int,
    dtype: Any,
    *,
    alike: bool = False,
    joins: bool = False,
) -> Layout:
    """The shapes of a layout in a ring whose entries lie evenly, from sizes alone.

    The entries of a row in one block are taken as Poisson, once with all rows of the
    mean degree, once with as few as can be of the largest. Points are among their own
    neighbours, in the own block.

    Args:
        share: rows and columns of a device.
        degree: mean entries of a row.
        most: entries of a row at most.
        num_devices: k.
        dtype: of the weights.
        alike: whether all rows have as many entries as each other.
        joins: as of `lay_out`.
    """
    k, num_rows = num_devices, share[0]
    rows = [(float(num_rows), degree), (num_rows * degree / most, most)]
    joins = joins and k == 2
    if alike and (joins or k == 1) and degree <= WIDEST:
        own = alike_buckets((k,), num_rows, int(degree), dtype)
        return Layout(own, is_joint=Static(value=joins))

    def buckets(lead: tuple[int, ...], own: int) -> Any:
        cases = [(n, (d - own) / k) for n, d in rows]
        return even_buckets(lead, num_rows, cases, own, dtype)

    own = buckets((k,), 1)
    # What a device has in one other block, and how many rows of it that is.
    met = num_rows * (degree - 1) / k
    needed = share[1] * -np.expm1(-met / share[1])
    number = int(needed + fullest(k * k) * needed**0.5) + 1
    if pays(number, share[1], k):
        rounds, size = rounds_of(number, share[1], k)
        # Of all other blocks together, a part of each in a round.
        cases = [(n, (d - 1) * (k - 1) / k / rounds) for n, d in rows]
        there = Exchange(
            jax.ShapeDtypeStruct((k, rounds, k * size), np.int32),
            even_buckets((k, rounds), num_rows, cases, 0, dtype),
        )
        return Layout(own, exchange=there)
    return Layout(
        own,
        buckets((k,), 0) if k > 2 else (),
        buckets((k, k - 3), 0) if k > 3 else (),
        buckets((k,), 0) if k > 1 else (),
    )
