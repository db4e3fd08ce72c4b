"""The dense reference: every entry, one LAPACK factorisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import gathered, is_traced
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float
from contexture_jax.operators import AssociationOperator, symmetrised_matrix
from contexture_jax.solvers._linear_map import LinearMap, check_operator
from contexture_jax.solvers._orthonormal import complete
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._triples import Triples

__all__ = ["all_singular_values", "exact"]


@beside_context
def all_singular_values(op: AssociationOperator) -> Float[Array, " k"]:
    """Every singular value of a small operator but the trivial one, s_1 ≥ s_2 ≥ ….

    Those of the symmetrised matrix, deflated: n × m numbers are stored, O(n m min(n,
    m)) operations follow. Outside a trace NumPy does them in float64, whatever the
    dtype, since sums of many squares of them are looked at.

    Args:
        op: T, as from `association_operator`, shape (n, m).

    Returns:
        Shape (min(n, m) − 1,), the dtype of `op`, between 0 and 1; NaN where an entry
        is.

    Raises:
        TypeError: if `op` is not an operator.

    Example:
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[0.4, 0.1], [0.1, 0.4]]))
        >>> bool(abs(cx.solvers.all_singular_values(op)[0] - 0.6) < 1e-6)
        True
    """
    check_operator(op)
    op = tree_on_auto_axes(op)
    if is_traced(op):
        matrix = symmetrised_matrix(op, deflated=True)
        values = jnp.linalg.svd(matrix, compute_uv=False)
    else:
        matrix = np.asarray(gathered(_deflated(op)), np.float64)
        # NumPy raises at what is not finite.
        finite = np.isfinite(matrix).all()
        values = np.full(min(matrix.shape), np.nan)
        values = np.linalg.svd(matrix, compute_uv=False) if finite else values
    # The trivial value, 0 here, comes last.
    return jnp.clip(jnp.asarray(values[:-1], op.dtype), 0.0, 1.0)


_deflated = jax.jit(lambda op: symmetrised_matrix(op, deflated=True))


def exact(a: LinearMap, rank: int, seed: Seed) -> Triples:
    """Leading singular triples by a full dense SVD: O(n m min(n, m)) flops.

    Args:
        a: the matrix; its n × m entries are stored.
        rank: number of triples.
        seed: for vectors of singular values 0.

    Returns:
        Triples with the residuals of what was returned; one pass (two products).
    """
    matrix = a.as_matrix()
    left, values, right_h = jnp.linalg.svd(matrix, full_matrices=False)
    left, values = left[:, :rank], values[:rank]
    right = right_h[:rank].conj().T
    left, right = complete(a, values, left, right, seed)
    # The matrix came from one of the two maps: the other one is asked itself, so that
    # two that are not adjoint show.
    n, m = a.shape
    images = (
        (mm(matrix, right), a.rmatmat(left))
        if m <= n
        else (a.matmat(right), mm(matrix.conj().T, left))
    )
    left_gap, right_gap = (
        image - vectors * values[None, :]
        for image, vectors in zip(images, (left, right), strict=True)
    )
    return Triples(
        values,
        left,
        right,
        jnp.linalg.norm(left_gap, axis=0),
        jnp.linalg.norm(right_gap, axis=0),
        jnp.ones((), values.dtype),
    )
