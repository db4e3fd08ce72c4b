"""All ways to predict from a context, side by side on the same labelled rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from contexture_jax._core.checks import check_integer, check_key, check_ndim
from contexture_jax._core.types import Array, ArrayLike, Int, short_repr
from contexture_jax.operators import AssociationOperator
from contexture_jax.prediction._choice import choose_propagation, choose_stkr
from contexture_jax.prediction._logistic import logistic
from contexture_jax.prediction._near import nearest_neighbors
from contexture_jax.prediction._propagation import label_propagation
from contexture_jax.prediction._ridge import ridge
from contexture_jax.prediction._transform import inverse_laplacian, truncation
from contexture_jax.solvers import SVDResult

__all__ = [
    "Comparison",
    "Prediction",
    "compare_predictors",
    "labelled_splits",
    "predict_each",
]

_FOLDS = 5
_ETAS = (0.0, 0.9, 0.99)  # over what no eigenvalue is above
_STKR_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_LOGISTIC_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)

Walk = Literal["single", "double"] | None


@short_repr
class Prediction(NamedTuple):
    """What one way to predict says, and how it was fitted.

    Attributes:
        values: on all inputs, shape (n,): the number of a class, or numbers.
        chosen: what labelled rows left out preferred, by name.
        status: how the fit ended, as a `FitStatus`.
    """

    values: np.ndarray
    chosen: dict[str, Any]
    status: str = "converged"


@short_repr
class Comparison(NamedTuple):
    """Ways to predict on the same splits, by name.

    Attributes:
        errors: on the rows of each split that have no label in it: the share that is
            misclassified, or the mean squared residual over the variance of all of `y`.
            Shape (splits,) each.
        predictions: of each split.
    """

    errors: dict[str, np.ndarray]
    predictions: list[dict[str, Prediction]]


def labelled_splits(
    y: ArrayLike, num_labelled: int, *, key: Array, num_splits: int = 5
) -> Int[np.ndarray, "splits l"]:
    """Draws of rows that have a label, a row of each class or more among them.

    Each class has one, and of the others its share to rounding. Rows of one class come
    together, so that folds by i mod k are stratified.

    Args:
        y: integers, classes; or floating numbers, which are drawn alike. Shape (n,).
        num_labelled: l, at least 2 and as many as there are classes, below n.
        key: of the draws.
        num_splits: of them.

    Returns:
        Numbers of rows, shape (splits, l).

    Raises:
        ValueError: if there are too few rows, or numbers drawn are of one value.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> y = np.repeat([0, 1, 2], [60, 30, 10])
        >>> drawn = cx.prediction.labelled_splits(y, 10, key=jax.random.key(0))
        >>> drawn.shape, y[drawn[0]].tolist()
        ((5, 10), [0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    """
    y = np.asarray(y)
    check_ndim(y, 1, "y")
    check_key(key)
    num_splits = check_integer(num_splits, "num_splits", low=1)
    of_classes = y.dtype.kind != "f"
    _, codes = np.unique(y if of_classes else np.zeros(len(y)), return_inverse=True)
    sizes = np.bincount(codes)
    high = len(y) - 1
    count = check_integer(num_labelled, "num_labelled", low=2, high=max(high, 2))
    if count < len(sizes):
        msg = (
            f"num_labelled must be at least {len(sizes)}, a row of each class; got"
            f" {count}"
        )
        raise ValueError(msg)
    # (C,): one each, and the largest remainders of what is left.
    quotas = 1 + (count - len(sizes)) * (sizes - 1) / max(1, len(y) - len(sizes))
    kept = np.floor(quotas + 1e-9).astype(int)
    more = np.argsort(kept - quotas, kind="stable")[: count - kept.sum()]
    kept[more] += 1
    draws = []
    for one in jax.random.split(key, num_splits):
        order = np.asarray(jax.random.permutation(one, len(y)))
        own = codes[order]
        draws.append(np.concatenate([order[own == c][:k] for c, k in enumerate(kept)]))
        if not of_classes and np.ptp(y[draws[-1]]) == 0:
            msg = f"num_labelled must be larger: {count} rows drawn have one value of y"
            raise ValueError(msg)
    return np.stack(draws).astype(np.int32)


def predict_each(
    op: AssociationOperator,
    result: SVDResult,
    labels: ArrayLike,
    rows: ArrayLike,
    *,
    num_classes: int | None = None,
    walk: Walk = None,
) -> dict[str, Prediction]:
    """Every way to predict from some labelled inputs, tuned by labels left out.

    "guess": the largest class or the mean; "ridge", with its α and first d functions,
    d = 1, 2, 4, …, and "logistic" on the functions; "nearest neighbours" in the
    functions times their singular values, the distance of the dual kernel; "STKR":
    `choose_stkr` of the dual kernel, two inverse Laplacians and the truncation; with
    `walk` "Zhou", with its α, and "Zhu", label propagation.

    Args:
        op: the context, shape (n, m).
        result: its functions, as `svd` returns them.
        labels: of the labelled inputs, shape (l,), l ≥ 2: floating numbers, or classes
            0, …, C − 1 with a row of each.
        rows: which inputs they are of, shape (l,).
        num_classes: C; None: numbers.
        walk: as of `label_propagation`; None: without.

    Returns:
        Predictions on all inputs, by name.

    Raises:
        TypeError: as `stkr`.
        ValueError: as `stkr` and `ridge`.
    """
    # On the host, where they have any length without a program for it.
    left, s = np.asarray(result.left), np.asarray(result.singular_values)
    y, rows = np.asarray(labels), np.asarray(rows)
    seen, rank = left[rows], left.shape[1]
    classes: Any = {"num_classes": num_classes}
    folds = min(_FOLDS, len(y))
    guess: Any = y.mean() if num_classes is None else np.bincount(y).argmax()
    found = {"guess": Prediction(np.full(op.shape[0], guess), {})}
    dims = [2**i for i in range(rank.bit_length()) if 2**i < rank] + [rank]
    linear = ridge(seen, y, dims=dims, **classes)
    chosen = {"ridge": float(linear.ridge), "dim": int(linear.dim)}
    found["ridge"] = Prediction(np.asarray(linear.predict(left)), chosen)
    if num_classes is not None:
        odds = logistic(seen, y, ridges=_LOGISTIC_RIDGES, folds=folds, **classes)
        chosen = {"ridge": float(odds.ridge)}
        values = np.asarray(odds.predict(left))
        found["logistic"] = Prediction(values, chosen, str(odds.status))
    near = nearest_neighbors(seen * s[None, :], y, **classes)
    chosen = {"num_neighbors": int(near.num_neighbors)}
    values = np.asarray(near.predict(left * s[None, :]))
    found["nearest neighbours"] = Prediction(values, chosen)
    # Values are exact to rounding, and an η must stay below 1 over the largest.
    largest = min(1.0, float(s[0]) ** 2 * (1 + 1e-4) + 1e-12)
    kinds = [inverse_laplacian(eta / largest, largest=largest) for eta in _ETAS]
    choice = choose_stkr(
        op,
        y,
        rows,
        transforms=[*kinds, truncation(result)],
        ridges=_STKR_RIDGES,
        folds=folds,
        **classes,
    )
    is_kernel = choice.transform < len(_ETAS)
    eta = _ETAS[choice.transform] / largest if is_kernel else None
    name = "inverse Laplacian" if is_kernel else "truncation"
    chosen = {"transform": name, "eta": eta, "ridge": choice.ridge}
    fit = choice.fit
    found["STKR"] = Prediction(np.asarray(fit.predict()), chosen, str(fit.status))
    if walk is None:
        return found
    best = choose_propagation(op, y, rows, folds=folds, walk=walk, **classes)
    zhu = label_propagation(op, y, rows, kind="zhu", walk=walk, **classes)
    for author, walked, chosen in (
        ("Zhou", best.fit, {"alpha": best.alpha}),
        ("Zhu", zhu, {}),
    ):
        chosen["reached"] = float(walked.reached.mean())
        values = np.asarray(walked.predict())
        found[author] = Prediction(values, chosen, str(walked.status))
    return found


def compare_predictors(
    op: AssociationOperator,
    result: SVDResult,
    y: ArrayLike,
    rows: ArrayLike,
    splits: ArrayLike,
    *,
    num_classes: int | None = None,
    walk: Walk = None,
    on_split: Callable[[int], object] | None = None,
) -> Comparison:
    """The errors of `predict_each` on the same splits of inputs with a known target.

    Args:
        op: the context, shape (n, m).
        result: as of `predict_each`.
        y: of all inputs whose target is known, as the labels there, shape (k,).
        rows: which inputs they are, shape (k,).
        splits: which of the k have a label, as of `labelled_splits`, shape (splits, l).
        num_classes: as of `predict_each`.
        walk: likewise.
        on_split: called with the number of splits that are done.

    Raises:
        TypeError: as `predict_each`.
        ValueError: likewise, and if a split leaves no row.
    """
    y, rows, splits = np.asarray(y), np.asarray(rows), np.asarray(splits)
    check_ndim(splits, 2, "splits")
    errors: dict[str, list[float]] = {}
    predictions = []
    for number, split in enumerate(splits, start=1):
        rest = np.setdiff1d(np.arange(len(y)), split)
        if not len(rest):
            raise ValueError("splits must leave rows without a label; got all rows")
        told = predict_each(
            op, result, y[split], rows[split], num_classes=num_classes, walk=walk
        )
        predictions.append(told)
        for name, one in told.items():
            guess = one.values[rows[rest]]
            if num_classes is None:
                error = np.mean((guess - y[rest]) ** 2) / np.var(y)
            else:
                error = np.mean(guess != y[rest])
            errors.setdefault(name, []).append(float(error))
        if on_split is not None:
            on_split(number)
    return Comparison({k: np.array(v) for k, v in errors.items()}, predictions)
