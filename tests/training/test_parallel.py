"""The same step on many devices, in three ways; what its program says of itself."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import contexture_jax as cx
from tests import hlo
from tests.tolerances import promised
from tests.training.helpers import data, difference, initial_state, make_step

SGD = optax.sgd(1.0)
KEY = jax.random.key(5)
ROWS = 64
STRATEGIES = ("jit", "shard_map", "pmap")


@functools.cache
def run(strategy: str, devices: int, pieces: int = 1) -> Any:
    """State and metrics after two steps at rate 1, and how often it was traced."""
    compiled = cx.training.compile_step(
        make_step(SGD, num_micro_batches=pieces),
        strategy,
        cx.training.data_mesh(devices),
    )
    state = compiled.place_state(initial_state(SGD))
    for part in (slice(0, ROWS), slice(ROWS, 2 * ROWS)):
        state, metrics = compiled(state, data()[part], KEY)
    return (state, metrics), compiled.num_traces


@pytest.mark.fast("jit-8", "shard_map-4", "pmap-2")
@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_many_devices_compute_what_one_does(strategy: str, devices: int) -> None:
    result, _ = run(strategy, devices)
    assert difference(result, run("jit", 1)[0]) < promised(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pieces_on_many_devices_compute_what_one_does(strategy: str) -> None:
    result, _ = run(strategy, 4, 4)
    assert difference(result, run("jit", 1)[0]) < promised(np.float64)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_steps_are_traced_once(strategy: str) -> None:
    assert run(strategy, 4)[1] == 1


def test_numbers_as_parameters_are_traced_once() -> None:
    step = cx.training.make_step(
        lambda params, batch, _: params * batch,
        cx.training.from_loss(lambda z, **_: jnp.mean(z)),
        SGD,
    )
    compiled = cx.training.compile_step(step, mesh=cx.training.data_mesh(1))
    state = cx.training.init_state(1.0, SGD)
    for _ in range(2):
        state, _ = compiled(state, np.ones((4, 2)), KEY)
    assert compiled.num_traces == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_states_are_given_away_but_copies_are_not(strategy: str) -> None:
    compiled = cx.training.compile_step(
        make_step(SGD), strategy, cx.training.data_mesh(4)
    )
    given = initial_state(SGD)
    placed = compiled.place_state(given)
    compiled(placed, data(ROWS), KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(placed.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    # JAX alone may end the process here.
    with pytest.raises(ValueError, match="overwritten by a call before"):
        compiled(placed, data(ROWS), KEY)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_is_lowered_from_shapes(strategy: str) -> None:
    compiled = cx.training.compile_step(
        make_step(SGD), strategy, cx.training.data_mesh(8)
    )
    arrays = initial_state(SGD), data(ROWS), KEY
    shapes = jax.eval_shape(lambda *args: args, *arrays)
    lowered = compiled.lower(*shapes)
    assert lowered.as_text() == compiled.lower(*arrays).as_text()
    if strategy == "jit":
        cost = lowered.compile().cost_analysis()
        assert cost is not None
        assert cost["flops"] > 0
    with pytest.raises(ValueError, match="multiple of the 8 devices"):
        compiled.lower(shapes[0], jax.ShapeDtypeStruct((9, 2), np.float32), KEY)


def wide_problem(pieces: int, devices: int) -> tuple[str, int, int]:
    """The program of a step of 128 rows of 96 features; sizes of its batch and params.

    128 × 128, a matrix of pairs of rows, would be larger than either.
    """
    rows, features, width = 128, 96, 64
    optimizer = optax.adam(1e-3)

    def encode(params: Any, batch: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.tanh(batch @ params["a"]) @ params["b"]

    def loss(z: jax.Array, axis_name: str | None = None) -> jax.Array:
        second = z.T @ z / z.shape[0]
        return jnp.sum(second**2) - jnp.trace(second)

    params = {"a": jnp.ones((features, width)), "b": jnp.ones((width, 8))}
    step = cx.training.make_step(
        encode, cx.training.from_loss(loss), optimizer, num_micro_batches=pieces
    )
    compiled = cx.training.compile_step(step, mesh=cx.training.data_mesh(devices))
    state = cx.training.init_state(params, optimizer)
    text = compiled.lower(state, np.ones((rows, features)), KEY).compile().as_text()
    return text, rows * features // devices, features * width


@pytest.mark.parametrize(("pieces", "devices"), [(1, 1), (4, 1), (1, 8), (2, 8)])
def test_the_largest_array_is_the_batch_or_the_parameters(
    pieces: int, devices: int
) -> None:
    text, batch, params = wide_problem(pieces, devices)
    largest = max(int(np.prod(shape)) for shape in hlo.shapes(text))
    assert largest == max(batch, params)


def test_a_device_holds_its_share_of_every_piece() -> None:
    text, *_ = wide_problem(2, 8)
    assert "all-gather" not in text
    assert "all-to-all" not in text
    assert "collective-permute" not in text


def test_memory_of_a_step_does_not_grow_with_the_data() -> None:
    compiled = cx.training.compile_step(make_step(SGD), mesh=cx.training.data_mesh(1))
    sizes = []
    for rows in (100, 10_000):
        batch = cx.training.batches(data(rows), ROWS, seed=0).at(3)
        program = compiled.lower(initial_state(SGD), batch, KEY).compile()
        memory = program.memory_analysis()
        sizes.append((memory.temp_size_in_bytes, memory.argument_size_in_bytes))
    assert sizes[0] == sizes[1]
    assert sizes[0][1] < data(2 * ROWS).nbytes


def test_default_mesh_has_an_auto_axis_of_all_devices() -> None:
    mesh = cx.training.data_mesh()
    assert (mesh.axis_names, mesh.size) == (("x",), jax.device_count())
    assert mesh.axis_types == (AxisType.Auto,)


def test_bad_arguments_say_what_is_wrong() -> None:
    step = make_step(SGD)
    with pytest.raises(ValueError, match='strategy must be "jit"'):
        cx.training.compile_step(step, "xmap")
    other = jax.make_mesh((2,), ("y",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match='one axis, "x", of type Auto'):
        cx.training.compile_step(step, mesh=other)
    with pytest.raises(ValueError, match="multiple of the 4 devices"):
        cx.training.global_batch(data(6), cx.training.data_mesh(4))


@pytest.mark.slow
def test_a_mesh_and_batches_of_explicit_axes_are_taken() -> None:
    explicit = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    batch = jax.device_put(data(8), NamedSharding(explicit, PartitionSpec("x")))
    compiled = cx.training.compile_step(make_step(SGD), mesh=explicit)
    assert compiled.mesh.axis_types == (AxisType.Auto,)
    with jax.set_mesh(explicit):
        for given in (batch, data(8)):
            state, metrics = compiled(initial_state(SGD), given, KEY)
            compiled(state, given, KEY)
            assert np.isfinite(metrics["loss"])
    assert compiled.num_traces == 1


def test_batches_that_are_placed_stay_where_they_are() -> None:
    mesh = cx.training.data_mesh(4)
    placed = cx.training.global_batch(data(8), mesh)
    assert cx.training.global_batch(placed, mesh) is placed
    assert placed.addressable_shards[0].data.shape == (2, data(1).shape[1])
