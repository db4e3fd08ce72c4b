"""Operators of contexts that are made of contexts: made of the operators of the parts.

No tables are multiplied: products go through the parts, on one device or over a mesh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_real,
    check_concrete,
    check_nonnegative,
    check_probabilities,
    check_values,
    gathered,
)
from contexture_jax._core.forms import of_a_list
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import as_law, mm, safe_divide
from contexture_jax._core.symmetrised import marginal_roots, symmetrised
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Size,
    pytree_dataclass,
)
from contexture_jax.contexts import (
    CapabilityError,
    Composed,
    ConvexCombination,
    DualStep,
    Mixture,
    Reversed,
    TupleContext,
    joint,
)
from contexture_jax.contexts import join as join_contexts
from contexture_jax.operators._adjoint import reverse
from contexture_jax.operators._base import (
    AssociationOperator,
    Cost,
    check_operator,
    check_total,
)
from contexture_jax.operators._build import (
    Place,
    association_operator,
    build,
    dense_over,
)
from contexture_jax.operators._composed import (
    ComposedOperator,
    alike,
    as_operators,
    compose,
    convex_combination,
    mark,
    mixture,
)
from contexture_jax.operators._expectation import expectation
from contexture_jax.operators._numbered import entries_operator
from contexture_jax.operators._padding import as_long, replaced
from contexture_jax.operators.sharded._common import cut_of

__all__ = ["ReweightedOperator", "join", "reweight"]

_LOST = 1e-5  # probability that may be missing by rounding


@pytree_dataclass
class ReweightedOperator(AssociationOperator):
    """The conditional laws of an operator under another law of X.

    T g is the same, and T'* f = (p_a / p'_a) T* (p'_x / p_x f), p'_a = p_a T* (p'_x /
    p_x).

    Attributes:
        operator: T, with the laws p_x and p_a.
        ratio: p'_x / p_x, shape (n,), 0 where p_x is.
        p_x: p'_x, shape (n,).
        p_a: p'_a, shape (m,).
    """

    operator: AssociationOperator
    ratio: Float[Array, " n"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g, 0 where p'_x is."""
        return self.operator.matmat(g) * (self.p_x > 0)[:, None]

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T'* f."""
        out = self.operator.rmatmat(self.ratio[:, None] * f)
        return safe_divide(self.operator.p_a[:, None] * out, self.p_a[:, None])

    def padded(self) -> AssociationOperator:
        """With the rows of T padded."""
        inner, cut = self.operator.padded(), cut_of(self)
        if cut is None or inner is self.operator:
            return self
        n, m = inner.shape
        return replaced(
            self,
            operator=inner,
            ratio=as_long(self.ratio, n, cut),
            p_x=as_long(self.p_x, n, cut),
            p_a=as_long(self.p_a, m, cut),
        )

    @property
    def share(self) -> tuple[Size, Size]:
        """That of T."""
        return self.operator.share

    def cost(self, r: int) -> Cost:
        """That of T, and a mask."""
        inner = self.operator.cost(r)
        n, m = self.share
        return inner._replace(
            flops=inner.flops + n * r,
            argument_bytes=inner.argument_bytes + self.dtype.itemsize * (2 * n + m),
            temporary_bytes=inner.temporary_bytes + inner.output_bytes,
        )


@beside_context
def reweight(op: AssociationOperator, weights: ArrayLike) -> ReweightedOperator:
    """The operator of P'(x, a) ∝ w(x) P⁺(x, a): another law of X, the same P(a | x).

    Exact in every storage, with the products of `op` alone: T' g = T g, and P'_A = P_A
    T* w for E w = 1 (theory.md §9.3).

    Args:
        op: T, shape (n, m).
        weights: w, shape (n,), non-negative, in any scale; P'_X = w P_X / E w.

    Raises:
        TypeError: if `op` is no operator, or weights are no real numbers.
        ValueError: if there are other than n weights, one is negative or not finite,
            none is positive where P_X is, or P'_A comes out negative, as it may where
            P⁺ has negative entries (a teacher's).

    Example:
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[3, 1], [1, 3]]))
        >>> cx.operators.reweight(op, [1, 3]).p_a
        Array([0.375, 0.625], dtype=float32)
    """
    check_operator(op, "op")
    op = tree_on_auto_axes(op)
    w = as_real(weights, "weights")
    check_probabilities(w, "weights", op.shape[0])
    w = as_law(w, "weights", op.shape[0], op.dtype)
    p_x = as_law(w * op.p_x, "weights times P_X", op.shape[0], op.dtype)
    ratio = safe_divide(p_x, op.p_x)
    p_a = op.p_a * op.rmatmat(ratio[:, None])[:, 0]
    rounding = 100 * float(np.finfo(p_a.dtype).eps)
    check_values(p_a, "the law of A", lambda v: v >= -rounding, "non-negative")
    own = mark("reweighted", (op,), p_x)
    return ReweightedOperator(op, ratio, p_x, jnp.maximum(p_a, 0), fingerprint=own)


def _reweighted(
    op: AssociationOperator, p_x: Float[Array, " n"]
) -> AssociationOperator:
    ratio = safe_divide(p_x.astype(op.dtype), op.p_x)
    p_a = op.p_a * op.rmatmat(ratio[:, None])[:, 0]
    check_total(
        p_a.sum(),
        "the law of A at x_new, whose values must be among those of the chain,",
    )
    return ReweightedOperator(op, ratio, p_x.astype(op.dtype), p_a)


@build.register
def _(context: Reversed, place: Place) -> AssociationOperator:
    return reverse(build(context.source, place))


@build.register
def _(context: DualStep, place: Place) -> AssociationOperator:
    op = build(context.source, place)
    if context.new is None:
        return compose(op, reverse(op))
    there, op = alike([build(context.new, place), op])
    back = _reweighted(reverse(op), there.p_a)
    return ComposedOperator((there, back), there.p_x, back.p_a)


@build.register
def _(context: Composed, place: Place) -> AssociationOperator:
    parts = alike([build(part, place) for part in context.contexts])
    if context.is_stationary:
        return compose(*parts)
    chain = parts[:1]
    for part in parts[1:]:
        chain.append(_reweighted(part, chain[-1].p_a))
    return ComposedOperator(tuple(chain), chain[0].p_x, chain[-1].p_a)


@build.register
def _(context: ConvexCombination, place: Place) -> AssociationOperator:
    parts = alike([build(part, place) for part in context.contexts])
    return convex_combination(parts, context.weights)


@build.register
def _(context: Mixture, place: Place) -> AssociationOperator:
    # Operators are added column by column: what has no table has columns of its own.
    for part in context.contexts:
        if "table" not in part.capabilities:
            msg = (
                f"{part._lacks('table')}, whose columns are the A that a mixture has"
                " in common. On a sample of inputs its operator can be estimated:"
                " cx.operators.monte_carlo_operator; where each index may be seen,"
                " convex_combination is exact"
            )
            raise CapabilityError(msg)
    parts = alike([build(part, place) for part in context.contexts])
    return mixture(parts, context.weights)


@build.register
def _(context: TupleContext, place: Place) -> AssociationOperator:
    if context.known is not None:
        return _at_new_inputs(context, place)
    if not context.is_enumerable:
        msg = (
            f"{context._lacks('kernel')}. On a sample of inputs its operator can be"
            " estimated: cx.operators.monte_carlo_operator"
        )
        raise CapabilityError(msg)
    check_concrete(context, "a join")
    if context.is_sparse:
        return build(context.columns()[0], place)
    root, u, s = _dual_root(context)
    joint = root[:, None] * np.matmul(u * s, u.T) * root[None, :]
    return dense_over(jnp.asarray(joint, context.dtype), place)


def _dual_root(context: TupleContext) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """√p, U and s of M = U S Vᵀ = D^{1/2} T D_A^{-1/2}, for (M Mᵀ)^{1/2} = U S Uᵀ.

    M has a column for each tuple, and is never there: of M = L Q, Q with orthonormal
    rows, L is found block by block, and L = U S Wᵀ gives the root U S Uᵀ, which has the
    singular values and left vectors of M, each to eps. Of M Mᵀ they would be to √eps.
    √p is an eigenvector of the root to 1, so that both laws of D^{1/2} U S Uᵀ D^{1/2}
    are p; entries may be negative, as those of a teacher.
    """
    p_x = _host_law(context)
    root = np.sqrt(p_x)
    triangle: Any = np.zeros((0, len(root)))
    for block, p_a in context.blocks():
        columns = symmetrised(block, marginal_roots(p_x, p_a)).T
        triangle = np.linalg.qr(np.concatenate([triangle, columns]), mode="r")
    u, s, _ = np.linalg.svd(triangle.T, full_matrices=False)
    return root, u, s


def _new_rows(context: TupleContext) -> np.ndarray:
    """T from new inputs to the values of the root of the known ones, shape (k, n).

    T_new T* is the kernel K between new and known inputs times D, so that with the
    root R = U S Uᵀ of the known T_new = K D^{1/2} R⁻¹ D^{1/2} on the span of R.
    """
    root, u, s = _dual_root(context.known)
    # What is rounding of a root has no function.
    cutoff = len(root) * np.finfo(np.float64).eps * s[0]
    inverse = np.divide(1.0, s, out=np.zeros_like(s), where=s > cutoff)
    scaled = np.matmul(context.cross_kernel() * root[None, :], u) * inverse
    return np.matmul(scaled, u.T) * root[None, :]


def _at_new_inputs(context: TupleContext, place: Place) -> AssociationOperator:
    """A law of new inputs and the values that the known join has."""
    check_concrete(context, "a join")
    table: Any = None
    if context.known.is_sparse:
        law = context.new_columns()
        rows, columns, weights = map(np.asarray, (law.rows, law.columns, law.weights))
        kept = columns < law.shape[1] - 1
        lost = 1.0 - float(weights[kept].sum())
        size = (law.shape[0], law.shape[1] - 1)
        entries = (rows[kept], columns[kept], weights[kept], size)
    else:
        table = _host_law(context)[:, None] * _new_rows(context)
        lost, entries = 1.0 - float(table.sum()), ()
    if lost > _LOST:
        msg = (
            "x_new has tuples that no input of the join has, of probability"
            f" {lost:.3g}: there is no law on the values of the join; `extend` and"
            " `conditional_expectation` take functions to be 0 there"
        )
        raise ValueError(msg)
    if entries:
        return entries_operator(*entries, place.mesh, place.axis)
    return dense_over(jnp.asarray(table, context.dtype), place)


def _host_law(context: TupleContext) -> np.ndarray:
    return np.asarray(gathered(context.law_of_x()), np.float64)


@of_a_list
def join(operators: Sequence[AssociationOperator]) -> AssociationOperator:
    """The operator of the tuple (A₁, …, A_r), independent given X, exactly.

    A tuple's law is no linear map of the T_j, so that they are taken by their matrices:
    for small cases. `contexts.join` knows the laws, and takes large sparse ones.

    Args:
        operators: T_j, at least one, with one law of X and no negative entry.

    Raises:
        TypeError: if there is none, one is no operator, or one is traced.
        ValueError: if laws of X differ, or an entry is negative, as of a teacher.
    """
    parts = as_operators(operators)
    tables = [joint(_as_law(op, number)) for number, op in enumerate(parts)]
    return association_operator(join_contexts(tables))


def _as_law(op: AssociationOperator, number: int) -> np.ndarray:
    """P⁺ of an operator, 0 where products have left less than that by rounding."""
    table = np.asarray(gathered(op.p_x[:, None] * op.as_matrix()))
    rounding = 100 * float(np.finfo(table.dtype).eps) * table.max()
    law = np.where(abs(table) <= rounding, np.maximum(table, 0), table)
    check_nonnegative(law, f"the law of operators[{number}]")
    return law


# At new points T alone is needed: parts after the first are those of the context.
@expectation.register
def _(context: Composed, g: Array) -> Array:
    for part in reversed(context.contexts):
        g = expectation(part, g)
    return g


@expectation.register
def _(context: TupleContext, g: Array) -> Array:
    if context.known is None:
        return association_operator(context).matmat(g)
    check_concrete(context, "a join")
    if context.known.is_sparse:
        # One value more, of tuples that are not known.
        return expectation(context.new_columns(), jnp.pad(g, ((0, 1), (0, 0))))
    return mm(jnp.asarray(_new_rows(context), g.dtype), g)


@expectation.register
def _(context: DualStep, g: Array) -> Array:
    back = association_operator(context.source).rmatmat(g)
    return expectation(context.forward, back)


@expectation.register
def _(context: ConvexCombination, g: Array) -> Array:
    parts = context.contexts
    sizes = [_num_values(part) for part in parts]
    blocks = jnp.split(g, [sum(sizes[: j + 1]) for j in range(len(sizes) - 1)])
    return _weighted(
        context, [expectation(p, b) for p, b in zip(parts, blocks, strict=True)]
    )


@expectation.register
def _(context: Mixture, g: Array) -> Array:
    return _weighted(context, [expectation(part, g) for part in context.contexts])


def _weighted(context: Any, terms: list[Array]) -> Array:
    weights = jnp.asarray(context.weights)
    return sum(w.astype(t.dtype) * t for w, t in zip(weights, terms, strict=True))  # pyright: ignore


def _num_values(context: Any) -> int:
    """How many values A has, from shapes alone but for a join."""
    if isinstance(context, TupleContext):
        return context.num_columns()
    shape = getattr(context, "shape", None)
    if shape is not None:
        return shape[1]
    return jax.eval_shape(context.table).shape[1]
