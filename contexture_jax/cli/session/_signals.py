"""How a run of the command ends when it is told to: by SIGTERM, or by Ctrl-C.

The main thread is told by an exception, and cleans up on its way out. While it is in a
program of XLA it cannot be told, and an exception that comes as garbage is collected is
lost: a thread that watches then cleans up and ends the process for it. A run that saves
itself (`left_to_itself`, `asked`) is only ended so by a second Ctrl-C. The exception
waits while a module is imported: jaxlib's crash if they are left half imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Ending", "Interrupted", "ending_on_signals", "put_back"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE = 3.0  # seconds that the main thread has to end by itself
_POLL = 0.05


class Interrupted(BaseException):
    """The process was told to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        """As other processes of the run tell it."""
        return f"ended by {signal.Signals(self.number).name}"


class Ending:
    """What is said and done when the run ends early.

    Attributes:
        kept: what remains of the run, in words; called when they are needed.
        clean_up: removes what nobody will need; may be called more than once.
        command: the command that was given.
        hook: `sys.unraisablehook`, but for what ends the run; put there at the end.
        leaves: whether the process leaves others of its run, which it cannot part from
            in order: it is to end at once.
    """

    def __init__(self) -> None:
        self.kept: Callable[[], str] = lambda: "no results were written"
        self.clean_up: Callable[[], None] = lambda: None
        self.command = "contexture"
        self._is_patient = False  # what runs ends by itself, unless it is forced
        self._is_asked = False  # it asks for the signal, and no exception tells it
        self._asked_for = 0  # the first signal since
        self._is_shielded = False  # what runs must not be cut in two
        self._waiting = 0  # a signal to be told afterwards, or after an import
        self._is_told = False  # the exception is on its way
        self._over = threading.Event()  # ended, or the exception was lost
        self._has_ended = False  # the block is left: nobody is to end the process
        self.hook = sys.unraisablehook
        self.leaves = False

    def words(self, number: int) -> str:
        """The line to end with."""
        how = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        return f"contexture: interrupted{how}; {self.kept()}"

    @contextmanager
    def left_to_itself(self) -> Iterator[None]:
        """What runs inside takes signals itself."""
        self._is_patient = True
        try:
            yield
        finally:
            self._is_patient = False

    @contextmanager
    def asked(self) -> Iterator[Callable[[], int]]:
        """What runs inside asks now and then whether to end, and ends by itself.

        Gives what it asks: a function that returns the number of the first signal, or
        0. A second Ctrl-C ends the process.
        """
        self._is_patient = self._is_asked = True
        try:
            yield lambda: self._asked_for
        finally:
            self._is_patient = self._is_asked = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """What runs inside ends first: it is short, and must not be cut in two."""
        self._is_shielded = True
        try:
            yield
        finally:
            self._is_shielded = False
        # Not in the `finally`: where something else was raised, that goes on.
        if self._waiting:
            self._tell(self._waiting)

    def _tell(self, number: int, frame: FrameType | None = None) -> None:
        """Called in the main thread; `frame` is what it was in."""
        if self._is_asked:
            # The first; a second Ctrl-C is for the thread that watches.
            self._asked_for = self._asked_for or number
        elif self._is_shielded or _is_import(frame):
            self._waiting = self._waiting or number
            # `shielded` tells it at its end; nothing tells of the end of an import, so
            # that an alarm asks again.
            if not self._is_shielded:
                signal.setitimer(signal.ITIMER_REAL, _POLL)
        # Once: a second exception would come into the cleaning up.
        elif not self._is_told:
            self._is_told = True
            raise Interrupted(number)

    def _tell_again(self, _: int, frame: FrameType | None) -> None:
        if self._waiting:
            self._tell(self._waiting, frame)

    def _watch(self, numbers: int) -> None:
        """Called in a thread: signals come as bytes as soon as they come."""
        first, interrupts = 0, 0
        # Nothing is read once the other end is closed, as the block is left.
        while received := os.read(numbers, 1):
            number = received[0]
            # Every signal that Python handles comes here: the alarm too.
            if number not in _SIGNALS:
                continue
            first = first or number
            interrupts += number == signal.SIGINT
            if interrupts < 2 and self._is_patient:
                continue
            self._over.wait(_GRACE if interrupts < 2 else _GRACE / 3)
            # Results that are being moved are moved first, however long that takes.
            while self._is_shielded and not self._has_ended:
                time.sleep(_POLL)
            if not self._has_ended:
                self.clean_up()
                print(self.words(first), file=sys.stderr, flush=True)
                # Not `sys.exit`, which ends a thread and not the process.
                os._exit(128 + first)

    def _end(self) -> None:
        self._has_ended = True
        self._over.set()

    def _ignored(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Python ignores what is raised in a destructor or as garbage is collected."""
        if isinstance(unraisable.exc_value, Interrupted):
            self._over.set()
        else:
            self.hook(unraisable)


def _is_import(frame: FrameType | None) -> bool:
    while frame is not None:
        # Where the import system runs a module, or loads its library.
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


@contextmanager
def ending_on_signals() -> Iterator[Ending]:
    """Take SIGTERM and SIGINT as `Interrupted` while the block runs.

    Outside the main thread nothing is changed, as Python allows no more. A signal that
    is ignored stays so.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    reading, writing = os.pipe()
    # Written to in C as a signal comes, which must not wait for a reader.
    os.set_blocking(writing, False)
    before: dict[int, Any] = {}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watch = threading.Thread(target=ending._watch, args=(reading,), daemon=True)
    watch.start()
    # Before the handlers: from the first exception on none is lost.
    sys.unraisablehook = ending._ignored
    try:
        for number in _SIGNALS:
            # As a shell without job control asks for what it runs in the background.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, ending._tell)
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, ending._tell_again)
        yield ending
    finally:
        # First of all: from here on the watch must not end the process.
        ending._end()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            # None is a handler that C has set, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(woken)
        sys.unraisablehook = ending.hook
        # In this order: closing this end ends the thread that reads the other.
        os.close(writing)
        watch.join()
        os.close(reading)


def put_back() -> None:
    """Let Python handle signals again, after a library in C has taken them."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            # What Python knows of: it is not told when C sets another.
            signal.signal(number, signal.getsignal(number))
