"""Spans of a perturbed context: the bound beside what is known, or solved anew."""

from typing import Any

import jax
import numpy as np
import pytest

import contexture_jax as cx
from tests.conftest import X64
from tests.tolerances import tol

pytestmark = pytest.mark.skipif(not X64, reason="tolerances are those of float64")

RNG = np.random.default_rng(5)
KEY = jax.random.key(5)
N, S = 24, np.array([0.9, 0.897, 0.5, 0.2])
# Orthonormal functions of mean 0 under the uniform law.
FUNCTIONS = (
    np.sqrt(N)
    * np.linalg.qr(np.column_stack([np.ones(N), RNG.normal(size=(N, 9))]))[0][:, 1:]
)
UNIFORM = np.full(N, 1 / N)


def operator(left: Any) -> cx.operators.LowRankOperator:
    return cx.operators.low_rank_operator(left * S, FUNCTIONS[:, 5:9], UNIFORM, UNIFORM)


def solved(op: Any, rank: int = 4) -> Any:
    return cx.svd(op, rank, key=KEY, method="exact")[0]


OP = operator(FUNCTIONS[:, :4])
OLD = solved(OP)


@pytest.mark.slow
def test_a_function_that_turns_is_bounded_and_the_others_do_not_move():
    angle = 0.05
    turned = FUNCTIONS[:, :4].copy()
    turned[:, 2] = np.cos(angle) * turned[:, 2] + np.sin(angle) * FUNCTIONS[:, 4]
    new_op = operator(turned)
    found = cx.evaluation.perturbation_bound(OLD, OP, new_op, key=KEY)
    assert found.clusters == [(0, 2), (2, 3), (3, 4)]
    sines = np.asarray(found.sines)
    assert np.sin(angle) <= sines[1] < 1.4 * np.sin(angle)
    assert max(sines[0], sines[2]) < tol(np.float64, factor=100)
    assert found.is_vacuous == [False, False, False]
    # ‖E‖ of a rotation by t in a plane is s² sin t.
    norm = 0.25 * np.sin(angle)
    assert norm <= found.distance < 1.3 * norm
    assert np.sin(angle) <= found.leading[1] < 1.5 * np.sin(angle)
    assert (np.asarray(found.lower) <= S + 1e-12).all()
    assert (np.asarray(found.upper) >= S - 1e-12).all()
    np.testing.assert_allclose(found.lower, S, atol=0.01)
    same = cx.evaluation.perturbation_bound(OLD, OP, OP, key=KEY)
    assert np.asarray(same.sines).max() < tol(np.float64, factor=100)


@pytest.mark.slow
def test_where_the_gap_closes_it_says_nothing():
    swapped = FUNCTIONS[:, [0, 1, 3, 2]]
    found = cx.evaluation.perturbation_bound(OLD, OP, operator(swapped), key=KEY)
    assert found.is_vacuous == [False, True, True]
    # The first two stay, and so do all four together.
    assert max(found.sines[0], found.leading[2]) < tol(np.float64, factor=1000)


@pytest.mark.slow
def test_the_bounds_hold_on_random_tables():
    is_told = []
    for size in (0.003, 0.01, 0.03, 0.1):
        for _ in range(2):
            table = RNG.gamma(0.4, size=(20, 12)) + 0.01
            table /= table.sum(axis=1, keepdims=True)
            other = table * np.exp(size * RNG.normal(size=table.shape))
            op, new_op = (
                cx.association_operator(cx.contexts.conditional(t))
                for t in (table, other)
            )
            old, new = solved(op, 5), solved(new_op, 5)
            found = cx.evaluation.perturbation_bound(old, op, new_op, key=KEY)
            values = np.asarray(new.singular_values)
            assert (np.asarray(found.lower) <= values + 1e-9).all()
            assert (np.asarray(found.upper) >= values - 1e-9).all()
            kernels = [cx.operators.symmetrised_matrix(o) for o in (op, new_op)]
            apart = np.subtract(*(np.asarray(k @ k.T) for k in kernels))
            norm = np.linalg.norm(apart, 2)
            assert norm <= found.distance < 1.35 * norm
            ranges = [*found.clusters, *((0, end) for _, end in found.clusters)]
            bounds = np.concatenate([found.sines, found.leading])
            for (i, j), bound in zip(ranges, bounds, strict=True):
                # As principal_angles, which compiles for each pair of shapes.
                f, g = (np.sqrt(op.p_x)[:, None] * r.left[:, i:j] for r in (old, new))
                assert np.linalg.norm(g - f @ (f.T @ g), 2) <= bound + 1e-9
                is_told.append(bound < 1)
    assert 0.2 < np.mean(is_told) < 1


def test_contexts_of_other_rows_are_refused():
    few = cx.association_operator(cx.contexts.joint(np.ones((3, 3)) + np.eye(3)))
    with pytest.raises(ValueError, match="must have the same rows; got 24 and 3"):
        cx.evaluation.kernel_distance(OP, few, key=KEY)
    other = cx.operators.reweight(OP, np.arange(N) + 1.0)
    with pytest.raises(ValueError, match="which span_shift_bound takes"):
        cx.evaluation.perturbation_bound(OLD, OP, other, key=KEY)
