"""The exact k-NN graph of features that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from contexture_jax._core.checks import check_integer
from contexture_jax._core.streams import BlockSource, as_source, reader_of
from contexture_jax.contexts._neighbors import Neighbors, neighbors
from contexture_jax.kernels import exact_distances, nearest_neighbors

__all__ = ["knn_of_blocks"]


def knn_of_blocks(
    source: Any,
    num_neighbors: int = 30,
    *,
    block_bytes: int = 2**25,
    query_bytes: int = 2**28,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbors:
    """The context of `knn`, of features that are read block by block.

    The graph is the same, to the last tie. Of the features one part of queries and a
    few blocks are in memory at a time, and all of them are read once for each part; of
    the graph n × K numbers. Time grows with n², as it does for `knn`.

    Args:
        source: features of dense rows, as from `cx.data.open_shards`, or an array, as
            of `np.load(path, mmap_mode="r")`: shape (n, d), finite.
        num_neighbors: K, the point itself included; 1 ≤ K ≤ n.
        block_bytes: of the points that are read at once.
        query_bytes: of the points that look for neighbours in one pass.
        progress: called with (points done, n) after each of these passes.

    Returns:
        A `Neighbors` without points: it is not extended to new ones.

    Raises:
        TypeError: if `source` is neither, or `num_neighbors` not an integer.
        ValueError: if K is not between 1 and n, or the features hold what is no finite
            number; if files are gone, have changed or are damaged.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
        >>> graph = cx.contexts.knn_of_blocks(x, 5, block_bytes=200, query_bytes=200)
        >>> bool((graph.indices == cx.contexts.knn(x, 5).indices).all())
        True
    """
    source = as_source(source)
    if not source.is_dense:
        msg = f"source must hold rows of features; {source.title} holds entries"
        raise TypeError(msg)
    n = int(source.shape[0] or 0)
    count = check_integer(num_neighbors, "num_neighbors", low=1, high=n)
    found = np.empty((n, count), np.int32)
    for part in source.blocks(check_integer(query_bytes, "query_bytes", low=1)):
        queries = np.array(source.read(part))
        stop = part.row + len(queries)
        found[part.row : stop] = _nearest(source, queries, count, block_bytes)
        if progress is not None:
            progress(stop, n)
    return neighbors(found, num_points=n)


def _nearest(
    source: BlockSource, queries: np.ndarray, count: int, block_bytes: int
) -> np.ndarray:
    """The nearest of all points, from those of each block."""
    reader = reader_of(source, block_bytes, queries.dtype)
    best = np.empty((len(queries), 0), np.int64)
    away = np.empty((len(queries), 0))
    for number, block in reader.ahead():
        place = reader.blocks[number]
        # A copy: the search may keep it where it is while the next one is read.
        points = np.array(block[: place.stop - place.start])
        near = np.asarray(
            nearest_neighbors(queries, points, min(count, len(points)))
        ).astype(np.int64)
        rows = np.repeat(np.arange(len(queries)), near.shape[1])
        distances = exact_distances(queries, points, rows, near.ravel())
        best = np.concatenate([best, near + place.row], axis=1)
        away = np.concatenate([away, distances.reshape(near.shape)], axis=1)
        # Stable: of equal distances those of earlier blocks come first, and so by
        # number.
        order = np.argsort(away, axis=1, kind="stable")[:, :count]
        best, away = (np.take_along_axis(x, order, axis=1) for x in (best, away))
    return best
