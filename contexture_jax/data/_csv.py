"""Reading a CSV: its dialect, its header and its cells, with the line of each.

Arrow parses, into columns of text: it refuses rows of another length where pandas and
polars fill or cut them, and holds a cell in its bytes. Types are told from the text in
`_columns`, since a typed column has forgotten how it was written: 64-bit numbers, codes
with leading zeros, and what a message quotes. Arrow does not tell lines and takes an
unclosed quotation mark as closed, so that the standard library's strict reader goes
over files that hold one, over what Arrow refuses, and where a message needs a line.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.data._dialect import (
    SPACES,
    as_tabs,
    find_separator,
    named,
    said_first,
    worded,
)
from contexture_jax.data._messages import InputError, counted, parameter, quoted
from contexture_jax.data._notation import number
from contexture_jax.data._preface import decoded, without_comments
from contexture_jax.data._source import DEFAULT_DIALECT, Cells, Dialect, Lines, Source
from contexture_jax.data._texts import Texts

__all__ = ["read_csv"]

# Arrow takes blocks below 2 GB.
_LARGEST_BLOCK = 2**30
_BLANK = re.compile(r"(?m)^[ \t]+(?=\r?$)")


def read_csv(path: Path, dialect: Dialect = DEFAULT_DIALECT) -> Source:
    """Read a CSV: a line of names, and cells as text.

    Args:
        path: the file.
        dialect: the separator, if the user names it.

    Raises:
        InputError: if it is malformed, not UTF-8, or a row has too few or too many
            cells.
    """
    # The whole text in memory: dialect, comments and lines all look at it.
    text, title = decoded(path), path.name
    separator, said, skipped = dialect.separator, said_first(text), 0
    if said is not None:
        skipped = len(text[: said[1]].splitlines())
        text = text[said[1] :]
        # What the user says goes before what the file does.
        separator = separator or said[0]
    text, num_lines, notes = without_comments(text, separator, title)
    skipped += num_lines
    # After comments are gone, whose commas are prose.
    if separator is None:
        separator = find_separator(text)
    if separator == SPACES:
        # Runs of spaces become one sign, as Arrow and the csv module want.
        text = as_tabs(text)
    table = _Table(text, "\t" if separator == SPACES else separator, title, skipped)
    first, header_lines = table.header()
    _check_spaces(first, separator, title)
    _check_header(first, title)
    names, columns = table.columns(first, header_lines)
    width = len(names)
    # Found out by a second reading, in the one case that a message needs a line.
    lines = Lines(functools.cache(lambda: [line for line, _ in table.body(width)]))
    # A comma goes without saying.
    inferred = dialect.separator is None and separator != "," and len(names) > 1
    names, left, more = _without_blank_columns(names, columns, title)
    return Source(
        title,
        names,
        left,
        {},
        lines,
        (*notes, *more),
        separator=named(separator) if inferred else None,
    )


class _Table:
    """The text of a CSV whose separator is known."""

    def __init__(self, text: str, separator: str, title: str, skipped: int) -> None:
        self._text, self._separator = text, separator
        self._title, self._skipped = title, skipped

    def header(self) -> tuple[list[str], int]:
        """The cells of the first row that is not blank, and the line it ends on."""
        for line, cells in self._rows():
            if any(cells):
                return cells, line - self._skipped
        raise InputError(f"{self._title} is empty; expected a line of column names")

    def columns(
        self, names: list[str], header_lines: int
    ) -> tuple[list[str], list[Any]]:
        """The columns below the header, and its names.

        Of separators at the ends of the lines, the header may have others than the
        rows.

        Raises:
            InputError: if a row is malformed or has another length, or none is there.
        """
        try:
            return names, self._columns(len(names), header_lines)
        # Rows of another length than the header: perhaps only separators at their ends.
        except InputError:
            width = self._other_width(names)
            if width is None:
                raise
        names = [*names[:width], *[""] * (width - len(names))]
        return names, self._columns(width, header_lines)

    def _columns(self, width: int, header_lines: int) -> list[Any]:
        parsed = self._parsed(width, header_lines)
        # Arrow closes a quotation mark by itself at the end of a file, and swallows
        # rows: with marks in the text the strict reader counts them.
        if parsed is None or '"' in self._text:
            num_rows = sum(1 for _ in self.body(width))
            if parsed is None or len(parsed[0]) != num_rows:
                rows = [cells for _, cells in self.body(width)]
                parsed = [Texts.of(cells) for cells in zip(*rows, strict=True)]
        if not parsed or not len(parsed[0]):
            raise InputError(f"{self._title} has a header but no rows below it")
        return parsed

    def _other_width(self, names: list[str]) -> int | None:
        """The length of all rows, if what the header has less or more is empty."""
        # The header is the first of them.
        rows = (cells for _, cells in self._rows() if any(cells))
        next(rows, None)
        width, num_names = None, len(names)
        for cells in rows:
            width = len(cells) if width is None else width
            # Cells beyond the names, or names beyond the cells, must be empty in every
            # row.
            if len(cells) != width or any(cells[num_names:]) or any(names[width:]):
                return None
        return None if width == num_names else width

    def body(self, width: int) -> Iterator[tuple[int, list[str]]]:
        """The line and the cells of each row below the header, strictly read.

        A blank line is a missing cell if there is one column, but for those at the end.

        Raises:
            InputError: if a row is malformed or has another length.
        """
        blank, started = [], False
        for line, cells in self._rows():
            if not any(cells):
                # In one column an empty cell is a blank line; those at the end belong
                # to the file.
                if started and width == 1:
                    blank.append((line, [""]))
                continue
            if started and len(cells) != width:
                raise InputError(self._misfit(line, cells, width))
            if started:
                yield from blank
                yield line, cells
            blank, started = [], True

    def _misfit(self, line: int, cells: list[str], width: int) -> str:
        """What to say of a row that has more or fewer cells than the header."""
        what = f"line {line} of {self._title}"
        # A comment below the header is the likelier mistake than a missing cell.
        if cells[0].startswith("#"):
            return (
                f"{what} starts with #, as a comment does, and has"
                f" {counted(len(cells), 'cell')}; the header names"
                f" {counted(width, 'column')}: take the line out"
            )
        separator = worded(self._separator)
        return (
            f"{what} has {counted(len(cells), 'cell')}; the header names"
            f" {counted(width, 'column')} (a {separator} inside a cell needs quotes"
            f" around it; {parameter('separator')} names another)"
        )

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The line on which each row ends, and its stripped cells."""
        # Strict, so that what stands behind a closed quotation mark is an error.
        reader = csv.reader(
            io.StringIO(self._text, newline=""), delimiter=self._separator, strict=True
        )
        line = self._skipped
        try:
            for row in reader:
                # Of the end of a row, which may span lines; a comment above counts too.
                line = reader.line_num + self._skipped
                yield line, [cell.strip() for cell in row]
        except csv.Error as error:
            # The limit is the module's own; a mark that is never closed runs into it.
            if "field limit" in str(error):
                raise InputError(
                    f"line {line + 1} of {self._title} starts a row with a cell of more"
                    f" than {csv.field_size_limit():,} characters; shorten it, or close"
                    " the quotation mark that it starts with"
                ) from error
            raise InputError(
                f"line {line + 1} of {self._title} starts a row that is malformed CSV:"
                f" {error}"
            ) from error

    def _parsed(self, width: int, header_lines: int) -> list[Texts] | None:
        """What Arrow makes of the rows below the header; None where it fails."""
        import pyarrow as pa
        from pyarrow import csv as arrow

        # Arrow refuses a line of spaces.
        text = self._text if '"' in self._text else _BLANK.sub("", self._text)
        raw = np.frombuffer(text.encode(), np.uint8)
        # In Arrow's memory, without a Python object that its threads might let go of.
        content = pa.allocate_buffer(len(raw))
        np.frombuffer(content, np.uint8)[:] = raw
        names = [str(i) for i in range(width)]
        try:
            table = arrow.read_csv(
                pa.BufferReader(content),
                read_options=arrow.ReadOptions(
                    column_names=names,
                    skip_rows=header_lines,
                    # One, that a row may be as long as it likes.
                    block_size=min(len(raw) + 1, _LARGEST_BLOCK),
                ),
                parse_options=arrow.ParseOptions(
                    delimiter=self._separator,
                    newlines_in_values=True,
                    ignore_empty_lines=width > 1,
                ),
                convert_options=arrow.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowException:
            return None
        columns = [Texts(column) for column in table.columns]
        # So that both readers refuse the same files.
        if any(column.longest() > csv.field_size_limit() for column in columns):
            return None
        return _without_blank_rows(columns)


def _without_blank_rows(columns: list[Texts]) -> list[Texts]:
    """Leave out rows of empty cells; of a single column, those at the end."""
    blank = np.ones(len(columns[0]), dtype=bool)
    for column in columns:
        if not blank.any():
            return columns
        # Column by column, and no further once no row is blank: mostly after the first.
        blank &= column.among([""])
    if len(columns) == 1:
        filled = np.flatnonzero(~blank)
        return [columns[0].head(int(filled[-1]) + 1 if filled.size else 0)]
    return [column.take(~blank) for column in columns] if blank.any() else columns


def _check_spaces(first: list[str], separator: str, title: str) -> None:
    """Tell a table without names whose columns spaces separate."""
    words = (
        first if separator == SPACES else first[0].split() if len(first) == 1 else []
    )
    # Names that are numbers are none: the file has no header.
    if len(words) > 1 and all(number(word) is not None for word in words):
        raise InputError(
            f"the first line of {title} holds {len(words)} numbers with spaces between"
            " them; expected the names of the columns there, with spaces, commas,"
            " semicolons or tabs between them"
        )


def _check_header(names: list[str], title: str) -> None:
    """Refuse a first line of numbers, and a name that two columns have."""
    named = [name for name in names if name]
    # 0, 1, 2, … are names that pandas writes of itself.
    if all(number(name) is not None for name in named) and named != [
        str(i) for i in range(len(named))
    ]:
        raise InputError(
            f"the first line of {title} holds numbers, starting with"
            f" {quoted(names[0])}; expected the names of the columns"
        )
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if name and name in seen:
            raise InputError(
                f"columns {seen[name]} and {position} of {title} are both called"
                f" {quoted(name)}; expected distinct names"
            )
        seen[name] = position


def _without_blank_columns(
    names: list[str], columns: list[Texts], title: str
) -> tuple[list[str], list[Cells], tuple[str, ...]]:
    """Leave out what separators at the ends of all lines make.

    Raises:
        InputError: if another column than the first has no name. A first one is a saved
            index or row labels: `_data` decides.
    """
    blank = {
        i
        for i, (name, column) in enumerate(zip(names, columns, strict=True))
        # A trailing separator in every line makes such a column.
        if i and not name and column.longest() == 0
    }
    for i, name in enumerate(names):
        if i and not name and i not in blank:
            raise InputError(
                f"column {i + 1} of {title} has no name; expected one in the header"
            )
    kept = [i for i in range(len(names)) if i not in blank]
    number = counted(len(blank), "empty column")
    notes = (f"{number} without a name left out",) if blank else ()
    left: list[Cells] = [columns[i] for i in kept]
    return [names[i] for i in kept], left, notes
