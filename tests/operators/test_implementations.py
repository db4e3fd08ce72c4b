"""Products of kernel operators by fused kernels, step by step and as programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import contexture_jax as cx
from contexture_jax.kernels import Implementation, check_implementation

F32 = np.float32
N, R = 40, 3


@pytest.fixture(scope="module")
def op() -> cx.operators.AssociationOperator:
    x = np.random.default_rng(0).normal(size=(N, 2)).astype(F32)
    return cx.association_operator(cx.contexts.rbf(x, gamma=0.5), tile_size=16)


@pytest.fixture(scope="module")
def block() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(N, R)), F32)


def test_step_by_step_it_is_the_same(
    op: cx.operators.AssociationOperator, block: jax.Array
) -> None:
    fused = op.with_implementation("interpret")
    for name in ("matmat", "rmatmat"):
        found, exact = (getattr(o, name)(block) for o in (fused, op))
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)
    s, t = (cx.svd(o, 4, key=jax.random.key(0))[0] for o in (fused, op))
    np.testing.assert_allclose(s.singular_values, t.singular_values, atol=1e-6)


@pytest.mark.slow
def test_over_a_mesh_too(block: jax.Array) -> None:
    x = np.random.default_rng(0).normal(size=(N, 2)).astype(F32)
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    context = cx.contexts.rbf(x, gamma=0.5)
    op = cx.association_operator(context, tile_size=16, mesh=mesh)
    fused = op.with_implementation("interpret")
    for name in ("matmat", "rmatmat"):
        found, exact = (getattr(o, name)(block) for o in (fused, op))
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)


def test_only_a_program_for_a_tpu_has_the_kernel(
    op: cx.operators.AssociationOperator, block: jax.Array
) -> None:
    def program(platform: str, implementation: Implementation) -> str:
        asked = op.with_implementation(implementation)
        product = jax.jit(lambda g: asked.matmat(g))
        return jax.export.export(product, platforms=[platform])(block).mlir_module()

    assert "tpu_custom_call" in program("tpu", "pallas")
    assert "tpu_custom_call" not in program("tpu", "xla")
    assert "custom_call" not in program("cuda", "pallas")
    there = op.with_implementation("pallas").matmat(block)
    np.testing.assert_array_equal(there, op.matmat(block))


def test_what_no_kernel_takes_stays_as_it_is(block: jax.Array) -> None:
    table = np.full((N, N), 1 / N**2, F32)
    op = cx.association_operator(cx.contexts.joint(table))
    same = op.with_implementation("interpret")
    np.testing.assert_array_equal(same.matmat(block), op.matmat(block))


@pytest.mark.parametrize(
    "weighted", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_sums_over_neighbours(block: jax.Array, weighted: bool) -> None:
    x = np.random.default_rng(0).normal(size=(N, 2)).astype(F32)
    context = cx.contexts.knn(x, 5)
    if weighted:
        shares = np.tile(np.array([0.4, 0.3, 0.1, 0.1, 0.1], F32), (N, 1))
        context = dataclasses.replace(context, weights=jnp.asarray(shares))
    op = cx.association_operator(context)
    fused = op.with_implementation("interpret")

    def total(op: cx.operators.AssociationOperator, g: jax.Array) -> jax.Array:
        return jnp.sum(op.matmat(g) ** 2)

    for function in (lambda o, g: o.matmat(g), jax.grad(total, argnums=1)):
        found, exact = (function(o, block) for o in (fused, op))
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)
    product = jax.jit(op.with_implementation("pallas").matmat)
    export = jax.export.export(product, platforms=["tpu"])(block)
    assert "tpu_custom_call" in export.mlir_module()


def test_no_such_implementation(op: cx.operators.AssociationOperator) -> None:
    with pytest.raises(ValueError, match=r"must be one of .*; got 'triton'"):
        check_implementation("triton")
    with pytest.raises((ValueError, TypeCheckError), match="implementation"):
        op.with_implementation("triton")  # pyright: ignore
