"""The protocol `(params, apply)`: of NNX modules, Linen modules and plain functions."""

import importlib
import importlib.util
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from contexture_jax import models
from tests.tolerances import tol

CONFIG = models.MLPConfig(in_features=3, out_features=4, hidden=(5,))
X = jax.random.normal(jax.random.key(0), (8, 3), jnp.float32)
EXACT = tol(np.float32, factor=20)


def of_nnx():
    return models.functional(models.MLP(CONFIG, rngs=nnx.Rngs(0)))


def of_linen():
    module = nn.Dense(4)
    variables = module.init(jax.random.key(0), X)
    return variables["params"], lambda params, x: module.apply({"params": params}, x)


def of_function():
    params = {"w": jax.random.normal(jax.random.key(0), (3, 4), jnp.float32)}
    return params, lambda params, x: jnp.tanh(x @ params["w"])


def of_equinox():
    eqx: Any = importlib.import_module("equinox")
    module = eqx.nn.Linear(3, 4, key=jax.random.key(0))
    params, static = eqx.partition(module, eqx.is_array)
    return params, lambda params, x: jax.vmap(eqx.combine(params, static))(x)


HAS_EQUINOX = importlib.util.find_spec("equinox") is not None
MAKERS = [of_nnx, of_linen, of_function, *([of_equinox] if HAS_EQUINOX else [])]


@pytest.mark.slow_cases("of_nnx", "of_linen")
@pytest.mark.parametrize("make", MAKERS)
def test_any_pair_is_a_pure_function_for_every_transformation(make):
    params, apply = make()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    out = jax.jit(apply)(params, X)
    assert out.shape == (8, 4)

    def loss(params, x):
        return (apply(params, x) ** 2).mean()

    gradient = jax.jit(jax.grad(loss))(params, X)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)

    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.shard_map(
        lambda p, x: jax.lax.pmean(loss(p, x), "x"),
        mesh=mesh,
        in_specs=(P(), P("x")),
        out_specs=P(),
    )
    sharded = jax.jit(jax.grad(cut))(params, X)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_allclose(a, b, atol=EXACT)

    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    both = jax.jit(jax.vmap(apply, in_axes=(0, None)))(several, X)
    np.testing.assert_allclose(both[0], out, atol=EXACT)
    assert abs(both[1] - out).max() > 1e-3


def test_parameters_are_nested_dicts_and_apply_has_no_memory():
    params, apply = of_nnx()
    assert isinstance(params, dict)
    zeros = jax.tree.map(jnp.zeros_like, params)
    first = apply(params, X)
    np.testing.assert_array_equal(apply(zeros, X), 0)
    np.testing.assert_array_equal(apply(params, X), first)


def test_parameters_of_a_tower_fit_its_own_function():
    phi = models.MLP(CONFIG, rngs=nnx.Rngs(0))
    pair = models.TwoTower(phi, models.MLP(CONFIG, rngs=nnx.Rngs(1)))
    params, apply = models.functional(pair)
    _, apply_phi = models.functional(pair.phi)
    embedded, other = apply(params, X, X)
    np.testing.assert_array_equal(apply_phi(params["phi"], X), embedded)
    assert abs(embedded - other).max() > 1e-3


def test_one_module_as_both_towers_has_its_parameters_once():
    phi = models.MLP(CONFIG, rngs=nnx.Rngs(0))
    params, apply = models.functional(models.TwoTower(phi, phi))
    alone, _ = models.functional(phi)
    assert len(jax.tree.leaves(params)) == len(jax.tree.leaves(alone))
    left, right = apply(params, X, X)
    np.testing.assert_array_equal(left, right)


def test_a_tower_may_take_several_inputs():
    config = models.TabularEncoderConfig(
        num_numeric=3, cardinalities=(2,), out_features=4, hidden=5, depth=1
    )
    table = models.TabularEncoder(config, rngs=nnx.Rngs(0))
    pair = models.TwoTower(table, models.MLP(CONFIG, rngs=nnx.Rngs(1)))
    params, apply = models.functional(pair)
    phi, psi = apply(params, (X, jnp.zeros((8, 1), jnp.int32)), X)
    assert phi.shape == psi.shape == (8, 4)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: nnx.BatchNorm(3, rngs=nnx.Rngs(0)), "mean, var"),
        (lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0)), "rngs"),
    ],
)
def test_a_module_with_other_state_is_refused(make, found):
    with pytest.raises(ValueError, match=f"no variables but nnx.Param; got .*{found}"):
        models.functional(make())


def test_what_is_no_module_is_refused():
    linen: Any = nn.Dense(3)
    with pytest.raises(Exception, match="Module"):
        models.functional(linen)
