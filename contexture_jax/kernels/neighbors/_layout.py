"""What is known about a set of points before the search for neighbours. On the host."""

from __future__ import annotations

import numpy as np

__all__ = ["blocks", "copies", "middle", "on_a_grid"]

_SAMPLE = 1023  # odd: a median is then one of the numbers themselves
_LOOK = 256  # rows that must lie on a grid before all are looked at
_ENTRIES = 2**18  # numbers that are hashed or checked at a time, within cache


def middle(a: np.ndarray) -> np.ndarray:
    """A point that most are near to: the median of each column over a sample of rows.

    A few numbers, however large, do not move it; and it lies on the grid that the
    points lie on.
    """
    count = min(_SAMPLE, len(a) - 1 + len(a) % 2)
    rows = np.linspace(0, len(a) - 1, count).astype(np.int64)
    return np.median(a[rows], axis=0).astype(a.dtype)


def copies(a: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows that occur more than once.

    Returns:
        The number of the first row that equals each, and how many equal rows precede
        each, shapes (n,); None if all rows are different.
    """
    codes = _hashes(a)
    order = np.argsort(codes, kind="stable")
    ranked = codes[order]
    new = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    if new.all():
        return None
    # Rows of one code are side by side, in the order of their numbers. If each equals
    # the one before it, all of a code are equal.
    again = np.flatnonzero(~new)
    if (a[order[again]] == a[order[again - 1]]).all():
        group = np.cumsum(new) - 1
    else:  # different rows of one code
        inverse = np.unique(a, axis=0, return_inverse=True)[1].reshape(-1)
        order = np.argsort(inverse, kind="stable")
        group = inverse[order]
        new = np.concatenate([[True], group[1:] != group[:-1]])
    starts = np.flatnonzero(new)
    first, before = np.empty(len(a), np.int64), np.empty(len(a), np.int64)
    first[order] = order[starts][group]
    before[order] = np.arange(len(a)) - starts[group]
    return first, before


def _hashes(a: np.ndarray) -> np.ndarray:
    """64 bits for each row, shape (n,): equal rows have equal ones."""
    unsigned = np.uint32 if a.dtype.itemsize == 4 else np.uint64
    rng = np.random.default_rng(0)
    odd = rng.integers(0, 2**63, a.shape[1], dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    codes = np.empty(len(a), np.uint64)
    step = max(1, _ENTRIES // a.shape[1])
    for start in range(0, len(a), step):
        part = a[start : start + step] + a.dtype.type(0)  # −0 becomes 0
        mixed = part.view(unsigned) * odd
        # Odd factors lose no bit, but a sum of products is linear; this is not.
        mixed ^= mixed >> np.uint64(32)
        codes[start : start + step] = mixed.sum(axis=1)
    return codes


def on_a_grid(center: np.ndarray, *arrays: np.ndarray) -> bool:
    """Whether sums of squares and products about the centre are exact in the dtype.

    They are where all numbers are multiples of one power of two, and few of them.
    """
    if not all(_is_coarse(x[:_LOOK], center) for x in arrays):
        return False
    return _is_coarse(np.concatenate(arrays), center)


def _is_coarse(x: np.ndarray, center: np.ndarray) -> bool:
    step = max(1, _ENTRIES // x.shape[1])
    parts = [x[start : start + step] for start in range(0, len(x), step)]
    lowest = min(_lowest_bit(part) for part in [*parts, center])
    largest = 0.0
    # What overflows is ∞ and not coarse.
    with np.errstate(over="ignore"):
        for part in parts:
            moved = np.ldexp(np.subtract(part, center, dtype=np.float64), -lowest)
            largest = max(largest, float(np.einsum("ij,ij->i", moved, moved).max()))
    # |b|² + 2 |y| |b| and |y − b|² are both within 4 times the largest norm.
    return 4 * largest <= 1 / float(np.finfo(x.dtype).eps)


def _lowest_bit(x: np.ndarray) -> int:
    """The largest s for which all numbers are multiples of 2^s."""
    mantissas, exponents = np.frexp(x[x != 0])
    if not mantissas.size:
        # Zeros are multiples of any number: no bound from them.
        return 2**10
    bits = np.finfo(x.dtype).nmant + 1
    whole = np.ldexp(mantissas.astype(np.float64), bits).astype(np.int64)
    # `whole & -whole` is the last bit that is set, 2^t, and frexp has t + 1 for it.
    trailing = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    return int((exponents - bits + trailing).min())


def blocks(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut rows into sets of at most `size` that lie together.

    A set is cut across its widest column: through a gap that is wide against the whole,
    otherwise through the widest one in the middle half. A set that is small enough is
    cut only through a gap that is a quarter of its width.
    """
    # Invariant: the sets of both are a partition of the rows.
    done, waiting = [], [np.arange(len(x))]
    while waiting:
        rows = waiting.pop()
        part = x[rows]
        width = part.max(axis=0) - part.min(axis=0)
        column = int(np.argmax(width))
        if width[column] == 0:
            done += np.array_split(rows, -(-len(rows) // size))
            continue
        order = np.argsort(part[:, column], kind="stable")
        gaps = np.diff(part[order, column])
        cut = int(np.argmax(gaps))
        share = 8 if len(rows) > size else 4
        if share * gaps[cut] < width[column]:
            if len(rows) <= size:
                done.append(rows)
                continue
            quarter = len(gaps) // 4
            cut = quarter + int(np.argmax(gaps[quarter : len(gaps) - quarter]))
        waiting += [rows[order[: cut + 1]], rows[order[cut + 1 :]]]
    return done
