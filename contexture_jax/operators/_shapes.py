"""Operators over a mesh as shapes alone, for programs compiled ahead of their data."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from contexture_jax._core.checks import check_integer
from contexture_jax.contexts import Context, Neighbors
from contexture_jax.operators._build import association_operator
from contexture_jax.operators.sharded._common import ShardedOperator, check_mesh
from contexture_jax.operators.sharded._slots import neighbor_shapes

__all__ = ["operator_shapes"]


def operator_shapes(
    context: Context,
    *,
    mesh: Mesh,
    axis: str = "x",
    tile_size: int | None = None,
    max_degree: int | None = None,
) -> Any:  # the storage of the context, of shapes
    """What `association_operator` would make over a mesh, as shapes: no array is made.

    Its leaves are `jax.ShapeDtypeStruct`s that say how arrays are cut over the devices,
    so that `op.lower`, `op.cost` and `solvers.lower` tell of programs of any size. The
    devices may be those of a topology that is not there
    (`jax.experimental.topologies.get_topology_desc`).

    Kernels are as under `jit`, in the form that fits points at any distance: rows are
    about twice as wide as those of near points in arrays. A neighbour graph is laid out
    as if its entries lay evenly: each step of the ring has, on each device, as many as
    chance gives the fullest; or has, of each other device, as many rows as chance makes
    it need at most, where that is less. Rows in order take less room.

    Args:
        context: a context of shapes, as `jax.eval_shape` gives it of its constructor:
            of a table, kernel, attention or neighbours; or one of arrays, of which
            shapes are all that counts.
        mesh: the devices.
        axis: the axis of the mesh that cuts the rows.
        tile_size: as in `association_operator`.
        max_degree: of neighbours, how many inputs have one value at most, hubs aside:
            the room is for those as well; None: about as many have each.

    Raises:
        TypeError: if `context` is of a kind that is laid out from its values: pairs,
            sparse tables, labels, or made of other contexts.
        ValueError: as `association_operator`; if `max_degree` comes without a graph.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.ShapeDtypeStruct((1000, 8), "float32")
        >>> context = jax.eval_shape(cx.contexts.rbf, x)
        >>> mesh = cx.training.data_mesh(1)
        >>> op = cx.operators.operator_shapes(context, mesh=mesh)
        >>> op.lower(16).compile().cost_analysis()["flops"] > 0
        True
    """
    mesh = check_mesh(mesh, axis)
    if isinstance(context, Neighbors):
        n, num_neighbors = context.indices.shape
        mean = -(-n * num_neighbors // context.num_points)
        most = mean
        if max_degree is not None:
            most = check_integer(max_degree, "max_degree", low=mean)
        op: Any = neighbor_shapes(
            context.shape, num_neighbors, most, mesh, axis, dtype=context.p_x.dtype
        )
        return _cut(op)
    if max_degree is not None:
        msg = f"max_degree goes with neighbours; got a {type(context).__name__}"
        raise ValueError(msg)

    def build(context: Context) -> Any:
        op: Any = association_operator(
            context, mesh=mesh, axis=axis, tile_size=tile_size
        )
        # The mark is of values.
        return dataclasses.replace(op, fingerprint=None)

    return _cut(jax.eval_shape(build, context))


def _cut(op: Any) -> Any:
    """Shapes with the cut over devices that the arrays of an operator have."""
    if not isinstance(op, ShardedOperator):
        msg = f"a {type(op).__name__} has no shapes over a mesh: take its parts"
        raise TypeError(msg)

    def placed(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        # As `place_law`: a law that does not divide is on each device.
        divides = leaf.ndim > 0 and leaf.shape[0] % op.num_devices == 0
        is_cut = path[0].name in op.cut_fields and divides
        spec = PartitionSpec(*((op.axis,) if is_cut else ()))
        sharding = NamedSharding(op.mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(placed, op)
