"""What goes wrong with the directory of a run, told in one line."""

from __future__ import annotations

import errno
import os

__all__ = ["CheckpointError", "reason"]


class CheckpointError(ValueError):
    """The directory of a run is damaged, another run's, in use, or cannot be written.

    The message says which file, and what to do to go on.
    """


_DISK = tuple(
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
)


def reason(error: Exception) -> str:
    """What an error says, on one line; of a file system that refuses, that alone."""
    text = " ".join(str(error).split())
    told = [words for words in _DISK if words in text]
    return told[0] if told else text[:300] or type(error).__name__
