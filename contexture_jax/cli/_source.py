"""What DATA holds, as named columns that nothing has interpreted yet."""

from typing import NamedTuple

import numpy as np

__all__ = ["Source"]


class Source(NamedTuple):
    """What DATA holds.

    Attributes:
        title: what to call it.
        names: the names of the columns.
        columns: one array a column, shape (n,): text (dtype object) from a CSV,
            finite float64 otherwise.
        vectors: arrays beside the columns that can serve as a target, shape (n,).
        lines: the line in the file on which each row ends; None where rows are not
            lines.
        notes: what was done in reading that a reader should know.
    """

    title: str
    names: list[str]
    columns: list[np.ndarray]
    vectors: dict[str, np.ndarray]
    lines: list[int] | None
    notes: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.columns[0])

    def place(self, row: int) -> str:
        """How a message calls row `row`, counted from 0."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"
