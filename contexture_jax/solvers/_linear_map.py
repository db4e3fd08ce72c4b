"""The Euclidean problem under every solver: a matrix known by its two products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from contexture_jax._core.numerics import mm, rank_cutoff, safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, Float
from contexture_jax.operators import AssociationOperator, symmetrised_products

__all__ = ["LinearMap", "check_operator", "coarse_map", "identity", "symmetrised_map"]


def check_operator(op: Any) -> None:
    """Raise a `TypeError` unless `op` is an operator."""
    if not isinstance(op, AssociationOperator):
        msg = (
            "op must be an operator, as from cx.association_operator(context); got"
            f" {type(op).__name__}"
        )
        raise TypeError(msg)


def identity(block: Array) -> Array:
    """The block itself: nothing is deflated."""
    return block


class LinearMap(NamedTuple):
    """A matrix M known by its products with blocks, on subspaces of its own.

    Attributes:
        matmat: M times an (m, r) block.
        rmatmat: the conjugate transpose of M times an (n, r) block.
        shape: (n, m).
        dtype: floating or complex.
        project_left: orthogonal projection of (n, r) blocks onto the subspace where
            left singular vectors are looked for; M maps into it.
        project_right: likewise for (m, r) blocks.
        scale: what rounding is measured by if it is larger than the largest singular
            value: the norm of the matrix before deflation; 0 where nothing is deflated.
    """

    matmat: Callable[[Array], Array]
    rmatmat: Callable[[Array], Array]
    shape: tuple[int, int]
    dtype: Any
    project_left: Callable[[Array], Array] = identity
    project_right: Callable[[Array], Array] = identity
    scale: float = 0.0

    def cutoff(self, singular_values: Float[Array, " b"]) -> Float[Array, ""]:
        """Singular values not above it count as zero."""
        largest = jnp.maximum(singular_values.max(), self.scale)
        return rank_cutoff(self.shape, self.dtype, largest)

    def goal(self, singular_values: Float[Array, " b"], tol: Any) -> Float[Array, ""]:
        """The residual that counts as converged: tol · s_1, but not below rounding."""
        floor = 10.0 * float(jnp.finfo(self.dtype).eps) * self.scale
        return jnp.maximum(tol * singular_values.max(), floor)

    def as_matrix(self) -> Array:
        """M as a dense array, through the smaller of the two identity blocks."""
        n, m = self.shape
        if m <= n:
            return self.matmat(jnp.eye(m, dtype=self.dtype))
        return self.rmatmat(jnp.eye(n, dtype=self.dtype)).conj().T


def symmetrised_map(operator: AssociationOperator) -> LinearMap:
    """M = D_X^{1/2} T D_A^{-1/2} without its trivial triple (theory.md §6).

    Its singular values are those of T; u = D_X^{1/2} μ and v = D_A^{1/2} ν. The trivial
    triple (1, √p_x, √p_a) is known exactly and projected out of every product and every
    random block, so rounding cannot bring it back.
    """
    matmat, rmatmat = symmetrised_products(operator)
    p_x, p_a = operator.p_x, operator.p_a
    return LinearMap(
        lambda g: _deflate(matmat(g), p_x),
        lambda f: _deflate(rmatmat(f), p_a),
        operator.shape,
        operator.dtype,
        lambda f: _deflate(_mask(f, p_x), p_x),
        lambda g: _deflate(_mask(g, p_a), p_a),
        scale=1.0,
    )


def coarse_map(a: LinearMap, low: LinearMap) -> LinearMap:
    """The products of `low`, the same matrix in a coarser dtype, for blocks of `a`.

    Projections, Gram matrices and factorisations stay in the dtype of `a`.
    """

    def matmat(g: Array) -> Array:
        return a.project_left(low.matmat(g.astype(low.dtype)).astype(a.dtype))

    def rmatmat(f: Array) -> Array:
        return a.project_right(low.rmatmat(f.astype(low.dtype)).astype(a.dtype))

    return a._replace(matmat=matmat, rmatmat=rmatmat)


def _mask(block: Array, p: Float[Array, " n"]) -> Array:
    """0 at points of no mass."""
    return jnp.where(p[:, None] > 0, block, 0.0)


def _deflate(block: Array, p: Float[Array, " n"]) -> Array:
    """Off the unit vector √p."""
    root = safe_sqrt(p)
    unit = (root * safe_reciprocal(jnp.sqrt((root * root).sum())))[:, None]
    return block - mm(unit, mm(unit.T, block))
