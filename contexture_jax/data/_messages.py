"""The error that stands for bad input, and how messages quote what they complain of."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import PurePath

__all__ = [
    "InputError",
    "as_option",
    "closest",
    "counted",
    "enumerated",
    "quoted",
    "quoted_path",
]

_LONGEST_QUOTE = 40
_MOST_NAMES = 8


class InputError(Exception):
    """What the user gave is wrong; the message says what, where and what would do.

    The command prints it as its one line on stderr and exits with status 2.
    """


def quoted(text: str, *, longest: int = _LONGEST_QUOTE) -> str:
    """`text` in double quotes on one line, cut where it is long."""
    text = " ".join(text.split())
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return f'"{text}"'


def quoted_path(path: str | PurePath) -> str:
    """A path in double quotes, whole: its end tells more than its beginning."""
    return quoted(str(path), longest=1000)


def as_option(name: str, value: str) -> str:
    """An option and its value as a shell takes them, on one line."""
    breaks = [c for c in value if ord(c) < 32 or len(f"a{c}a".splitlines()) > 1]
    word = shlex.quote(value)
    if breaks:
        word = value.replace("\\", "\\\\").replace("'", "\\'")
        for c in breaks:
            word = word.replace(c, f"\\u{ord(c):04x}")
        word = f"$'{word}'"
    return f"{name}{'=' if value.startswith('-') else ' '}{word}"


def enumerated(names: Iterable[str]) -> str:
    """The first names, comma-separated, and how many more there are."""
    names = list(names)
    more = len(names) - _MOST_NAMES
    shown = ", ".join(
        name if len(name) <= _LONGEST_QUOTE else name[: _LONGEST_QUOTE - 1] + "…"
        for name in names[:_MOST_NAMES]
    )
    return f"{shown} and {more} more" if more > 0 else shown


def counted(count: int, what: str) -> str:
    """`1 row`, `1,000 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def closest(name: str, names: Iterable[str]) -> str:
    """` (did you mean "…"?)` if one of `names` is like `name`, or nothing."""
    match = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {quoted(match[0])}?)" if match else ""
