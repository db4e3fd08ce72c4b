"""Flops, bytes and the least time of a pass or a step, from counts and peaks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from contexture_jax.planning._problem import Problem
from contexture_jax.planning._topology import Chip, Topology
from contexture_jax.solvers import block_width

__all__ = ["Estimate", "Exchange", "estimate", "least_time", "scaling", "solve_width"]


class Exchange(NamedTuple):
    """What the chips tell each other, again and again.

    Attributes:
        kind: its name in XLA.
        bytes: of the array.
        axis: of the mesh, with the chips along it.
        times: how often a pass or a step does it; of a part that repeats until it is
            exact, as orthonormalisation, once.
        source: "counted" by the operator, or "text" of the compiled program.
    """

    kind: str
    bytes: int
    axis: str
    times: int
    source: str


class Estimate(NamedTuple):
    """What a chip does in a pass of a solver, or in a training step.

    Attributes:
        flops: operations; an exponential counts as one.
        moved_bytes: bytes of memory read and written.
        exchanges: between chips.
        seconds: the least time by "arithmetic", "memory" and "links", each alone at the
            published peak; 0 where no peak is published.
        binds: the resource that takes longest; "": unknown.
    """

    flops: float
    moved_bytes: float
    exchanges: tuple[Exchange, ...]
    seconds: dict[str, float]
    binds: str

    @property
    def least(self) -> float:
        """Seconds of the resource that binds; the others are taken to go beside it."""
        return max(self.seconds.values())


def solve_width(problem: Problem, operator: Any) -> int:
    """Columns of what a pass multiplies."""
    return block_width(operator, problem.rank)


def estimate(problem: Problem, topology: Topology) -> Estimate:
    """A pass over an operator, by what the operator counts: nothing is compiled.

    A pass is a product with T and one with T*, and the factorisations of both blocks.
    The bytes moved are those of arguments and results, once; of neighbours the row of
    the block for each entry; of a kernel its weights, in tiles that are written and
    read, and what goes round, once a hop.

    Raises:
        ValueError: if the problem is an encoder, whose step is compiled to be counted.

    Example:
        >>> import contexture_jax as cx
        >>> problem = cx.planning.Problem("joint", rows=4096, columns=64, rank=8)
        >>> topology = cx.planning.parse_topology("v5e:2x2")
        >>> found = cx.planning.estimate(problem, topology)
        >>> found.binds, found.exchanges[0].kind
        ('memory', 'all-reduce')
    """
    if problem.is_step:
        raise ValueError("the step of an encoder is counted by plan; got kind 'mlp'")
    k = topology.num_chips
    # Counts need a mesh and no device: one stands for all of them.
    op = problem.operator(
        Mesh(
            np.array([jax.devices()[0]] * k),
            ("x",),
            axis_types=(AxisType.Auto,),
        )
    )
    width, size = solve_width(problem, op), problem.itemsize
    # A product with T* takes the same arrays, and what T gives in the place of what it
    # takes.
    cost = op.cost(width)
    flops = 2.0 * cost.flops
    moved = 2.0 * (cost.argument_bytes + cost.output_bytes)
    n, m = op.shape
    # Functions of A of a table lie whole on each device.
    rows, columns = -(-n // k), m if problem.kind == "joint" else -(-m // k)
    if problem.kind == "knn":
        moved += size * flops / 2
    elif problem.kind == "rbf":
        moved += 2 * (2 * size * rows * m)
        moved += 2 * (k - 1) * size * columns * (problem.columns + width)
    # A Gram matrix and a triangular product of either block, and as many numbers read
    # and written as those take.
    flops += 4.0 * (rows + columns) * width**2
    moved += 5.0 * size * (rows + columns) * width
    axis = f"x ({k})"
    exchanges = [
        Exchange(c.kind, c.bytes, axis, c.times, "counted")
        for c in op.collectives(width)
    ]
    if k > 1:
        # The Gram matrices, of what is cut.
        cut = 1 if problem.kind == "joint" else 2
        small = size * width**2
        exchanges.append(Exchange("all-reduce", small, axis, cut, "counted"))
    return least_time(
        flops, moved, tuple(exchanges), topology.chip, problem.peak, num_chips=k
    )


def least_time(
    flops: float,
    moved: float,
    exchanges: tuple[Exchange, ...],
    chip: Chip,
    peak: str,
    *,
    num_chips: int,
) -> Estimate:
    """The times of counts at the peaks of a chip."""
    seconds = {
        "arithmetic": _over(flops, chip.flops.get(peak, 0.0)),
        "memory": _over(moved, chip.bandwidth),
        "links": sum((_link_seconds(e, chip, num_chips) for e in exchanges), 0.0),
    }
    binds = max(seconds, key=lambda name: seconds[name])
    return Estimate(flops, moved, exchanges, seconds, binds if seconds[binds] else "")


def _link_seconds(exchange: Exchange, chip: Chip, k: int) -> float:
    """Of bandwidth alone: a hop by one link, what all take part in by all links."""
    whole = float(exchange.bytes * exchange.times)
    if exchange.kind == "collective-permute":
        return _over(whole * chip.num_links, chip.links)
    # A sum goes there and comes back.
    ways = 2 if exchange.kind == "all-reduce" else 1
    return _over(ways * whole * (k - 1) / k, chip.links)


def _over(work: float, rate: float) -> float:
    return work / rate if rate else 0.0


def scaling(
    problem: Problem, topology: Topology, step: Estimate | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Least times from 1 to 1,024 chips, by counts alone.

    Args:
        problem: on the chips of the topology.
        topology: of which the kind of chip is taken; that more of them may be asked for
            than are joined is of no account.
        step: of an encoder, what its program counts; its work is cut evenly, and what
            is told is the same.

    Returns:
        "weak", at as many rows a chip as the problem has on that topology, and
        "strong", at its rows: each a list of chips, rows, seconds and what binds.
    """
    found: dict[str, list[dict[str, Any]]] = {"weak": [], "strong": []}
    share = max(1, problem.rows // topology.num_chips)
    for chips in (2**power for power in range(11)):
        for name, rows in (("weak", share * chips), ("strong", problem.rows)):
            if not problem.is_step and rows <= problem.rank:
                continue
            there = topology._replace(grid=(chips,))
            if step is None:
                made = problem.resized("rows", max(rows, chips), chips)
                one = estimate(made, there)
            else:
                factor = rows / chips / share
                one = least_time(
                    step.flops * factor,
                    step.moved_bytes * factor,
                    step.exchanges if chips > 1 else (),
                    topology.chip,
                    problem.peak,
                    num_chips=chips,
                )
            found[name].append(
                {"chips": chips, "rows": rows, "seconds": one.least, "binds": one.binds}
            )
    return found
