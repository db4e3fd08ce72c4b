"""The dense reference: every entry, one LAPACK factorisation."""

import jax.numpy as jnp

from contexture_jax._core.numerics import mm
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._orthonormal import complete
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._triples import Triples

__all__ = ["exact"]


def exact(a: LinearMap, rank: int, seed: Seed) -> Triples:
    """Leading singular triples by a full dense SVD: O(n m min(n, m)) flops.

    Args:
        a: the matrix; its n × m entries are stored.
        rank: number of triples.
        seed: for vectors of singular values 0.

    Returns:
        Triples with the residuals of what was returned; one pass.
    """
    matrix = a.as_matrix()
    left, values, right_h = jnp.linalg.svd(matrix, full_matrices=False)
    left, values = left[:, :rank], values[:rank]
    right = right_h[:rank].conj().T
    left, right = complete(a, left, values, right, seed)
    left_gap = mm(matrix, right) - left * values[None, :]
    right_gap = mm(matrix.conj().T, left) - right * values[None, :]
    return Triples(
        left,
        values,
        right,
        jnp.linalg.norm(left_gap, axis=0),
        jnp.linalg.norm(right_gap, axis=0),
        jnp.ones((), values.dtype),
    )
