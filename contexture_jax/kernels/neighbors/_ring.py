"""Nearest neighbours of points that are cut over devices: a ring of top-k merges.

Every device keeps its own points as queries, and the best of those that it has met. A
block of points goes round: products score it, candidates are ranked by differences
while their coordinates are there, and both lists are merged. No device ever holds more
than two blocks, and nothing but points goes from one to another.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from contexture_jax._core.meshes import auto_mesh, within
from contexture_jax._core.numerics import mm
from contexture_jax._core.processes import placed
from contexture_jax._core.types import Array, Float, Int, summary
from contexture_jax.kernels.neighbors._distances import squared_distances

__all__ = ["nearest_over_mesh"]

_MARGIN = 8  # more candidates than asked for, ranked again by differences
_BLOCK = 256  # queries of a product
_NONE = 2**31 - 1  # the number of no point


def nearest_over_mesh(
    points: Float[Array, "n d"], num_neighbors: int, *, mesh: Mesh, axis: str
) -> Int[Array, "n k"]:
    """The nearest points of each point, by distance to rounding; ties by number.

    Args:
        points: shape (n, d), finite.
        num_neighbors: K ≤ n.
        mesh: the devices.
        axis: the axis of the mesh that cuts the rows.

    Returns:
        Numbers of the neighbours, nearest first, shape (n, K), int32; cut over the mesh
        where its devices divide n.

    Raises:
        TypeError: if `mesh` is no mesh.
        ValueError: if it has no such axis.
    """
    if not isinstance(mesh, Mesh):
        msg = f"mesh must be a jax.sharding.Mesh; got {summary(mesh)}"
        raise TypeError(msg)
    if axis not in mesh.axis_names:
        msg = f"axis must be one of the mesh's, {mesh.axis_names}; got {summary(axis)}"
        raise ValueError(msg)
    mesh = auto_mesh(mesh)
    cut = NamedSharding(mesh, PartitionSpec(axis))
    n, k = points.shape[0], mesh.shape[axis]
    if n % k == 0:
        points = placed(points, cut)
    found = _search_over_mesh(points, num_neighbors=num_neighbors, mesh=mesh, axis=axis)
    return found[:n]


@functools.partial(jax.jit, static_argnames=("num_neighbors", "mesh", "axis"))
def _search_over_mesh(
    points: Float[Array, "n d"], *, num_neighbors: int, mesh: Mesh, axis: str
) -> Int[Array, "n2 k"]:
    num_points, k = points.shape[0], mesh.shape[axis]
    # About a point among them, so that a common offset does not round scores.
    points = points - _middle(points)[None, :]
    points = jnp.pad(points, ((0, -num_points % k), (0, 0)))
    search = functools.partial(_search, num_points, num_neighbors, k, axis)
    cut = PartitionSpec(axis)
    # Loops start from constants, which the check would have marked by hand.
    run = jax.shard_map(search, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
    with within(mesh):
        return run(points)


def _middle(points: Float[Array, "n d"]) -> Float[Array, " d"]:
    """The mean to four bits of each column's width.

    About the mean itself numbers of few bits, such as counts, would be rounded, and
    rounding would order what is equally far.
    """
    _, exponent = jnp.frexp(jnp.ptp(points, axis=0))
    exponent = jnp.maximum(exponent - 4, jnp.finfo(points.dtype).minexp)
    step = jnp.ldexp(jnp.ones_like(points[0]), exponent)
    return jnp.round(points.mean(axis=0) / step) * step


def _search(
    num_points: int, num_neighbors: int, num_devices: int, axis: str, own: Array
) -> Array:
    """The queries of one device."""
    share, k = own.shape[0], num_devices
    home = jax.lax.axis_index(axis).astype(jnp.int32)

    def step(hop: Array, state: tuple) -> tuple:
        block, best = state
        # The block goes on while it is searched.
        passed = jax.lax.ppermute(block, axis, [(i, (i - 1) % k) for i in range(k)])
        return passed, _met(own, block, (home + hop) % k * share, best, num_points)

    best = (
        jnp.full((share, num_neighbors), jnp.inf, own.dtype),
        jnp.full((share, num_neighbors), _NONE, jnp.int32),
    )
    # The last block goes on to nobody.
    block, best = jax.lax.fori_loop(0, k - 1, step, (own, best))
    last = (home + k - 1) % k * share
    return _met(own, block, last, best, num_points)[1]


def _met(
    own: Array, block: Array, first: Array, best: tuple[Array, Array], num_points: int
) -> tuple[Array, Array]:
    """The best so far, merged with those of a block, whose numbers begin at `first`."""
    share = own.shape[0]
    num_neighbors = best[0].shape[1]
    numbers = first + jnp.arange(share, dtype=jnp.int32)
    half = 0.5 * (block * block).sum(axis=1)
    half = jnp.where(numbers < num_points, half, jnp.inf)
    count = min(num_neighbors + _MARGIN, share)

    def merge(parts: tuple[Array, ...]) -> tuple[Array, Array]:
        queries, *before = parts
        # |a|² / 2 − ⟨q, a⟩: the order of |q − a|² to rounding.
        scores = half[None, :] - mm(queries, block.T)
        place = jax.lax.top_k(-scores, count)[1]
        number = numbers[place]
        distance = squared_distances(queries, block, place)
        distance = jnp.where(number < num_points, distance, jnp.inf)
        both: Any = jax.lax.sort(
            tuple(
                jnp.concatenate(pair, axis=1)
                for pair in zip(before, (distance, number), strict=True)
            ),
            dimension=1,
            num_keys=2,
        )
        return both[0][:, :num_neighbors], both[1][:, :num_neighbors]

    size = min(_BLOCK, share)
    blocks = [
        jnp.pad(x, ((0, -share % size), (0, 0))).reshape(-1, size, x.shape[1])
        for x in (own, *best)
    ]
    merged = jax.lax.map(merge, tuple(blocks))
    return tuple(x.reshape(-1, num_neighbors)[:share] for x in merged)
