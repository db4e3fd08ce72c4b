"""Contexts of the rows of a table, and probes of their functions, for `mixing.py`."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

import contexture_jax as cx

__all__ = [
    "Functions",
    "Scores",
    "Split",
    "best_of",
    "codes_of",
    "dual",
    "dual_of_tuples",
    "functions",
    "parts_of",
    "peers",
    "probed",
    "splits_of",
]

NEIGHBORS, RATE, DRAWS, BINS = 20, 0.6, 4, 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Split(NamedTuple):
    """Numbers of the rows to fit on, to validate by, and that are left out."""

    fit: np.ndarray
    check: np.ndarray
    test: np.ndarray


class Scores(NamedTuple):
    """Of each split the share misclassified, and what validation says, (splits,)."""

    checked: np.ndarray
    errors: np.ndarray


class Functions(NamedTuple):
    """What is known of a context: all its values, and its first d functions."""

    values: np.ndarray
    left: np.ndarray


def codes_of(features: np.ndarray, widths: list[int]) -> list[np.ndarray]:
    """Each column of the table as numbers of its categories, or of its quintiles."""
    codes = []
    for block in np.split(features, np.cumsum(widths)[:-1], axis=1):
        _, code = np.unique(block, axis=0, return_inverse=True)
        if block.shape[1] == 1 and code.max() >= BINS:
            inner = np.arange(1, BINS) / BINS
            edges = np.unique(np.quantile(block, inner, method="nearest"))
            _, code = np.unique(
                np.searchsorted(edges, block[:, 0], "right"), return_inverse=True
            )
        if code.max() > 0:
            codes.append(code.reshape(-1))
    return codes


def scarf(codes: list[np.ndarray], rng: np.random.Generator) -> Any:
    """SCARF on categories, by draws from P_A and their exact densities.

    P⁺(a|x) = ∏_f [(1 − c) 1[a_f = x_f] + c p̂_f(a_f)], of which only the ratios over the
    rows x count (theory.md §4.8).
    """
    n = len(codes[0])
    rows = np.tile(np.arange(n), DRAWS)
    logs = np.zeros((n, len(rows)))
    for code in codes:
        drawn = np.where(
            rng.random(len(rows)) < RATE,
            code[rng.integers(0, n, len(rows))],
            code[rows],
        )
        share = np.bincount(code) / n
        # (C, m): what a cell adds where it is that of x.
        same = np.zeros((code.max() + 1, len(rows)))
        same[drawn, np.arange(len(rows))] = np.log1p((1 - RATE) / (RATE * share[drawn]))
        logs += same[code]
    ratios = np.exp(logs - logs.max(axis=0))
    ratios /= ratios.sum(axis=0)
    return cx.contexts.conditional(ratios.astype(np.float32))


def parts_of(
    features: np.ndarray, codes: list[np.ndarray], seed: int
) -> dict[str, Any]:
    """The contexts, of the same rows with one law."""
    x = features.astype(np.float32)
    # A = (J, cell of column J): rows of the indicator matrix, as in multiple
    # correspondence analysis.
    cells = np.hstack(
        [np.eye(code.max() + 1, dtype=np.float32)[code] for code in codes]
    )
    return {
        "knn": cx.contexts.knn(x, min(NEIGHBORS, len(x))),
        "rbf": cx.contexts.rbf(x, 1.0 / len(codes)),
        "scarf": scarf(codes, np.random.default_rng(seed)),
        "column": cx.contexts.conditional(cells),
    }


def dual(context: Any, num_rows: int) -> np.ndarray:
    """(k − 1) / n between all rows, of uniform law."""
    rows = np.arange(num_rows)
    return np.asarray(context.kernel(rows, rows), np.float64) / num_rows - 1 / num_rows


def dual_of_tuples(joined: Any, num_rows: int) -> np.ndarray:
    """The same of a join, by the tuples that occur: few rows share one."""
    law, _ = joined.tuples_that_occur()
    rows, columns, weights = map(np.asarray, (law.rows, law.columns, law.weights))
    scaled = weights * np.sqrt(num_rows / np.bincount(columns, weights)[columns])
    matrix = scipy.sparse.csr_array((scaled, (rows, columns)), shape=law.shape)
    return (matrix @ matrix.T).toarray() - 1 / num_rows


def functions(kernel: np.ndarray, dim: int) -> Functions:
    energies, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    values = np.sqrt(np.clip(energies[:0:-1], 0.0, 1.0))
    return Functions(values, vectors[:, : -dim - 1 : -1] * np.sqrt(len(kernel)))


def splits_of(y: np.ndarray, count: int, seed: int) -> list[Split]:
    """A quarter of each class left out, a quarter of the rest for validation."""
    found = []
    for number in range(seed, seed + count):
        test = cx.prediction.held_out_rows(y, seed=number)
        rest = np.flatnonzero(~test)
        check = cx.prediction.held_out_rows(y[rest], seed=number)
        if not test.any() or not check.any():
            raise ValueError("too few rows of each class")
        found.append(Split(rest[~check], rest[check], np.flatnonzero(test)))
    return found


def probed(z: np.ndarray, y: np.ndarray, splits: list[Split]) -> Scores:
    """Ridge regression on indicators of the classes, its ridge by validation."""
    indicators = np.eye(y.max() + 1)[y]
    checked, errors = [], []
    for fit, check, test in splits:
        center, mean = z[fit].mean(axis=0), indicators[fit].mean(axis=0)
        u, s, vt = np.linalg.svd(z[fit] - center, full_matrices=False)
        moments = u.T @ (indicators[fit] - mean)
        tried = []
        for ridge in RIDGES:
            weights = vt.T @ ((s / (s**2 + ridge * len(fit)))[:, None] * moments)
            guess = (z - center) @ weights + mean
            wrong = guess.argmax(axis=1) != y
            # The squared error breaks ties of shares.
            squared = ((guess - indicators)[check] ** 2).mean()
            tried.append((wrong[check].mean() + 1e-6 * squared, wrong[test].mean()))
        best = min(tried, key=lambda pair: pair[0])
        checked.append(best[0])
        errors.append(best[1])
    return Scores(np.array(checked), np.array(errors))


def fitted(
    makers: list[Callable[[], Any]], x: np.ndarray, y: np.ndarray, splits: list[Split]
) -> Scores:
    """Models of scikit-learn, of which validation takes one in each split."""
    checked, errors = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that did not converge
        for fit, check, test in splits:
            models = [make().fit(x[fit], y[fit]) for make in makers]
            wrong = [1 - model.score(x[check], y[check]) for model in models]
            best = int(np.argmin(wrong))
            checked.append(wrong[best])
            errors.append(1 - models[best].score(x[test], y[test]))
    return Scores(np.array(checked), np.array(errors))


def peers(x: np.ndarray, y: np.ndarray, splits: list[Split]) -> Iterator[Any]:
    """(name, scores) of what is fitted on raw columns."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    logistic = [
        lambda c=c: LogisticRegression(C=c, max_iter=300) for c in (0.01, 0.1, 1, 10)
    ]
    trees = [
        lambda rate=rate: HistGradientBoostingClassifier(
            learning_rate=rate, random_state=0
        )
        for rate in (0.03, 0.1)
    ]
    for name, work in (
        ("raw columns, ridge probe", lambda: probed(x, y, splits)),
        ("raw columns, logistic regression", lambda: fitted(logistic, x, y, splits)),
        ("HistGradientBoosting", lambda: fitted(trees, x, y, splits)),
    ):
        yield name, work()


def best_of(candidates: list[Scores]) -> tuple[Scores, np.ndarray]:
    """In each split the one that validation prefers, and its number."""
    checked = np.array([scores.checked for scores in candidates])
    best = checked.argmin(axis=0)
    splits = np.arange(len(best))
    errors = np.array([scores.errors for scores in candidates])
    return Scores(checked[best, splits], errors[best, splits]), best
