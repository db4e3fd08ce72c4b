"""A lock on a name in the file system, which ends with its process, however that ends.

The lock is the system's own, `flock`: a process that is killed leaves none behind, at
most the empty file that it was on, which the next one takes over.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

__all__ = ["HeldError", "is_held", "left_by_death", "locked", "remove_stale"]

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_OF_A_LOOK = 0.05  # more than `is_held` and `remove_stale` hold a lock for


class HeldError(Exception):
    """Another process holds the lock; the message says which."""


_held: set[int] = set()


@contextmanager
def locked(path: Path) -> Iterator[Callable[[], bool]]:
    """Hold the lock on a file, or on a directory, while the block runs.

    A file is made for the purpose and is removed at the end; a directory must be there
    and is left. Where the file system knows no locks, nothing is held.

    Args:
        path: of the file or the directory.

    Yields:
        A function: whether what is at the path is still what the lock is on.

    Raises:
        HeldError: if another process holds it.
        OSError: if the file cannot be made.
    """
    if fcntl is None:
        yield lambda: True
        return
    is_file = not path.is_dir()
    descriptor = _acquired(path, is_file=is_file)
    _held.add(descriptor)
    try:
        yield lambda: _is_at(descriptor, path)
    finally:
        # While it is held: whoever waits on this file finds that it is gone. One that
        # has taken its place is another's.
        if is_file and _is_at(descriptor, path):
            with contextlib.suppress(OSError):
                path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a directory, as far as can be told."""
    if fcntl is None:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def remove_stale(path: Path) -> None:
    """Remove the file of a lock, unless a process holds it or that cannot be told."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                path.unlink()
        finally:
            os.close(descriptor)


def left_by_death(path: Path) -> str | None:
    """Wait until a lock on a file has been taken, and then until it is given up.

    Returns:
        What is in the file, if its holder died with it; None if it came to the end of
        its block, or where nothing can be told.
    """
    if fcntl is None:
        return None
    while True:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    try:
        while _is_free(descriptor):  # of a holder that is still to come
            if not _is_at(descriptor, path):
                return None
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        _wait(descriptor)
        return _holder(descriptor) if _is_at(descriptor, path) else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _wait(descriptor: int) -> None:
    """Wait until the holder of a lock gives it up, or dies."""
    assert fcntl is not None
    if sys.platform == "linux":
        # A lock of the other kind, POSIX's: a process that dies loses those before it
        # closes anything else, so that no one learns of its death sooner. Waiting for
        # them as an open file, not as a process, processes may wait for each other.
        request = struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
        except BlockingIOError:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, request)
            return
        except OSError:
            pass
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _is_free(descriptor: int) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _acquired(path: Path, *, is_file: bool) -> int:
    assert fcntl is not None
    flags = os.O_RDWR | os.O_CREAT if is_file else os.O_RDONLY
    looked = False
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(descriptor) if is_file else ""
            os.close(descriptor)
            if not looked:  # another may only be looking whether it is stale
                looked = True
                time.sleep(_SECONDS_OF_A_LOOK)
                continue
            raise HeldError(holder or "another process") from error
        except OSError:  # no locks here
            return descriptor
        if not is_file:
            return descriptor
        if _is_at(descriptor, path):
            with contextlib.suppress(OSError):  # see `_wait`
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # For the message to others; a full disk has no room for it.
            with contextlib.suppress(OSError):
                os.truncate(descriptor, 0)
                text = f"process {os.getpid()} on {socket.gethostname()}"
                os.pwrite(descriptor, text.encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder removed it in between


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _holder(descriptor: int) -> str:
    try:
        return os.pread(descriptor, 200, 0).decode(errors="replace")
    except OSError:
        return ""


def _forget() -> None:
    """A forked worker that outlives its parent must not keep the lock."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
