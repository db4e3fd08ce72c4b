"""The last word on nearest neighbours: who is certain, and the order of what is close.

Runs on the host. Distances that came with rounding errors are compared only where they
differ by more than those; all others are computed anew in float64, and ties are broken
by number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from contexture_jax._core.either import Either
from contexture_jax._core.types import Float, Int
from contexture_jax.kernels.neighbors._distances import (
    difference_error,
    exact_distances,
    floor,
    plain_distances,
    scaled,
    unit_exponent,
)

__all__ = ["Found", "in_balls", "rank_candidates", "rank_pairs"]

_PAIRS = 2**22  # that are held at a time


class Found(NamedTuple):
    """Candidates of some queries.

    Attributes:
        indices: numbers of points, nearest first, shape (n, c), c ≥ K.
        distances: |x − a|² by differences, up to `difference_error` and `floor`.
        limit: a bound below on |x − a|² of every point that is not among them, shape
            (n,).
        doubt: how far that bound may be below what it bounds, for rounding, shape (n,).
    """

    indices: Int[Either, "n c"]
    distances: Float[Either, "n c"]
    limit: Float[Either, " n"]
    doubt: Float[Either, " n"]


def rank_candidates(
    x: np.ndarray,
    a: np.ndarray,
    indices: np.ndarray,
    distances: np.ndarray,
    limit: np.ndarray,
    num_neighbors: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The K nearest, ties by number, and for which queries they are certain.

    Args:
        x: queries, shape (n, d).
        a: points, shape (m, d), the same dtype.
        indices: see `Found`.
        distances: see `Found`.
        limit: see `Found`.
        num_neighbors: K.

    Returns:
        Numbers of the neighbours, nearest first, shape (n, K), and which rows hold.
    """
    d = x.shape[1]
    error, tiny = difference_error(d, x.dtype), floor(d, x.dtype)
    farthest = distances[:, num_neighbors - 1] * (1 + error) + tiny
    # Strictly: what is level with the K-th may have a smaller number.
    certain = farthest < limit
    close = _close(distances, 2 * error, tiny)
    # The pairs up to the K-th and the one after it, where a tie decides who is in.
    rows = np.flatnonzero(certain & close[:, :num_neighbors].any(axis=1))
    indices = indices.copy()
    if rows.size:
        indices[rows] = _untie(x, a, rows, indices[rows], close[rows], num_neighbors)
    return indices[:, :num_neighbors], certain


def rank_pairs(
    x: np.ndarray, a: np.ndarray, near: np.ndarray, num_neighbors: int
) -> np.ndarray:
    """The K nearest among the points that are marked, shape (n, K).

    Args:
        x: queries, shape (n, d).
        a: points, shape (m, d).
        near: shape (n, m), at least K true in each row.
        num_neighbors: K.
    """
    row, number = np.nonzero(near)
    counts = np.bincount(row, minlength=len(x))
    # Where each stands in its row; short rows are filled up with ∞.
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    distances = np.full((len(x), counts.max()), np.inf)
    distances[row, place] = plain_distances(x, a, row, number)
    indices = np.zeros(distances.shape, np.int64)
    indices[row, place] = number
    order = np.argsort(distances, axis=1, kind="stable")
    distances, indices = (
        np.take_along_axis(v, order, axis=1) for v in (distances, indices)
    )
    d = x.shape[1]
    close = _close(distances, 2 * difference_error(d, np.float64), 0.0)
    rows = np.flatnonzero(close[:, :num_neighbors].any(axis=1))
    if rows.size:
        indices[rows] = _untie(x, a, rows, indices[rows], close[rows], num_neighbors)
    return indices[:, :num_neighbors]


def in_balls(
    x: np.ndarray, a: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which x lie in the ball of which a, that has the point numbered `last` on it.

    Args:
        x: shape (n, d).
        a: shape (m, d), the same dtype.
        last: shape (m,), integer.

    Returns:
        Numbers of x, ascending, and of a, as pairs.
    """
    exponent = unit_exponent(a, x)
    a, x = scaled(a, exponent), scaled(x, exponent)
    m, d = a.shape
    number = np.arange(m)
    radii = exact_distances(a, a, number, last)
    error = 2 * difference_error(d, np.float64)
    pairs = []
    step = max(1, _PAIRS // m)
    for start in range(0, len(x), step):
        row = np.repeat(np.arange(start, min(start + step, len(x))), m)
        column = np.tile(number, len(row) // m)
        gaps, most = plain_distances(x, a, row, column), radii[column]
        # Sums in order of the columns first; sorted ones, which cost more, only for
        # what rounding may have put on either side of the surface.
        inside = gaps <= most * (1 + error)
        row, column, gaps, most = (v[inside] for v in (row, column, gaps, most))
        unclear = np.flatnonzero(gaps >= most * (1 - error))
        gaps[unclear] = exact_distances(x, a, row[unclear], column[unclear])
        pairs.append((row[gaps <= most], column[gaps <= most]))
    rows, columns = zip(*pairs, strict=True)
    return np.concatenate(rows), np.concatenate(columns)


def _close(distances: np.ndarray, error: float, tiny: float) -> np.ndarray:
    """Which ascending distances rounding may have put before their successors."""
    with np.errstate(invalid="ignore"):
        # ∞ less ∞, of two that are no candidates, is NaN: not close.
        gaps = np.diff(distances, axis=1)
    later = distances[:, 1:]
    return (gaps <= error * later + tiny) & np.isfinite(later)


def _untie(
    x: np.ndarray,
    a: np.ndarray,
    rows: np.ndarray,
    indices: np.ndarray,
    close: np.ndarray,
    num_neighbors: int,
) -> np.ndarray:
    """Order runs of close candidates by their distances in float64, then by number."""
    indices = indices.copy()
    no, yes = (np.full((len(rows), 1), value) for value in (False, True))
    # (n, c): candidates of one run are close to their neighbours in it. Runs that begin
    # behind the K-th place are in nobody's way.
    run = np.cumsum(np.concatenate([yes, ~close], axis=1), axis=1)
    tied = np.concatenate([close, no], axis=1) | np.concatenate([no, close], axis=1)
    tied &= run <= run[:, num_neighbors - 1, None]
    row, slot = np.nonzero(tied)
    group = row * (run.shape[1] + 1) + run[row, slot]
    query, number = rows[row], indices[row, slot]

    # Plain sums decide nearly all; sorted ones, which cost more, what those leave.
    distances = plain_distances(x, a, query, number)
    order = np.lexsort((number, distances, group))
    group, distances, number = group[order], distances[order], number[order]
    level = 2 * difference_error(x.shape[1], np.float64)
    near = np.diff(distances) <= level * distances[1:]
    near &= group[1:] == group[:-1]
    if near.any():
        group = np.concatenate([[0], np.cumsum(~near)])
        member = np.zeros(len(number), bool)
        member[:-1] |= near
        member[1:] |= near
        members = np.flatnonzero(member)
        distances = exact_distances(x, a, query[members], number[members])
        order = np.lexsort((number[members], distances, group[members]))
        number[members] = number[members][order]
    # `row` and `slot` ascend, and the groups along them: what is sorted within groups
    # goes back to the places of its group.
    indices[row, slot] = number
    return indices
