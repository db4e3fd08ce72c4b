"""A map of points into few columns that shortens no distance more than it must.

For orthonormal directions V the image z = (Vᵀx, |x − VVᵀx|) has |z − z'| ≤ |x − x'| for
all pairs (theory.md §6.9): lower bounds, which `search_pruned` looks at first.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float, Int
from contexture_jax.kernels.neighbors._distances import (
    make_tiles,
    unit_roundoff,
)

__all__ = ["CAPACITY", "Pruning", "choose_directions", "images", "make_pruning"]

CAPACITY = 512  # groups, and points, that are evaluated for a query
_CHOICES = (32, 64, 128, 192, 256)  # numbers of directions
_MIN_COLUMNS = 65
_MAX_COLUMNS = 4096  # a covariance of all columns is formed
_SAMPLE = 4096  # points that show directions and what they prune
_PROBES = 256  # points of the sample whose neighbours are counted
_ROWS = 4096  # points whose images are taken at a time

# Costs in multiplications of a large matrix product, measured on x86 CPUs.
_PAIR = 28  # one column of one distance that is taken by itself
_SWEEP = 32  # selection among the scores, for each of them
_FACTORS = 10  # subspace iteration, for each entry of the covariance and direction


class Pruning(NamedTuple):
    """Images of the points under a map that shortens no more than it must.

    Attributes:
        center: what is subtracted first, shape (d,).
        directions: V, shape (d, d'), orthonormal columns.
        tiles: of the images, shape (t, d' + 2, c), see `make_tiles`.
        error: δ with |ẑ − z| ≤ δ|x| for every computed image, shape ().
    """

    center: Float[Array, " d"]
    directions: Float[Array, "d p"]
    tiles: Float[Array, "t p2 c"]
    error: Float[Array, ""]


def choose_directions(
    points: Float[Array, "m d"],
    center: Float[Array, " d"],
    num_neighbors: int,
    num_queries: int,
) -> Float[Array, "d p"] | None:
    """As many principal directions as make the search cheapest, None if none does.

    A sample of the points stands for all: as its K s / m-th neighbour is about as far
    as the K-th of all, it shows what share of the points the bounds leave. The cost of
    looking is at most a twentieth of the whole search. The constants are those of CPUs:
    elsewhere the answer is None.

    Args:
        points: shape (m, d), on the CPU.
        center: shape (d,).
        num_neighbors: K.
        num_queries: how many queries will come.
    """
    m, d = points.shape
    choices = tuple(c for c in _CHOICES if c <= d // 2)
    if not choices:
        return None
    full = (d + _SWEEP) * m
    look = _SAMPLE * d**2 + _FACTORS * d**2 * max(choices)
    if (
        not _MIN_COLUMNS <= d <= _MAX_COLUMNS
        # Numbers of points are compared as float32 in `search_pruned`.
        or not 2 * _SAMPLE <= m < 2**24
        or 4 * num_neighbors > CAPACITY
        or num_queries * full < 20 * look
        or {device.platform for device in points.devices()} != {"cpu"}
    ):
        return None
    chosen = np.random.default_rng(0).permutation(m)[:_SAMPLE]
    # A query of the sample is its own nearest; of the K − 1 others the sample has a
    # share, and one at least.
    rank = 1 + max(1, round((num_neighbors - 1) * _SAMPLE / m))
    sample = points[np.sort(chosen)] - center[None, :]
    directions, counts = _probe(sample, rank=rank, choices=choices)
    counts = np.asarray(counts) * (m / _SAMPLE)
    costs = [
        # For a query: the scores of all points; the distances of those that are left;
        # the full search where too many are; its share of the images of the points,
        # which take V twice.
        (choice + 2 + _SWEEP) * m
        + _PAIR * d * np.minimum(count, CAPACITY).mean()
        + full * (count > CAPACITY).mean()
        + 2 * choice * d * m / num_queries
        for choice, count in zip(choices, counts, strict=True)
    ]
    best = int(np.argmin(costs))
    # The costs are rough: a small gain may be none.
    if not (costs[best] < 0.8 * full and np.isfinite(directions).all()):
        return None
    return directions[:, : choices[best]]


@functools.partial(jax.jit, static_argnames=("rank", "choices"))
def _probe(
    sample: Float[Array, "s d"], *, rank: int, choices: tuple[int, ...]
) -> tuple[Float[Array, "d p"], Int[Array, "c q"]]:
    """Directions, and how many points the bounds leave within the rank-th distance.

    Any directions will do, good ones prune more: these come from four steps of
    subspace iteration, whose first columns are about the leading eigenvectors.
    """
    norms = (sample * sample).sum(axis=1)
    # Over the mean norm, so that squares of entries of the covariance stay in range.
    scaled = sample / jnp.sqrt(norms.mean())
    covariance = mm(scaled.T, scaled) / _SAMPLE
    directions = jax.random.normal(
        jax.random.key(0), (sample.shape[1], max(choices)), sample.dtype
    )
    for _ in range(4):
        directions = _orthonormalize(mm(covariance, mm(covariance, directions)))

    query = slice(None, _PROBES)
    images = mm(sample, directions)

    def gaps(x: Array, squares: Array) -> Array:
        products = mm(x[query], x.T)
        return squares[query, None] + squares[None, :] - 2.0 * products

    distances = gaps(sample, norms)
    radius = -jax.lax.top_k(-distances, rank)[0][:, -1:]
    counts = []
    for choice in choices:
        y = images[:, :choice]
        squares = (y * y).sum(axis=1)
        # Cancels, as `_image` must not: here it only tells a cost.
        rest = jnp.sqrt(jnp.maximum(norms - squares, 0))
        bound = gaps(y, squares) + (rest[query, None] - rest[None, :]) ** 2
        counts.append((bound <= radius).sum(axis=1))
    return directions, jnp.stack(counts)


def _orthonormalize(columns: Float[Array, "d p"]) -> Float[Array, "d p"]:
    """By Gram and Schmidt, twice, one column after the other.

    LAPACK's threads would spin on after the call and take the cores from the products.
    """

    def add(i: Array, basis: Array) -> Array:
        column = columns[:, i]
        for _ in range(2):
            # Columns of the basis that are still to come are 0, and take nothing off.
            shadow = mm(column, basis)
            column = column - mm(basis, shadow)
            norm = jnp.sqrt((column * column).sum())
            column = column / jnp.where(norm > 0, norm, 1)
        return basis.at[:, i].set(column)

    return jax.lax.fori_loop(0, columns.shape[1], add, jnp.zeros_like(columns))


def _image(
    x: Float[Array, "n d"], y: Float[Array, "n p"], directions: Float[Array, "d p"]
) -> Float[Array, "n p1"]:
    """(y, |x − V y|). The rest is formed: |x|² − |y|² would lose it to rounding."""
    shadow = mm(y, directions.T)
    rest = jnp.sqrt(((x - shadow) ** 2).sum(axis=1, keepdims=True))
    return jnp.concatenate([y, rest], axis=1)


@jax.jit
def images(
    x: Float[Array, "n d"], center: Float[Array, " d"], directions: Float[Array, "d p"]
) -> Float[Array, "n p1"]:
    """Images of points about a centre."""
    x = x - center[None, :]
    y = mm(x, directions)
    return _image(x, y, directions)


def make_pruning(
    points: Float[Array, "m d"],
    center: Float[Array, " d"],
    directions: Float[Array, "d p"],
) -> Pruning:
    """Images of points about a centre under orthonormal directions.

    The error of an image has three parts: of Vᵀx, at most √d' γ_d |x|; of the rest, the
    same again and √d' γ_d' |x|; and 3 |VᵀV − 1| |x| since V is not quite orthonormal.
    To subtract the centre costs 2 roundings more.
    """
    m, d = points.shape
    num_directions = directions.shape[1]
    parts = []
    for start in range(0, m, _ROWS):
        part = points[start : start + _ROWS]
        # One shape, so one program.
        padding = min(_ROWS, m) - part.shape[0]
        padded = jnp.pad(part, ((0, padding), (0, 0)))
        parts.append(images(padded, center, directions)[: part.shape[0]])
    wide = np.asarray(directions, np.float64)
    # The Frobenius norm, which is no less than the spectral one.
    defect = np.linalg.norm(np.einsum("ij,ik->jk", wide, wide) - np.eye(num_directions))
    rounding = d * math.sqrt(num_directions) + 1
    error = 3.0 * (rounding * unit_roundoff(points.dtype) + defect)
    tiles = jax.jit(make_tiles)(jnp.concatenate(parts))
    return Pruning(center, directions, tiles, jnp.asarray(error, points.dtype))
