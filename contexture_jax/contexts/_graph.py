"""Graphs as contexts: A is a neighbour of X."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_traced, spans_processes
from contexture_jax._core.types import summary
from contexture_jax.contexts._dense_joint import DenseJoint
from contexture_jax.contexts._joint import joint
from contexture_jax.contexts._sparse_joint import SparseJoint, coordinates

__all__ = ["graph"]


def graph(adjacency: Any, *, lazy: bool = False) -> DenseJoint | SparseJoint:
    """A context from a weighted undirected graph: one step of its random walk.

    P⁺(x, a) = W_xa / Σ W, so that P_X = P_A is the degree law and T is symmetric in
    L²(P_X). Singular values are the *moduli* of the eigenvalues of the walk: a
    bipartite graph has s_1 = 1, from the eigenvalue −1, although Theorem 12 of Zhai et
    al. 2025 (CTX) ranks it last (theory.md §0 E2). The lazy walk ½(I + T) is positive
    semi-definite and ranks as that theorem means.

    Args:
        adjacency: W, shape (n, n), symmetric, non-negative; array, BCOO or
            scipy.sparse. Vertices without edges are masked.
        lazy: whether the walk stays where it is with probability one half.

    Raises:
        TypeError: if `lazy` is not a bool.
        ValueError: if W is not square, not symmetric, or has a negative or non-finite
            weight; inside a trace the law is NaN then.
    """
    if not isinstance(lazy, (bool, np.bool_)):
        msg = f"lazy must be True or False; got {summary(lazy)}"
        raise TypeError(msg)
    # Normalised and checked as any table; what is special of a graph is below.
    context = joint(adjacency)
    if isinstance(context, DenseJoint):
        weights = context.probabilities
        _check_square(weights.shape)
        # Its shares lie elsewhere: the comparison runs where they are.
        if spans_processes(weights):
            _check_symmetric(weights, weights.T, jnp)
        # In a trace W cannot be refused: NaN says that it is no graph.
        elif is_traced(weights):
            wrong = _asymmetric(weights, weights.T, jnp).any()
            weights = jnp.where(wrong, jnp.nan, weights)
            context = DenseJoint(weights)
        else:
            values = np.asarray(weights)
            _check_symmetric(values, values.T)
        if not lazy:
            return context
        # P⁺ of (I + T) / 2: half of a vertex's degree is a step to itself.
        walk = 0.5 * (weights + jnp.diag(weights.sum(axis=1)))
        return DenseJoint(walk, has_profiles=False)
    _check_square(context.shape)
    mirrored = context.reverse()
    # Entries are sorted, so that equal patterns are equal lists.
    same_pattern = np.array_equal(context.rows, mirrored.rows) and np.array_equal(
        context.columns, mirrored.columns
    )
    if not same_pattern:
        _raise_asymmetric("an edge is stored in one direction only")
    _check_symmetric(np.asarray(context.weights), np.asarray(mirrored.weights))
    if not lazy:
        return context
    n = context.shape[0]
    rows, columns, weights = map(
        np.asarray, (context.rows, context.columns, context.weights)
    )
    # Vertices without an edge get a loop of weight 0, which is dropped.
    degrees = np.bincount(rows, weights, n).astype(weights.dtype)
    return coordinates(
        np.concatenate([rows, np.arange(n)]),
        np.concatenate([columns, np.arange(n)]),
        0.5 * np.concatenate([weights, degrees]),
        context.shape,
        has_profiles=False,
    )


def _check_square(shape: tuple[int, ...]) -> None:
    if shape[0] != shape[1]:
        msg = f"adjacency must be square; got shape {tuple(shape)}"
        raise ValueError(msg)


def _check_symmetric(values: Any, mirrored: Any, xp: Any = np) -> None:
    """Raise unless a table is its transpose; `xp` is what its arrays belong to."""
    if bool(_asymmetric(values, mirrored, xp).any()):
        _raise_asymmetric(
            f"the largest difference is {xp.abs(values - mirrored).max()}"
        )


def _asymmetric(values: Any, mirrored: Any, xp: Any) -> Any:
    """Where a table differs from its transpose by more than rounding."""
    # Of the larger of the two: W may have been summed in another order on either side.
    tolerance = 4 * float(np.finfo(values.dtype).eps) * xp.maximum(values, mirrored)
    return xp.abs(values - mirrored) > tolerance


def _raise_asymmetric(what: str) -> None:
    msg = (
        f"adjacency must be symmetric; {what}. Use (W + W.T) / 2 for the undirected"
        " graph, or `joint(W)` for the law of a directed edge"
    )
    raise ValueError(msg)
