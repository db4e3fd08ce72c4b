"""Looking ahead: the next batches are read and placed while a step runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from contexture_jax._core.checks import check_integer

__all__ = ["prefetch"]

# How long an end of the block waits for a thread whose queue is full.
_POLL_SECONDS = 0.1


@contextmanager
def prefetch(
    source: Iterator[Any], place: Callable[[Any], Any], *, size: int = 2
) -> Iterator[Iterator[Any]]:
    """Run an iterator in a thread of its own, `size` items ahead.

    Inside the block, iterate over what it gives. An error in the thread is raised where
    its item would have come. The thread ends with the block; what it has read ahead is
    dropped. A KeyboardInterrupt does not wait for it: data may never come.

    Args:
        source: any iterator.
        place: applied to each item in the thread, such as `CompiledStep.place_batch`.
        size: items that wait at most; 0: no thread, each item when it is asked for.

    Example:
        >>> import contexture_jax as cx
        >>> with cx.training.prefetch(iter(range(4)), lambda i: i * i) as squares:
        ...     print(list(squares))
        [0, 1, 4, 9]
    """
    size = check_integer(size, "size", low=0)
    if size == 0:
        # In the caller's thread, errors where they occur: for debugging.
        yield map(place, source)
        return
    # Bounded: batches that wait are on the device.
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=size)
    stop = threading.Event()

    def put(item: tuple[str, Any]) -> None:
        # With a timeout: `put` alone would wait for ever once nobody takes items any
        # more.
        while not stop.is_set():
            try:
                waiting.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in source:
                put(("item", place(item)))
                # Before the next item is asked for, which may take long.
                if stop.is_set():
                    return
        # Whatever it is: an error that stays in a thread leaves the loop waiting for
        # its item.
        except BaseException as error:
            put(("error", error))
        else:
            put(("end", None))

    # A daemon, so that data that never come do not keep the interpreter alive.
    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    waits = True
    try:
        yield _taken(waiting)
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        stop.set()
        if waits:
            thread.join()


def _taken(waiting: "queue.Queue[tuple[str, Any]]") -> Iterator[Any]:
    while True:
        kind, value = waiting.get()
        if kind == "item":
            yield value
        elif kind == "error":
            raise value
        else:
            return
