"""How the words that make one thing of several are called: see `contexts.compose`.

Where the order is the meaning and there is nothing else to say, one by one: `compose`,
`convolve`. Where weights may go with them, or no order counts, with a list: `mixture`,
`convex_combination`, `join`, `tensor_product`. Either form says so in place of the
other, at every level.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from contexture_jax._core.types import summary

__all__ = ["of_a_list", "one_by_one"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def one_by_one(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let `word(first, second, …)` refuse `word([first, second])` by what would fit."""
    word = getattr(function, "__name__", "")

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for arg in args:
            if _is_list(arg):
                msg = (
                    f"{word} takes them one by one, as {word}(first, second); got"
                    f" {_what(arg)}: {word}(*parts)"
                )
                raise TypeError(msg)
        return function(*args, **kwargs)

    return call


def of_a_list(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let `word([first, second], …)` refuse `word(first, second)` likewise."""
    word, names = getattr(function, "__name__", ""), inspect.signature(function)
    num = len(names.parameters)
    more = f", {list(names.parameters)[1]}" if num > 1 else ""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        got = _what(args[0]) if args and not _is_list(args[0]) else ""
        if args and (got or len(args) > num):
            got = got or f"{len(args)} arguments"
            msg = f"{word} takes a list, as {word}([first, second]{more}); got {got}"
            raise TypeError(msg)
        return function(*args, **kwargs)

    return call


def _is_list(value: Any) -> bool:
    # Text, tables and arrays can be iterated over; a record may be a context itself.
    is_record = isinstance(value, (str, dict)) or hasattr(value, "_fields")
    is_array = hasattr(value, "__array__")
    return isinstance(value, Iterable) and not is_record and not is_array


def _what(value: Any) -> str:
    kind = type(value).__name__
    return f"a {kind}" if not hasattr(value, "__array__") else summary(value)
