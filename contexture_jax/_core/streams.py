"""Where blocks come from, and a thread that reads ahead."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from contexture_jax._core.checks import check_integer
from contexture_jax._core.journal import Journal
from contexture_jax._core.sparse_rows import rows_of_entries

__all__ = ["ArrayShards", "BlockSource", "Reader", "as_source", "reader_of"]

_ALIGNED = 64  # bytes: where JAX takes memory of the host as it is


@runtime_checkable
class BlockSource(Protocol):
    """A table that is read block by block, such as `cx.data.open_shards` gives.

    A method `title_of(block)`, where there is one, says what messages call a block.

    Attributes:
        title: what messages call it.
        is_dense: whether blocks are rows; else they are entries.
        shape: (n, m); of entries None where it is not known.
        dtype: of the numbers as stored.
    """

    @property
    def title(self) -> str:
        """What messages call it."""
        ...

    @property
    def is_dense(self) -> bool:
        """Whether blocks are rows."""
        ...

    @property
    def shape(self) -> tuple[int | None, int | None]:
        """(n, m)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers as stored."""
        ...

    def blocks(self, block_bytes: int) -> Sequence[Any]:
        """Parts of about so many bytes, each with `start`, `stop` and `row`.

        `row` is the first row of a dense part in the table. A pass takes them in this
        order, which fixes how sums round.
        """
        ...

    def read(self, block: Any, room: np.ndarray | None = None) -> Any:
        """Rows (b, m), in `room` if given, or rows, columns and values of entries."""
        ...

    def check(self) -> None:
        """Raise a `ValueError` if what is read is not what it was."""
        ...


class _Part(NamedTuple):
    start: int
    stop: int
    row: int


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayShards:
    """A `BlockSource` of an array in memory: the same sums in the same order.

    Attributes:
        table: shape (n, m).
        title: what messages call it.
    """

    table: np.ndarray
    title: str = "the table"
    is_dense = True

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.table.shape[0], self.table.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the array."""
        return self.table.dtype

    def blocks(self, block_bytes: int) -> Sequence[_Part]:
        """Parts of about so many bytes."""
        n, m = self.shape
        step = max(1, block_bytes // max(1, m * self.dtype.itemsize))
        return [_Part(i, min(i + step, n), i) for i in range(0, n, step)]

    def read(self, block: _Part, room: np.ndarray | None = None) -> np.ndarray:
        """The rows of a part."""
        rows = self.table[block.start : block.stop]
        if room is None:
            return rows
        room[: len(rows)] = rows
        return room[: len(rows)]

    def check(self) -> None:
        """Memory does not change by itself."""


@dataclasses.dataclass(eq=False)
class Reader:
    """Passes over a source, with a bounded number of blocks in memory.

    Attributes:
        source: of the blocks.
        blocks: all of them, in order.
        dtype: in which they are wanted.
        depth: how many are read ahead.
        journal: where parts of products are kept, or None.
        mark: what tells its table from others, for the journal.
        tally: how often there was a product, by its kind and columns.
        bytes_read: by all passes so far, as they are in memory.
        passes: how often all was read.
    """

    source: BlockSource
    blocks: Sequence[Any]
    dtype: np.dtype
    depth: int = 2
    journal: Journal | None = None
    mark: str = ""
    tally: collections.Counter[Any] = dataclasses.field(
        default_factory=collections.Counter
    )
    bytes_read: int = 0
    passes: float = 0.0

    @property
    def num_rows(self) -> int:
        """Of the largest block: all dense ones are filled up to that."""
        return max(block.stop - block.start for block in self.blocks)

    def ahead(self, start: int = 0) -> Iterator[tuple[int, Any]]:
        """The blocks from `start` on, each while the next are being read.

        Dense ones lie in memory that is written over once two more have been asked for.

        Yields:
            The number of a block, and its rows (num_rows, m), zeros behind the last, or
            a matrix of SciPy's of its rows from the first to the last.
        """
        room = self._room() if self.source.is_dense else None
        with ThreadPoolExecutor(1, thread_name_prefix="blocks") as pool:
            waiting: collections.deque[tuple[int, Future[Any]]] = collections.deque()
            following = iter(range(start, len(self.blocks)))

            def ask() -> None:
                number = next(following, None)
                if number is not None:
                    place = None if room is None else room[number % len(room)]
                    waiting.append((number, pool.submit(self._read, number, place)))

            try:
                for _ in range(self.depth):
                    ask()
                while waiting:
                    number, future = waiting.popleft()
                    block = future.result()
                    # Into a place that nobody reads: there is one more than are asked
                    # for.
                    ask()
                    self.passes += 1 / len(self.blocks)
                    yield number, block
            finally:
                for _, future in waiting:
                    future.cancel()

    def title_of(self, block: Any) -> str:
        """What to call a block, or all where the source does not say."""
        return getattr(self.source, "title_of", lambda _: self.source.title)(block)

    def _room(self) -> list[np.ndarray]:
        shape = (self.num_rows, self.source.shape[1])
        return [_aligned(shape, self.dtype) for _ in range(self.depth + 1)]

    def _read(self, number: int, room: np.ndarray | None) -> Any:
        block = self.blocks[number]
        if room is None:
            rows, columns, values = self.source.read(block)
            # Before there is a matrix as large as they say.
            for numbers, size, what in zip(
                (rows, columns), self.source.shape, ("row", "column"), strict=True
            ):
                _check_numbers(numbers, size, f"{self.title_of(block)} holds {what}")
            self.bytes_read += rows.nbytes + columns.nbytes + values.nbytes
            with np.errstate(over="ignore"):  # infinite is told
                values = values.astype(self.dtype, copy=False)
            return rows_of_entries(rows, columns, values)
        size = block.stop - block.start
        if self.source.dtype == self.dtype:
            self.source.read(block, room)
        else:
            with np.errstate(over="ignore"):
                room[:size] = self.source.read(block)
        self.bytes_read += size * room.shape[1] * self.source.dtype.itemsize
        # What the block before left there.
        room[size:] = 0
        return room


def _check_numbers(numbers: np.ndarray, size: int | None, what: str) -> None:
    largest = int(numbers.max()) if len(numbers) else -1
    if size is not None and largest >= size:
        msg = (
            f"{what} number {largest}; expected numbers below {size}, as its shape says"
        )
        raise ValueError(msg)


def as_source(source: Any) -> BlockSource:
    """A source as it is, and an array in memory, or mapped to it, as one.

    Raises:
        TypeError: if it is neither.
        ValueError: if an array is no table of real numbers, or empty.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or not source.size or source.dtype.kind not in "biuf":
            msg = (
                "source must be a table of real numbers, (rows, columns); got"
                f" {source.dtype}{source.shape}"
            )
            raise ValueError(msg)
        return ArrayShards(source)
    if not hasattr(source, "blocks") or not hasattr(source, "read"):
        msg = (
            "source must be as from cx.data.open_shards, or an array of NumPy; got"
            f" {type(source).__name__}"
        )
        raise TypeError(msg)
    return source


def reader_of(
    source: BlockSource,
    block_bytes: Any,
    dtype: Any,
    *,
    depth: Any = 2,
    journal: Journal | None = None,
) -> Reader:
    """A reader of blocks of about so many bytes.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if it is below 1.
    """
    size = check_integer(block_bytes, "block_bytes", low=1)
    depth = check_integer(depth, "depth", low=1)
    return Reader(source, source.blocks(size), np.dtype(dtype), depth, journal)


def _aligned(shape: tuple[int, Any], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + _ALIGNED, np.uint8)
    start = -raw.ctypes.data % _ALIGNED
    return raw[start : start + size].view(dtype).reshape(shape)
