"""The dense reference: every entry, one LAPACK factorisation."""

from __future__ import annotations

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
        Triples with the residuals of what was returned; one pass (two products).
    """
    matrix = a.as_matrix()
    left, values, right_h = jnp.linalg.svd(matrix, full_matrices=False)
    left, values = left[:, :rank], values[:rank]
    right = right_h[:rank].conj().T
    left, right = complete(a, left, values, right, seed)
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
        left,
        values,
        right,
        jnp.linalg.norm(left_gap, axis=0),
        jnp.linalg.norm(right_gap, axis=0),
        jnp.ones((), values.dtype),
    )
