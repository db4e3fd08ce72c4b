"""A Markov chain as a context: A is the state after X."""

from __future__ import annotations

import numpy as np

from contexture_jax._core.checks import (
    check_concrete,
    check_values,
    floating_dtype,
    gathered,
)
from contexture_jax._core.types import ArrayLike
from contexture_jax.contexts._conditional import conditional
from contexture_jax.contexts._dense_joint import DenseJoint, as_table

__all__ = ["markov"]


def markov(transition: ArrayLike) -> DenseJoint:
    """A context (now, next) from a transition matrix, started at its stationary law.

    Args:
        transition: row-stochastic matrix, shape (n, n).

    Raises:
        ValueError: if the matrix is not square, a row does not sum to 1, or the
            stationary law is not unique.
    """
    check_concrete(transition, "transition")
    rows = gathered(as_table(transition, "transition"))
    if rows.shape[0] != rows.shape[1]:
        msg = f"transition must be square; got shape {rows.shape}"
        raise ValueError(msg)
    eps = np.finfo(floating_dtype(rows.dtype)).eps
    # Rows that were printed with half of the digits of their dtype pass, those of
    # counts do not.
    tolerance = rows.shape[0] * float(np.sqrt(eps))
    matrix = rows.astype(np.float64)
    check_values(
        matrix.sum(axis=1),
        "the row sums of transition",
        lambda v: np.abs(v - 1) <= tolerance,
        "1",
    )
    # The stationary law is the left null vector of I - T: the last right singular
    # vector of its transpose, unique if only one singular value vanishes.
    _, values, vectors = np.linalg.svd(matrix.T - np.eye(len(matrix)))
    if len(matrix) > 1 and values[-2] <= tolerance:
        raise ValueError(
            "transition must have one stationary law; this chain splits into several"
            " closed classes: give the law you mean with `conditional(matrix, p_x)`"
        )
    stationary = np.abs(vectors[-1])
    return conditional(rows, p_x=stationary)
