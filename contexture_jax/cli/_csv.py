"""Reading a CSV: its dialect, its header and its cells, with the line of each."""

import csv
import io
from pathlib import Path

import numpy as np

from contexture_jax.cli._messages import InputError, quoted
from contexture_jax.cli._source import Source

__all__ = ["read_csv"]

_DELIMITERS = (",", ";", "\t")


def read_csv(path: Path) -> Source:
    """Read a CSV: a line of names, and cells as text.

    Raises:
        InputError: if it is malformed, not UTF-8, or a row has too few or too many
            cells.
    """
    rows, lines = _csv_rows(path)
    if not rows:
        raise InputError(f"{path.name} is empty; expected a line of column names")
    _check_separators(rows[0], path.name)
    names = _header(rows[0], path.name)
    if len(rows) == 1:
        raise InputError(f"{path.name} has a header but no rows below it")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise InputError(
                f"line {line} of {path.name} has {len(row)} cells; the header names"
                f" {len(names)} columns (a comma inside a cell needs quotes around it)"
            )
    columns = [np.array(cells, dtype=object) for cells in zip(*rows[1:], strict=True)]
    return Source(path.name, names, columns, {}, lines[1:])


def _check_separators(first: list[str], title: str) -> None:
    """Tell columns that are separated by spaces from one column."""
    words = first[0].split() if len(first) == 1 else []
    if len(words) > 1 and all(_is_number(word) for word in words):
        raise InputError(
            f"the first line of {title} holds {len(words)} numbers with spaces between"
            " them; expected the names of the columns, and commas, semicolons or tabs"
        )


def _csv_rows(path: Path) -> tuple[list[list[str]], list[int]]:
    """The stripped cells of each row that is not blank, and the line it ends on.

    The delimiter is the comma, or the semicolon or tab if the first line has that and
    no comma. This is the standard library's reader and not pandas', because that fills
    rows that are too short, and does not tell the line of a cell.
    """
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = next((d for d in _DELIMITERS if d in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            # A blank line is a missing cell if there is one column, but for those at
            # the end, which are removed below.
            if any(cells) or (rows and len(rows[0]) == 1):
                rows.append(cells or [""])
                lines.append(reader.line_num)
    except csv.Error as error:
        if "field limit" in str(error):
            raise InputError(
                f"line {lines[-1] + 1 if lines else 1} of {path.name} starts a row with"
                f" a cell of more than {csv.field_size_limit():,} characters; shorten"
                " it, or close the quotation mark that it starts with"
            ) from error
        raise InputError(
            f"line {lines[-1] + 1 if lines else 1} of {path.name} starts a row that is"
            f" malformed CSV: {error}"
        ) from error
    while rows and not any(rows[-1]):
        rows.pop()
        lines.pop()
    return rows, lines


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if b"\0" in raw[:4096]:
        raise InputError(f"{path.name} is binary; expected a CSV saved as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"line {line} of {path.name} is not UTF-8 (byte {raw[error.start]:#04x});"
            " expected a CSV saved as UTF-8"
        ) from error


def _header(names: list[str], title: str) -> list[str]:
    if all(_is_number(name) for name in names) and names != [
        str(i) for i in range(len(names))
    ]:
        raise InputError(
            f"the first line of {title} holds numbers, starting with"
            f" {quoted(names[0])}; expected the names of the columns"
        )
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        # A first column without a name is a saved index or row labels: `_data` decides.
        if not name and position > 1:
            raise InputError(
                f"column {position} of {title} has no name; expected one in the header"
            )
        if name in seen:
            raise InputError(
                f"columns {seen[name]} and {position} of {title} are both called"
                f" {quoted(name)}; expected distinct names"
            )
        seen[name] = position
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
