"""Operators of contexts some of whose parts are drawn, and the others exact.

A law of A at any x, on rows of data, is known by draws of A from its P_A. Where a
context steps back from A to the rows, it has no density, but an operator: that of the
same context with a table of draws in place of the law.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_concrete
from contexture_jax._core.numerics import safe_divide, safe_sqrt
from contexture_jax._core.types import Array, Float, pytree_dataclass, static_field
from contexture_jax.contexts import (
    CapabilityError,
    Context,
    DenseJoint,
    OnRows,
    Posterior,
)
from contexture_jax.operators._base import AssociationOperator, Cost
from contexture_jax.operators._build import association_operator

__all__ = ["DrawnOperator", "drawn_kernel", "drawn_operator"]


@pytree_dataclass
class _Drawn(DenseJoint):
    """The law of a row and the number of a draw: P⁺(a_j|x_i) / P_A(a_j), row by row."""

    num_batches: int = static_field(default=1)

    def without(self, batch: int) -> _Drawn:
        """The same of all draws but those of a batch."""
        n, num = self.shape[0], self.num_batches
        kept = jnp.delete(self.probabilities.reshape(n, num, -1), batch, axis=1)
        return _drawn(kept.reshape(n, -1), num - 1)


def _drawn(joint: Float[Array, "n m"], num_batches: int) -> _Drawn:
    mass = joint.sum(axis=1, keepdims=True)
    if is_concrete(mass):
        lost = np.flatnonzero(np.asarray(mass) <= 0)
        if lost.size:
            msg = (
                "num_samples must be so many that each row has a draw that is possible"
                f" there, without any of the batches; row {lost[0]} has none"
            )
            raise ValueError(msg)
    # Each row is a law, so that P_X is what the other parts have.
    shares = safe_divide(joint, mass) / joint.shape[0]
    return _Drawn(shares, has_profiles=False, num_batches=num_batches)


@pytree_dataclass
class DrawnOperator(AssociationOperator):
    """The operator of a context with tables of draws in place of laws at any x.

    Attributes:
        operator: of that context.
        p_x: its P_X, shape (n,).
        p_a: its P_A, shape (m,).
        context: the context; each table has as many batches of draws.
        num_batches: how many. Static.
    """

    operator: AssociationOperator
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    context: Any
    num_batches: int = static_field()
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g."""
        return self.operator.matmat(g)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f."""
        return self.operator.rmatmat(f)

    def squared_norm(self) -> Float[Array, ""] | None:
        """That of the operator."""
        return self.operator.squared_norm()

    def cost(self, r: int) -> Cost:
        """That of the operator."""
        return self.operator.cost(r)

    def without(self, batch: int) -> AssociationOperator:
        """The operator by all draws but those of a batch."""
        rest = _replaced(self.context, _Drawn, lambda part: part.without(batch))
        return association_operator(rest)


def _replaced(context: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A context with parts of a kind changed."""

    def is_part(node: Any) -> bool:
        return isinstance(node, (kind, Posterior))

    def changed(node: Any) -> Any:
        # What steps back is drawn from and has no part in an operator.
        if isinstance(node, Posterior):
            return None
        return change(node) if isinstance(node, kind) else node

    return jax.tree.map(changed, context, is_leaf=is_part)


def drawn_operator(
    context: Context,
    draw: Callable[[Array, OnRows], Float[Array, "n m"]],
    key: Array,
    num_batches: int,
) -> DrawnOperator | None:
    """The operator of a context with its laws on rows drawn; None: it has none.

    Args:
        context: made of contexts, some of them `OnRows`.
        draw: from a key and such a part to P⁺(a_j|x_i) / P_A(a_j) up to a factor,
            (n, m), batch by batch.
        key: random key; each part has one of its own.
        num_batches: of each table.
    """
    places = iter(range(2**31))

    def table(part: OnRows) -> _Drawn:
        own = jax.random.fold_in(key, next(places))
        return _drawn(draw(own, part), num_batches)

    drawn = _replaced(context, OnRows, table)
    if not next(places):
        return None
    try:
        op = association_operator(drawn)
    except CapabilityError:  # of another part
        return None
    return DrawnOperator(
        op, op.p_x, op.p_a, drawn, num_batches, fingerprint=drawn.fingerprint
    )


def drawn_kernel(
    op: DrawnOperator, x: Array, x2: Array
) -> tuple[Float[Array, "k l"], Float[Array, "k l"]]:
    """The dual kernel of rows by number, less its bias, and its standard error.

    Of the jackknife over batches.
    """
    places = jnp.arange(x2.shape[0])

    def kernel(operator: AssociationOperator) -> Array:
        # T T* of an indicator over its mass is a column of the kernel.
        f = jnp.zeros((operator.shape[0], x2.shape[0]), operator.dtype)
        f = f.at[x2, places].set(1.0 / operator.p_x[x2])
        return operator.matmat(operator.rmatmat(f))[x]

    whole, num = kernel(op.operator), op.num_batches
    others = jnp.stack([kernel(op.without(batch)) for batch in range(num)])
    mean = others.mean(axis=0)
    variance = ((others - mean[None]) ** 2).mean(axis=0)
    return num * whole - (num - 1) * mean, safe_sqrt((num - 1) * variance)
