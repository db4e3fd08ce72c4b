"""What is easily forgotten or mistaken in training is told in plain words."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests.test_door import Tensor
from tests.training.helpers import OPTIMIZER, data, noisy, parameters

T, L = cx.training, cx.losses
KEY = jax.random.key(0)
X = data(32).astype(np.float64)


def encode(params: Any, batch: Any, key: Any) -> Any:
    del key
    z = batch @ params["in"]
    return z @ params["phi"], z @ params["psi"]


def of_one(z: Any, axis_name: Any = None) -> Any:
    del axis_name
    return z


def constant(phi: Any, psi: Any, *, axis_name: Any = None) -> Any:
    del phi, psi, axis_name
    return jnp.zeros(())


def keyless(params: Any, batch: Any) -> Any:
    del params
    return batch


def of_pair(phi: Any, psi: Any, *, axis_name: Any = None) -> Any:
    del axis_name
    return ((phi - psi) ** 2).mean()


def take_step(objective: Any, encode: Any = encode, batch: Any = X, **options: Any):
    step = T.make_step(encode, objective, OPTIMIZER, **options)
    return jax.eval_shape(
        lambda: step(T.init_state(parameters(), OPTIMIZER), batch, KEY)
    )


@pytest.mark.parametrize(
    "loss",
    [
        L.svme,
        functools.partial(L.svme, constraint="squared"),
        of_one,
        of_pair,
        constant,
    ],
)
def test_a_loss_that_is_not_wrapped(loss):
    with pytest.raises(
        TypeError, match=r"wrap a loss of embeddings, from_loss\(loss\)"
    ):
        take_step(loss)


def test_a_loss_without_axis_name_and_an_encoder_without_key():
    with pytest.raises(TypeError, match=r"loss must take axis_name.*got <lambda>\(z\)"):
        T.from_loss(lambda z: z)
    with pytest.raises(TypeError, match=r"encode must take \(params, batch, key\)"):
        T.make_step(keyless, T.from_loss(L.svme), OPTIMIZER)
    with pytest.raises(TypeError, match="optimizer must be an Optax transformation"):
        T.make_step(encode, T.from_loss(L.svme), 0.1)


def test_row_keys_that_are_forgotten():
    def encode_rows(params: Any, batch: Any, keys: Any) -> Any:
        return encode(params, T.per_row(noisy)(keys, batch), keys)

    take_step(T.from_loss(L.svme), encode_rows, row_keys=True)
    with pytest.raises(TypeError, match="give row_keys=True to make_step"):
        take_step(T.from_loss(L.svme), encode_rows)


def compiled(strategy: str = "jit") -> cx.training.CompiledStep:
    step = T.make_step(encode, T.from_loss(L.svme), OPTIMIZER)
    return T.compile_step(step, strategy, T.data_mesh(2))


STEP = compiled()


def fit(data: Any, step: Any = STEP, **options: Any) -> cx.training.FitResult:
    state = T.init_state(parameters(), OPTIMIZER)
    return T.fit(step, state, data, num_steps=2, key=KEY, **options)


def test_batches_of_another_library_train_as_those_of_numpy():
    """As from a DataLoader: tensors on the host, of the same numbers."""
    plain, tensors = fit([X, X]), fit([Tensor(X), Tensor(X)])
    for got, want in zip(*map(jax.tree.leaves, (tensors.state, plain.state))):  # noqa: B905
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X, "data must be batches, as cx.training.batches.*got a ndarray"),
        ({"x": X}, "got a dict"),
        ([X.tolist()], "a batch must be arrays.*np.asarray on lists"),
        ([np.full((32, 2), "a")], "batch must hold numbers; got text"),
        ([Tensor(X, requires_grad=True)], r"pass x.detach\(\)"),
        ([np.ma.masked_array(X, X > 0)], "batch must have no mask"),
    ],
)
def test_data_that_is_no_iterable_of_batches(given, message):
    with pytest.raises(TypeError, match=message):
        fit(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"devices": T.Devices(strategy="shard_map")},
            r'Devices\.strategy must be None or "jit", as the step was',
        ),
        (
            {"devices": T.Devices(mesh=T.data_mesh(1))},
            r"Devices\.mesh must be None or that of the compiled step",
        ),
        (
            {"checkpoints": T.Checkpoints(keep_last=3)},
            r"Checkpoints\.keep_last=3 needs a directory",
        ),
        (
            {"checkpoints": T.Checkpoints(keep_best=0)},
            r"Checkpoints\.keep_best=0 needs a directory",
        ),
    ],
)
def test_arguments_of_fit_that_would_play_no_part(options, message):
    with pytest.raises(ValueError, match=message):
        fit([X, X], **options)


def test_arguments_of_fit_that_agree_with_the_compiled_step_are_taken():
    devices = T.Devices(strategy="jit", mesh=T.data_mesh(2))
    assert fit([X, X], devices=devices).status == "finished"
    with pytest.raises(TypeError, match="got one that is compiled"):
        T.compile_step(STEP)


def test_arrays_of_batches_and_parameters_are_numbers():
    with pytest.raises(TypeError, match="arrays must be arrays with rows in front"):
        T.batches([[1.0, 2.0]], 4, seed=0)
    with pytest.raises(TypeError, match=r"got dtype int.. at params\['a'\]"):
        T.init_state({"a": np.ones(2, int)}, OPTIMIZER)
