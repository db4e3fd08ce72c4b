"""Means and deviations of columns, the same bits however the rows are parted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["deviation_of", "mean_of"]

_LIMB, _NUM_LIMBS = 2.0**24, 3  # sums of up to 2²⁹ of one are exact


def mean_of(
    x: np.ndarray,
    num_rows: int,
    total: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """The means of columns, the same bits in whatever parts the rows come.

    Each number is a sum of three integers over powers of two, 2⁻⁷³ from it at most, and
    sums of these are exact.

    Args:
        x: own rows, of magnitude 1 at most, shape (k, ...), float64.
        num_rows: of all parts.
        total: the sum of an array over all parts, shape (size,).
    """
    rest, limbs = x, []
    for _ in range(_NUM_LIMBS):
        rest = rest * _LIMB
        whole = np.rint(rest)
        limbs.append(whole.sum(axis=0))
        rest -= whole
    sums = np.stack(limbs)
    sums = total(sums.reshape(-1)).reshape(sums.shape)
    mean = np.zeros(sums.shape[1:])
    for limb in sums[::-1]:
        mean = (mean + limb) / _LIMB
    return np.asarray(mean / num_rows)


def deviation_of(
    x: np.ndarray,
    num_rows: int,
    total: Callable[[np.ndarray], np.ndarray] = np.asarray,
    most: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """The root mean squares of columns, likewise, in whatever unit.

    Args:
        x: own rows, shape (k, ...), float64.
        num_rows: of all parts.
        total: as of `mean_of`.
        most: the largest of each number over all parts.
    """
    largest = most(np.abs(x).max(axis=0))
    squares = (x / np.where(largest > 0, largest, 1.0)) ** 2
    return np.asarray(largest * np.sqrt(mean_of(squares, num_rows, total)))
