"""Every family of encoders: shapes, dtypes, gradients, what an embedding depends on."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from contexture_jax import models
from tests.tolerances import tol

WIDTH = 6
BATCH = 4
SMALL = {"out_features": WIDTH, "width": 8, "depth": 1, "num_heads": 2}


def normal(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape, jnp.float32)


def integers(number: int, high: int, *shape: int) -> jax.Array:
    return jax.random.randint(jax.random.key(number), shape, 0, high)


def two_tower(config: dict, rngs: nnx.Rngs) -> models.TwoTower:
    phi = models.MLP(models.MLPConfig(in_features=5, hidden=(7,), **config), rngs=rngs)
    psi = models.MLP(models.MLPConfig(in_features=3, hidden=(), **config), rngs=rngs)
    head = models.MLPConfig(in_features=WIDTH, hidden=(8,), **config)
    return models.TwoTower(
        phi,
        psi,
        phi_head=models.MLP(head, rngs=rngs),
        psi_head=models.MLP(head, rngs=rngs),
    )


class Family(NamedTuple):
    make: Any  # (dtypes, rngs) -> module
    inputs: Any  # number -> batch of inputs


def of_config(module: type, config: type, **fields: Any) -> Any:
    def make(dtypes: dict, rngs: nnx.Rngs) -> nnx.Module:
        return module(config(**fields, **dtypes), rngs=rngs)

    return make


def images(number: int) -> tuple[jax.Array]:
    return (normal(number, BATCH, 8, 8, 2),)


FAMILIES = {
    "mlp": Family(
        of_config(
            models.MLP,
            models.MLPConfig,
            in_features=5,
            out_features=WIDTH,
            hidden=(7, 7),
            activation="tanh",
            normalise=True,
        ),
        lambda number: (normal(number, BATCH, 5),),
    ),
    "conv_net": Family(
        of_config(
            models.ConvNet,
            models.ConvNetConfig,
            in_channels=2,
            out_features=WIDTH,
            channels=(4, 6),
            num_groups=4,
            pool=3,
        ),
        images,
    ),
    "res_net": Family(
        of_config(
            models.ResNet,
            models.ResNetConfig,
            in_channels=2,
            out_features=WIDTH,
            channels=(4, 6),
            num_groups=2,
        ),
        images,
    ),
    "vision_transformer": Family(
        of_config(
            models.VisionTransformer,
            models.VisionTransformerConfig,
            image_size=(8, 8),
            in_channels=2,
            **SMALL,
        ),
        images,
    ),
    "text_transformer": Family(
        of_config(
            models.TextTransformer,
            models.TextTransformerConfig,
            vocabulary_size=11,
            max_length=6,
            causal=True,
            padding=0,
            **SMALL,
        ),
        lambda number: (integers(number, 11, BATCH, 5),),
    ),
    "graph": Family(
        of_config(
            models.GraphEncoder,
            models.GraphEncoderConfig,
            in_features=5,
            out_features=WIDTH,
            width=8,
        ),
        lambda number: (normal(number, BATCH, 5), integers(number, BATCH, BATCH, 2)),
    ),
    "tabular_mlp": Family(
        of_config(
            models.TabularEncoder,
            models.TabularEncoderConfig,
            num_numeric=3,
            cardinalities=(4, 2),
            category_width=3,
            hidden=8,
            **SMALL,
        ),
        lambda number: (normal(number, BATCH, 3), integers(number, 2, BATCH, 2)),
    ),
    "tabular_transformer": Family(
        of_config(
            models.TabularEncoder,
            models.TabularEncoderConfig,
            num_numeric=3,
            cardinalities=(4, 2),
            trunk="transformer",
            **SMALL,
        ),
        lambda number: (normal(number, BATCH, 3), integers(number, 2, BATCH, 2)),
    ),
    "cross_attention": Family(
        of_config(
            models.CrossAttentionEncoder,
            models.CrossAttentionConfig,
            in_features=5,
            context_features=3,
            **SMALL,
        ),
        lambda number: (normal(number, BATCH, 5), normal(number + 1, BATCH, 4, 3)),
    ),
    "two_tower": Family(
        lambda dtypes, rngs: two_tower({"out_features": WIDTH, **dtypes}, rngs),
        lambda number: (normal(number, BATCH, 5), normal(number + 1, BATCH, 3)),
    ),
}
FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}
HALF = {"dtype": jnp.bfloat16, "param_dtype": jnp.float32}
# Softmax does not see what the bias of its keys adds to all scores of a query.
UNSEEN = ("key", "bias")


class Built(NamedTuple):
    params: Any
    run: Any  # (params, inputs) -> (outputs, gradients)
    num_traces: list[int]


@functools.cache
def build(name: str) -> Built:
    module = FAMILIES[name].make(FLOAT32, nnx.Rngs(0))
    params, apply = models.functional(module)
    num_traces = []

    def objective(params, inputs):
        num_traces.append(1)
        out = apply(params, *inputs)
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(out)), out

    run = jax.jit(jax.value_and_grad(objective, has_aux=True))
    return Built(params, lambda p, i: (run(p, i)[0][1], run(p, i)[1]), num_traces)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow_cases(
    "conv_net",
    "cross_attention",
    "graph",
    "res_net",
    "tabular_transformer",
    "text_transformer",
    "vision_transformer",
)
@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_have_a_row_an_example_and_every_parameter_matters(name):
    built = build(name)
    out, gradient = built.run(built.params, FAMILIES[name].inputs(1))
    for embedding in jax.tree.leaves(out):
        assert embedding.shape == (BATCH, WIDTH)
        assert embedding.dtype == jnp.float32
        assert np.isfinite(embedding).all()
        assert np.ptp(np.asarray(embedding), axis=0).min() > 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        names = tuple(entry.key for entry in path[-2:])
        assert np.isfinite(leaf).all(), names
        assert (np.asarray(leaf) != 0).any() or names == UNSEEN, names


@pytest.mark.fast("mlp", "tabular_mlp", "two_tower")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_shapes_are_traced_once(name):
    built = build(name)
    for number in (1, 2):
        built.run(built.params, FAMILIES[name].inputs(number))
    assert len(built.num_traces) == 1


@pytest.mark.fast("mlp", "tabular_mlp", "two_tower")
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"graph"}))
def test_an_embedding_is_a_function_of_its_own_example(name):
    built = build(name)
    first, second = (FAMILIES[name].inputs(number) for number in (1, 20))
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[:1], b[1:]]), first, second)
    alone, _ = built.run(built.params, first)
    others, _ = built.run(built.params, mixed)
    for a, b in zip(leaves(alone), leaves(others), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=tol(np.float32))
        assert abs(a[1:] - b[1:]).max() > 1e-3


@pytest.mark.fast("mlp", "tabular_mlp", "two_tower")
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_computes_in_half_on_whole_parameters(name):
    family, built = FAMILIES[name], build(name)
    params, apply = models.functional(family.make(HALF, nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    half = jax.jit(apply)(params, *family.inputs(1))
    whole, _ = built.run(built.params, family.inputs(1))
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    for a, b in zip(leaves(half), leaves(whole), strict=True):
        assert abs(a - b).max() < 0.1 * abs(b).max()


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_follow_from_the_random_numbers(name):
    make = FAMILIES[name].make
    again, _ = models.functional(make(FLOAT32, nnx.Rngs(0)))
    other, _ = models.functional(make(FLOAT32, nnx.Rngs(1)))
    first = leaves(build(name).params)
    assert all(map(np.array_equal, first, leaves(again)))
    assert not all(map(np.array_equal, first, leaves(other)))
