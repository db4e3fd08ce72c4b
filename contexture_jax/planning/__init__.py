"""What a solve or a training step takes on devices that are not there.

The real programs are compiled from shapes alone, for a topology by its name, and read:
bytes, collectives and, by the published peaks of the chip, the least time.
"""

from contexture_jax.planning._estimate import Estimate, Exchange, estimate, scaling
from contexture_jax.planning._plan import plan, plan_apart
from contexture_jax.planning._problem import Problem
from contexture_jax.planning._topology import CHIPS, Chip, Topology, parse_topology

__all__ = [
    "CHIPS",
    "Chip",
    "Estimate",
    "Exchange",
    "Problem",
    "Topology",
    "estimate",
    "parse_topology",
    "plan",
    "plan_apart",
    "scaling",
]
