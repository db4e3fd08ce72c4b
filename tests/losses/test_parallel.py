"""Every objective over 2, 4 and 8 devices: value and gradient of one device."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.losses.registry import (
    OBJECTIVES,
    SELECTED,
    Data,
    compiled,
    make_data,
    make_parameters,
    values_and_gradients,
)

RELATIVE = 1e-6
AXIS = "batch"


@cache
def mesh(num_devices: int) -> Mesh:
    return jax.make_mesh((num_devices,), (AXIS,), axis_types=(AxisType.Auto,))


@cache
def one_device(names: tuple[str, ...]) -> Any:
    return jax.device_get(compiled(names)(make_parameters(), make_data()))


def by_jit(num_devices: int, names: tuple[str, ...]) -> Any:
    rows = NamedSharding(mesh(num_devices), PartitionSpec(AXIS))
    whole = NamedSharding(mesh(num_devices), PartitionSpec())
    parameters = jax.device_put(make_parameters(), whole)
    data = jax.device_put(make_data(), rows)
    return jax.jit(lambda p, d: values_and_gradients(p, d, names=names))(
        parameters, data
    )


def by_shard_map(num_devices: int, names: tuple[str, ...]) -> Any:
    mapped = jax.shard_map(
        lambda parameters, data: values_and_gradients(parameters, data, AXIS, names),
        mesh=mesh(num_devices),
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
        check_vma=True,
    )
    return jax.jit(mapped)(make_parameters(), make_data())


def by_pmap(num_devices: int, names: tuple[str, ...]) -> Any:
    data = make_data()
    cut = Data(*(np.stack(np.split(part, num_devices)) for part in data))
    mapped = jax.pmap(
        lambda parameters, data: values_and_gradients(parameters, data, AXIS, names),
        axis_name=AXIS,
        in_axes=(None, 0),
        devices=jax.devices()[:num_devices],
    )
    every = jax.device_get(mapped(make_parameters(), cut))
    for leaf in jax.tree.leaves(every):
        assert (leaf == leaf[:1]).all(), "devices disagree"
    return jax.tree.map(lambda leaf: leaf[0], every)


RUNS: dict[str, Callable[[int, tuple[str, ...]], Any]] = {
    "jit": by_jit,
    "shard_map": by_shard_map,
    "pmap": by_pmap,
}


def departures(
    there: Any, names: Iterable[str], whole: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    """Objectives whose value or gradient is not that of one device, and by how much.

    The reference is one program of all the names in `whole`.
    """
    values, gradients = one_device(whole)
    wrong = {}
    for name in names:
        error = abs(there[0][name] - values[name]) / abs(values[name])
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[name]))
        slopes = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), there[1][name], gradients[name]
        )
        slope = max(jax.tree.leaves(slopes)) / scale
        if not max(error, slope) < RELATIVE:
            wrong[name] = (float(error), float(slope))
    return wrong


# Those of two tests below, whose reference is one program.
FEW = ("svme weighted", "svme running", "kise unbiased", "lora_svd unbiased")


def test_objectives_are_those_of_one_device() -> None:
    there = jax.device_get(by_jit(2, FEW))
    assert departures(there, FEW, FEW) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "num_devices", "names"),
    # Sums over an axis are the same program to both; `jit` has those of XLA.
    [("shard_map", 8, tuple(OBJECTIVES)), ("pmap", 4, SELECTED), ("jit", 8, SELECTED)],
    ids=["shard_map-8", "pmap-4", "jit-8"],
)
def test_every_objective_is_that_of_one_device(
    strategy: str, num_devices: int, names: tuple[str, ...]
) -> None:
    there = jax.device_get(RUNS[strategy](num_devices, names))
    assert departures(there, names, tuple(OBJECTIVES)) == {}


def test_averaging_losses_of_devices_is_another_objective() -> None:
    """What reducing the moments is for: the same test finds the difference."""
    rows = make_data()
    halves = [
        Data(*(part[half] for part in rows._replace(kernel=rows.kernel[:, half])))
        for half in (slice(0, 8), slice(8, 16))
    ]
    run = jax.jit(
        lambda p, data: values_and_gradients(p, data, names=("svme weighted",))
    )
    parts = [jax.device_get(run(make_parameters(), half)) for half in halves]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    assert "svme weighted" in departures(mean, ("svme weighted",), FEW)
