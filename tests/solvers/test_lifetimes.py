"""What a caller hands in is not kept alive by what was compiled for it."""

import dataclasses
import functools
import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import contexture_jax as cx
from contexture_jax._core.types import pytree_dataclass, static_field
from tests import oracle
from tests.problems import random_table

KEY = jax.random.key(5)
DTYPE = jnp.zeros(()).dtype
A = np.linspace(-1, 1, 12).reshape(4, 3).astype(DTYPE) ** 3


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["scale"], meta_fields=["mean"]
)
@dataclasses.dataclass(frozen=True)
class Noise(cx.contexts.SamplingContext):
    """Normal about a function of x, which is part of the structure."""

    scale: Any
    mean: Any

    def _draw(self, key: Any, x: Any) -> Any:
        return self.mean(x) + self.scale * jax.random.normal(key, x.shape, x.dtype)

    def _log_density(self, a: Any, x: Any) -> Any:
        return jax.scipy.stats.norm.logpdf(a, self.mean(x), self.scale).sum()


class OfVectors:
    """A map that JAX can trace, by an array of its own."""

    def __init__(self, a: jax.Array) -> None:
        self.a, self.shape, self.dtype, self.traces = a, a.shape, a.dtype, 0

    def matvec(self, x: jax.Array) -> jax.Array:
        self.traces += 1
        return self.a @ x

    def rmatvec(self, x: jax.Array) -> jax.Array:
        return self.a.T @ x


def host(a: np.ndarray) -> tuple[Any, list[Any]]:
    operator = aslinearoperator(a)
    return operator, [operator, a]


def traceable(a: np.ndarray) -> tuple[Any, list[Any]]:
    operator = OfVectors(jnp.asarray(a))
    return operator, [operator, operator.a]


def functions(a: np.ndarray) -> tuple[Any, list[Any]]:
    array = jnp.asarray(a)
    pair = (lambda g: array @ g, lambda f: array.T @ f)
    return (*pair, a.shape, a.dtype), [array, *pair]


def methods(a: np.ndarray) -> tuple[Any, list[Any]]:
    operator = OfVectors(jnp.asarray(a))
    pair = (operator.matvec, operator.rmatvec)
    return (*pair, a.shape, a.dtype), [operator, operator.a]


def whole(a: np.ndarray) -> tuple[Any, list[Any]]:
    array = jnp.asarray(a)
    return array, [array]


@pytest.mark.slow_cases("methods", "functions", "whole")
@pytest.mark.parametrize("make", [host, traceable, functions, methods, whole])
def test_a_matrix_is_free_after_truncated_svd(make):
    matrix, parts = make(A.copy())
    result, info = cx.solvers.truncated_svd(matrix, 2, key=KEY)
    expected = np.linalg.svd(A, compute_uv=False)[:2]
    np.testing.assert_allclose(result.singular_values, expected, rtol=1e-5)
    left = [weakref.ref(part) for part in parts]
    del matrix, parts
    gc.collect()
    assert [ref() for ref in left] == [None] * len(left)
    assert info.status == "converged"


def test_an_operator_is_free_after_svd_and_certify():
    op: Any = cx.association_operator(cx.contexts.joint(random_table(DTYPE)))
    result, info = cx.svd(op, 2, key=KEY)
    cx.solvers.certify(result, info)
    expected = oracle.singular_values(random_table())[:2]
    np.testing.assert_allclose(result.singular_values, expected, rtol=1e-5)
    left = [weakref.ref(part) for part in (op, op.joint, op.p_x)]
    del op
    gc.collect()
    assert [ref() for ref in left] == [None] * 3


def test_a_function_of_a_context_is_free_after_its_functions_were_extended():
    """One that no program is to keep for the next context of the same structure."""

    context = Noise(jnp.ones(2, DTYPE), lambda x: x + 1)
    x = jnp.zeros((4, 2), DTYPE)
    op = cx.operators.monte_carlo_operator(context, x, 20, key=KEY)
    g = jnp.ones((20, 1), DTYPE)
    found = cx.operators.monte_carlo_expectation(op, context, x, g)
    np.testing.assert_allclose(found, 1, rtol=1e-5)
    left = weakref.ref(context.mean)
    del context
    gc.collect()
    assert left() is None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["p_x", "p_a"],
    meta_fields=["move"],
)
@dataclasses.dataclass(frozen=True)
class Moved(cx.operators.AssociationOperator):
    """Independent X and A, by a function that is part of the structure."""

    p_x: Any
    p_a: Any
    move: Any

    def _matmat(self, g: Any) -> Any:
        return self.move(self.p_a @ g)[None, :] + jnp.zeros((len(self.p_x), 1), DTYPE)


def with_a_function() -> tuple[Any, Any]:
    def move(mean: Any) -> Any:
        return mean

    law = jnp.full((3,), 1 / 3, DTYPE)
    dense = cx.association_operator(cx.contexts.joint(np.eye(3, dtype=DTYPE)))
    chain = cx.operators.compose(Moved(law, law, move), dense)
    np.testing.assert_allclose(chain.matmat(jnp.eye(3, dtype=DTYPE)), 1 / 3, rtol=1e-5)
    return chain, move


def with_scores_of_a_function() -> tuple[Any, Any]:
    @pytree_dataclass
    class Told(cx.contexts.Rbf):
        tell: Any = static_field(default=None)

    def tell() -> None: ...

    known = cx.contexts.rbf(np.arange(4.0)[:, None].astype(DTYPE))
    fields = {f.name: getattr(known, f.name) for f in dataclasses.fields(known)}
    context = Told(**fields, tell=tell)
    g = jnp.eye(4, dtype=DTYPE)
    found = cx.operators.conditional_expectation(context, g)
    expected = cx.association_operator(known).as_matrix()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    op = cx.association_operator(context)
    np.testing.assert_allclose(op.matmat(g), expected, rtol=1e-5)
    np.testing.assert_allclose(context.table() * 4, expected, rtol=1e-5)
    return context, tell


@pytest.mark.slow_cases("with_scores_of_a_function")
@pytest.mark.parametrize("make", [with_a_function, with_scores_of_a_function])
def test_a_static_function_is_free_after_products(make):
    """As above: neither the products of an operator nor those at new inputs keep it."""
    owner, function = make()
    left = weakref.ref(function)
    del owner, function
    gc.collect()
    assert left() is None


@pytest.mark.slow
def test_a_map_that_lives_compiles_once():
    operator, _ = traceable(A)
    first, _ = cx.solvers.truncated_svd(operator, 2, key=KEY)
    traces = operator.traces
    again, _ = cx.solvers.truncated_svd(operator, 2, key=KEY)
    assert operator.traces == traces
    np.testing.assert_array_equal(first.left, again.left)


@pytest.mark.slow
def test_what_a_gradient_went_through_is_free():
    def total(a):
        found, _ = cx.solvers.truncated_svd(
            (lambda g: a @ g, lambda f: a.T @ f, a.shape, a.dtype), 2, key=KEY
        )
        return found.singular_values.sum()

    array = jnp.asarray(A)
    gradient = jax.grad(total)(array)
    u, _, vh = np.linalg.svd(A)
    np.testing.assert_allclose(gradient, u[:, :2] @ vh[:2], atol=1e-4)
    left = [weakref.ref(part) for part in (array, total)]
    del array, total
    gc.collect()
    assert [ref() for ref in left] == [None, None]


@pytest.mark.slow
def test_a_map_made_on_the_spot_serves_a_program_that_outlives_it():
    @jax.jit
    def values(key):
        operator, _ = host(A)
        return cx.solvers.truncated_svd(operator, 2, key=key)[0].singular_values

    expected = np.linalg.svd(A, compute_uv=False)[:2]
    for _ in range(2):
        gc.collect()
        np.testing.assert_allclose(values(KEY), expected, rtol=1e-5)
