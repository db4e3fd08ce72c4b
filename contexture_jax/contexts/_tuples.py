"""What contexts whose A is a tuple share: a law that has no column for each tuple."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_concrete, gathered
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.contexts._base import as_numbers
from contexture_jax.contexts._labels import Labels
from contexture_jax.contexts._mixed import MixedContext
from contexture_jax.contexts._neighbors import Neighbors
from contexture_jax.contexts._paired import TimeLag
from contexture_jax.contexts._parts import law_of_x, rows_of, size_of
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates

__all__ = ["TupleContext", "conditionals", "entries_of", "on_host"]

# Pairs of an x and a tuple that are laid out or gone through.
_MOST_ENTRIES = 2**26
_DRAW = (
    "draw tuples by cx.operators.monte_carlo_operator(context, rows, num_samples,"
    " key=key)"
)
_BLOCK = 2**22  # numbers of a block of tuples


class TupleContext(MixedContext):
    """A = (A₁, …, A_r) of finite parts, exact by enumeration and never a table.

    By the tuples that occur, or by all of them in blocks. Subclasses give `known`,
    `num_entries`, `dtype`, `_list_tuples` and `_blocks_of_rows`.
    """

    # After `at` the context whose A this keeps; None: its own.
    known: Any

    _is_finite: ClassVar[bool] = False  # no table

    @property
    def tupled(self) -> tuple[Any, ...]:
        """The parts whose values make a tuple."""
        raise NotImplementedError

    @property
    def dtype(self) -> Any:
        """The floating dtype of the laws of the parts."""
        raise NotImplementedError

    @property
    def is_enumerable(self) -> bool:
        """Whether tuples can be listed: all parts are finite laws, not signed."""
        return all(self._all(need) for need in ("table", "log_density"))

    def num_entries(self) -> int:
        """How many pairs of an x and a tuple occur."""
        raise NotImplementedError

    def _list_tuples(self) -> tuple[SparseJoint, np.ndarray]:
        """As `tuples_that_occur`, of not too many."""
        raise NotImplementedError

    def _blocks_of_rows(self) -> Iterator[np.ndarray]:
        """P⁺(a|x) of all tuples, (n, b) each, in float64: known inputs, then new."""
        raise NotImplementedError

    def law_of_x(self) -> Float[Array, " n"]:
        """P_X of finite parts."""
        return law_of_x(self.contexts[0])

    @property
    def is_sparse(self) -> bool:
        """Whether the pairs that occur are no more numbers than the dual kernel."""
        return self.num_entries() <= len(self.law_of_x()) ** 2

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """The dual kernel between the rows numbered `x` and `x2`, exactly.

        On the host: by the tuples that occur, or by all of them in blocks, whichever
        are fewer numbers.

        Raises:
            TypeError: inside a trace.
            ValueError: if they are more than 2²⁶ numbers either way:
                `operators.monte_carlo_kernel` estimates.
        """
        self._check_has("kernel")
        check_concrete((self, x, x2), "the kernel of a join")
        n = len(self.law_of_x())
        one, two = (np.asarray(as_numbers(v, w, n)) for v, w in ((x, "x"), (x2, "x2")))
        total = np.zeros((one.size, two.size))
        for block, p_a in self._occurring() if self.is_sparse else self.blocks():
            ratios = np.divide(block, p_a, out=np.zeros_like(block), where=p_a > 0)
            total += np.matmul(ratios[one], block[two].T)
        return jnp.asarray(total, self.dtype)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """P⁺(a|x), shape (n, b), and P_A(a), shape (b,), for all tuples, in float64."""
        p_x = on_host(self.law_of_x())
        for block in self._blocks_of_rows():
            yield block, np.matmul(p_x, block)

    def _occurring(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `blocks`, of the tuples that occur."""
        law, tuples = self.tuples_that_occur()
        rows, columns, joint = map(np.asarray, (law.rows, law.columns, law.weights))
        shares = joint / np.bincount(rows, joint)[rows]
        order = np.argsort(columns, kind="stable")
        step = max(1, _BLOCK // law.shape[0])
        p_x = on_host(self.law_of_x())
        for start in range(0, len(tuples), step):
            # Entries by column: those of this block are a run.
            ends = np.searchsorted(columns[order], [start, start + step])
            some = order[ends[0] : ends[1]]
            block = np.zeros((law.shape[0], min(step, len(tuples) - start)))
            block[rows[some], columns[some] - start] = shares[some]
            yield block, np.matmul(p_x, block)

    def tuples_that_occur(self) -> tuple[SparseJoint, np.ndarray]:
        """The law of (X, number of the tuple), and the tuples, shape (t, r).

        Raises:
            ValueError: if more than 2²⁶ pairs occur.
        """
        check_concrete(self, "the tuples of a join")
        num = self.num_entries()
        if num > _MOST_ENTRIES:
            msg = (
                "a join is laid out by the pairs of an input and a tuple that occur, at"
                f" most {_MOST_ENTRIES}; got {num}: {_DRAW}"
            )
            raise ValueError(msg)
        return self._list_tuples()

    def columns(self) -> tuple[SparseJoint, np.ndarray, np.ndarray]:
        """The law of (X, column) of the sparse operator, its tuples, and their columns.

        Tuples that one input alone has say the same, P(x|a) = 1: one column for them is
        in L²(P_A) an isometry.
        """
        law, tuples = self.tuples_that_occur()
        rows, columns = np.asarray(law.rows), np.asarray(law.columns)
        lonely = np.bincount(columns)[columns] == 1
        _, number = np.unique(np.where(lonely, -1 - rows, columns), return_inverse=True)
        size = (law.shape[0], int(number.max()) + 1)
        # Of no column where the probability has underflowed.
        of_tuple = np.full(len(tuples), size[1])
        of_tuple[columns] = number
        return coordinates(rows, number, law.weights, size), tuples, of_tuple

    def new_columns(self) -> SparseJoint:
        """After `at`, the law of new X and column of the known; one more for others."""
        law, tuples, of_tuple = self.known.columns()
        new, others = self.tuples_that_occur()
        both = np.concatenate([tuples, others])
        _, which = np.unique(both, axis=0, return_inverse=True)
        which = which.reshape(-1)
        # The last column is of tuples that are not known.
        column = np.full(int(which.max()) + 1, law.shape[1])
        column[which[: len(tuples)]] = of_tuple
        found = column[which[len(tuples) :]][np.asarray(new.columns)]
        size = (new.shape[0], law.shape[1] + 1)
        return coordinates(np.asarray(new.rows), found, new.weights, size)

    def cross_kernel(self) -> np.ndarray:
        """After `at`, the dual kernel of new and known inputs, (k, n): all tuples."""
        p_x = on_host(self.known.law_of_x())
        n, k = len(p_x), len(self.law_of_x())
        total: Any = np.zeros((k, n))
        for block in self._blocks_of_rows():
            # Of the known alone: new inputs have no mass in P_A.
            known = block[:n]
            p_a = np.matmul(p_x, known)
            ratios = np.divide(known, p_a, out=np.zeros_like(known), where=p_a > 0)
            total += np.matmul(block[n:], ratios.T)
        return total

    def num_columns(self) -> int:
        """How many values of A the operator has, after `at` that of the known."""
        known = self if self.known is None else self.known
        if known.is_sparse:
            return known.columns()[0].shape[1]
        return len(known.law_of_x())


def on_host(values: Any) -> np.ndarray:
    """An array of any process in NumPy float64."""
    return np.asarray(gathered(values), np.float64)


def conditionals(parts: list[list[Any]]) -> Iterator[np.ndarray]:
    """∏_j P_j(a_j|x) over all tuples, (n, b) each, the last part running fastest.

    Args:
        parts: for each j contexts with one A_j, whose inputs are put one after another.

    Raises:
        ValueError: if these are more than 2²⁶ numbers.
    """
    sizes = [[size_of(context) or (0, 0) for context in some] for some in parts]
    # Before anything is laid out.
    num = sum(n for n, _ in sizes[0]) * math.prod(some[0][1] for some in sizes)
    if num > _MOST_ENTRIES:
        msg = (
            f"a join is summed over n ∏ m_j numbers, at most {_MOST_ENTRIES};"
            f" got {num}: {_DRAW}"
        )
        raise ValueError(msg)
    rows = [np.concatenate([on_host(rows_of(c)) for c in some]) for some in parts]
    return _products(rows)


def _products(rows: list[np.ndarray]) -> Iterator[np.ndarray]:
    *others, last = rows
    if not others:
        yield last
        return
    step = max(1, _BLOCK // max(1, last.size))
    for block in _products(others):
        for start in range(0, block.shape[1], step):
            some = block[:, start : start + step]
            # (n, b, m) as (n, b m).
            yield (some[:, :, None] * last[:, None, :]).reshape(len(last), -1)


def entries_of(context: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the entries of each row start, (n + 1,), their columns and P⁺(a|x)."""
    if isinstance(context, TimeLag):
        rows, columns, shares = context.entries()
        n = context.shape[0]
    elif isinstance(context, Labels):
        n = context.shape[0]
        rows, columns, shares = np.arange(n), np.asarray(context.codes), np.ones(n)
    elif isinstance(context, Neighbors):
        n, num = context.indices.shape
        rows = np.repeat(np.arange(n), num)
        columns = np.asarray(context.indices).reshape(-1)
        shares = on_host(context.slot_weights()).reshape(-1)
    elif isinstance(context, SparseJoint):
        n = context.shape[0]
        rows, columns, weights = map(
            np.asarray, (context.rows, context.columns, context.weights)
        )
        weights = weights.astype(np.float64)
        shares = weights / np.bincount(rows, weights, n)[rows]
    else:
        table = on_host(rows_of(context))
        n = len(table)
        rows, columns = np.nonzero(table)
        shares = table[rows, columns]
    starts = np.searchsorted(rows, np.arange(n + 1))
    return starts, columns, shares
