"""What data hold, as named columns that nothing has interpreted yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from contexture_jax.data._texts import Texts

__all__ = [
    "DEFAULT_DIALECT",
    "DEFAULT_MISSING",
    "Cells",
    "Dialect",
    "Lines",
    "Source",
    "as_dialect",
    "as_names",
    "is_repeated",
    "repeated",
]

Cells = np.ndarray | Texts
DEFAULT_MISSING = (
    *("?", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "null", "NULL", "None"),
)


class Dialect(NamedTuple):
    """How the user says that data are written; None where that is to be found out.

    Attributes:
        separator: what is between the cells of a CSV; a space stands for any number.
        decimal: what is before the decimals of a number, "." or ",".
        missing: the marks of a missing value, beside an empty cell, and nan among
            numbers; nan stands for its spellings too.
        found: whether `decimal` was found out: a column that only another sign fits
            has that.
        points: whether points are before decimals too, in a column without commas.
    """

    separator: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = DEFAULT_MISSING
    found: bool = False
    points: bool = False


DEFAULT_DIALECT = Dialect()


def as_dialect(
    separator: str | None, decimal: str | None, missing: Iterable[str]
) -> Dialect:
    """A dialect, of what a user says.

    Raises:
        TypeError: if `missing` is one text.
        ValueError: if a sign is none.
    """
    # Checked before a file is opened.
    if separator is not None and len(separator) != 1:
        msg = f"separator must be one character; got {separator!r}"
        raise ValueError(msg)
    if decimal not in (None, ".", ","):
        msg = f"decimal must be '.' or ','; got {decimal!r}"
        raise ValueError(msg)
    return Dialect(separator, decimal, as_names(missing, "missing"))


def as_names(names: Iterable[str], name: str) -> tuple[str, ...]:
    """Texts as a tuple; a `TypeError` if they are one text, whose letters are many."""
    if isinstance(names, str):
        msg = f"{name} must hold texts, as [{names!r}]; got one text"
        raise TypeError(msg)
    return tuple(names)


class Lines(NamedTuple):
    """The lines of a file on which its rows end, found out when a message needs one.

    Attributes:
        find: the lines of all rows of the file.
        rows: which of them are left, shape (n,); None: all.
    """

    find: Callable[[], list[int]]
    rows: np.ndarray | None = None

    def of(self, row: int) -> int:
        """The line on which row `row` of those that are left ends, from 1."""
        # `rows` maps from what is left to what the file has.
        return self.find()[row if self.rows is None else int(self.rows[row])]

    def take(self, kept: np.ndarray) -> Lines:
        """The lines of the rows where `kept`, shape (n,), bool, says so."""
        rows = np.arange(len(kept)) if self.rows is None else self.rows
        return self._replace(rows=rows[kept])


class Source(NamedTuple):
    """What data hold.

    Attributes:
        title: what to call it.
        names: the names of the columns.
        columns: the cells of each column, n of them: text, or numbers of shape (n,),
            NaN where one is missing.
        vectors: arrays beside the columns that can serve as a target, shape (n,).
        lines: the lines of the rows; None where rows are not lines.
        notes: what was done in reading that a reader should know.
        index_names: the names of the columns that only label rows, as the file says.
        categorical: the names of those that are categories, likewise.
        separator: what is between cells if that was found out and is no comma.
        typed: whether the file itself says which cells are missing.
        weights: a sparse matrix of shape (n, m) in place of columns, or None.
    """

    title: str
    names: list[str]
    columns: list[Cells]
    vectors: dict[str, np.ndarray]
    lines: Lines | None = None
    notes: tuple[str, ...] = ()
    index_names: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    separator: str | None = None
    weights: Any = None
    typed: bool = False

    @property
    def is_array(self) -> bool:
        """Whether the columns had no names of their own."""
        # Arrays get names x0, x1, …, which a CSV may have of its own.
        return self.lines is None and self.names[:1] == ["x0"]

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.columns[0])

    def place(self, row: int) -> str:
        """How a message calls row `row`, counted from 0."""
        return f"row {row}" if self.lines is None else f"line {self.lines.of(row)}"


def repeated(value: np.generic, count: int) -> np.ndarray:
    """A column of one value, shape (count,), which takes the memory of one cell."""
    # A stride of 0: every row is the same cell. Read only.
    return np.broadcast_to(np.asarray(value), (count,))


def is_repeated(cells: Cells) -> bool:
    """Whether a column is `repeated`, and the same value in more than one row."""
    return isinstance(cells, np.ndarray) and cells.strides == (0,) and len(cells) > 1
