"""What holds for every operator, whatever its storage."""

import functools
import math
import re
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests.conftest import X64
from tests.problems import CONTEXTS, OPERATORS, operator
from tests.tolerances import tol

# Of float32 `make test-x64-off` has them all, and `tests/test_lowering.py` the dtypes.
DTYPES = [np.float64] if X64 else [np.float32]
DTYPE = DTYPES[-1]
NAMES = sorted(OPERATORS)


class Products(NamedTuple):
    """Everything that one operator does to a few blocks, as float64 NumPy arrays."""

    f: np.ndarray
    g: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    forward_of_one: np.ndarray
    backward_of_one: np.ndarray
    matrix: np.ndarray
    squared_norm: np.ndarray | None


def blocks(op: cx.AssociationOperator, width: int = 3) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    n, m = op.shape
    return (
        jnp.asarray(rng.normal(size=(n, width)), op.dtype),
        jnp.asarray(rng.normal(size=(m, width)), op.dtype),
    )


@jax.jit
def apply(op, f, g):
    """One program an operator: what the tests below look at."""
    return Products(
        f,
        g,
        op.matmat(g),
        op.rmatmat(f),
        op.matmat(jnp.ones((op.shape[1], 1), op.dtype)),
        op.rmatmat(jnp.ones((op.shape[0], 1), op.dtype)),
        op.as_matrix(),
        op.squared_norm(),
    )


@functools.cache
def products(name: str, dtype: Any) -> Products:
    op = operator(name, dtype)
    found = apply(op, *blocks(op))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(dtype)}
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)


def laws(op: cx.AssociationOperator) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(op.p_x, np.float64), np.asarray(op.p_a, np.float64)


def reciprocal(law: np.ndarray) -> np.ndarray:
    return np.divide(1.0, law, out=np.zeros_like(law), where=law > 0)


@pytest.mark.slow_cases("rbf in tiles-float64")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_adjoint_identity_holds_in_the_weighted_spaces(name, dtype):
    op, found = operator(name, dtype), products(name, dtype)
    p_x, p_a = laws(op)
    left = (p_x[:, None] * found.f * found.forward).sum()
    right = (found.backward * p_a[:, None] * found.g).sum()
    np.testing.assert_allclose(left, right, atol=tol(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_marginals_are_laws_and_belong_to_the_products(name, dtype):
    op, found = operator(name, dtype), products(name, dtype)
    for law in (op.p_x, op.p_a):
        assert law.dtype == dtype
        assert (np.asarray(law) >= 0).all()
        np.testing.assert_allclose(law.sum(), 1, atol=tol(dtype))
    # T 1 = 1 where there is mass, 0 elsewhere; T* likewise.
    np.testing.assert_allclose(
        found.forward_of_one[:, 0], op.p_x > 0, atol=tol(dtype, factor=30)
    )
    np.testing.assert_allclose(
        found.backward_of_one[:, 0], op.p_a > 0, atol=tol(dtype, factor=30)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_products_agree_with_the_matrix(name, dtype):
    op, found = operator(name, dtype), products(name, dtype)
    p_x, p_a = laws(op)
    adjoint = reciprocal(p_a)[:, None] * (p_x[:, None] * found.matrix).T
    atol = tol(dtype, factor=100)
    np.testing.assert_allclose(found.forward, found.matrix @ found.g, atol=atol)
    np.testing.assert_allclose(found.backward, adjoint @ found.f, atol=atol)


@pytest.mark.parametrize("name", sorted(CONTEXTS))
def test_an_operator_agrees_with_the_table_of_its_context(name):
    context = CONTEXTS[name](DTYPES[-1])
    op, table = cx.association_operator(context), np.asarray(context.table())
    np.testing.assert_allclose(table.sum(), 1, atol=tol(op.dtype, size=op.shape[0]))
    atol = tol(op.dtype, size=max(op.shape))
    joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
    np.testing.assert_allclose(joint, table, atol=atol)
    np.testing.assert_allclose(op.p_a, table.sum(axis=0), atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_the_squared_norm_is_that_of_the_symmetrised_matrix(name):
    op, found = operator(name, DTYPES[-1]), products(name, DTYPES[-1])
    p_x, p_a = laws(op)
    expected = (p_x[:, None] * found.matrix**2 * reciprocal(p_a)).sum()
    if found.squared_norm is None:
        assert isinstance(
            op,
            (
                cx.operators.ComposedOperator,
                cx.operators.ConvexCombinationOperator,
                cx.operators.MixtureOperator,
            ),
        )
    else:
        np.testing.assert_allclose(
            found.squared_norm, expected, rtol=tol(op.dtype, factor=100)
        )


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_known_from_shapes_alone(name):
    op = operator(name, DTYPES[-1])
    abstract = jax.eval_shape(lambda: op)
    assert abstract.cost(5) == op.cost(5)
    assert op.cost(6).flops > op.cost(5).flops
    f, g = blocks(op, 5)
    arguments = sum(leaf.nbytes for leaf in jax.tree.leaves((op, g)))
    assert op.cost(5).output_bytes == f.nbytes
    assert 0 < op.cost(5).argument_bytes <= 1.2 * arguments


@pytest.mark.slow
def test_bytes_of_a_kernel_product_do_not_grow_with_n_squared():
    """Work space from the compiled program: at most linear in n (ratio 8 for 8 n)."""

    def build(x: jax.Array) -> cx.AssociationOperator:
        return cx.association_operator(cx.contexts.rbf(x), tile_size=512)

    def work_space(n: int) -> int:
        shape = functools.partial(jax.ShapeDtypeStruct, dtype=np.float32)
        op = jax.eval_shape(build, shape((n, 5)))
        compiled = jax.jit(lambda op, g: op.matmat(g)).lower(op, shape((n, 8)))
        memory = compiled.compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert work_space(8 * 4096) <= 8 * work_space(4096)
    assert work_space(8 * 4096) < 4 * (8 * 4096) ** 2 / 100


def test_composition_is_composition_of_matrices():
    get = functools.partial(operator, dtype=DTYPES[-1])
    walk = np.asarray(get("lazy graph").as_matrix())
    np.testing.assert_allclose(
        get("power").as_matrix(), walk @ walk @ walk, atol=tol(DTYPES[-1], size=10)
    )


def test_a_stack_mixes_dual_kernels_and_a_sum_mixes_operators():
    get = functools.partial(operator, dtype=DTYPES[-1])
    one, two = get("knn"), get("rbf")
    both = cx.operators.convex_combination([one, two], [0.3, 0.7])

    def gram(op):  # T T* as a matrix
        return np.asarray(op.matmat(op.rmatmat(jnp.eye(op.shape[0], dtype=op.dtype))))

    np.testing.assert_allclose(
        gram(both), 0.3 * gram(one) + 0.7 * gram(two), atol=tol(DTYPES[-1], size=20)
    )
    mixed = cx.operators.mixture([one, two], [0.3, 0.7])
    np.testing.assert_allclose(
        mixed.as_matrix(),
        0.3 * one.as_matrix() + 0.7 * two.as_matrix(),
        atol=tol(DTYPES[-1], size=20),
    )


def test_heavy_rows_are_cut_into_pieces():
    """Rows longer than a piece may be, rows of many lengths, empty rows."""
    rng = np.random.default_rng(0)
    table = np.zeros((40, 1500))
    for row in range(1, 40):
        size = [1, 2, 3, 5, 9, 30, 513, 1400][row % 8]
        table[row, rng.permutation(1500)[:size]] = rng.random(size) + 0.1
    dtype = DTYPES[-1]
    context = cx.contexts.joint(table.astype(dtype))
    sparse = cx.association_operator(context, storage="sparse")
    dense = cx.association_operator(context)
    f, g = blocks(dense)
    atol = tol(dtype, size=100)
    np.testing.assert_allclose(sparse.matmat(g), dense.matmat(g), atol=atol)
    np.testing.assert_allclose(sparse.rmatmat(f), dense.rmatmat(f), atol=atol)


@pytest.mark.parametrize("name", ["joint", "knn"])
def test_operators_multiply_blocks_and_vectors_and_have_an_adjoint(name):
    op = operator(name, DTYPES[-1])
    f, g = blocks(op)
    np.testing.assert_array_equal(op @ g, op.matmat(g))
    np.testing.assert_array_equal(op @ g[:, 0], op.matmat(g[:, :1])[:, 0])
    np.testing.assert_array_equal(op.T @ f, op.rmatmat(f))
    assert op.T.shape == op.shape[::-1]
    assert op.T.T is op
    m = op.shape[1]
    message = rf"g must have shape \({m},\) or \({m}, r\); got shape \({m - 1},\)"
    with pytest.raises(ValueError, match=message):
        _ = op @ g[1:, 0]
    for row in (f.T, np.asarray(f[:, 0])):
        with pytest.raises(TypeError, match=r"is op\.T @ f"):
            _ = row @ cast("Any", op)
    with pytest.raises(TypeError, match=r"cx.operators.compose\(op, other\)"):
        _ = op @ cast("Any", op.T)


def test_a_convolution_is_a_step_of_the_first_and_then_the_second():
    rng = np.random.default_rng(5)
    p_x = rng.dirichlet(np.ones(6))
    one, two = (p_x[:, None] * rng.dirichlet(np.ones(m), 6) for m in (4, 5))
    found = cx.operators.convolve(
        *(cx.association_operator(cx.contexts.joint(table)) for table in (one, two))
    )
    walk = (one / one.sum(axis=0)) @ one.T / p_x[:, None]
    expected = walk @ (two / p_x[:, None])
    atol = tol(found.dtype, factor=10)
    np.testing.assert_allclose(found.as_matrix(), expected, atol=atol)
    np.testing.assert_allclose(found.p_a, two.sum(axis=0), atol=atol)


def test_bad_compositions_are_refused():
    get = functools.partial(operator, dtype=DTYPES[-1])
    with pytest.raises(ValueError, match=r"must be the X of operator 1.*got 9 and 14"):
        cx.operators.compose(get("joint"), get("knn"))
    with pytest.raises(ValueError, match="law of A in operator 0 must be the law of X"):
        cx.operators.compose(get("knn"), get("knn"))
    with pytest.raises(ValueError, match="operators must have one shape"):
        cx.operators.mixture([get("joint"), get("knn")], [1, 1])
    with pytest.raises(ValueError, match="one number of inputs"):
        cx.operators.convex_combination([get("joint"), get("graph")], [1, 1])
    with pytest.raises(ValueError, match="weights of convex_combination must be"):
        cx.operators.convex_combination([get("joint"), get("joint")], [1, -1])
    with pytest.raises(
        ValueError, match=r"weights of mixture must sum to 1, as.*got 10"
    ):
        cx.operators.mixture([get("joint")] * 2, [3, 7])
    with pytest.raises(ValueError, match="at least one operator"):
        cx.operators.compose()


def test_bad_requests_are_refused():
    context = CONTEXTS["joint"](np.float32)
    with pytest.raises(ValueError, match="tile_size must be at least 1"):
        cx.association_operator(context, tile_size=0)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_with_another_number_of_rows_are_refused_while_tracing(name):
    op = operator(name, DTYPES[-1])
    n, m = op.shape
    for product, size, letter in ((op.matmat, m, "g"), (op.rmatmat, n, "f")):
        for rows in (size + 1, 1):
            block = jax.ShapeDtypeStruct((rows, 2), op.dtype)
            with pytest.raises(ValueError, match="must have shape") as refused:
                jax.eval_shape(product, block)
            assert f"{letter} must have shape ({size}, r); got" in str(refused.value)
            assert f"({rows}, 2)" in str(refused.value)
    with pytest.raises(ValueError, match="r must be at least 0; got -1"):
        op.cost(-1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joint with zeros", "knn", "neighbors", "pairs"])
def test_gradients_in_the_block_are_products_with_the_stored_transpose(name):
    op = cx.association_operator(CONTEXTS[name](DTYPE))
    rng = np.random.default_rng(0)
    g, f = (jnp.asarray(rng.normal(size=(size, 2)), DTYPE) for size in op.shape[::-1])
    for product, block, bar in ((op.matmat, g, f), (op.rmatmat, f, g)):
        gradient = jax.grad(lambda x, p=product, b=bar: (p(x) * b).sum())(block)
        eye = jnp.eye(block.shape[0], dtype=DTYPE)
        np.testing.assert_allclose(
            gradient, np.asarray(product(eye)).T @ bar, atol=tol(DTYPE, factor=20)
        )


def test_the_gradient_of_a_neighbour_product_scatters_no_entries():
    """Only what pieces of long rows sum to, a slice of them at a time."""
    points = np.random.default_rng(0).normal(size=(60, 2)).astype(DTYPE)
    op: Any = cx.association_operator(cx.contexts.knn(points, 6))
    block = jnp.ones((op.shape[1], 2), DTYPE)

    def program(product):
        return jax.jit(jax.grad(lambda g: product(g).sum())).lower(block).as_text()

    def scattered(product):
        """How many rows each scatter takes."""
        text = program(product)
        found = re.findall(r"stablehlo.scatter.*?\}\) : \((.*?)\) ->", text, re.S)
        shapes = [re.findall(r"tensor<([\dx]+)x1xi32>", types)[0] for types in found]
        return [math.prod(map(int, shape.split("x"))) for shape in shapes]

    sums = op.backward.rows.shape[1]
    assert sums < op.indices.size
    assert scattered(op.matmat) == [sums]
    assert scattered(lambda g: g[op.indices].sum(axis=0)) == [op.indices.size]


def test_a_stored_transpose_gives_the_same_products():
    op = cx.association_operator(CONTEXTS["joint"](DTYPE))
    stored = op.for_passes()
    assert isinstance(stored, cx.operators.DenseOperator)
    assert stored.transposed is not None
    f = jnp.ones((op.shape[0], 2), DTYPE)
    np.testing.assert_allclose(stored.rmatmat(f), op.rmatmat(f), rtol=tol(DTYPE))
    assert stored.for_passes() is stored
