"""Batches of rows from arrays and memory-mapped files, and feeds from any iterator.

What matters for a resume is that the batch of a step is a function of the step. For
arrays it is: the batch is drawn by `(seed, step)`, whatever came before. Iterators with
`get_state` and `set_state` (Grain's) are put back where they were, others are run
forward.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from contexture_jax._core.checks import as_array, check_integer, counted
from contexture_jax._core.types import short_repr

__all__ = ["Batches", "batches", "feed"]

# With ideal round functions four rounds are a pseudo-random permutation (Luby and
# Rackoff 1988); ours are hashes of a few bits.
NUM_ROUNDS = 8

# Places at once: of a thousand the calls of NumPy take longer than the work.
_CHUNK = 2**14
_ALIGNED = 64  # bytes, of what JAX does not copy


@short_repr
@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of `batches`, by step; iterate for the endless sequence of them.

    Attributes:
        arrays: a pytree of NumPy arrays with the same number of rows.
        batch_size: rows of the whole batch, over all processes.
        seed: of the order of the rows.
        shuffle: whether rows come in a new order in each epoch.
        shard: (i, k): this process reads the i-th of k equal parts of each batch.
    """

    arrays: Any
    batch_size: int
    seed: int
    shuffle: bool
    shard: tuple[int, int]

    @property
    def num_rows(self) -> int:
        """Rows of the data."""
        return int(jax.tree.leaves(self.arrays)[0].shape[0])

    def rows(self, step: int) -> np.ndarray:
        """Which rows this process reads for a step, int64, shape (batch_size / k,)."""
        part, parts = self.shard
        share = self.batch_size // parts
        # The stream of all epochs end to end: rows are its places, so that no step
        # needs those before it.
        start = step * self.batch_size + part * share
        end = start + share
        if not self.shuffle:
            return np.arange(start, end, dtype=np.int64) % self.num_rows
        pieces = []
        # A batch may hold the end of one epoch and the start of the next, or several.
        while start < end:
            epoch, place = divmod(start, self.num_rows)
            chunk, first = divmod(place, _CHUNK)
            order = _order(self.num_rows, self.seed, epoch, chunk)
            pieces.append(order[first : first + end - start])
            start += len(pieces[-1])
        return np.concatenate(pieces)

    def at(self, step: int) -> Any:
        """This process's part of the batch of a step, as new NumPy arrays."""
        rows = self.rows(step)
        return jax.tree.map(
            lambda leaf: as_array(_taken(leaf, rows), "arrays"),
            self.arrays,
        )

    def from_step(self, step: int) -> Iterator[Any]:
        """The batches of the steps `step`, `step + 1`, … without end."""
        while True:
            yield self.at(step)
            step += 1

    def __iter__(self) -> Iterator[Any]:
        return self.from_step(0)


def batches(
    arrays: Any,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """Shuffled batches of arrays or memory-mapped files, endless and random access.

    An epoch is one pass over all rows in an order of its own; no row is left out: a
    batch at the border holds the last rows of one epoch and the first of the next.
    Orders are computed, not stored, and rows are read when their batch is due, so
    memory does not grow with the data: a file opened by `np.load(path, mmap_mode="r")`,
    or a folder of `.npy` files by `cx.data.open_shards(path)`, is never loaded.
    The batch of a step depends on `seed` and the step alone.

    Args:
        arrays: an array, or a pytree of them with the same number of rows.
        batch_size: rows of a batch, over all processes; may exceed the data's.
        seed: of the order of the rows.
        shuffle: False: in the order of the data.
        shard: (i, k): read the i-th of k equal parts of each batch only, for k
            processes: (jax.process_index(), jax.process_count()).

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> data = cx.training.batches({"x": np.arange(6)}, 4, seed=0)
        >>> sorted(int(i) for step in range(3) for i in data.at(step)["x"])
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    """
    arrays = jax.tree.map(_on_host, arrays)
    leaves = jax.tree.leaves(arrays)
    # An array without axes gives (), one without rows (0,): both are refused with the
    # rest.
    counts = {leaf.shape[:1] for leaf in leaves}
    if len(counts) != 1 or counts == {()} or counts == {(0,)}:
        msg = (
            "arrays must be one or more, all with the same number of rows, at least 1;"
            f" got shapes {[leaf.shape for leaf in leaves]}"
        )
        raise ValueError(msg)
    size = check_integer(batch_size, "batch_size", low=1)
    parts = check_integer(shard[1], "shard[1]", low=1)
    part = check_integer(shard[0], "shard[0]", low=0, high=parts - 1)
    if size % parts:
        msg = f"batch_size must be a multiple of the {parts} shards; got {size}"
        raise ValueError(msg)
    return Batches(
        arrays, size, check_integer(seed, "seed", low=0), bool(shuffle), (part, parts)
    )


def _on_host(leaf: Any) -> Any:
    # Shards give rows as an array does, when they are asked for.
    if hasattr(leaf, "take") and hasattr(leaf, "blocks"):
        return leaf
    # A memory map is viewed as a plain array, and read as late.
    is_mapped = isinstance(leaf, np.memmap)
    array = np.asarray(leaf) if is_mapped else as_array(leaf, "arrays")
    if array.dtype == object or not array.ndim:
        msg = (
            "arrays must be arrays with rows in front; got a"
            f" {type(leaf).__name__}{_of_objects(array)}: use np.asarray on lists"
        )
        raise TypeError(msg)
    return array


def _of_objects(array: np.ndarray) -> str:
    return " of Python objects" if array.dtype == object and array.ndim else ""


def _taken(leaf: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows, new, in memory that JAX takes as it is on a CPU."""
    shape = (len(rows), *leaf.shape[1:])
    size = math.prod(shape) * leaf.dtype.itemsize
    memory = np.empty(size + _ALIGNED, np.uint8)
    # NumPy's own begins 16 bytes into a page, and would be copied.
    first = -memory.ctypes.data % _ALIGNED
    out = memory[first : first + size].view(leaf.dtype).reshape(shape)
    # Places are below the number of rows by construction, so that the check of each is
    # spared.
    return np.take(leaf, rows, axis=0, mode="clip", out=out)


# The same few chunks serve all batches of some steps, of two epochs at a border.
@functools.lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int, chunk: int) -> np.ndarray:
    """A chunk of the permutation of an epoch, at most `_CHUNK` places of it."""
    start = chunk * _CHUNK
    order = shuffled(np.arange(start, min(start + _CHUNK, size)), size, seed, epoch)
    # Others will be given it.
    order.flags.writeable = False
    return order


def shuffled(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """A pseudo-random permutation of 0, …, size − 1 at some places, without a table.

    A balanced Feistel network on the next power of 4, whose values beyond `size` go
    round again until they are below (cycle walking), which keeps it a permutation.

    Args:
        places: int64, shape (b,), each below `size`.
        size: of the set.
        seed: with `epoch`, which permutation.
        epoch: likewise.
    """
    # Half of the bits, rounded up: fewer than 4 · size values (16 at least), so that a
    # walk takes less than four turns on average.
    half = max(((size - 1).bit_length() + 1) // 2, 2)
    low = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    # NumPy keeps the streams of seeds across its versions, which it does not promise of
    # generators.
    keys = np.random.SeedSequence([seed, epoch]).generate_state(NUM_ROUNDS, np.uint64)
    values = places.astype(np.uint64)
    # Those that are still outside the set; at least a quarter leaves in each turn on
    # average.
    walking = np.arange(len(values))
    while len(walking):
        left, right = values[walking] >> shift, values[walking] & low
        for round_key in keys:
            # A round can be undone whatever the hash is: the network is a permutation.
            left, right = right, left ^ (_mixed(right ^ round_key) & low)
        values[walking] = (left << shift) | right
        walking = walking[values[walking] >= np.uint64(size)]
    return values.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A hash of 64 bits: the finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def feed(
    data: Iterable[Any], start: int, position: str | None
) -> Iterator[tuple[Any, str | None]]:
    """Batches from step `start` on, each with the position after it.

    Args:
        data: `Batches` (anything with `from_step`), or an iterable of batches.
        start: steps that are done.
        position: what came with the batch of the last of them, or None.

    Raises:
        TypeError: if `data` is one array or no iterable.
        ValueError: if the data ends before `start`.
    """
    # In the generator's first step, as nothing of a generator runs before.
    check_feed(data)
    # Random access: no position need be kept, the step is enough.
    if hasattr(data, "from_step"):
        for batch in data.from_step(start):  # pyright: ignore
            yield batch, None
        return
    source = iter(data)
    if hasattr(source, "get_state") and hasattr(source, "set_state"):
        # No position: a run that was begun with another kind of data, or before its
        # first step.
        if position is not None:
            source.set_state(_decoded(position))  # pyright: ignore
        else:
            _skip(source, start)
        for batch in source:
            # After the batch: the position from which the *next* one comes.
            yield batch, _encoded(source.get_state())  # pyright: ignore
        return
    _skip(source, start)
    for batch in source:
        yield batch, None


def check_feed(data: Any) -> None:
    """Raise a `TypeError` unless `data` is an iterable of batches, and no batch."""
    # Arrays and dicts are iterable, by rows and by names: a loop over them would run
    # without an error, over the wrong thing.
    is_one = isinstance(data, (dict, str, bytes)) or hasattr(data, "__array__")
    if is_one or not isinstance(data, Iterable):
        msg = (
            "data must be batches, as cx.training.batches(x, 64, seed=0) or any"
            f" iterable of them; got a {type(data).__name__}"
        )
        raise TypeError(msg)


def _skip(source: Iterator[Any], count: int) -> None:
    for done in range(count):
        # A sentinel of our own, as any value may be a batch.
        if next(source, _END) is _END:
            msg = (
                f"data must hold the batches of the {counted(count, 'step')} that are"
                f" done, which are skipped; it ended after {done}"
            )
            raise ValueError(msg)


_END = object()


def _encoded(state: Any) -> str:
    if isinstance(state, bytes):
        # JSON, as a position goes into a checkpoint: a pickle could run code when it is
        # read.
        return json.dumps({"bytes": b64encode(state).decode()})
    return json.dumps({"json": state})


def _decoded(text: str) -> Any:
    held = json.loads(text)
    return b64decode(held["bytes"]) if "bytes" in held else held["json"]
