"""A column of text, held by Arrow, which does to all cells at once what it can."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Texts"]


class Texts:
    """The cells of a column as text without surrounding spaces; immutable.

    A missing value of a typed column is an empty text.
    """

    def __init__(self, array: Any) -> None:
        """Hold an Arrow array of strings, or chunks of it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
            if isinstance(array, pa.ChunkedArray):  # beyond 2 GB, or without rows
                array = pa.concat_arrays(
                    [chunk.cast(pa.large_string()) for chunk in array.chunks]
                    or [pa.array([], pa.string())]
                )
        if array.null_count:
            array = array.fill_null("")
        self._array = pc.utf8_trim_whitespace(array)

    @staticmethod
    def of(cells: Iterable[Any]) -> "Texts":
        """Hold what `str` makes of each cell."""
        import pyarrow as pa

        return Texts(pa.array([str(cell) for cell in cells], pa.string()))

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> str:
        return self._array[int(row)].as_py()

    def tolist(self) -> list[str]:
        """The cells as Python's strings."""
        return self._array.to_pylist()

    def take(self, kept: np.ndarray) -> "Texts":
        """The cells where `kept`, shape (n,), bool, says so."""
        import pyarrow as pa

        return Texts(self._array.filter(pa.array(kept)))

    def head(self, count: int) -> "Texts":
        """The first cells."""
        return Texts(self._array.slice(0, count))

    def equal(self, text: str) -> np.ndarray:
        """Which cells are this text, shape (n,), bool."""
        import pyarrow.compute as pc

        return pc.equal(self._array, text).to_numpy(zero_copy_only=False)

    def any_matches(self, pattern: str) -> bool:
        """Whether a cell holds what an RE2 pattern describes."""
        import pyarrow.compute as pc

        return bool(pc.any(pc.match_substring_regex(self._array, pattern)).as_py())

    def longest(self) -> int:
        """The number of bytes of the longest cell; 0 without cells."""
        import pyarrow.compute as pc

        return pc.max(pc.binary_length(self._array)).as_py() or 0

    @cached_property
    def distinct(self) -> tuple[list[str], np.ndarray]:
        """The different texts, and the index into them of each cell, shape (n,)."""
        encoded = self._array.dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()

    def numbers(self, missing: frozenset[str]) -> np.ndarray | None:
        """The cells as float64, NaN where missing; None if one is no finite number.

        Args:
            missing: the texts that stand for a missing value.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        marks = pa.array(sorted(missing), self._array.type)
        absent = pc.is_in(self._array, marks)
        present = pc.if_else(absent, pa.scalar(None, self._array.type), self._array)
        try:
            values = present.cast(pa.float64())
        except pa.ArrowInvalid:
            return None
        if not pc.all(pc.is_finite(values), min_count=0).as_py():
            return None
        return values.to_numpy(zero_copy_only=False)
