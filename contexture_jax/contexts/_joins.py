"""The tuple of what several contexts give: stronger than each of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_concrete, gathered
from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.contexts._base import CapabilityError, Context, as_numbers
from contexture_jax.contexts._density import all_log_densities
from contexture_jax.contexts._labels import Labels
from contexture_jax.contexts._mixed import MixedContext
from contexture_jax.contexts._neighbors import Neighbors
from contexture_jax.contexts._paired import TimeLag
from contexture_jax.contexts._parts import (
    as_parts,
    check_one_input,
    is_numbered,
    law_of_x,
    rows_of,
    size_of,
)
from contexture_jax.contexts._sampling import row_keys
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates

__all__ = ["Joined", "join"]

# Pairs of an x and a tuple that are laid out or gone through.
_MOST_ENTRIES = 2**26
_DRAW = (
    "draw tuples by cx.operators.monte_carlo_operator(context, rows, num_samples,"
    " key=key)"
)
_BLOCK = 2**22  # numbers of a block of tuples


@pytree_dataclass
class Joined(MixedContext):
    """A = (A₁, …, A_r), independent given X: P⁺(a|x) = ∏_j P_j(a_j|x).

    P_A(a) = Σ_x p(x) ∏_j P_j(a_j|x) is no product of the P_A of the parts, and so

        k(x, x′) = Σ_a ∏_j P_j(a_j|x) P_j(a_j|x′) / P_A(a)

    is ∏_j k_j(x, x′) only where the A_j are independent of each other, as those of
    independent coordinates are. Of finite parts it is exact: by the tuples that occur,
    or by a sum over all of them in blocks. No table has a column for each tuple.

    Attributes:
        contexts: the parts, with one X.
        known: after `at` the join whose A this keeps; None: its own.
    """

    contexts: tuple[Any, ...]
    known: Any = None

    _is_finite: ClassVar[bool] = False  # no table

    def _gives(self, name: str) -> bool:
        if name in ("sample", "log_density", "at"):
            return self._all(name)
        if self.known is not None:
            return False
        is_law = all(self._all(need) for need in ("table", "log_density"))
        return name == "kernel" and is_law and all(map(is_numbered, self.contexts))

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Any:
        """Draw (a₁, …, a_r) for each x: a tuple of what the parts draw."""
        self._check_has("sample")
        keys = row_keys(key, len(self.contexts))
        return tuple(
            part.sample(k, x, row_offset=row_offset)
            for part, k in zip(self.contexts, keys, strict=True)
        )

    def log_density(self, a: Any, x: ArrayLike) -> Array:
        """Σ_j log P_j(a_j|x), for a tuple (a₁, …, a_r)."""
        self._check_has("log_density")
        pairs = zip(self.contexts, a, strict=True)
        return functools.reduce(
            jnp.add, [part.log_density(value, x) for part, value in pairs]
        )

    def log_densities(self, a: Any, x: ArrayLike) -> Float[Array, "m k"]:
        """Log P⁺(a_j|x_i) for all pairs, for fixed j with respect to one measure."""
        self._check_has("log_density")
        pairs = zip(self.contexts, a, strict=True)
        of_parts = [all_log_densities(part, value, x) for part, value in pairs]  # pyright: ignore
        return functools.reduce(jnp.add, of_parts)

    @property
    def _ends(self) -> tuple[Any, Any]:
        return (self.contexts[0], 0), None

    def at(self, x_new: Any) -> Joined:
        """New inputs in the form that the parts took, or a tuple of one for each.

        Its operator is of the values of A that the join has. Tuples that no input of it
        has count as values without mass: functions are 0 there.
        """
        self._check_has("at")
        num = len(self.contexts)
        is_many = isinstance(x_new, tuple) and len(x_new) == num
        given = x_new if is_many else (x_new,) * num
        parts = tuple(c.at(x) for c, x in zip(self.contexts, given, strict=True))
        check_one_input(parts, "at of a join")
        return Joined(parts, self if self.known is None else self.known)

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

    @property
    def is_sparse(self) -> bool:
        """Whether the pairs that occur are no more numbers than the dual kernel."""
        return self.num_entries() <= len(self.law_of_x()) ** 2

    def _occurring(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `blocks`, of the tuples that occur."""
        law, tuples = self.tuples_that_occur()
        rows, columns, joint = map(np.asarray, (law.rows, law.columns, law.weights))
        shares = joint / np.bincount(rows, joint)[rows]
        order = np.argsort(columns, kind="stable")
        step = max(1, _BLOCK // law.shape[0])
        for start in range(0, len(tuples), step):
            # Entries by column: those of this block are a run.
            ends = np.searchsorted(columns[order], [start, start + step])
            some = order[ends[0] : ends[1]]
            block = np.zeros((law.shape[0], min(step, len(tuples) - start)))
            block[rows[some], columns[some] - start] = shares[some]
            p_x = _host(self.law_of_x())
            yield block, np.matmul(p_x, block)

    def law_of_x(self) -> Float[Array, " n"]:
        """P_X of finite parts."""
        return law_of_x(self.contexts[0])

    @property
    def dtype(self) -> Any:
        """The floating dtype of the laws of the parts."""
        return jnp.result_type(*(law_of_x(part).dtype for part in self.contexts))

    @property
    def num_tuples(self) -> int:
        """∏ m_j, of finite parts."""
        sizes = [size_of(part) for part in self.contexts]
        if None in sizes:
            raise self._lacks("table")
        return math.prod(size[1] for size in sizes if size is not None)

    def num_entries(self) -> int:
        """How many pairs of an x and a tuple occur: Σ_x ∏_j (a_j that x may have)."""
        counts = [np.diff(_entries(part)[0]).astype(float) for part in self.contexts]
        return int(functools.reduce(np.multiply, counts).sum())

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """P⁺(a|x), shape (n, b), and P_A(a), shape (b,), for all tuples, in float64."""
        p_x = _host(self.law_of_x())
        self._check_few(len(p_x))
        return _products([_host(rows_of(part)) for part in self.contexts], p_x)

    def _check_few(self, num_rows: int) -> None:
        num = num_rows * self.num_tuples
        if num > _MOST_ENTRIES:
            msg = (
                f"a join is summed over n ∏ m_j numbers, at most {_MOST_ENTRIES};"
                f" got {num}: {_DRAW}"
            )
            raise ValueError(msg)

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
        p_x = _host(self.known.law_of_x())
        n, k = len(p_x), len(self.law_of_x())
        self._check_few(n + k)
        pairs = zip(self.known.contexts, self.contexts, strict=True)
        # All rows in one, of which new ones have no mass in P_A.
        rows = [np.concatenate([_host(rows_of(c)) for c in pair]) for pair in pairs]
        total: Any = np.zeros((k, n))
        for block, p_a in _products(rows, np.append(p_x, np.zeros(k))):
            known = block[:n]
            ratios = np.divide(known, p_a, out=np.zeros_like(known), where=p_a > 0)
            total += np.matmul(block[n:], ratios.T)
        return total

    def num_columns(self) -> int:
        """How many values of A the operator has, after `at` that of the known."""
        known = self if self.known is None else self.known
        if known.is_sparse:
            return known.columns()[0].shape[1]
        return len(known.law_of_x())

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
        p_x = _host(self.law_of_x())
        # Entries so far: their row, their tuple as columns of it, and ∏ P_j(a_j|x).
        rows, columns, shares = np.arange(len(p_x)), [], np.ones(len(p_x))
        for part in self.contexts:
            starts, values, weights = _entries(part)
            counts = np.diff(starts)[rows]
            # Each entry meets every value that its row may have.
            place = np.repeat(starts[rows] - (np.cumsum(counts) - counts), counts)
            place = place + np.arange(counts.sum())
            columns = [np.repeat(c, counts) for c in columns] + [values[place]]
            shares = np.repeat(shares, counts) * weights[place]
            rows = np.repeat(rows, counts)
        tuples, number = np.unique(
            np.stack(columns, axis=1), axis=0, return_inverse=True
        )
        joint = (p_x[rows] * shares).astype(self.dtype)
        size = (len(p_x), len(tuples))
        return coordinates(rows, number.reshape(-1), joint, size), tuples


@of_a_list
def join(contexts: Sequence[Context | Any]) -> Joined:
    """What several contexts give of X, all at once: A = (A₁, …, A_r).

    The A_j are independent given X. It strengthens association: s_i is at least the
    largest s_i of the parts (theory.md §4.6). A network that learns it takes one
    encoder of tuples; the practical form is to learn the parts and to put their
    functions side by side, `evaluation.concatenate`. Take it where all contexts are too
    weak, `convolve` where all are too strong.

    The operator of finite parts is exact, without the ∏ m_j columns of a table: it has
    those of the tuples that occur, stored sparse, where they make no more entries than
    n², as labels with anything sparse do (of tuples that only one input has, one
    column); else it is the positive root of T T*, n × n,
    with the same values and left functions. Beyond 2²⁶ numbers on the way, and for laws
    of A at any x, tuples are drawn: `operators.monte_carlo_operator`, uniformly over
    the inputs that it is given, and its error by `evaluation.monte_carlo_error`.

    Args:
        contexts: at least one, all of one X: all finite with one law of it, or all laws
            of A at any x. Parts of joins are joined: it is associative.

    Raises:
        TypeError: if there is none, one is no context, or some inputs are numbers and
            others arrays.
        CapabilityError: if one has neither `sample` nor `log_density`, as a teacher,
            whose "law" is signed.
        ValueError: if inputs differ in number or law.

    Example:
        >>> import contexture_jax as cx
        >>> parts = [cx.contexts.labels([0, 0, 1, 1]), cx.contexts.labels([0, 1, 0, 1])]
        >>> cx.association_operator(cx.contexts.join(parts)).shape
        (4, 4)
    """
    parts = as_parts(contexts, "join")
    check_one_input(parts, "join")
    for part in parts:
        if not {"sample", "log_density"} & set(part.capabilities):
            msg = f"{part._lacks('log_density')}: join takes laws P⁺(a|x)"
            raise CapabilityError(msg)
    flat = [p for part in parts for p in _parts_of(part)]
    return Joined(tuple(flat))


def _parts_of(context: Context) -> tuple[Any, ...]:
    return context.contexts if isinstance(context, Joined) else (context,)


def _host(values: Any) -> np.ndarray:
    return np.asarray(gathered(values), np.float64)


def _products(
    rows: list[np.ndarray], p_x: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of ∏_j P_j(a_j|x) over all tuples, the last part running fastest."""
    *others, last = rows
    if not others:
        yield last, np.matmul(p_x, last)
        return
    step = max(1, _BLOCK // max(1, last.size))
    for block, _ in _products(others, p_x):
        for start in range(0, block.shape[1], step):
            some = block[:, start : start + step]
            # (n, b, m) as (n, b m).
            product = (some[:, :, None] * last[:, None, :]).reshape(len(last), -1)
            yield product, np.matmul(p_x, product)


def _entries(context: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        shares = _host(context.slot_weights()).reshape(-1)
    elif isinstance(context, SparseJoint):
        n = context.shape[0]
        rows, columns, weights = map(
            np.asarray, (context.rows, context.columns, context.weights)
        )
        weights = weights.astype(np.float64)
        shares = weights / np.bincount(rows, weights, n)[rows]
    else:
        table = _host(rows_of(context))
        n = len(table)
        rows, columns = np.nonzero(table)
        shares = table[rows, columns]
    starts = np.searchsorted(rows, np.arange(n + 1))
    return starts, columns, shares
