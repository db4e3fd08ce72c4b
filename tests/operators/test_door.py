"""What the public maps take, what they refuse, and how often they compile."""

import contextlib
import inspect
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array

import contexture_jax as cx
from tests.conftest import X64
from tests.problems import features, operator
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
KINDS = ["joint", "knn", "pairs", "graph", "rbf", "teacher", "labels", "weighted sum"]
WHOLE = np.arange(-3, 6)  # small integers, exact in every dtype


def get(kind: str) -> cx.AssociationOperator:
    if kind == "labels":
        return cx.association_operator(cx.contexts.labels([3, 3, 5, 5, 9]))
    return operator(kind, DTYPE)


def block(size: int, dtype: Any) -> np.ndarray:
    whole = WHOLE[(7 * np.arange(3 * size)) % len(WHOLE)].reshape(size, 3)
    return (np.abs(whole) if np.dtype(dtype).kind in "ub" else whole).astype(dtype)


FORMS = {
    "numpy": lambda x: x,
    "fortran": np.asfortranarray,
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "list": lambda x: x.tolist(),
    "rows": lambda x: [jnp.asarray(row) for row in x],
    "tuple": lambda x: tuple(map(tuple, x)),
    "float64": lambda x: x.astype(np.float64),
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: x.astype(jnp.bfloat16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian doubles": lambda x: x.astype(">f8"),
    "big-endian integers": lambda x: x.astype(">i4"),
    "int8": lambda x: x.astype(np.int8),
    "int64": lambda x: x.astype(np.int64),
    "jax integers": lambda x: jnp.asarray(x.astype(np.int32)),
    "jax half": lambda x: jnp.asarray(x, jnp.bfloat16),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_of_any_form_and_dtype_gives_the_product_in_the_dtype_of_t(kind):
    op = get(kind)
    n, m = op.shape
    matrix = np.asarray(op.as_matrix(), np.float64)
    p_x, p_a = (np.asarray(law, np.float64) for law in (op.p_x, op.p_a))
    inverse = np.divide(1, p_a, out=np.zeros_like(p_a), where=p_a > 0)
    back = inverse[:, None] * (p_x[:, None] * matrix).T
    for form, make in FORMS.items():
        for product, truth, size in ((op.matmat, matrix, m), (op.rmatmat, back, n)):
            x = block(size, np.float64)
            found = product(make(x))
            assert isinstance(found, jax.Array)
            assert found.dtype == op.dtype
            np.testing.assert_allclose(
                found, truth @ x, atol=tol(op.dtype, factor=30), err_msg=form
            )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_block_of_numbers_is_named(kind):
    op = get(kind)
    n, m = op.shape
    ones = np.ones((m, 2), DTYPE)
    masked = np.ma.masked_array(ones, ones > 0)
    for bad, error, message in (
        (ones[:, 0], ValueError, r"g must have shape \(\d+, r\); got.*v\[:, None"),
        (ones.T, ValueError, r"g must have shape \(\d+, r\); got shape \(2, "),
        (ones[None], ValueError, r"g must have shape \(\d+, r\); got shape \(1, "),
        (1.0, ValueError, r"g must have shape \(\d+, r\); got shape \(\)"),
        ([[1], [1, 2]], ValueError, "g must be an array; got nested sequences"),
        (masked, TypeError, "g must have no mask"),
        (ones * 1j, TypeError, "g must hold real numbers; got dtype complex128"),
        (ones.astype(str), TypeError, "g must hold real numbers; got text"),
        ("text", TypeError, "g must hold real numbers; got text"),
        ([[None, None]] * m, TypeError, r"g must hold real numbers; got None at g"),
    ):
        with pytest.raises(error, match=message):
            op.matmat(bad)
    with pytest.raises(ValueError, match=rf"f must have shape \({n}, r\); got"):
        op.rmatmat(np.ones((n + 1, 2)))


def test_no_columns_give_no_columns():
    for kind in ("joint", "knn", "rbf"):
        op = get(kind)
        assert op.matmat(np.ones((op.shape[1], 0))).shape == (op.shape[0], 0)
        assert op.rmatmat(np.ones((op.shape[0], 0))).shape == (op.shape[1], 0)


class Squares(cx.AssociationOperator):
    """A user's own: the two maps overridden, NumPy inside, no pytree."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix
        n, m = matrix.shape
        self.p_x, self.p_a = jnp.full(n, 1 / n, DTYPE), jnp.full(m, 1 / m, DTYPE)

    def matmat(self, g: Any) -> jax.Array:
        return jnp.asarray(self.matrix @ np.asarray(g))

    def rmatmat(self, f: Any) -> jax.Array:
        return jnp.asarray(self.matrix.T @ np.asarray(f))


def test_an_operator_of_the_user_with_maps_of_its_own_is_called_as_it_is():
    matrix = np.full((4, 4), 0.25, DTYPE)
    op = Squares(matrix)
    g = np.arange(8.0).reshape(4, 2)
    for whole in (op, cx.operators.reverse(op), cx.operators.compose(op, op)):
        np.testing.assert_allclose(whole.matmat(g), matrix @ g, rtol=tol(DTYPE))
    both = cx.operators.mixture([op, cx.operators.reverse(op)])
    np.testing.assert_allclose(both.rmatmat(g), matrix @ g, rtol=tol(DTYPE))


@contextlib.contextmanager
def compilations():
    """The names of what JAX traces and compiles meanwhile."""
    names: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text.startswith(("Finished tracing", "Compiling")):
                names.append(text)

    handler, logger = Collect(logging.DEBUG), logging.getLogger("jax")
    logger.addHandler(handler)
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.mark.parametrize("kind", ["knn", "rbf", "pairs"])
def test_a_second_product_of_the_same_shapes_compiles_nothing(kind):
    op = get(kind)
    f, g = (block(size, DTYPE) for size in op.shape)
    with compilations() as first:
        jax.jit(lambda x: x + 1)(g)  # a function that JAX has not seen
        op.matmat(g)
        op.rmatmat(f)
    assert first
    with compilations() as names:
        op.matmat(g + 1)
        op.rmatmat(f + 1)
    assert names == []


CONTEXTS = {
    "knn": lambda x: cx.contexts.knn(x, 4),
    "rbf": lambda x: cx.contexts.rbf(x, 0.5),
}


@pytest.mark.slow_cases("rbf-left", "rbf-right")
@pytest.mark.parametrize(
    ("kind", "side"), [("knn", "left"), ("rbf", "left"), ("rbf", "right")]
)
def test_a_second_extension_of_the_same_shapes_compiles_nothing(kind, side):
    x = features(DTYPE)
    context = CONTEXTS[kind](x)
    functions: Any = block(len(x), DTYPE)
    half: Any = np.full(3, 0.5, DTYPE)
    result = cx.solvers.SVDResult(half, functions, functions)  # as from a file
    new = x[:5] + np.asarray(0.01, DTYPE)
    before = np.asarray(cx.extend(result, context, new, side=side))
    with compilations() as names:
        again = cx.extend(result, context, new[::-1], side=side)
    assert names == []
    np.testing.assert_allclose(again[::-1], before, atol=tol(DTYPE, factor=30))


def test_building_an_rbf_operator_again_compiles_nothing():
    x = features(DTYPE)
    cx.association_operator(cx.contexts.rbf(x, 0.5))
    with compilations() as names:
        cx.association_operator(cx.contexts.rbf(x + 1, 0.7))
    assert names == []


LAW = (np.full(6, 1 / 6), np.full(5, 0.2))
LEFT, RIGHT = features(np.float64, 6), features(np.float64, 5)
MADE = {
    "dense": lambda form: cx.operators.dense_operator(form(np.full((2, 3), 1 / 6))),
    "low rank": lambda form: cx.operators.low_rank_operator(
        form(LEFT), form(RIGHT), *map(form, LAW)
    ),
    "sparse": lambda form: cx.operators.sparse_operator(
        [1, 0, 0], [1, 0, 1], form(np.array([0.5, 0.125, 0.375])), (2, 2)
    ),
    "fixed degree": lambda form: cx.operators.fixed_degree_operator(
        [[0, 1], [1, 2]], None, form(np.array([0.5, 0.5])), 3
    ),
}
MATRICES = {
    "dense": np.full((2, 3), 1 / 3),
    "low rank": 0.2 * (1 + (LEFT - LEFT.mean(0)) @ (RIGHT - RIGHT.mean(0)).T),
    "sparse": np.array([[0.25, 0.75], [0, 1]]),
    "fixed degree": np.array([[0.5, 0.5, 0], [0, 0.5, 0.5]]),
}


@pytest.mark.parametrize("kind", MADE)
def test_constructors_take_any_array_of_numbers(kind):
    for form in (np.asarray, np.ndarray.tolist, lambda x: x.astype(">f4")):
        op = MADE[kind](form)
        assert op.dtype in (np.float32, np.float64)
        np.testing.assert_allclose(
            op.as_matrix(), MATRICES[kind], atol=tol(np.float32, factor=100)
        )


RESULT = cx.solvers.SVDResult(jnp.ones(1), jnp.ones((2, 1)), jnp.ones((2, 1)))


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (
            lambda: cx.operators.dense_operator(np.ones((2, 2))),
            ValueError,
            "joint must sum to 1; got 4",
        ),
        (
            lambda: cx.operators.low_rank_operator(LEFT, RIGHT, 2 * LAW[0], LAW[1]),
            ValueError,
            "p_x must sum to 1; got 2",
        ),
        (
            lambda: cx.operators.low_rank_operator(LEFT, RIGHT[:, :1], *LAW),
            ValueError,
            "left and right must have the same number of columns",
        ),
        (
            lambda: cx.operators.sparse_operator([0, 7], [0, 1], [0.5, 0.5], (2, 2)),
            ValueError,
            r"rows must be between 0 and 1; got 7 at rows\[1\]",
        ),
        (
            lambda: cx.operators.fixed_degree_operator([[0.5]], None, [1.0], 3),
            TypeError,
            "indices must hold integers",
        ),
        (
            lambda: cx.operators.fixed_degree_operator([[3]], None, [1.0], 3),
            ValueError,
            "indices must be between 0 and 2; got 3",
        ),
    ],
)
def test_what_a_public_function_cannot_take_is_named(ask, error, message):
    with pytest.raises(error, match=message):
        ask()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (cx.operators.reverse, (None,), "operator must be an operator.*got NoneType"),
        (cx.operators.compose, (3,), r"operators\[0\] must be an operator.*got int"),
        (
            cx.operators.convex_combination,
            ([3], [1]),
            r"operators\[0\] must be an operator",
        ),
        (cx.solvers.certify, (None, None), "result and info must be what svd returns"),
        (cx.extend, (None, None, [0]), "result must be the first that svd returns"),
        (cx.extend, (RESULT, None, [0]), "context must be a Context.*got NoneType"),
    ],
)
def test_what_is_of_another_type_is_named(function, arguments, message):
    # Under test, annotations would refuse it first.
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(function)(*arguments)


def test_known_rows_without_mass_alone_have_an_operator_of_zeros():
    table = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    for whole in (table, csr_array(table)):
        op = cx.association_operator(cx.contexts.joint(whole).at(np.array([1])))
        np.testing.assert_array_equal(op.matmat(np.ones((2, 1))), 0)
