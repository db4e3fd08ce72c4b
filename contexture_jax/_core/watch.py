"""Processes of one run watch each other: one that dies, fails or hangs ends them all.

A process that waits for another inside of a collective waits until JAX ends it, after
the timeout of its heartbeats, by an abort. Here the processes share a folder. Each
holds a lock on a file of its own, which the system takes off it when it dies, and
writes now and then to another that it lives, and how far it is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from contexture_jax._core.agreement import DisagreementError
from contexture_jax._core.locks import HeldError, left_by_death, locked

__all__ = ["PATIENCE", "UnsharedError", "Watch", "watched"]

PATIENCE = 45.0  # seconds without a sign of life, or behind the others

# In the file of a process: that it ends because of another, or has failed itself.
_REASON = "lost: "

_BEAT = 2.0  # seconds from one sign of life to the next
_GRACE = 4.0  # for what fails in all, and is raised in all a little later
_SECONDS_FOR_THE_LINE = 2 * _BEAT + _GRACE
_SOON = 1.5  # less than the command gives its main thread to end
_LAST = 0.5  # from the leaving of the others to their end
_LOOK = 0.1
_TRIES = 5
_under_way: list[Watch] = []  # one at most


class UnsharedError(Exception):
    """The processes do not see each other's files in the folder; says which."""


class Watch:
    """What a process tells the others, and threads that look at what they tell.

    Process 0 looks at all, the others at process 0, which ends with any of them.

    Args:
        folder: shared by all processes.
        told: in words, what remains of the run.
        patience: seconds that another may be silent, or behind.
    """

    def __init__(self, folder: Path, told: Callable[[], str], patience: float) -> None:
        self._folder, self._told, self._patience = folder, told, patience
        self._count, self._index = jax.process_count(), jax.process_index()
        self._reached, self._beats = 0, 0
        # One of several threads speaks, and none after the end.
        self._one = threading.Lock()
        self._over = threading.Event()
        self._looks: threading.Thread | None = None

    def reached(self) -> None:
        """Tell that this process is as far as the others will be before they go on.

        Called by all alike, before they wait for each other. One that stays behind for
        longer than the patience is taken to hang.
        """
        self._reached += 1

    def begin(self) -> None:
        """Look at the others, in threads."""
        others = range(1, self._count) if self._index == 0 else (0,)
        for other in others:
            self._start(self._wait, other)
        self._looks = self._start(self._look, others)

    def end(self) -> None:
        """From here on others may go."""
        self._stop()
        with suppress(OSError):
            self._beat_of(self._index).unlink()

    def fail(self, error: BaseException) -> None:
        """The block ends by an error: the others are to end, and to name it."""
        self._stop()
        words = " ".join(str(error).split()) or type(error).__name__
        what = f"{_REASON}process {self._index} of {self._count}: {words}"
        others = range(1, self._count) if self._index == 0 else range(1)
        with suppress(OSError):
            self._beat_of(self._index).write_text(what, encoding="utf-8")
        # Who raises the same leaves by itself. Opening the file of the lock and closing
        # it gives up a half of it, which ends the others at once.
        if not self._have_left(others, _SOON):
            with suppress(OSError):
                (self._folder / str(self._index)).write_text(what, encoding="utf-8")
            if self._index == 0:
                # JAX ends the others when this one goes: they are to say why before.
                self._have_left(others, 2 * (_BEAT + _GRACE))
        if self._index == 0:
            time.sleep(_LAST)

    def beat(self) -> None:
        """Write that this process lives."""
        self._beats += 1
        # In place of the old one at once: a reader finds either.
        beside = self._folder / f"{self._index}.new"
        with suppress(OSError):
            beside.write_text(f"{self._beats} {self._reached}", encoding="utf-8")
            beside.replace(self._beat_of(self._index))

    def unseen(self) -> list[int]:
        """Who has not told this process that it lives."""
        return [i for i in range(self._count) if not self._beat_of(i).exists()]

    def _stop(self) -> None:
        with self._one:
            self._over.set()
        # It may be writing a last beat.
        if self._looks is not None:
            self._looks.join()

    def _start(self, function: Callable[..., None], given: object) -> threading.Thread:
        thread = threading.Thread(target=function, args=(given,), daemon=True)
        thread.start()
        return thread

    def _beat_of(self, index: int) -> Path:
        return self._folder / f"{index}.beat"

    def _have_left(self, others: range, seconds: float) -> bool:
        """Wait until others have left, as long as that takes at most."""
        for _ in range(int(seconds / _LOOK)):
            if all(map(self._has_left, others)):
                return True
            time.sleep(_LOOK)
        return False

    def _has_left(self, other: int) -> bool:
        try:
            text = self._beat_of(other).read_text(encoding="utf-8")
        except OSError:
            return True
        return text.startswith(_REASON)

    def _wait(self, other: int) -> None:
        # Waits, in the system, until the other's lock is free.
        left = left_by_death(self._folder / str(other))
        if left is None:
            return
        # The one that died first is named by all: who ends because of another leaves
        # that one's name in its file.
        what = left.removeprefix(_REASON)
        if what == left:
            who = f" ({left})" if left else ""
            what = f"process {other} of {self._count}{who} is gone"
        self._die(what)

    def _look(self, others: range | tuple[int, ...]) -> None:
        seen: dict[int, tuple[str, int]] = dict.fromkeys(others, ("", -1))
        # By beats of our own, not by a clock: a machine may have slept.
        silent, behind = dict.fromkeys(others, 0.0), dict.fromkeys(others, 0.0)
        while not self._over.wait(_BEAT):
            self.beat()
            for other in tuple(seen):
                try:
                    text = self._beat_of(other).read_text(encoding="utf-8")
                except OSError:
                    # It came to the end of its block, or the folder is not to be read.
                    continue
                if text.startswith(_REASON):
                    if self._over.wait(_GRACE):
                        return
                    self._die(text.removeprefix(_REASON))
                reached = _number(text)
                before, at = seen[other]
                silent[other] = silent[other] + _BEAT if text == before else 0.0
                is_behind = reached == at and reached < self._reached
                behind[other] = behind[other] + _BEAT if is_behind else 0.0
                seen[other] = text, reached
                name = f"process {other} of {self._count}"
                if silent[other] >= self._patience:
                    self._die(f"{name} gave no sign of life for {silent[other]:.0f} s")
                if behind[other] >= self._patience:
                    self._die(
                        f"{name} has been behind this one for {behind[other]:.0f} s"
                    )

    def _die(self, what: str) -> None:
        """Say what happened, to the others too, and end: there is no going on."""
        with self._one:
            if self._over.is_set():
                return
            # Unbuffered, and no `print`: the interpreter is not asked to do anything
            # any more.
            line = what
            with suppress(Exception):
                line += f"; {self._told()}"
            os.write(2, f"{line}\n".encode())
            for path in (self._folder / str(self._index), self._beat_of(self._index)):
                with suppress(OSError):
                    path.write_text(f"{_REASON}{what}", encoding="utf-8")
            # The main thread sits in a collective that nothing interrupts: neither an
            # exception nor `sys.exit` of this thread would reach it.
            os._exit(1)


def _number(text: str) -> int:
    words = text.split()
    # A file system may show a file that is not whole yet.
    return int(words[1]) if len(words) == 2 and words[1].isdigit() else -1


@contextmanager
def watched(
    folder: Path, told: Callable[[], str], *, patience: float = PATIENCE
) -> Iterator[Watch]:
    """End this process, with a line that says so, when another one of the run is gone.

    All processes enter it together, and each ends with the status 1 within about the
    patience after another died, failed inside of the block, was stopped, or stayed
    behind (`Watch.reached`). Where the file system knows no locks, a death is seen as
    silence. Inside of such a block another one is the same.

    Args:
        folder: made if it is not there; shared by all processes.
        told: in words, what remains of the run.
        patience: seconds.

    Raises:
        UnsharedError: in all processes, if one does not see the files of all.
    """
    if _under_way:
        # A part of a run that is watched as a whole.
        yield _under_way[0]
        return
    with ExitStack() as stack:
        watch = Watch(folder, told, patience)
        # What is wrong with the folder is told by `unseen`.
        with suppress(OSError, HeldError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_held(folder / str(jax.process_index())))
        watch.beat()
        _check_shared(watch, folder)
        watch.begin()
        _under_way.append(watch)
        stack.callback(_under_way.clear)
        try:
            yield watch
        except jax.errors.JaxRuntimeError:
            # Of a collective without its other side, perhaps: the line comes first.
            time.sleep(_SECONDS_FOR_THE_LINE)
            watch.end()
            raise
        except DisagreementError:
            # All raise it, each when it comes to it: on a machine that is busy one may
            # be slower than any grace, and is not to be ended on the way.
            watch.end()
            raise
        except BaseException as error:
            watch.fail(error)
            raise
        else:
            # Before the own lock is let go: an end is not taken for a death, on this
            # side.
            watch.end()


def _check_shared(watch: Watch, folder: Path) -> None:
    # The first tells that all have written, the second what all have seen.
    multihost_utils.process_allgather(np.int32(0))
    unseen = len(watch.unseen())
    counts = np.asarray(multihost_utils.process_allgather(np.int32(unseen)))
    if counts.any():
        watch.end()
        blind = int(np.argmax(counts > 0))
        msg = (
            f"{folder} must be seen by all processes of a run; process {blind} sees"
            f" the files of {len(counts) - int(counts[blind])} of {len(counts)}"
        )
        raise UnsharedError(msg)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """The lock on the file of this process, which others look at now and then."""
    with ExitStack() as stack:
        for _ in range(_TRIES - 1):
            try:
                stack.enter_context(locked(path))
            except HeldError:
                time.sleep(0.1)
            else:
                break
        else:
            stack.enter_context(locked(path))
        yield
