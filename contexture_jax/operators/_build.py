"""From a context to its operator: which storage holds which context."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.checks import (
    as_floating,
    check_concrete,
    check_finite,
    check_integer,
    check_ndim,
    is_concrete,
)
from contexture_jax._core.fingerprint import fingerprint
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.types import Array, ArrayLike, summary
from contexture_jax.contexts import (
    CapabilityError,
    Context,
    DenseJoint,
    Labels,
    Neighbors,
    NextToken,
    ReversedNeighbors,
    SameClass,
    SoftmaxContext,
    SparseJoint,
    Teacher,
    TimeLag,
)
from contexture_jax.operators._base import AssociationOperator
from contexture_jax.operators._composed import adjoint
from contexture_jax.operators._dense import DenseOperator, table_operator
from contexture_jax.operators._fixed_degree import fixed_degree_operator
from contexture_jax.operators._kernel import BLOCK_SIZE, kernel_operator
from contexture_jax.operators._low_rank import LowRankOperator
from contexture_jax.operators._monte_carlo import (
    monte_carlo_operator,
    shard_monte_carlo,
)
from contexture_jax.operators._numbered import (
    entries_operator,
    group_operator,
    next_token_operator,
    same_class_operator,
    time_lag_operator,
)
from contexture_jax.operators.sharded._common import check_mesh
from contexture_jax.operators.sharded._dense import shard_dense, shard_low_rank
from contexture_jax.operators.sharded._kernel import shard_softmax
from contexture_jax.operators.sharded._slots import shard_entries

__all__ = ["association_operator"]

Storage = Literal["dense", "sparse"]

_NUM_BATCHES = 10

# Of a table that a class of the user's own gives: float32 sums of large ones.
_MASS_TOLERANCE = 1e-3


@beside_context
def association_operator(
    context: Context,
    *,
    storage: Storage | None = None,
    block_size: int | None = None,
    mesh: Mesh | None = None,
    axis: str = "x",
    x: ArrayLike | None = None,
    num_samples: int | None = None,
    num_batches: int | None = None,
    key: Array | None = None,
) -> AssociationOperator:
    """The expectation operator (T g)(x) = E[g(A)|x] of a context (theory.md §1).

    Each kind of context has a storage of its own: dense tables dense, pairs and sparse
    tables sparse, labels and neighbours with a fixed degree, rows of a class by class,
    Gaussian kernels and attention in tiles, teacher features with low rank. Sparse and
    fixed-degree storage
    is laid out on the host, so their contexts must be concrete; the others can be built
    under `jit` and differentiated, those in tiles in reverse mode only.

    With a mesh, the rows of the operator are cut over its devices, and with them blocks
    of functions of X; those of A too where A is as large as X (neighbours, graphs,
    kernels), else each device has a copy. Shapes and products are the same, and
    `op.collectives(r)` says what the devices tell each other.

    The mesh may span several processes (`jax.distributed.initialize`), which then all
    make the same calls in the same order. A context is made of arrays of the host that
    are the same in each process, or of arrays that are cut over all of them, as from
    `jax.make_array_from_process_local_data`. Those of tables, kernels and attention
    stay cut; points of k-NN, features of a teacher, labels, pairs and sparse tables are
    gathered to each host, which lays them out for itself. What is wrong with the part
    of one process is an error in all.

    A context that is a law of A for any x, with `sample` and `log_density`, has its
    operator on a sample `x`, by Monte Carlo over `num_samples` draws of A: a dense
    `MonteCarloOperator`, on one device or over a mesh, whose error
    `evaluation.monte_carlo_error` tells.

    Args:
        context: any context with a finite number of inputs and context values.
        storage: "dense" or "sparse" to store the whole table that way instead, which
            takes n · m numbers on the way unless the context is sparse; None: what fits
            the context.
        block_size: largest side of a tile, for contexts kept in tiles only; None: 1024.
        mesh: devices to cut the rows over; axes of type Explicit, as of
            `jax.make_mesh`, are taken as Auto; None: one device.
        axis: the axis of the mesh that cuts the rows; others repeat the work.
        x: inputs for a Monte Carlo operator, leading axis n; with them go the next
            three, and `storage` does not.
        num_samples: draws of A, a multiple of `num_batches`.
        num_batches: independent batches that the draws come in; None: 10.
        key: random key for them.

    Returns:
        An operator with the marginals of the context as it is stored.

    Raises:
        CapabilityError: if the context has no table (an infinite family) and no `x` is
            given; or no `sample` or `log_density` if one is.
        TypeError: if `context` is not a context, `mesh` no mesh, or of `x`,
            `num_samples` and `key` only some are given.
        ValueError: if `storage` is unknown, `axis` no axis of the mesh, or an argument
            is given that plays no part: `block_size` without tiles, `axis` without
            `mesh`, `num_batches` without `x`; if the table of a context of one's own
            is no table that sums to 1.

    Warns:
        UserWarning: if each input has one context value, where that can be seen and is
            not meant, as with labels: all singular values are then 1 or 0.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> mesh = jax.make_mesh((jax.device_count(),), ("x",))
        >>> context = cx.contexts.rbf(jax.numpy.arange(8.0)[:, None])
        >>> op = cx.association_operator(context, mesh=mesh)
        >>> op.shape
        (8, 8)
    """
    if not isinstance(context, Context):
        msg = (
            "context must be a Context, as from cx.contexts.joint(table), or of a"
            " subclass of cx.contexts.Context; got"
            f" {type(context).__name__}"
        )
        raise TypeError(msg)
    context = tree_on_auto_axes(context)
    if storage not in (None, "dense", "sparse"):
        msg = f'storage must be None, "dense" or "sparse"; got {summary(storage)}'
        raise ValueError(msg)
    if mesh is not None:
        mesh = check_mesh(mesh, axis)
    block_size = _check_used(context, storage, block_size, mesh, axis, x, num_batches)
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
            context,
            x,
            num_samples,
            key=key,
            num_batches=_NUM_BATCHES if num_batches is None else num_batches,
        )
        mark = fingerprint((context, x, op.samples))
        op = op if mesh is None else shard_monte_carlo(op, mesh, axis)
    else:
        _warn_of_point_masses(context)
        mark = context.fingerprint
        op = _stored(context, storage, block_size, mesh, axis)
    return dataclasses.replace(op, fingerprint=mark)


def _stored(
    context: Context,
    storage: Storage | None,
    block_size: int,
    mesh: Mesh | None,
    axis: str,
) -> Any:
    """The operator of the whole of a context."""
    if storage == "dense":
        op = table_operator(_table(context))
        return op if mesh is None else shard_dense(op, mesh, axis)
    if storage == "sparse" and not isinstance(context, (SparseJoint, TimeLag)):
        check_concrete(context, "a context to be stored sparse")
        table = np.asarray(_table(context))
        rows, columns = np.nonzero(table)
        entries = (rows, columns, table[rows, columns], table.shape)
        return entries_operator(*entries, mesh, axis)
    if mesh is None:
        return _native(context, block_size=block_size)
    return _sharded(context, mesh, axis, block_size=block_size)


def _check_used(
    context: Context,
    storage: Storage | None,
    block_size: int | None,
    mesh: Mesh | None,
    axis: str,
    x: ArrayLike | None,
    num_batches: int | None,
) -> int:
    """The side of tiles; raise if an argument is given that plays no part."""
    if axis != "x" and mesh is None:
        msg = f"axis goes with a mesh; got axis={summary(axis)} and none"
        raise ValueError(msg)
    if num_batches is not None and x is None:
        msg = f"num_batches goes with inputs x=; got num_batches={num_batches} and none"
        raise ValueError(msg)
    if block_size is None:
        return BLOCK_SIZE
    block_size = check_integer(block_size, "block_size", low=1)
    if x is not None or storage is not None or not isinstance(context, SoftmaxContext):
        how = " with x=" if x is not None else f" with {storage=}" if storage else ""
        msg = (
            "block_size goes with contexts kept in tiles, as rbf and attention; got a"
            f" {type(context).__name__}{how}"
        )
        raise ValueError(msg)
    return block_size


def _table(context: Context) -> Array:
    """The table of a context of whatever class, checked to be a law (signed or not)."""
    table = as_floating(context.table(), "table()")
    check_ndim(table, 2, "table()")
    check_finite(table, "table()")
    if is_concrete(table) and abs(float(table.sum()) - 1) > _MASS_TOLERANCE:
        msg = (
            f"table() of a {type(context).__name__} must sum to 1; got"
            f" {float(table.sum()):.6g}"
        )
        raise ValueError(msg)
    return table


def _warn_of_point_masses(context: Context) -> None:
    """Warn where each x has one a, in kinds of context that are not meant to."""
    if not is_concrete(context):
        return
    if isinstance(context, TimeLag):
        rows, columns, _ = context.entries()
    elif isinstance(context, SparseJoint):
        rows, columns = np.asarray(context.rows), np.asarray(context.columns)
    else:
        return
    if (np.diff(rows) > 0).all() and (columns[1:] != columns[:-1]).any():
        warnings.warn(
            "each input of this context has one context value, so that its singular"
            " values are 1 and then 0, and rank nothing. `cx.contexts.pairs` and"
            " `time_lag` say what to use for steps of a series and for pairs of"
            " features",
            UserWarning,
            stacklevel=4,
        )


@functools.singledispatch
def _native(context: Any, *, block_size: int) -> AssociationOperator:
    """The storage that fits; a context that only knows its table is kept dense."""
    del block_size
    try:
        return table_operator(_table(context))
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
    return table_operator(context.probabilities)


@_native.register
def _(context: SparseJoint, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a sparse context")
    return entries_operator(
        context.rows, context.columns, context.weights, context.shape
    )


@_native.register
def _(context: Labels, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a labels context")
    return group_operator(np.asarray(context.codes), context.num_classes)


@_native.register
def _(context: SameClass, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a same-class context")
    return same_class_operator(context)


@_native.register
def _(context: TimeLag, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a time-lag context")
    return time_lag_operator(context)


@_native.register
def _(context: NextToken, *, block_size: int) -> AssociationOperator:
    del block_size
    check_concrete(context, "a next-token context")
    return next_token_operator(context)


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
    """The storage that fits, over a mesh; a table's rows are cut where they are."""
    op = _native(context, block_size=block_size)
    if isinstance(op, LowRankOperator):
        return shard_low_rank(op, mesh, axis)
    return shard_dense(cast(DenseOperator, op), mesh, axis)


@_sharded.register
def _(
    context: SparseJoint, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    check_concrete(context, "a sparse context")
    entries = (context.rows, context.columns, context.weights)
    rows, columns, weights = map(np.asarray, entries)
    return shard_entries(rows, columns, weights, context.shape, mesh, axis)


@_sharded.register
def _(
    context: Labels, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    check_concrete(context, "a labels context")
    return group_operator(np.asarray(context.codes), context.num_classes, mesh, axis)


@_sharded.register
def _(
    context: SameClass, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    check_concrete(context, "a same-class context")
    return same_class_operator(context, mesh, axis)


@_sharded.register
def _(
    context: TimeLag, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    check_concrete(context, "a time-lag context")
    return time_lag_operator(context, mesh, axis)


@_sharded.register
def _(
    context: NextToken, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    check_concrete(context, "a next-token context")
    return next_token_operator(context, mesh, axis)


@_sharded.register
def _(
    context: Neighbors, mesh: Mesh, axis: str, *, block_size: int
) -> AssociationOperator:
    del block_size
    check_concrete(context, "a neighbour context")
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
