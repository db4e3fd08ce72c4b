"""Contexts of one table, solved and judged, against the library's own contexts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import contexture_jax as cx
from contexture_jax.ranking import (
    ContextSpec,
    NamedContext,
    RidgeProbe,
    _eigen,
    _judged,
    _laws,
    _rank,
    _table,
    _triples,
    correlations,
    published_family,
    rank_contexts,
    spectra_of_rows,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(np.int64)
COLUMNS = np.array([0, 1, 2, 2])  # two features are of one column


def ranked(x: np.ndarray, specs: Any, **options: Any) -> list[Any]:
    # Of any type: each field may be None.
    return rank_contexts(x, specs, **options)


def law(spec: ContextSpec, x: np.ndarray = X) -> np.ndarray:
    (gathered,) = _laws.laws([spec], x, COLUMNS, seed=3)
    return gathered / gathered.sum(axis=1, keepdims=True)


def of_library(spec: ContextSpec, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    if spec.kind == "knn":
        context = cx.contexts.knn(x, num_neighbors=int(spec.parameter))
    else:
        context = cx.contexts.rbf(x, gamma=spec.parameter)
    table = np.asarray(context.table())
    return table / table.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("spec", [ContextSpec("knn", 7), ContextSpec("rbf", 0.4)])
def test_laws_are_those_of_contexts(spec: ContextSpec) -> None:
    np.testing.assert_allclose(law(spec), of_library(spec, X), atol=1e-6)


def test_rows_at_one_distance_come_in_order() -> None:
    grid = np.repeat(np.eye(3), 10, axis=0)[:, [0, 1, 2, 0]]
    # Rows without ties, too.
    grid = np.concatenate([grid, X[:20]])
    # With others of the type beside it, up to all rows.
    specs = [ContextSpec("knn", k) for k in (4, 50, 23)]
    for spec, gathered in zip(specs, _laws.laws(specs, grid, COLUMNS, 3), strict=True):
        of_one = gathered / gathered.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(of_one, of_library(spec, grid), atol=1e-6)


def test_no_probability_is_denormal() -> None:
    spec = ContextSpec("rbf", 40.0)
    gathered = _laws.laws([spec], X, COLUMNS, seed=3)
    assert gathered.min() > np.finfo(np.float32).tiny
    np.testing.assert_allclose(law(spec), of_library(spec, X), atol=1e-6)


# Of six features in five columns.
WIDE, FIVE = np.c_[X, 3 * X[:, :2]], np.array([4, 1, 2, 2, 3, 0])


# One column is hidden, two are, which are by an exponential a column, and three.
@pytest.mark.parametrize("hidden", [1, 2, 3])
@pytest.mark.parametrize("kind", ["knn", "rbf"])
def test_a_masked_law_is_the_mean_over_masks_of_columns(kind: Any, hidden: int) -> None:
    spec = ContextSpec(kind, 5, mask_share=hidden / 5, num_masks=7)
    kept = _laws.masks(spec, FIVE, 3)
    assert all(mask[2] == mask[3] for mask in kept)
    assert {len(np.unique(FIVE[~mask])) for mask in kept} == {hidden}
    plain = ContextSpec(kind, 5)
    expected = np.mean([of_library(plain, WIDE[:, mask]) for mask in kept], axis=0)
    (gathered,) = _laws.laws([spec], WIDE, FIVE, seed=3)
    found = gathered / gathered.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("gamma", [1e-3, 0.3, 40.0, 1e4])
def test_exponentials_of_columns_are_those_of_masks(
    gamma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ContextSpec("rbf", gamma, mask_share=0.4, num_masks=9)
    # Far from 0, rows that are alike, and one that is far from all.
    rows = 1e4 + np.concatenate([WIDE, WIDE[:5], 50 + WIDE[:1]])
    (found,) = _laws.laws([spec], rows, FIVE, seed=3)
    monkeypatch.setattr(_laws, "hides_few", lambda *_: False)
    (expected,) = _laws.laws([spec], rows, FIVE, seed=3)
    assert found.min() > np.finfo(np.float32).tiny
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-9)


def test_settings_of_a_type_are_made_together_in_little_memory() -> None:
    specs = published_family(X, 5, num_masks=3)
    assert [len(group) for group in _laws.groups(specs, 60, 10**9)] == [5, 5, 5, 5]
    assert max(map(len, _laws.groups(specs, 60, 2 * 4 * 60**2))) > 2
    assert all(len(group) == 1 for group in _laws.groups(specs, 60, 1))


@pytest.mark.parametrize("mask_share", [0.0, 0.4])
def test_groups_that_share_sorted_distances_have_the_same_laws(
    mask_share: float,
) -> None:
    # Ties, and rows without.
    rows = np.concatenate([np.repeat(np.eye(3), 10, axis=0)[:, [0, 1, 2, 0]], X[:20]])
    num_masks = 7 if mask_share else 1
    specs = [ContextSpec("knn", k, mask_share, num_masks) for k in (23, 4, 50, 50)]
    grouped = [specs[:2], specs[2:3], specs[3:]]
    of_groups = _laws.LawsOfGroups([["other"], *grouped], rows, COLUMNS, 3)
    for group in grouped:
        expected = _laws.laws(group, rows, COLUMNS, 3)
        np.testing.assert_array_equal(of_groups.laws(group), expected)


def test_tau_is_that_of_all_singular_values() -> None:
    spec = ContextSpec("knn", 7)
    (row,) = ranked(X, [spec], max_dim=8)
    p = law(spec) / len(X)
    p_x, p_a = p.sum(axis=1), p.sum(axis=0)
    m = p / np.sqrt(p_x[:, None] * p_a) - np.sqrt(p_x[:, None] * p_a)
    s = np.linalg.svd(m, compute_uv=False)
    expected = cx.evaluation.usefulness(s[:9].astype(np.float32), max_dim=8)
    assert row.tau == pytest.approx(float(expected.tau), rel=1e-5)
    assert row.best_dim == int(expected.best_dim)
    assert row.tau_lower == pytest.approx(row.tau, rel=1e-5)
    assert row.chi_squared == pytest.approx((s**2).sum(), rel=1e-5)
    left = np.linalg.svd(m)[0][:, :9] * np.sqrt(len(X))
    by_columns = cx.evaluation.column_errors(X, left.astype(np.float32))
    at_dim = float(by_columns.errors[row.best_dim - 1])
    assert row.column_error == pytest.approx(at_dim, rel=1e-4)
    assert row.least_column_error == pytest.approx(float(by_columns.least), rel=1e-4)
    assert row.column_dim == int(by_columns.best_dim)
    share = np.cumsum(s**2) / (s**2).sum()
    assert row.energy_dim is None or share[row.energy_dim - 1] >= 0.9
    kernel = p @ np.diag(1 / p_a) @ p.T / p_x[:, None] / p_x
    assert row.deviation == pytest.approx(np.abs(kernel - 1).mean(), rel=1e-5)


def test_all_of_the_energy_is_kept_to_rounding() -> None:
    (row,) = ranked(X, [ContextSpec("knn", 7)], max_dim=60, energy_share=1.0)
    assert row.energy_dim is not None
    assert row.effective_rank < row.energy_dim <= 59


def test_large_tables_give_bounds_that_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ContextSpec("knn", 7)
    (exact,) = ranked(X, [spec], max_dim=8)
    monkeypatch.setattr(_judged, "_EXACT", 0)
    (row,) = ranked(X, [spec], max_dim=8, tol=0.3)
    assert row.tau_lower - 1e-5 <= exact.tau <= row.tau_upper + 1e-5
    assert row.tau_lower < row.tau_upper
    assert row.chi_squared == pytest.approx(exact.chi_squared, rel=1e-4)


@pytest.mark.parametrize(
    "spec",
    [
        ContextSpec("rbf", 0.4),
        # All that counts is soon found.
        ContextSpec("rbf", 1e-3),
        # By their entries: counts of one and of two, and what is not next to nothing.
        ContextSpec("knn", 3),
        ContextSpec("knn", 2, 0.2, 2),
        ContextSpec("rbf", 4.0),
    ],
    ids=lambda spec: spec.name,
)
def test_tables_without_a_kernel_are_the_same(
    spec: ContextSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = RidgeProbe(Y, num_splits=1)
    (exact,) = ranked(X, [spec], max_dim=8, probe=probe)
    monkeypatch.setattr(_judged, "_DENSE", 0)
    # Several parts, the last of them smaller.
    monkeypatch.setattr(_table, "_PART", 16)
    monkeypatch.setattr(_table, "_SPARSE", 2)
    monkeypatch.setattr(_triples, "_WIDTH", 8)
    gathered = _laws.laws([spec], X, COLUMNS, seed=0)[0]
    is_sparse = sparse.issparse(_table.TableMap(gathered)._rows[0])
    assert is_sparse == (spec.kind == "knn" or spec.parameter == 4)
    # To the end, strong as some are.
    monkeypatch.setattr(_rank, "is_too_strong", lambda *_, **__: False)
    (row,) = ranked(X, [spec], max_dim=8, tol=1e-3, probe=probe)
    assert row.status == "converged"
    assert row.tau == pytest.approx(exact.tau, rel=1e-3)
    assert row.tau_lower - 1e-5 <= exact.tau <= row.tau_upper + 1e-5
    # Of values next to 1 the largest may be 1.
    assert row.tau > 100 or row.tau_upper - row.tau_lower < 0.05 * row.tau
    assert row.chi_squared == pytest.approx(exact.chi_squared, rel=1e-4)
    assert row.probe.squared_error == pytest.approx(exact.probe.squared_error, rel=0.05)


def test_a_large_table_that_is_too_strong_is_not_solved_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    specs = [ContextSpec("knn", k) for k in (2, 3, 30)]
    exact = ranked(X, specs, max_dim=8)
    assert [row.association == "too strong" for row in exact] == [True, True, False]
    monkeypatch.setattr(_judged, "_DENSE", 0)
    monkeypatch.setattr(_triples, "_WIDTH", 8)
    rows = ranked(X, specs, max_dim=8, tol=1e-3)
    assert [row.status for row in rows] == ["enough", "enough", "converged"]
    for row, other in zip(rows, exact, strict=True):
        assert row.association == other.association
        assert row.tau_lower - 1e-5 <= other.tau <= row.tau_upper + 1e-5


@pytest.mark.parametrize("tol", [1e-2, 0.9])
@pytest.mark.parametrize("decay", [0.8, 0.99])
def test_values_of_a_large_table_lie_within_their_bounds(
    tol: float, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    u, v = (
        np.linalg.qr(np.c_[np.ones(90), rng.normal(size=(90, 80))])[0][:, 1:]
        for _ in range(2)
    )
    values = 0.95 * decay ** np.arange(80)
    table = 1 + 5.0 * (u * values) @ v.T
    a = _table.TableMap(table.astype(np.float32))
    law = table / table.sum(axis=1, keepdims=True) / 90
    roots = np.sqrt(np.outer(law.sum(axis=1), law.sum(axis=0)))
    exact = np.linalg.svd(law / roots - roots, compute_uv=False)
    assert a.energy == pytest.approx((exact**2).sum(), rel=1e-5)
    monkeypatch.setattr(_triples, "_WIDTH", 8)
    found = _triples.leading_triples(a, 12, tol=tol, seed=0)
    assert (found.lower <= exact[:12]).all()
    assert (exact[:12] <= found.upper).all()
    assert found.status == "converged"
    gram = found.left.T @ found.left
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
    if tol == 1e-2:
        np.testing.assert_allclose(found.values, exact[:12], rtol=1e-4, atol=1e-6)


SPECTRA = {
    "decaying": 0.95 * 0.9 ** np.arange(80),
    "cluster": np.r_[np.full(30, 0.8), np.linspace(0.7, 0.0, 50)],
    "few": np.r_[0.5, 0.4, np.zeros(78)],
}


@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("most", [2, 30])
def test_eigenvalues_lie_within_their_bounds(
    values: np.ndarray, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_eigen, "_MOST_PRODUCTS", most)
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(80, 80)))
    kernel = ((basis * values) @ basis.T).astype(np.float32)
    found = _eigen.leading_eigenpairs(kernel, 12, tol=1e-3, seed=0)
    exact = np.linalg.eigvalsh(kernel.astype(np.float64))[:-13:-1]
    assert (found.lower <= exact).all()
    assert (exact <= found.upper).all()
    if most > 2:
        assert found.is_converged
        # What is next to the last value may be as large.
        np.testing.assert_allclose(found.values, exact, atol=1e-4)
        np.testing.assert_allclose(found.upper[:8], exact[:8], atol=5e-3)
        u = found.vectors
        np.testing.assert_allclose(u.T @ u, np.eye(12), atol=1e-5)


def test_who_has_criteria_of_their_own_is_told_what_was_solved() -> None:
    seen: dict[str, Any] = {}
    specs = [ContextSpec("knn", 7), NamedContext("target", cx.contexts.labels(Y))]
    rows = ranked(
        X, specs, max_dim=8, on_solved=lambda spec, one: seen.update({spec.name: one})
    )
    for row, spec in zip(rows, specs, strict=True):
        one = seen[spec.name]
        assert row.chi_squared == one.chi_squared
        np.testing.assert_allclose(
            one.functions.T @ one.functions / len(X), np.eye(one.functions.shape[1]),
            atol=1e-4,
        )  # fmt: skip


def test_a_context_that_fails_is_a_row_and_the_others_are_done() -> None:
    specs = [ContextSpec("knn", 61), ContextSpec("knn", 5), ContextSpec("rbf", 0.5)]
    rows = ranked(X, specs, max_dim=8)
    assert [row.status for row in rows] == ["failed", "converged", "converged"]
    assert "61 neighbours are more than 60 rows" in rows[0].reason


def test_an_error_in_the_middle_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise MemoryError("no room")

    monkeypatch.setattr("contexture_jax.ranking._laws.laws", broken)
    (row,) = ranked(X, [ContextSpec("knn", 5)], max_dim=8)
    assert (row.status, row.reason) == ("failed", "MemoryError: no room")


def test_tau_that_cannot_tell_abstains_and_is_not_clipped() -> None:
    # Each row nearly its own only neighbour.
    (row,) = ranked(X, [ContextSpec("rbf", 40.0)], max_dim=8)
    assert row.tau > 20
    assert row.abstains
    (weak,) = ranked(X, [ContextSpec("rbf", 1e-3)], max_dim=8)
    assert (weak.abstains, weak.association) == (True, "too weak")


@pytest.mark.slow
def test_contexts_of_other_kinds_are_ranked_beside() -> None:
    x = X.astype(np.float32)
    parts = cx.contexts.knn(x, num_neighbors=7), cx.contexts.rbf(x, gamma=0.4)
    specs = [
        ContextSpec("knn", 7),
        NamedContext("same", parts[0]),
        NamedContext("mixed", cx.contexts.convex_combination(parts), type="mixed"),
        NamedContext("target", cx.contexts.labels(Y)),
        NamedContext("short", cx.contexts.labels(Y[:9])),
    ]
    probe = RidgeProbe(Y, num_splits=2)
    rows = ranked(X, specs, probe=probe, max_dim=8, tol=1e-4)
    assert [row.spec.name for row in rows] == [spec.name for spec in specs]
    assert rows[1].tau == pytest.approx(rows[0].tau, rel=1e-3)
    assert rows[1].chi_squared == pytest.approx(rows[0].chi_squared, rel=1e-3)
    assert rows[0].chi_squared / 2 < rows[2].chi_squared < rows[0].chi_squared
    # The target itself: one function, determined.
    assert (rows[3].best_dim, rows[3].probe.error) == (1, 0)
    assert rows[3].chi_squared == pytest.approx(1, rel=1e-4)
    assert rows[4].status == "failed"
    assert "60 rows" in rows[4].reason


@pytest.mark.parametrize("beside", [True, False])
def test_a_core_each_or_all_for_one_the_same_is_found(
    beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [ContextSpec(kind, p) for kind in ("knn", "rbf") for p in (3, 5, 9, 4)]
    alone = [ranked(X, [spec], max_dim=8)[0].tau for spec in specs]
    monkeypatch.setattr(_rank, "are_solved_beside", lambda *_: beside)
    told: list[tuple[str, Any]] = []
    rows = ranked(
        X,
        specs,
        max_dim=8,
        on_solved=lambda spec, one: told.append((spec.name, one.chi_squared)),
        on_context=lambda row: told.append((row.spec.name, row.chi_squared)),
    )
    assert [row.tau for row in rows] == pytest.approx(alone, rel=1e-6)
    # What was solved comes with its own context, and in order.
    assert told == [(row.spec.name, row.chi_squared) for row in rows for _ in range(2)]


def test_the_run_ends_when_told() -> None:
    specs = [ContextSpec("knn", k) for k in (3, 5, 9)]
    seen = []
    rows = ranked(
        X, specs, max_dim=8, on_context=lambda row: seen.append(row) or len(seen) == 2
    )
    assert [row.spec for row in rows] == specs[:2] == [row.spec for row in seen]


def test_the_published_family_has_four_types_of_35() -> None:
    specs = published_family(RNG.normal(size=(200, 3)))
    assert len(specs) == len({spec.name for spec in specs}) == 140
    types = [spec.type for spec in specs]
    assert {t: types.count(t) for t in types} == {
        "rbf": 35,
        "knn": 35,
        "rbf-mask": 35,
        "knn-mask": 35,
    }
    knn = [spec.parameter for spec in specs if spec.type == "knn"]
    assert (knn[0], knn[-1]) == (2, 100)


def test_few_rows_have_fewer_numbers_of_neighbours() -> None:
    specs = published_family(X[:10], 35)
    assert [s.parameter for s in specs if s.type == "knn"] == [2, 3, 4, 5]


@pytest.mark.parametrize("y", [Y, X[:, 0]])
def test_a_probe_finds_what_its_functions_hold(y: np.ndarray) -> None:
    functions = np.c_[RNG.normal(size=(60, 2)), X[:, :1], RNG.normal(size=(60, 2))]
    errors = RidgeProbe(y, num_splits=3).errors(functions, 2)
    assert errors.error > 0.3
    assert errors.validated_error < 0.2
    assert errors.validated_dim >= 3
    assert errors.validated_squared_error < errors.squared_error
    if y.dtype.kind == "f":
        assert errors.squared_error == errors.error


def test_a_guess_is_of_the_rows_that_are_fitted() -> None:
    y = np.array([0, 1, 1] * 20)
    # Of each class a quarter of the rows is left out.
    assert RidgeProbe(y).guess_error() == pytest.approx((1 / 3, (2 / 9 / 15) ** 0.5))
    error, deviation = RidgeProbe(RNG.normal(size=60)).guess_error()
    assert error >= 1
    assert 0.1 < deviation < 1


def test_a_probe_of_a_prefix_is_ridge_on_it() -> None:
    probe = RidgeProbe(X[:, 0], num_splits=1, ridges=(0.1,))
    functions = RNG.normal(size=(60, 5))
    fit, _, test = probe._splits[0]
    y = (X[:, 0] - X[:, 0].mean()) / X[:, 0].std()
    z = functions[:, :3] - functions[fit, :3].mean(axis=0)
    gram = z[fit].T @ z[fit] / len(fit) + 0.1 * np.eye(3)
    w = np.linalg.solve(gram, z[fit].T @ (y[fit] - y[fit].mean()) / len(fit))
    residual = z[test] @ w + y[fit].mean() - y[test]
    expected = (residual**2).sum() / ((y[test] - y[test].mean()) ** 2).sum()
    assert probe.errors(functions, 3).error == pytest.approx(expected)


def test_each_measure_chooses_its_own_ridge() -> None:
    # A function that is large on one row only: unpenalised it ruins the squared error
    # of the rows left out, and changes one prediction at most.
    rng = np.random.default_rng(5)
    functions = np.c_[X[:, 0], 1e-3 * rng.normal(size=60)]
    probe = RidgeProbe(Y, num_splits=1, seed=1)
    functions[probe._splits[0][2][0], 1] = 30.0
    functions[probe._splits[0][1][0], 1] = 30.0
    checked, errors = probe._grid(functions, np.array([2]), probe._splits[0])
    found = probe.errors(functions, 2)
    assert found.squared_error == errors[1].ravel()[checked[1].argmin()]
    assert errors[1].max() > 2 * found.squared_error


def test_tau_is_held_against_the_errors() -> None:
    specs = published_family(X, 4, num_masks=2)
    rows = ranked(X, specs, probe=RidgeProbe(Y, num_splits=2), max_dim=8)
    found = correlations(rows)
    finite = [r for r in rows if r.tau is not None and np.isfinite(r.tau)]
    tau, error = np.array([(r.tau, r.probe.error) for r in finite]).T
    assert found.num_contexts == len(finite)
    assert found.pearson == pytest.approx(np.corrcoef(tau, error)[0, 1])
    of_type = sum(row.spec.type == "knn" for row in finite)
    assert correlations(rows, kind="knn").num_contexts == of_type
    told = correlations(rows, leave_out=["too weak", "too strong", "undecided"])
    assert told.num_contexts == sum(not row.abstains for row in rows)
    scores = [row.least_column_error for row in rows]
    by_columns = correlations(rows, by="least_column_error")
    expected = np.corrcoef(scores, [row.probe.error for row in rows])[0, 1]
    assert by_columns.pearson == pytest.approx(expected)
    other = np.array([row.probe.validated_error for row in finite])
    validated = correlations(rows, error="validated_error")
    assert validated.pearson == pytest.approx(np.corrcoef(tau, other)[0, 1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ContextSpec("rbf", -1.0), "parameter must be above 0"),
        (lambda: ContextSpec("knn", 2, mask_share=1.0), "mask_share must be in"),
        (lambda: published_family(np.ones((9, 2))), "rows that differ"),
        (
            lambda: ranked(X, [], energy_share=0.0),
            "energy_share must be above 0",
        ),
        (lambda: ranked(X, [], tol=0.0), "tol must be above 0"),
        (lambda: ranked(X, [], beta=-1.0), "beta must be"),
        (lambda: ranked(X, [], columns=[1]), "one number for each"),
        (lambda: ranked(X, [ContextSpec("knn", 2)] * 2), "names of their own"),
        (lambda: ranked(X, [], probe=RidgeProbe(Y[:50])), "60 rows, as x"),
        (lambda: correlations([], leave_out=["strong"]), "leave_out of too weak"),
        (lambda: RidgeProbe(np.ones(20)), "not all of one value"),
        (lambda: RidgeProbe(Y, ridges=(0.0,)), "ridges must be finite and positive"),
    ],
)
def test_bad_input_is_told(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_spectra_of_some_rows_are_those_of_contexts_in_proportion() -> None:
    rows = np.arange(0, 60, 2)
    specs = [ContextSpec("knn", 8), ContextSpec("rbf", 0.5), ContextSpec("knn", 1)]
    found = spectra_of_rows(X, specs, rows, num_rows=60, max_dim=40)
    assert (found.shape, found.dtype) == ((3, 41), np.dtype(np.float32))
    for s, context in zip(
        found,
        [cx.contexts.knn(X[rows], 4), cx.contexts.rbf(X[rows], 0.5)],
        strict=False,
    ):
        exact = cx.solvers.all_singular_values(cx.association_operator(context))
        np.testing.assert_allclose(s[:29], exact, atol=1e-7)
        assert not s[29:].any()
    # A row that is its only neighbour: the identity.
    np.testing.assert_allclose(found[2, :29], 1, atol=1e-7)
    named: Any = NamedContext("own", cx.contexts.rbf(X, 1.0))
    with pytest.raises(TypeError, match="ContextSpec"):
        spectra_of_rows(X, [named], rows, num_rows=60)


def test_the_unit_of_an_error_is_never_next_to_nothing():
    """Of eight rows two are left out, which may be nearly equal."""
    y = np.array([0.0, 1e-9, 2e-9, 3e-9, 4e-9, 5e-9, 6e-9, 1.0])
    probe = RidgeProbe(y, num_splits=3)
    assert probe.guess_error()[0] < 100
    functions = np.linalg.qr(RNG.normal(size=(8, 3)))[0] * 8**0.5
    assert probe.errors(functions, 2).error < 100
