"""Batches by step, files that are never loaded, iterators that are put back."""

import itertools
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.training._data import feed, shuffled


@pytest.mark.parametrize("size", [1, 2, 5, 64, 65, 1000])
def test_an_order_holds_every_row_once(size: int) -> None:
    order = shuffled(np.arange(size), size, 7, 3)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    some = np.arange(size)[size // 2 :]
    np.testing.assert_array_equal(order[some], shuffled(some, size, 7, 3))


@pytest.mark.slow
def test_orders_are_uniform() -> None:
    # Each of 24 orders of 4 rows, and each place of row 0 among 50, equally often.
    count = 1200
    orders = [tuple(shuffled(np.arange(4), 4, 0, epoch)) for epoch in range(count)]
    seen = np.array([orders.count(p) for p in itertools.permutations(range(4))])
    expected = count / 24
    assert np.sum((seen - expected) ** 2 / expected) < 23 + 5 * np.sqrt(2 * 23)
    places = [
        int(np.argmin(shuffled(np.arange(50), 50, 1, epoch))) for epoch in range(count)
    ]
    seen = np.bincount(places, minlength=50)
    expected = count / 50
    assert np.sum((seen - expected) ** 2 / expected) < 49 + 5 * np.sqrt(2 * 49)


def test_neighbours_in_one_order_are_unrelated() -> None:
    order = shuffled(np.arange(4096), 4096, 2, 0)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(4096)
    again = shuffled(np.arange(4096), 4096, 2, 1)
    assert abs(np.corrcoef(order, again)[0, 1]) < 5 / np.sqrt(4096)


def test_epochs_follow_each_other_without_loss() -> None:
    x = np.arange(10)
    drawn = cx.training.batches({"x": x, "y": 2.0 * x}, 4, seed=1)
    stream = np.concatenate([drawn.at(step)["x"] for step in range(5)])
    for epoch in (stream[:10], stream[10:]):
        np.testing.assert_array_equal(np.sort(epoch), x)
    assert not np.array_equal(stream[:10], stream[10:])
    batch = drawn.at(2)
    np.testing.assert_array_equal(batch["y"], 2.0 * batch["x"])


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    x = np.arange(100)
    drawn = cx.training.batches(x, 8, seed=1)
    forward = list(itertools.islice(drawn, 6))
    np.testing.assert_array_equal(drawn.at(4), forward[4])
    np.testing.assert_array_equal(next(drawn.from_step(4)), forward[4])
    other = cx.training.batches(x, 8, seed=2)
    assert not np.array_equal(other.at(4), forward[4])


def test_an_order_does_not_hang_on_where_it_was_begun() -> None:
    # Longer than what is worked out at once, and a batch over each border.
    size = 40_000
    drawn = cx.training.batches(np.arange(size), 7000, seed=5)
    rows = np.concatenate([drawn.rows(step) for step in range(7)])
    whole = [shuffled(np.arange(size), size, 5, epoch) for epoch in range(2)]
    np.testing.assert_array_equal(rows, np.concatenate(whole)[: len(rows)])


@pytest.mark.parametrize("dtype", ["float32", ">f4", "int8"])
def test_a_batch_is_placed_without_a_copy(dtype: str) -> None:
    data = np.arange(120).reshape(40, 3).astype(dtype)
    batch = cx.training.batches(data, 17, seed=0).at(3)
    assert batch.dtype.isnative
    assert not np.shares_memory(batch, data)
    placed = np.asarray(jax.device_put(batch))
    np.testing.assert_array_equal(placed, data[batch[:, 0].astype(int) // 3])
    if data.dtype.isnative and jax.default_backend() == "cpu":
        assert np.shares_memory(placed, batch)


def test_in_order_without_shuffling() -> None:
    drawn = cx.training.batches(np.arange(5), 3, seed=0, shuffle=False)
    stream = np.concatenate([drawn.at(step) for step in range(3)])
    np.testing.assert_array_equal(stream, [0, 1, 2, 3, 4, 0, 1, 2, 3])


def test_shards_make_up_the_batch() -> None:
    x = jnp.arange(50)
    whole = cx.training.batches(x, 12, seed=4)
    parts = [cx.training.batches(x, 12, seed=4, shard=(i, 3)) for i in range(3)]
    joined = np.concatenate([part.at(7) for part in parts])
    np.testing.assert_array_equal(joined, whole.at(7))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    # The file is sparse: 2 GB long, and next to nothing on the disk.
    path = tmp_path / "rows.npy"
    file = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(5_000_000, 100)
    )
    file[123] = 7.0
    del file
    rows = np.load(path, mmap_mode="r")
    drawn = cx.training.batches(rows, 256, seed=0)
    assert np.shares_memory(drawn.arrays, rows)
    tracemalloc.start()
    batch = [drawn.at(step) for step in range(3)][-1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Batches, and the order of the next 2¹⁴ rows.
    assert peak < 5 * batch.nbytes + 64 * 2**14
    held = cx.training.batches(rows, 256, seed=0, shuffle=False).at(0)
    np.testing.assert_array_equal(held[123], 7.0)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((np.ones(3), np.ones(4)), {}, "same number of rows"),
        (np.ones((0, 2)), {}, "at least 1"),
        (np.ones(3), {"shard": (2, 2)}, r"shard\[0\] must be between 0 and 1"),
        (np.ones(3), {"shard": (0, 3)}, "multiple of the 3 shards"),
    ],
)
def test_bad_data_say_what_is_wrong(
    arrays: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cx.training.batches(arrays, 4, seed=0, **options)


class Counter:
    """An iterator with a state, as Grain's are: of bytes or of what JSON holds."""

    def __init__(self, binary: bool) -> None:
        self.at = 0
        self.binary = binary

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.at += 1
        return self.at

    def get_state(self) -> Any:
        return str(self.at).encode() if self.binary else {"at": self.at}

    def set_state(self, state: Any) -> None:
        self.at = int(state) if self.binary else state["at"]


@pytest.mark.parametrize("binary", [False, True])
def test_an_iterator_with_a_state_is_put_back(binary: bool) -> None:
    taken = list(itertools.islice(feed(Counter(binary), 0, None), 3))
    assert [value for value, _ in taken] == [1, 2, 3]
    fresh = Counter(binary)
    assert next(feed(fresh, 3, taken[-1][1]))[0] == 4


def test_other_iterators_are_run_forward() -> None:
    assert next(feed(iter(range(9)), 5, None)) == (5, None)
    assert next(feed([3, 1, 4], 2, None)) == (4, None)
    with pytest.raises(ValueError, match=r"5 steps that are done.* ended after 3"):
        next(feed([3, 1, 4], 5, None))


def test_looking_ahead_keeps_order_and_stays_near() -> None:
    taken = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with cx.training.prefetch(source(), lambda i: -i, size=2) as ahead:
        assert [next(ahead) for _ in range(3)] == [0, -1, -2]
        assert len(taken) <= 3 + 2 + 2
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("size", [0, 2])
def test_an_error_comes_where_its_batch_would(size: int) -> None:
    def source() -> Iterator[int]:
        yield 1
        msg = "the disk is gone"
        raise OSError(msg)

    with cx.training.prefetch(source(), lambda i: i, size=size) as ahead:
        assert next(ahead) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(ahead)


def test_a_folder_of_shards_gives_the_batches_of_their_rows(tmp_path: Path) -> None:
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    for number, part in enumerate(np.split(x, [7, 8])):
        np.save(tmp_path / f"{number}.npy", part)
    shards = cx.data.open_shards(tmp_path)
    found, expected = (cx.training.batches(a, 6, seed=1) for a in (shards, x))
    assert found.num_rows == 20
    for step in range(5):
        np.testing.assert_array_equal(found.at(step), expected.at(step))
