"""Reading an `.npy` or an `.npz`, whatever its bytes are, as named columns.

What a header claims is held against the size of the file, and against the memory there
is, before memory is taken. Nothing is unpickled. All that can be wrong with a file is
an `InputError`, and an array is the one that was saved or none.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from contexture_jax.data._headers import (
    EXPECTED,
    MAGIC,
    Header,
    damaged,
    read_header,
    sized,
    told,
)
from contexture_jax.data._memory import available, in_words
from contexture_jax.data._messages import InputError, counted, enumerated, quoted
from contexture_jax.data._source import Source, repeated
from contexture_jax.data._sparse import from_archive, is_sparse_archive

__all__ = ["read_npy", "read_npz"]

# More is nearly always an array the wrong way round.
_MOST_COLUMNS = 1_000_000
# Bytes, or numbers, that are looked at in one go, so that no mask has the size of the
# array.
_BLOCK = 1 << 20
# What deflate shrinks at most: 258 bytes to a quarter of one.
_LARGEST_RATIO = 1032


class _Member(NamedTuple):
    """An array in an archive, whose header has been read."""

    info: zipfile.ZipInfo
    header: Header


def read_npy(path: Path) -> Source:
    """Read one array of rows × columns.

    Raises:
        InputError: if it is damaged, too large, or no such array.
    """
    with path.open("rb") as file, told(path.name):
        start = file.read(len(MAGIC))
        # The bytes of a zip file, whatever its name says.
        if start.startswith(b"PK"):
            raise InputError(f"{path.name} is an archive of arrays: call it .npz")
        file.seek(0)
        header = read_header(file, path.stat().st_size, path.name)
        _check_matrix(header, path.name)
        # Before the numbers are read: a header of a few bytes may claim terabytes.
        _check_memory(header, path.name, beside=0)
        # From the place behind the header, straight into one array.
        x = _ordered(np.fromfile(file, header.dtype, header.size), header)
    return _from_matrix(x, path.name, path.name, {}, [])


def read_npz(path: Path) -> Source:
    """Read an archive: features in `x`, or in its only 2-D array; and vectors.

    Members that are no arrays are left out with a note.

    Raises:
        InputError: if it is damaged, too large, or holds no such array.
    """
    with path.open("rb") as file, told(path.name):
        if file.read(len(MAGIC)) == MAGIC:
            file.seek(0)
            read_header(file, path.stat().st_size, path.name)
            raise InputError(f"{path.name} is one array: call it .npy")
    with told(path.name), zipfile.ZipFile(path) as archive:
        members, others = _members(archive, path.name)
        # Before `_features`, to which its parts are vectors of odd lengths.
        if is_sparse_archive(members):
            return from_archive(_read_all(archive, members, path.name), path.name)
        name = _features(members, path.name)
        what = f"array {quoted(name)} of {path.name}"
        _check_matrix(members[name].header, what)
        vectors = _vectors(members, name, path.name)
        # All that will be held at a time, not each by itself.
        beside = sum(members[key].header.num_bytes for key in vectors)
        _check_memory(members[name].header, what, beside=beside)
        x = _read_member(archive, members[name], what)
        found = {
            key: _vector(archive, members[key], f"array {quoted(key)} of {path.name}")
            for key in vectors
        }
    notes = []
    if others:
        number = counted(len(others), "member")
        notes.append(
            f"{number} of {path.name} left out as no arrays: {enumerated(others)}"
        )
    return _from_matrix(x, what, path.name, found, notes)


def _members(
    archive: zipfile.ZipFile, title: str
) -> tuple[dict[str, _Member], list[str]]:
    """The arrays of an archive by name, and the names of what is none."""
    members: dict[str, _Member] = {}
    others = []
    for info in archive.infolist():
        name, is_array = info.filename, info.filename.endswith(".npy")
        # As `numpy.load` names members.
        key = name.removesuffix(".npy")
        what = f"array {quoted(key)} of {title}"
        if info.is_dir():
            continue
        # An archive may hold a text on itself; an array by another name counts.
        if not is_array and not _begins_as_array(archive, info):
            others.append(name)
            continue
        # A zip file may hold two members of one name, of which readers take either.
        if key in members:
            raise damaged(title, f"two members are called {quoted(name)}")
        # Before a byte is inflated.
        _check_member(info, what)
        with told(what), _opened(archive, info) as stream:
            header = read_header(stream, info.file_size, what)
        members[key] = _Member(info, header)
    return members, others


def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> io.BufferedIOBase:
    return cast(io.BufferedIOBase, archive.open(info))


def _begins_as_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except Exception:  # whatever it is, it is left out
        return False


def _check_member(info: zipfile.ZipInfo, what: str) -> None:
    if info.flag_bits & 0x1:
        raise InputError(f"{what} is encrypted; expected an archive without a password")
    is_stored = info.compress_type == zipfile.ZIP_STORED
    is_deflated = info.compress_type == zipfile.ZIP_DEFLATED
    # What the directory claims is held against the compressed size, so that a small
    # file cannot ask for much memory.
    most = _LARGEST_RATIO * info.compress_size + _BLOCK
    if (is_stored and info.file_size != info.compress_size) or (
        is_deflated and info.file_size > most
    ):
        raise damaged(
            what,
            f"{info.compress_size:,} bytes cannot hold the {info.file_size:,} that it"
            " says",
        )


def _features(members: dict[str, _Member], title: str) -> str:
    """Which array holds the features."""
    # Names that mean something here: to pass over their array would take another for
    # it.
    for name in ("x", "y", "target"):
        if name in members and members[name].header.dtype is None:
            kind = members[name].header.kind
            kind = "Python objects" if kind == "dtype object" else kind
            raise InputError(
                f"array {quoted(name)} of {title} holds {kind}; expected numbers or"
                " text"
            )
    matrices = [
        name for name, member in members.items() if len(member.header.shape) == 2
    ]
    if "x" in members:
        return "x"
    if len(matrices) == 1:
        return matrices[0]
    raise InputError(
        f"{title} holds {len(matrices)} 2-D arrays and none called x; expected"
        f" features in x (arrays: {enumerated(members) or 'none'})"
    )


def _vectors(members: dict[str, _Member], features: str, title: str) -> list[str]:
    """Which arrays have one value a row."""
    num_rows = members[features].header.shape[0]
    names = [
        name
        for name, (_, header) in members.items()
        if name != features
        and header.dtype is not None
        and header.shape in ((num_rows,), (num_rows, 1))
    ]
    # A target of another length is a mistake, and no array to leave out in silence.
    for name in ("y", "target"):
        if name in members and name not in (*names, features):
            raise InputError(
                f"array {quoted(name)} of {title} has shape"
                f" {members[name].header.shape}; expected ({num_rows},), as array"
                f" {quoted(features)} has {num_rows} rows"
            )
    return names


def _check_matrix(header: Header, what: str) -> None:
    if header.dtype is None or header.dtype.kind not in "biuf":
        kind = header.kind
        raise InputError(
            f"cannot read {what}: it holds Python objects; {EXPECTED}"
            if kind == "dtype object"
            else f"{what} has {kind}; expected real numbers"
        )
    # By the header alone, before memory is taken.
    if len(header.shape) != 2 or 0 in header.shape:
        raise InputError(
            f"{what} has shape {header.shape}; expected (rows, columns), at least 1 of"
            " each"
        )
    if header.shape[1] > _MOST_COLUMNS:
        raise InputError(
            f"{what} has {header.shape[1]:,} columns; expected {_MOST_COLUMNS:,} at"
            " most, and rows along the first axis"
        )


def _check_memory(header: Header, what: str, *, beside: int) -> None:
    """Refuse what does not fit: the numbers, and twice as many in float64."""
    needed = header.num_bytes + 16 * header.size + beside
    # Unknown on systems without /proc: there the attempt is made.
    room = available()
    if room is not None and needed > room:
        raise InputError(
            f"{what} is {sized(header)}, which takes {in_words(needed)} of memory, and"
            f" {in_words(room)} are free; take fewer rows or columns"
        )


def _read_member(archive: zipfile.ZipFile, member: _Member, what: str) -> np.ndarray:
    info, header = member
    # Filled in place: `read` of all bytes would hold them twice.
    flat = np.empty(header.size, header.dtype)
    with told(what), _opened(archive, info) as stream:
        # Once more, to stand at the first number.
        read_header(stream, info.file_size, what)
        if header.num_bytes:
            _fill(stream, flat.view(np.uint8).data)
        stream.read(1)  # the end, where the checksum is compared
    return _ordered(flat, header)


def _vector(archive: zipfile.ZipFile, member: _Member, what: str) -> np.ndarray:
    """One value a row; of one value throughout, in the memory of that."""
    cells = _as_text(_read_member(archive, member, what).reshape(-1), what)
    # In blocks, so that one that varies at its start is not compared whole.
    starts = range(0, len(cells), _BLOCK)
    same = cells.dtype.kind in "biuf" and not any(
        (cells[start : start + _BLOCK] != cells[0]).any() for start in starts
    )
    return repeated(cells[0], len(cells)) if same else cells


def _read_all(
    archive: zipfile.ZipFile, members: dict[str, _Member], title: str
) -> dict[str, np.ndarray]:
    """The parts of a sparse matrix, and all else that is no Python object."""
    found, taken = {}, 0
    for name, member in members.items():
        what = f"array {quoted(name)} of {title}"
        if member.header.dtype is not None:
            _check_memory(member.header, what, beside=taken)
            taken += member.header.num_bytes
            found[name] = _read_member(archive, member, what)
    return found


def _fill(stream: io.BufferedIOBase, room: memoryview) -> None:
    done = 0
    while done < len(room):
        block = stream.read(min(_BLOCK, len(room) - done))
        # A stream may give fewer bytes than asked for, but none only at its end.
        if not block:
            raise EOFError(f"it ends after {done:,} of {len(room):,} bytes")
        room[done : done + len(block)] = block
        done += len(block)


def _ordered(flat: np.ndarray, header: Header) -> np.ndarray:
    """Numbers in this machine's byte order and the array's own shape."""
    if flat.size != header.size:
        raise EOFError(f"it ends after {flat.size:,} of {header.size:,} numbers")
    # In place: the other byte order needs no second array.
    if not flat.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(flat.dtype.newbyteorder("="))
    if flat.dtype.kind == "f" and flat.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # told as infinite
            # Long doubles are of another format on other machines, and no use of them
            # is made.
            flat = flat.astype(np.float64)
    if header.columns_first:
        return flat.reshape(header.shape[::-1]).T
    return flat.reshape(header.shape)


def _as_text(cells: np.ndarray, what: str) -> np.ndarray:
    """Bytes as the text that they are in UTF-8; all else as it is."""
    if cells.dtype.kind == "S":
        try:
            return np.char.decode(cells, "utf-8")
        except UnicodeDecodeError:
            return cells
    if cells.dtype.kind == "U" and cells.size and cells.dtype.itemsize:
        # NumPy does not check the characters of its texts; Python's raise where they
        # are used.
        codes = np.ascontiguousarray(cells).view(np.uint32)
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise damaged(what, "its texts hold no characters")
    return cells


def _from_matrix(
    x: np.ndarray,
    what: str,
    title: str,
    vectors: dict[str, np.ndarray],
    notes: list[str],
) -> Source:
    """Columns of an array, which stays as it is: views, of its own dtype.

    Of one value throughout, a column is a view of that alone: it takes no memory.
    """
    first, count = None, 0
    varies = np.zeros(x.shape[1], dtype=bool)
    rows = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        if not varies.all():  # most do within the first rows
            # Against the first row, in one pass with the search for infinities.
            varies |= (block != x[0]).any(axis=0)
        bad = ~np.isfinite(block)
        if bad.any():
            if first is None:
                row, column = np.argwhere(bad)[0].tolist()
                first = (start + row, column)
            count += int(bad.sum())
    if first is not None:
        row, column = first
        raise InputError(
            f"{what} holds {x[row, column]} at [{row}, {column}] ({count} such"
            " values); expected finite numbers: fill or remove them"
        )
    names = [f"x{i}" for i in range(x.shape[1])]
    columns = [
        column if varied else repeated(column[0], len(x))
        for column, varied in zip(x.T, varies, strict=True)
    ]
    return Source(title, names, columns, vectors, None, tuple(notes))
