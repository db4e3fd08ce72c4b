"""Weights that are found, against all that there are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.ranking import criterion_weights, min_max_weights

RNG = np.random.default_rng(2)
P_X = RNG.dirichlet(np.ones(7))
# With one law of X, and of strengths that differ.
PARTS = [
    cx.contexts.conditional(RNG.uniform(size=(7, m)) ** power, P_X)
    for m, power in ((5, 6), (9, 4))
]


def matrix(context: Any) -> np.ndarray:
    op = cx.association_operator(context)
    return np.asarray(cx.operators.symmetrised_matrix(op, deflated=True))


def spectrum(contexts: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and left vectors of the combination that the library makes."""
    u, s, _ = np.linalg.svd(matrix(cx.contexts.convex_combination(contexts, weights)))
    return s, u


@pytest.mark.parametrize("excess", [False, True])
def test_min_max_weights_are_the_best_for_the_worst(excess: bool) -> None:
    found = min_max_weights(PARTS, 2, excess=excess)
    kernels = [m @ m.T for m in map(matrix, PARTS)]
    least = [np.linalg.eigvalsh(k)[-2:].sum() if excess else 2.0 for k in kernels]

    def worst(weight: float) -> float:
        mixed = weight * kernels[0] + (1 - weight) * kernels[1]
        u = np.linalg.eigh(mixed)[1][:, -2:]
        held = [np.trace(u.T @ k @ u) for k in kernels]
        return max(np.subtract(least, held))

    grid = [worst(weight) for weight in np.linspace(0, 1, 1001)[1:-1]]
    # No weight of the grid is better, and the next one to the best not much worse.
    assert min(grid) - 2e-3 < found.score < min(grid) + 1e-5
    # Rounds have ended by themselves.
    assert len(found.tried) < 30
    assert worst(found.weights[0]) == pytest.approx(found.score, rel=1e-9)
    assert found.score == found.scores.min() < found.scores[0]


def test_the_weakest_context_takes_all_weight_by_its_loss_alone() -> None:
    weak = cx.contexts.conditional(1 + 0.1 * RNG.uniform(size=(7, 4)), P_X)
    assert min_max_weights([PARTS[0], weak], 2).weights[1] > 0.999
    assert min_max_weights([PARTS[0], weak], 2, excess=True).weights[1] < 0.99


def test_a_criterion_sees_the_spectrum_of_each_combination() -> None:
    seen = []

    def second(s: np.ndarray, left: np.ndarray) -> float:
        seen.append((s, left))
        return float(s[1])

    found = criterion_weights(PARTS, 3, second, num_steps=2)
    np.testing.assert_allclose(found.tried, [[0.5, 0.5], [0, 1], [1, 0]])
    for weights, (s, left) in zip(found.tried, seen, strict=True):
        values, u = spectrum(PARTS, weights)
        np.testing.assert_allclose(s, values[:3], atol=1e-7)
        # ⟨μ_i, μ_j⟩ and, but for signs, the vectors themselves.
        np.testing.assert_allclose((left.T * P_X) @ left, np.eye(3), atol=1e-7)
        cosines = np.abs((u[:, :3] * (np.sqrt(P_X)[:, None] * left)).sum(axis=0))
        np.testing.assert_allclose(cosines, 1, atol=1e-7)
    best = np.argmin(found.scores)
    assert (found.weights == found.tried[best]).all()
    assert found.score == found.scores[best] == seen[best][0][1]


def test_a_criterion_may_abstain_and_ties_are_even() -> None:
    found = criterion_weights(PARTS, 2, lambda s, _: np.nan if s[0] > 0.9 else 1.0)
    told = np.flatnonzero(~np.isnan(found.scores))
    assert (found.weights == found.tried[told[0]]).all()
    even = criterion_weights(PARTS, 2, lambda *_: 1.0)
    np.testing.assert_allclose(even.weights, [0.5, 0.5])


@pytest.mark.slow
def test_large_parts_go_block_by_block() -> None:
    part = cx.contexts.conditional(RNG.uniform(size=(300, 6)) ** 3)
    seen = []
    criterion_weights([part], 5, lambda s, _: seen.append(s) or 1.0)
    np.testing.assert_allclose(seen[0], spectrum([part], [1])[0][:5], atol=1e-7)


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="rank must be between 1 and 6; got 7"):
        min_max_weights(PARTS, 7)
    with pytest.raises(ValueError, match="it gave none for 5"):
        criterion_weights(PARTS, 2, lambda *_: np.nan)
    with pytest.raises(
        ValueError, match=r"^criterion_weights takes contexts of the same"
    ):
        criterion_weights([PARTS[0], cx.contexts.labels([0, 1])], 2, lambda *_: 1.0)
    with pytest.raises(
        TypeError, match=r"^min_max_weights takes a list, as min_max_we"
    ):
        min_max_weights(PARTS[0], 2)  # pyright: ignore
    with pytest.raises(TypeError, match=r"^min_max_weights needs at least one context"):
        min_max_weights([], 2)
    with pytest.raises(TypeError, match="must be concrete"):
        jax.jit(lambda t: min_max_weights([cx.contexts.joint(t)], 1))(jnp.eye(3))
