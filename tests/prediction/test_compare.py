"""Draws of labelled rows, and all predictors on them."""

import jax
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.prediction import (
    compare_predictors,
    labelled_splits,
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


@pytest.mark.slow
def test_every_predictor_is_what_it_is_by_itself_and_errors_are_of_other_rows() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90, dtype=np.int32) % 3
    x = (rng.normal(size=(90, 2)) + 3 * np.eye(3, 2)[y]).astype(np.float32)
    op = cx.association_operator(cx.contexts.knn(x, 10))
    result, _ = cx.svd(op, 6, key=KEY)
    # The last thirty have no target.
    rows, done = np.arange(60), []
    splits = labelled_splits(y[rows], 12, key=KEY, num_splits=2)
    found = compare_predictors(
        op,
        result,
        y[rows],
        rows,
        splits,
        num_classes=3,
        walk="double",
        on_split=done.append,
    )
    assert done == [1, 2]
    names = ["guess", "ridge", "logistic", "nearest neighbours", "STKR", "Zhou", "Zhu"]
    assert list(found.errors) == names
    for number, split in enumerate(splits):
        rest = np.setdiff1d(rows, split)
        for name in names:
            told = found.predictions[number][name].values
            assert told.shape == (90,)
            assert found.errors[name][number] == np.mean(told[rest] != y[rest])
    assert max(found.errors[name].mean() for name in names[1:5]) < 0.25
    split = splits[0]
    own = cx.prediction.label_propagation(op, y[split], split, kind="zhu")
    np.testing.assert_array_equal(
        found.predictions[0]["Zhu"].values, np.asarray(own.predict())
    )
    numbers = predict_each(op, result, x[split, 0], split)
    assert list(numbers) == ["guess", "ridge", "nearest neighbours", "STKR"]
    assert numbers["STKR"].status == "converged"
    stkr = np.mean((numbers["STKR"].values - x[:, 0]) ** 2) / np.var(x[:, 0])
    assert stkr < 0.7
