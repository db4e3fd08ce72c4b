"""No product leaves its precision to the platform, which may take TF32 or bfloat16."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.operators import low_rank_operator
from tests.evaluation.test_any_features import OF_FEATURES, OP, OTHER, OTHERS
from tests.losses.registry import OBJECTIVES, encode, make_data, make_parameters
from tests.problems import CONTEXTS, OPERATORS, operator

KEY = jax.random.key(0)


def coarse_products(jaxpr: Any) -> Iterator[Any]:
    """The products in a program and its parts that state no precision."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            stated = equation.params["precision"]
            if stated is None or any(p != jax.lax.Precision.HIGHEST for p in stated):
                yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=is_program):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from coarse_products(inner)


def is_program(value: Any) -> bool:
    return hasattr(value, "jaxpr") or hasattr(value, "eqns")


def check(function: Any, *arguments: Any) -> None:
    program = jax.make_jaxpr(function)(*arguments)
    assert not list(coarse_products(program.jaxpr))


def test_a_product_without_precision_is_seen():
    with pytest.raises(AssertionError):
        check(jax.jit(lambda x: jax.lax.map(lambda row: row @ x, x)), jnp.eye(3))


def everything(op: cx.AssociationOperator) -> Any:
    f, g = (jnp.ones((size, 2), op.dtype) for size in op.shape)
    return op.matmat(g), op.rmatmat(f), op.squared_norm()


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators_state_theirs(name):
    check(everything, operator(name, np.float32))


def test_operators_over_devices_state_theirs():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    x = np.arange(12.0, dtype=np.float32)[:, None]
    for context in (
        cx.contexts.joint(np.eye(6) + 1),
        CONTEXTS["teacher"](np.float32),
        cx.contexts.rbf(x),
    ):
        check(everything, cx.association_operator(context, mesh=mesh))


def test_builders_of_operators_state_theirs():
    x = np.arange(12.0, dtype=np.float32)[:, None]
    check(lambda x: cx.association_operator(cx.contexts.rbf(x, gamma=0.1)), x)
    check(lambda x: low_rank_operator(x, x, x[:, 0], x[:, 0]), x)
    noise = cx.contexts.gaussian_noise(0.5)
    options = {"num_samples": 20, "key": KEY}
    check(lambda x: cx.operators.monte_carlo_operator(noise, x, **options), x)


@pytest.mark.parametrize("method", ["exact", "randomized", "krylov", "nystrom"])
def test_solvers_state_theirs(method):
    check(lambda op: cx.svd(op, 2, key=KEY, method=method), OP)


def test_certificates_and_errors_state_theirs():
    result, info = jax.eval_shape(lambda: cx.svd(OP, 2, key=KEY))
    check(lambda r, i: cx.solvers.certify(r, i, OP, key=KEY), result, info)
    law = jnp.ones(20) / 20
    table = jnp.ones((12, 20)) / 240
    sampled = cx.operators.MonteCarloOperator(table, table.sum(1), law, num_batches=10)
    check(lambda op: cx.evaluation.monte_carlo_error(op, 2, key=KEY), sampled)


@pytest.mark.parametrize("name", OF_FEATURES | OTHERS)
def test_judges_state_theirs(name):
    check((OF_FEATURES | OTHERS)[name], OTHER)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_state_theirs(name):
    data, parameters = make_data(), make_parameters()
    embeddings = jax.jit(encode)(parameters, data)

    def loss(phi, psi):
        return OBJECTIVES[name](embeddings._replace(phi=phi, psi=psi), None)

    check(jax.grad(loss, argnums=(0, 1)), embeddings.phi, embeddings.psi)
