"""Products with the law of a context of many rows, of which no other table is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from contexture_jax._core.threads import in_threads
from contexture_jax._core.types import Float

__all__ = ["TableMap"]

_PART = 512  # rows, or columns, that a thread multiplies by
_SPARSE = 12  # times fewer entries are multiplied sooner by themselves
_NOTHING = 1e-12  # of the sum of a row: what all such entries add is below rounding


class TableMap:
    """M = D_X^{1/2} T D_A^{-1/2} without its trivial triple, P_X uniform, float32.

    T is P⁺(a|x), whose rows `gathered` holds but for a factor. Entries stay where and
    as they are, counts as counts: each product makes floating numbers of a part of them
    at a time. If few are above 10⁻¹² of the sum of their row, these alone are
    multiplied; all others of a row are together below its rounding.

    Args:
        gathered: non-negative, shape (n, m), every row with mass.

    Attributes:
        shape: (n, m).
        right_unit: √p_a, which M takes to 0, shape (m,).
        energy: ‖M‖_F², the sum of all s_i².
    """

    def __init__(self, gathered: np.ndarray) -> None:
        self.shape: tuple[int, int] = gathered.shape
        n, m = self.shape
        parts = [slice(i, i + _PART) for i in range(0, n, _PART)]
        columns = [slice(i, i + _PART) for i in range(0, m, _PART)]
        sums = [gathered[part].sum(axis=1, dtype=np.float64) for part in parts]
        sums = np.concatenate(sums)
        self._gathered = gathered
        self._rows: Sequence[Any] = [gathered[part] for part in parts]
        self._columns: Sequence[Any] = [gathered[:, part] for part in columns]
        is_counted = gathered.dtype.kind == "u"
        least = np.zeros(n) if is_counted else _NOTHING * sums
        least = least.astype(gathered.dtype)[:, None]

        def count(part: slice) -> int:
            return int(np.count_nonzero(gathered[part] > least[part]))

        if _SPARSE * sum(in_threads(count, parts)) <= n * m:
            self._rows, self._columns = _entries(gathered, least, parts, columns)
        self._parts, self._column_parts = parts, columns
        # float64: what a marginal lacks M does not take to 0.
        left = 1 / sums
        shares = in_threads(
            lambda i: left[parts[i]] @ self._rows[i].astype(np.float64),
            range(len(parts)),
        )
        p_a = np.sum(shares, axis=0) / n
        # Nothing where a row is nobody's neighbour.
        right = 1 / np.sqrt(n * np.where(p_a > 0, p_a, np.inf))

        def energy(i: int) -> float:
            rows = self._rows[i].astype(np.float64)
            return float(left[parts[i]] ** 2 @ ((rows * rows) @ right**2))

        self.energy = max(sum(in_threads(energy, range(len(parts)))) - 1.0, 0.0)
        self._left = left.astype(np.float32)[:, None]
        self._right = right.astype(np.float32)[:, None]
        self.right_unit = np.sqrt(p_a / p_a.sum()).astype(np.float32)

    def matmat(self, block: Float[np.ndarray, "m b"]) -> Float[np.ndarray, "n b"]:
        """M times a block that is off `right_unit`."""
        out = np.empty((self.shape[0], block.shape[1]), np.float32)
        block = self._right * block

        def multiply(i: int) -> None:
            part = self._parts[i]
            out[part] = self._left[part] * (_floating(self._rows[i]) @ block)

        in_threads(multiply, range(len(self._parts)))
        return self.off_left(out)

    def rmatmat(self, block: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "m b"]:
        """Mᵀ times a block whose columns are of mean 0."""
        out = np.empty((self.shape[1], block.shape[1]), np.float32)
        block = self._left * block

        def multiply(i: int) -> None:
            part = self._column_parts[i]
            out[part] = self._right[part] * (_floating(self._columns[i]).T @ block)

        in_threads(multiply, range(len(self._column_parts)))
        return self.off_right(out)

    def off_left(self, block: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "n b"]:
        """Off √p_x."""
        return block - block.mean(axis=0)

    def off_right(self, block: Float[np.ndarray, "m b"]) -> Float[np.ndarray, "m b"]:
        """Off √p_a."""
        unit = self.right_unit[:, None]
        # Where it is 0 there is no mass.
        return (block - unit * (unit.T @ block)) * (unit > 0)

    def rows(self, numbers: np.ndarray) -> Float[np.ndarray, "k m"]:
        """Some rows of M."""
        some = self._left[numbers] * _floating(self._gathered[numbers])
        return some * self._right.T - self.right_unit / self.shape[0] ** 0.5


def _floating(entries: Any) -> Any:
    return entries.astype(np.float32, copy=False)


def _entries(
    gathered: np.ndarray,
    least: np.ndarray,
    parts: Sequence[slice],
    columns: Sequence[slice],
) -> tuple[list[Any], list[Any]]:
    """What is above the least of its row, by parts of rows and of columns."""
    from scipy import sparse

    def row_entries(part: slice) -> Any:
        own = np.where(gathered[part] > least[part], gathered[part], 0)
        return sparse.csr_array(own.astype(np.float32))

    rows = in_threads(row_entries, parts)
    whole: Any = sparse.vstack(rows, format="csc")
    # Columns as rows of the transpose, whose product is as fast.
    return rows, [whole[:, part] for part in columns]
