"""Batches of pairs: by step, by process, of any context and of aligned arrays."""

import dataclasses
import gc
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests.tolerances import tol

pair_batches = cx.training.pair_batches
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 2)).astype(np.float32)
KNN = cx.contexts.knn(X, num_neighbors=3)
COUNTS = np.array([[6.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 3.0]])


def same(a: Any, b: Any, *, size: int = 0) -> None:
    """To the bit, or to the rounding of products of a size."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        atol = tol(np.float32, size=size) if size else 0
        np.testing.assert_allclose(left, right, rtol=0, atol=atol)


def everything(batches: Any, steps: int = 40) -> Any:
    found = [batches.at(step) for step in range(steps)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


@dataclasses.dataclass(frozen=True)
class Plain(cx.contexts.SamplingContext):
    """A law of the user's own that is no pytree."""

    def _draw(self, key: Any, x: Any) -> Any:
        return x + jax.random.normal(key, x.shape, x.dtype)


KINDS = {
    "numbers": lambda **more: pair_batches(KNN, 8, seed=1, num_draws=2, **more),
    "features": lambda **more: pair_batches(KNN, 8, seed=1, x=X, a=X, **more),
    "law of A": lambda **more: pair_batches(
        cx.contexts.gaussian_noise(0.5), 8, seed=1, x=X, num_draws=2, **more
    ),
    "sampler": lambda **more: pair_batches(
        Plain(), 8, seed=1, x=lambda key, n: jax.random.normal(key, (n, 2)), **more
    ),
    "aligned": lambda **more: pair_batches(None, 8, seed=1, x=X[:-1], a=X[1:], **more),
    "kernel": lambda **more: pair_batches(
        cx.contexts.teacher(X), 8, seed=1, x=X, kernel=True, **more
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_function_of_its_step(kind: str) -> None:
    batches = KINDS[kind]()
    same(next(KINDS[kind]().from_step(5)), batches.at(5))
    assert not np.array_equal(batches.at(5).x, batches.at(6).x)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_processes_are_the_batch_of_one(kind: str) -> None:
    whole = KINDS[kind]().at(3)
    parts = [KINDS[kind](shard=(i, 2)).at(3) for i in range(2)]
    joined = jax.tree.map(lambda *p: np.concatenate(p), *parts)
    # A kernel of half as many rows is another program.
    same(joined, whole, size=8 if kind == "kernel" else 0)


def test_pairs_follow_the_law_and_draws_are_independent_given_x() -> None:
    joint = cx.contexts.joint(COUNTS)
    batch = everything(pair_batches(joint, 512, seed=0, num_draws=2))
    table = np.zeros((3, 3))
    np.add.at(table, (batch.x, batch.a[0]), 1 / len(batch.x))
    law = np.asarray(joint.table())
    error = np.sqrt(law * (1 - law) / len(batch.x))
    assert (np.abs(table - law) <= 5 * error).all()
    agree = np.mean(batch.a[0] == batch.a[1])
    by_row = law / np.maximum(law.sum(axis=1, keepdims=True), 1e-9)
    expected = np.sum(law.sum(axis=1) * (by_row**2).sum(axis=1))
    assert abs(agree - expected) < 5 * np.sqrt(expected / len(batch.x))


def test_rows_that_are_alike_come_in_epochs() -> None:
    rows = everything(pair_batches(KNN, 8, seed=0), 3).x
    np.testing.assert_array_equal(np.sort(rows), np.arange(24))


def test_features_are_those_of_the_numbers() -> None:
    numbers, features = pair_batches(KNN, 8, seed=1), KINDS["features"]()
    batch, seen = numbers.at(2), features.at(2)
    same((X[batch.x], X[batch.a[0]]), (seen.x, seen.a[0]))


def test_aligned_rows_stay_together() -> None:
    both = {"image": X, "size": np.arange(24)}
    batch = pair_batches(None, 8, seed=0, x=both, a=[2 * X, 3 * X]).at(1)
    same((2 * batch.x["image"], 3 * batch.x["image"]), batch.a)


def test_a_kernel_is_that_of_the_rows_of_the_batch() -> None:
    context = cx.contexts.teacher(X)
    batches = pair_batches(context, 8, seed=1, kernel=True)
    batch = batches.at(0)
    expected = context.kernel(jnp.asarray(batch.x), jnp.asarray(batch.x))
    np.testing.assert_allclose(np.asarray(batch.kernel), expected, rtol=1e-5)
    assert batch.a == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pair_batches(None, 4, seed=0, x=X), "aligned arrays; got no a"),
        (
            lambda: pair_batches(None, 4, seed=0, x=X, a=X[1:]),
            "the same number of rows; got",
        ),
        (
            lambda: pair_batches(None, 4, seed=0, x=X, a=X, num_draws=2),
            "num_draws must be that of a, 1; got 2",
        ),
        (
            lambda: pair_batches(KNN, 4, seed=0, x=X[1:]),
            "one row for each of weights, 24",
        ),
        (
            lambda: pair_batches(KNN, 4, seed=0, weights=-np.ones(24)),
            "weights must hold probabilities",
        ),
        (
            lambda: pair_batches(KNN, 5, seed=0, shard=(0, 2)),
            "multiple of the 2 shards",
        ),
        (
            lambda: pair_batches(KNN, 4, seed=0, x=lambda *_: X),
            "a sampler x goes with a context that draws for any x",
        ),
        (
            lambda: pair_batches(KNN, 4, seed=0, kernel=True, num_draws=2),
            "nothing is drawn",
        ),
        (
            lambda: pair_batches(KNN, 4, seed=0, kernel=True, recursion=True),
            "got kernel=True and recursion=True",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_context_cannot_do_is_told() -> None:
    with pytest.raises(
        cx.CapabilityError, match=r"a Teacher context has no `sample`; it has"
    ):
        pair_batches(cx.contexts.teacher(X), 4, seed=0, x=X)
    with pytest.raises(TypeError, match="x must hold inputs, one a row"):
        pair_batches(cx.contexts.gaussian_noise(1.0), 4, seed=0)


def test_probabilities_end_at_1_however_they_are_summed() -> None:
    weights = np.random.default_rng(8).random(1000)
    weights /= weights.sum()
    # One after the other they come to less than in pairs, by more than an eps.
    assert np.cumsum(weights)[-1] < weights.sum()
    picks = pair_batches(None, 8, seed=0, x=weights, a=weights, weights=weights).picks
    assert isinstance(picks, np.ndarray)
    assert picks[-1] == 1


def test_contexts_made_of_contexts_between_numbers_draw_for_row_numbers() -> None:
    halves = cx.contexts.labels(np.arange(24) % 2)
    joined = pair_batches(cx.contexts.join([KNN, halves]), 8, seed=1, x=X).at(0)
    ((neighbors, classes),) = joined.a
    rows = [int(np.flatnonzero((x == X).all(axis=1))[0]) for x in joined.x]
    np.testing.assert_array_equal(classes, np.asarray(rows) % 2)
    assert all(
        a in np.asarray(KNN.indices)[r] for r, a in zip(rows, neighbors, strict=True)
    )
    mixed = cx.contexts.convex_combination([KNN, halves])
    (columns,) = pair_batches(mixed, 8, seed=1, x=X).at(0).a
    assert ((columns >= 0) & (columns < 26)).all()


class Ring:
    """A walk on five states that knows nothing of this package, but for its table."""

    def table(self) -> Any:
        steps = np.eye(5) + np.roll(np.eye(5), 1, axis=1)
        return steps / steps.sum()


def test_any_object_with_methods_of_a_context_is_one() -> None:
    class Noise:
        def sample(self, key: Any, x: Any, *, row_offset: Any = 0) -> Any:
            keys = cx.contexts.row_keys(key, len(x), row_offset)
            return x + jax.vmap(jax.random.normal)(keys)[:, None]

    batch = pair_batches(Noise(), 8, seed=1, x=X).at(0)
    assert batch.a[0].shape == batch.x.shape
    steps = everything(pair_batches(Ring(), 8, seed=1), 4)
    assert set((steps.a[0] - steps.x) % 5) == {0, 1}
    kernel = pair_batches(Ring(), 5, seed=1, kernel=True).at(0).kernel
    assert kernel is not None
    np.testing.assert_allclose(kernel.diagonal(), 2.5, rtol=1e-6)  # 5 (½² + ½²)

    class Near:
        def kernel(self, x: Any, x2: Any) -> Any:
            return jnp.exp(-((x[:, None] - x2[None]) ** 2).sum(axis=-1))

    rows: Any = pair_batches(Near(), 4, seed=1, x=X, kernel=True).at(0)
    np.testing.assert_allclose(
        rows.kernel, Near().kernel(rows.x, rows.x), atol=tol(np.float32)
    )
    with pytest.raises(cx.CapabilityError, match="a Noise context has no `kernel`"):
        pair_batches(Noise(), 8, seed=1, x=X, kernel=True)
    with pytest.raises(TypeError, match=r"context must be a Context.*got ndarray"):
        pair_batches(X, 8, seed=1)


def test_a_function_of_the_callers_ends_with_its_batches() -> None:
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Moved(cx.contexts.SamplingContext):
        scale: Any
        move: Callable[..., Any] = dataclasses.field(metadata={"static": True})

        def _draw(self, key: Any, x: Any) -> Any:
            return self.move(x) + self.scale * jax.random.normal(key, x.shape, x.dtype)

    def move(x: Any) -> Any:
        return 2 * x

    batches = pair_batches(Moved(jnp.float32(0.5), move), 4, seed=0, x=X)
    assert np.isfinite(batches.at(0).a[0]).all()
    left = weakref.ref(move)
    del move, batches
    gc.collect()
    assert left() is None
