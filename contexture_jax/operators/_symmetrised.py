"""An operator between weighted spaces as a plain matrix: M = D_X^{1/2} T D_A^{-1/2}.

With u = D_X^{1/2} μ and v = D_A^{1/2} ν, T ν = s μ in L²(P_X) and L²(P_A) is M v = s u
in ordinary coordinates (theory.md §6). Whoever needs that has it from here.
"""

from __future__ import annotations

from collections.abc import Callable

from contexture_jax._core.numerics import safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, Float
from contexture_jax.operators._base import AssociationOperator

__all__ = ["symmetrised_matrix", "symmetrised_products", "to_functions", "to_vectors"]


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
    root_x, root_a = safe_sqrt(op.p_x), safe_sqrt(op.p_a)
    matrix = root_x[:, None] * op.as_matrix() * safe_reciprocal(root_a)[None, :]
    return matrix - root_x[:, None] * root_a[None, :] if deflated else matrix


def symmetrised_products(
    op: AssociationOperator,
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """M and Mᵀ times blocks (m, r) and (n, r), without the matrix."""
    root_x, root_a = safe_sqrt(op.p_x)[:, None], safe_sqrt(op.p_a)[:, None]
    inverse_x, inverse_a = safe_reciprocal(root_x), safe_reciprocal(root_a)

    def matmat(g: Array) -> Array:
        return root_x * op.matmat(inverse_a * g)

    def rmatmat(f: Array) -> Array:
        return root_a * op.rmatmat(inverse_x * f)

    return matmat, rmatmat


def to_vectors(
    op: AssociationOperator, left: Float[Array, "n r"], right: Float[Array, "m r"]
) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
    """The vectors u = D_X^{1/2} μ and v = D_A^{1/2} ν of functions of X and of A."""
    return safe_sqrt(op.p_x)[:, None] * left, safe_sqrt(op.p_a)[:, None] * right


def to_functions(
    op: AssociationOperator, left: Float[Array, "n r"], right: Float[Array, "m r"]
) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
    """The functions μ and ν of vectors u and v, 0 where there is no mass."""
    inverse_x, inverse_a = (safe_reciprocal(safe_sqrt(p)) for p in (op.p_x, op.p_a))
    return inverse_x[:, None] * left, inverse_a[:, None] * right
