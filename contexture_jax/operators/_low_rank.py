"""Low-rank storage: the density is 1 plus an inner product of features."""

from __future__ import annotations

import dataclasses
from typing import Any

from contexture_jax._core.checks import as_floating, check_integer, check_ndim
from contexture_jax._core.numerics import Precision, mm
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    pytree_dataclass,
    static_field,
)
from contexture_jax.operators._base import AssociationOperator, Cost, as_law_of

__all__ = ["LowRankOperator", "low_rank_operator"]


@pytree_dataclass
class LowRankOperator(AssociationOperator):
    """T with dP⁺ / d(P_X ⊗ P_A) = 1 + ⟨l(x), r(a)⟩; features have mean 0.

    Attributes:
        left: l, shape (n, e), mean 0 under `p_x`.
        right: r, shape (m, e), mean 0 under `p_a`.
        p_x: shape (n,).
        p_a: shape (m,).
        precision: the level of products with the features, of float32. Static.
    """

    _tables = ("left", "right")

    left: Float[Array, "n e"]
    right: Float[Array, "m e"]
    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    precision: Precision = static_field(default="exact", kw_only=True)
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def _matmat(self, g: Float[Array, "m r"]) -> Float[Array, "n r"]:
        """T g = E g + l ⟨r, g⟩, shape (n, r)."""
        out = self._apply(self.left, self.right, self.p_a, g)
        return out * _support(self.p_x)

    def _rmatmat(self, f: Float[Array, "n r"]) -> Float[Array, "m r"]:
        """T* f = E f + r ⟨l, f⟩, shape (m, r)."""
        out = self._apply(self.right, self.left, self.p_x, f)
        return out * _support(self.p_a)

    def _apply(self, out: Array, into: Array, law: Array, block: Array) -> Array:
        # (m, r), as of T.
        weighted = law[:, None] * block
        # (e, r): nothing of size n × m is formed.
        through = mm(into.T, weighted, self.precision)
        # The 1 in the density gives the mean, which no coarse product must round.
        return weighted.sum(axis=0)[None, :] + mm(out, through, self.precision)

    def squared_norm(self) -> Float[Array, ""]:
        """1 + Tr(Cov l · Cov r)."""
        # (e, e) each; features of mean 0 have no product with the constant.
        left = mm(self.left.T, self.p_x[:, None] * self.left)
        right = mm(self.right.T, self.p_a[:, None] * self.right)
        return 1.0 + (left * right.T).sum()

    @property
    def is_made_in_place(self) -> bool:
        """The product is a block of its own work space, to which 1 is added."""
        return True

    def cost(self, r: int) -> Cost:
        """Two products of width e."""
        check_integer(r, "r", low=0)
        n, m = self.shape
        e = self.left.shape[1]
        size = self.dtype.itemsize
        return Cost(
            flops=2 * (n + m) * (e + 1) * r,
            argument_bytes=size * ((n + m) * (e + 1) + m * r),
            output_bytes=size * n * r,
            temporary_bytes=size * ((m + 2 * e) * r + n),
        )


def low_rank_operator(
    left: ArrayLike, right: ArrayLike, p_x: ArrayLike, p_a: ArrayLike
) -> LowRankOperator:
    """T from features on both sides, which are centred here.

    Args:
        left: shape (n, e), real numbers.
        right: shape (m, e).
        p_x: law of X, shape (n,), summing to 1.
        p_a: law of A, shape (m,), summing to 1.

    Raises:
        TypeError: if an argument does not hold real numbers.
        ValueError: if shapes do not fit, or a law is none.
    """
    one = as_floating(left, "left")
    two = as_floating(right, "right").astype(one.dtype)
    check_ndim(one, 2, "left")
    check_ndim(two, 2, "right")
    if one.shape[1] != two.shape[1]:
        msg = (
            "left and right must have the same number of columns; got shapes"
            f" {tuple(one.shape)} and {tuple(two.shape)}"
        )
        raise ValueError(msg)
    law_x = as_law_of(p_x, "p_x", one.shape[0], one.dtype)
    law_a = as_law_of(p_a, "p_a", two.shape[0], one.dtype)
    # Centred: otherwise the density would have other marginals.
    return LowRankOperator(
        one - mm(law_x, one)[None, :], two - mm(law_a, two)[None, :], law_x, law_a
    )


def _support(law: Array) -> Array:
    # Features may be there where mass is not.
    return (law > 0).astype(law.dtype)[:, None]
