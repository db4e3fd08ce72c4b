"""Every objective over 2, 4 and 8 devices: value and gradient of one device."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.losses.registry import (
    OBJECTIVES,
    Data,
    make_data,
    make_parameters,
    values_and_gradients,
)

RELATIVE = 1e-6  # what the package promises; what is measured is near 1e-13
AXIS = "batch"


@cache
def mesh(num_devices: int) -> Mesh:
    return jax.make_mesh((num_devices,), (AXIS,), axis_types=(AxisType.Auto,))


@cache
def one_device() -> Any:
    return jax.device_get(jax.jit(values_and_gradients)(make_parameters(), make_data()))


def by_jit(num_devices: int) -> Any:
    rows = NamedSharding(mesh(num_devices), PartitionSpec(AXIS))
    whole = NamedSharding(mesh(num_devices), PartitionSpec())
    parameters = jax.device_put(make_parameters(), whole)
    data = jax.device_put(make_data(), rows)
    return jax.jit(values_and_gradients)(parameters, data)


def by_shard_map(num_devices: int) -> Any:
    mapped = jax.shard_map(
        lambda parameters, data: values_and_gradients(parameters, data, AXIS),
        mesh=mesh(num_devices),
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
        check_vma=True,
    )
    return jax.jit(mapped)(make_parameters(), make_data())


def by_pmap(num_devices: int) -> Any:
    data = make_data()
    cut = Data(*(np.stack(np.split(part, num_devices)) for part in data))
    mapped = jax.pmap(
        lambda parameters, data: values_and_gradients(parameters, data, AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        devices=jax.devices()[:num_devices],
    )
    every = jax.device_get(mapped(make_parameters(), cut))
    for leaf in jax.tree.leaves(every):
        assert (leaf == leaf[:1]).all(), "devices disagree"
    return jax.tree.map(lambda leaf: leaf[0], every)


RUNS: dict[str, Callable[[int], Any]] = {
    "jit": by_jit,
    "shard_map": by_shard_map,
    "pmap": by_pmap,
}


@pytest.mark.parametrize(
    ("strategy", "num_devices"),
    [
        ("shard_map", 2),
        ("pmap", 4),
        ("jit", 8),
        ("shard_map", 8),
        *(
            pytest.param(strategy, num_devices, marks=pytest.mark.slow)
            for strategy, num_devices in [
                ("jit", 2),
                ("pmap", 2),
                ("jit", 4),
                ("shard_map", 4),
                ("pmap", 8),
            ]
        ),
    ],
)
def test_value_and_gradient_are_those_of_one_device(
    strategy: str, num_devices: int
) -> None:
    values, gradients = one_device()
    there = jax.device_get(RUNS[strategy](num_devices))
    wrong = {}
    for name in OBJECTIVES:
        error = abs(there[0][name] - values[name]) / abs(values[name])
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[name]))
        slopes = jax.tree.map(
            lambda a, b: np.abs(a - b).max(), there[1][name], gradients[name]
        )
        slope = max(jax.tree.leaves(slopes)) / scale
        if not max(error, slope) < RELATIVE:
            wrong[name] = (float(error), float(slope))
    assert wrong == {}
