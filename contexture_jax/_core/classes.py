"""Classes as people name them: integers of any width, booleans, text."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import numpy as np

from contexture_jax._core.arrays import as_host, is_missing, kind_of
from contexture_jax._core.checks import check_ndim, counted

__all__ = ["as_classes", "class_codes", "text_codes"]


def as_classes(values: Any, name: str, *, discrete: bool = False) -> np.ndarray:
    """A vector of class values: int64 (uint64 where they need it), or text.

    Integers keep all their bits, from lists and columns of objects too. Bytes are read
    as UTF-8. Booleans are 0 and 1.

    Args:
        values: integers, booleans or text, shape (n,).
        name: what the caller calls it, for the message.
        discrete: whether to refuse what else NumPy sorts: floats and dates.

    Raises:
        TypeError: if values are of another kind, or of several.
        ValueError: if one is missing (None, NaN), `values` is no vector, empty, an
            integer is beyond 64 bits, or text ends in NUL.
    """
    # NumPy would make one type of a list of several, and doubles of large integers.
    is_list = isinstance(values, (list, tuple))
    array = _objects(values) if is_list else as_host(values, name)
    check_ndim(array, 1, name)
    if array.size == 0:
        msg = f"{name} must not be empty"
        raise ValueError(msg)
    kind = array.dtype.kind
    # T is NumPy's text of any length, which comes as Python's.
    if kind in "OT":
        array = _from_objects(array, name)
        kind = array.dtype.kind
    if kind == "S":
        array = _decoded(array)
    # All others are int64, so that equal classes have equal dtypes.
    elif kind == "u" and array.max() > np.iinfo(np.int64).max:
        array = array.astype(np.uint64)
    elif kind in "biu":
        array = array.astype(np.int64)
    # What sorts can name classes; without a place in the order it cannot.
    elif kind in "fMm" and not discrete:
        _check_none_missing(np.isnan(array) if kind == "f" else np.isnat(array), name)
    elif kind != "U":
        hint = ""
        if kind == "f":
            is_whole = bool(np.all(array == np.round(array)))
            hint = ": use astype(int)" if is_whole else ""
            _check_none_missing(np.isnan(array), name)
        msg = f"{name} must hold integer classes, or text; got {kind_of(array)}{hint}"
        raise TypeError(msg)
    return array


def class_codes(
    values: Any, name: str, *, discrete: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct classes, ascending, and which of them each value is, int32.

    Arguments and errors are those of `as_classes`.
    """
    given = as_classes(values, name, discrete=discrete)
    classes, codes = np.unique(given, return_inverse=True)
    return classes, codes.reshape(-1).astype(np.int32)


def text_codes(values: Any, name: str, num_classes: int) -> Any:
    """`values` if it is no text; else the number of each in the order of all names.

    Args:
        values: class numbers, or names.
        name: what the caller calls it, for the message.
        num_classes: how many names there must be: of fewer, numbers are not known.

    Raises:
        ValueError: if there are more names or fewer.
    """
    if isinstance(values, jax.Array) or not _is_text(values):
        return values
    classes, codes = class_codes(values, name)
    if len(classes) != num_classes:
        msg = (
            f"{name} must name all of {num_classes} classes, or be their numbers; got"
            f" {counted(len(classes), 'name')}: number the whole data set,"
            " as np.unique(y, return_inverse=True)[1] does"
        )
        raise ValueError(msg)
    return codes


def _is_text(values: Any) -> bool:
    if isinstance(values, (list, tuple)):
        return any(isinstance(v, (str, bytes)) for v in values)
    kind = getattr(getattr(values, "dtype", None), "kind", "O")
    return kind in "OUST" and not isinstance(values, numbers.Number)


def _objects(values: Any) -> np.ndarray:
    """A list as a vector of its entries, whatever they are."""
    # Filled one by one: NumPy would look into entries that are sequences.
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        # Scalars of NumPy, JAX and other libraries are what they hold.
        is_scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
        array[place] = value.item() if is_scalar else value
    return array


def _from_objects(array: np.ndarray, name: str) -> np.ndarray:
    """A vector of Python objects as one of text, of bytes, or of numbers."""
    entries = array.tolist()
    # First: a missing value would be told as one of another type.
    _check_none_missing(np.array([is_missing(v) for v in entries]), name)
    kinds = [_kind(v) for v in entries]
    # NumPy would write 1 and "1" alike.
    other = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        msg = (
            f"{name} must hold classes of one type; got"
            f" {entries[0]!r} ({type(entries[0]).__name__}) at {name}[0] and"
            f" {entries[other]!r} ({type(entries[other]).__name__}) at {name}[{other}]"
        )
        raise TypeError(msg)
    if kinds[0] == "integer":
        # All digits: float64, which NumPy might take for large ones, has 53 bits.
        low, high = int(min(entries)), int(max(entries))
        for dtype in (np.int64, np.uint64):
            if np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max:
                return np.array([int(v) for v in entries], dtype)
        msg = f"{name} must hold integers of 64 bits; got {low} to {high}"
        raise ValueError(msg)
    if kinds[0] in ("text", "bytes"):
        _check_no_padding(entries, name)
    if kinds[0] in ("text", "bytes", "float"):
        return np.array(entries)
    msg = (
        f"{name} must hold integer classes, or text; got {entries[0]!r}"
        f" ({type(entries[0]).__name__}) at {name}[0]"
    )
    raise TypeError(msg)


def _check_no_padding(entries: list[Any], name: str) -> None:
    """NumPy pads text with NUL: with one at its end it would be another class."""
    for place, value in enumerate(entries):
        if value and value[-1] in ("\0", 0):
            msg = (
                f"{name} must hold text that does not end in NUL, which NumPy drops;"
                f" got {value!r} at {name}[{place}]: strip it, or number the classes"
            )
            raise ValueError(msg)


def _kind(value: Any) -> str:
    if isinstance(value, (numbers.Integral, np.bool_)):
        return "integer"
    kinds = {"text": str, "bytes": bytes, "float": (float, np.floating)}
    found = (word for word, kind in kinds.items() if isinstance(value, kind))
    return next(found, type(value).__name__)


def _decoded(array: np.ndarray) -> np.ndarray:
    # Bytes that are no UTF-8 stay apart: two classes must not become one.
    return np.char.decode(array, "utf-8", "surrogateescape")


def _check_none_missing(missing: np.ndarray, name: str) -> None:
    if missing.any():
        msg = (
            f"{name} must name a class in every row; got a missing value at"
            f" {name}[{int(np.argmax(missing))}] ({counted(missing.sum(), 'row')}):"
            " leave such rows out, or give them a class of their own"
        )
        raise ValueError(msg)
