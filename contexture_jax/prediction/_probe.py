"""A linear probe: how well functions of the rows tell the target of rows left out."""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_finite,
    check_integer,
    check_ndim,
)
from contexture_jax._core.types import ArrayLike, Bool, short_repr

__all__ = ["Probe", "held_out_rows", "linear_probe"]

_TEST_SHARE = 0.25
_FEWEST_ROWS = 8


@short_repr
class Probe(NamedTuple):
    """What a linear probe says of features.

    Attributes:
        error: on the rows that were left out: the share that is misclassified, or the
            mean squared error over the variance there.
        kind: whether the target is of classes or of numbers.
        held_out: which rows were left out, shape (n,), bool.
    """

    error: float
    kind: Literal["classes", "numbers"]
    held_out: Bool[np.ndarray, " n"]


def linear_probe(features: ArrayLike, y: ArrayLike, *, seed: int = 0) -> Probe:
    """The error of a linear model on a quarter of the rows, fitted on the others.

    The features are standardised on the rows fitted. Of classes the model is a
    multinomial logistic regression with scikit-learn's penalty, ½ ‖w‖²; of numbers a
    ridge regression, w = argmin ‖y − z w‖² + α ‖w‖², with α of 0.1, 1 and 10 chosen by
    leave-one-out. Needs scikit-learn (extra `cli`).

    Args:
        features: functions of the rows, shape (n, d).
        y: the target, shape (n,): integers, booleans or text are classes, floating
            numbers numbers.
        seed: of which rows are left out, the same for all features of one target.

    Raises:
        TypeError: if features are no real numbers, or `y` holds neither.
        ValueError: if shapes differ, an entry is not finite, or rows are too few: fewer
            than 8, none left out of any class, or numbers of one value among those
            left out; or if the fit fails.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> cx.prediction.linear_probe(x, x[:, 0] > 0).error < 0.1
        True
    """
    # On the host: scikit-learn takes arrays of NumPy, in float64.
    z, y = np.asarray(as_array(features, "features"), np.float64), as_array(y, "y")
    check_ndim(z, 2, "features")
    check_ndim(y, 1, "y")
    if len(z) != len(y):
        msg = f"features must have {len(y)} rows, as y has; got shape {z.shape}"
        raise ValueError(msg)
    check_finite(z, "features")
    if y.dtype.kind not in "biufUSOT":
        msg = f"y must hold classes or real numbers; got dtype {y.dtype}"
        raise TypeError(msg)
    # Without a look at the features: all of one target are judged on the same rows.
    test = held_out_rows(y, seed=seed)
    classes = _is_of_classes(y)
    if len(y) < _FEWEST_ROWS or not test.any():
        raise ValueError("too few rows for each of its values")
    # The error is over that variance.
    if not classes and np.ptp(y[test]) == 0:
        raise ValueError("the rows left out have one value")
    error = _error(z, y, test, classes=classes)
    return Probe(error, "classes" if classes else "numbers", test)


def held_out_rows(y: ArrayLike, *, seed: int = 0) -> Bool[np.ndarray, " n"]:
    """A quarter of the rows of each class, or of all rows where `y` holds numbers.

    Rounded, so that the others hold all classes, those of one or two rows whole.

    Args:
        y: as for `linear_probe`, shape (n,).
        seed: of which.

    Returns:
        Which rows are left out, shape (n,), bool.
    """
    y = as_array(y, "y")
    check_ndim(y, 1, "y")
    rng = np.random.default_rng(check_integer(seed, "seed", low=0))
    codes = y if _is_of_classes(y) else np.zeros(len(y), np.int64)
    test = np.zeros(len(y), dtype=bool)
    # Class by class: a rare one may be missing from a quarter of all rows.
    for code in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == code))
        test[rows[: round(_TEST_SHARE * len(rows))]] = True
    return test


def _is_of_classes(y: np.ndarray) -> bool:
    return y.dtype.kind != "f"


def _error(z: np.ndarray, y: np.ndarray, test: np.ndarray, *, classes: bool) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(max_iter=1000) if classes else RidgeCV()
    with warnings.catch_warnings():
        # An error that is a little larger is told as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            # Means and deviations of the rows fitted alone: those left out have no part
            # in the fit.
            fitted = make_pipeline(StandardScaler(), model).fit(z[~test], y[~test])
        except (ArithmeticError, np.linalg.LinAlgError) as error:
            msg = f"the fit of the probe failed: {error}"
            raise ValueError(msg) from error
        if classes:
            return float(1.0 - fitted.score(z[test], y[test]))
        residual = np.mean((fitted.predict(z[test]) - y[test]) ** 2)
        return float(residual / np.var(y[test]))
