"""Masked RBF laws of masks that hide a column or two, by one exponential a column.

exp(−γ ‖x − a‖²) without columns i and j is E e_i e_j for E = exp(−Σ_j c_j), e_j =
exp(c_j) and c_j = γ ‖x_j − a_j‖² of column j alone. So a mask costs no exponential of
its own, and all pairs at once are two products with small matrices: with e the table
of all e_j, the sums of pairs over a are e (e_i ∘ E), and the sum of laws with weights w
is E ∘ e_i ∘ (w e).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contexture_jax._core.threads import in_threads
from contexture_jax._core.types import Bool, Float, Int

__all__ = ["add_hidden", "hides_few"]

_MOST_HIDDEN = 2
# c_j beyond are cut there: exp(−28) of one column is less than 10⁻¹² of the sum of the
# row, to which a itself gives 1. With three of them E is still a normal number, and e_i
# e_j takes it back to exp(−28) at most where the sum was cut.
_FARTHEST = 28.0


def hides_few(
    kept: Bool[np.ndarray, "masks d"], columns: Int[np.ndarray, " d"]
) -> bool:
    """Whether each mask hides one or two columns, and some column stays.

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

    def work(row: int) -> None:
        apart = features - features[:, row : row + 1]
        apart *= apart
        if len(names) < len(apart):
            apart = np.add.reduceat(apart, starts, axis=0)
        for table, gamma in zip(gathered, gammas, strict=True):
            table[row] += _law(apart, gamma, often)

    in_threads(work, range(num_rows))


def _law(
    apart: Float[np.ndarray, "c n"], gamma: float, often: Float[np.ndarray, "c1 c1"]
) -> Float[np.ndarray, " n"]:
    """Σ over pairs of how often each is hidden times P⁺(·|x) without it."""
    each = np.ones((len(apart) + 1, apart.shape[1]), np.float32)
    powers = each[:-1]
    np.multiply(apart, np.float32(gamma), out=powers)
    np.minimum(powers, _FARTHEST, out=powers)
    whole = np.exp(-np.minimum(powers.sum(axis=0), 3 * _FARTHEST))
    np.exp(powers, out=powers)
    out = np.zeros_like(whole)
    # Row by row: BLAS takes longer for a product of two tables so thin.
    for i in range(len(apart)):
        others, counts = each[i + 1 :], often[i, i + 1 :]
        # E e_i and then e_j: none is above what float32 holds.
        one = each[i] * whole
        one *= (counts / (others @ one)) @ others
        out += one
    return out
