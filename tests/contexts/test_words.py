"""The words of the algebra: the same at every level, in one form, and side by side."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import contexture_jax as cx
from tests import oracle
from tests.tolerances import promised

C = cx.contexts
DTYPE = np.dtype(jax.numpy.zeros(()).dtype)
KEY = jax.random.key(3)
WORDS = {
    "compose": "one by one",
    "convolve": "one by one",
    "convex_combination": "a list",
    "join": "a list",
    "mixture": "a list",
    "tensor_product": "a list",
    "reverse": "one",
}
LEVELS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "contexts": (C, lambda: C.labels([0, 1])),
    "operators": (
        cx.operators,
        lambda: cx.association_operator(C.labels([0, 1])),
    ),
    "zoo": (cx.zoo, lambda: cx.zoo.identity([0.4, 0.6])),
}
MISSING: dict[tuple[str, str], str] = {}  # (level, word) and why it is not there


def test_the_words_are_the_same_at_every_level():
    found = {
        (level, word)
        for level, (module, _) in LEVELS.items()
        for word in WORDS
        if word not in module.__all__
    }
    assert found == set(MISSING)


@pytest.mark.parametrize("level", LEVELS)
def test_a_word_that_is_called_in_the_other_form_says_so(level):
    module, make = LEVELS[level]
    part = make()
    for word, form in WORDS.items():
        call = getattr(module, word)
        if form == "one by one":
            with pytest.raises(TypeError, match=rf"got a list: {word}\(\*parts\)$"):
                call([part, part])
        elif form == "a list":
            expected = rf"{word} takes a list, as {word}\(\[first, second\].*; got a "
            with pytest.raises(TypeError, match=expected):
                call(part, part)
            with pytest.raises(TypeError, match="got 3 arguments"):
                call([part], [1.0], part)


@pytest.mark.slow
def test_side_by_side_all_values_multiply_at_every_level():
    zoo = cx.zoo
    one, two = zoo.three_state_chain(), zoo.staff_smoking()
    expected = np.asarray(zoo.tensor_product([one, two]).spectrum(11))
    tables = [C.joint(np.asarray(c.table())) for c in (one, two)]
    whole = np.kron(*(np.asarray(t.table(), np.float64) for t in tables))
    rows = whole / whole.sum(axis=1, keepdims=True)
    context = C.tensor_product(tables)
    atol = promised(DTYPE)
    np.testing.assert_allclose(context.table(), whole, atol=atol)
    np.testing.assert_allclose(oracle.singular_values(whole), expected, atol=atol)
    parts = [cx.association_operator(t) for t in tables]
    for op in (cx.operators.tensor_product(parts), cx.association_operator(context)):
        joint = np.asarray(op.p_x)[:, None] * np.asarray(op.as_matrix())
        np.testing.assert_allclose(joint, whole, atol=atol)
        back = np.asarray(op.rmatmat(np.eye(15))) * np.asarray(op.p_a)[:, None]
        np.testing.assert_allclose(back, whole.T, atol=atol)
        energy = (expected**2).sum() + 1
        norm: Any = op.squared_norm()
        np.testing.assert_allclose(norm, energy, rtol=atol)
        assert op.cost(2).flops < 2 * 15 * 12 * 2
    x = np.arange(15)
    p_x = whole.sum(axis=1)
    kernel = rows / whole.sum(axis=0) @ whole.T / p_x[None, :]
    np.testing.assert_allclose(context.kernel(x, x), kernel, atol=100 * atol)
    a = context.sample(KEY, np.repeat(x[3:5], 2000))
    logs = context.log_density(np.arange(12)[None, :], x[3:5, None])
    for row, own in zip(np.asarray(a).reshape(2, -1), np.exp(logs), strict=True):
        assert np.abs(np.bincount(row, minlength=12) / 2000 - own).max() < 0.05
    np.testing.assert_allclose(np.exp(logs), rows[3:5], atol=atol)
    np.testing.assert_allclose(context.reverse().table(), whole.T, atol=atol)
    new = context.at(([0], [1]))
    np.testing.assert_allclose(new.table(), rows[1:2], atol=atol)
