"""How far singular triples are from the exact ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Triples", "make_entry_judge", "make_judge", "sine_of_largest_angle"]


class Triples(NamedTuple):
    """Singular triples: values (k,) descending, left (n, k), right (m, k)."""

    values: Any
    left: Any
    right: Any


def make_judge(truth: Triples) -> Callable[[Triples], dict[str, float]]:
    """A judge that compares triples with the exact ones, in float64.

    It reports the largest relative error of the singular values, and the sine of the
    largest principal angle, of the left or the right spaces, for all triples and for
    the leading half.
    """
    rank = len(truth.values)

    def judge(found: Triples) -> dict[str, float]:
        values = np.asarray(found.values, np.float64)
        errors = np.abs(values / np.asarray(truth.values) - 1.0)
        return {
            "value error": float(errors.max()),
            **{
                f"sine of angle, top {k}": max(
                    sine_of_largest_angle(found.left, truth.left, k),
                    sine_of_largest_angle(found.right, truth.right, k),
                )
                for k in (rank, rank // 2)
            },
        }

    return judge


def sine_of_largest_angle(found: Any, truth: Any, k: int) -> float:
    """Between the spans of the first k columns; `truth` has orthonormal columns."""
    q, _ = np.linalg.qr(np.asarray(found, np.float64)[:, :k])
    exact = np.asarray(truth, np.float64)[:, :k]
    # The sine itself: from the cosine, small angles would drown in rounding.
    gap = q - exact @ (exact.T @ q)
    return float(np.linalg.norm(gap, 2))


def make_entry_judge(truth: np.ndarray) -> Callable[[Any], dict[str, float]]:
    """A judge of arrays: the largest error by the largest entry of the truth.

    Where the truth has fewer rows than the answer, it is for the first ones.
    """
    scale = np.abs(truth).max()

    def judge(found: Any) -> dict[str, float]:
        rows = np.asarray(found, np.float64).reshape(-1, truth.shape[1])
        return {"error": float(np.abs(rows[: len(truth)] - truth).max() / scale)}

    return judge
