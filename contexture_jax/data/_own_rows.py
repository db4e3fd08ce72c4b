"""The rows of a file that one of several processes reads, as features of all rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contexture_jax.data._headers import read_header, told
from contexture_jax.data._messages import InputError, Message, counted, enumerated
from contexture_jax.data._sums import deviation_of, mean_of
from contexture_jax.data._table import Table

__all__ = ["Share", "load_own_rows"]

# Of other dtypes columns may be text, or integers that float64 rounds.
_KINDS = ("f4", "f8", "i1", "i2", "i4", "u1", "u2", "u4")


class Share(NamedTuple):
    """Which part of the rows is this process's, and what it learns of the others'.

    Attributes:
        part: its number.
        num_parts: of parts, which are equal.
        multiple: what the number of rows of a part is a multiple of.
        total: the sum of a float64 array over all parts, in each process.
        most: the largest of each number.
    """

    part: int
    num_parts: int
    multiple: int
    total: Callable[[np.ndarray], np.ndarray]
    most: Callable[[np.ndarray], np.ndarray]


def load_own_rows(path: str | os.PathLike[str], share: Share) -> Table | None:
    """`load_features` of an `.npy`, of which each process reads its own rows.

    What standardises the columns is that of all rows, to the bit: a solve that several
    processes began goes on in one.

    Args:
        path: of the file; all processes see the same one.
        share: which rows are this process's.

    Returns:
        A table of which `features` are the own rows, `rows` the numbers of all, and
        `encodings` none; None where the file has to be read whole: of another format,
        or where there are not as many rows in each part.

    Raises:
        InputError: if a number of these rows is not finite, or no features are left.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy" or not path.is_file():
        return None
    with path.open("rb") as file, told(path.name):
        header = read_header(file, path.stat().st_size, path.name)
    shape, dtype = header.shape, header.dtype
    is_plain = dtype is not None and dtype.str[1:] in _KINDS and len(shape) == 2
    # The whole is read where it is wrong, too: its reader says what is.
    if not is_plain or 0 in shape or shape[0] % (share.num_parts * share.multiple):
        return None
    size = shape[0] // share.num_parts
    start = share.part * size
    own, problem = np.empty((0, 0)), None
    try:
        own = _read(path, start, size)
    except InputError as error:
        problem = error
    # Before they reduce anything: one that has stopped would be waited for.
    if share.most(np.array([float(problem is not None)]))[0]:
        # Without words where another process has them.
        raise problem or InputError("")
    return _standardised(own, shape[0], path.name, share)


def _read(path: Path, start: int, size: int) -> np.ndarray:
    with told(path.name):
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        own = np.array(mapped[start : start + size], np.float64)
    bad = np.argwhere(~np.isfinite(own))
    if len(bad):
        row, column = bad[0].tolist()
        raise InputError(
            f"{path.name} holds {own[row, column]} at [{start + row}, {column}];"
            " expected finite numbers: fill or remove them"
        )
    return own


def _standardised(own: np.ndarray, num_rows: int, title: str, share: Share) -> Table:
    names = np.array([f"x{i}" for i in range(own.shape[1])])
    largest = share.most(np.abs(own).max(axis=0))
    # In place from here on: the own rows are there once.
    own /= np.where(largest > 0, largest, 1.0)
    low, high = -share.most(-own.min(axis=0)), share.most(own.max(axis=0))
    varies = high > low
    constant = names[~varies].tolist()
    if not varies.any():
        raise InputError(
            f"no features are left of {title}: constant columns: {enumerated(constant)}"
        )
    own = own if varies.all() else own[:, varies]
    own -= mean_of(own, num_rows, share.total)
    deviation = deviation_of(own, num_rows, share.total, share.most)
    # Of values that differ too little beside their size the square is 0.
    if not (deviation > 0).all():
        name = names[varies][deviation == 0][0]
        raise InputError(
            f"column {name} of {title} cannot be standardised: its values differ too"
            " little beside their size; subtract a constant from them"
        )
    own /= deviation
    notes = []
    if constant:
        number = counted(len(constant), "constant column")
        notes.append(Message(f"{number} left out: {enumerated(constant)}"))
    return Table(
        title,
        own,
        names[varies].tolist(),
        None,
        int(varies.sum()),
        np.arange(num_rows),
        notes,
        len(constant),
    )
