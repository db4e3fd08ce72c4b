"""Ending a run between two steps, because the process was told to end.

SIGTERM and SIGINT (Ctrl-C) become a flag that the loop reads between steps, so that it
can save before it ends. A second Ctrl-C is a KeyboardInterrupt at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interruption", "interruptible"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What a signal does unless the program says otherwise; `Any`, as `signal` types it so.
_DEFAULTS: tuple[Any, ...] = (signal.SIG_DFL, signal.default_int_handler, None)

Agree = Callable[[int], int]


class Interruption:
    """Whether the process was told to end.

    Args:
        agree: turns this process's signal number, 0 if there was none, into the one
            that all processes go by; it is called once a step, in all of them. None:
            this process decides alone.
    """

    def __init__(self, agree: Agree | None = None) -> None:
        self._agree = agree
        self._received = 0
        self._agreed = 0

    def is_asked(self) -> bool:
        """Whether to end now; to be called between steps."""
        # Agreed once, the collective is not entered again: all processes have left the
        # loop.
        if not self._agreed:
            received = self._received
            self._agreed = self._agree(received) if self._agree else received
        return self._agreed != 0

    @property
    def name(self) -> str:
        """The signal that was gone by, such as "SIGTERM"; empty if there was none."""
        return signal.Signals(self._agreed).name if self._agreed else ""

    def _receive(self, number: int) -> None:
        again = self._received != 0
        self._received = self._received or number
        # SIGTERM may come twice by itself: to a process and to its group.
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt


_current: Interruption | None = None


@contextmanager
def interruptible(agree: Agree | None = None) -> Iterator[Interruption]:
    """Take SIGTERM and SIGINT as a request to end, for as long as the block runs.

    Handlers are put back at the end. A handler that the program has set itself is
    called then, also where the signal came to another process of the run, and a signal
    that came too late for the block to go by is sent again. Signals that are ignored
    stay so. Outside the main thread nothing is changed, as Python allows no more;
    within another such block the request is shared with it.

    Args:
        agree: see `Interruption`.
    """
    global _current
    # Python delivers signals to the main thread, and lets no other set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield Interruption(agree)
        return
    # The handlers of the outer block are ours already; to set them again would save
    # ours as the program's.
    if _current is not None:
        yield _current
        return
    interruption = _current = Interruption(agree)
    owner, missed = os.getpid(), []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != owner:  # a worker that was forked: as if we were not here
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # Python runs handlers between two instructions of the main thread: plain
        # assignments are safe here, locks and logging would not be.
        missed.append(number)
        interruption._receive(number)

    before: dict[int, Any] = {}
    try:
        for number in _SIGNALS:
            # As a shell has it for SIGINT of jobs in the background: who ignores a
            # signal has asked for the run to go on.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
        yield interruption
    finally:
        _current = None
        for number, handler in before.items():
            # `None` is a handler that was not set from Python, which cannot be put
            # back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    # What a handler does, all processes do: of collectives that one enters alone, or
    # leaves alone, none comes to an end.
    if interruption._agreed in before:
        missed.append(interruption._agreed)
    # Each once, in the order in which they came.
    for number in dict.fromkeys(missed):
        if before[number] not in _DEFAULTS:
            before[number](number, None)
        # The block ended before it asked: to lose the signal would leave a process that
        # cannot be told to end.
        elif not interruption.name:
            signal.raise_signal(number)
