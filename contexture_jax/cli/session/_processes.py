"""A run of several processes: how they meet, agree and end, and who writes."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax import __version__
from contexture_jax.cli._arguments import Options, as_words
from contexture_jax.cli.session._computing import make_mesh, meanwhile
from contexture_jax.cli.session._publish import claimed, made_inside
from contexture_jax.cli.session._signals import Ending, put_back
from contexture_jax.data import InputError, Share

__all__ = ["Processes", "joined"]

# What they tell each other, among the results: a name that nobody has for folders of
# their own, as it is removed.
_FOLDER = ".contexture-processes"
_LEAST_SECONDS = 10  # that processes have to meet
_FIRST_IS_LAST = 2.0  # seconds that process 0, which serves the others, ends after them


class Processes:
    """The processes of a run, of which this is one.

    All methods are called by all of them, in the same order; in a run of one process
    they do nothing.

    Args:
        count: how many there are.
        index: which this one is.
        patience: seconds to wait for one that is silent, or behind.

    Attributes:
        is_first: whether this is the one that writes and prints.
    """

    def __init__(self, count: int = 1, index: int = 0, patience: float = 0.0) -> None:
        self.count, self.index = count, index
        self.is_first = index == 0
        self._patience = patience
        self._watch: Any = None
        # Takes back that the process ends if the watch does not begin in time.
        self._begun: Callable[[], None] = lambda: None

    @contextmanager
    def watching(self, out: Path, ending: Ending) -> Iterator[None]:
        """Hold the directory of the results for all, and watch each other.

        Raises:
            InputError: if another run holds it, or a process does not see it.
        """
        if self.count == 1:
            yield
            return
        from contexture_jax._core.agreement import DisagreementError
        from contexture_jax._core.watch import UnsharedError, watched

        folder = out / _FOLDER
        with contextlib.ExitStack() as stack:
            with self.together():
                if self.is_first:
                    stack.enter_context(claimed(out))
                    made_inside(out, _FOLDER, stack)
            tells = watched(folder, lambda: ending.kept(), patience=self._patience)
            try:
                with tells as self._watch:
                    self._begun()
                    yield
            except UnsharedError as error:
                raise DisagreementError(f"--out is not shared: {error}") from error
            except DisagreementError:
                self._tidy(folder)
                raise
            self._tidy(folder)

    def begins_within(self, seconds: float, words: str) -> None:
        """End this process, with a line, if its watch does not begin in time.

        One that dies when they have met, and do not look at each other yet, would be
        told by JAX's abort alone.
        """
        late = _FIRST_IS_LAST if self.is_first else 0.0
        self._begun = _ends_after(seconds + late, words)

    def parts(self) -> None:
        """No longer wait for a watch to begin."""
        self._begun()

    def _tidy(self, folder: Path) -> None:
        if self.is_first:
            # What one that was killed has told is of no use.
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def claimed(self, out: Path) -> Iterator[None]:
        """Keep other runs off the directory of the results."""
        if self.count > 1:
            # The first one holds it already.
            yield
            return
        with claimed(out):
            # Of several that were killed before.
            self._tidy(out / _FOLDER)
            yield

    def mesh(self, devices: int) -> Any:
        """A mesh of so many devices of each process; None for one."""
        if self.count == 1:
            return make_mesh(devices)
        import jax

        # Process by process, as rows of a file are, and not as a ring may go best.
        found = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
        kinds = (jax.sharding.AxisType.Auto,)
        return jax.sharding.Mesh(np.array(found), ("x",), axis_types=kinds)

    @contextmanager
    def together(self, *, waits: bool = False) -> Iterator[None]:
        """Go on when all have done what is inside; what stops one stops all.

        Args:
            waits: whether one may take long while others have nothing to do.
        """
        if self.count == 1:
            yield
            return
        from contexture_jax._core.agreement import agree

        problem = ""
        try:
            yield
        except InputError as error:
            problem = error.message.worded(as_words)
        self._reached(waits=waits)
        # Raises in all, if one has a problem.
        agree({}, problem)

    def check_alone(self, what: str) -> None:
        """Refuse what takes one process.

        Raises:
            InputError: if there are several.
        """
        if self.count > 1:
            raise InputError(f"{what} takes one process; got {self.count}")

    def compare(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Refuse to go on if facts differ between processes."""
        if self.count > 1:
            import jax

            from contexture_jax._core.agreement import agree

            self._reached()
            versions = f"{__version__}, JAX {jax.__version__}"
            agree({"the version": versions, **facts()})

    def meanwhile(self, function: Callable[[], object]) -> Callable[[], None]:
        """As `meanwhile`; of several processes each compiles in the same order."""
        return meanwhile(function) if self.count == 1 else lambda: None

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """The largest of each number that one of them has."""
        if self.count == 1:
            return list(numbers)
        from contexture_jax._core.processes import largest

        self._reached()
        return largest(np.asarray(numbers, np.int64)).tolist()

    def share(self) -> Share | None:
        """Which rows of a file are those of this process; None: all are."""
        if self.count == 1:
            return None
        import jax

        from contexture_jax._core.processes import largest, summed

        devices = jax.local_device_count()
        return Share(self.index, self.count, devices, summed, largest)

    def whole(self, tree: Any) -> Any:
        """Arrays with all of their values, on the host."""
        import jax

        if self.count == 1:
            return jax.device_get(tree)
        from contexture_jax._core.processes import gathered

        return jax.tree.map(gathered, tree)

    def _reached(self, *, waits: bool = False) -> None:
        if self._watch is not None and not waits:
            self._watch.reached()


def _check(options: Options) -> None:
    """Find out whether the options say which process this one is.

    Raises:
        InputError: if one is missing, or says nothing.
    """
    count, index = options.processes, options.process_id
    named = {"--coordinator": options.coordinator, "--process-id": index}
    given = [name for name, value in named.items() if value is not None]
    if count is None or count == "auto":
        if given:
            raise InputError(
                f"{given[0]} goes with --processes N, the number of processes of the"
                f" run; got {'none' if count is None else '--processes auto'}"
            )
        return
    missing = [name for name in named if name not in given]
    if count > 1 and missing:
        raise InputError(
            f"--processes {count} takes {' and '.join(missing)} too: the same"
            " --coordinator HOST:PORT for all, where process 0 listens, and another"
            f" --process-id for each, from 0 to {count - 1}; --processes auto asks"
            " SLURM, Open MPI or the TPU"
        )
    if index is not None and index >= count:
        raise InputError(
            f"--process-id {index} is more than there is; expected 0 to {count - 1}"
        )
    host, _, port = (options.coordinator or "").rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 2**16
    if options.coordinator is not None and not (host and is_port):
        raise InputError(
            "--coordinator is HOST:PORT, as 127.0.0.1:9876, with a port of 1 to 65535;"
            f" got {options.coordinator!r}"
        )


@contextmanager
def joined(options: Options, ending: Ending) -> Iterator[Processes]:
    """Become one of the processes of a run, for as long as the block runs.

    Before JAX is used for anything else.

    Raises:
        InputError: if they do not meet, or end because one cannot go on.
    """
    _check(options)
    if options.processes in (None, 1):
        yield Processes()
        return
    import jax

    from contexture_jax._core.agreement import DisagreementError

    try:
        processes = _meet(options, ending)
    except InputError:
        ending.leaves = True
        raise
    seconds = _seconds(options)
    processes.begins_within(
        seconds,
        f"process {processes.index} of {processes.count} waits for another that has"
        f" died, or hangs, since they met {seconds} s ago; {ending.kept()}",
    )
    try:
        _check_devices(processes.count)
        yield processes
    except DisagreementError as error:
        # All end here, at the same time.
        processes.parts()
        _part()
        raise InputError(str(error)) from error
    except jax.errors.JaxRuntimeError as error:
        ending.leaves = True
        first = str(error).split("\n", maxsplit=1)[0]
        raise InputError(
            f"process {processes.index} of {processes.count} lost another, or a device"
            f" failed: {first}; {ending.kept()}"
        ) from error
    except BaseException:
        # To part takes all, and the others are not here.
        ending.leaves = True
        raise
    finally:
        processes.parts()
    _part()


def _seconds(options: Options) -> int:
    """How long one process waits for another before they watch each other."""
    return max(_LEAST_SECONDS, math.ceil(options.patience))


def _ends_after(seconds: float, words: str) -> Callable[[], None]:
    """End this process with a line after so long; returns what takes that back."""

    def end() -> None:
        # No exception would reach a main thread that waits inside of JAX.
        os.write(2, f"contexture: error: {words}\n".encode())
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer.cancel


def _meet(options: Options, ending: Ending) -> Processes:
    import jax

    patience, seconds = float(options.patience), _seconds(options)
    # The one way of collectives between processes on CPUs that JAX brings.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", options.devices)
    named: dict[str, Any] = {}
    if options.processes != "auto":
        named = {
            "coordinator_address": options.coordinator,
            "num_processes": options.processes,
            "process_id": options.process_id,
            "cluster_detection_method": "deactivate",
        }
    who = "not all that the launcher has started came"
    if named:
        who = (
            f"not all {options.processes} came to {options.coordinator}, each with a"
            " --process-id of its own,"
        )
    waits = _ends_after(
        seconds + (_FIRST_IS_LAST if options.process_id == 0 else 0.0),
        f"the processes do not meet: {who} within {seconds} s; {ending.kept()}",
    )
    try:
        # JAX, too, ends a process when another is silent, but by an abort.
        jax.distributed.initialize(
            **named,
            initialization_timeout=seconds + 10,  # after the line above
            heartbeat_timeout_seconds=seconds + 10,  # after the line of `watched`
            shutdown_timeout_seconds=seconds,
        )
        # They have met; the devices of a large pod take a while to be found.
        waits()
        # JAX takes SIGTERM as a notice for programs that ask it, which none does here.
        put_back()
        return Processes(jax.process_count(), jax.process_index(), patience)
    except (ValueError, RuntimeError) as error:
        first = str(error).split("\n", maxsplit=1)[0]
        hint = (
            "; no launcher that JAX knows (SLURM, Open MPI, Kubernetes, a TPU) has"
            " started this process: say --processes N --coordinator HOST:PORT"
            " --process-id I"
            if options.processes == "auto"
            else ""
        )
        raise InputError(f"the processes do not meet: {first}{hint}") from error
    finally:
        waits()


def _check_devices(count: int) -> None:
    """Refuse processes of which some have more devices than others.

    Raises:
        DisagreementError: in all of them.
    """
    import jax

    from contexture_jax._core.agreement import DisagreementError

    # Seen alike by all, and asked here, as the first thing that they tell each other
    # takes as many devices of each.
    numbers = Counter(device.process_index for device in jax.devices())
    if len(set(numbers.values())) > 1:
        raise DisagreementError(
            "processes differ: --devices, or the devices that they have, are"
            f" {', '.join(str(numbers[i]) for i in range(count))}"
        )


def _part() -> None:
    import jax

    # One that has been killed in between is not waited for.
    with contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()
