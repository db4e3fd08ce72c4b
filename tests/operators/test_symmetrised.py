"""The symmetrised matrix, its products, and every singular value by it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests import oracle
from tests.conftest import X64
from tests.problems import operator
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
NAMES = ("joint with zeros", "neighbors", "rbf")


def law(op):
    """The joint table of an operator."""
    return np.asarray(op.p_x, float)[:, None] * np.asarray(op.as_matrix(), float)


@pytest.mark.parametrize("name", NAMES)
def test_the_matrix_is_that_of_the_law_and_zero_without_mass(name):
    op = operator(name, DTYPE)
    atol = tol(DTYPE, factor=10)
    for deflated in (False, True):
        found = cx.operators.symmetrised_matrix(op, deflated=deflated)
        expected = oracle.symmetrised(law(op), deflated=deflated)
        assert found.dtype == DTYPE
        np.testing.assert_allclose(found, expected, atol=atol)
        empty = (np.asarray(op.p_x) == 0)[:, None] | (np.asarray(op.p_a) == 0)
        assert (np.asarray(found)[empty] == 0).all()


@pytest.mark.parametrize("name", NAMES[:1])
def test_products_and_vectors_are_those_of_the_matrix(name):
    op = operator(name, DTYPE)
    matrix = np.asarray(cx.operators.symmetrised_matrix(op), float)
    matmat, rmatmat = cx.operators.symmetrised_products(op)
    f, g = (np.linspace(-1, 1, 2 * size).reshape(size, 2) for size in op.shape)
    atol = tol(DTYPE, factor=20)
    np.testing.assert_allclose(matmat(jnp.asarray(g, DTYPE)), matrix @ g, atol=atol)
    np.testing.assert_allclose(rmatmat(jnp.asarray(f, DTYPE)), matrix.T @ f, atol=atol)
    values, left, right = oracle.triples(law(op))
    u, v = cx.operators.to_vectors(op, *(jnp.asarray(x, DTYPE) for x in (left, right)))
    np.testing.assert_allclose(
        matrix @ np.asarray(v), np.asarray(u) * values, atol=atol
    )
    back = cx.operators.to_functions(op, u, v)
    np.testing.assert_allclose(back[0], left, atol=atol)
    np.testing.assert_allclose(back[1], right, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_all_singular_values_are_those_of_the_law(name):
    op = operator(name, DTYPE)
    found = cx.solvers.all_singular_values(op)
    assert found.shape == (min(op.shape) - 1,)
    assert found.dtype == DTYPE
    expected = oracle.singular_values(law(op))
    np.testing.assert_allclose(
        found[: len(expected)], expected, atol=tol(DTYPE, factor=10)
    )
    assert (np.asarray(found[len(expected) :]) <= tol(DTYPE)).all()


def test_all_singular_values_inside_a_trace_and_of_nan():
    op: Any = operator(NAMES[0], DTYPE)
    np.testing.assert_allclose(
        jax.jit(cx.solvers.all_singular_values)(op),
        cx.solvers.all_singular_values(op),
        atol=tol(DTYPE, factor=10),
    )
    table = jnp.asarray(op.joint).at[0, 0].set(jnp.nan)
    bad = cx.operators.DenseOperator(table, op.p_x, op.p_a)
    assert np.isnan(cx.solvers.all_singular_values(bad)).all()
    with pytest.raises(TypeError, match="op"):
        cx.solvers.all_singular_values(op.joint)


def test_a_kernel_multiplies_either_way_by_one_program():
    x = np.random.default_rng(0).normal(size=(7, 2)).astype(DTYPE)
    p_x = np.array([0, 1, 2, 1, 1, 1, 1]) / 7
    op = cx.association_operator(cx.contexts.rbf(x, 0.5, p_x=p_x))
    assert isinstance(op, cx.operators.KernelOperator)
    block = np.random.default_rng(1).normal(size=(7, 3)).astype(DTYPE)
    either = jax.jit(op.either_way)
    for way, expected in enumerate((op.matmat(block), op.rmatmat(block))):
        got = either(block, np.bool_(way))
        np.testing.assert_allclose(got, expected, rtol=tol(DTYPE), atol=tol(DTYPE))
    assert not either(block, np.False_)[0].any()
