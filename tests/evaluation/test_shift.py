"""Risks of other laws from a sample of losses, and contextures under another P_X."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.operators import reweight
from tests.conftest import X64
from tests.tolerances import MONTE_CARLO_SIGMAS, promised, tol

DTYPE = np.float64 if X64 else np.float32
KEY = jax.random.key(3)
FLIP = 0.1
near = functools.partial(np.testing.assert_allclose, rtol=0, atol=promised(DTYPE))


def solve(op: cx.AssociationOperator, rank: int) -> Any:
    return cx.svd(op, rank, key=KEY, method="exact")[0]


@pytest.mark.slow
def test_risks_of_a_sample_are_those_of_the_losses():
    values = np.random.default_rng(0).exponential(size=40).astype(DTYPE)
    groups, weights = np.arange(40) % 3, np.arange(40.0)
    found: Any = cx.evaluation.shifted_risks(
        values,
        key=KEY,
        alphas=[0.1, 1.0],
        radii=[0.5],
        trim=0.1,
        groups=groups,
        weights=weights,
        num_replicates=60,
    )
    sure = functools.partial(cx.losses.cvar, trim=0.1, weights=weights)
    ball = cx.losses.chi_squared_dro(values, 0.5, trim=0.1, weights=weights)
    plug_in = [sure(values, 0.1), sure(values, 1.0), ball]
    lower, upper, estimate = (
        np.concatenate([getattr(part, end) for part in (found.cvar, found.chi_squared)])
        for end in ("lower", "upper", "estimate")
    )
    np.testing.assert_allclose(estimate, plug_in, rtol=tol(DTYPE))
    assert ((lower < estimate) & (estimate < upper)).all()
    by_group = [
        np.average(values[groups == g], weights=weights[groups == g]) for g in range(3)
    ]
    np.testing.assert_allclose(
        found.worst_group.estimate, max(by_group), rtol=tol(DTYPE)
    )
    # No bias is taken off means, which have none.
    mean = np.average(values, weights=weights)
    parts = zip((found.mean, found.groups), (mean, by_group), strict=True)
    for part, expected in parts:
        np.testing.assert_allclose(part.estimate, expected, rtol=tol(DTYPE))
        middle = (np.asarray(part.lower) + part.upper) / 2
        np.testing.assert_allclose(middle, expected, rtol=tol(DTYPE))
    with pytest.raises(ValueError, match="the mass of groups must be positive"):
        cx.evaluation.shifted_risks(values, key=KEY, groups=2 * groups)


@pytest.mark.slow
def test_intervals_hold_the_risks_of_the_law_as_often_as_they_say():
    """Exponential losses: CVaR is 1 − log α, the χ² risk 2 + log((1 + ρ) / 2)."""
    num, level, alpha, radius = 300, 0.9, 0.2, 2.0
    means = np.array([1.0, 1.0, 1.0])

    @jax.jit
    def run(keys):
        def once(key):
            first, second = jax.random.split(key)
            losses = jax.random.exponential(first, (600,), DTYPE)
            found: Any = cx.evaluation.shifted_risks(
                losses,
                key=second,
                alphas=[alpha],
                radii=[radius],
                groups=jnp.arange(600) % 3,
                num_groups=3,
                num_replicates=100,
                level=level,
            )
            truths = (1.0, 1 - np.log(alpha), 2 + np.log((1 + radius) / 2), means.max())
            parts = (found.mean, found.cvar, found.chi_squared, found.worst_group)
            return [
                jnp.all((part.lower <= truth) & (truth <= part.upper))
                for part, truth in zip(parts, truths, strict=True)
            ]

        return jax.lax.map(once, keys)

    covered = np.array(run(jax.random.split(KEY, num))).mean(axis=1)
    slack = MONTE_CARLO_SIGMAS * np.sqrt(level * (1 - level) / num)
    assert (covered > level - slack).all(), covered
    # Three groups of one mean: a band is conservative for the largest.
    assert (covered[:3] < level + slack).all(), covered


def bits(probability: float) -> tuple[Any, Any, np.ndarray]:
    """Three bits that are flipped, and the first of them with another law."""
    context = cx.zoo.binary_symmetric(3, FLIP)
    points = np.asarray(context.inputs())
    points = (points > points.mean()).astype(int)
    first = points[:, 0]
    op = cx.association_operator(cx.contexts.joint(np.asarray(context.table(), DTYPE)))
    weights = np.where(first == 1, probability, 1 - probability)
    return op, reweight(op, weights), points


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.8, 0.97])
def test_a_bit_of_another_law_moves_the_spans_that_it_should(probability):
    op, new_op, points = bits(probability)
    c, q = 1 - 2 * FLIP, probability
    of_a = q * (1 - FLIP) + (1 - q) * FLIP
    s = c * np.sqrt(q * (1 - q) / (of_a * (1 - of_a)))
    old, new = solve(op, 7), solve(new_op, 7)
    exact = sorted([c, c, s, c * c, c * s, c * s, c * c * s], reverse=True)
    near(new.singular_values, exact)
    near(sorted(set(np.round(np.asarray(new_op.p_a), 5)))[-1], of_a / 4, atol=1e-5)
    product = (points[:, 1] == points[:, 2]).astype(DTYPE)
    keeps = s > c * c
    for target, held in ((points[:, 0].astype(DTYPE), 1.0), (product, 0.0)):
        found: Any = cx.evaluation.contexture_shift(old, new, new_op, 3, target=target)
        near(found.held, held)
        near(found.reached, held if keeps else 1 - held)
        near(found.lost, 0 if keeps else 1 - 2 * held)
    # Where the first bit is told worse than two others together, it is out.
    assert found.clusters == [(0, 2), (2, 3)]
    root = np.sqrt(promised(DTYPE))
    near(found.cluster_angles[0], 0, atol=root)
    near(found.cluster_angles[1], 0 if keeps else np.pi / 2, atol=root)
    near(found.angles, [0, 0, 0 if keeps else np.pi / 2], atol=root)
    known = cx.evaluation.span_shift_bound(
        old, new_op, 3, next_value=new.singular_values[3]
    )
    assert known.is_vacuous != keeps
    assert known.sine < root or not keeps
    # From the old spectrum alone neither is known.
    assert cx.evaluation.span_shift_bound(old, new_op, 3).is_vacuous


@pytest.mark.slow
def test_labels_are_the_contexture_of_every_law():
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    op = cx.association_operator(cx.contexts.labels(labels))
    new_op = reweight(op, np.arange(7.0))  # one row has no mass
    near(new_op.p_a, np.bincount(labels, np.arange(7) / 21), atol=1e-6)
    old, new = solve(op, 2), solve(new_op, 2)
    near(new.singular_values, 1, atol=1e-5)
    found: Any = cx.evaluation.contexture_shift(
        old, new, new_op, target=1.0 * (labels == 1)
    )
    near(found.angles, 0, atol=1e-3)
    near(found.held, 1, atol=1e-5)
    bound = cx.evaluation.span_shift_bound(old, new_op, next_value=0.0)
    assert bound.sine < 1e-3


def test_bounds_hold_for_any_table_and_exact_products_move_with_the_law():
    rng = np.random.default_rng(0)
    n, m, d = 6, 5, 2

    @jax.jit
    @jax.vmap
    def moved(table, weights):
        op = cx.association_operator(cx.contexts.joint(table))
        new_op = reweight(op, weights)
        direct = cx.association_operator(cx.contexts.joint(weights[:, None] * table))
        old, new = solve(op, m - 1), solve(new_op, m - 1)
        blocks = jnp.eye(n, dtype=table.dtype)
        gap = jnp.abs(new_op.rmatmat(blocks) - direct.rmatmat(blocks)).max()
        gap = gap + jnp.abs(new_op.p_a - direct.p_a).max()
        bound = cx.evaluation.span_shift_bound(old, new_op, d)
        known = cx.evaluation.span_shift_bound(
            old, new_op, d, next_value=new.singular_values[d]
        )
        left = old.left[:, :d]
        left = left - jnp.sum(new_op.p_x[:, None] * left, axis=0, keepdims=True)
        angle = cx.evaluation.principal_angles(left, new.left[:, :d], new_op.p_x)[-1]
        return gap, bound, known, jnp.sin(angle), new.singular_values

    strengths = rng.permuted(np.linspace(0.02, 3, 60))
    weights = np.exp(strengths[:, None] * rng.normal(size=(60, n)))
    tables = rng.exponential(size=(60, n, m)) ** 3
    gap, bound, known, sine, s = moved(tables.astype(DTYPE), weights.astype(DTYPE))
    assert gap.max() < tol(DTYPE, size=10)
    slack = promised(DTYPE)
    for either, at_least in ((bound, 5), (known, 20)):
        assert (sine <= either.sine + slack).all()
        assert (either.sine < 1).sum() >= at_least
        assert (either.sine < 1).sum() <= 55
    assert (known.sine <= bound.sine + slack).all()
    assert (s <= bound.upper + slack).all()
    assert (s >= bound.lower - slack).all()


@pytest.mark.slow
def test_what_is_no_reweighting_is_refused():
    op = cx.association_operator(cx.contexts.joint([[3, 1], [1, 3], [1, 1]]))
    old = solve(op, 1)
    with pytest.raises(TypeError, match=r"operators\.reweight|ReweightedOperator"):
        cx.evaluation.span_shift_bound(old, op)  # pyright: ignore
    with pytest.raises(ValueError, match="a triple beyond the span"):
        cx.evaluation.span_shift_bound(old, reweight(op, np.ones(3)))
    with pytest.raises(ValueError, match="weights must have length 3; got 2"):
        reweight(op, np.ones(2))
    new_op, target = reweight(op, [1, 1, 0]), [1.0, 1.0, 5.0]
    new = solve(new_op, 1)
    with pytest.raises(ValueError, match="target must vary"):
        cx.evaluation.contexture_shift(old, new, new_op, target=target)
