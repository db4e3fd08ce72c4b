"""What comes before the numbers of an array in a file, whatever its bytes are."""

from __future__ import annotations

import ast
import errno
import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from contexture_jax.data._messages import InputError, quoted

__all__ = ["EXPECTED", "MAGIC", "Header", "damaged", "read_header", "sized", "told"]

MAGIC = b"\x93NUMPY"
# The width of the length of a header, and the encoding of its text
# (`numpy.lib.format`).
_VERSIONS = {(1, 0): (2, "latin1"), (2, 0): (4, "latin1"), (3, 0): (4, "utf-8")}
_LONGEST_HEADER = 10_000  # NumPy's own limit
_SIMPLE_DTYPE = re.compile(r"[<>|=]?[biufcSUVOMm]\d*(\[\w+\])?")
_LONG = re.compile(r"(?<=\d)L(?=[,)])")
_MOST_DIMENSIONS = 64
EXPECTED = "expected what numpy.save or numpy.savez writes from arrays of numbers"


class Header(NamedTuple):
    """What comes before the numbers of an array.

    Attributes:
        dtype: of the numbers, or None if they have fields or parts.
        shape: of the array.
        columns_first: whether they are stored in Fortran order.
        kind: how a message calls the dtype.
    """

    dtype: np.dtype | None
    shape: tuple[int, ...]
    columns_first: bool
    kind: str

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """How many bytes they take; of dtypes that are not read, 0."""
        return 0 if self.dtype is None else self.size * self.dtype.itemsize


def read_header(stream: io.BufferedIOBase, size: int, what: str) -> Header:
    """Read the header of an array that takes all of `size` bytes.

    Raises:
        InputError: if it is none, or claims another size.
    """
    start = stream.read(len(MAGIC) + 2)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 2:
        raise damaged(what, "it does not begin as an array does")
    version = (start[-2], start[-1])
    if version not in _VERSIONS:
        raise damaged(what, f"format version {version[0]}.{version[1]}")
    width, encoding = _VERSIONS[version]
    length = int.from_bytes(stream.read(width), "little")
    if length > _LONGEST_HEADER:
        raise damaged(what, f"a header of {length:,} bytes")
    text = stream.read(length)
    if len(text) < length:
        raise damaged(what, "it ends within its header")
    header = _parsed(text.decode(encoding), what)
    # All of the rest is numbers: more would be another array, fewer a file cut off.
    left = size - len(start) - width - length
    if header.dtype is not None and header.num_bytes != left:
        raise InputError(
            f"cannot read {what}: its header says {sized(header)},"
            f" {header.num_bytes} bytes, but {left} bytes are there: it is cut off or"
            f" damaged; {EXPECTED}"
        )
    return header


def _parsed(text: str, what: str) -> Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            # Python 2 wrote long integers with an L.
            # Literals alone: a header is not to run code.
            found = ast.literal_eval(_LONG.sub("", text.strip(" \n")))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise damaged(what, "its header is no Python literal") from error
    if not isinstance(found, dict) or found.keys() != {
        "descr",
        "fortran_order",
        "shape",
    }:
        raise damaged(what, "its header is none of descr, fortran_order and shape")
    shape, columns_first = found["shape"], found["fortran_order"]
    if (
        not isinstance(shape, tuple)
        # `type`, as True is an int too.
        or not all(type(length) is int and length >= 0 for length in shape)
        or len(shape) > _MOST_DIMENSIONS
    ):
        raise damaged(what, f"a shape of {quoted(str(shape))}")
    if not isinstance(columns_first, bool):
        raise damaged(what, f"fortran_order {quoted(str(columns_first))}")
    dtype, kind = _dtype(found["descr"], what)
    return Header(dtype, shape, columns_first, kind)


def _dtype(descr: Any, what: str) -> tuple[np.dtype | None, str]:
    # Told by the caller, if it is the array that is needed.
    if isinstance(descr, list | tuple):
        return None, "a dtype with fields"
    if not isinstance(descr, str) or not _SIMPLE_DTYPE.fullmatch(descr):
        raise damaged(what, f"a dtype of {quoted(str(descr))}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that NumPy is to drop
            dtype = np.dtype(descr)
    except (TypeError, ValueError) as error:
        raise damaged(what, f"a dtype of {quoted(descr)}") from error
    # An array of objects is a pickle, of whatever size.
    return (None, "dtype object") if dtype.hasobject else (dtype, f"dtype {dtype}")


def sized(header: Header) -> str:
    """A shape and a dtype, in words."""
    return f"{quoted(str(header.shape))} of {header.kind}".replace('"', "")


@contextmanager
def told(what: str, expected: str = EXPECTED) -> Iterator[None]:
    """Tell any damage in one line: the errors of zipfile and NumPy are of many kinds.

    A file system that fails is none: `read` tells that.
    """
    try:
        yield
    except InputError:
        raise
    # Claims have been checked, but others take memory too.
    except MemoryError as error:
        raise InputError(f"{what} does not fit in memory") from error
    except OSError as error:
        # zipfile seeks to where a damaged directory says.
        if error.errno not in (None, errno.EINVAL):  # a place before the file begins
            raise
        raise damaged(what, str(error), expected) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise damaged(what, reason, expected) from error


def damaged(what: str, reason: str, expected: str = EXPECTED) -> InputError:
    """The error for a file that is not what it should be."""
    reason = reason.splitlines()[0].rstrip(".") if reason else "no more is known"
    return InputError(
        f"cannot read {what}: it is damaged, pickled or of another format ({reason});"
        f" {expected}"
    )
