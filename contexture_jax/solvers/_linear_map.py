"""The Euclidean problem under every solver: a matrix known by its two products."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import mm, rank_cutoff, safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, Float
from contexture_jax.operators import AssociationOperator, symmetrised_products

__all__ = [
    "LinearMap",
    "check_operator",
    "coarse_map",
    "compile_products",
    "identity",
    "projection",
    "symmetrised_map",
    "unmarked",
]


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


def projection(law: Float[Array, " n"] | None) -> Callable[[Array], Array]:
    """The projection of (n, r) blocks off √law, 0 at points of no mass.

    The identity if there is no law.
    """
    return identity if law is None else functools.partial(_off_root, law)


class LinearMap(NamedTuple):
    """A matrix M known by its products with blocks, on subspaces of its own.

    Left singular vectors are looked for off √left_law, into which M maps; right ones
    likewise. The laws are arrays, so that programs take them as arguments.

    Attributes:
        matmat: M times an (m, r) block.
        rmatmat: the conjugate transpose of M times an (n, r) block.
        shape: (n, m).
        dtype: floating or complex.
        left_law: what left singular vectors have no part along the root of, shape
            (n,); None: nothing is deflated.
        right_law: likewise, shape (m,).
        scale: what rounding is measured by if it is larger than the largest singular
            value: the norm of the matrix before deflation; 0 where nothing is deflated.
    """

    matmat: Callable[[Array], Array]
    rmatmat: Callable[[Array], Array]
    shape: tuple[int, int]
    dtype: Any
    left_law: Float[Array, " n"] | None = None
    right_law: Float[Array, " m"] | None = None
    scale: float = 0.0

    @property
    def project_left(self) -> Callable[[Array], Array]:
        """The orthogonal projection of (n, r) blocks onto where left vectors lie."""
        return projection(self.left_law)

    @property
    def project_right(self) -> Callable[[Array], Array]:
        """Likewise of (m, r) blocks for right ones."""
        return projection(self.right_law)

    def cutoff(self, singular_values: Float[Array, " b"]) -> Float[Array, ""]:
        """Singular values not above it count as zero."""
        largest = jnp.maximum(singular_values.max(), self.scale)
        return rank_cutoff(self.shape, self.dtype, largest)

    def goal(self, singular_values: Float[Array, " b"], tol: Any) -> Float[Array, ""]:
        """The residual that counts as converged: tol · s_1, but not below rounding."""
        return jnp.maximum(tol * singular_values.max(), self.goal_floor)

    @property
    def goal_floor(self) -> float:
        """The least residual that is asked for: the rounding of deflated products."""
        return 10.0 * float(jnp.finfo(self.dtype).eps) * self.scale


def symmetrised_map(operator: AssociationOperator) -> LinearMap:
    """M = D_X^{1/2} T D_A^{-1/2} without its trivial triple (theory.md §6).

    Its singular values are those of T; u = D_X^{1/2} μ and v = D_A^{1/2} ν. The trivial
    triple (1, √p_x, √p_a) is known exactly and projected out of every product and every
    random block, so rounding cannot bring it back.
    """
    # A program of its own for each product and width, whoever multiplies.
    plain = unmarked(operator)
    return LinearMap(
        functools.partial(_product, plain, adjoint=False),
        functools.partial(_product, plain, adjoint=True),
        operator.shape,
        operator.dtype,
        operator.p_x,
        operator.p_a,
        scale=1.0,
    )


def compile_products(op: AssociationOperator, width: int) -> None:
    """Compile the two products of `symmetrised_map`, for blocks of so many columns."""
    plain, (n, m) = unmarked(op), op.shape
    for adjoint, size in ((False, m), (True, n)):
        block = jax.ShapeDtypeStruct((size, width), op.dtype)
        _product.lower(plain, block, adjoint=adjoint).compile()


def unmarked(op: AssociationOperator) -> AssociationOperator:
    """Without a fingerprint, so that a program serves operators with and without."""
    any_op: Any = op
    if not dataclasses.is_dataclass(any_op) or any_op.fingerprint is None:
        return op
    return dataclasses.replace(any_op, fingerprint=None)


@functools.partial(jax.jit, static_argnames="adjoint")
def _product(op: AssociationOperator, block: Array, *, adjoint: bool) -> Array:
    """The deflated M, or its transpose, times a block."""
    matmat, rmatmat = symmetrised_products(op)
    if adjoint:
        return _deflate(rmatmat(block), op.p_a)
    return _deflate(matmat(block), op.p_x)


def coarse_map(a: LinearMap, low: LinearMap) -> LinearMap:
    """The products of `low`, the same matrix in a coarser dtype, for blocks of `a`.

    Projections, Gram matrices and factorisations stay in the dtype of `a`.
    """

    def matmat(g: Array) -> Array:
        return a.project_left(low.matmat(g.astype(low.dtype)).astype(a.dtype))

    def rmatmat(f: Array) -> Array:
        return a.project_right(low.rmatmat(f.astype(low.dtype)).astype(a.dtype))

    return a._replace(matmat=matmat, rmatmat=rmatmat)


def _off_root(p: Float[Array, " n"], block: Array) -> Array:
    """Off √p, and 0 at points of no mass."""
    return _deflate(jnp.where(p[:, None] > 0, block, 0.0), p)


def _deflate(block: Array, p: Float[Array, " n"]) -> Array:
    """Off the unit vector √p."""
    root = safe_sqrt(p)
    unit = (root * safe_reciprocal(jnp.sqrt((root * root).sum())))[:, None]
    return block - mm(unit, mm(unit.T, block))
