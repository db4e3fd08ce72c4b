"""Meshes of devices as the compiler may use them: with axes of type Auto.

`jax.make_mesh` makes axes of type Explicit, on which arrays carry the cut of their rows
in their type and most of linear algebra refuses to guess. The programs here leave it to
the compiler: meshes and arrays are taken over as they lie, with the types changed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from contexture_jax._core.types import Array

__all__ = [
    "auto_mesh",
    "beside_context",
    "on_auto_axes",
    "tree_on_auto_axes",
    "within",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def auto_mesh(mesh: Mesh) -> Mesh:
    """The same devices under the same names, with axes of type Auto."""
    if all(kind == AxisType.Auto for kind in mesh.axis_types):
        return mesh
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def on_auto_axes(x: Array) -> Array:
    """An array of JAX whose type says nothing of a cut over devices.

    Outside a trace it stays where it lies, on axes of type Auto, and nothing is copied.
    Inside one, and where the caller has set a mesh, which says what the types are, each
    device gets all of it.
    """
    is_traced = isinstance(x, Tracer)
    sharding: Any = getattr(jax.typeof(x) if is_traced else x, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return x
    mesh: Any = sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return x
    if not jax.sharding.get_abstract_mesh().empty:
        # Every device has all of it already.
        if all(part is None for part in sharding.spec):
            return x
        new = NamedSharding(mesh, PartitionSpec())
    # The cut is a part of a tracer's type: without it the compiler makes its own.
    elif is_traced:
        kinds = (AxisType.Auto,) * len(mesh.axis_names)
        new = NamedSharding(mesh.update(axis_types=kinds), PartitionSpec())
    else:
        new = NamedSharding(auto_mesh(mesh), sharding.spec)
    return jax.sharding.reshard(x, new) if is_traced else jax.device_put(x, new)


def tree_on_auto_axes(tree: Any) -> Any:
    """A pytree with each array `on_auto_axes`; the same object where they all are."""
    leaves, structure = jax.tree.flatten(tree)
    new = [
        on_auto_axes(leaf) if isinstance(leaf, jax.Array) else leaf for leaf in leaves
    ]
    # Nothing is rebuilt for nothing: operators may be compared by identity.
    if all(one is other for one, other in zip(leaves, new, strict=True)):
        return tree
    return jax.tree.unflatten(structure, new)


def beside_context(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a front door run outside of the mesh that the caller has set, if any.

    Programs over one mesh are refused in the context of another, also where only the
    types of the axes differ. What comes back is of the types that the caller has set,
    but inside a trace, where it is on axes of type Auto.
    """

    @functools.wraps(function)
    def outside(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        around = jax.sharding.get_abstract_mesh()
        if around.empty:
            return function(*args, **kwargs)
        try:
            # A mesh without axes is how none is set.
            nowhere = jax.set_mesh(Mesh(np.empty((), dtype=object), ()))
        except ValueError:  # inside a trace
            with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
                return function(*args, **kwargs)
        with nowhere:
            out = function(*args, **kwargs)
        return jax.tree.map(lambda leaf: _typed_as(leaf, around), out)

    return outside


def _typed_as(x: Any, around: Any) -> Any:
    """An array where it lies, on a mesh of the types of `around`, if it is the same."""
    sharding = getattr(x, "sharding", None)
    if not isinstance(x, jax.Array) or not isinstance(sharding, NamedSharding):
        return x
    mesh: Any = sharding.mesh
    # It lies on another mesh than the caller's, whose types say nothing of it.
    if mesh.axis_names != around.axis_names or mesh.axis_sizes != around.axis_sizes:
        return x
    typed = Mesh(mesh.devices, mesh.axis_names, axis_types=around.axis_types)
    return jax.device_put(x, NamedSharding(typed, sharding.spec))


def within(mesh: Mesh) -> contextlib.AbstractContextManager[Any]:
    """For `shard_map` over a mesh inside a trace that has another one for context."""
    around = jax.sharding.get_abstract_mesh()
    if around.empty or around == mesh.abstract_mesh:
        return contextlib.nullcontext()
    # None meanwhile: `shard_map` brings the mesh that it maps over.
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))
