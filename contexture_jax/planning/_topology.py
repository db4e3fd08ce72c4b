"""Chips with their published peaks, and topologies of them by name."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from contexture_jax.planning._gpu import H100

__all__ = ["CHIPS", "Chip", "Topology", "make_mesh", "parse_topology"]


class Chip(NamedTuple):
    """What is published of one chip; 0 stands for what is not.

    Attributes:
        platform: "tpu", "cuda" or "cpu".
        flops: operations a second, by the name of a dtype; of float32 in products as
            exact as its rounding. "layers": as JAX multiplies float32 by default.
        memory: bytes.
        bandwidth: bytes of memory a second.
        links: bytes a second that leave it for other chips, over all links.
        num_links: over how many, of which a ring takes one.
        num_axes: of the grid of chips.
        most: chips that these links join.
    """

    platform: str
    flops: dict[str, float]
    memory: float
    bandwidth: float
    links: float
    num_links: int
    num_axes: int
    most: int


def _tpu(
    bf16: float, gigabytes: float, bandwidth: float, gigabits: float, axes: int, n: int
) -> Chip:
    # As exact as float32 are six products in bfloat16.
    flops = {"float32": bf16 / 6 * 1e12, "layers": bf16 * 1e12}
    links, memory = gigabits / 8 * 1e9, gigabytes * 1e9
    return Chip("tpu", flops, memory, bandwidth * 1e9, links, 2 * axes, axes, n)


# TPUs: cloud.google.com/tpu/docs/v5e, /v5p and /v6e, "system architecture": peak
# bfloat16 TFLOP/s, GB and GB/s of HBM, Gbit/s between chips. H100: NVIDIA's data sheet
# of the SXM form, float32 and float64 off the tensor cores, TF32 on them; NVLink, of
# 900 GB/s both ways.
CHIPS = {
    "v5e": _tpu(197.0, 16.0, 819.0, 1600.0, 2, 256),
    "v5p": _tpu(459.0, 95.0, 2765.0, 4800.0, 3, 8960),
    "v6e": _tpu(918.0, 32.0, 1640.0, 3584.0, 2, 256),
    "h100": Chip(
        "cuda",
        {"float32": 67e12, "float64": 34e12, "layers": 495e12},
        80e9,
        3.35e12,
        4.5e11,
        1,
        1,
        8,
    ),
    "cpu": Chip("cpu", {}, 0.0, 0.0, 0.0, 1, 1, 1024),
}


class Topology(NamedTuple):
    """Chips in a grid.

    Attributes:
        name: as it was given, as "v5e:4x4".
        kind: a key of `CHIPS`.
        grid: chips along each axis.
    """

    name: str
    kind: str
    grid: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """One of the chips."""
        return CHIPS[self.kind]

    @property
    def num_chips(self) -> int:
        """How many there are."""
        return math.prod(self.grid)

    @property
    def memory(self) -> float:
        """Bytes of a chip; of a CPU a share of this machine's."""
        if self.kind != "cpu":
            return self.chip.memory
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return float(whole // self.num_chips)


def parse_topology(name: str) -> Topology:
    """A topology by its name: a chip, a colon, and the sides of a grid with x between.

    Raises:
        ValueError: if there is no such chip, or it is not joined in such a grid.

    Example:
        >>> import contexture_jax as cx
        >>> cx.planning.parse_topology("v5p:4x4x4").num_chips
        64
    """
    known = ", ".join(CHIPS)
    found = re.fullmatch(r"(\w+):([1-9]\d{0,5}(?:x[1-9]\d{0,5})*)", str(name))
    if found is None or found[1] not in CHIPS:
        msg = (
            f"a topology is a chip ({known}), a colon and a grid, as v5e:16x16,"
            f" v5p:4x4x4, h100:8 or cpu:8; got {name!r}"
        )
        raise ValueError(msg)
    grid = tuple(int(side) for side in found[2].split("x"))
    topology = Topology(str(name), found[1], grid)
    chip = topology.chip
    if len(grid) != chip.num_axes:
        sides = "x".join("4" * chip.num_axes)
        msg = f"{found[1]} is in grids of {chip.num_axes} axes, as {sides}; got {name}"
        raise ValueError(msg)
    if topology.num_chips > chip.most:
        msg = (
            f"{found[1]} has at most {chip.most} chips joined; got {name}, which is"
            f" {topology.num_chips}"
        )
        raise ValueError(msg)
    return topology


def make_mesh(topology: Topology) -> Mesh:
    """Its chips under one axis, "x", to compile for; nothing can run there.

    Raises:
        RuntimeError: if the compiler for such chips is not installed, or says no, or
            this process has too few CPU devices.
    """
    platform, shape = topology.chip.platform, "x".join(map(str, topology.grid))
    if platform == "cpu":
        devices = jax.devices("cpu")
        if len(devices) < topology.num_chips:
            msg = (
                f"{topology.name} takes {topology.num_chips} CPU devices; got"
                f" {len(devices)}: set jax_num_cpu_devices before JAX is first used"
            )
            raise RuntimeError(msg)
        return _mesh(devices[: topology.num_chips])
    _check_compiler(topology)
    asked: dict[str, Any] = {"topology_name": f"{topology.kind}:{shape}"}
    if platform == "cuda":
        asked = {"topology": f"1x1x{topology.num_chips}", "target_config": H100}
        asked["topology_name"] = "h100"
    try:
        described = topologies.get_topology_desc(platform=platform, **asked)
    except Exception as error:  # plugins raise errors of any kind
        words = " ".join(str(error).split())[:200]
        msg = f"the compiler for {platform} knows no {topology.name}: {words}"
        raise RuntimeError(msg) from error
    return _mesh(described.devices)


def _check_compiler(topology: Topology) -> None:
    platform = topology.chip.platform
    if platform == "tpu":
        wheels, how = ("libtpu",), "pip install 'contexture_jax[tpu-aot]'"
    else:
        wheels, how = (
            ("jax_cuda13_plugin", "jax_cuda12_plugin"),
            "pip install 'contexture_jax[gpu-aot]'",
        )
    if not any(importlib.util.find_spec(wheel) for wheel in wheels):
        msg = (
            f"{topology.name} needs the compiler for {platform}, {wheels[-1]}, which is"
            f" not installed: {how}; cpu:N needs nothing"
        )
        raise RuntimeError(msg)


def _mesh(devices: Any) -> Mesh:
    return Mesh(np.array(devices), ("x",), axis_types=(AxisType.Auto,))
