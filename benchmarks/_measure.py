"""Time and memory of contestants that take turns in one process.

Each round runs every contestant once, so that a drift of the machine's speed meets all
of them; ratios are formed within a round, and their median is the figure. Peers have
the threads they like; our front doors hold SciPy's OpenBLAS to one while they run.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from contexture_jax.benchmarking import Contestant, peak_memory

__all__ = [
    "Contestant",
    "compiled_bytes",
    "fastest_as_accurate",
    "measure",
    "measure_once",
    "peak_memory",
    "ratio",
    "row_named",
]

_PAUSE = 0.1  # threads of the contestant before stop spinning
_MEGA = 1e6


def measure(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    judge: Callable[[Any], dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Run contestants in turns: a first call, a call for memory, then the rounds.

    Args:
        contestants: what to run, each with a name of its own.
        rounds: number of timed rounds.
        judge: from a contestant's answer to its errors; called in every round, whose
            seeds differ; the median is reported.

    Returns:
        One row a contestant: seconds of each round and their median, seconds of all
        processors together in each, seconds of the first call, what compiling took of
        it (ours only), megabytes of peak resident memory above the start of the call
        and of the result, errors.
    """
    rows = [_start_row(contestant) for contestant in contestants]
    verdicts: list[list[dict[str, float]]] = [[] for _ in contestants]
    for number in range(rounds):
        for turn in range(len(contestants)):
            # Another one comes first in each round.
            index = (turn + number) % len(contestants)
            contestant, row = contestants[index], rows[index]
            time.sleep(_PAUSE)
            before = time.process_time()
            seconds, result = _timed(contestant, number)
            row["processor_seconds"].append(time.process_time() - before)
            row["seconds"].append(seconds)
            if judge is not None and contestant.kind != "limit":
                verdicts[index].append(judge(contestant.answer(result)))
            del result
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    for contestant, row, found in zip(contestants, rows, verdicts, strict=True):
        median = statistics.median(row["seconds"])
        row["seconds_median"] = median
        if contestant.kind == "ours":
            row["compile_seconds"] = max(0.0, row["first_call_seconds"] - median)
        if contestant.work is not None:
            row["rate"] = contestant.work / median / 1e9
            row["unit"] = f"G{contestant.unit}"
        names = found[0] if found else ()
        row["accuracy"] = {
            name: statistics.median(verdict[name] for verdict in found)
            for name in names
        }
    return rows


def _start_row(contestant: Contestant) -> dict[str, Any]:
    time.sleep(_PAUSE)
    first, result = _timed(contestant, 0)
    del result
    peak, result = peak_memory(lambda: contestant.run(0))
    print(f"{contestant.name}: first call {first:.3g} s", file=sys.stderr)
    return _told(contestant, first, peak, result)


def _told(
    contestant: Contestant, first: float, peak: float | None, result: Any
) -> dict[str, Any]:
    return {
        "name": contestant.name,
        "kind": contestant.kind,
        "settings": contestant.settings,
        "first_call_seconds": first,
        "peak_megabytes": peak,
        "output_megabytes": _megabytes(result),
        "seconds": [],
        "processor_seconds": [],
    }


def measure_once(
    contestants: Sequence[Contestant],
    *,
    judge: Callable[[Any], dict[str, float]],
) -> list[dict[str, Any]]:
    """One call each, compiling included: of work that takes many minutes.

    Args:
        contestants: as of `measure`.
        judge: likewise.

    Returns:
        Rows as of `measure`, of which the seconds are those of that call.
    """
    rows = []
    for contestant in contestants:
        began, start = time.process_time(), time.perf_counter()
        peak, result = peak_memory(lambda one=contestant: one.run(0))
        seconds = time.perf_counter() - start
        rows.append(
            {
                **_told(contestant, seconds, peak, result),
                "seconds": [seconds],
                "processor_seconds": [time.process_time() - began],
                "seconds_median": seconds,
                "accuracy": judge(contestant.answer(result)),
            }
        )
        del result
    return rows


def _timed(contestant: Contestant, number: int) -> tuple[float, Any]:
    start = time.perf_counter()
    result = jax.block_until_ready(contestant.run(number))
    return time.perf_counter() - start, result


def _megabytes(result: Any) -> float:
    leaves = jax.tree.leaves(result)
    return sum(getattr(leaf, "nbytes", 0) for leaf in leaves) / _MEGA


def compiled_bytes(function: Callable[..., Any], *arguments: Any) -> dict[str, int]:
    """Bytes of arguments, output and work space, as the compiler says."""
    analysis: Any = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return {
        "argument_bytes": analysis.argument_size_in_bytes,
        "output_bytes": analysis.output_size_in_bytes,
        "temporary_bytes": analysis.temp_size_in_bytes,
    }


def row_named(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The row of a contestant, None if it did not run."""
    return next((row for row in rows if row["name"] == name), None)


def ratio(
    rows: list[dict[str, Any]], one: str, other: str, *, clock: str = "seconds"
) -> float | None:
    """Median over rounds of one's time by the other's; None if either did not run.

    Args:
        rows: of one case.
        one: a name.
        other: another.
        clock: "seconds", or "processor_seconds", which a loaded machine changes less.
    """
    a, b = row_named(rows, one), row_named(rows, other)
    if a is None or b is None:
        return None
    pairs = zip(a[clock], b[clock], strict=True)
    return statistics.median(x / y for x, y in pairs)


def fastest_as_accurate(
    rows: list[dict[str, Any]], peer: str, *, floor: float = 1e-5
) -> str | None:
    """The fastest of ours whose every error is at most the peer's, or `floor`.

    Args:
        rows: of one case.
        peer: name of the peer.
        floor: errors below it count as none.

    Returns:
        A name; None if the peer did not run or none of ours is as accurate.
    """
    other = row_named(rows, peer)
    if other is None:
        return None
    good = [
        row
        for row in rows
        if row["kind"] == "ours"
        and all(
            error <= max(other["accuracy"][name], floor)
            for name, error in row["accuracy"].items()
        )
    ]
    if not good:
        return None
    return min(good, key=lambda row: row["seconds_median"])["name"]
