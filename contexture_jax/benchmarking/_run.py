"""All suites, one after the other, as one report."""

from __future__ import annotations

import datetime as dt
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from contexture_jax.benchmarking import (
    _kernels,
    _learning,
    _operators,
    _solving,
)
from contexture_jax.benchmarking._machine import (
    describe_device,
    describe_machine,
    load,
    peak_megabytes,
    versions,
)
from contexture_jax.benchmarking._report import FORMAT, VERSION
from contexture_jax.benchmarking._roofs import measure_roofs, yardsticks
from contexture_jax.benchmarking._sizes import SIZES
from contexture_jax.benchmarking._timing import (
    OnDevice,
    Peaks,
    Setting,
    describe_error,
    measure,
)

__all__ = ["SUITES", "run_suites"]


class _Suite(NamedTuple):
    """What is timed, and what its rows say together."""

    make: Callable[[Setting, bool], list[OnDevice]]
    told: Callable[[list[dict[str, Any]]], dict[str, float]] = lambda _: {}


_SUITES = {
    "operators": _Suite(_operators.operators),
    "solvers": _Suite(_solving.solvers),
    "kernels": _Suite(_kernels.kernels),
    "knn": _Suite(_solving.search),
    "losses": _Suite(_learning.losses),
    "step": _Suite(_learning.step),
    "scaling": _Suite(_operators.scaling, _operators.growth),
}
SUITES = tuple(_SUITES)
_PEAKS_SHARE = 0.2  # of the time limit


def run_suites(
    suites: Sequence[str] = SUITES,
    *,
    size: str = "medium",
    rounds: int = 11,
    seed: int = 0,
    mesh: Any = None,
    peers: bool = True,
    time_limit: float = math.inf,
    began: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the peaks of the device, then the suites, each beside yardsticks.

    All of a suite take turns, so that a drift of the machine's speed meets all of them.
    What fails is left out and told.

    Args:
        suites: names, of `SUITES`.
        size: of the workloads, a key of `SIZES`.
        rounds: timed runs of each.
        seed: of the data.
        mesh: a `jax.sharding.Mesh` with the axis "x", whose devices share the rows;
            None: one device.
        peers: whether other libraries that are installed take part.
        time_limit: seconds after which no suite begins, and no round but the first
            three of each.
        began: called with the name of what is begun.

    Returns:
        What `write_report` writes: see `read_report`.

    Raises:
        ValueError: if a suite or a size has no such name, or rounds are less than 3.

    Example:
        >>> import contexture_jax as cx
        >>> cx.benchmarking.SUITES[:3]
        ('operators', 'solvers', 'kernels')
    """
    unknown = [name for name in suites if name not in _SUITES]
    if unknown or not suites:
        what = f"got {unknown[0]!r}" if unknown else "got none"
        raise ValueError(f"suites must be among {', '.join(SUITES)}; {what}")
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}; got {size!r}")
    if rounds < 3:
        raise ValueError(f"rounds must be at least 3; got {rounds}")
    start = time.monotonic()
    end = start + time_limit
    problems: list[str] = []
    notes: list[str] = []
    setting = Setting(SIZES[size], Peaks(), rounds, seed, problems, notes, mesh)
    before = load()
    began("peaks")
    roofs, peaks = _peaks(setting, start + _PEAKS_SHARE * time_limit)
    setting = setting._replace(peaks=peaks)
    found = {}
    chosen = [name for name in SUITES if name in suites]  # once, in one order
    for place, name in enumerate(chosen):
        now = time.monotonic()
        if now >= end:
            notes.append(f"{name}: left out, as the time was up")
            continue
        began(name)
        share = (end - now) / (len(chosen) - place)
        found[name] = _suite(name, setting._replace(deadline=now + share), peers)
    return {
        "format": FORMAT,
        "version": VERSION,
        "arguments": {
            "suites": chosen,
            "size": size,
            "rounds": rounds,
            "seed": seed,
            "devices": 1 if mesh is None else mesh.size,
            "peers": peers,
        },
        "device": describe_device(),
        "machine": {"load_average_at_start": before, **describe_machine()},
        "versions": versions(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "seconds": time.monotonic() - start,
        "peaks": peaks._asdict(),
        "roofs": roofs,
        "suites": found,
        "problems": problems,
        "notes": notes,
    }


def _peaks(setting: Setting, deadline: float) -> tuple[list[dict[str, Any]], Peaks]:
    few = setting._replace(rounds=min(setting.rounds, 5), deadline=deadline)
    try:
        kinds, peaks = measure_roofs(few)
    except Exception as error:
        setting.problems.append(f"peaks: {describe_error(error)}")
        return [], Peaks()
    return [row for rows in kinds.values() for row in rows], peaks


def _suite(name: str, setting: Setting, peers: bool) -> dict[str, Any]:
    start, suite = time.monotonic(), _SUITES[name]
    try:
        contestants = suite.make(setting, peers)
    except Exception as error:
        setting.problems.append(f"{name}: {describe_error(error)}")
        return {"rows": [], "told": {}, "seconds": time.monotonic() - start}
    rows = measure([*yardsticks(setting), *contestants], setting)
    for row in rows:
        row["spread"] = _spread(row["seconds"])
    ours = [row for row in rows if row["kind"] == "ours"]
    return {
        "rows": rows,
        "told": suite.told(ours),
        "seconds": time.monotonic() - start,
        "peak_megabytes_of_the_device_so_far": peak_megabytes(),
    }


def _spread(seconds: list[float]) -> float:
    """Between the quartiles of the rounds, by their median."""
    if len(seconds) < 2:
        return 0.0
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / median
