"""Contexts of one's own, what they can do, and what `at` and `reverse` keep."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import contexture_jax as cx
from tests.tolerances import tol

C = cx.contexts
KEY = jax.random.key(5)
DTYPE = jnp.zeros(()).dtype
X = np.random.default_rng(1).normal(size=(5, 2))


class Draws(C.SamplingContext):
    def _draw(self, key: Any, x: Any) -> Any:
        return x + jax.random.normal(key, x.shape, x.dtype)


class Density(C.SamplingContext):
    def _log_density(self, a: Any, x: Any) -> Any:
        return -0.5 * ((a - x) ** 2).sum()


class Both(Draws, Density):
    pass


class Own(C.SamplingContext):
    """With public methods of its own, in place of those of a row."""

    def sample(self, key: Any, x: Any, *, row_offset: Any = 0) -> Any:
        del row_offset
        return x + jax.random.normal(key, x.shape, x.dtype)

    def log_density(self, a: Any, x: Any) -> Any:
        return -0.5 * ((a - x) ** 2).sum(axis=-1)


class Offsetless(Draws):
    def sample(self, key: Any, x: Any) -> Any:  # pyright: ignore
        return x + jax.random.normal(key, x.shape, x.dtype)


class Plain(C.Context):
    sample = Own.sample  # pyright: ignore
    log_density = Own.log_density  # pyright: ignore


class Nothing(C.SamplingContext):
    pass


class Scoreless(C.SoftmaxContext):
    pass


class Tabled(C.Context):
    def __init__(self, table: Any) -> None:
        self.given = table

    def table(self) -> Any:
        return self.given


CAPABILITIES = [
    (Draws, ("sample",)),
    (Density, ("log_density",)),
    (Both, ("sample", "log_density")),
    (Own, ("sample", "log_density")),
    (Plain, ("sample", "log_density")),
    (Nothing, ()),
]


@pytest.mark.slow_cases("Both-names2", "Own-names3")
@pytest.mark.parametrize(("cls", "names"), CAPABILITIES)
def test_a_context_has_what_its_class_gives_and_says_so(cls, names):
    context = cls()
    assert context.capabilities == names
    has = f"it has: {', '.join(names) or 'none'}"
    for name, arguments in {"sample": (KEY, X), "log_density": (X, X)}.items():
        if name not in names:
            with pytest.raises(C.CapabilityError, match=has):
                getattr(context, name)(*arguments)
    with pytest.raises(C.CapabilityError, match=has):
        cx.association_operator(context)
    monte_carlo = {"x": X, "num_samples": 20, "key": KEY}
    if len(names) < 2:
        with pytest.raises(C.CapabilityError, match=has):
            cx.operators.monte_carlo_operator(context, **monte_carlo)
    else:
        op = cx.operators.monte_carlo_operator(context, **monte_carlo)
        np.testing.assert_allclose(op.p_a, 1 / 20, rtol=tol(op.dtype))
    if "sample" not in names:
        with pytest.raises(TypeError, match="compose takes contexts that draw"):
            C.compose(context)


def test_a_chain_tells_each_of_its_contexts_where_rows_start():
    with pytest.raises(TypeError, match=r"row_offset\)`; got Offsetless at position 1"):
        C.compose(Draws(), Offsetless())


def test_scores_are_what_a_softmax_context_is_made_of():
    assert Scoreless().capabilities == ()
    with pytest.raises(C.CapabilityError, match="its class gives no `scores`"):
        Scoreless().scores()


def test_densities_of_all_pairs_are_those_of_batches():
    by_row = Both().log_densities(X[:3], X)
    got = Own().log_densities(X[:3], X)
    np.testing.assert_allclose(got, by_row, rtol=tol(by_row.dtype))


def test_a_table_of_ones_own_must_be_a_law():
    op = cx.association_operator(Tabled([[0.5, 0.0], [0.25, 0.25]]))
    np.testing.assert_allclose(op.p_a, [0.75, 0.25])
    for table, message in [
        (np.eye(3), r"table\(\) of a Tabled must sum to 1; got 3"),
        (np.array([[np.nan, 1.0]]), r"table\(\) must be finite"),
        (np.ones(3), r"table\(\) must have 2 dimension"),
    ]:
        with pytest.raises(ValueError, match=message):
            cx.association_operator(Tabled(table))


def walks():
    weights = np.array([[0, 1, 1], [1, 0, 0], [1, 0, 2.0]])
    sparse = scipy.sparse.csr_array(weights)
    return [C.graph(w, lazy=True) for w in (weights, sparse)]


@pytest.mark.slow_cases("1")
@pytest.mark.parametrize("number", [0, 1])
def test_a_lazy_walk_refuses_new_rows_whatever_was_done_to_it(number):
    walk = walks()[number]
    for context in (
        walk.at([0, 2]),
        walk.reverse(),
        walk.at([2, 1]).at([0]),
        walk.reverse().at([0, 1]).reverse(),
    ):
        width = context.table().shape[1]
        with pytest.raises(ValueError, match="x_new must be row numbers here"):
            context.at(np.ones((1, width)))


@pytest.mark.slow
def test_reversing_new_rows_of_a_teacher_transposes():
    context = C.teacher(X).at(X[:2] + 1)
    back = context.reverse()
    np.testing.assert_allclose(
        back.table(), context.table().T, rtol=tol(DTYPE), atol=tol(DTYPE)
    )
    np.testing.assert_allclose(back.reverse().table(), context.table())
    op, reverse = map(cx.association_operator, (context, back))
    np.testing.assert_allclose(
        op.rmatmat(X[:2]), reverse.matmat(X[:2]), rtol=tol(DTYPE), atol=tol(DTYPE)
    )


def test_new_rows_of_a_weighted_graph_have_weights():
    context = C.neighbors([[0, 1], [1, 2]], [[1, 3], [2, 2]])
    new = context.at(([[2, 0]], [[3, 1]]))
    np.testing.assert_allclose(new.table(), [[0.25, 0, 0.75]])
    with pytest.raises(ValueError, match=r"a pair \(indices, weights\)"):
        context.at([[2, 0]])


def test_one_key_a_row_is_no_key_of_a_batch():
    keys = jax.random.split(KEY, 4)
    for context in (C.joint(np.eye(4)), C.gaussian_noise(1.0), C.same_class([0] * 4)):
        x: Any = X[:4] if isinstance(context, C.GaussianNoise) else jnp.arange(4)
        with pytest.raises(TypeError, match=r"training\.per_row"):
            context.sample(keys, x)


FINITE = {
    "joint": C.joint(np.eye(4) + 1),
    "labels": C.labels(list("abca")),
    "neighbors": C.neighbors([[0, 1], [1, 2], [2, 3], [3, 0]]),
    "rbf": C.rbf(X[:4]),
    "same class": C.same_class([0, 0, 1, 1]),
}


@pytest.mark.slow_cases("rbf", "same class")
@pytest.mark.parametrize("name", FINITE)
def test_row_numbers_are_any_integers_and_none_is_taken_for_the_last(name):
    context = FINITE[name]
    numbers = [0, 3]
    drawn = context.sample(KEY, numbers)
    for kind in (np.array(numbers, ">i8"), np.array(numbers, np.uint8)):
        np.testing.assert_array_equal(context.sample(KEY, kind), drawn)
    log_density = context.log_density(np.asarray(drawn).tolist(), numbers)
    assert np.isfinite(log_density).all()
    for bad, error in (([0, 4], ValueError), ([-1], ValueError), ([0.5], TypeError)):
        with pytest.raises(error, match="x must"):
            context.sample(KEY, bad)
        if name != "same class":
            with pytest.raises(error, match="x must"):
                context.log_density([0] * len(bad), bad)


@pytest.mark.slow
def test_times_beyond_the_range_of_their_numbers_are_drawn():
    context = C.time_lag(400, 150)
    np.testing.assert_array_equal(context.sample(KEY, np.array([200], np.uint8)), 350)
