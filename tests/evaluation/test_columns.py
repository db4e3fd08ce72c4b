"""The criterion that takes a target for one more column: what it sees, and does not."""

import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax import evaluation

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4)).astype(np.float32)


def functions(context, rank):
    op = cx.association_operator(context)
    p = np.asarray(op.matmat(np.eye(len(X), dtype=np.float32)))
    p_a = p.mean(axis=0)
    m = (p - p_a) / np.sqrt(len(X) * p_a)
    u, _, _ = np.linalg.svd(m)
    return (u[:, :rank] * np.sqrt(len(X))).astype(np.float32)


def test_errors_are_those_of_each_column_pooled_by_variance():
    mu = functions(cx.contexts.rbf(X, gamma=0.3), 6)
    found = evaluation.column_errors(X * [1, 1, 1, 5], mu, ridges=(0.1,))
    each = [evaluation.leave_one_out_errors(c, mu, ridges=(0.1,)) for c in X.T]
    shares = X.var(axis=0) * [1, 1, 1, 25]
    expected = np.average(each, axis=0, weights=shares)
    np.testing.assert_allclose(found.errors, expected, rtol=1e-4)
    assert found.least == found.errors.min()
    assert found.errors[found.best_dim - 1] == found.least


@pytest.mark.slow
def test_both_extremes_are_worse_than_what_lies_between():
    def least(gamma):
        mu = functions(cx.contexts.rbf(X, gamma=gamma), 3 if gamma < 1e-2 else 30)
        return evaluation.column_errors(X, mu)

    # Of three functions at most three columns of four are told.
    weak, between, strong = least(1e-3), least(0.1), least(1e4)
    assert between.least < weak.least < strong.least
    assert bool(strong.abstains)
    assert not bool(between.abstains)


def test_a_target_unlike_the_columns_is_not_seen():
    # Two rings: the columns are told by functions that know nothing of the ring.
    angle, ring = RNG.uniform(0, 2 * np.pi, 80), np.arange(80) % 2
    x = (1 + ring[:, None]) * np.c_[np.cos(angle), np.sin(angle)]
    q, _ = np.linalg.qr(x - x.mean(axis=0))
    mu = (q * np.sqrt(80)).astype(np.float32)
    assert evaluation.column_errors(x, mu).least < 1e-3
    assert evaluation.leave_one_out_errors(ring, mu, ridges=(0.1,)).min() > 0.9


def test_columns_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="must have 80 rows"):
        evaluation.column_errors(X[:9], functions(cx.contexts.rbf(X), 3))
