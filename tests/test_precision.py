"""No product leaves its precision to the platform, which may take TF32 or bfloat16."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import contexture_jax as cx
from contexture_jax._core.numerics import PRECISIONS, Precision, check_precision, mm
from contexture_jax.operators import low_rank_operator
from tests.evaluation.test_any_features import OF_FEATURES, OP, OTHER, OTHERS
from tests.losses.registry import OBJECTIVES, encode, make_data, make_parameters
from tests.problems import CONTEXTS, OPERATORS, operator

KEY = jax.random.key(0)
EXACT = PRECISIONS["exact"]


def products(jaxpr: Any) -> Iterator[Any]:
    """All products in a program and its parts."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=is_program):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def stated(equation: Any) -> Any:
    """The precision of a product."""
    precision = equation.params["precision"]
    return precision[0] if isinstance(precision, tuple) else precision


def is_program(value: Any) -> bool:
    return hasattr(value, "jaxpr") or hasattr(value, "eqns")


def check(function: Any, *arguments: Any) -> None:
    program = jax.make_jaxpr(function)(*arguments)
    assert {stated(product) for product in products(program.jaxpr)} <= {EXACT}


# Products of NumPy, whose arrays are the host's, go without.
WITHOUT = {
    "ranking": "NumPy on the host",
    "models": "layers of networks follow `jax.default_matmul_precision`",
    "zoo": "closed forms by NumPy in float64",
    "contexts/_density.py": "NumPy, within blocks that the host checks",
    "_core/sparse_rows.py": "SciPy, of sparse matrices with blocks of NumPy",
    "operators/sharded/_slots.py": "NumPy, counting entries",
    "benchmarking": "peers, peaks, and answers of the host in float64",
    "kernels/neighbors/_lists.py": "NumPy, beside products that state theirs",
    "operators/streamed/_products.py": "SciPy and NumPy, of blocks that are read",
    "solvers/_one_pass.py": "NumPy, of blocks that the host reads",
    "solvers/_maps.py": "a product of the caller's",
}
PRODUCTS = ("dot", "dot_general", "einsum", "inner", "matmul", "tensordot", "vdot")


def loose_products(source: str) -> Iterator[str]:
    """Products in a module that go by neither `mm` nor a precision."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            yield ast.unparse(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            is_stated = any(keyword.arg == "precision" for keyword in node.keywords)
            if owner != "np" and name in PRODUCTS and not is_stated:
                yield ast.unparse(node)


def test_products_in_the_sources_state_theirs():
    assert len(list(loose_products("a @ b + jnp.dot(a, b) + np.dot(a, b)"))) == 2
    assert not list(loose_products("mm(a, b); jnp.einsum('i', a, precision=exact)"))
    package = Path(cx.__file__).parent
    for path in package.rglob("*.py"):
        where = path.relative_to(package).as_posix()
        if not {where, where.split("/")[0]} & set(WITHOUT):
            assert not list(loose_products(path.read_text())), where


def test_a_product_without_precision_is_seen():
    with pytest.raises(AssertionError):
        check(jax.jit(lambda x: jax.lax.map(lambda row: row @ x, x)), jnp.eye(3))


def everything(op: cx.AssociationOperator) -> Any:
    f, g = (jnp.ones((size, 2), op.dtype) for size in op.shape)
    return op.matmat(g), op.rmatmat(f), op.squared_norm()


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators_state_theirs(name):
    check(everything, operator(name, np.float32))


@pytest.mark.slow
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


@pytest.mark.parametrize("level", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "cut"),
    [
        *((name, False) for name in ("joint", "teacher", "rbf", "product")),
        *((name, True) for name in ("joint", "teacher")),
        pytest.param("rbf", True, marks=pytest.mark.slow),
    ],
)
def test_products_with_what_is_stored_have_the_level_of_the_operator(name, level, cut):
    op = products_of_storage(name, level, cut)
    f, g = (jnp.ones((size, 2), op.dtype) for size in op.shape)
    program = jax.make_jaxpr(lambda op: (op.matmat(g), op.rmatmat(f)))(op)
    found = [stated(product) for product in products(program.jaxpr)]
    # Log weights of kernels are exact.
    assert set(found) == {PRECISIONS[level], *([EXACT] if name == "rbf" else [])}
    check(lambda op: op.squared_norm() if name != "product" else 0, op)


def products_of_storage(name: str, level: Precision, cut: bool) -> Any:
    mesh = None
    if cut:
        mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    context = CONTEXTS["joint" if name == "product" else name](np.float32)
    op = cx.association_operator(context, mesh=mesh, precision=level)
    return cx.operators.compose(op.T, op) if name == "product" else op


def test_levels_are_of_float32():
    for dtype in (np.float64, np.complex64):
        eye = np.eye(2, dtype=dtype)
        if jnp.asarray(eye).dtype == dtype:
            check(lambda x: mm(x, x, "coarse"), eye)


def test_a_level_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="precision must be one of"):
        check_precision("fast")
    wrong: Any = "fast"
    for function in (OP.with_precision, lambda p: make_operator(precision=p)):
        with pytest.raises((ValueError, TypeCheckError), match="precision"):
            function(wrong)


def make_operator(**options: Any) -> Any:
    return cx.association_operator(cx.contexts.joint(np.eye(3) + 1), **options)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_of_half_precision_are_in_single(dtype):
    one = jnp.ones((1, 4097), dtype)  # neither sees the last 1
    for other in (one, one.astype(jnp.float32)):
        total = mm(one, other.T)
        assert total.dtype == jnp.float32
        assert total == 4097


@pytest.mark.parametrize("name", ["joint", "teacher", "rbf", "knn", "product"])
def test_a_narrowed_operator_keeps_its_law_and_errs_by_the_rounding_of_its_tables(name):
    op = products_of_storage(name, "exact", False)
    low = op.narrowed(jnp.bfloat16)
    assert low.dtype == np.float32
    np.testing.assert_array_equal(low.p_x, op.p_x)
    g = jax.random.normal(KEY, (op.shape[1], 3), np.float32)
    error = jnp.abs(low.matmat(g) - op.matmat(g)).max()
    assert error < 4 * 2.0**-8 * jnp.abs(g).max()
    assert (error > 2.0**-12) == (name not in ("rbf", "knn"))  # which store no table


def test_coarse_passes_of_a_solver_sum_in_single_what_they_multiply_in_half():
    op = make_operator().narrowed(np.float32)
    solve = functools.partial(cx.svd, rank=1, key=KEY, range_dtype=jnp.bfloat16)
    program = jax.make_jaxpr(lambda op: solve(op, method="randomized"))(op)
    dtypes = [
        {v.aval.dtype.name for v in product.invars}
        | {product.outvars[0].aval.dtype.name}
        for product in products(program.jaxpr)
    ]
    assert {"bfloat16", "float32"} in dtypes
    assert {"bfloat16"} not in dtypes


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


def test_a_certificate_multiplies_exactly_whatever_the_operator_does():
    op = make_operator(precision="coarse").narrowed(np.float32)
    result, info = jax.eval_shape(lambda: cx.svd(op, 1, key=KEY))
    check(lambda r, i: cx.solvers.certify(r, i, op, key=KEY), result, info)
