"""Arrays in the archives of `numpy.savez`: written whole, read whatever their bytes."""

from __future__ import annotations

import errno
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_archive", "write_archive"]

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_archive(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an archive, by name, in about as much memory as the file has bytes.

    What headers claim is held against what is there before memory is taken, nothing is
    unpickled, and the checksums of the archive are compared.

    Args:
        path: of a file of `numpy.savez`, which does not compress.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such file, or is damaged.
    """
    size = os.path.getsize(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check(members, size)
            return {
                member.filename.removesuffix(".npy"): _array(archive, member)
                for member in members
            }
    # Damaged bytes raise errors of any kind, and so do seeks to where they point.
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        msg = f"{path} is no archive of arrays, or it is damaged"
        raise ValueError(msg) from error


def write_archive(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, without pickle; the file is whole or as it was.

    Args:
        path: of the file, an `.npz` whatever its name.
        arrays: by name.

    Raises:
        OSError: if it cannot be written.
        TypeError: if an array is of Python objects.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            msg = f"{name} is an array of {array.dtype}: expected numbers or texts"
            raise TypeError(msg)
    # Two programs may write to one path; the last one's file is whole.
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            # To a file and not to its path, which `savez` would end with .npz. Before
            # NumPy 2.1 `allow_pickle` would be the name of one more array.
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
            file.flush()
            # On the disk before it takes the name: a crash leaves one or the other.
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _check(members: list[zipfile.ZipInfo], size: int) -> None:
    is_stored = all(m.compress_type == zipfile.ZIP_STORED for m in members)
    # Members that share their bytes would take more than the file has.
    if not is_stored or sum(m.file_size for m in members) > size:
        raise ValueError("it is compressed, or larger than it can be")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        read_header = _HEADERS[np.lib.format.read_magic(stream)]
        shape, columns_first, dtype = read_header(stream)
        count = math.prod(shape)
        left = member.file_size - stream.tell()
        if dtype.hasobject or min(shape, default=0) < 0:
            raise ValueError("an array of Python objects, or of no size")
        if count * dtype.itemsize != left:
            raise ValueError("an array of other bytes than it says")
        flat = np.empty(count, dtype)
        _fill(stream, flat)
        # The end, where the checksum is compared.
        stream.read(1)
    return flat.reshape(shape, order="F" if columns_first else "C")


def _fill(stream: Any, flat: np.ndarray) -> None:
    if not flat.nbytes:
        return
    room = flat.view(np.uint8).data
    done = 0
    while done < len(room):
        count = stream.readinto(room[done:])
        if not count:
            raise ValueError("an array that ends early")
        done += count
