"""A column of text, held by Arrow, which does to all cells at once what it can.

Arrays go to and from Arrow as buffers: `pyarrow.array`, `scalar` and `to_numpy` load
pandas where that is installed, which takes longer than to read most tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Texts", "as_numpy", "compute"]

# What NumPy calls otherwise.
_DTYPES = {"double": "float64", "float": "float32", "halffloat": "float16"}


class Texts:
    """The cells of a column as text without surrounding spaces; immutable.

    A missing value of a typed column is an empty text.
    """

    def __init__(self, array: Any) -> None:
        """Hold an Arrow array of strings, or chunks of it."""
        import pyarrow as pa

        pc = compute()

        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
            # Offsets of 32 bits end there; those of 64 take over.
            if isinstance(array, pa.ChunkedArray):  # beyond 2 GB, or without rows
                array = pa.concat_arrays(
                    [chunk.cast(pa.large_string()) for chunk in array.chunks]
                    or [_strings([])]
                )
        if array.null_count:
            empty = _strings([""] * len(array)).cast(array.type)
            array = pc.if_else(array.is_valid(), array, empty)
        # Once, here: all comparisons below are of trimmed text.
        self._array = pc.utf8_trim_whitespace(array)

    @staticmethod
    def of(cells: Iterable[Any]) -> Texts:
        """Hold what `str` makes of each cell."""
        return Texts(_strings([str(cell) for cell in cells]))

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> str:
        return self._array[int(row)].as_py()

    def tolist(self) -> list[str]:
        """The cells as Python's strings."""
        return self._array.to_pylist()

    def take(self, kept: np.ndarray) -> Texts:
        """The cells where `kept`, shape (n,), bool, says so."""
        import pyarrow as pa

        # Arrow's booleans are bits, the lowest first.
        bits = pa.py_buffer(np.packbits(kept, bitorder="little"))
        mask = pa.Array.from_buffers(pa.bool_(), len(kept), [None, bits])
        return Texts(self._array.filter(mask))

    def head(self, count: int) -> Texts:
        """The first cells."""
        return Texts(self._array.slice(0, count))

    def among(self, texts: Iterable[str]) -> np.ndarray:
        """Which cells are one of these texts, shape (n,), bool."""
        pc = compute()

        # In a fixed order, as sets have none.
        values = _strings(sorted(texts)).cast(self._array.type)
        return as_numpy(pc.is_in(self._array, values))

    def any_matches(self, pattern: str) -> bool:
        """Whether a cell holds what an RE2 pattern describes."""
        pc = compute()

        return bool(pc.any(pc.match_substring_regex(self._array, pattern)).as_py())

    def any_starts_with(self, prefix: str) -> bool:
        """Whether a cell begins with this: several times sooner told than a pattern."""
        pc = compute()

        return bool(pc.any(pc.starts_with(self._array, prefix)).as_py())

    def longest(self) -> int:
        """The number of bytes of the longest cell; 0 without cells."""
        pc = compute()

        return pc.max(pc.binary_length(self._array)).as_py() or 0

    @cached_property
    def distinct(self) -> tuple[list[str], np.ndarray]:
        """The different texts, and the index into them of each cell, shape (n,)."""
        # One pass in Arrow; most columns have far fewer texts than cells.
        encoded = self._array.dictionary_encode()
        return encoded.dictionary.to_pylist(), as_numpy(encoded.indices)

    def numbers(self, missing: frozenset[str]) -> np.ndarray | None:
        """The cells as float64, NaN where missing; None if one is no finite number.

        Args:
            missing: the texts that stand for a missing value.
        """
        import pyarrow as pa

        # Marks out before the cast, which knows none.
        present = ~self.among(missing)
        cells = self if present.all() else self.take(present)
        try:
            found = as_numpy(cells._array.cast(pa.float64()))
        except pa.ArrowInvalid:
            return None
        # "inf" and "nan" are texts that Arrow reads: whoever called decides on them.
        if not np.isfinite(found).all():
            return None
        values = np.full(len(self), np.nan)
        values[present] = found
        return values


def as_numpy(array: Any) -> np.ndarray:
    """An Arrow array, or chunks, of numbers or booleans: float64 with NaN for nulls."""
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if array.null_count:
        values = as_numpy(array.cast(pa.float64()).drop_null())
        found = np.full(len(array), np.nan)
        found[as_numpy(array.is_valid())] = values
        return found
    # A slice shares the buffers of what it was cut from.
    start, stop = array.offset, array.offset + len(array)
    content = array.buffers()[1]
    if pa.types.is_boolean(array.type):
        bits = np.frombuffer(content, np.uint8)
        return np.unpackbits(bits, count=stop, bitorder="little")[start:] == 1
    name = _DTYPES.get(str(array.type), str(array.type))
    return np.frombuffer(content, name, stop)[start:]


def compute() -> Any:
    """Arrow's functions, which no checker of types sees: it makes them when loaded."""
    import pyarrow.compute

    return pyarrow.compute


def _strings(texts: list[str]) -> Any:
    """An Arrow array of strings."""
    import pyarrow as pa

    # As it stands for half a character, which no UTF-8 has.
    raw = [text.encode("utf-8", errors="replace") for text in texts]
    offsets = np.zeros(len(raw) + 1, dtype=np.int64)
    np.cumsum([len(cell) for cell in raw], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(raw))]
    array = pa.Array.from_buffers(pa.large_string(), len(raw), buffers)
    return array if offsets[-1] >= 2**31 else array.cast(pa.string())
