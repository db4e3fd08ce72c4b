"""Time on whatever device JAX computes on, beside the least that it can take there.

Contestants take turns, so that a drift of the machine's speed meets all of them. A
round starts several calls before it waits for the last, so that launches hide behind
work.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax

from contexture_jax.benchmarking._machine import platform
from contexture_jax.benchmarking._memory import peak_memory

__all__ = [
    "Contestant",
    "OnDevice",
    "Peaks",
    "Setting",
    "Work",
    "describe_error",
    "measure",
]

_ROUND_SECONDS = 0.05  # work to start before waiting
_MOST_CALLS = 50
_MOST_SECONDS = 10.0  # of all rounds of one
_LEAST_ROUNDS = 3  # below it there is no spread


class Work(NamedTuple):
    """What nobody can do without.

    Attributes:
        flops: operations.
        bytes: of memory beyond caches, read or written.
        exps: exponentials.
        gathered: bytes of rows that lie anywhere.
    """

    flops: float = 0.0
    bytes: float = 0.0
    exps: float = 0.0
    gathered: float = 0.0


class Peaks(NamedTuple):
    """Rates a second that the device was seen to reach; NaN where none was.

    Attributes:
        flops: of products that are exact to float32 rounding.
        bandwidth: bytes of a copy.
        exps: exponentials.
        gathered: bytes of gathered rows.
    """

    flops: float = math.nan
    bandwidth: float = math.nan
    exps: float = math.nan
    gathered: float = math.nan

    def seconds(self, work: Work) -> float:
        """The least that some work takes: that of its slowest kind."""
        return max(w / peak if w else 0.0 for w, peak in zip(work, self, strict=True))


class Setting(NamedTuple):
    """What every workload is given.

    Attributes:
        sizes: of the workloads.
        peaks: of the device.
        rounds: timed ones.
        seed: of the data.
        problems: filled with what of ours went wrong.
        notes: filled with peers that failed.
        mesh: devices to cut rows over; None: one.
        deadline: on the clock `time.monotonic`, from when on no round begins but the
            first three.
    """

    sizes: Any
    peaks: Peaks
    rounds: int
    seed: int
    problems: list[str]
    notes: list[str]
    mesh: Any = None
    deadline: float = math.inf


@dataclass(frozen=True)
class Contestant:
    """Something to time.

    Attributes:
        name: for the table.
        run: does the work once; takes the number of the round, for a random seed.
        kind: "ours"; "peer"; or "limit", a part of the work that nobody can do without.
        settings: what was chosen for it, in words.
        answer: from what `run` returns to what the judge looks at; not timed.
        work: number of operations or bytes of one run, for a rate.
        unit: of the rate, after a prefix giga.
    """

    name: str
    run: Callable[[int], Any]
    kind: Literal["ours", "peer", "limit"] = "peer"
    settings: str = ""
    answer: Callable[[Any], Any] = lambda result: result
    work: float | None = None
    unit: str = "FLOP/s"


@dataclass(frozen=True)
class OnDevice(Contestant):
    """A contestant whose `run` may return before its work is done.

    Attributes:
        finish: waits for what a run returned.
        repeats: how often one run does the work, in one program.
        bound: seconds of one work at the measured peaks; asked for after the rounds.
            None: that of the case.
        needs: the work of a run, from what it returned; None: that of the case.
        judge: from the answer of the last round to its errors; None: that of the case.
        facts: what else to tell, from what the last run returned.
    """

    finish: Callable[[Any], Any] = jax.block_until_ready
    repeats: int = 1
    bound: Callable[[], float] | None = None
    needs: Callable[[Any], Work] | None = None
    judge: Callable[[Any], dict[str, float]] | None = None
    facts: Callable[[Any], dict[str, Any]] = lambda _: {}


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
        One row a contestant: seconds of each round and their median, seconds of all
        processors of the host in each, seconds of the first call, megabytes of peak
        resident memory on a CPU; flops and bytes of its work and a rate; `of_bound`,
        the share of the measured peaks that it reached; errors.
    """
    running: list[tuple[OnDevice, Turns, dict[str, Any]]] = []
    for contestant in contestants:
        try:
            running.append(_started(contestant))
        except Exception as error:
            _told(setting, contestant, error)
    results: dict[str, Any] = {}
    for number in range(setting.rounds):
        if number >= _LEAST_ROUNDS and time.monotonic() > setting.deadline:
            break
        for turn in range(len(running)):
            contestant, turns, row = running[(turn + number) % len(running)]
            if number >= turns.rounds:
                continue
            results.pop(contestant.name, None)
            before = time.process_time()
            seconds, result = _timed(contestant, number, turns.calls)
            busy = time.process_time() - before
            results[contestant.name] = result
            row["seconds"].append(seconds)
            row["processor_seconds"].append(busy / row["calls"])
    finished = []
    for contestant, _, row in running:
        try:
            _finished(contestant, row, results[contestant.name], setting, judge, work)
            finished.append(row)
        except Exception as error:
            _told(setting, contestant, error)
    return finished


class Turns(NamedTuple):
    """How often a contestant runs: calls in a round, and the most rounds."""

    calls: int
    rounds: int


def _told(setting: Setting, contestant: OnDevice, error: Exception) -> None:
    told = setting.problems if contestant.kind == "ours" else setting.notes
    told.append(f"{contestant.name}: {describe_error(error)}")


def _started(contestant: OnDevice) -> tuple[OnDevice, Turns, dict[str, Any]]:
    """A first call, which compiles, and a second, which says how many to make."""
    first, result = _timed(contestant, 0, 1)
    del result
    peak: float | None = None
    if platform() == "cpu":  # where arrays are memory of the process
        peak, (again, _) = peak_memory(lambda: _timed(contestant, 0, 1))
    else:
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
        "peak_megabytes": peak,
        "calls": turns.calls * contestant.repeats,
        "seconds": [],
        "processor_seconds": [],
        "accuracy": {},
    }
    return contestant, turns, row


def _finished(
    contestant: OnDevice,
    row: dict[str, Any],
    result: Any,
    setting: Setting,
    judge: Callable[[Any], dict[str, float]] | None,
    work: Work | None,
) -> None:
    """What the rounds of one amount to, put into its row."""
    median = statistics.median(row["seconds"])
    row["seconds_median"] = median
    row |= contestant.facts(result)
    needs = work if contestant.needs is None else contestant.needs(result)
    if contestant.needs is not None and needs is not None:
        row |= {"flops": needs.flops, "bytes": needs.bytes + needs.gathered}
    flops = contestant.work or (needs.flops if needs else None)
    if flops:
        row |= {"rate": flops / median / 1e9, "unit": f"G{contestant.unit}"}
    bound = contestant.bound() if contestant.bound else None
    if contestant.bound is None and needs is not None:
        bound = setting.peaks.seconds(needs)
    if bound is not None and bound > 0:  # NaN is not
        row |= {"bound_seconds": bound, "of_bound": bound / median}
    judge = contestant.judge or judge
    if judge is not None and contestant.kind != "limit":
        row["accuracy"] = judge(contestant.answer(result))


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
