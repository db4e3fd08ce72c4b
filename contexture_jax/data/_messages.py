"""The error that stands for bad input, and how messages name what they complain of.

A message names parameters of `load_features` and `load_counts`: `drop=['id']` to who
calls these, `--drop id` to who types the command. So it is written as a template, in
which `parameter("drop", ["id"])` stands for both.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any

__all__ = [
    "InputError",
    "Message",
    "closest",
    "counted",
    "enumerated",
    "parameter",
    "quoted",
    "quoted_path",
]

_LONGEST_QUOTE = 40
_MOST_NAMES = 8
# Characters that no text holds: Unicode keeps them for marks inside a program.
_PARAMETER = re.compile("\ufdd0(\\w+)(?:=(.*?))?\ufdd1")


class Message(str):
    """Text that calls parameters as Python does, and can be worded otherwise."""

    __slots__ = ("_template",)

    def __new__(cls, template: str) -> Message:
        """Word a text in which `parameter` stands for parameters."""
        # A str in Python's words, so that whoever prints or compares it needs no more.
        message = super().__new__(cls, _PARAMETER.sub(_in_python, template))
        message._template = template
        return message

    def worded(self, word: Callable[[str, Any], str]) -> str:
        """The text with other words for parameters.

        Args:
            word: from the name of a parameter and its value, or None, to words.
        """

        def told(match: re.Match[str]) -> str:
            # A literal, as `parameter` writes its values by `repr`.
            return word(match[1], ast.literal_eval(match[2] or "None"))

        return _PARAMETER.sub(told, self._template)


class InputError(ValueError):
    """What the user gave is wrong; the message says what, where and what would do.

    The command prints it as its one line on stderr and exits with status 2.

    Attributes:
        message: the text, which can be worded otherwise.
    """

    def __init__(self, message: str) -> None:
        self.message = message if isinstance(message, Message) else Message(message)
        super().__init__(str(self.message))


def parameter(name: str, value: Any = None) -> str:
    """What stands in a template for a parameter, with a value or without."""
    return f"\ufdd0{name}{'' if value is None else f'={value!r}'}\ufdd1"


def _in_python(match: re.Match[str]) -> str:
    return match[1] if match[2] is None else f"{match[1]}={match[2]}"


def quoted(text: str, *, longest: int = _LONGEST_QUOTE) -> str:
    """`text` in double quotes on one line, cut where it is long."""
    # Messages are one line; a cell may hold several.
    text = " ".join(text.split())
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return f'"{text}"'


def quoted_path(path: str | PurePath) -> str:
    """A path in double quotes, whole: its end tells more than its beginning."""
    return quoted(str(path), longest=1000)


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
