"""One step: gradients of large batches in pieces, precision, averages, keys."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import contexture_jax as cx
from tests.tolerances import promised, tol
from tests.training.helpers import (
    DIM,
    FEATURES,
    data,
    difference,
    encode,
    initial_state,
    make_step,
    objective,
    parameters,
)

SGD = optax.sgd(1.0)
KEY = jax.random.key(11)


@functools.cache
def stepped(pieces: int, rows: int = 64) -> Any:
    """State and metrics after one step of gradient descent at rate 1."""
    step = jax.jit(make_step(SGD, num_micro_batches=pieces))
    return step(initial_state(SGD), jnp.asarray(data(rows)), KEY)


def gradient(pieces: int, rows: int = 64) -> Any:
    return jax.tree.map(jnp.subtract, parameters(), stepped(pieces, rows)[0].params)


@pytest.mark.slow
def test_a_step_is_the_gradient_of_the_loss() -> None:
    batch = jnp.asarray(data(64))
    step_key = jax.random.fold_in(KEY, 0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(64))

    def loss_of(params: Any) -> jax.Array:
        return objective(encode(params, batch, keys), jnp.eye(DIM))[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(parameters())
    state, metrics = stepped(1)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=promised(np.float64))
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=promised(np.float64))
    assert difference(gradient(1), grads) < promised(np.float64)
    assert int(state.step) == 1


def test_pieces_give_the_gradient_of_the_whole_batch() -> None:
    assert difference(gradient(4), gradient(1)) < tol(np.float64, size=64)
    assert difference(stepped(4), stepped(1)) < tol(np.float64, size=64)


def test_the_mean_of_gradients_of_pieces_is_another() -> None:
    # What the pieces must not do: each its own moments.
    step = jax.jit(make_step(SGD))
    parts = [
        step(initial_state(SGD), jnp.asarray(data(64)[k::4]), KEY)[0].params
        for k in range(4)
    ]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *parts)
    descent = jax.tree.map(jnp.subtract, parameters(), mean)
    assert difference(descent, gradient(1)) > 0.05


@pytest.mark.slow
def test_labels_pass_through_the_encoder_in_pieces() -> None:
    def encode_pair(params: Any, batch: Any, key: jax.Array) -> Any:
        return batch["x"] @ params, batch["y"]

    def loss(z: jax.Array, y: jax.Array, axis_name: str | None = None) -> jax.Array:
        one_hot = jax.nn.one_hot(y, DIM, dtype=z.dtype)
        return jnp.sum((z.T @ (one_hot - z) / z.shape[0]) ** 2)

    batch = {"x": jnp.asarray(data(64)), "y": jnp.arange(64) % DIM}
    after = [
        jax.jit(
            cx.training.make_step(
                encode_pair, cx.training.from_loss(loss), SGD, num_micro_batches=k
            )
        )(cx.training.init_state(jnp.ones((FEATURES, DIM)), SGD), batch, KEY)
        for k in (1, 4)
    ]
    assert difference(after[1], after[0]) < tol(np.float64, size=64)


def test_moving_average() -> None:
    step = jax.jit(make_step(ema_decay=0.9))
    state = initial_state(ema=True)
    average = state.params
    for _ in range(3):
        state, _ = step(state, jnp.asarray(data(64)), KEY)
        average = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * new, average, state.params
        )
    assert difference(state.ema_params, average) < tol(np.float64)
    assert difference(state.ema_params, state.params) > 1e-3


@pytest.mark.slow
def test_mixed_precision_keeps_moments_and_parameters_in_single() -> None:
    seen = {}

    def spied_encode(params: Any, batch: jax.Array, keys: jax.Array) -> Any:
        seen["encode"] = (params["in"].dtype, batch.dtype)
        return encode(params, batch, keys)

    def spied_objective(embeddings: Any, running: jax.Array, **options: Any) -> Any:
        seen["objective"] = embeddings[0].dtype
        return objective(embeddings, running, **options)

    def single(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    state = cx.training.init_state(
        single(parameters()), SGD, loss_state=jnp.eye(DIM, dtype=jnp.float32)
    )
    batch = single(jnp.asarray(data(64)))
    grads = []
    for dtype in (jnp.bfloat16, None):
        step = cx.training.make_step(
            spied_encode,
            spied_objective,
            SGD,
            row_keys=True,
            compute_dtype=dtype,
            num_micro_batches=2,
        )
        after, metrics = jax.jit(step)(state, batch, KEY)
        expected = dtype or jnp.float32
        assert seen == {"encode": (expected, expected), "objective": jnp.float32}
        assert {x.dtype for x in jax.tree.leaves(after.params)} == {
            np.dtype(np.float32)
        }
        assert metrics["loss"].dtype == jnp.float32
        grads.append(jax.tree.map(jnp.subtract, state.params, after.params))
    # Other noise is drawn in 16 bits: the two gradients agree in direction alone.
    flat = [jnp.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in grads]
    cosine = flat[0] @ flat[1] / jnp.linalg.norm(flat[0]) / jnp.linalg.norm(flat[1])
    assert cosine > 0.9


@pytest.mark.slow
def test_one_key_is_folded_with_the_step_and_the_piece() -> None:
    def draw(params: Any, batch: jax.Array, key: jax.Array) -> jax.Array:
        return params * jax.random.normal(key, batch.shape, batch.dtype)

    def loss(z: jax.Array, axis_name: str | None = None) -> jax.Array:
        return z[0, 0]

    step = cx.training.make_step(
        draw, cx.training.from_loss(loss), optax.sgd(0.0), num_micro_batches=2
    )
    state = cx.training.init_state(jnp.ones(()), optax.sgd(0.0))
    batch = jnp.zeros((8, 2))
    for number in range(2):
        state, metrics = step(state, batch, KEY)
        folded = jax.random.fold_in(jax.random.fold_in(KEY, number), 0)
        expected = jax.random.normal(folded, (4, 2), batch.dtype)[0, 0]
        np.testing.assert_array_equal(metrics["loss"], expected)


@pytest.mark.parametrize(
    ("options", "rows", "message"),
    [
        ({"num_micro_batches": 3}, 64, "must divide the rows"),
        ({"ema_decay": 0.9}, 64, "state with none moving average"),
    ],
)
def test_bad_steps_say_what_is_wrong(
    options: dict[str, Any], rows: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_step(**options)(initial_state(), jnp.asarray(data(rows)), KEY)


def test_bad_options_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"ema_decay must be in \[0, 1\)"):
        make_step(ema_decay=1.0)
    with pytest.raises(ValueError, match="num_micro_batches must be at least 1"):
        make_step(num_micro_batches=0)
    with pytest.raises(TypeError, match="compute_dtype must be a floating dtype"):
        make_step(compute_dtype=jnp.int32)


def test_objectives_that_break_the_rules_are_told() -> None:
    batch = jnp.asarray(data(64))

    def grows(embeddings: Any, state: Any, **options: Any) -> Any:
        return jnp.sum(embeddings), (jnp.ones((2,)), {})

    def takes(embeddings: Any, state: Any, **options: Any) -> Any:
        return jnp.sum(embeddings), (state, {"loss": 1.0})

    def tower(params: Any, batch: jax.Array, key: jax.Array) -> jax.Array:
        return batch @ params["in"]

    for bad, message in ((grows, "loss_state of the form"), (takes, r"\['loss'\]")):
        step = cx.training.make_step(tower, bad, SGD)
        with pytest.raises(ValueError, match=message):
            step(initial_state(SGD), batch, KEY)
    with pytest.raises(ValueError, match="same number of rows"):
        make_step()(initial_state(), {"a": batch, "b": batch[:3]}, KEY)


def test_warm_up_and_cosine() -> None:
    rate = cx.training.warmup_cosine(2.0, 300, warmup_steps=100, final_fraction=0.25)
    values = [float(rate(step)) for step in (0, 50, 100, 200, 300, 400)]
    np.testing.assert_allclose(values, [0, 1, 2, 1.25, 0.5, 0.5], rtol=1e-6)
    without = cx.training.warmup_cosine(2.0, 300, warmup_steps=0)
    assert float(without(0)) == 2.0
