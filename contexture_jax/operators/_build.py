"""From a context to its operator: which storage holds which context."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.agreement import agree_on_tree
from contexture_jax._core.checks import (
    as_floating,
    check_concrete,
    check_finite,
    check_integer,
    check_ndim,
    is_concrete,
)
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import Precision, check_precision
from contexture_jax._core.types import Array, summary
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
    as_context,
)
from contexture_jax.operators._adjoint import reverse
from contexture_jax.operators._base import AssociationOperator
from contexture_jax.operators._dense import table_operator
from contexture_jax.operators._fixed_degree import fixed_degree_operator
from contexture_jax.operators._kernel import TILE_SIZE, kernel_operator
from contexture_jax.operators._low_rank import LowRankOperator
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

__all__ = ["Place", "association_operator", "build", "dense_over"]

Storage = Literal["dense", "sparse"]

# Of a table that a class of the user's own gives: float32 sums of large ones.
_MASS_TOLERANCE = 1e-3


@beside_context
def association_operator(
    context: Context | Any,
    *,
    storage: Storage | None = None,
    tile_size: int | None = None,
    mesh: Mesh | None = None,
    axis: str = "x",
    precision: Precision = "exact",
) -> AssociationOperator:
    """The expectation operator (T g)(x) = E[g(A)|x] of a context (theory.md §1).

    Each kind of context has a storage of its own: dense tables dense, pairs and sparse
    tables sparse, labels and neighbours with a fixed degree, rows of a class by class,
    Gaussian kernels and attention in tiles, teacher features with low rank. Sparse and
    fixed-degree storage is laid out on the host, so their contexts must be concrete;
    the others can be built under `jit` and differentiated, those in tiles in reverse
    mode only. Contexts made of contexts have an operator made of those of their parts,
    which is exact and never multiplied out.

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
    of one process is an error in all, and so are shapes, dtypes, options or values of
    the host that differ between processes.

    A context that is a law of A for any x, with `sample` and `log_density`, has its
    operator on a sample of inputs: `monte_carlo_operator`.

    Args:
        context: any context with a finite number of inputs and context values, or
            an object with its `table()`.
        storage: "dense" or "sparse" to store the whole table that way instead, which
            takes n · m numbers on the way unless the context is sparse; None: what fits
            the context.
        tile_size: largest side of a tile, for contexts kept in tiles only; None: 1024.
        mesh: devices to cut the rows over; axes of type Explicit, as of
            `jax.make_mesh`, are taken as Auto; None: one device.
        axis: the axis of the mesh that cuts the rows; others repeat the work.
        precision: the level of products in float32, as of
            `AssociationOperator.with_precision`.

    Returns:
        An operator with the marginals of the context as it is stored.

    Raises:
        CapabilityError: if the context has no table (an infinite family).
        TypeError: if `context` is not a context, or `mesh` no mesh.
        ValueError: if `storage` is unknown, `axis` no axis of the mesh, or an argument
            is given that plays no part: `tile_size` without tiles, `axis` without
            `mesh`; if there is no such `precision`; if the table of a context of one's
            own is no table that sums to 1; if processes differ in what they pass.

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
    # First: a layout may take long.
    check_precision(precision)
    context = tree_on_auto_axes(as_context(context))
    if storage not in (None, "dense", "sparse"):
        msg = f'storage must be None, "dense" or "sparse"; got {summary(storage)}'
        raise ValueError(msg)
    if axis != "x" and mesh is None:
        msg = f"axis goes with a mesh; got axis={summary(axis)} and none"
        raise ValueError(msg)
    _warn_of_point_masses(context)
    # With axes of type Auto, on which builders may place what they make.
    mesh = None if mesh is None else check_mesh(mesh, axis)
    place = Place(mesh, axis, _side_of_tiles(context, storage, tile_size))
    if is_concrete(context):
        # Before the first program that they run together.
        agree_on_tree(
            "the context", context, mesh, storage=storage, axis=axis, tiles=tile_size,
            precision=precision,
        )  # fmt: skip
    make = {None: build, "dense": _build_dense, "sparse": _build_sparse}[storage]
    op = make(context, place).with_precision(precision)
    # The mark of the law and not of its storage: results of two storages agree.
    return _marked(op, context.fingerprint)


class Place(NamedTuple):
    """Where an operator is to lie, and in tiles of what side.

    Attributes:
        mesh: the devices that its rows are cut over; None: one device.
        axis: of the mesh.
        tile_size: of contexts kept in tiles.
    """

    mesh: Mesh | None
    axis: str
    tile_size: int


def _marked(op: Any, mark: Any) -> AssociationOperator:
    return dataclasses.replace(op, fingerprint=mark)


def _side_of_tiles(
    context: Context, storage: Storage | None, tile_size: int | None
) -> int:
    if tile_size is None:
        return TILE_SIZE
    tile_size = check_integer(tile_size, "tile_size", low=1)
    if storage is not None or not _has_tiles(context):
        how = f" with {storage=}" if storage else ""
        msg = (
            "tile_size goes with contexts kept in tiles, as rbf and attention; got a"
            f" {type(context).__name__}{how}"
        )
        raise ValueError(msg)
    return tile_size


def _has_tiles(context: Context) -> bool:
    """Whether it, or a part of it, is kept in tiles."""

    def is_kernel(node: Any) -> bool:
        return isinstance(node, SoftmaxContext)

    return any(map(is_kernel, jax.tree.leaves(context, is_leaf=is_kernel)))


def _build_dense(context: Context, place: Place) -> AssociationOperator:
    return dense_over(_table(context), place)


def dense_over(table: Array, place: Place) -> AssociationOperator:
    """A table that is checked, on one device or over a mesh."""
    # Summed before the cut: rows and columns are still whole.
    op = table_operator(table)
    return op if place.mesh is None else shard_dense(op, place.mesh, place.axis)


def _build_sparse(context: Context, place: Place) -> AssociationOperator:
    # These know their entries: no table of n · m numbers.
    if isinstance(context, (SparseJoint, TimeLag)):
        return build(context, place)
    check_concrete(context, "a context to be stored sparse")
    table = np.asarray(_table(context))
    # Row by row, as layouts want them.
    rows, columns = np.nonzero(table)
    entries = (rows, columns, table[rows, columns], table.shape)
    return entries_operator(*entries, place.mesh, place.axis)


def _table(context: Context) -> Array:
    """The table of a context of whatever class, checked to be a law (signed or not)."""
    table = as_floating(context.table(), "table()")
    check_ndim(table, 2, "table()")
    check_finite(table, "table()")
    # The sum alone: a teacher's table may have negative entries (theory.md §4.5).
    if is_concrete(table) and abs(float(table.sum()) - 1) > _MASS_TOLERANCE:
        msg = (
            f"table() of a {context._kind} must sum to 1; got {float(table.sum()):.6g}"
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
    # Rows that ascend strictly have an entry each. All of them in one column are
    # independent of it, which nobody takes for a finding.
    if (np.diff(rows) > 0).all() and (columns[1:] != columns[:-1]).any():
        warnings.warn(
            "each input of this context has one context value, so that its singular"
            " values are 1 and then 0, and rank nothing. `cx.contexts.pairs` and"
            " `time_lag` say what to use for steps of a series and for pairs of"
            " features",
            UserWarning,
            # Through `beside_context` to the line that called.
            stacklevel=4,
        )


@functools.singledispatch
def build(context: Any, place: Place) -> AssociationOperator:
    """The storage that fits; a context that only knows its table is kept dense."""
    try:
        return _build_dense(context, place)
    except CapabilityError as error:
        # A law at any x has no finite table, but can be drawn from.
        if not {"sample", "log_density"} <= set(context.capabilities):
            raise
        msg = (
            f"{error}. On a sample of inputs its operator can be estimated:"
            " cx.operators.monte_carlo_operator"
        )
        raise CapabilityError(msg) from error


@build.register
def _(context: DenseJoint, place: Place) -> AssociationOperator:
    return dense_over(context.probabilities, place)


@build.register
def _(context: SparseJoint, place: Place) -> AssociationOperator:
    check_concrete(context, "a sparse context")
    entries = (context.rows, context.columns, context.weights, context.shape)
    return entries_operator(*entries, place.mesh, place.axis)


@build.register
def _(context: Labels, place: Place) -> AssociationOperator:
    check_concrete(context, "a labels context")
    # Laid out on the host, as all that is sorted by place.
    codes = np.asarray(context.codes)
    return group_operator(codes, context.num_classes, place.mesh, place.axis)


@build.register
def _(context: SameClass, place: Place) -> AssociationOperator:
    check_concrete(context, "a same-class context")
    return same_class_operator(context, place.mesh, place.axis)


@build.register
def _(context: TimeLag, place: Place) -> AssociationOperator:
    check_concrete(context, "a time-lag context")
    return time_lag_operator(context, place.mesh, place.axis)


@build.register
def _(context: NextToken, place: Place) -> AssociationOperator:
    check_concrete(context, "a next-token context")
    return next_token_operator(context, place.mesh, place.axis)


@build.register
def _(context: Neighbors, place: Place) -> AssociationOperator:
    check_concrete(context, "a neighbour context")
    indices, p_x = np.asarray(context.indices), np.asarray(context.p_x)
    weights = None if context.weights is None else np.asarray(context.weights)
    if place.mesh is None:
        # As many slots in each row: no row has to be found.
        return fixed_degree_operator(indices, weights, p_x, context.num_points)
    n, num_slots = indices.shape
    # In order, so that the inputs of a slot read one part of the block.
    if weights is None:
        indices = np.sort(indices, axis=1)
    else:
        order = np.argsort(indices, axis=1)
        indices, weights = (
            np.take_along_axis(a, order, axis=1) for a in (indices, weights)
        )
    # Over a mesh as entries of the joint law, in float64 until they are laid out.
    shares = 1.0 / num_slots if weights is None else weights.astype(np.float64)
    # (n, K): p_x P⁺(a|x) of each slot.
    joint = np.broadcast_to(p_x.astype(np.float64)[:, None] * shares, indices.shape)
    return shard_entries(
        np.repeat(np.arange(n), num_slots),
        indices.reshape(-1),
        joint.reshape(-1),
        (n, context.num_points),
        place.mesh,
        place.axis,
        dtype=p_x.dtype,
    )


@build.register
def _(context: ReversedNeighbors, place: Place) -> AssociationOperator:
    # T stores its adjoint: nothing is laid out for this one.
    return reverse(build(context.forward, place))


@build.register
def _(context: SoftmaxContext, place: Place) -> AssociationOperator:
    if place.mesh is None:
        return kernel_operator(context, place.tile_size)
    return shard_softmax(context, place.mesh, place.axis, place.tile_size)


@build.register
def _(context: Teacher, place: Place) -> AssociationOperator:
    n, m = context.features.shape[0], context.training_features.shape[0]
    dtype = context.features.dtype
    # Not `low_rank_operator`: features at new points must keep the mean that they have.
    op = LowRankOperator(
        context.features * context.values[None, :],
        context.training_features,
        jnp.full((n,), 1.0 / n, dtype),
        jnp.full((m,), 1.0 / m, dtype),
    )
    return op if place.mesh is None else shard_low_rank(op, place.mesh, place.axis)
