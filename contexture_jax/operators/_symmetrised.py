"""An operator between weighted spaces as a plain matrix: M = D_X^{1/2} T D_A^{-1/2}.

With u = D_X^{1/2} μ and v = D_A^{1/2} ν, T ν = s μ in L²(P_X) and L²(P_A) is M v = s u
in ordinary coordinates (theory.md §6). Whoever needs that has it from here.
"""

from __future__ import annotations

from collections.abc import Callable

from contexture_jax._core.symmetrised import Roots, marginal_roots, symmetrised
from contexture_jax._core.types import Array, Float
from contexture_jax.operators._base import AssociationOperator

__all__ = [
    "Roots",
    "marginal_roots",
    "symmetrised_matrix",
    "symmetrised_products",
    "to_functions",
    "to_vectors",
]


def symmetrised_matrix(
    op: AssociationOperator, *, deflated: bool = False
) -> Float[Array, "n m"]:
    """M = D_X^{1/2} T D_A^{-1/2}, dense, for small cases: it stores n × m numbers.

    Its singular values are those of T, the trivial 1 among them, with the vectors √p_x
    and √p_a.

    Args:
        op: T, shape (n, m).
        deflated: whether √p_x √p_aᵀ is taken off: the trivial value is 0 then.

    Returns:
        Shape (n, m), the dtype of `op`; 0 in rows and columns of zero mass.

    Example:
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[4, 1, 0], [1, 3, 2]]))
        >>> M = cx.operators.symmetrised_matrix(op)
        >>> bool(jnp.allclose(M @ jnp.sqrt(op.p_a), jnp.sqrt(op.p_x), atol=1e-6))
        True
    """
    roots = marginal_roots(op.p_x, op.p_a)
    matrix = symmetrised(op.as_matrix(), roots)
    return matrix - roots.x[:, None] * roots.a[None, :] if deflated else matrix


def symmetrised_products(
    op: AssociationOperator, roots: Roots | None = None
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """M and Mᵀ times blocks (m, r) and (n, r), without the matrix.

    Args:
        op: T, shape (n, m).
        roots: those of its marginals, if they are at hand.
    """
    roots = marginal_roots(op.p_x, op.p_a) if roots is None else roots
    root_x, root_a, inverse_x, inverse_a = (root[:, None] for root in roots)

    # D_X^{1/2} T D_A^{-1/2}, as three products (theory.md §6.1).
    def matmat(g: Array) -> Array:
        return root_x * op.matmat(inverse_a * g)

    # Mᵀ is D_A^{1/2} T* D_X^{-1/2}: T* is the adjoint between weighted spaces.
    def rmatmat(f: Array) -> Array:
        return root_a * op.rmatmat(inverse_x * f)

    return matmat, rmatmat


def to_vectors(
    op: AssociationOperator, left: Float[Array, "n r"], right: Float[Array, "m r"]
) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
    """The vectors u = D_X^{1/2} μ and v = D_A^{1/2} ν of functions of X and of A."""
    roots = marginal_roots(op.p_x, op.p_a)
    return roots.x[:, None] * left, roots.a[:, None] * right


def to_functions(
    op: AssociationOperator, left: Float[Array, "n r"], right: Float[Array, "m r"]
) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
    """The functions μ and ν of vectors u and v, 0 where there is no mass."""
    roots = marginal_roots(op.p_x, op.p_a)
    return roots.inverse_x[:, None] * left, roots.inverse_a[:, None] * right
