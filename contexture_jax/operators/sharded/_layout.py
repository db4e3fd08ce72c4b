"""How the entries of a sparse matrix lie on devices: made on the host, from numbers.

All devices run one program, so their layouts have one shape, that of the fullest. In a
ring the block that a device starts with has a layout of its own, and so have its two
neighbours: data that lie in order have most of their entries there. Rows and columns
that would make some block much fuller than others are hubs, and kept apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.types import Float, Int

__all__ = [
    "Entries",
    "Hubs",
    "Layout",
    "ShardBucket",
    "arrange",
    "choose_hubs",
    "deals_to",
    "even_layout",
    "lay_out",
]

# Rows are cut into pieces of the first widths while they are at least as long; what is
# left becomes one piece of the narrowest of the last widths that holds it.
_WHOLE = (512, 64, 16)
_WIDTHS = (1, 2, 4, 8, 16, 64, 512)

# Blocks of columns are left as they are while none has more than this of the mean, and
# hubs are taken out of them until none has more than that.
_UNEVEN, _EVEN = 1.25, 1.1
# Rows and columns are dealt where parts as large as the fullest have room for more than
# so many times the entries, and than so many times the room after that.
_ROOMY, _DEALING = 1.5, 1.25


class ShardBucket(NamedTuple):
    """Pieces of rows with the same number of slots, for each device.

    A further axis after the first numbers the steps of a ring, where there are several.

    Attributes:
        indices: which row of the block each entry multiplies, shape (k, width, pieces).
        weights: the entries, 0 in unused slots, the same shape.
        rows: the row that each piece adds to, shape (k, pieces); unused ones lie past
            the end.
    """

    indices: Int[Any, "..."]
    weights: Float[Any, "..."]
    rows: Int[Any, "..."]


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
            columns are not cut.
        first: those in the block that comes first.
        others: those in the blocks that come after it, with an axis of steps.
        last: those in the block that comes last, which goes on to nobody.
        hubs: those of hubs; None: there are none.
    """

    own: tuple[ShardBucket, ...]
    first: tuple[ShardBucket, ...] = ()
    others: tuple[ShardBucket, ...] = ()
    last: tuple[ShardBucket, ...] = ()
    hubs: Hubs | None = None

    @property
    def buckets(self) -> list[ShardBucket]:
        """All of them."""

        def is_bucket(node: Any) -> bool:
            return isinstance(node, ShardBucket)

        return list(filter(is_bucket, jax.tree.leaves(self, is_leaf=is_bucket)))


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
) -> Layout:
    """Cut entries by device and step of the ring, each part in buckets. Of NumPy.

    Args:
        entries: all of them.
        num_devices: k.
        share: rows and columns of a device.
        hubs: numbers of hubs among the columns and among the rows, ascending; None:
            none.
        masks: which entries are kept with either.
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
            _make_buckets(one.home, one.row, place, one.weight, k, num_rows),
            _make_buckets(
                other.visitor, target, other.column, other.weight, k, len(given)
            ),
        )
    # After t hops device i has the block of i + t.
    step = (entries.visitor - entries.home) % k

    def part(first: int, length: int) -> tuple[ShardBucket, ...]:
        if length < 1:
            return ()
        here = (step >= first) & (step < first + length)
        some = entries.where(here)
        # All groups have the shape of the fullest: one program for all devices.
        group = some.home * length + (step[here] - first)
        return _make_buckets(
            group, some.row, some.column, some.weight, k * length, num_rows
        )

    def by_step(bucket: ShardBucket) -> ShardBucket:
        return ShardBucket(*(x.reshape(k, k - 3, *x.shape[1:]) for x in bucket))

    # Stacked for a scan; the first two and the last step stand apart, of other sizes.
    return Layout(
        part(0, 1),
        part(1, 1) if k > 2 else (),
        tuple(map(by_step, part(2, k - 3))),
        part(k - 1, 1) if k > 1 else (),
        apart,
    )


def _owned(numbers: np.ndarray, share: int, num_devices: int) -> np.ndarray:
    """Where in its share each device has some rows; past the end where it has not."""
    is_own = numbers // share == np.arange(num_devices)[:, None]
    return np.where(is_own, numbers % share, share).astype(np.int32)


def _make_buckets(
    group: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    weight: np.ndarray,
    num_groups: int,
    num_rows: int,
) -> tuple[ShardBucket, ...]:
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


def even_layout(
    num_rows: int, degree: float, most: float, num_devices: int, dtype: Any
) -> Layout:
    """The shapes of a layout in a ring whose entries lie evenly, from sizes alone.

    The entries of a row in one block are taken as Poisson, once with all rows of the
    mean degree, once with as few as can be of the largest; each bucket has the larger
    number of pieces of both, and as many standard deviations more as the fullest of all
    parts is likely to have. Points are among their own neighbours, in the own block.

    Args:
        num_rows: of a device.
        degree: mean entries of a row.
        most: entries of a row at most.
        num_devices: k.
        dtype: of the weights.
    """
    k = num_devices

    def buckets(lead: tuple[int, ...], own: int) -> tuple[ShardBucket, ...]:
        cases = [(num_rows, degree), (num_rows * degree / most, most)]
        counts = np.max([n * _pieces((d - own) / k, own) for n, d in cases], axis=0)
        # Of p pieces a row the variance is p (1 − p), where p is small.
        spread = np.sqrt(counts * (1.0 - np.minimum(counts / num_rows, 0.5)))
        far = 1.0 + np.sqrt(2.0 * np.log(np.prod(lead)))
        sizes = np.ceil(counts + far * spread).astype(int)
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

    return Layout(
        buckets((k,), 1),
        buckets((k,), 0) if k > 2 else (),
        buckets((k, k - 3), 0) if k > 3 else (),
        buckets((k,), 0) if k > 1 else (),
    )


def _pieces(mean: float, own: int) -> np.ndarray:
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
