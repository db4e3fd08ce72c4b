"""The tuple of what several contexts give: stronger than each of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.contexts._base import CapabilityError, Context
from contexture_jax.contexts._density import all_log_densities
from contexture_jax.contexts._parts import (
    check_one_input,
    is_numbered,
    law_of_x,
    parts_on_one_input,
)
from contexture_jax.contexts._sampling import row_keys
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates
from contexture_jax.contexts._tuples import (
    TupleContext,
    conditionals,
    entries_of,
    on_host,
)

__all__ = ["Joined", "join"]


@pytree_dataclass
class Joined(TupleContext):
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

    def _gives(self, name: str) -> bool:
        if name in ("sample", "log_density", "at"):
            return self._all(name)
        if self.known is not None:
            return False
        # Of the zoo, points have a form of their own, and no numbers.
        is_numbered_law = self.is_enumerable and all(map(is_numbered, self.contexts))
        return name == "kernel" and is_numbered_law

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

    @property
    def tupled(self) -> tuple[Any, ...]:
        """The parts."""
        return self.contexts

    @property
    def dtype(self) -> Any:
        """The floating dtype of the laws of the parts."""
        return jnp.result_type(*(law_of_x(part).dtype for part in self.contexts))

    def num_entries(self) -> int:
        """Σ_x ∏_j (a_j that x may have)."""
        counts = [np.diff(entries_of(part)[0]).astype(float) for part in self.contexts]
        return int(functools.reduce(np.multiply, counts).sum())

    def _blocks_of_rows(self) -> Iterator[np.ndarray]:
        joins = [self] if self.known is None else [self.known, self]
        both = zip(*(join.contexts for join in joins), strict=True)
        return conditionals([list(parts) for parts in both])

    def _list_tuples(self) -> tuple[SparseJoint, np.ndarray]:
        p_x = on_host(self.law_of_x())
        # Entries so far: their row, their tuple as columns of it, and ∏ P_j(a_j|x).
        rows, columns, shares = np.arange(len(p_x)), [], np.ones(len(p_x))
        for part in self.contexts:
            starts, values, weights = entries_of(part)
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
    parts = parts_on_one_input(contexts, "join")
    for part in parts:
        if not {"sample", "log_density"} & set(part.capabilities):
            msg = (
                f"{part._lacks('log_density')}: join takes laws P⁺(a|x); functions of"
                " each go side by side by cx.evaluation.concatenate"
            )
            raise CapabilityError(msg)
    flat = [p for part in parts for p in _parts_of(part)]
    return Joined(tuple(flat))


def _parts_of(context: Context) -> tuple[Any, ...]:
    return context.contexts if isinstance(context, Joined) else (context,)
