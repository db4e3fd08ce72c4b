"""Alignment with exact functions, beside chance; clusters; CKA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests.conftest import X64
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(3)


@pytest.mark.slow
def test_alignment_of_the_truth_with_itself_is_perfect_and_chance_is_not():
    rng = np.random.default_rng(7)
    op = cx.association_operator(
        cx.contexts.rbf(rng.normal(size=(60, 2)).astype(DTYPE), gamma=0.5)
    )
    exact, _ = cx.svd(op, 5, key=KEY)
    found = cx.evaluation.alignment(
        exact.left[:, :4], exact, op, key=KEY, num_neighbors=5, num_shuffles=9
    )
    for name in ("cca", "mutual_knn", "cka", "ratio_trace"):
        measured = getattr(found, name)
        assert measured.value == pytest.approx(1, abs=1e-4), name
        assert measured.null.estimate <= measured.null.upper < 0.6, name
    assert found.clusters[0][0] == 0
    np.testing.assert_allclose(found.cluster_cosines, 1, atol=1e-4)


@pytest.mark.slow
def test_clusters_are_compared_as_spans():
    assert cx.evaluation.clusters([0.9, 0.5, 0.495, 0.2], gap=0.01) == [
        (0, 1),
        (1, 3),
        (3, 4),
    ]
    rng = np.random.default_rng(8)
    functions = np.linalg.qr(rng.normal(size=(30, 4)))[0].astype(DTYPE)
    turned = functions.copy()
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    turned[:, 1:3] = functions[:, 1:3] @ turn
    found = cx.evaluation.cluster_cosines(turned, functions, [(0, 1), (1, 3), (3, 5)])
    np.testing.assert_allclose(found, [1, 1], atol=tol(DTYPE, factor=20))
    apart = cx.evaluation.cluster_cosines(turned, functions, [(1, 2), (2, 3)])
    np.testing.assert_allclose(apart, np.cos(1.0) ** 2, atol=tol(DTYPE, factor=20))


def test_cka_sees_rotations_as_equal_and_scales_as_different():
    rng = np.random.default_rng(9)
    a = rng.normal(size=(40, 3)).astype(DTYPE)
    q = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(DTYPE)
    cka = jax.jit(cx.evaluation.cka)
    assert cka(a, 5 * a @ q + 1) == pytest.approx(1, abs=1e-5)
    stretched = a * np.array([1, 10, 100], DTYPE)
    centred = [z - z.mean(axis=0) for z in (a, stretched)]
    grams = [z @ z.T for z in centred]
    expected = (grams[0] * grams[1]).sum() / np.prod([np.linalg.norm(g) for g in grams])
    assert cka(a, stretched) == pytest.approx(expected, abs=1e-5)
    assert cka(a, jnp.ones_like(a)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("offset", [3e3, 1e5])
def test_what_is_far_from_0_is_judged_by_how_it_varies(offset):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 2000)
    slots = np.stack([group, group, group, group, 1 - group], 1)
    op = cx.association_operator(cx.contexts.neighbors(slots, num_points=2))
    # Whole numbers, which float32 holds at either place.
    near = np.column_stack([group, rng.integers(0, 9, 2000)]).astype(np.float32)
    far = near + np.float32(offset)
    rtol = tol(np.float32, size=2000)
    for judge in (
        lambda x: cx.evaluation.rayleigh_ritz(x, op, rank=1).singular_values,
        lambda x: cx.evaluation.ratio_trace(x, op),
        lambda x: cx.evaluation.compatibility(x, op),
        lambda x: cx.evaluation.cca(near, x),
        lambda x: cx.evaluation.cka(near, x),
    ):
        np.testing.assert_allclose(judge(far), judge(near), rtol=rtol)
    with pytest.raises(ValueError, match="constant column"):
        cx.evaluation.compatibility(np.full(2000, offset + 0.1, np.float32), op)
