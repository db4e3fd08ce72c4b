"""Contexts beside those of distances: columns, teachers, SCARF, mixtures."""

from typing import Any

import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.ranking import (
    ContextSpec,
    NamedContext,
    RidgeProbe,
    _kinds,
    best_of_types,
    column_family,
    mixture_family,
    quantile_codes,
    rank_contexts,
    scarf_family,
    teacher_family,
)

RNG = np.random.default_rng(1)
X = RNG.normal(size=(48, 3))
CLASSES = (X[:, 0] > 0).astype(np.int64)
KNN, RBF = ContextSpec("knn", 7), ContextSpec("rbf", 0.4)


def ranked(specs: Any, **options: Any) -> list[Any]:
    # Of any type: each field may be None.
    return rank_contexts(X, specs, max_dim=8, tol=1e-3, **options)


def test_classes_determine_a_column_and_numbers_have_neighbors() -> None:
    (labels,) = column_family(CLASSES, "sign")
    near = column_family(X[:, 1], "height", 3)
    rows = ranked([labels, *near])
    assert (labels.type, labels.name) == ("labels", "labels-sign")
    assert rows[0].chi_squared == pytest.approx(1, rel=1e-4)
    assert [spec.params["num_neighbors"] for spec in near] == [2, 7, 24]
    knn = ranked([NamedContext("own", cx.contexts.knn(X[:, 1:2].astype("f4"), 7))])
    assert rows[2].chi_squared == pytest.approx(knn[0].chi_squared, rel=1e-4)


def test_scarf_by_drawing_is_near_its_exact_law() -> None:
    codes = np.stack([quantile_codes(X[:, 0], 2), quantile_codes(X[:, 1], 3)], axis=1)
    specs = scarf_family(codes, 3)
    assert [spec.params["rate"] for spec in specs] == [0.1, 0.5, 0.9]
    (row,) = ranked(specs[1:2])
    # P⁺(a|x) over all rows that there may be.
    law = np.ones((len(X), 1))
    for column in codes.T:
        own = np.eye(column.max() + 1)[column]
        part = 0.5 * own + 0.5 * own.mean(axis=0)
        law = (law[:, :, None] * part[:, None]).reshape(len(X), -1)
    exact = (law**2 / law.mean(axis=0)).sum() / len(X) - 1
    # Four draws of each row.
    assert row.chi_squared == pytest.approx(exact, rel=0.1)


def test_few_values_keep_theirs_and_many_are_told_to_levels() -> None:
    assert quantile_codes([3.0, 1.0, 3.0, 2.0]).tolist() == [2, 0, 2, 1]
    codes = quantile_codes(np.arange(40.0))
    assert np.bincount(codes).tolist() == [10, 10, 10, 10]


@pytest.mark.slow
def test_mixtures_are_those_of_the_algebra() -> None:
    specs = mixture_family([KNN, RBF], X)
    assert [spec.type for spec in specs] == [*["convex"] * 3, *["convolve"] * 2, "join"]
    assert specs[0].params["weights"] == [0.25, 0.75]
    x = X.astype(np.float32)
    parts = [cx.contexts.knn(x, 7), cx.contexts.rbf(x, 0.4)]
    expected = [
        NamedContext("one", cx.contexts.convex_combination(parts, [0.25, 0.75])),
        NamedContext("two", cx.contexts.convolve(*parts[::-1])),
        NamedContext("three", cx.contexts.join(parts)),
    ]
    found = ranked([specs[i] for i in (0, 4, 5)])
    for row, own in zip(found, ranked(expected), strict=True):
        assert row.chi_squared == pytest.approx(own.chi_squared, rel=1e-4)
    assert len(mixture_family([KNN, RBF, ContextSpec("knn", 3)], X)) == 18
    # Joins of many tuples, and all that has a drawn part, are estimates.
    parts = [KNN, *scarf_family(np.arange(60)[:, None] % 3, 1)]
    told = {s.type: s.params.get("num_draws") for s in mixture_family(parts, X)}
    assert told == dict.fromkeys(("convex", "convolve", "join"), 240)
    assert "num_draws" not in specs[-1].params
    many = mixture_family([KNN, RBF], np.zeros((400, 2)))
    assert [s.params.get("num_draws") for s in many[-2:]] == [None, 1600]


def test_a_large_join_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = mixture_family([KNN, RBF], X)[-1]
    (exact,) = ranked([spec])
    monkeypatch.setattr(_kinds, "_MOST_TUPLES", 0)
    monkeypatch.setattr(_kinds, "_DRAWS_OF_A_ROW", 100)
    (drawn,) = ranked([spec])
    assert drawn.chi_squared != exact.chi_squared
    assert drawn.tau == pytest.approx(exact.tau, rel=0.1)


def test_what_cannot_be_mixed_is_a_row_and_the_others_are_done() -> None:
    parts = [KNN, *teacher_family(X, "x")]
    rows = ranked([*parts, *mixture_family(parts, X)])
    failed = [row.spec.type for row in rows if row.status == "failed"]
    assert failed == ["join"]
    assert "that of a teacher is signed" in rows[-1].reason
    assert rows[1].chi_squared == pytest.approx(3, rel=1e-4)


def test_the_best_of_a_type_is_by_error_or_by_columns() -> None:
    specs = [ContextSpec("rbf", gamma) for gamma in (1e-3, 0.4, 40.0)]
    rows = ranked([*specs, KNN], probe=RidgeProbe(CLASSES, num_splits=2))
    errors = [row.probe.validated_error for row in rows[:3]]
    found: list[Any] = best_of_types(rows, ["rbf", "scarf", "knn"])
    best, knn = found
    assert best.probe.validated_error == min(errors)
    assert knn.spec is KNN
    (told,) = best_of_types([row._replace(probe=None) for row in rows], ["rbf"])
    least = [row.least_column_error for row in rows[:3]]
    assert told.least_column_error == min(least) < max(least)
