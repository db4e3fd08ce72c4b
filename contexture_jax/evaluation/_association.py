"""How two lists of numbers go together: along a line, or in any way."""

from __future__ import annotations

import numpy as np

from contexture_jax._core.checks import as_array, check_finite, check_ndim
from contexture_jax._core.types import ArrayLike

__all__ = ["distance_correlation", "pearson_correlation"]


def pearson_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's correlation of two lists: Σ ã b̃ / √(Σ ã² Σ b̃²), ã = a − mean(a).

    Args:
        a: numbers, shape (k,), concrete.
        b: numbers, shape (k,), concrete.

    Raises:
        ValueError: if the shapes differ or are not (k,), k ≥ 2, if a number is not
            finite, or if either list holds one value only.

    Example:
        >>> import contexture_jax as cx
        >>> round(cx.evaluation.pearson_correlation([1.0, 2.0], [2.0, 4.0]), 6)
        1.0
    """
    a, b = _as_lists(a, b)
    a, b = a - a.mean(), b - b.mean()
    return float(
        np.clip(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)), -1.0, 1.0)
    )


def distance_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """The distance correlation of two lists: 0 only if neither tells of the other.

    With A and B the tables of |a_i − a_j| and |b_i − b_j|, centred in rows and columns,
    √(Σ A B / √(Σ A² Σ B²)) (Székely, Rizzo and Bakirov 2007, definition 3): between 0
    and 1, and 1 where one list is a multiple of the other but for a constant. Of a
    sample it is above 0 also where the laws are independent, by about 1 / √k.

    Args:
        a: numbers, shape (k,), concrete; memory is k².
        b: numbers, shape (k,), concrete.

    Raises:
        ValueError: as for `pearson_correlation`.
    """
    first, second = (_centred(v) for v in _as_lists(a, b))
    shared = (first * second).sum()
    own = np.sqrt((first**2).sum() * (second**2).sum())
    # The sum is not negative but by rounding.
    return float(np.sqrt(np.clip(shared / own, 0.0, 1.0)))


def _centred(values: np.ndarray) -> np.ndarray:
    apart = np.abs(values[:, None] - values[None, :])
    means = apart.mean(axis=0)
    return apart - means[:, None] - means[None, :] + means.mean()


def _as_lists(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    lists = []
    for values, name in ((a, "a"), (b, "b")):
        values = np.asarray(as_array(values, name), np.float64)
        check_ndim(values, 1, name)
        check_finite(values, name)
        if len(values) < 2 or np.ptp(values) == 0:
            msg = f"{name} must hold at least 2 different numbers; got {len(values)}"
            raise ValueError(msg + " of one value" * (len(values) > 1))
        # At one scale, so that no square leaves the range.
        lists.append(values / np.abs(values).max())
    if len(lists[0]) != len(lists[1]):
        msg = f"a and b must be of one length; got {len(lists[0])} and {len(lists[1])}"
        raise ValueError(msg)
    return lists[0], lists[1]
