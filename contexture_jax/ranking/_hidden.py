"""Masked RBF laws of masks that hide a column or two, by one exponential a column.

exp(−γ ‖x − a‖²) without columns i and j is E e_i e_j for E = exp(−Σ_j c_j), e_j =
exp(c_j) and c_j = γ ‖x_j − a_j‖² of column j alone. So a mask costs no exponential of
its own, and all pairs at once are two products with small matrices: with e the table
of all e_j, the sums of pairs over a are e (e_i ∘ E), and the sum of laws with weights w
is E ∘ e_i ∘ (w e).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from contexture_jax._core.threads import in_threads
from contexture_jax._core.types import Bool, Float, Int

__all__ = ["add_hidden", "hides_few"]

_MOST_HIDDEN = 2
_ROWS = 64  # that a thread takes at once
# c_j beyond are cut there: exp(−28) of one column is less than 10⁻¹² of the sum of the
# row, to which a itself gives 1. With three of them E is still a normal number, and e_i
# e_j takes it back to exp(−28) at most where the sum was cut.
_FARTHEST = 28.0


def hides_few(
    kept: Bool[np.ndarray, "masks d"], columns: Int[np.ndarray, " d"]
) -> bool:
    """Whether each mask hides one or two columns.

    Args:
        kept: which features each mask keeps, whole columns.
        columns: the number of the column of each feature.
    """
    hidden = [len(np.unique(columns[~mask])) for mask in kept]
    return min(hidden) >= 1 and max(hidden) <= _MOST_HIDDEN


def add_hidden(
    gathered: Float[np.ndarray, "specs n n"],
    x: Float[np.ndarray, "n d"],
    columns: Int[np.ndarray, " d"],
    kept: Bool[np.ndarray, "masks d"],
    times: Int[np.ndarray, " masks"],
    gammas: Sequence[float],
) -> None:
    """Add Σ over masks of P⁺(a|x) to the table of each γ.

    Args:
        gathered: float32, one table a γ.
        x: the rows.
        columns: the number of the column of each feature.
        kept: as of `hides_few`, which holds.
        times: how often each mask counts.
        gammas: γ of each table.
    """
    order = np.argsort(columns, kind="stable")
    names, starts = np.unique(columns[order], return_index=True)
    # The mean of a column may be large beside its differences.
    features = (x - x.mean(axis=0)).T[order].astype(np.float32)
    # (names + 1, names + 1): how often a pair is hidden; the last is no column.
    often = np.zeros((len(names) + 1,) * 2, np.float32)
    for mask, count in zip(kept, times.tolist(), strict=True):
        pair = np.searchsorted(names, np.unique(columns[~mask])).tolist()
        first, second = (*pair, len(names))[:2]
        often[first, second] += count
    num_rows = len(x)
    scaled = [np.float32(gamma**0.5) * features for gamma in gammas]

    def work(start: int) -> None:
        room = _Room.of(len(names), num_rows)
        for row in range(start, min(start + _ROWS, num_rows)):
            for table, points in zip(gathered, scaled, strict=True):
                _powers(points, row, starts, out=room.each[:-1])
                _add_law(table[row], often, room)

    in_threads(work, range(0, num_rows, _ROWS))


class _Room(NamedTuple):
    """Where a thread computes: memory of each step anew would take longer than it.

    Attributes:
        each: c_j, and in their place e_j; the last row, for no column, is 1.
        whole: E.
        hidden: E e_i.
        others: Σ_j w_j e_j for each i.
    """

    each: Float[np.ndarray, "c1 n"]
    whole: Float[np.ndarray, " n"]
    hidden: Float[np.ndarray, "c n"]
    others: Float[np.ndarray, "c n"]

    @classmethod
    def of(cls, num_columns: int, num_rows: int) -> _Room:
        each = np.ones((num_columns + 1, num_rows), np.float32)
        tables = np.empty((2, num_columns, num_rows), np.float32)
        return cls(each, np.empty(num_rows, np.float32), *tables)


def _powers(points: np.ndarray, row: int, starts: np.ndarray, out: np.ndarray) -> None:
    """c_j of one row and all others, shape (names, n)."""
    is_plain = len(out) == len(points)
    apart = np.subtract(points, points[:, row, None], out=out if is_plain else None)
    np.multiply(apart, apart, out=apart)
    if not is_plain:
        np.add.reduceat(apart, starts, axis=0, out=out)
    np.minimum(out, _FARTHEST, out=out)


def _add_law(
    into: Float[np.ndarray, " n"], often: Float[np.ndarray, "c1 c1"], room: _Room
) -> None:
    """Add Σ over pairs of how often each is hidden times P⁺(·|x) without it."""
    each, whole, hidden, others = room
    powers = each[:-1]
    np.sum(powers, axis=0, out=whole)
    np.minimum(whole, 3 * _FARTHEST, out=whole)
    np.negative(whole, out=whole)
    np.exp(whole, out=whole)
    np.exp(powers, out=powers)
    # E e_i first: e_i e_j alone may be above what float32 holds.
    np.multiply(powers, whole, out=hidden)
    # Row by row: BLAS takes longer for a product of two tables so thin.
    for i in range(len(powers)):
        rest, counts = each[i + 1 :], often[i, i + 1 :]
        np.dot(counts / np.dot(rest, hidden[i]), rest, out=others[i])
    np.multiply(hidden, others, out=others)
    into += np.sum(others, axis=0, out=whole)
