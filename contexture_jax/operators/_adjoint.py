"""T* as an operator of its own, by the products of T."""

from __future__ import annotations

import dataclasses
from typing import Any

from contexture_jax._core.fingerprint import mirrored
from contexture_jax._core.types import Array, Float, Size, pytree_dataclass, unchecked
from contexture_jax.operators._base import AssociationOperator, Cost, check_operator

__all__ = ["AdjointOperator", "reverse"]


@pytree_dataclass
class AdjointOperator(AssociationOperator):
    """T* as an operator of its own: X and A in each other's place.

    Attributes:
        operator: T.
        p_x: its P_A.
        p_a: its P_X.
    """

    operator: AssociationOperator
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T* g."""
        return self.operator.rmatmat(g)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T f."""
        return self.operator.matmat(f)

    def squared_norm(self) -> Float[Array, ""] | None:
        """That of T."""
        return self.operator.squared_norm()

    def padded(self) -> AssociationOperator:
        """With the rows of T padded."""
        inner = self.operator.padded()
        if inner is self.operator:
            return self
        return _adjoint(inner, self.fingerprint)

    @property
    def share(self) -> tuple[Size, Size]:
        """That of T, the other way round."""
        rows, columns = self.operator.share
        return columns, rows

    def collectives(self, r: int) -> tuple[Any, ...]:
        """Those of T, whose products are in each other's place."""
        other = {"matmat": "rmatmat", "rmatmat": "matmat"}
        return tuple(
            each._replace(product=other[each.product])
            for each in self.operator.collectives(r)
        )

    def cost(self, r: int) -> Cost:
        """That of T, with input and output in each other's place."""
        n, m = self.share
        forward = self.operator.cost(r)
        size = self.dtype.itemsize
        return forward._replace(
            # The block comes from the other side; the arrays are the same.
            argument_bytes=forward.argument_bytes + size * (m - n) * r,
            output_bytes=size * n * r,
        )


def reverse(operator: AssociationOperator) -> AssociationOperator:
    """X and A in each other's place: T*, as `op.T`; the reverse of that is T again.

    Args:
        operator: T, shape (n, m); what comes has the shape (m, n).

    Raises:
        TypeError: if it is no operator.
    """
    check_operator(operator, "operator")
    if isinstance(operator, AdjointOperator):
        # Not the adjoint of an adjoint: products go no deeper.
        return operator.operator
    return _adjoint(operator, mirrored(operator.fingerprint))


def _adjoint(operator: AssociationOperator, mark: Any) -> AdjointOperator:
    # Its leaves may be shapes.
    return unchecked(
        AdjointOperator,
        operator=operator,
        p_x=operator.p_a,
        p_a=operator.p_x,
        fingerprint=mark,
    )
