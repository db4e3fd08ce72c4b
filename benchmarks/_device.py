"""Time on whatever device JAX computes on, beside the least that it can take there.

`_measure` is for the host: there a call ends when its work does, and memory is that of
the process. Here a round starts several calls before it waits for the last, so that
launches hide behind work, and takes turns as there.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from _common import cores, optional
from _measure import Contestant

__all__ = [
    "OnDevice",
    "Peaks",
    "Setting",
    "Work",
    "describe_device",
    "describe_error",
    "guarded",
    "library",
    "measure",
    "moved",
    "peak_megabytes",
    "peer",
    "platform",
]

_ROUND_SECONDS = 0.05  # work to start before waiting
_MOST_CALLS = 50
_MOST_SECONDS = 10.0  # of all rounds of one


class Work(NamedTuple):
    """What nobody can do without: operations, and bytes of memory beyond caches."""

    flops: float = 0.0
    bytes: float = 0.0
    exps: float = 0.0
    gathered: float = 0.0  # bytes of rows that lie anywhere


class Peaks(NamedTuple):
    """Rates a second that the device was seen to reach; NaN where none was."""

    flops: float = math.nan  # of products that are exact to float32 rounding
    bandwidth: float = math.nan
    exps: float = math.nan
    gathered: float = math.nan

    def seconds(self, work: Work) -> float:
        """The least that some work takes: that of its slowest kind."""
        return max(w / peak if w else 0.0 for w, peak in zip(work, self, strict=True))


class Setting(NamedTuple):
    """What every workload is given.

    Attributes:
        sizes: as in `_sizes`.
        peaks: of the device.
        rounds: timed ones.
        seed: of the data.
        problems: filled with what went wrong: our failures end the script with 1.
        notes: filled with peers that failed.
    """

    sizes: Any
    peaks: Peaks
    rounds: int
    seed: int
    problems: list[str]
    notes: list[str]


@dataclass(frozen=True)
class OnDevice(Contestant):
    """A contestant whose `run` may return before its work is done.

    Attributes:
        finish: waits for what a run returned.
        repeats: how often one run does the work, in one program.
        bound: seconds of one work at the measured peaks; asked for after the rounds.
            None: that of the case.
    """

    finish: Callable[[Any], Any] = jax.block_until_ready
    repeats: int = 1
    bound: Callable[[], float] | None = None


def measure(
    contestants: Sequence[OnDevice],
    setting: Setting,
    judge: Callable[[Any], dict[str, float]] | None = None,
    *,
    work: Work | None = None,
) -> list[dict[str, Any]]:
    """Run contestants in turns; one that raises an error is left out and told.

    Args:
        contestants: what to run, each with a name of its own.
        setting: rounds, and where to tell.
        judge: from the answer of the last round to its errors.
        work: what all of them do, unless they say otherwise.

    Returns:
        One row a contestant, as `_measure.measure` gives them, with `of_bound`, the
        share of the measured peaks that it reached.
    """
    running: list[tuple[OnDevice, Turns, dict[str, Any]]] = []
    for contestant in contestants:
        try:
            running.append(_started(contestant))
        except Exception as error:
            told = setting.problems if contestant.kind == "ours" else setting.notes
            told.append(f"{contestant.name}: {describe_error(error)}")
    results: dict[str, Any] = {}
    for number in range(setting.rounds):
        for turn in range(len(running)):
            contestant, turns, row = running[(turn + number) % len(running)]
            if number >= turns.rounds:
                continue
            results.pop(contestant.name, None)
            seconds, results[contestant.name] = _timed(contestant, number, turns.calls)
            row["seconds"].append(seconds)
    for contestant, _, row in running:
        median = statistics.median(row["seconds"])
        row["seconds_median"] = median
        flops = contestant.work or (work.flops if work else None)
        if flops:
            row |= {"rate": flops / median / 1e9, "unit": f"G{contestant.unit}"}
        bound = contestant.bound() if contestant.bound else None
        if contestant.bound is None and work is not None:
            bound = setting.peaks.seconds(work)
        if bound is not None and bound > 0:  # NaN is not
            row |= {"bound_seconds": bound, "of_bound": bound / median}
        if judge is not None and contestant.kind != "limit":
            row["accuracy"] = judge(contestant.answer(results[contestant.name]))
    return [row for _, _, row in running]


class Turns(NamedTuple):
    """How often a contestant runs: calls in a round, and the most rounds."""

    calls: int
    rounds: int


def _started(contestant: OnDevice) -> tuple[OnDevice, Turns, dict[str, Any]]:
    """A first call, which compiles, and a second, which says how many to make."""
    first, result = _timed(contestant, 0, 1)
    del result
    again, _ = _timed(contestant, 0, 1)
    again *= contestant.repeats
    turns = Turns(
        min(max(math.ceil(_ROUND_SECONDS / again), 1), _MOST_CALLS),
        max(int(_MOST_SECONDS / again), 1),
    )
    row = {
        "name": contestant.name,
        "kind": contestant.kind,
        "settings": contestant.settings,
        "first_call_seconds": first * contestant.repeats,
        "peak_megabytes": None,
        "calls": turns.calls * contestant.repeats,
        "seconds": [],
        "accuracy": {},
    }
    return contestant, turns, row


def _timed(contestant: OnDevice, number: int, calls: int) -> tuple[float, Any]:
    result: Any = None
    start = time.perf_counter()
    for _ in range(calls):
        result = contestant.run(number)
    contestant.finish(result)
    seconds = time.perf_counter() - start
    return seconds / (calls * contestant.repeats), result


def describe_error(error: BaseException) -> str:
    """Its kind and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def platform() -> str:
    """What JAX calls it: cpu, gpu or tpu."""
    return jax.default_backend()


def describe_device() -> dict[str, Any]:
    """The device that the figures are of, by the name that JAX has for it."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    limit = stats.get("bytes_limit")
    return {
        "platform": platform(),
        "kind": device.device_kind,
        "count": jax.device_count(),
        "memory_gigabytes": None if limit is None else round(limit / 1e9, 1),
    }


def peak_megabytes() -> float | None:
    """The most memory of the device that the process has held, where that is told."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else peak / 1e6


@functools.cache
def library(name: str) -> Any:
    """PyTorch or CuPy if it works on the device that JAX works on, else None."""
    kind = platform()
    if kind == "tpu" or (name == "cupy" and kind == "cpu"):
        return None
    module = optional(name)
    if module is None or name == "cupy":
        return module
    if kind == "gpu":
        return module if module.cuda.is_available() else None
    module.set_num_threads(cores())
    return module


def moved(module: Any, array: Any) -> Any:
    """An array of JAX or NumPy as one of the peer's on the same device, not copied."""
    return module.from_dlpack(jax.block_until_ready(jax.device_put(array)))


def guarded(
    setting: Setting, make: Callable[..., list[OnDevice]], *arguments: Any
) -> list[OnDevice]:
    """Peers that another library makes; none, and a note, where that fails."""
    try:
        return make(*arguments)
    except Exception as error:
        setting.notes.append(f"{make.__name__}: {describe_error(error)}")
        return []


def peer(name: str, module: Any, run: Callable[[int], Any], **options: Any) -> OnDevice:
    """A contestant of PyTorch or CuPy, which is waited for in its own way."""

    def finish(_: Any) -> None:
        if platform() != "gpu":
            return
        if module.__name__ == "torch":
            module.cuda.synchronize()
        else:
            module.cuda.Device().synchronize()

    return OnDevice(name, run, "peer", finish=finish, **options)
