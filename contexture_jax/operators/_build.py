"""From a context to its operator: which storage holds which context."""

import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_concrete, check_integer, floating_dtype
from contexture_jax.contexts import (
    Context,
    DenseJoint,
    Labels,
    Neighbors,
    ReversedNeighbors,
    SoftmaxContext,
    SparseJoint,
    Teacher,
)
from contexture_jax.operators._base import AssociationOperator
from contexture_jax.operators._composed import adjoint
from contexture_jax.operators._dense import dense_operator
from contexture_jax.operators._fixed_degree import fixed_degree_operator
from contexture_jax.operators._kernel import kernel_operator
from contexture_jax.operators._low_rank import LowRankOperator
from contexture_jax.operators._sparse import sparse_operator

__all__ = ["association_operator"]

Storage = Literal["dense", "sparse"]

_BLOCK_SIZE = 1024


def association_operator(
    context: Context, *, storage: Storage | None = None, block_size: int = _BLOCK_SIZE
) -> AssociationOperator:
    """The expectation operator (T g)(x) = E[g(A)|x] of a context (theory.md §1).

    Each kind of context has a storage of its own: dense tables dense, pairs and sparse
    tables sparse, labels and neighbours with a fixed degree, Gaussian kernels and
    attention in tiles, teacher features with low rank. Sparse and fixed-degree storage
    is laid out on the host, so their contexts must be concrete; the others can be built
    under `jit` and differentiated.

    Args:
        context: any context with a finite number of inputs and context values.
        storage: "dense" or "sparse" to store the whole table that way instead, which
            takes n · m numbers on the way; None: what fits the context.
        block_size: largest side of a tile, for contexts kept in tiles.

    Returns:
        An operator with the marginals of the context as it is stored.

    Raises:
        CapabilityError: if the context has no table (an infinite family).
        TypeError: if `context` is not a context.
        ValueError: if `storage` is unknown.
    """
    if not isinstance(context, Context):
        msg = (
            "context must be a Context, as from cx.contexts.joint(table); got"
            f" {type(context).__name__}"
        )
        raise TypeError(msg)
    check_integer(block_size, "block_size", low=1)
    if storage is None:
        return _native(context, block_size=block_size)
    if storage == "dense":
        return dense_operator(context.table())
    if storage == "sparse":
        table = np.asarray(context.table())
        rows, columns = np.nonzero(table)
        n, m = table.shape
        return sparse_operator(rows, columns, table[rows, columns], (n, m))
    msg = f'storage must be None, "dense" or "sparse"; got {storage!r}'
    raise ValueError(msg)


@functools.singledispatch
def _native(context: Any, *, block_size: int) -> AssociationOperator:
    """The storage that fits; a context that only knows its table is kept dense."""
    del block_size
    return dense_operator(context.table())


@_native.register
def _(context: DenseJoint, *, block_size: int) -> AssociationOperator:
    del block_size
    return dense_operator(context.probabilities)


@_native.register
def _(context: SparseJoint, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a sparse context")
    entries = (context.rows, context.columns, context.weights)
    rows, columns, weights = map(np.asarray, entries)
    return sparse_operator(rows, columns, weights, context.shape)


@_native.register
def _(context: Labels, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a labels context")
    codes = np.asarray(context.codes)
    p_x = np.full(len(codes), 1.0 / len(codes), floating_dtype(codes.dtype))
    return fixed_degree_operator(codes[:, None], None, p_x, context.num_classes)


@_native.register
def _(context: Neighbors, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a neighbour context")
    weights = None if context.weights is None else np.asarray(context.weights)
    return fixed_degree_operator(
        np.asarray(context.indices),
        weights,
        np.asarray(context.p_x),
        context.num_points,
    )


@_native.register
def _(context: ReversedNeighbors, *, block_size: int) -> AssociationOperator:
    return adjoint(_native(context.forward, block_size=block_size))


@_native.register
def _(context: SoftmaxContext, *, block_size: int) -> AssociationOperator:
    return kernel_operator(context, block_size)


@_native.register
def _(context: Teacher, *, block_size: int) -> AssociationOperator:
    del block_size
    n, m = context.features.shape[0], context.training_features.shape[0]
    dtype = context.features.dtype
    # Not `low_rank_operator`: features at new points must keep the mean that they have.
    return LowRankOperator(
        context.features * context.values[None, :],
        context.training_features,
        jnp.full((n,), 1.0 / n, dtype),
        jnp.full((m,), 1.0 / m, dtype),
    )
