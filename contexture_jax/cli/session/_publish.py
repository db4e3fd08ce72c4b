"""Writing a directory of results whole, or not at all, and by one run at a time."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contexture_jax._core.locks import HeldError, is_held, locked, remove_stale
from contexture_jax.cli.session._signals import Ending
from contexture_jax.data import InputError, quoted_path

__all__ = [
    "SETTINGS",
    "check_out",
    "claimed",
    "made_inside",
    "publishing",
    "remove_temporaries",
    "replacing",
]

SETTINGS = "settings.json"  # of what is kept of a run, whatever its kind
# What a run would leave behind that is ended without a word.
_temporaries: set[Path] = set()


def check_out(out: str, known: Sequence[str], folder: str) -> Path:
    """Find out, before any work, whether a run can write to `out`; its full path.

    Args:
        out: the directory for the results, which need not exist.
        known: the names of the files that the run may write there.
        folder: the name of the directory in it for what is kept of the run.

    Raises:
        InputError: if `out`, the directory it would be made in, or `folder` is no
            directory or may not be written, a directory has the name of a file, or
            `folder` holds what no run has kept, as it is removed at the end.
    """
    if not out:
        raise InputError("--out is empty; expected the name of a directory")
    path = Path(out).absolute()
    _check_writable(path, out)
    if _exists(path / folder):
        _check_writable(path / folder, str(Path(out) / folder))
        held = [own for own in (path / folder).iterdir() if own.name[0] != "."]
        if held and not (path / folder / SETTINGS).exists():
            raise InputError(
                f"{quoted_path(Path(out) / folder)} holds {quoted_path(held[0].name)}"
                f" but no {SETTINGS} that says of what run; name another --out"
            )
    for name in known:
        if _exists(path / name) and (path / name).is_dir():
            raise InputError(
                f"--out {quoted_path(out)} holds a directory {name}, where a file is to"
                " be written; name another directory"
            )
    return path


def _check_writable(path: Path, told: str) -> None:
    existing = _existing(path)
    if not existing.is_dir():
        which = (
            "is" if existing == path else f"cannot be made: {quoted_path(existing)} is"
        )
        raise InputError(
            f"--out {quoted_path(told)} {which} a file; expected the name of a"
            " directory"
        )
    # Asked first, for a message that names the reason.
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"--out {quoted_path(told)} cannot be written: no permission in"
            f" {quoted_path(existing)}; name another directory"
        )
    try:
        # Some file systems grant permission and refuse all the same, such as /proc. The
        # file has no name where the system knows such files.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise _refused(Path(told), error) from error


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    while not _exists(path) and path != path.parent:
        path = path.parent
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a loop of links
        return False


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other runs off a directory of results while the block runs.

    The lock lies in the directory, or where that would be made. Those that runs left
    there, or beside the directory, that were killed are removed.

    Raises:
        InputError: if another run holds it, or the file system refuses.
    """
    # By a hash: one lock for all names of a directory, beside those of others, and no
    # name too long.
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
    lock = _existing(out) / f".contexture-{name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(lock))
        except HeldError as error:
            raise InputError(
                f"--out {quoted_path(out)} is being written by another run ({error});"
                " wait for its end, or name another directory"
            ) from error
        except OSError as error:
            raise _refused(out, error) from error
        # Removed also where the process is ended in the middle.
        _temporaries.add(lock)
        stack.callback(_temporaries.discard, lock)
        for folder in {lock.parent, out.parent}:
            _remove_stale_locks(folder, lock)
        yield


def made_inside(out: Path, folder: str, stack: contextlib.ExitStack) -> Path:
    """Make the directory for what is kept of a run, in one that is claimed; its path.

    Args:
        out: the directory, which need not exist.
        folder: the name.
        stack: holds the lock where it lies from now on.

    Raises:
        InputError: if the file system refuses.
    """
    is_new = not out.is_dir()
    try:
        (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{quoted_path(out / folder)} cannot be made: {error.strerror or error}"
        ) from error
    if is_new:
        # Others look for it here, no longer beside the directory.
        stack.enter_context(claimed(out))
    return out / folder


@contextmanager
def publishing(
    out: Path,
    known: Sequence[str],
    ending: Ending,
) -> Iterator[Path]:
    """Give a new directory to write into; move what is there to `out` at the end.

    If anything is raised inside, `out` is left as it was. Each file replaces the old
    one at once; files of names in `known` that were not written this time are removed,
    so that results of two runs never mix. What runs that were killed had begun to write
    is removed.

    Args:
        out: the directory to publish to; made if it is not there.
        known: the names that runs may write, the one that says all is there last.
        ending: keeps signals off while files are moved, and is told that they are.

    Raises:
        InputError: if the file system refuses.
    """
    # Beside its files and not in the parent if it is there: that may be read-only, or
    # another file system.
    home = out if out.is_dir() else out.parent
    # The number says whose it is; as numbers come again, chance tells runs apart.
    work = home / f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with contextlib.ExitStack() as stack:
        try:
            for folder in {home, out.parent}:
                _remove_stale(folder, out.name)
            home.mkdir(parents=True, exist_ok=True)
            work.mkdir()
            _temporaries.add(work)
            # Nothing is left by its name where it has become `out`.
            stack.callback(_removed, work)
            # By this others know that it is not stale.
            stack.enter_context(locked(work))
            yield work
            # A signal between two files would leave those of two runs.
            with ending.shielded():
                _move(work, out, known, whole=home != out)
                ending.kept = lambda: f"the results are in {quoted_path(out)}, whole"
        except HeldError as error:
            raise InputError(f"{quoted_path(work)} is in use; try again") from error
        except OSError as error:
            raise _refused(out, error) from error


def _move(work: Path, out: Path, known: Sequence[str], *, whole: bool) -> None:
    # Nothing there yet: all at once.
    if whole:
        work.rename(out)
        return
    # The one that says all is there comes last: whoever waits for it finds the rest.
    # Each replaces an old one in one step of the file system.
    for name in known:
        if (work / name).exists():
            (work / name).replace(out / name)
        else:
            (out / name).unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write; it replaces `path` at once, at the end.

    Raises:
        InputError: if the file system refuses.
    """
    # In the same directory, so on the same file system, and each run's own: of two that
    # write one file the last one's is there, whole.
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    _temporaries.add(beside)
    try:
        _remove_stale_files(path)
        # By the lock others know that it is not stale.
        with locked(beside):
            yield beside
            beside.replace(path)
    except OSError as error:
        raise InputError(
            f"{quoted_path(path)} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        _removed(beside)


def _remove_stale_files(path: Path) -> None:
    """Remove what runs that were killed had begun to write in the place of a file."""
    with contextlib.suppress(OSError):
        for found in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            if found.is_file() and not found.is_symlink() and not is_held(found):
                _removed(found)


def remove_temporaries() -> None:
    """Remove what this process has begun to write, as it is about to be ended."""
    # A copy: `_removed` takes from the set. The thread that watches may be here while
    # the main thread puts in.
    for path in tuple(_temporaries):
        _removed(path)


def _remove_stale(folder: Path, name: str) -> None:
    """Remove the directories of runs that were killed while they published."""
    # A name may hold brackets and stars.
    pattern = f".{glob.escape(name)}.*.tmp"
    with contextlib.suppress(OSError):
        for path in folder.glob(pattern):
            # What a link points to was made by others. A run that is alive holds its
            # own.
            if path.is_dir() and not path.is_symlink() and not is_held(path):
                shutil.rmtree(path, ignore_errors=True)


def _remove_stale_locks(folder: Path, held: Path) -> None:
    """Remove the locks of runs that were killed, but for the one that is held."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".contexture-*.lock"):
            # By name and folder, as paths may differ by links.
            if not (path.name == held.name and folder.samefile(held.parent)):
                remove_stale(path)


def _removed(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    _temporaries.discard(path)


def _refused(out: Path, error: OSError) -> InputError:
    return InputError(
        f"--out {quoted_path(out)} cannot be written: {error.strerror or error};"
        " name another directory"
    )
