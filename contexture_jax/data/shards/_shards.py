"""A folder of shards, or one large array, as one table that is read block by block."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contexture_jax.data._memory import available, in_words
from contexture_jax.data._messages import InputError, counted, quoted_path
from contexture_jax.data.shards._files import File, of_npy, of_npz, of_parquet

__all__ = ["Block", "Shards", "is_sharded", "open_shards"]

_OPENERS = {".npy": of_npy, ".npz": of_npz, ".parquet": of_parquet}
BLOCK_BYTES = 2**25
_NUMBER = re.compile(r"[0-9]+")
_OTHER_TABLES = {".csv", ".tsv", ".feather"}
_OF_SO_MANY = re.compile(r"[0-9][-_.]?of[-_.]?([0-9]+)")
_PER_NUMBER = 64  # bytes of a row or column of a solve, at least


class Block(NamedTuple):
    """A part of a table that is read at once.

    Attributes:
        file: which of the files it is in.
        start: its first row, or entry, in that file.
        stop: one more than its last.
        row: its first row in the table; 0 of entries, which say their own.
    """

    file: int
    start: int
    stop: int
    row: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Shards:
    """A table in one file or many, of which nothing is held but where it is.

    Attributes:
        title: what to call it.
        files: in the order of their names.
        is_dense: whether files hold rows; else they hold entries: row, column, value.
        shape: (n, m); of entries None in place of what no file says.
        dtype: of the numbers as stored.
        num_bytes: of all files.
    """

    title: str
    files: tuple[File, ...]
    is_dense: bool
    shape: tuple[int | None, int | None]
    dtype: np.dtype
    num_bytes: int

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> tuple[Block, ...]:
        """The table cut into parts of about so many bytes, in order.

        Rows are cut alike in each file; entries as their files allow.

        Raises:
            ValueError: if `block_bytes` is no positive number.
        """
        if block_bytes < 1:
            msg = f"block_bytes must be at least 1; got {block_bytes}"
            raise ValueError(msg)
        found, row = [], 0
        for number, file in enumerate(self.files):
            for start, stop in file.cut(block_bytes):
                found.append(
                    Block(number, start, stop, row + start if self.is_dense else 0)
                )
            row += file.size
        return tuple(found)

    def read(
        self, block: Block, room: np.ndarray | None = None
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The numbers of a block.

        Args:
            block: one of `blocks`.
            room: where rows are to be written, shape (rows, m), the dtype as stored and
                in one piece; None: a new array.

        Returns:
            Rows, shape (rows, m), or rows, columns and values of entries.

        Raises:
            InputError: if the file is gone, has changed since it was opened, or is
                damaged.
        """
        file = self.files[block.file]
        found = file.read(block.start, block.stop, room)
        if not self.is_dense and len(found[0]):
            _check_room(
                [int(numbers.max()) + 1 for numbers in found[:2]],
                quoted_path(file.path),
            )
        return found

    def title_of(self, block: Block) -> str:
        """What to call the file of a block."""
        return quoted_path(self.files[block.file].path)

    @property
    def mark(self) -> str:
        """What tells this table from others: names, sizes and times of its files."""
        return str([(file.path.name, file.stamp) for file in self.files])

    @property
    def ndim(self) -> int:
        """2: batches of `cx.training.batches` are taken from it as from an array."""
        return 2

    def take(
        self,
        rows: np.ndarray,
        axis: int = 0,
        out: np.ndarray | None = None,
        mode: str = "raise",
    ) -> np.ndarray:
        """Some rows of a dense table, read one by one, shape (len(rows), m).

        Args:
            rows: numbers of rows, shape (k,), integers, in any order.
            axis: 0.
            out: where they are written, of their shape and dtype; None: a new array.
            mode: as of `numpy.take`; rows are below n by then.

        Raises:
            InputError: if these are entries, or files that are not read row by row; if
                one is gone, has changed or is damaged.
        """
        del axis, mode
        rows = np.asarray(rows)
        if not self.is_dense:
            raise InputError(f"{self.title} holds entries; expected rows")
        shape = (len(rows), int(self.shape[1] or 0))
        found = np.empty(shape, self.dtype) if out is None else out
        ends = np.cumsum([file.size for file in self.files])
        which = np.searchsorted(ends, rows, side="right")
        for number in np.unique(which):
            here = np.flatnonzero(which == number)
            file = self.files[number]
            found[here] = file.take(rows[here] - (ends[number] - file.size))
        return found

    def check(self) -> None:
        """Find out whether all files are there and as they were when opened.

        Raises:
            InputError: if not; names the first that is not.
        """
        for file in self.files:
            file.check()

    def __iter__(self) -> Iterator[File]:
        """The files."""
        return iter(self.files)


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder, or an array that does not fit into memory."""
    if not os.fspath(path):
        # `Path` takes it for the working directory.
        return False
    path, room = Path(path), available()
    if path.is_dir():
        return True
    if path.suffix.lower() != ".npy" or not path.is_file() or room is None:
        return False
    # The file as it is, and its numbers twice in float64, is what others would take.
    return 5 * path.stat().st_size > room


def open_shards(
    path: str | os.PathLike[str], *, shape: tuple[int, int] | None = None
) -> Shards:
    """Open a table in files that need not fit into memory; no number is read.

    Args:
        path: an `.npy`, or a folder of files of one kind, taken in the order of their
            names (2 before 10), which may not count from 0 or 1 with a gap:

            * `.npy`: rows of a table, shape (rows, m), in NumPy's own order (C);
            * `.parquet`: rows of a table, its columns all numbers;
            * `.npz` or `.parquet` with arrays or columns `rows`, `columns` and `values`
              (also `row`, `col` and `data`, as `scipy.sparse.save_npz` names those of a
              `coo_array`; without values each entry counts 1): entries of a sparse
              table, whose row and column numbers are those of the whole table. Entries
              that name one place are added.
        shape: (n, m) of a sparse table; None: what the files say, or else as many rows
            and columns as entries name.

    Returns:
        The `Shards`.

    Raises:
        ValueError: as `InputError`, if there are no such files, they are of several
            kinds, widths or names of columns, hold no real numbers, one is damaged, or
            one is missing as their names tell: `a-0`, `a-2`, or `a-1-of-3` alone.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for i in range(3):
        ...     np.save(folder / f"part-{i}.npy", np.ones((4, 5), np.float32))
        >>> cx.data.open_shards(folder).shape
        (12, 5)
    """
    path = Path(path)
    files = [_opened(part) for part in _parts(path)]
    title = quoted_path(path)
    first = files[0]
    for file in files[1:]:
        if file.is_dense != first.is_dense:
            kinds = ["rows" if f.is_dense else "entries" for f in (first, file)]
            raise InputError(
                f"{quoted_path(file.path)} holds {kinds[1]} of a table and"
                f" {quoted_path(first.path)} {kinds[0]}; expected shards of one kind"
            )
        if file.is_dense and file.shape[1] != first.shape[1]:
            raise InputError(
                f"{quoted_path(file.path)} has {counted(file.shape[1] or 0, 'column')}"
                f" and {quoted_path(first.path)} {first.shape[1]}; expected as many in"
                " each shard"
            )
        if file.names != first.names:
            raise InputError(
                f"the columns of {quoted_path(file.path)} and {quoted_path(first.path)}"
                f" are not called alike, or lie in another order; expected the same in"
                " each shard"
            )
    if first.is_dense:
        whole = (sum(file.size for file in files), first.shape[1])
        if shape is not None and tuple(shape) != whole:
            raise InputError(f"{title} has shape {whole}; expected {tuple(shape)}")
    else:
        whole = _said(files, shape)
        _check_room([size or 0 for size in whole], title)
    return Shards(
        title,
        tuple(files),
        first.is_dense,
        whole,
        np.result_type(*(file.dtype for file in files)),
        sum(file.num_bytes for file in files),
    )


def _parts(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"no such file or folder: {quoted_path(path)}")
    if not path.is_dir():
        return [path]
    # Hidden files are those of programs: locks, lists, indices.
    there = [p for p in path.iterdir() if not p.name.startswith((".", "_"))]
    found = sorted(
        (part for part in there if part.suffix.lower() in _OPENERS), key=_in_order
    )
    kinds = {part.suffix.lower() for part in found}
    # Rows that would be left out, or the same table twice.
    kinds |= {p.suffix.lower() for p in there} & _OTHER_TABLES if found else set()
    if len(kinds) > 1:
        raise InputError(
            f"{quoted_path(path)} holds {' and '.join(sorted(kinds))} files; expected"
            " shards of one kind"
        )
    if not found:
        kinds = ", ".join(_OPENERS)
        raise InputError(f"{quoted_path(path)} holds no shards; expected {kinds} files")
    _check_numbering(found)
    return found


def _in_order(path: Path) -> list[tuple[str, int]]:
    """Texts and numbers of a name, in turn: part-2 before part-10."""
    texts = _NUMBER.split(path.name)
    numbers = [int(number) for number in _NUMBER.findall(path.name)]
    return list(zip(texts, [*numbers, 0], strict=True))


def _check_numbering(paths: list[Path]) -> None:
    """Refuse names that differ in a number alone, of which some are not there.

    What is computed of the others would be of another table, and nothing would say so.
    """
    names = [path.name for path in paths]
    if len({tuple(_NUMBER.split(name)) for name in names}) > 1:
        return
    columns = list(zip(*map(_NUMBER.findall, names), strict=True))
    varying = [{*map(int, column)} for column in columns if len({*column}) > 1]
    told = _OF_SO_MANY.search(names[0])
    # Two numbers may be a version and a part, or a part of so many; three are a date.
    if len(columns) <= 2 and len(varying) == 1:
        first, last = min(varying[0]), max(varying[0])
        absent = {*range(first, last)} - varying[0] if last < 2 * len(names) else set()
        # What begins elsewhere is a choice.
        if absent and first in (0, 1):
            raise InputError(
                f"{quoted_path(paths[0].parent)} lacks number {min(absent)} of its"
                f" shards, which are numbered from {first} to {last}; expected all of a"
                " table, or other names for those that are wanted"
            )
    if told and len(names) < int(told[1]):
        raise InputError(
            f"{quoted_path(paths[0].parent)} holds {counted(len(names), 'shard')} of"
            f" the {int(told[1])} that their names tell of; expected all of a table, or"
            " other names for those that are wanted"
        )


def _opened(path: Path) -> File:
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise InputError(
            f"{quoted_path(path)} is no shard; expected {', '.join(_OPENERS)}"
        )
    try:
        # A pipe that nobody writes to would be waited for.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(
                f"{quoted_path(path)} is no regular file; expected a shard"
            )
        return opener(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {quoted_path(path)}: {reason}") from error


def _check_room(sizes: list[int], what: str) -> None:
    """Refuse rows and columns of which not even sums fit into memory."""
    needed, room = _PER_NUMBER * sum(sizes), available()
    if room is not None and needed > room:
        raise InputError(
            f"{what} is of {sizes[0]:,} rows and {sizes[1]:,} columns, whose sums take"
            f" {in_words(needed)} of memory, and {in_words(room)} are free; expected"
            " numbers of rows and columns without large gaps"
        )


def _said(
    files: list[File], shape: tuple[int, int] | None
) -> tuple[int | None, int | None]:
    """The shape that files of entries agree on."""
    if shape is not None:
        return shape[0], shape[1]
    said = {file.shape: file for file in files if file.shape != (None, None)}
    if len(said) > 1:
        (one, first), (two, second), *_ = said.items()
        raise InputError(
            f"{quoted_path(second.path)} is of a table of shape {two} and"
            f" {quoted_path(first.path)} of one of {one}; expected one shape"
        )
    return next(iter(said), (None, None))
