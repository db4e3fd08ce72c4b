"""A run in several processes: they end together, and one that dies is missed.

Nothing here does anything in a program of one process.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from contexture_jax._core.locks import HeldError, left_by_death, locked
from contexture_jax.training._checkpoint import newest_in

__all__ = ["agreement", "watched"]

# Steps between asking and knowing: no step waits for what its devices have not done.
_LAG = 4

# In the file of a process: that it ends because of another.
_REASON = "lost: "

_SECONDS_FOR_THE_LINE = 2.0
_TRIES = 5


def agreement(mesh: Mesh) -> Callable[[int], int] | None:
    """How the processes of a mesh come to one signal number; None where there is one.

    The function that is returned is called in all processes, once a step. It gives to
    all of them, in the same call, the largest number that one of them was given four
    calls before; 0 counts as none. Each call adds one number to what devices tell.
    """
    if not mesh.is_multi_process:
        return None
    # One number a device: the collective is of the kind that steps have anyway.
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    under_way: deque[jax.Array] = deque()
    # The arrays that say "nothing", or one signal, are made once, not at every step.
    told: dict[int, jax.Array] = {}

    def agree(received: int) -> int:
        if received not in told:
            local = np.full(len(mesh.local_devices), received, np.int32)
            told[received] = jax.make_array_from_process_local_data(rows, local)
        # Begun by all in the same order; JAX runs behind the program, so nothing waits
        # yet.
        under_way.append(jnp.max(told[received]))
        # All processes read the result of the same call: they stop at the same step, or
        # one would wait in a collective that the others do not enter.
        return int(under_way.popleft()) if len(under_way) > _LAG else 0

    return agree


@contextmanager
def watched(checkpoints: Path | None) -> Iterator[None]:
    """End this process, with a line that says so, when another one of the run is gone.

    It would wait for the other until JAX ends it, after the timeout of its heartbeats,
    by an abort. Each process holds a lock on a file of its own while the block runs,
    and the system takes the lock off a process that dies. Process 0 waits for all
    locks, the others for that of process 0, of which JAX's own service is a part. Where
    the file system knows no locks, nothing is watched.

    Args:
        checkpoints: where those of the run go, shared by all processes; None: nothing
            is watched, nor saved.
    """
    count, index = jax.process_count(), jax.process_index()
    # Without a common directory there is nothing to lock.
    if count == 1 or checkpoints is None:
        yield
        return
    folder = checkpoints.parent / "processes"
    with ExitStack() as stack:
        watch = _Watch(folder, count, checkpoints)
        # What is wrong with the directory is told where the run is written to.
        with suppress(OSError, HeldError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_held(folder / str(index)))
        # Entered after the own lock, so that it runs before that is let go: an end is
        # not taken for a death, on this side.
        stack.callback(watch.end)
        for other in range(1, count) if index == 0 else (0,):
            watch.begin(other)
        try:
            yield
        except jax.errors.JaxRuntimeError:
            # Of a collective without its other side, perhaps: the line comes first.
            time.sleep(_SECONDS_FOR_THE_LINE)
            raise


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


class _Watch:
    """Threads that wait for the locks of other processes."""

    def __init__(self, folder: Path, count: int, checkpoints: Path) -> None:
        self._folder = folder
        self._count = count
        self._checkpoints = checkpoints
        # One of several threads speaks, and none after the end.
        self._one = threading.Lock()
        self._is_over = False

    def begin(self, other: int) -> None:
        """Wait for a process to go, in a thread."""
        threading.Thread(target=self._wait, args=(other,), daemon=True).start()

    def end(self) -> None:
        """From here on others may go."""
        with self._one:
            self._is_over = True

    def _wait(self, other: int) -> None:
        # Waits, in the system, until the other's lock is free.
        left = left_by_death(self._folder / str(other))
        with self._one:
            if left is not None and not self._is_over:
                self._die(other, left)

    def _die(self, other: int, left: str) -> None:
        """Say what happened, to the others too, and end: there is no going on."""
        # The one that died first is named by all: who ends because of another leaves
        # that one's name in its file.
        what = left.removeprefix(_REASON)
        if what == left:
            who = f" ({left})" if left else ""
            what = f"process {other} of {self._count}{who} is gone"
        here, step = self._checkpoints, newest_in(self._checkpoints)
        if step is None:
            then = f"there is no checkpoint in {here}: the same call begins anew"
        else:
            then = (
                f"the checkpoint of step {step} in {here} is whole: start all processes"
                " again, and the same call goes on from it"
            )
        # Unbuffered, and no `print`: the interpreter is not asked to do anything any
        # more.
        os.write(2, f"{what}; {then}\n".encode())
        with suppress(OSError):
            own = self._folder / str(jax.process_index())
            own.write_text(f"{_REASON}{what}", encoding="utf-8")
        # The main thread sits in a collective that nothing interrupts: neither an
        # exception nor `sys.exit` of this thread would reach it.
        os._exit(1)
