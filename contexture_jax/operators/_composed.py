"""Operators made of operators, named as contexts are mixed (theory.md §4)."""

from __future__ import annotations

import dataclasses
import itertools
import operator as py
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import gap_of_laws, is_traced
from contexture_jax._core.fingerprint import fingerprint
from contexture_jax._core.forms import of_a_list, one_by_one
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import as_law, cast_floating, safe_divide
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Size,
    Static,
    pytree_dataclass,
    static_field,
)
from contexture_jax.operators._adjoint import reverse
from contexture_jax.operators._base import (
    AssociationOperator,
    Cost,
    check_operator,
    check_total,
)
from contexture_jax.operators._padding import (
    as_long,
    moved,
    of_padded,
    replaced,
    with_rows,
)
from contexture_jax.operators.sharded._common import cut_of, keep_cut, pad_law

__all__ = [
    "ComposedOperator",
    "ConvexCombinationOperator",
    "MixtureOperator",
    "alike",
    "as_operators",
    "compose",
    "convex_combination",
    "convolve",
    "mark",
    "mixture",
]


@pytree_dataclass
class ComposedOperator(AssociationOperator):
    """The chain T₁ T₂ …: X → A₁ → A₂ → ….

    Attributes:
        operators: T₁, T₂, …; the A of each is the X of the next.
        p_x: P_X of the first, shape (n,).
        p_a: P_A of the last, shape (m,).
    """

    operators: tuple[AssociationOperator, ...]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T₁ (T₂ (… g))."""
        # Each takes functions of its A to functions of its X: the last one begins.
        for operator in reversed(self.operators):
            g = operator.matmat(with_rows(g, operator.shape[1]))
        return g

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """… T₂* (T₁* f)."""
        for operator in self.operators:
            f = operator.rmatmat(with_rows(f, operator.shape[0]))
        return f

    def padded(self) -> AssociationOperator:
        """With the rows of all factors padded, as far as their devices cut them."""
        chain = tuple(operator.padded() for operator in self.operators)
        if all(map(py.is_, chain, self.operators)):
            return self
        return replaced(self, operators=chain, p_x=chain[0].p_x, p_a=chain[-1].p_a)

    @property
    def share(self) -> tuple[Size, Size]:
        """Of X that of the first factor, of A that of the last."""
        return self.operators[0].share[0], self.operators[-1].share[1]

    def cost(self, r: int) -> Cost:
        """The factors one after the other, each with what goes in and comes out."""
        whole = _sum_costs(self, self.operators, r)
        last, size = len(self.operators) - 1, self.dtype.itemsize
        # The block that the last factor takes, the first to work, is an argument, and
        # what the first one gives the output.
        work = [
            op.cost(r).temporary_bytes
            + size * r * ((j < last) * op.share[1] + (j > 0) * op.share[0])
            for j, op in enumerate(self.operators)
        ]
        return whole._replace(temporary_bytes=max(work))


@pytree_dataclass
class MixtureOperator(AssociationOperator):
    """Mixture with a hidden index: P⁺ = Σ_j w_j P_j⁺ on common spaces.

    (T g)(x) = Σ_j w_j (p_j(x) / p(x)) (T_j g)(x), which is Σ_j w_j T_j where all P_X
    agree.

    Attributes:
        operators: T_j, all of one shape.
        weights: w_j, shape (j,), summing to 1.
        p_x: Σ_j w_j p_j on inputs, shape (n,).
        p_a: Σ_j w_j p_j on context values, shape (m,).
    """

    operators: tuple[AssociationOperator, ...]
    weights: Float[Array, " j"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """Σ_j w_j (p_j / p) T_j g."""
        # Of joint laws: p_j T_j g is added up, and p divided out at the end.
        total = jnp.zeros((self.shape[0], g.shape[1]), self.dtype)
        for j, operator in enumerate(self.operators):
            law = self.weights[j] * operator.p_x
            total = _with_term(total, law, operator.matmat(g))
        # 0 where no part has mass.
        return safe_divide(total, self.p_x[:, None])

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """Σ_j w_j (p_j / p) T_j* f."""
        total = jnp.zeros((self.shape[1], f.shape[1]), self.dtype)
        for j, operator in enumerate(self.operators):
            # By Bayes' rule: part j is behind a value a with w_j p_j(a) / p(a).
            law = self.weights[j] * operator.p_a
            total = _with_term(total, law, operator.rmatmat(f))
        return safe_divide(total, self.p_a[:, None])

    def padded(self) -> AssociationOperator:
        """With the rows of all terms padded."""
        parts = tuple(operator.padded() for operator in self.operators)
        alike = len({part.shape for part in parts}) == 1
        p_a = as_long(self.p_a, parts[0].shape[1], cut_of(self))
        return of_padded(self, parts, p_a) if alike else self

    @property
    def share(self) -> tuple[Size, Size]:
        """That of its terms."""
        return self.operators[0].share

    def cost(self, r: int) -> Cost:
        """The terms one after the other."""
        return _sum_costs(self, self.operators, r)


@pytree_dataclass
class ConvexCombinationOperator(AssociationOperator):
    """Mixture with a visible index: A = (J, A_J), P(J = j) = w_j.

    (T g)(x) = Σ_j w_j (p_j(x) / p(x)) (T_j g_j)(x), so that T T* = Σ_j w_j T_j T_j*
    where all P_X agree: the convex combination of contexts.

    Attributes:
        operators: T_j, all with the same number of inputs.
        weights: w_j, shape (j,), summing to 1.
        p_x: Σ_j w_j p_j on inputs, shape (n,).
        p_a: w_j times the P_A of T_j, one after the other, shape (Σ m_j,).
        sizes: m_j, where the operators have rows of padding besides; () where they
            have none. Static.
    """

    operators: tuple[AssociationOperator, ...]
    weights: Float[Array, " j"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    sizes: tuple[int, ...] = static_field(default=())
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """Σ_j w_j (p_j / p) T_j g_j."""
        total = jnp.zeros((self.shape[0], g.shape[1]), self.dtype)
        start = 0
        for j, (operator, size) in enumerate(self._parts()):
            # Functions of (J, A_J) are those of the parts, one below the other.
            own = moved(g, -start, operator.shape[1], size)
            part = operator.matmat(own)
            total = _with_term(total, self.weights[j] * operator.p_x, part)
            start += size
        return keep_cut(safe_divide(total, self.p_x[:, None]), cut_of(self))

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T_j* f, one after the other."""
        # Given J = j and a, X has the law of part j: no weights.
        parts = [(operator.rmatmat(f), size) for operator, size in self._parts()]
        cut = cut_of(self)
        if cut is None:
            return jnp.concatenate([part for part, _ in parts])
        # To lay together what is cut the compiler brings all of it to all devices; to
        # lay rows of zeros around it each row goes once, where it belongs.
        total, start = jnp.zeros((self.shape[1], f.shape[1]), self.dtype), 0
        for part, size in parts:
            total += moved(part, start, self.shape[1], size)
            start += size
        return keep_cut(total, cut)

    def _parts(self) -> list[tuple[AssociationOperator, int]]:
        """The operators, and m_j."""
        sizes = self.sizes or [operator.shape[1] for operator in self.operators]
        return list(zip(self.operators, sizes, strict=True))

    def padded(self) -> AssociationOperator:
        """With the rows of all terms padded, and values of no mass after the last A."""
        parts = tuple(operator.padded() for operator in self.operators)
        alike = len({part.shape[0] for part in parts}) == 1
        cut, sizes = cut_of(self), tuple(size for _, size in self._parts())
        p_a = self.p_a if cut is None else pad_law(self.p_a, *cut)
        return of_padded(self, parts, p_a, sizes=sizes) if alike else self

    @property
    def share(self) -> tuple[Size, Size]:
        """Of X that of its terms; of A all of theirs."""
        columns = sum(operator.share[1] for operator in self.operators)
        return self.operators[0].share[0], columns

    def cost(self, r: int) -> Cost:
        """The terms one after the other."""
        return _sum_costs(self, self.operators, r)


def _with_term(total: Array, law: Array, part: Array) -> Array:
    """The sum of products with one more, (k, r), by its share of each row, (k,)."""
    share = law[:, None]
    # The choice, which is always the second, keeps the terms apart: where one is a
    # product of matrices, XLA's fusions for a CPU would take the sums of others into
    # it, and store a block for each slot of neighbours.
    return total + jnp.where(share < 0, 0, share * part)


@one_by_one
def compose(*operators: AssociationOperator) -> ComposedOperator:
    """The chain T₁ T₂ …: X → A₁ → A₂ → …; P_X and the last P_A are kept.

    Args:
        *operators: T_j of shape (n_j, n_{j+1}), at least one; P_A of each is P_X of the
            next.

    Raises:
        TypeError: if one is no operator.
        ValueError: if there is none, or the law of A in one factor is not the law of X
            in the next.
    """
    chain = as_operators(operators)
    for number, (one, two) in enumerate(itertools.pairwise(chain)):
        # Between two laws of A₁ the adjoints would not compose.
        _check_one_law((one.p_a, "A", number), (two.p_x, "X", number + 1))
    return ComposedOperator(
        chain, chain[0].p_x, chain[-1].p_a, fingerprint=mark("compose", chain)
    )


@one_by_one
def convolve(*operators: AssociationOperator) -> ComposedOperator:
    """T₁ T₁* T₂: a step of the first's dual kernel, X → X′, then the second.

    Of more than two, a step of each but the last: T₁ T₁* T₂ T₂* … T_r.

    Args:
        *operators: T_j, at least one, of shapes (n, m_j) and with one P_X.

    Raises:
        TypeError: if one is no operator.
        ValueError: if they have not one law of X, or there is none.
    """
    parts = as_operators(operators)
    for number, op in enumerate(parts):
        _check_one_law((parts[0].p_x, "X", 0), (op.p_x, "X", number))
    *first, last = parts
    # T₁ T₁* leads from X to X, and keeps its law (theory.md §4.6).
    return compose(*(part for op in first for part in (op, reverse(op))), last)


@of_a_list
@beside_context
def mixture(
    operators: Sequence[AssociationOperator], weights: ArrayLike | None = None
) -> MixtureOperator:
    """The mixture of joint laws with a hidden index: P⁺ = Σ_j w_j P_j⁺.

    Args:
        operators: T_j, all of one shape.
        weights: w_j, shape (j,), non-negative, summing to 1. Equal by default. Traced
            ones are normalised.

    Raises:
        TypeError: if one is no operator, or weights are no real numbers.
        ValueError: if shapes differ, a weight is negative or not finite, or their sum
            is not 1.
    """
    terms = as_operators(operators)
    shapes = {operator.shape for operator in terms}
    if len(shapes) != 1:
        msg = f"operators must have one shape; got {sorted(shapes)}"
        raise ValueError(msg)
    w = _as_weights(weights, terms, "mixture")
    # Marginals of a mixture are mixtures of marginals, (n,) and (m,).
    p_x = sum(w[j] * op.p_x for j, op in enumerate(terms))
    p_a = sum(w[j] * op.p_a for j, op in enumerate(terms))
    own = mark("mixture", terms, w)
    return MixtureOperator(
        terms, w, jnp.asarray(p_x), jnp.asarray(p_a), fingerprint=own
    )


@of_a_list
@beside_context
def convex_combination(
    operators: Sequence[AssociationOperator], weights: ArrayLike | None = None
) -> ConvexCombinationOperator:
    """The mixture of contexts with a visible index, A = (J, A_J).

    T T* = Σ_j w_j T_j T_j* where all P_X agree.

    Args:
        operators: T_j, all with the same number of inputs.
        weights: as in `mixture`.

    Raises:
        TypeError: as in `mixture`.
        ValueError: if numbers of inputs differ, or as in `mixture`.
    """
    terms = as_operators(operators)
    sizes = {operator.shape[0] for operator in terms}
    if len(sizes) != 1:
        msg = f"operators must have one number of inputs; got {sorted(sizes)}"
        raise ValueError(msg)
    w = _as_weights(weights, terms, "convex_combination")
    # A sees the index: P_A is on the disjoint union of the parts' values.
    p_x = sum(w[j] * op.p_x for j, op in enumerate(terms))
    p_a = jnp.concatenate([w[j] * op.p_a for j, op in enumerate(terms)])
    own = mark("convex combination", terms, w)
    return ConvexCombinationOperator(terms, w, jnp.asarray(p_x), p_a, fingerprint=own)


def _check_one_law(
    first: tuple[Array, str, int], second: tuple[Array, str, int]
) -> None:
    """Raise unless two laws, each with its letter and operator, are one."""
    (p, one, i), (q, two, j) = first, second
    if p.shape != q.shape:
        msg = (
            f"the {one} of operator {i} must be the {two} of operator {j}; got"
            f" {p.shape[0]} and {q.shape[0]} values"
        )
        raise ValueError(msg)
    gap = 0.0 if is_traced(p, q) else gap_of_laws(p, q)
    if gap:
        msg = (
            f"the law of {one} in operator {i} must be the law of {two} in operator"
            f" {j}; they differ by {gap:.3g} in total variation (×2), and no joint law"
            " has both"
        )
        raise ValueError(msg)


def as_operators(operators: Iterable[Any]) -> tuple[AssociationOperator, ...]:
    """The operators of a list, one or more."""
    terms = tuple(operators)
    for number, term in enumerate(terms):
        check_operator(term, f"operators[{number}]")
    if not terms:
        raise ValueError("operators must hold at least one operator; got none")
    terms = tree_on_auto_axes(terms)
    cuts = {cut for term in terms if (cut := cut_of(term)) is not None}
    if len(cuts) > 1:
        found = " and ".join(sorted(f"{m.size} devices by {a!r}" for m, a in cuts))
        msg = f"operators must be cut over one mesh, or over none; got {found}"
        raise ValueError(msg)
    return terms


def alike(operators: list[AssociationOperator]) -> list[AssociationOperator]:
    """All in the narrowest dtype, which is as exact as the laws of all of them are.

    Labels have JAX's default, and data one of their own.
    """
    dtype = min((np.dtype(op.dtype) for op in operators), key=lambda d: d.itemsize)
    return [op if op.dtype == dtype else cast_floating(op, dtype) for op in operators]


def mark(
    kind: str, parts: tuple[AssociationOperator, ...], weights: Array | None = None
) -> Any:
    """The fingerprint of a composed law, from those of its parts: none of theirs."""
    # A part without a mark is told by its own values.
    known = [part if part.fingerprint is None else part.fingerprint for part in parts]
    return fingerprint((Static(kind), known, weights))


def _as_weights(
    weights: ArrayLike | None, terms: tuple[AssociationOperator, ...], word: str
) -> Float[Array, " j"]:
    given = np.ones(len(terms)) if weights is None else weights
    name = f"weights of {word}"
    law = as_law(given, name, len(terms), terms[0].dtype)
    if weights is not None and not is_traced(weights):
        total = np.sum(np.asarray(weights, np.float64))
        check_total(total, name, ", as weights / sum(weights) does")
    return law


def _sum_costs(
    whole: AssociationOperator, parts: tuple[AssociationOperator, ...], r: int
) -> Cost:
    """Flops add up; outputs are work space of the whole, but for one of them.

    Those that are made as they are added are none, and the whole is one of them.
    """
    stored = sum(not part.is_made_in_place for part in parts)
    if stored == len(parts):
        stored -= 1
    costs = [part.cost(r) for part in parts]
    n, m = whole.share
    size = whole.dtype.itemsize
    # Each counts a block that comes in, and the whole has only one.
    inputs = sum(size * part.share[1] * r for part in parts)
    return Cost(
        flops=sum(c.flops for c in costs),
        argument_bytes=sum(c.argument_bytes for c in costs) - inputs + size * m * r,
        output_bytes=size * n * r,
        temporary_bytes=max(c.temporary_bytes for c in costs) + stored * size * n * r,
    )
