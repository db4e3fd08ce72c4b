"""Points that benchmarks work on."""

from __future__ import annotations

import numpy as np

__all__ = ["clustered_points"]

_NUM_CLUSTERS = 200
_TRUE_DIMENSIONS = 20


def clustered_points(num_points: int, num_columns: int, seed: int) -> np.ndarray:
    """Gaussian clusters in 20 dimensions, laid into more by a random isometry.

    Args:
        num_points: n.
        num_columns: d; where it is above 20, noise of a tenth is added to all columns.
        seed: of everything.

    Returns:
        Shape (n, d), float32, in random order.
    """
    rng = np.random.default_rng(seed)
    inner = min(_TRUE_DIMENSIONS, num_columns)
    centers = 3.0 * rng.standard_normal((_NUM_CLUSTERS, inner))
    cluster = rng.integers(0, _NUM_CLUSTERS, num_points)
    points = centers[cluster] + rng.standard_normal((num_points, inner))
    if num_columns > inner:
        isometry, _ = np.linalg.qr(rng.standard_normal((num_columns, inner)))
        noise = rng.standard_normal((num_points, num_columns), np.float32)
        points = points @ isometry.T + 0.1 * noise
    return points.astype(np.float32)
