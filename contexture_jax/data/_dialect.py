"""What separates the cells of a CSV, found out from its first lines."""

from __future__ import annotations

import csv
import io
import re

from contexture_jax.data._notation import is_number
from contexture_jax.data._source import DEFAULT_MISSING

__all__ = [
    "SPACES",
    "as_tabs",
    "find_separator",
    "first_rows",
    "named",
    "said_first",
    "worded",
]

SPACES = " "
_NONE = "\x1f"  # between the cells of a single column, of which it has none
_SEPARATORS = (",", ";", "\t", "|")
# Enough rows to tell by, and nothing to wait for in a file of gigabytes.
_SAMPLE = 2**16  # characters
_MOST_ROWS = 200
_SAID = re.compile(r'(?:[ \t]*(?:\r\n|\n|\r))*"?sep=([^\r\n"])"?[ \t]*(?:\r\n|\n|\r)')
_NAMES = {"\t": "tab", SPACES: "spaces"}


def named(separator: str) -> str:
    """What a message calls a separator."""
    return _NAMES.get(separator, separator)


def worded(separator: str) -> str:
    """A separator as a word, where it has one."""
    words = {",": "comma", ";": "semicolon", "|": "bar", "\t": "tab or space"}
    return words.get(separator, separator)


def said_first(text: str) -> tuple[str, int] | None:
    """The separator that a first line `sep=;` names, and how long that line is."""
    # A line of its own, which Excel reads.
    match = _SAID.match(text[:_SAMPLE])
    return None if match is None else (match[1], match.end())


def find_separator(text: str) -> str:
    """The comma, semicolon, tab, bar, or runs of spaces that make the best table.

    A separator scores the share of rows with as many cells as the first, times the
    share of cells that read as a cell: with no other separator in them, but for the
    commas of numbers and those that prose has, before a space. Spaces are tried where
    none of the others is in the first row, and only where all rows have as many words
    as the first and at least half of the columns hold numbers alone. The comma is the
    answer to a tie and to a single column.
    """
    sample = text[:_SAMPLE]
    scores = {separator: _score(sample, separator) for separator in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda separator: scores[separator])
    # Ties go to the first in `_SEPARATORS`, the comma.
    if scores[best] > 0:
        return best
    if _is_spaced(sample):
        return SPACES
    # A single column of numbers with commas in them.
    rows = [row[0] for row in _rows(sample, _NONE)]
    return _NONE if len(rows) > 1 and all(map(is_number, rows[1:])) else ","


def first_rows(text: str, separator: str) -> list[list[str]]:
    """The cells of the first rows that are not blank, whatever separates them."""
    sample = text[:_SAMPLE]
    return (
        _rows(as_tabs(sample), "\t")
        if separator == SPACES
        else _rows(sample, separator)
    )


def as_tabs(text: str) -> str:
    """The text with one tab for each run of spaces outside quotation marks."""
    # Spaces at both ends of lines separate nothing.
    text = re.sub(r"(?:^|(?<=[\r\n]))[ \t]+|[ \t]+(?=[\r\n]|$)", "", text)
    return re.sub(r'("[^"]*")|[ \t]+', lambda match: match[1] or "\t", text)


def _rows(sample: str, separator: str) -> list[list[str]]:
    """The first rows that are not blank, the last of which may be cut, so left out."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append(cells)
            if len(rows) > _MOST_ROWS:
                break
    except csv.Error:  # a cell beyond the limit: the rows before it tell
        pass
    # A row that the sample cuts would look like one of another length.
    return rows[:-1] if len(sample) == _SAMPLE and len(rows) > 1 else rows


def _score(sample: str, separator: str) -> float:
    rows = _rows(sample, separator)
    if not rows or len(rows[0]) < 2:
        return 0.0
    # Rows, without the names: these may hold any sign.
    body = rows[1:] or rows
    agreeing = sum(len(row) == len(rows[0]) for row in body)
    # A cell with a semicolon in it, read by commas, was cut in the wrong place.
    others = "".join(s for s in _SEPARATORS if s != separator)
    below, above = (
        sum(_reads(cell, others) for row in part for cell in row)
        / sum(len(row) for row in part)
        for part in (body, rows[:1])
    )
    # Rows that never agree still tell more than no separator; names decide a tie.
    return (agreeing / len(body) + 1e-3) * (below + 1e-3 * above + 1e-6)


def _reads(cell: str, others: str) -> bool:
    # But for "Smith, John": prose puts a space behind.
    foreign = re.search(f"[{re.escape(others)}](?! )", cell)
    return foreign is None or is_number(cell)


def _is_spaced(sample: str) -> bool:
    rows = _rows(as_tabs(sample), "\t")
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    if any(len(row) != len(rows[0]) for row in rows):
        return False
    # Prose has as many words in a line by chance, but no columns of numbers.
    numeric = sum(
        all(is_number(cell) or cell in DEFAULT_MISSING for cell in column)
        for column in zip(*rows[1:], strict=True)
    )
    return 2 * numeric >= len(rows[0])
