"""The text of a CSV as far as its names: how it is encoded, and comments above them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from contexture_jax.data._dialect import find_separator, first_rows
from contexture_jax.data._messages import InputError, counted, quoted
from contexture_jax.data._notation import is_number
from contexture_jax.data._source import DEFAULT_MISSING

__all__ = ["Preface", "decoded", "without_comments"]

_BINARY = {
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive or a workbook",
    b"\xd0\xcf\x11\xe0": "an old workbook",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PAR1": "a Parquet file",
    b"ARROW1": "a Feather file",
    b"\x93NUMPY": "an array of NumPy",
}
# Those of UTF-32 begin as those of UTF-16 do.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_SAMPLE = 4096  # bytes


class Preface(NamedTuple):
    """What is above the names of a CSV.

    Attributes:
        text: all that follows, the names first.
        num_lines: how many lines were taken off.
        notes: what a reader should know of it.
    """

    text: str
    num_lines: int
    notes: tuple[str, ...]


def decoded(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: if it is not UTF-8, with its encoding as far as that can be told.
    """
    # Bytes first: what is no text is known by how it begins.
    raw, name = path.read_bytes(), path.name
    for start, kind in _BINARY.items():
        if raw.startswith(start):
            raise InputError(f"{name} is binary, {kind}; expected a CSV saved as UTF-8")
    encoding = _wide(raw[:_SAMPLE])
    if encoding is not None:
        raise InputError(
            f"{name} is {encoding}; expected a CSV saved as UTF-8:"
            f" {_conversion(encoding, name)}"
        )
    if b"\0" in raw[:_SAMPLE]:
        raise InputError(f"{name} is binary; expected a CSV saved as UTF-8")
    try:
        # With or without a byte-order mark, which spreadsheets write.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"line {line} of {name} is not UTF-8 (byte {raw[error.start]:#04x});"
            " expected a CSV saved as UTF-8 (if it is of Windows:"
            f" {_conversion('WINDOWS-1252', name)})"
        ) from error


def _wide(start: bytes) -> str | None:
    """The encoding of a text whose characters take two bytes or four, or None."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    # Without a mark: of ASCII, every other byte is 0.
    for first, encoding in ((0, "UTF-16BE"), (1, "UTF-16LE")):
        zeros, others = start[first::2], start[1 - first :: 2]
        # More than half, as text of other scripts has fewer zeros.
        if len(zeros) > 1 and 2 * zeros.count(0) > len(zeros) and 0 not in others:
            return encoding
    return None


def _conversion(encoding: str, name: str) -> str:
    stem = name.rpartition(".")[0] or name
    return (
        f"iconv -f {encoding} -t UTF-8 {shlex.quote(name)} >"
        f" {shlex.quote(f'{stem}-utf8.csv')} converts it"
    )


def without_comments(text: str, separator: str | None, title: str) -> Preface:
    """Take off the lines that start with `#` above the names.

    The last of them may hold the names itself, as `numpy.savetxt` writes them: that is
    so if it has as many cells as the line below, and that is like those below it.

    Args:
        text: of the file.
        separator: between its cells, if the user says.
        title: what to call it.

    Raises:
        InputError: if that cannot be told.
    """
    # Line ends are kept, and so are the lines of rows.
    lines = text.splitlines(keepends=True) if text.lstrip()[:1] == "#" else []
    above = 0
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if line.strip():
            above = number + 1
    below = "".join(lines[above:])
    # All of it starts with #: nothing but comments, or names that do.
    if not above or not below.strip():
        return Preface(text, 0, ())
    last = lines[above - 1].strip()
    # `#id` may be a name; `# id` is a comment sign and a name.
    bare = last[1:].lstrip(" ") if last.startswith("# ") else last
    between = separator or find_separator(below)
    rows = first_rows(below, between)
    # Without the sign first, and with it.
    for names in dict.fromkeys((bare, last)):
        cells = first_rows(names, between)
        if not cells or len(cells[0]) != len(rows[0]):
            continue
        verdict = _has_names(rows)
        # Texts throughout: nothing tells names from a row.
        if verdict is None and bare != last:
            raise InputError(
                f"line {above} of {title} starts with #: {quoted(last)} may be a"
                " comment or the names of the columns; take the line out, or the # off"
            )
        if not verdict:
            notes = _notes(above - 1)
            if names != last:
                notes += (f"the names are those behind # on line {above}",)
            ending = lines[above - 1][len(lines[above - 1].rstrip("\r\n")) :]
            return Preface(names + ending + below, above - 1, notes)
        break
    return Preface(below, above, _notes(above))


def _notes(num_lines: int) -> tuple[str, ...]:
    if not num_lines:
        return ()
    verb = "starts" if num_lines == 1 else "start"
    number = counted(num_lines, "line")
    return (f"{number} above the names left out: {verb} with #",)


def _has_names(rows: list[list[str]]) -> bool | None:
    """Whether the first row is names: unlike the numbers below it; None if none are."""
    found = None
    # By columns: one of numbers under a text settles it.
    for name, *column in zip(*rows, strict=False):
        present = [cell for cell in column if cell and cell not in DEFAULT_MISSING]
        if not present and is_number(name):
            present = [name]
        if present and all(map(is_number, present)):
            if not is_number(name) and name and name not in DEFAULT_MISSING:
                return True
            found = False
    return found
