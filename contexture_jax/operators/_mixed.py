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

from contexture_jax._core.checks import check_concrete, gathered
from contexture_jax._core.numerics import cast_floating, safe_divide
from contexture_jax._core.types import Array, Float, pytree_dataclass
from contexture_jax.contexts import (
    CapabilityError,
    Composed,
    ConvexCombination,
    DualStep,
    Joined,
    Mixture,
    Reversed,
    joint,
)
from contexture_jax.contexts import join as join_contexts
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
    compose,
    convex_combination,
    mixture,
    reverse,
)
from contexture_jax.operators._expectation import expectation
from contexture_jax.operators._numbered import entries_operator

__all__ = ["ReweightedOperator", "join"]


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

    def cost(self, r: int) -> Cost:
        """That of T, and a mask."""
        inner = self.operator.cost(r)
        n, m = self.shape
        return inner._replace(
            flops=inner.flops + n * r,
            argument_bytes=inner.argument_bytes + self.dtype.itemsize * (2 * n + m),
            temporary_bytes=inner.temporary_bytes + inner.output_bytes,
        )


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


def _alike(operators: list[AssociationOperator]) -> list[AssociationOperator]:
    """All in the narrowest dtype, which is as exact as the laws of all of them are.

    Labels have JAX's default, and data one of their own.
    """
    dtype = min((np.dtype(op.dtype) for op in operators), key=lambda d: d.itemsize)
    return [op if op.dtype == dtype else cast_floating(op, dtype) for op in operators]


@build.register
def _(context: Reversed, place: Place) -> AssociationOperator:
    return reverse(build(context.source, place))


@build.register
def _(context: DualStep, place: Place) -> AssociationOperator:
    op = build(context.source, place)
    if context.new is None:
        return compose(op, reverse(op))
    there, op = _alike([build(context.new, place), op])
    back = _reweighted(reverse(op), there.p_a)
    return ComposedOperator((there, back), there.p_x, back.p_a)


@build.register
def _(context: Composed, place: Place) -> AssociationOperator:
    parts = _alike([build(part, place) for part in context.contexts])
    if context.is_stationary:
        return compose(*parts)
    chain = parts[:1]
    for part in parts[1:]:
        chain.append(_reweighted(part, chain[-1].p_a))
    return ComposedOperator(tuple(chain), chain[0].p_x, chain[-1].p_a)


@build.register
def _(context: ConvexCombination, place: Place) -> AssociationOperator:
    parts = _alike([build(part, place) for part in context.contexts])
    return convex_combination(parts, context.weights)


@build.register
def _(context: Mixture, place: Place) -> AssociationOperator:
    parts = _alike([build(part, place) for part in context.contexts])
    return mixture(parts, context.weights)


@build.register
def _(context: Joined, place: Place) -> AssociationOperator:
    if "kernel" not in context.capabilities:
        msg = (
            f"{context._lacks('kernel')}. On a sample of inputs its operator can be"
            " estimated: cx.operators.monte_carlo_operator"
        )
        raise CapabilityError(msg)
    check_concrete(context, "a join")
    if context.is_sparse:
        law, _ = context.tuples_that_occur()
        rows, columns, weights = map(np.asarray, (law.rows, law.columns, law.weights))
        # Tuples that one input alone has say the same: P(x|a) = 1. One column for them,
        # in L²(P_A) an isometry.
        lonely = np.bincount(columns)[columns] == 1
        _, number = np.unique(np.where(lonely, -1 - rows, columns), return_inverse=True)
        shape = (law.shape[0], int(number.max()) + 1)
        return entries_operator(rows, number, weights, shape, place.mesh, place.axis)
    return dense_over(jnp.asarray(_dual_root(context), context.dtype), place)


def _dual_root(context: Joined) -> np.ndarray:
    """D^{1/2} (M Mᵀ)^{1/2} D^{1/2}, shape (n, n), of M = D^{1/2} T D_A^{-1/2}.

    M has a column for each tuple, and is never there: of M = L Q, Q with orthonormal
    rows, L is found block by block, and L = U S Vᵀ gives the root U S Uᵀ, which has the
    singular values and left vectors of M, each to eps. Of M Mᵀ they would be to √eps.
    √p is an eigenvector of the root to 1, so that both its laws are p; entries may be
    negative, as those of a teacher.
    """
    root = np.sqrt(np.asarray(gathered(context.law_of_x()), np.float64))
    triangle: Any = np.zeros((0, len(root)))
    for block, p_a in context.blocks():
        inverse = np.divide(1.0, np.sqrt(p_a), out=np.zeros_like(p_a), where=p_a > 0)
        columns = (root[:, None] * block * inverse[None, :]).T
        triangle = np.linalg.qr(np.concatenate([triangle, columns]), mode="r")
    u, s, _ = np.linalg.svd(triangle.T, full_matrices=False)
    return root[:, None] * np.matmul(u * s, u.T) * root[None, :]


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
    if isinstance(operators, AssociationOperator):
        raise TypeError("join takes a list of operators; got one")
    for number, op in enumerate(operators):
        check_operator(op, f"operators[{number}]")
    tables = [joint(op.p_x[:, None] * op.as_matrix()) for op in operators]
    return association_operator(join_contexts(tables))


# At new points T alone is needed: parts after the first are those of the context.
@expectation.register
def _(context: Composed, g: Array) -> Array:
    for part in reversed(context.contexts):
        g = expectation(part, g)
    return g


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
    """How many values A has, from shapes alone."""
    shape = getattr(context, "shape", None)
    if shape is not None:
        return shape[1]
    return jax.eval_shape(context.table).shape[1]
