"""A linear probe: how well functions of the rows tell the target of rows left out."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from contexture_jax.cli._options import Options
from contexture_jax.data import Table, Target, quoted

__all__ = ["probed"]

_TEST_SHARE = 0.25
_FEWEST_ROWS = 8


def probed(
    learned: np.ndarray, exact: np.ndarray, table: Table, options: Options
) -> tuple[dict[str, Any] | None, list[str]]:
    """The error of a linear probe on a quarter of the rows, fitted on the others.

    The quarter is one of each class, so that the others hold all classes.

    Args:
        learned: functions of the rows, shape (n, rank).
        exact: the same, exact.
        table: the data, with a target.
        options: the seed is of the quarter.

    Returns:
        (probe, notes): the error of each kind of features; None, and why, where there
        can be no probe.
    """
    assert table.target is not None
    test = _left_out(table.target, options.seed)
    values = table.target.values
    why = ""
    if len(values) < _FEWEST_ROWS or not test.any():
        why = "too few rows for each of its values"
    elif table.target.kind == "numbers" and np.ptp(values[test]) == 0:
        why = "the rows left out have one value"
    if not why:
        try:
            return _errors(learned, exact, table, test), []
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            why = " ".join(str(error).split())
    return None, [f"no probe of the target {quoted(table.target.name)}: {why}"]


def _left_out(target: Target, seed: int) -> np.ndarray:
    """A quarter of the rows, of each class; never all rows of one. Shape (n,), bool."""
    rng = np.random.default_rng(seed)
    values = target.values
    codes = values if target.kind == "classes" else np.zeros(len(values), np.int64)
    test = np.zeros(len(values), dtype=bool)
    for code in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == code))
        test[rows[: round(_TEST_SHARE * len(rows))]] = True
    return test


def _errors(
    learned: np.ndarray, exact: np.ndarray, table: Table, test: np.ndarray
) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert table.target is not None
    values, classes = table.target.values, table.target.kind == "classes"

    def error(z: Any) -> float:
        z = np.asarray(z, np.float64)
        model = LogisticRegression(max_iter=1000) if classes else RidgeCV()
        with warnings.catch_warnings():
            # An error that is a little larger is told as it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = make_pipeline(StandardScaler(), model).fit(z[~test], values[~test])
        if classes:
            return float(1.0 - fitted.score(z[test], values[test]))
        residual = np.mean((fitted.predict(z[test]) - values[test]) ** 2)
        return float(residual / np.var(values[test]))

    features = {"learned": learned, "exact": exact, "features": table.features}
    return {
        "measure": "misclassified" if classes else "squared error over variance",
        "num_test_rows": int(test.sum()),
        **{name: error(z) for name, z in features.items()},
    }
