"""Contexts between numbered rows: their operators without n × n numbers."""

from typing import Any

import jax
import numpy as np
import pytest

import contexture_jax as cx
from tests.tolerances import tol

C = cx.contexts
RNG = np.random.default_rng(4)
CONTEXTS = {
    "same class": C.same_class(list("abbacccab")),
    "same class, self": C.same_class(list("abbacccad"), include_self=True),
    "time lag": C.time_lag([6, 5], lags=(1, 2, -1), weights=(1.0, 2.0, 0.5)),
    "next token": C.next_token(RNG.integers(0, 3, 24), 2),
    "new rows of classes": C.same_class(list("abbacccab")).at(list("bab")),
}


@pytest.mark.slow_cases(
    "next token-one device",
    "time lag-one device",
    "time lag-sparse",
    "next token-a mesh",
    "same class-one device",
    "new rows of classes-a mesh",
)
@pytest.mark.parametrize(
    ("name", "where"),
    [
        *((name, "one device") for name in CONTEXTS),
        ("same class", "a mesh"),
        ("new rows of classes", "a mesh"),
        ("next token", "a mesh"),
        ("time lag", "sparse"),
    ],
)
def test_operators_are_those_of_the_table(name, where):
    context = CONTEXTS[name]
    table = np.asarray(context.table(), np.float64)
    p_x, p_a = table.sum(axis=1), table.sum(axis=0)
    auto = (jax.sharding.AxisType.Auto,)
    options = {
        "one device": {},
        "a mesh": {"mesh": jax.make_mesh((3,), ("x",), axis_types=auto)},
        "sparse": {"storage": "sparse"},
    }[where]
    op = cx.association_operator(context, **options)
    close: Any = {"rtol": tol(op.dtype), "atol": tol(op.dtype)}
    np.testing.assert_allclose(op.p_x, p_x, **close)
    np.testing.assert_allclose(op.p_a, p_a, **close)
    g, f = (RNG.normal(size=(size, 2)) for size in op.shape[::-1])
    inverse_x, inverse_a = (np.divide(1, p, where=p > 0, out=0 * p) for p in (p_x, p_a))
    np.testing.assert_allclose(op.matmat(g), inverse_x[:, None] * (table @ g), **close)
    back = inverse_a[:, None] * (table.T @ f)
    np.testing.assert_allclose(op.rmatmat(f), back, **close)
    exact = (table**2 * inverse_x[:, None] * inverse_a[None, :]).sum()
    squared_norm: Any = op.squared_norm()
    np.testing.assert_allclose(squared_norm, exact, rtol=tol(op.dtype))


def test_a_class_of_many_rows_takes_no_table():
    n = 20_000
    y = np.arange(n) % 10
    for context in (
        C.same_class(y),
        C.time_lag(n, (1, 2)),
        C.next_token(y, 1),
    ):
        op = cx.association_operator(context)
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(op)) < 110 * n
        assert op.cost(4).bytes < 400 * n


@pytest.mark.slow
def test_the_spectrum_of_the_other_rows_of_a_class():
    """1 for C − 1 functions; 1 / (n_c − 1), n_c − 1 times in each class."""
    y = [0] * 3 + [1] * 5
    op = cx.association_operator(C.same_class(y))
    result, _ = cx.svd(op, 7, key=jax.random.key(0))
    want = [1.0, *[1 / 2] * 2, *[1 / 4] * 4]
    np.testing.assert_allclose(result.singular_values, want, atol=tol(op.dtype))


@pytest.mark.parametrize(
    "make",
    [
        lambda: C.time_lag(9),
        lambda: C.pairs(np.arange(5), np.arange(5)),
        lambda: C.pairs([0, 1, 2], [0, 0, 1]),
    ],
)
def test_laws_that_are_points_are_told(make):
    with pytest.warns(UserWarning, match="one context value.*`time_lag` say what"):
        cx.association_operator(make())


def test_pairs_of_features_and_names_are_told_what_to_do():
    with pytest.raises(TypeError, match=r"train two towers on them, as by losses.svme"):
        C.pairs(np.ones((4, 2)), np.ones((4, 2)))
    with pytest.raises(TypeError, match=r"got text .* np.unique"):
        C.pairs(["a"], ["b"])
    with pytest.raises(ValueError, match="each number of shape must be at least 1"):
        C.pairs([0], [0], shape=(0, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 8}, "tile_size goes with contexts kept in tiles"),
        ({"axis": "y"}, "axis goes with a mesh"),
    ],
)
def test_arguments_that_play_no_part_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cx.association_operator(C.labels([0, 1]), **options)


TEXT = np.array([0, 1, 2, 0, 1, 0, 1, 2, 0, 1])
DATES = np.array(["2020-01-01", "2020-01-02"], "M8[D]")


@pytest.mark.slow_cases("dates", "floats", "times", "windows")
@pytest.mark.parametrize(
    ("context", "x_new", "rows"),
    [
        (C.same_class([7, 9, 7, 9], include_self=True), [9, 9, 7], [1, 1, 0]),
        (C.same_class(DATES[[0, 1, 0, 1]], include_self=True), DATES, [0, 1]),
        (C.same_class([0.5, 1.5, 0.5, 1.5], include_self=True), [1.5, 0.5], [1, 0]),
        (C.time_lag([4, 3], (1, 2)), [4, 1], [4, 1]),
        (C.next_token(TEXT, 2), [[2, 0], [0, 1]], [2, 0]),
    ],
    ids=["classes", "dates", "floats", "times", "windows"],
)
def test_new_inputs_have_the_functions_of_rows_like_them(context, x_new, rows):
    op = cx.association_operator(context)
    result, _ = cx.svd(op, 1, key=jax.random.key(0))
    new = cx.extend(result, context, x_new)
    np.testing.assert_allclose(new, result.left[np.array(rows)], atol=1e-3)


@pytest.mark.parametrize(
    ("context", "x_new", "message"),
    [
        (C.same_class(list("aabb")), ["c"], "x_new must hold classes among"),
        (C.same_class([0.5, 0.5]), [1], "as floating numbers; got dtype int64"),
        (C.time_lag(4), [3], "times from which a lag stays within the series"),
        (C.next_token(TEXT, 2), [[2, 2]], r"\[2, 2\] is not in it"),
        (C.next_token(TEXT, 2), [[2]], r"must have shape \(k, 2\)"),
    ],
)
def test_new_inputs_without_a_law_are_refused(context, x_new, message):
    with pytest.raises((TypeError, ValueError), match=message):
        context.at(x_new)
