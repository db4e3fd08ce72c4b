"""Writing a directory of results whole, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contexture_jax.cli._messages import InputError, quoted_path

__all__ = ["check_out", "publishing"]


def check_out(out: str) -> Path:
    """Find out, before any work, whether `out` can be written.

    Raises:
        InputError: if it, or the directory it would be made in, is no directory or may
            not be written.
    """
    if not out:
        raise InputError("--out is empty; expected the name of a directory")
    path = Path(out).absolute()
    existing = path
    while not _exists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        which = (
            "is" if existing == path else f"cannot be made: {quoted_path(existing)} is"
        )
        raise InputError(
            f"--out {quoted_path(out)} {which} a file; expected the name of a directory"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"--out {quoted_path(out)} cannot be written: no permission in"
            f" {quoted_path(existing)}; name another directory"
        )
    try:
        # Some file systems grant permission and refuse all the same, such as /proc.
        Path(tempfile.mkdtemp(prefix=".contexture-", dir=existing)).rmdir()
    except OSError as error:
        raise _refused(Path(out), error) from error
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a loop of links
        return False


@contextmanager
def publishing(out: Path, known: Sequence[str]) -> Iterator[Path]:
    """Give a new directory to write into; move what is there to `out` at the end.

    If anything is raised inside, `out` is left as it was. Each file replaces the old
    one at once; files of names in `known` that were not written this time are removed,
    so that results of two runs never mix.

    Args:
        out: the directory to publish to; made if it is not there.
        known: the names that runs may write, the one that says all is there last.

    Raises:
        InputError: if the file system refuses.
    """
    # Beside its files and not in the parent if it is there: that may be read-only, or
    # another file system.
    home = out if out.is_dir() else out.parent
    work = home / f".{out.name}.{os.getpid()}.tmp"
    try:
        home.mkdir(parents=True, exist_ok=True)
        work.mkdir()
    except OSError as error:
        raise _refused(out, error) from error
    try:
        yield work
        if home != out:
            work.rename(out)
            return
        for name in known:
            if (work / name).exists():
                (work / name).replace(out / name)
            else:
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise _refused(out, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refused(out: Path, error: OSError) -> InputError:
    return InputError(
        f"--out {quoted_path(out)} cannot be written: {error.strerror or error};"
        " name another directory"
    )
