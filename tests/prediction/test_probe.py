"""The linear probe: which rows it leaves out, what it says, when there is none."""

import numpy as np
import pytest

from contexture_jax.prediction import held_out_rows, linear_probe


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_every_class_are_kept(seed):
    classes = np.array([0] * 9 + [1] * 2 + [2])
    test = held_out_rows(classes, seed=seed)
    assert np.bincount(classes[test], minlength=3).tolist() == [2, 0, 0]
    assert held_out_rows(np.arange(40.0), seed=seed).sum() == 10


@pytest.mark.parametrize(
    ("y", "why"),
    [
        (np.arange(12), "too few rows for each of its values"),
        ([0, 0, 0, 0, 1], "too few rows"),
        ([1.0] * 39 + [2.0], "the rows left out have one value"),
    ],
)
def test_what_cannot_be_probed_is_refused(y, why):
    x = np.random.default_rng(0).normal(size=(len(y), 2))
    with pytest.raises(ValueError, match=why):
        linear_probe(x, y)


def test_rows_and_finite_numbers_are_asked_for():
    with pytest.raises(ValueError, match=r"12 rows, as y has; got shape \(9, 2\)"):
        linear_probe(np.ones((9, 2)), np.arange(12.0))
    with pytest.raises(ValueError, match="features must be finite"):
        linear_probe(np.full((12, 2), np.nan), np.arange(12.0))
    with pytest.raises(TypeError, match="y must hold classes or real numbers"):
        linear_probe(np.ones((12, 2)), np.arange(12) * 1j)


def test_the_error_is_that_of_the_rows_left_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = x @ [1.0, 2.0, 3.0] + 0.1 * rng.normal(size=200)
    numbers = linear_probe(x, y, seed=3)
    test = numbers.held_out
    design = np.column_stack([x, np.ones(200)])
    weights = np.linalg.lstsq(design[~test], y[~test], rcond=None)[0]
    residual = np.mean((design[test] @ weights - y[test]) ** 2) / np.var(y[test])
    np.testing.assert_allclose(numbers.error, residual, rtol=0.05)
    assert numbers.kind == "numbers"
    named = np.where(y > 0, "high", "low")
    classes = linear_probe(x, named)
    assert classes.kind == "classes"
    assert classes.error < 0.1
    assert linear_probe(rng.normal(size=(200, 3)), named).error > 0.3
