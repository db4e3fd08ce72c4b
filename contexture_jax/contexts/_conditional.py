"""Conditional laws, row by row, as a context."""

from __future__ import annotations

import jax.numpy as jnp

from contexture_jax._core.numerics import as_law, normalised, weights_or_nan
from contexture_jax._core.types import ArrayLike
from contexture_jax.contexts._dense_joint import DenseJoint, as_table, check_rows

__all__ = ["conditional"]


def conditional(matrix: ArrayLike, p_x: ArrayLike | None = None) -> DenseJoint:
    """A context from conditional laws, as an attention map is (theory.md §4).

    Args:
        matrix: P⁺(a|x) up to a scale for each row, shape (n, m), non-negative.
        p_x: law of X, shape (n,), non-negative; normalised; None: uniform.

    Raises:
        ValueError: if a row has no mass, or an entry is negative or not finite; inside
            a trace the law is NaN then.
    """
    rows = as_table(matrix, "matrix")
    check_rows(rows, "matrix")
    # Row by row; a trace cannot refuse a row without mass, which becomes NaN.
    shares = normalised(weights_or_nan(rows, axis=1), axis=1)
    num_rows = shares.shape[0]
    if p_x is None:
        weights = jnp.full((num_rows,), 1.0 / num_rows, shares.dtype)
    else:
        weights = as_law(p_x, "p_x", num_rows, shares.dtype)
    return DenseJoint(weights[:, None] * shares)
