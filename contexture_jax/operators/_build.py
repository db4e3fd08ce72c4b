"""From a context to its operator: which storage holds which context."""

import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.checks import check_concrete, check_integer, floating_dtype
from contexture_jax._core.types import Array, ArrayLike
from contexture_jax.contexts import (
    CapabilityError,
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
from contexture_jax.operators._monte_carlo import monte_carlo_operator
from contexture_jax.operators._sharded import check_mesh
from contexture_jax.operators._sharded_dense import shard_dense, shard_low_rank
from contexture_jax.operators._sharded_kernel import shard_softmax
from contexture_jax.operators._sharded_slots import shard_entries
from contexture_jax.operators._sparse import sparse_operator

__all__ = ["association_operator"]

Storage = Literal["dense", "sparse"]

_BLOCK_SIZE = 1024


def association_operator(
    context: Context,
    *,
    storage: Storage | None = None,
    block_size: int = _BLOCK_SIZE,
    mesh: Mesh | None = None,
    axis: str = "x",
    x: ArrayLike | None = None,
    num_samples: int | None = None,
    num_batches: int = 10,
    key: Array | None = None,
) -> AssociationOperator:
    """The expectation operator (T g)(x) = E[g(A)|x] of a context (theory.md §1).

    Each kind of context has a storage of its own: dense tables dense, pairs and sparse
    tables sparse, labels and neighbours with a fixed degree, Gaussian kernels and
    attention in tiles, teacher features with low rank. Sparse and fixed-degree storage
    is laid out on the host, so their contexts must be concrete; the others can be built
    under `jit` and differentiated.

    With a mesh, the rows of the operator are cut over its devices, and with them blocks
    of functions of X; those of A too where A is as large as X (neighbours, graphs,
    kernels), else each device has a copy. Shapes and products are the same, and
    `op.collectives(r)` says what the devices tell each other.

    A context that is a law of A for any x, with `sample` and `log_density`, has its
    operator on a sample `x`, by Monte Carlo over `num_samples` draws of A: a dense
    `MonteCarloOperator`, whose error `evaluation.monte_carlo_error` tells.

    Args:
        context: any context with a finite number of inputs and context values.
        storage: "dense" or "sparse" to store the whole table that way instead, which
            takes n · m numbers on the way; None: what fits the context.
        block_size: largest side of a tile, for contexts kept in tiles.
        mesh: devices to cut the rows over, with axes of type Auto; None: one device.
        axis: the axis of the mesh that cuts the rows; others repeat the work.
        x: inputs for a Monte Carlo operator, leading axis n; with them go the next
            three, and `storage` does not.
        num_samples: draws of A, a multiple of `num_batches`.
        num_batches: independent batches that the draws come in.
        key: random key for them.

    Returns:
        An operator with the marginals of the context as it is stored.

    Raises:
        CapabilityError: if the context has no table (an infinite family) and no `x` is
            given; or no `sample` or `log_density` if one is.
        TypeError: if `context` is not a context, `mesh` no mesh, or of `x`,
            `num_samples` and `key` only some are given.
        ValueError: if `storage` is unknown, or `axis` no axis of the mesh.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> auto = (jax.sharding.AxisType.Auto,)
        >>> mesh = jax.make_mesh((jax.device_count(),), ("x",), axis_types=auto)
        >>> context = cx.contexts.rbf(jax.numpy.arange(8.0)[:, None])
        >>> op = cx.association_operator(context, mesh=mesh)
        >>> op.shape
        (8, 8)
    """
    if not isinstance(context, Context):
        msg = (
            "context must be a Context, as from cx.contexts.joint(table); got"
            f" {type(context).__name__}"
        )
        raise TypeError(msg)
    check_integer(block_size, "block_size", low=1)
    if storage not in (None, "dense", "sparse"):
        msg = f'storage must be None, "dense" or "sparse"; got {storage!r}'
        raise ValueError(msg)
    if mesh is not None:
        check_mesh(mesh, axis)
    if x is not None or num_samples is not None or key is not None:
        if x is None or num_samples is None or key is None or storage is not None:
            given = {"x": x, "num_samples": num_samples, "key": key}
            missing = [name for name, value in given.items() if value is None]
            what = (
                f"{' and '.join(missing)} missing"
                if missing
                else f"storage={storage!r}"
            )
            msg = (
                "x, num_samples and key are given together and without storage; got"
                f" {what}"
            )
            raise TypeError(msg)
        op = monte_carlo_operator(
            context, x, num_samples, key=key, num_batches=num_batches
        )
        return op if mesh is None else shard_dense(op, mesh, axis)
    if storage == "dense":
        op = dense_operator(context.table())
        return op if mesh is None else shard_dense(op, mesh, axis)
    if storage == "sparse":
        table = np.asarray(context.table())
        rows, columns = np.nonzero(table)
        entries = (rows, columns, table[rows, columns], table.shape)
        if mesh is None:
            return sparse_operator(*entries)
        return shard_entries(*entries, mesh, axis)
    if mesh is None:
        return _native(context, block_size=block_size)
    return _sharded(context, mesh, axis, block_size=block_size)


@functools.singledispatch
def _native(context: Any, *, block_size: int) -> AssociationOperator:
    """The storage that fits; a context that only knows its table is kept dense."""
    del block_size
    try:
        return dense_operator(context.table())
    except CapabilityError as error:
        if not {"sample", "log_density"} <= set(context.capabilities):
            raise
        msg = (
            f"{error}. With inputs x=, num_samples= and key= its operator on a sample"
            " can be estimated"
        )
        raise CapabilityError(msg) from error


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


@functools.singledispatch
def _sharded(
    context: Any, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    """The storage that fits, over a mesh."""
    op = _native(context, block_size=block_size)
    if isinstance(op, LowRankOperator):
        return shard_low_rank(op, mesh, axis)
    return shard_dense(dense_operator(context.table()), mesh, axis)


@_sharded.register
def _(
    context: SparseJoint, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    entries = (context.rows, context.columns, context.weights)
    rows, columns, weights = map(np.asarray, entries)
    return shard_entries(rows, columns, weights, context.shape, mesh, axis)


@_sharded.register
def _(
    context: Labels, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    codes = np.asarray(context.codes)
    n, shape = len(codes), (len(codes), len(context.classes))
    weights = np.full(n, 1.0 / n, floating_dtype(codes.dtype))
    return shard_entries(np.arange(n), codes, weights, shape, mesh, axis)


@_sharded.register
def _(
    context: Neighbors, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    indices = np.asarray(context.indices)
    n, num_slots = indices.shape
    shares = (
        np.full(indices.shape, 1.0 / num_slots)
        if context.weights is None
        else np.asarray(context.weights, np.float64)
    )
    joint = np.asarray(context.p_x, np.float64)[:, None] * shares
    return shard_entries(
        np.repeat(np.arange(n), num_slots),
        indices.reshape(-1),
        joint.reshape(-1),
        (n, context.num_points),
        mesh,
        axis,
        dtype=context.p_x.dtype,
    )


@_sharded.register
def _(
    context: ReversedNeighbors, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    return adjoint(_sharded(context.forward, mesh, axis, block_size=block_size))


@_sharded.register
def _(
    context: SoftmaxContext, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    return shard_softmax(context, mesh, axis, block_size)
