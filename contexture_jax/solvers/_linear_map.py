"""The Euclidean problem under every solver: a matrix known by its two products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from contexture_jax._core.numerics import safe_reciprocal
from contexture_jax._core.types import Array, Float
from contexture_jax.operators import AssociationOperator

__all__ = ["LinearMap", "identity", "symmetrised_map"]


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
    """

    matmat: Callable[[Array], Array]
    rmatmat: Callable[[Array], Array]
    shape: tuple[int, int]
    dtype: Any
    project_left: Callable[[Array], Array] = identity
    project_right: Callable[[Array], Array] = identity

    def as_matrix(self) -> Array:
        """M as a dense array, through the smaller of the two identity blocks."""
        n, m = self.shape
        if m <= n:
            return self.matmat(jnp.eye(m, dtype=self.dtype))
        return self.rmatmat(jnp.eye(n, dtype=self.dtype)).conj().T


def symmetrised_map(operator: AssociationOperator) -> LinearMap:
    """M = D_X^{1/2} T D_A^{-1/2} without its trivial triple (theory.md §6).

    Its singular values are those of T; u = D_X^{1/2} μ and v = D_A^{1/2} ν. The trivial
    triple (1, √p_x, √p_a) is known exactly and projected out on both sides, before and
    after every product, so rounding cannot bring it back.
    """
    root_x, root_a = jnp.sqrt(operator.p_x), jnp.sqrt(operator.p_a)
    inverse_x, inverse_a = safe_reciprocal(root_x), safe_reciprocal(root_a)

    def matmat(g: Array) -> Array:
        image = operator.matmat(inverse_a[:, None] * _deflate(g, root_a))
        return _deflate(root_x[:, None] * image, root_x)

    def rmatmat(f: Array) -> Array:
        image = operator.rmatmat(inverse_x[:, None] * _deflate(f, root_x))
        return _deflate(root_a[:, None] * image, root_a)

    return LinearMap(
        matmat,
        rmatmat,
        operator.shape,
        operator.dtype,
        lambda f: _deflate(f, root_x),
        lambda g: _deflate(g, root_a),
    )


def _deflate(block: Array, root: Float[Array, " n"]) -> Array:
    """Off the unit vector √p, and 0 at points of no mass."""
    block = jnp.where(root[:, None] > 0, block, 0.0)
    unit = root * safe_reciprocal(jnp.sqrt((root * root).sum()))
    return block - unit[:, None] * (unit @ block)[None, :]
