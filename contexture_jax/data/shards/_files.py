"""Files of shards: what each kind holds, and how a part of it is read.

Parts are read into memory of our own and not mapped: mapped pages count as resident,
and a file that is cut off while it is mapped ends the process.
"""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.data._headers import EXPECTED, Header, read_header, sized, told
from contexture_jax.data._messages import InputError, enumerated, quoted_path

__all__ = ["File", "of_npy", "of_npz", "of_parquet"]

_ROLES = {
    "rows": re.compile(r"(?i)rows?|row_?ind(ex|ices)"),
    "columns": re.compile(r"(?i)col(umn)?s?|col(umn)?_?ind(ex|ices)"),
    "values": re.compile(r"(?i)data|values?|weights?|counts?"),
}
_MOST_AT_ONCE = 2**30  # bytes of a part that its file does not let us cut
_MOST_OF_A_SHAPE = 1000  # bytes
_PARQUET = "expected a Parquet file whose columns are numbers"


@dataclasses.dataclass(frozen=True, eq=False)
class File:
    """A file of a table.

    Attributes:
        path: where it is.
        stamp: its size and time of change when it was opened.
        is_dense: whether it holds rows; else entries.
        size: how many rows or entries.
        shape: (rows, m), or (n, m) of the table that entries are of, None where the
            file does not say.
        dtype: of the numbers as stored.
        width: bytes of a row or an entry.
        load: (start, stop, room) to the numbers.
        breaks: rows or entries where a part may begin; None: anywhere.
        names: of the columns of rows, where the file has them.
        expected: what to say of one that is damaged.
    """

    path: Path
    stamp: tuple[int, int]
    is_dense: bool
    size: int
    shape: tuple[int | None, int | None]
    dtype: np.dtype
    width: int
    load: Callable[[int, int, Any], Any]
    breaks: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    expected: str = EXPECTED

    @property
    def num_bytes(self) -> int:
        """As the file system says."""
        return self.stamp[0]

    def cut(self, block_bytes: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of parts of about so many bytes."""
        step = max(1, block_bytes // max(1, self.width))
        if self.breaks is None:
            for start in range(0, self.size, step):
                yield start, min(start + step, self.size)
            return
        start = 0
        for stop, after in zip(
            self.breaks, (*self.breaks[1:], self.breaks[-1] + step), strict=True
        ):
            # As many whole groups as there is room for, one at least.
            if after - start > step and stop > start:
                yield start, stop
                start = stop

    def check(self) -> None:
        """Raise an `InputError` if the file is gone or has changed."""
        try:
            now = _stamp(os.stat(self.path))
        except OSError as error:
            raise InputError(
                f"cannot read {quoted_path(self.path)}: {error.strerror}; it was there"
                " when the table was opened"
            ) from error
        if now != self.stamp:
            raise InputError(
                f"{quoted_path(self.path)} has changed since the table was opened"
                f" ({self.stamp[0]:,} bytes then, {now[0]:,} now); expected shards that"
                " stay as they are: begin anew"
            )

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows."""
        if self.breaks is not None:
            raise InputError(
                f"{quoted_path(self.path)} is read in groups of rows; single ones are"
                " read of .npy files"
            )
        return np.concatenate([self.read(int(row), int(row) + 1) for row in rows])

    def read(self, start: int, stop: int, room: np.ndarray | None = None) -> Any:
        """The numbers of a part."""
        self.check()
        with told(quoted_path(self.path), self.expected):
            try:
                return self.load(start, stop, room)
            except OSError as error:
                raise InputError(
                    f"cannot read {quoted_path(self.path)}: {error.strerror or error}"
                ) from error


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def of_npy(path: Path) -> File:
    """A file of `numpy.save`: rows of a table."""
    what = quoted_path(path)
    with path.open("rb") as stream, told(what):
        stamp = _stamp(os.fstat(stream.fileno()))
        header = read_header(stream, stamp[0], what)
        begin = stream.tell()
    dtype = _real(header, what)
    if len(header.shape) != 2 or 0 in header.shape:
        raise InputError(
            f"{what} has shape {header.shape}; expected (rows, columns), at least 1 of"
            " each"
        )
    if header.columns_first and header.shape[0] > 1:
        raise InputError(
            f"{what} holds {sized(header)} column by column (Fortran order), and is"
            " read by rows; expected numpy.save(path, numpy.ascontiguousarray(x))"
        )
    num_rows, num_columns = header.shape
    width = num_columns * dtype.itemsize

    def load(start: int, stop: int, room: np.ndarray | None) -> np.ndarray:
        shape = (stop - start, num_columns)
        # Shards beside it may be of another dtype, and the room of both.
        if room is not None and room.dtype == dtype:
            return _filled(path, begin + start * width, room[: shape[0]])
        found = _filled(path, begin + start * width, np.empty(shape, dtype))
        if room is None:
            return found
        room[: shape[0]] = found
        return room[: shape[0]]

    return File(
        path, stamp, True, num_rows, (num_rows, num_columns), dtype, width, load
    )


def _real(header: Header, what: str) -> np.dtype:
    if header.dtype is None or header.dtype.kind not in "biuf":
        raise InputError(f"{what} has {header.kind}; expected real numbers")
    return header.dtype


def _filled(path: Path, offset: int, room: np.ndarray) -> np.ndarray:
    """An array that is in one piece, read straight from the file."""
    left: Any = memoryview(room.reshape(-1).view(np.uint8).data)
    # Without a buffer between: parts are large.
    with path.open("rb", buffering=0) as stream:
        stream.seek(offset)
        while len(left):
            count = stream.readinto(left)
            if not count:
                raise EOFError(f"it ends {len(left):,} bytes too early")
            left = left[count:]
    return room


def of_npz(path: Path) -> File:
    """A file of `numpy.savez` with rows, columns and values of entries."""
    what = quoted_path(path)
    stamp = _stamp(os.stat(path))
    with told(what), zipfile.ZipFile(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info for info in archive.infolist()
        }
        roles = _roles(list(members), what)
        headers, begins = {}, {}
        for role, name in roles.items():
            with archive.open(members[name]) as stream:
                headers[role] = read_header(
                    stream,  # pyright: ignore[reportArgumentType]
                    members[name].file_size,
                    f"array {name} of {what}",
                )
                begins[role] = stream.tell()
        shape = _shape_in(archive, members, what)
        is_stored = all(
            members[name].compress_type == zipfile.ZIP_STORED for name in roles.values()
        )
    size = _checked_entries(headers, what)
    width = sum(header.num_bytes for header in headers.values()) // max(size, 1)
    if not is_stored and size * width > _MOST_AT_ONCE:
        raise InputError(
            f"{what} is compressed and holds {size:,} entries, which would have to be"
            " in memory at once; expected numpy.savez in place of savez_compressed, or"
            " smaller shards"
        )
    places = {
        role: (_data_offset(path, members[roles[role]]) + begins[role])
        for role in roles
    }

    def load(start: int, stop: int, room: Any) -> tuple[np.ndarray, ...]:
        del room
        parts = {}
        if is_stored:
            for role, header in headers.items():
                part = np.empty(stop - start, header.dtype)
                place = places[role] + start * part.dtype.itemsize
                parts[role] = _filled(path, place, part)
        else:
            with zipfile.ZipFile(path) as archive:
                for role, name in roles.items():
                    whole = _inflated(archive, members[name], what)
                    parts[role] = whole[start:stop]
        return _entries(parts, stop - start, what)

    return File(
        path,
        stamp,
        False,
        size,
        shape,
        headers["values"].dtype if "values" in headers else np.dtype(np.float32),
        max(width, 1),
        load,
        None if is_stored else (size,),
    )


def _roles(names: list[str], what: str) -> dict[str, str]:
    """Which array or column holds what of entries."""
    found = {}
    for role, pattern in _ROLES.items():
        fitting = [name for name in names if pattern.fullmatch(name)]
        if len(fitting) > 1:
            raise InputError(
                f"{what} has {enumerated(fitting)}; expected one of them as the {role}"
            )
        if fitting:
            found[role] = fitting[0]
    if "rows" not in found or "columns" not in found:
        raise InputError(
            f"{what} holds {enumerated(names) or 'nothing'}; expected rows, columns and"
            " values of the entries of a table"
        )
    return found


def _checked_entries(headers: dict[str, Header], what: str) -> int:
    sizes = {role: header.shape for role, header in headers.items()}
    if len(set(sizes.values())) != 1 or len(sizes["rows"]) != 1:
        raise InputError(
            f"{what} holds arrays of shapes {sizes}; expected vectors of one length"
        )
    for role in ("rows", "columns"):
        dtype = headers[role].dtype
        if dtype is None or dtype.kind not in "iu":
            raise InputError(
                f"the {role} of {what} have {headers[role].kind}; expected integers"
            )
    if "values" in headers:
        _real(headers["values"], f"values of {what}")
    return sizes["rows"][0]


def _shape_in(
    archive: zipfile.ZipFile, members: dict[str, Any], what: str
) -> tuple[int | None, int | None]:
    if "shape" not in members:
        return None, None
    found = np.zeros(0)
    if members["shape"].file_size < _MOST_OF_A_SHAPE:
        found = _inflated(archive, members["shape"], what)
    if found.shape != (2,) or found.dtype.kind not in "iu" or (found < 1).any():
        raise InputError(f"the shape in {what} is {found}; expected two counts")
    return int(found[0]), int(found[1])


def _inflated(archive: zipfile.ZipFile, info: Any, what: str) -> np.ndarray:
    with archive.open(info) as stream:
        header = read_header(stream, info.file_size, what)  # pyright: ignore
        # To the end, where the checksum is compared.
        return np.frombuffer(stream.read(), header.dtype).reshape(header.shape)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin: its own header says how long that is."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        head = stream.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise InputError(f"cannot read {quoted_path(path)}: its directory is damaged")
    name, extra = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + 30 + name + extra


def _entries(parts: dict[str, Any], size: int, what: str) -> tuple[np.ndarray, ...]:
    rows, columns = parts["rows"], parts["columns"]
    values = parts.get("values")
    values = np.ones(size, np.float32) if values is None else values
    for role, numbers in (("row", rows), ("column", columns)):
        if size and int(numbers.min()) < 0:
            raise InputError(
                f"{what} holds the {role} number {numbers.min()}; expected 0 or more"
            )
    return rows, columns, values


def of_parquet(path: Path) -> File:
    """A Parquet file: rows of numbers, or rows, columns and values of entries."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"reading {quoted_path(path)} takes the package pyarrow, of the extra cli"
        ) from error
    what = quoted_path(path)
    stamp = _stamp(os.stat(path))
    with told(what, _PARQUET), parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        kinds = [np.dtype(t.to_pandas_dtype()) for t in file.schema_arrow.types]
        counts = [
            file.metadata.row_group(i).num_rows
            for i in range(file.metadata.num_row_groups)
        ]
    if not names or not sum(counts):
        raise InputError(f"{what} is empty; expected rows")
    for name, kind in zip(names, kinds, strict=True):
        if kind.kind not in "biuf":
            raise InputError(
                f"column {name} of {what} holds {kind}; expected real numbers"
            )
    ends = tuple(np.cumsum(counts).tolist())
    fits = [any(p.fullmatch(name) for p in _ROLES.values()) for name in names]
    is_dense = not (all(fits) and 1 < len(names) <= 3)
    roles = {} if is_dense else _roles(names, what)
    dtype = np.result_type(*kinds)
    if not is_dense:
        kept = dict(zip(names, kinds, strict=True))
        dtype = kept.get(roles.get("values", ""), np.dtype(np.float32))
        if any(kept[roles[role]].kind not in "iu" for role in ("rows", "columns")):
            raise InputError(f"rows and columns of {what} must be integers")

    def load(start: int, stop: int, room: np.ndarray | None) -> Any:
        groups = [
            i for i, end in enumerate(ends) if start < end and end - counts[i] < stop
        ]
        with parquet.ParquetFile(path) as file:
            table = file.read_row_groups(groups)
        if any(column.null_count for column in table.columns):
            raise InputError(f"{what} lacks cells; expected a number in each")
        arrays = [column.to_numpy() for column in table.columns]
        if not is_dense:
            parts = {role: arrays[names.index(name)] for role, name in roles.items()}
            return _entries(parts, stop - start, what)
        if room is None:
            room = np.empty((stop - start, len(names)), dtype)
        for number, array in enumerate(arrays):
            room[: stop - start, number] = array
        return room[: stop - start]

    width = len(names) * dtype.itemsize if is_dense else sum(k.itemsize for k in kinds)
    shape = (ends[-1], len(names)) if is_dense else (None, None)
    named = tuple(names) if is_dense else ()
    return File(
        path,
        stamp,
        is_dense,
        ends[-1],
        shape,
        dtype,
        width,
        load,
        ends,
        named,
        _PARQUET,
    )
