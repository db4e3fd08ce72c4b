"""Nearest neighbours of float32 and float64 points, exact whatever their scale.

`_layout` looks at the points, `_scoring` and `_pruned` find candidates by tiles, each
with a bound on what its rounding may hide, and `_ranking` decides what is in doubt.
`_search` leads through these stages; inside a trace `_differences` does it alone.
`_lists` finds most of them, in a part of the time; `_ring` searches over devices.
"""

from contexture_jax.kernels.neighbors._distances import exact_distances
from contexture_jax.kernels.neighbors._lists import Approximate, approximate_neighbors
from contexture_jax.kernels.neighbors._ranking import in_balls
from contexture_jax.kernels.neighbors._ring import nearest_over_mesh
from contexture_jax.kernels.neighbors._search import nearest_neighbors

__all__ = [
    "Approximate",
    "approximate_neighbors",
    "exact_distances",
    "in_balls",
    "nearest_neighbors",
    "nearest_over_mesh",
]
