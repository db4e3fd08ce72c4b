"""Draws of labelled rows; the predictors on them are those of `contexture predict`."""

from typing import Any

import jax
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.prediction import (
    forecast_error,
    labelled_splits,
    learning_curve,
    predict_each,
)

KEY = jax.random.key(3)


def test_splits_hold_each_class_by_its_share_and_come_class_by_class() -> None:
    y = np.repeat([4, 7, 9, 1], [50, 30, 19, 1])[
        np.random.default_rng(0).permutation(100)
    ]
    splits = labelled_splits(y, 11, key=KEY, num_splits=3)
    assert splits.shape == (3, 11)
    assert len({tuple(np.sort(split)) for split in splits}) == 3
    for split in splits:
        assert len(set(split.tolist())) == 11
        values, sizes = np.unique(y[split], return_counts=True)
        # One each, and 7 of 96 others by 49, 29 and 18: 3.57, 2.11 and 1.31.
        np.testing.assert_array_equal(values, [1, 4, 7, 9])
        np.testing.assert_array_equal(sizes, [1, 5, 3, 2])
        np.testing.assert_array_equal(y[split], np.sort(y[split]))
    np.testing.assert_array_equal(splits, labelled_splits(y, 11, key=KEY, num_splits=3))
    whole = labelled_splits(y, 99, key=KEY, num_splits=1)[0]
    assert len(set(whole.tolist())) == 99


@pytest.mark.parametrize(
    ("y", "number", "words"),
    [
        (np.arange(10) % 3, 2, "at least 3, a row of each class"),
        (np.arange(10) % 3, 10, "between 2 and 9"),
        (np.array([1.0] * 9 + [2.0]), 2, "one value"),
    ],
)
def test_draws_that_cannot_be_are_refused(y, number, words) -> None:
    with pytest.raises(ValueError, match=words):
        labelled_splits(y, number, key=KEY, num_splits=9)


@pytest.mark.parametrize("num_classes", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_another_number_of_labels_takes_no_other_program(caplog, num_classes) -> None:
    x = np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32)
    op = cx.association_operator(cx.contexts.knn(x, 8))
    result, _ = cx.svd(op, 3, key=KEY)
    y = x[:, 0] if num_classes is None else (x[:, 0] > 0).astype(np.int32)

    def predict(count: int) -> None:
        rows = np.arange(count)
        how: Any = {"num_classes": num_classes}
        predict_each(op, result, y[rows], rows, **how)
        how |= {"key": KEY}
        forecast_error(result.left, y[rows], rows, [count + 9], ridge=0.1, **how)
        learning_curve(result.left, y, [count, count + 9], num_splits=2, **how)

    predict(12)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        predict(17)
    told = [r.getMessage() for r in caplog.records]
    # Arrays of another shape go to the device by programs of their own, of no code.
    compiled = [m for m in told if m.startswith("Compiling") and "stage" not in m]
    assert compiled == []
