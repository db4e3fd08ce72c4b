"""Laws of A at any x on rows of data, mixed with contexts between their numbers.

The law here has finitely many values, so that a table has all of it: truth is what the
same words make of that.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests import oracle
from tests.tolerances import MONTE_CARLO_SIGMAS, promised

C = cx.contexts
DTYPE = jnp.zeros(()).dtype
KEY = jax.random.key(17)
BITS = np.array(list(itertools.product([0, 1], repeat=3)))
VALUES = np.array(list(itertools.product([0, 1, 2], repeat=3)))
X: Any = np.arange(len(BITS))
LAW = C.erasure(0.3, fill=2)
POINTS = np.asarray(BITS + 0.1 * np.arange(3), DTYPE)


def table_of(law: Any) -> Any:
    """The same law between numbers of rows and of values."""
    rows = [law.log_density(VALUES, np.tile(x, (len(VALUES), 1))) for x in BITS]
    return C.conditional(np.exp(np.asarray(rows, np.float64)))


def on_rows(law: Any) -> Any:
    return C.on_rows(law, BITS)


def near() -> Any:
    return C.rbf(POINTS, 0.7)


WEIGHTS = [0.4, 0.6]
WORDS: dict[str, Any] = {
    "seen": lambda of: C.convex_combination([of(LAW), near()], WEIGHTS),
    "hidden": lambda of: C.mixture([of(LAW), of(C.erasure(0.8, fill=2))], WEIGHTS),
    "joined": lambda of: C.join([of(LAW), C.labels(X % 2)]),
    "behind a step": lambda of: C.convolve(near(), of(LAW)),
    "behind a chain": lambda of: C.compose(
        C.same_class(X % 2), C.same_class(X // 4), of(LAW)
    ),
    "before": lambda of: C.convolve(of(LAW), near()),
    "twice": lambda of: C.convolve(of(LAW), of(C.erasure(0.6, fill=2))),
    "nested": lambda of: C.convex_combination(
        [C.convolve(of(LAW), near()), C.join([near(), C.labels(X % 4)])], WEIGHTS
    ),
}
WITHOUT_DENSITY = ("before", "twice", "nested")


@functools.cache
def kernel_of(name: str) -> np.ndarray:
    """The exact dual kernel, by the operator of the tables."""
    op = cx.association_operator(WORDS[name](table_of))
    f = jnp.eye(len(X), dtype=op.dtype)
    return np.asarray(op.matmat(op.rmatmat(f)), np.float64) * len(X)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
def test_an_operator_by_monte_carlo_holds_the_truth_within_its_error(name):
    context = WORDS[name](on_rows)
    assert ("log_density" in context.capabilities) == (name not in WITHOUT_DENSITY)
    op = cx.operators.monte_carlo_operator(context, None, 2000, key=KEY, num_batches=20)
    exact = kernel_of(name)
    level = math.erf(MONTE_CARLO_SIGMAS / 2**0.5)  # of the normal law
    found = cx.operators.monte_carlo_kernel(op, X, X, level=level)
    assert ((found.lower <= exact) & (exact <= found.upper)).all()
    assert np.abs(np.asarray(found.estimate) - exact).max() < 0.15 * exact.max()
    # The eigenvalues of the kernel under the uniform law are squares.
    values = np.sqrt(np.linalg.eigvalsh(exact / len(X))[::-1][1:4])
    error = cx.evaluation.monte_carlo_error(op, 3, key=KEY)
    assert (error.band.lower <= values).all()
    assert (values <= error.band.upper).all()
    assert (error.band.upper - error.band.lower).max() < 0.25
    result, _ = cx.svd(op, 3, key=KEY)
    np.testing.assert_allclose(
        result.singular_values, error.band.estimate, atol=promised(DTYPE)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["behind a step", "joined"])
def test_densities_are_those_of_the_table_and_of_what_is_drawn(name):
    context, truth = (WORDS[name](of) for of in (on_rows, table_of))
    a, numbers, x = VALUES[:9], np.arange(9), X[np.arange(9) % len(X)]
    if name == "joined":
        a, numbers = (a, numbers % 2), (numbers, numbers % 2)
    expected = truth.log_density(numbers, x)
    np.testing.assert_allclose(
        np.exp(context.log_density(a, x)), np.exp(expected), atol=promised(DTYPE)
    )
    pairs = np.asarray(C.all_log_densities(context, a, jnp.asarray(X)))
    np.testing.assert_allclose(
        np.exp(pairs[np.arange(9), x]), np.exp(expected), atol=promised(DTYPE)
    )
    assert C.check_density(context, X, key=KEY).p_value > 1e-3


@pytest.mark.slow
def test_a_step_back_is_drawn_by_bayes_rule_and_keeps_the_draws_of_a_row():
    context = WORDS["before"](on_rows)
    num = 2000
    drawn = context.sample(KEY, np.repeat(X[:2], num))
    later = context.sample(KEY, np.repeat(X[1:2], num), row_offset=num)
    np.testing.assert_array_equal(drawn[num:], later)
    law = np.asarray(WORDS["before"](table_of).table(), np.float64)[:2] * len(X)
    for own, row in zip(law, np.asarray(drawn).reshape(2, num), strict=True):
        share = np.bincount(row, minlength=len(own)) / num
        error = MONTE_CARLO_SIGMAS * np.sqrt(own * (1 - own) / num)
        assert (np.abs(share - own) <= error).all()
    assert C.reverse(C.reverse(on_rows(LAW))).capabilities == (
        "sample",
        "log_density",
        "at",
        "reverse",
    )


class Blind:
    """A sampler whose density nobody knows."""

    def sample(self, key: Any, x: Any, *, row_offset: Any = 0) -> Any:
        keys = C.row_keys(key, len(x), row_offset)
        return jnp.asarray(x) + jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)


def test_a_sampler_without_a_density_is_drawn_from_in_every_word():
    noise = C.on_rows(Blind(), POINTS)
    assert noise.capabilities == ("sample", "at")
    context = C.convolve(near(), noise)
    assert context.capabilities == ("sample", "at")
    assert context.sample(KEY, X).shape == (8, 3)
    assert C.join([noise, near()]).sample(KEY, X)[0].shape == (8, 3)
    assert noise.at(POINTS[:2]).sample(KEY, jnp.array([1, 0])).shape == (2, 3)


def operator(context: Any, x: Any = None, **options: Any) -> Any:
    return cx.operators.monte_carlo_operator(context, x, 40, key=KEY, **options)


def uneven() -> Any:
    return C.graph(np.outer(X, X) + 1.0)


BAD: dict[str, tuple[Any, Any, str]] = {
    "numbers already": (
        lambda: C.on_rows(near(), POINTS),
        TypeError,
        "law must be one of A at any x; got a Rbf, of numbers already",
    ),
    "no rows": (lambda: C.on_rows(LAW, BITS[:0]), ValueError, "x must have at least"),
    "another row": (
        lambda: C.on_rows(LAW, BITS).at(BITS[:, :2]),
        ValueError,
        r"x_new must have rows of shape \(3,\); got \(2,\)",
    ),
    "a row that is not there": (
        lambda: on_rows(LAW).sample(KEY, [8]),
        ValueError,
        "x must be between 0 and 7; got 8",
    ),
    "before what takes numbers": (
        lambda: C.compose(on_rows(LAW), near()),
        TypeError,
        r"contexts\[0\], a OnRows, has arrays and .* `convolve` goes back from its val",
    ),
    "values of two kinds": (
        lambda: C.mixture([on_rows(LAW), near()]),
        TypeError,
        r"contexts with values of one kind.*where values of A differ, convex_comb",
    ),
    "another number of rows": (
        lambda: C.join([on_rows(LAW), C.labels([0, 1])]),
        ValueError,
        r"same inputs; contexts\[0\], a OnRows, has 8 and contexts\[1\], a Labels, 2",
    ),
    "another law of rows": (
        lambda: C.convolve(on_rows(LAW), uneven()),
        ValueError,
        r"one law of X; those of contexts\[0\], a OnRows.*give both one law",
    ),
    "a step back without a density": (
        lambda: C.convolve(C.on_rows(Blind(), POINTS), near()),
        cx.CapabilityError,
        "has no `log_density`; it has: sample, at: convolve takes a step back from A",
    ),
    "an operator without a density": (
        lambda: operator(C.convolve(near(), C.on_rows(Blind(), POINTS))),
        cx.CapabilityError,
        "a Blind context has no `log_density`; it has: sample",
    ),
    "all rows of what takes any": (
        lambda: operator(LAW),
        TypeError,
        r"None is all rows of a context of numbered rows, as cx\.contexts\.on_rows",
    ),
    "rows that are not alike": (
        lambda: operator(C.join([uneven(), C.reverse(uneven())])),
        ValueError,
        "x must be given where rows are not equally likely",
    ),
    "some rows without a density": (
        lambda: operator(WORDS["before"](on_rows), X[:3]),
        ValueError,
        "x must be None for a context without `log_density`",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_in_a_line_that_says_what_would(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_law_on_rows_has_a_density_after_whatever_is_finite_only():
    before = C.compose(C.on_rows(C.gaussian_noise(1.0), POINTS), C.gaussian_noise(1.0))
    assert before.capabilities == ("sample", "at")
    with pytest.raises(cx.CapabilityError, match="a Composed context has no `log_dens"):
        operator(before)
    values = oracle.singular_values(WORDS["behind a step"](table_of).table())
    alone = oracle.singular_values(table_of(LAW).table())
    assert (values <= alone + promised(DTYPE)).all()
