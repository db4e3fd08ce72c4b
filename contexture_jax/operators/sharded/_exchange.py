"""Rows that devices need of each other, and no more, where a ring would tell more.

In a ring every device meets every row: (k − 1) n / k of them, whatever is needed. Where
each row of a matrix has K entries a device needs K n / k rows of others at most, which
from some number of devices on is less, and at as many rows a device does not grow. They
come from all others in rounds, each of about as many rows as a device has itself: no
more of them are in one place than in a ring.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from contexture_jax._core.types import Int
from contexture_jax.operators.sharded._buckets import (
    Entries,
    ShardBucket,
    by_step,
    make_buckets,
)

__all__ = ["Exchange", "exchange_of", "pays", "rounds_of"]

# A ring tells while it multiplies: what is told before has to be less by a factor.
_LESS = 2


class Exchange(NamedTuple):
    """Which rows go where, and the entries that meet them there.

    Attributes:
        send: which rows of its block each device sends in each round, p to each other
            side by side, shape (k, rounds, k p); past the end where there are fewer.
        buckets: the entries, with an axis of rounds; indices are of what has come, p
            rows of each device.
    """

    send: Int[Any, "k rounds told"]
    buckets: tuple[ShardBucket, ...]


def pays(number: int, share: int, num_devices: int) -> bool:
    """Whether to tell `number` rows to each device rather than all in a ring."""
    k = num_devices
    return k > 1 and _LESS * k * number <= (k - 1) * share


def rounds_of(number: int, share: int, num_devices: int) -> tuple[int, int]:
    """In how many rounds each device tells each other `number` rows; rows of a round.

    As few as leave no more than `share` rows, or one of each device, in one place.
    """
    rounds = -(-number // max(share // num_devices, 1))
    return rounds, -(-number // rounds)


def exchange_of(
    entries: Entries, num_devices: int, share: tuple[int, int]
) -> Exchange | None:
    """The exchange of entries whose column is on another device; None: a ring is less.

    Args:
        entries: all of them.
        num_devices: k.
        share: rows and columns of a device.
    """
    k, (num_rows, num_columns) = num_devices, share
    if not pays(1, num_columns, k):
        return None
    away = entries.where(entries.visitor != entries.home)
    # A column that a device needs, once, by the pair of devices.
    pair = away.visitor * k + away.home
    needed, place = np.unique(pair * num_columns + away.column, return_inverse=True)
    pairs, column = np.divmod(needed, num_columns)
    sizes = np.bincount(pairs, minlength=k * k)
    number = max(int(sizes.max(initial=0)), 1)
    if not pays(number, num_columns, k):
        return None
    rounds, size = rounds_of(number, num_columns, k)
    # The number of each among those of its pair, which are side by side.
    slot = np.arange(len(needed)) - (np.cumsum(sizes) - sizes)[pairs]
    visitor, home = np.divmod(pairs, k)
    # Pairs that need less than the fullest leave out other rounds than each other.
    turn, slot = (slot + visitor) % rounds, slot // rounds
    send: Any = np.full((k, rounds, k, size), num_columns, np.int32)
    send[visitor, turn, home, slot] = column
    # Where it comes to lie: what device j sent begins at p j.
    arrived = away.visitor * size + slot[place]
    group = away.home * rounds + turn[place]
    buckets = make_buckets(group, away.row, arrived, away.weight, k * rounds, num_rows)
    return Exchange(send.reshape(k, rounds, k * size), by_step(buckets, k))
