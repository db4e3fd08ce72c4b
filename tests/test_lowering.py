"""Every program lowers for a GPU and a TPU, as read in its StableHLO on any host.

There it calls no LAPACK (nor Python, which the export refuses), has no array in float64
where none was given, and no product of it leaves its precision to the platform, but for
those of a network. Single numbers in float64 are constants, which the compiler folds.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import contexture_jax as cx
from contexture_jax._core.factorizations import singular_values, thin_svd
from contexture_jax._core.numerics import PRECISIONS
from tests.conftest import X64
from tests.evaluation.test_any_features import OF_FEATURES, OF_VALUES, OTHER, SPECTRUM
from tests.losses.registry import (
    OBJECTIVES,
    SELECTED,
    encode,
    make_data,
    make_parameters,
)
from tests.problems import CONTEXTS, OPERATORS, operator

F32 = np.float32
KEY = jax.random.key(0)
JUDGES = {
    **{name: (judge, OTHER) for name, judge in OF_FEATURES.items()},
    **{name: (judge, SPECTRUM) for name, judge in OF_VALUES.items()},
}
FAST_JUDGES = (
    "usefulness",
    "principal_angles",
    "rayleigh_ritz",
    "rayleigh_ritz, pairs",
)


def slow_but(names: Any, fast: Any) -> list[Any]:
    marks = {True: [], False: [pytest.mark.slow]}
    return [pytest.param(name, marks=marks[name in fast]) for name in names]


def faults(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """What in the program of a function is not to be on an accelerator."""
    export = jax.export.export(jax.jit(function), platforms=("cuda", "tpu"))
    text = export(*arguments).mlir_module()
    names = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", text, flags=re.MULTILINE))
    calls = re.findall(r"custom_call @([\w.]+)", text)
    found = [call for call in calls if "lapack" in call]
    found += re.findall(r"tensor<[\dx?]+xf64>", text)
    for line in text.splitlines():
        if re.search(r"stablehlo\.(dot_general|dot|convolution)\b", line):
            is_stated = "HIGHEST, HIGHEST" in line or "algorithm = <" in line
            where = names[re.findall(r"#loc\d*", line)[-1]]
            if not is_stated and "network" not in where:
                found.append(f"{line.strip()} {where}")
    return found


def test_each_fault_is_seen():
    x = jnp.ones((3, 3), F32)
    planted: dict[str, Callable[..., Any]] = {
        "dot_general": lambda x: jax.lax.map(lambda row: row @ x, x),
        "lapack": jax.ffi.ffi_call("lapack_spotrf_ffi", jax.typeof(x)),
    }
    if X64:
        planted["3x3xf64"] = lambda x: x.astype(np.float64)
    for name, wrong in planted.items():
        assert name in str(faults(wrong, x))
    assert not faults(jax.named_scope("network")(lambda x: x @ x), x)
    for level in PRECISIONS.values():
        assert not faults(lambda x, level=level: jnp.matmul(x, x, precision=level), x)


def everything(op: cx.AssociationOperator) -> Any:
    f, g = (jnp.ones((size, 2), op.dtype) for size in op.shape)
    return op.matmat(g), op.rmatmat(f), op.squared_norm()


@pytest.mark.slow_cases("stack", "stack of different marginals", "power", "rbf, sparse")
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators(name):
    assert not faults(everything, operator(name, F32))


@pytest.mark.parametrize("name", slow_but(["joint", "teacher", "knn", "rbf"], "joint"))
def test_operators_over_devices(name):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    op = cx.association_operator(CONTEXTS[name](F32), mesh=mesh)
    assert not faults(everything, op)


def large_operator() -> cx.AssociationOperator:
    """Large enough for every method; the table is whatever has the shape."""
    return cx.association_operator(cx.contexts.joint(np.eye(60, 40, dtype=F32) + 1))


@pytest.mark.parametrize(
    "method",
    slow_but(["exact", "randomized", "krylov", "nystrom"], ["exact", "krylov"]),
)
def test_solvers(method):
    def solve(op: Any) -> list[Any]:
        return leaves(cx.svd(op, 2, key=KEY, method=method))

    assert not faults(solve, large_operator())


def leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree)


def test_coarse_passes():
    def solve(op: cx.AssociationOperator) -> Any:
        low: dict[str, Any] = {"method": "randomized", "range_dtype": "bfloat16"}
        return leaves(cx.svd(op.with_precision("split"), 2, key=KEY, **low))

    assert not faults(solve, large_operator())


@pytest.mark.slow
def test_gradients_of_singular_values():
    def total(op: cx.AssociationOperator) -> Any:
        result, _ = cx.svd(op, 2, key=KEY, method="randomized")
        return result.singular_values.sum()

    assert not faults(lambda op: leaves(jax.grad(total)(op)), large_operator())


def test_plain_matrices():
    def solve(a: Any) -> Any:
        return leaves(cx.solvers.truncated_svd(a, 2, key=KEY, method="krylov"))

    assert not faults(solve, jnp.ones((60, 40), F32))


def test_certificates():
    op = large_operator()
    result, info = jax.eval_shape(lambda: cx.svd(op, 2, key=KEY))

    def certify(result: Any, info: Any) -> list[Any]:
        return leaves(cx.solvers.certify(result, info, op, key=KEY))

    assert not faults(certify, result, info)


@pytest.mark.parametrize("shape", [(8, 8), (50, 8), (150, 140)])
def test_factorisations(shape):
    def both(a: Any) -> Any:
        slopes = jax.grad(lambda a: singular_values(a).sum())(a)
        return thin_svd(a), slopes

    found = faults(both, jnp.ones(shape, F32))
    # With x64, JAX's polar iteration of a large matrix has tables of its own in that.
    assert not [fault for fault in found if shape[0] < 100 or "xf64>" not in fault]


@pytest.mark.parametrize("name", slow_but(JUDGES, FAST_JUDGES))
def test_judges(name):
    judge, of = JUDGES[name]
    assert not faults(lambda x: leaves(judge(x)), of)


@pytest.mark.slow
def test_predictions():
    op, predict = operator("knn", F32), cx.prediction
    z = jax.random.normal(KEY, (op.shape[0], 3), F32)
    y, rows = z[:, :2], np.arange(0, op.shape[0], 2)
    assert not faults(lambda z, y: predict.ridge(z, y, folds=3).scores(z), z, y)
    assert not faults(lambda z, y: predict.nearest_neighbors(z, y).scores(z), z, y)

    def forecast(z: Any, y: Any) -> Any:
        how = {"key": KEY, "ridge": 0.1, "num_draws": 2}
        return predict.forecast_error(z, y, rows, [9], **how).errors

    assert not faults(forecast, z, y[rows])
    for s in (predict.polynomial([0.0, 1.0]), predict.inverse_laplacian(0.9)):
        assert not faults(
            lambda op, y, s=s: predict.stkr(op, y, rows, transform=s).values,
            op,
            y[rows],
        )
    assert not faults(
        lambda op, y: predict.label_propagation(op, y, rows).values, op, y[rows]
    )


@pytest.mark.parametrize("name", slow_but(OBJECTIVES, SELECTED))
def test_losses_and_their_gradients(name):
    data, parameters = make_data(dtype=F32), make_parameters(F32)
    embeddings = jax.jit(encode)(parameters, data)

    def loss(phi: Any, psi: Any) -> Any:
        return OBJECTIVES[name](embeddings._replace(phi=phi, psi=psi), None)

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    assert not faults(gradient, embeddings.phi, embeddings.psi)


@pytest.mark.parametrize("dtype", slow_but([None, jnp.bfloat16], [jnp.bfloat16]))
def test_a_step_of_training(dtype):
    config = cx.models.MLPConfig(in_features=4, out_features=3, hidden=(5,))
    parameters, apply = cx.models.functional(cx.models.MLP(config, rngs=nnx.Rngs(0)))

    def towers(parameters: Any, batch: Any, key: Any) -> Any:
        del key
        with jax.named_scope("network"):
            return tuple(apply(parameters, x) for x in batch)

    optimizer = optax.adam(1e-3)
    objective = cx.training.from_loss(cx.losses.svme)
    step = cx.training.make_step(towers, objective, optimizer, compute_dtype=dtype)
    state = cx.training.init_state(parameters, optimizer)
    batch = (jnp.ones((8, 4), F32),) * 2
    assert not faults(step, state, batch, KEY)
