"""Operators side by side: T₁ ⊗ T₂ ⊗ …, never multiplied out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import Array, Float, pytree_dataclass
from contexture_jax.contexts import TensorProduct
from contexture_jax.operators._base import AssociationOperator, Cost
from contexture_jax.operators._build import Place, build
from contexture_jax.operators._composed import alike, as_operators, mark

__all__ = ["TensorProductOperator", "tensor_product"]


@pytree_dataclass
class TensorProductOperator(AssociationOperator):
    """Independent pairs (X_j, A_j) side by side: T = T₁ ⊗ T₂ ⊗ ….

    Attributes:
        operators: T_j.
        p_x: the product of their P_X, shape (∏ n_j,), the last running fastest.
        p_a: that of their P_A, shape (∏ m_j,).
    """

    operators: tuple[AssociationOperator, ...]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T₁ along the first axis of (m₁, …, r), T₂ along the second, …."""
        return _along_axes([(op.matmat, op.shape[1]) for op in self.operators], g)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T_j* along the axes."""
        return _along_axes([(op.rmatmat, op.shape[0]) for op in self.operators], f)

    def squared_norm(self) -> Float[Array, ""] | None:
        """∏ ‖T_j‖²."""
        norms = [op.squared_norm() for op in self.operators]
        known = [norm for norm in norms if norm is not None]
        return math.prod(known) if len(known) == len(norms) else None  # pyright: ignore

    def _widths(self, r: int, *, side: int) -> list[int]:
        """How many columns each part is given, of r functions of X (0) or of A (1)."""
        widths, wide = [], self.shape[side] * r
        for op in self.operators:
            widths.append(wide // op.shape[side])
            wide = widths[-1] * op.shape[1 - side]
        return widths

    def collectives(self, r: int) -> tuple[Any, ...]:
        """Those of the parts, each on as many columns as the other axes make."""
        return tuple(
            each
            for side, product in enumerate(("rmatmat", "matmat"))
            for op, width in zip(
                self.operators, self._widths(r, side=side), strict=True
            )
            for each in op.collectives(width)
            if each.product == product
        )

    def cost(self, r: int) -> Cost:
        """Each part on as many columns as the other axes make."""
        size, (n, m) = self.dtype.itemsize, self.shape
        costs = [
            (op.cost(width), size * op.shape[1] * width)
            for op, width in zip(self.operators, self._widths(r, side=1), strict=True)
        ]
        arrays = sum(cost.argument_bytes - block for cost, block in costs)
        return Cost(
            flops=sum(cost.flops for cost, _ in costs),
            argument_bytes=arrays + size * m * r,
            output_bytes=size * n * r,
            # A block that goes in, one that comes out, and the part's own work.
            temporary_bytes=max(
                c.temporary_bytes + c.output_bytes + block for c, block in costs
            ),
        )


def _along_axes(
    maps: list[tuple[Callable[[Array], Array], int]], block: Array
) -> Array:
    r = block.shape[1]
    for apply, size in maps:
        # (size, rest): after each map its axis goes to the end, and the next is first.
        block = apply(block.reshape(size, -1)).T
    return block.reshape(r, -1).T


@of_a_list
def tensor_product(operators: Sequence[AssociationOperator]) -> TensorProductOperator:
    """Operators side by side, each of an input of its own: T₁ ⊗ T₂ ⊗ ….

    Args:
        operators: T_j, at least one.

    Raises:
        TypeError: if one is no operator.
        ValueError: if there is none.
    """
    parts = as_operators(operators)
    p_x, p_a = (
        functools.reduce(jnp.kron, laws)
        for laws in ([op.p_x for op in parts], [op.p_a for op in parts])
    )
    of_parts = mark("tensor product", parts)
    return TensorProductOperator(parts, p_x, p_a, fingerprint=of_parts)


@build.register
def _(context: TensorProduct, place: Place) -> AssociationOperator:
    return tensor_product(alike([build(part, place) for part in context.contexts]))
