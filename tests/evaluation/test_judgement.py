"""The judges of a solved context together."""

import jax
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.evaluation import _judgement
from tests.tolerances import tol

E = cx.evaluation
KEY = jax.random.key(0)
RNG = np.random.default_rng(5)
TABLE = RNG.dirichlet(np.full(9, 0.3), size=12).astype(np.float32)
TABLE[4] = 0.0  # a row without weight


@pytest.fixture(scope="module")
def solved():
    op = cx.association_operator(cx.contexts.joint(TABLE))
    return *cx.svd(op, 3, key=KEY), op


def all_values():
    """The values beside the trivial one, by NumPy."""
    p = TABLE.astype(np.float64) / TABLE.sum(dtype=np.float64)
    root = np.sqrt(np.outer(p.sum(axis=1), p.sum(axis=0)))
    scaled = np.divide(p, root, out=np.zeros_like(p), where=root > 0)
    return np.linalg.svd(scaled, compute_uv=False)[1:].astype(np.float32)


def rho_of(f):
    """√(Var E[f | A] / Var f) under the table."""
    p = TABLE.astype(np.float64) / TABLE.sum(dtype=np.float64)
    p_x, p_a = p.sum(axis=1), p.sum(axis=0)
    centred = f - p_x @ f
    expected = centred @ p / p_a
    return np.sqrt(p_a @ expected**2 / (p_x @ centred**2))


def test_values_are_counted_by_the_rows_and_columns_that_have_weight(solved):
    _, _, op = solved
    assert E.num_singular_values(op) == 8
    narrow = cx.contexts.joint(TABLE[:5])
    assert E.num_singular_values(cx.association_operator(narrow)) == 3


def test_a_small_table_is_judged_by_all_its_values(solved, monkeypatch):
    result, info, op = solved
    every = all_values()
    judged = E.judge_spectrum(result, info, op)
    tau = E.usefulness(every, complete=True).tau
    assert judged.bounds is not None
    assert judged.usefulness is not None
    assert judged.bounds.lower == judged.bounds.upper
    slack = tol(np.float32, factor=100)
    np.testing.assert_allclose(judged.bounds.lower, tau, atol=slack)
    head = E.usefulness(result.singular_values)
    np.testing.assert_allclose(judged.usefulness.tau, head.tau, atol=slack)
    assert judged.verdict.association == E.verdict(every, complete=True).association
    monkeypatch.setattr(_judgement, "_SMALL_TABLE", 0)
    bracket = E.judge_spectrum(result, info, op).bounds
    assert bracket is not None
    assert bracket.lower - slack <= tau <= bracket.upper + slack
    assert bracket.lower < bracket.upper


def test_a_single_value_of_several_and_no_association_have_no_tau(solved):
    result, info, op = solved
    values, left, right = result
    one = cx.SVDResult(values[:1], left[:, :1], right[:, :1])
    judged = E.judge_spectrum(one, info, op)
    assert judged.usefulness is None
    assert judged.bounds is not None
    none = cx.SVDResult(values * 1e-7, left, right)
    judged = E.judge_spectrum(none, info, op, num_values=3)
    assert judged.usefulness is judged.bounds is None
    assert judged.decay_rate == np.inf
    assert judged.verdict.association == "too weak"


def test_a_target_is_judged_on_the_rows_that_have_weight(solved):
    result, _, op = solved
    y = RNG.normal(size=12) * 1e30
    y[4] = 1e32
    judged = E.judge_target(y, result.left, op)
    assert judged is not None
    small = np.where(np.arange(12) == 4, 0, y / 1e30)
    p_x = TABLE.sum(axis=1) / TABLE.sum()
    centred = small - p_x @ small
    variance = p_x @ centred**2
    energy = (np.asarray(result.left).T @ (p_x * centred)) ** 2 / variance
    slack = tol(np.float32, factor=1000)
    np.testing.assert_allclose(judged.energy, energy, atol=slack)
    np.testing.assert_allclose(judged.compatibility, rho_of(small), atol=slack)
    assert judged.class_compatibility == {}
    left_out = E.leave_one_out_errors(small, result.left, p_x, ridges=(1.0, 1e-2, 1e-4))
    assert judged.left_out is not None
    np.testing.assert_allclose(judged.left_out, left_out, rtol=slack)
    y[:] = 2.0
    y[4] = 1.0
    assert E.judge_target(y, result.left, op) is None


def test_classes_are_pooled_by_their_variance(solved):
    result, _, op = solved
    y = np.arange(12) % 3
    y[4] = 3
    judged = E.judge_target(y, result.left, op, num_classes=5)
    assert judged is not None
    assert sorted(judged.class_compatibility) == [0, 1, 2]
    each = [judged.class_compatibility[c] for c in range(3)]
    weights = 1 - np.bincount(y, np.asarray(op.p_x))[:3]
    pooled = np.sqrt(weights @ np.square(each) / weights.sum())
    np.testing.assert_allclose(judged.compatibility, pooled, rtol=1e-5)
    slack = tol(np.float32, factor=100)
    np.testing.assert_allclose(each[1], rho_of(y == 1), atol=slack)


@pytest.mark.parametrize(
    ("y", "num_classes", "error", "message"),
    [
        (np.ones(11), None, ValueError, r"y must have shape \(12,\)"),
        (np.full(12, np.nan), None, ValueError, "y must be finite"),
        (np.linspace(0, 1, 12), 3, TypeError, "numbers of classes; got dtype float64"),
        (np.arange(12), 3, ValueError, "between 0 and 2; got 3"),
    ],
)
def test_what_is_no_target_is_refused(solved, y, num_classes, error, message):
    result, _, op = solved
    with pytest.raises(error, match=message):
        E.judge_target(y, result.left, op, num_classes=num_classes)


def test_a_table_that_counts_is_judged_as_a_sample():
    counts = np.array([[30, 5, 0], [8, 40, 0], [0, 0, 0]])
    judged = E.judge_counts(counts, 1, key=KEY, num_replicates=20)
    assert (judged.num_pairs, judged.num_replicates, judged.level) == (83, 20, 0.9)
    interval = judged.spectrum.singular_values
    assert 0.4 < interval.lower[0] < 0.7 < interval.upper[0]
    assert judged.null.p_values[0] == 1 / 21
    with pytest.raises(ValueError, match="counts"):
        E.judge_counts(counts + 0.5, 1, key=KEY)
