"""The directory of a run of `contexture train`: whose it is, and what it keeps."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contexture_jax.cli.session._publish import SETTINGS, replacing
from contexture_jax.cli.session._signals import Ending
from contexture_jax.data import InputError, quoted_path

__all__ = [
    "RUN",
    "check_claimed",
    "check_run",
    "check_same",
    "claim_run",
    "kept_of",
    "resumed",
    "told_in_one_line",
]

RUN = "run"

# What may change when a run goes on: nothing that its states depend on.
_FREE = ("version", "data", "devices", "strategy")

# The words of asyncio.
_LATE = "Event loop is closed"


def check_run(folder: Path, settings: dict[str, Any], *, resume: bool) -> bool:
    """Whether the directory of the run holds one to go on with, which is the same.

    Args:
        folder: the directory, which need not exist.
        settings: what makes the run the run that it is, or some of it.
        resume: whether there may be a run.

    Raises:
        InputError: if it holds a run and `resume` is not set, or another run.
    """
    path = folder / SETTINGS
    has_checkpoints = bool(_steps(folder))
    # Without --resume a run that kept no step is begun anew, whatever its settings.
    if not path.exists() or not (resume or has_checkpoints):
        return False
    if not resume:
        raise InputError(
            f"{quoted_path(str(folder))} holds a run already; expected --resume to go"
            " on with it, another --out, or that directory deleted"
        )
    check_same(path, settings)
    return True


def claim_run(folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Say whose the directory of the run is, or find the same run in it.

    Raises:
        InputError: as `check_run`, or if the file system refuses.
    """
    if not check_run(folder, settings, resume=resume):
        with replacing(folder / SETTINGS) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def check_same(path: Path, wanted: dict[str, Any]) -> None:
    """Find out whether a directory is that of the same run.

    Args:
        path: its file of settings.
        wanted: the settings of this run.

    Raises:
        InputError: if it is another's, or the file is damaged.
    """
    folder = path.parent
    # As they are read again: tuples are lists there.
    wanted = json.loads(json.dumps(wanted))
    try:
        held = dict(json.loads(path.read_text(encoding="utf-8")))
    # No UTF-8, no JSON, no object, or one that is nested without end.
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{quoted_path(str(path))} is damaged ({error}); expected another --out, or"
            f" {quoted_path(str(folder))} deleted"
        ) from error
    differing = [
        name for name in wanted if name not in _FREE and held.get(name) != wanted[name]
    ]
    if differing:
        name = differing[0]
        raise InputError(
            f"{quoted_path(str(folder))} holds another run: {name} is"
            f" {held.get(name)} there and {wanted[name]} here; expected the same"
            " options, or another --out"
        )


def check_claimed(folder: Path) -> None:
    """Find out whether the directory of the run has been removed since it was claimed.

    Raises:
        InputError: if so.
    """
    if not (folder / SETTINGS).exists():
        raise InputError(
            f"{quoted_path(folder)} was removed before the run trained in it: nothing"
            " of the run is kept"
        )


def kept_of(folder: Path, num_steps: int, command: str) -> str:
    """Which step of a run is kept, and the command that goes on from it, in words."""
    steps = _steps(folder)
    settings = folder / SETTINGS
    # Nothing is promised that `claim_run` would refuse.
    if steps and not settings.exists():
        return f"nothing of the run is kept: {quoted_path(settings)} was removed"
    if not steps:
        return "no step was kept: the same command starts anew"
    return (
        f"step {max(steps):,} of {num_steps:,} is kept in {quoted_path(folder)}; go on"
        f" from it with: {resumed(command)}"
    )


def resumed(command: str) -> str:
    """The command that goes on with what a command began."""
    # Once, where it was there before too.
    arguments = shlex.split(command)
    return shlex.join([a for a in arguments if a != "--resume"] + ["--resume"])


def _steps(folder: Path) -> list[int]:
    try:
        found = [path.name for path in (folder / "checkpoints").iterdir()]
    except OSError:
        found = []
    # Orbax gives a checkpoint its number as it is complete, and a suffix until then.
    return [int(name) for name in found if name.isdigit()]


@contextmanager
def told_in_one_line(ending: Ending) -> Iterator[None]:
    """A run that saves itself when it is ended, and whose failures are one line.

    What fails in a thread of Orbax is raised in this one too: the reports of the
    threads are kept off the terminal, and those that come later, as what has failed is
    collected, to the end of the process.

    Raises:
        InputError: in place of a `CheckpointError`.
    """
    from contexture_jax.training import CheckpointError

    logs = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [log.level for log in logs]
    hooks = sys.excepthook, threading.excepthook
    for log in logs:
        # Above all levels.
        log.setLevel(logging.CRITICAL + 1)
    ending.hook = _without_late(ending.hook)
    sys.excepthook = lambda *_: None
    threading.excepthook = lambda _: None
    try:
        with ending.left_to_itself():
            yield
    except CheckpointError as error:
        # None to put back: the loggers stay silent, as late reports come through them.
        levels = []
        hooks = _without_late(hooks[0]), _without_late(hooks[1])
        raise InputError(str(error)) from error
    finally:
        sys.excepthook, threading.excepthook = hooks
        for log, level in zip(logs, levels, strict=False):
            log.setLevel(level)


def _without_late(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that is not told that a write ended after the loop that waited for it.

    Those of Orbax's writes that are under way when one fails end so, in threads of
    TensorStore, at any time up to the end of the process.

    Args:
        hook: `sys.excepthook`, `threading.excepthook` or `sys.unraisablehook`.
    """
    # A second run in the same process does not wrap it again.
    if hasattr(hook, "is_without_late"):
        return hook

    def told(*args: Any) -> None:
        first: Any = args[0]
        error = args[1] if len(args) > 1 else first.exc_value
        is_late = isinstance(error, RuntimeError) and str(error) == _LATE
        if not is_late:
            hook(*args)

    vars(told)["is_without_late"] = True
    return told
