"""One of several contexts at random, and which one is not seen (theory.md §4.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
)
from contexture_jax.contexts._base import Context
from contexture_jax.contexts._mixtures import Indexed, as_wide, shape_of, useful
from contexture_jax.contexts._parts import (
    as_weights,
    check_kinds,
    is_numbered,
    law_of_a,
    parts_on_one_input,
    rows_of,
    sizes_of,
)
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates
from contexture_jax.contexts._tuples import TupleContext, on_host

__all__ = ["Mixture", "MixtureOfJoins", "mixture"]


@pytree_dataclass
class Mixture(Indexed):
    """A = A_J on a common A, and J not seen: P⁺ = Σ_j w_j P_j⁺, T = Σ_j w_j T_j.

    Attributes:
        contexts: the parts, with one X and one A.
        weights: w_j, shape (j,), summing to 1.
    """

    contexts: tuple[Any, ...]
    weights: Float[Array, " j"]

    def _gives(self, name: str) -> bool:
        if name == "kernel":  # of the law, which the kernels of the parts do not tell
            return self._all("table") and is_numbered(self)
        return super()._gives(name)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return shape_of(self, lambda sizes: sizes[0][1])

    def _sum(self, terms: Sequence[Array]) -> Array:
        return sum(self._weight(j, t.dtype) * t for j, t in enumerate(terms))  # pyright: ignore

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        return self._sum([rows_of(part, x) for part in self.contexts])

    def _law_of_a(self) -> Float[Array, " m"]:
        return self._sum([law_of_a(part) for part in self.contexts])

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Any:
        """Draw J, and A_J alone is given."""
        index, drawn = self._draw_all(key, x, row_offset)
        shapes = {str(jax.tree.map(jnp.shape, a)) for a in drawn}
        if len(shapes) > 1:
            msg = (
                f"mixture takes contexts with one A; they draw shapes {sorted(shapes)}"
            )
            raise ValueError(msg)
        found = drawn[0]
        for j, a in enumerate(drawn[1:], 1):
            is_chosen = index == j
            found = jax.tree.map(
                lambda new, old, chosen=is_chosen: jnp.where(
                    as_wide(chosen, new), new, old
                ),
                a,
                found,
            )
        return found

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log Σ_j w_j P_j(a|x)."""
        self._check_has("log_density")
        logs = jnp.stack([part.log_density(a, x) for part in self.contexts])
        weights = jnp.asarray(self.weights).astype(logs.dtype)
        weights = weights.reshape(-1, *(1,) * (logs.ndim - 1))
        return jax.nn.logsumexp(logs + jnp.log(weights), axis=0)

    def log_densities(self, a: Any, x: ArrayLike) -> Float[Array, "m k"]:
        """Log P⁺(a_j|x_i) for all pairs, for fixed j with respect to one measure."""
        if is_numbered(self):
            return super().log_densities(a, x)
        logs = self._by_part([a] * len(self.contexts), x)
        return jax.nn.logsumexp(logs, axis=0)


@pytree_dataclass
class MixtureOfJoins(TupleContext, Mixture):
    """A mixture of joins on the same values, J not seen: A is a tuple.

    Exact as a join is: by the tuples that occur in any of them, or by all in blocks.

    Attributes:
        contexts: the joins.
        weights: w_j, shape (j,), summing to 1.
    """

    def _gives(self, name: str) -> bool:
        return self._all(name) if name == "kernel" else super()._gives(name)

    @property
    def known(self) -> MixtureOfJoins | None:  # pyright: ignore
        """After `at` the mixture whose A this keeps; None: its own."""
        parts = tuple(join.known for join in self.contexts)
        return None if None in parts else MixtureOfJoins(parts, self.weights)

    @property
    def tupled(self) -> tuple[Any, ...]:
        """The parts of the first join, of whose values all tuples are."""
        return self.contexts[0].tupled

    @property
    def dtype(self) -> Any:
        """The floating dtype of the laws of the joins."""
        return jnp.result_type(*(join.dtype for join in self.contexts))

    @property
    def is_enumerable(self) -> bool:
        """Whether the tuples of all joins can be listed."""
        return all(join.is_enumerable for join in self.contexts)

    def num_entries(self) -> int:
        """The sum over joins, of which pairs that occur in several count often."""
        return sum(join.num_entries() for join in self.contexts)

    def _blocks_of_rows(self) -> Iterator[np.ndarray]:
        # Of joins with as many values tuples come in one order, in the same blocks.
        weights = on_host(self.weights)
        of_joins = (join._blocks_of_rows() for join in self.contexts)
        for blocks in zip(*of_joins, strict=True):
            yield np.tensordot(weights, blocks, 1)

    def _list_tuples(self) -> tuple[SparseJoint, np.ndarray]:
        laws, lists = zip(*(j.tuples_that_occur() for j in self.contexts), strict=True)
        tuples, number = np.unique(np.concatenate(lists), axis=0, return_inverse=True)
        # Of each tuple of a join its number among all of them.
        ends = np.cumsum([len(some) for some in lists])[:-1]
        numbers = np.split(number.reshape(-1), ends)
        entries = [
            (law.rows, own[np.asarray(law.columns)], weight * np.asarray(law.weights))
            for law, own, weight in zip(
                laws, numbers, on_host(self.weights), strict=True
            )
        ]
        rows, columns, joint = map(np.concatenate, zip(*entries, strict=True))
        size = (laws[0].shape[0], len(tuples))
        return coordinates(rows, columns, joint.astype(self.dtype), size), tuples


@of_a_list
def mixture(
    contexts: Sequence[Context | Any], weights: ArrayLike | None = None
) -> Mixture:
    """One of several contexts with the same A at random, and which one is not seen.

    P⁺ = Σ_j w_j P_j⁺, so that T = Σ_j w_j T_j (theory.md §4.6): another operator than
    that of `convex_combination`, and never a stronger one; its docstring says when to
    take which.

    Joins are mixed where their tuples are of the same values. The operator is exact as
    that of `join` is: by the tuples that occur, or by all, up to 2²⁶ numbers.

    Args:
        contexts: at least one, all of one X and one A: all finite with one law of X, or
            all laws of A at any x.
        weights: as in `convex_combination`.

    Raises:
        TypeError: as `convex_combination`.
        ValueError: likewise, or if the contexts have different numbers of values.

    Example:
        >>> import contexture_jax as cx
        >>> tables = [[2, 1], [1, 2]], [[1, 2], [2, 1]]
        >>> mixed = cx.contexts.mixture(list(map(cx.contexts.joint, tables)))
        >>> mixed.table().tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    parts = parts_on_one_input(contexts, "mixture")
    law = as_weights(weights, len(parts), "mixture")
    for number, part in enumerate(parts):
        check_kinds((parts[0], 1), (part, 1), "mixture", 0, number, "values")
    values = [n for part in parts if (n := _num_values(part)) is not None]
    if any(n != values[0] for n in values):
        msg = (
            f"mixture takes contexts with the same values of A; got {values} of them:"
            " where they differ, convex_combination"
        )
        raise ValueError(msg)
    if all(isinstance(part, TupleContext) for part in parts):
        return useful(_of_joins(parts, law), "mixture")
    return useful(Mixture(parts, law), "mixture")


def _num_values(context: Any) -> Any:
    """How many values A has, of a tuple each part; None: as many as there are rows."""
    if isinstance(context, TupleContext):
        return tuple(sizes_of(part)[1] for part in context.tupled)
    return sizes_of(context)[1]


def _of_joins(parts: Sequence[Any], law: Array) -> MixtureOfJoins:
    joins, weights = [], []
    for part, weight in zip(parts, np.asarray(law), strict=True):
        # Mixtures of them are one: it is associative.
        is_mixed = isinstance(part, MixtureOfJoins)
        joins += part.contexts if is_mixed else [part]
        weights.append(weight * np.asarray(part.weights) if is_mixed else weight[None])
    return MixtureOfJoins(tuple(joins), jnp.asarray(np.concatenate(weights)))
