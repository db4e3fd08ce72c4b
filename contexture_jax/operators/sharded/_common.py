"""What operators over a mesh of devices share: padding, placement, collectives.

Rows (values of X) are cut evenly over one axis of the mesh. A number of rows that the
devices do not divide is padded inside the operator with rows of no mass; its shape, its
marginals and its products have none of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from contexture_jax._core.meshes import auto_mesh, within
from contexture_jax._core.processes import gathered, placed
from contexture_jax._core.types import Array, Float, Size, static_field, summary
from contexture_jax.operators._base import AssociationOperator

__all__ = [
    "Collective",
    "ShardedOperator",
    "check_mesh",
    "cut_of",
    "keep_cut",
    "mesh_of",
    "pad_law",
    "pad_rows",
    "padded_size",
    "place_law",
    "place_rows",
    "place_whole",
    "spmd",
]


class Collective(NamedTuple):
    """A communication of one product, as it stands in the compiled program.

    Attributes:
        product: the product that it belongs to.
        kind: its name in XLA.
        bytes: what each device gives to one of them.
        times: how many of them a product takes, one after the other.
    """

    product: Literal["matmat", "rmatmat"]
    kind: Literal["all-gather", "all-reduce", "all-to-all", "collective-permute"]
    bytes: int
    times: int


class ShardedOperator(AssociationOperator):
    """T over a mesh: each device holds an equal share of the rows.

    Subclasses are frozen dataclass pytrees with two static fields, `mesh` and `axis`.
    """

    mesh: Mesh = static_field()
    axis: str = static_field()

    @property
    def num_devices(self) -> int:
        """The number of shares."""
        return self.mesh.shape[self.axis]

    @property
    def share(self) -> tuple[Size, Size]:
        """Rows of functions of X that a device holds, and of those of A, which are cut.

        With the rows of padding.
        """
        rows, columns = (
            padded_size(size, self.num_devices) // self.num_devices
            for size in self.shape
        )
        return rows, columns

    @property
    def cut_fields(self) -> tuple[str, ...]:
        """The fields whose arrays have their first axis cut over the devices."""
        raise NotImplementedError

    def padded(self) -> AssociationOperator:
        """With laws of the padded rows, cut as those are."""
        laws = {
            name: pad_law(getattr(self, name), self.mesh, self.axis)
            for name in ("p_x", "p_a")
            if name in self.cut_fields
        }
        if all(law is getattr(self, name) for name, law in laws.items()):
            return self
        # Products and shape follow from the lengths of the laws. As a tree, since the
        # leaves may be shapes.
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: laws.get(path[0].name, leaf), self
        )

    def collectives(self, r: int) -> tuple[Collective, ...]:
        """All communication of one `matmat` and one `rmatmat` on `r` columns."""
        raise NotImplementedError


def check_mesh(mesh: Any, axis: str) -> Mesh:
    """Return the mesh with axes of type Auto; raise unless `axis` is one of them.

    Raises:
        TypeError: if `mesh` is no mesh.
        ValueError: if it has no such axis, or one of type Manual.
    """
    if not isinstance(mesh, Mesh):
        msg = (
            "mesh must be a jax.sharding.Mesh, as from jax.make_mesh; got"
            f" {type(mesh).__name__}"
        )
        raise TypeError(msg)
    if axis not in mesh.axis_names:
        msg = (
            f"axis must be one of the mesh's, {mesh.axis_names}; got {summary(axis)}:"
            f" say axis={mesh.axis_names[0]!r}"
        )
        raise ValueError(msg)
    if AxisType.Manual in mesh.axis_types:
        msg = (
            "mesh must have axes of type Auto or Explicit; got one of type Manual, as"
            " inside of shard_map: build the operator outside"
        )
        raise ValueError(msg)
    return auto_mesh(mesh)


def mesh_of(operator: AssociationOperator) -> Mesh | None:
    """The mesh that an operator, or a part of it, is sharded over; None: one device."""
    cut = cut_of(operator)
    return None if cut is None else cut[0]


def cut_of(operator: AssociationOperator) -> tuple[Mesh, str] | None:
    """Mesh and axis that cut the rows of an operator, or of a part; None: neither."""
    # An operator may be made of others: the first one that is cut tells.
    parts = jax.tree.leaves(
        operator, is_leaf=lambda node: isinstance(node, ShardedOperator)
    )
    cuts = ((p.mesh, p.axis) for p in parts if isinstance(p, ShardedOperator))
    return next(cuts, None)


def padded_size(size: int, num_devices: int) -> int:
    """The next multiple of the number of devices."""
    return -(-size // num_devices) * num_devices


def pad_rows(x: Float[Array, "n r"], num_devices: int) -> Float[Array, "n2 r"]:
    """The block with rows of zeros up to a multiple of the number of devices."""
    # No copy where the devices divide it.
    missing = padded_size(x.shape[0], num_devices) - x.shape[0]
    return jnp.pad(x, ((0, missing), (0, 0))) if missing else x


def place_rows(x: Any, mesh: Mesh, axis: str) -> Any:
    """Arrays with their first axis cut over the mesh; it must divide."""
    cut = NamedSharding(mesh, PartitionSpec(axis))
    return jax.tree.map(lambda leaf: placed(leaf, cut), x)


def place_whole(x: Any, mesh: Mesh) -> Array:
    """An array with a copy on every device of the mesh."""
    return placed(x, NamedSharding(mesh, PartitionSpec()))


def place_law(law: Any, mesh: Mesh, axis: str) -> Array:
    """A marginal, cut over the mesh where its length divides, else on each device."""
    # JAX cuts evenly or not at all, and a marginal is too small to pad.
    divides = law.shape[0] % mesh.shape[axis] == 0
    return place_rows(law, mesh, axis) if divides else place_whole(law, mesh)


def pad_law(law: Any, mesh: Mesh, axis: str) -> Any:
    """A marginal with values of no mass that make it divide, cut over the mesh.

    Of a shape the shape; the same object where it divides.
    """
    size = padded_size(law.shape[0], mesh.shape[axis])
    if (missing := size - law.shape[0]) == 0:
        return law
    cut = NamedSharding(mesh, PartitionSpec(axis))
    if isinstance(law, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((size,), law.dtype, sharding=cut)
    if not isinstance(law, Tracer):
        # It is on every device: by NumPy there is no program.
        return placed(np.pad(gathered(law), (0, missing)), cut)
    with within(mesh):
        return jax.lax.with_sharding_constraint(jnp.pad(law, (0, missing)), cut)


def keep_cut(block: Float[Array, "n r"], cut: tuple[Mesh, str] | None) -> Array:
    """The block with its rows cut over mesh and axis, where those divide them.

    Said where blocks that are cut meet some that are on every device: the compiler
    would bring the sum to all.
    """
    if cut is None or block.shape[0] % cut[0].shape[cut[1]]:
        return block
    with within(cut[0]):
        rows = NamedSharding(cut[0], PartitionSpec(cut[1]))
        return jax.lax.with_sharding_constraint(block, rows)


def spmd(
    function: Callable[..., Any],
    mesh: Mesh,
    take: tuple[str | None, ...],
    give: str | tuple[str | None, ...] | None,
    *static: Hashable,
) -> Callable[..., Any]:
    """`function` as the program of one device, by `jax.shard_map`.

    Args:
        function: takes `static`, then the local parts, and gives local parts; of a
            module, not made anew in each call, so that eager calls compile it once.
        mesh: of devices.
        take: for each argument the axis that cuts its rows, or None for a copy on each
            device.
        give: likewise for each result.
        static: what the program depends on beside arrays; hashable.
    """
    return functools.partial(
        _run, function=function, mesh=mesh, take=take, give=give, static=static
    )


# Compiled here: outside a program `shard_map` runs operation by operation, and knows no
# rule of differentiation with symbolic zeros.
@functools.partial(
    jax.jit, static_argnames=("function", "mesh", "take", "give", "static")
)
def _run(
    *arrays: Any,
    function: Callable[..., Any],
    mesh: Mesh,
    take: Any,
    give: Any,
    static: tuple[Hashable, ...],
) -> Any:
    def spec(axis: str | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(axis)

    run = jax.shard_map(
        functools.partial(function, *static),
        mesh=mesh,
        in_specs=tuple(map(spec, take)),
        out_specs=tuple(map(spec, give)) if isinstance(give, tuple) else spec(give),
        # The tile and slot loops start from constants, which the check would have
        # marked by hand as different on each device.
        check_vma=False,
    )
    # `shard_map` refuses a mesh other than that of the trace that it is in.
    with within(mesh):
        return run(*arrays)
