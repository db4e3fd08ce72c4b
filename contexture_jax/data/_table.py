"""What DATA is when it has been read: features, a target, and notes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from contexture_jax.data._encoding import Encoding
from contexture_jax.data._messages import Message
from contexture_jax.data._source import is_repeated

__all__ = ["Room", "Table", "Target", "auto_gamma", "num_directions", "of_order_1"]


class Target(NamedTuple):
    """What the functions of a context are judged against.

    Attributes:
        name: the name of the column.
        values: numbers, shape (n,), float64; or the class of each row as an index into
            `class_names`, shape (n,), int64; NaN or −1 where rows without a target
            were to be kept.
        kind: whether `values` are numbers or classes.
        class_names: the classes; empty for numbers.
    """

    name: str
    values: np.ndarray
    kind: Literal["classes", "numbers"]
    class_names: tuple[str, ...]


class Table(NamedTuple):
    """DATA, ready for a context.

    Attributes:
        title: what to call it.
        features: shape (n, d), float64: encoded columns, or counts as they are; these
            may be a sparse matrix.
        feature_names: the names of the columns of `features`.
        target: what to judge against, or None.
        num_columns: how many columns of DATA the features come from.
        rows: which rows of DATA these are, counted from 0, shape (n,), int64.
        notes: what was done to the data that a reader should know; each can be worded
            otherwise.
        num_constant: how many further columns were left out as constant.
        encodings: how each column became features, for `load_like`; none of counts.
    """

    title: str
    features: Any
    feature_names: list[str]
    target: Target | None
    num_columns: int
    rows: np.ndarray
    notes: list[Message]
    num_constant: int = 0
    encodings: tuple[Encoding, ...] = ()


def auto_gamma(table: Table) -> float:
    """A γ for `contexts.rbf` on the features of a table: 1 / number of columns.

    Each column that features come from has mean 0 and total variance 1, so that two
    rows are |x − x'|² = 2 · columns apart on average, and exp(−γ |x − x'|²) is e⁻²
    there, however many columns there are.
    """
    return 1.0 / table.num_columns


class Room:
    """Columns side by side, each put in its place as it comes.

    A large table is so never there twice. Memory is in the order of columns: it is
    first taken as it is written, and for zeros throughout not at all.
    """

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self._room = np.zeros((num_rows, num_columns), order="F")
        self._used = 0

    def add(self, block: np.ndarray) -> None:
        """Put columns, shape (n, k), beside those that are there."""
        end = self._used + block.shape[1]
        if end > self._room.shape[1]:
            # Twice as wide each time: columns are copied a few times at most.
            wider = np.zeros((len(self._room), 2 * end), order="F")
            wider[:, : self._used] = self.columns
            self._room = wider
        # Zeros throughout stay untouched, and take no memory.
        if not (block.shape[1] == 1 and is_repeated(block[:, 0]) and block[0, 0] == 0):
            self._room[:, self._used : end] = block
        self._used = end

    @property
    def columns(self) -> np.ndarray:
        """All that was put there."""
        return self._room[:, : self._used]


def num_directions(features: np.ndarray) -> int:
    """How many directions features have: the rank of their matrix, in its dtype.

    One-hot columns are dependent, and have fewer than columns.

    Args:
        features: shape (n, d), floating.
    """
    return int(np.linalg.matrix_rank(features))


def of_order_1(weights: Any) -> Any:
    """Weights whose unit is the largest, but for a factor of 2, so without rounding.

    A law has no unit, but float32 has a range: scaled so, weights of any size fit it.

    Args:
        weights: shape (n, m), float64, non-negative; an array or a matrix of SciPy.
    """
    exponent = -int(np.frexp(float(weights.max()))[1])
    if isinstance(weights, np.ndarray):
        return np.ldexp(weights, exponent)
    scaled = weights.copy()
    scaled.data = np.ldexp(weights.data, exponent)
    return scaled
