"""What this device computes, how exactly, and how near to the most that it can do.

In one go, in minutes, on one GPU or TPU (or on a CPU, at small sizes): first the
device's own peaks, then checks of every storage, solver, objective and training
strategy in float32 beside a CPU's float64, then the workloads, each as a share of the
least time that the peaks allow, beside PyTorch and CuPy on the same device where those
are installed. Needs JAX, NumPy, SciPy, Flax and Optax, and nothing to be installed of
this package:

    make bench-accelerator [QUICK=1] [PYTHON=python3]

What is measured is written as it comes: a run that is cut off leaves what it had. Ends
with status 1 if a check or a workload of ours failed.
"""

import argparse
import functools
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from _common import Report, cores, make_parser, parse
from _workloads import WORKLOADS
from contexture_jax.benchmarking import (
    Peaks,
    Setting,
    describe_device,
    describe_error,
    measure_roofs,
    peak_megabytes,
    platform,
)

ROOT = Path(__file__).parents[1]
GRACE = 0.12  # of the budget: from its end to that of the process
LEAST = 0.05  # of the budget: what a workload is not begun without
CHECKS_SHARE = 0.4  # of the time that is left
MOST_THREADS = 12  # that compile checks
MOST_PROCESSES = 6  # that give the CPU's answers


class Sizes(NamedTuple):
    """Of the roofs and the workloads.

    Attributes:
        square: side of square products.
        stream: numbers in an array that no cache holds.
        dense: rows, columns, rank.
        tall: rows, columns.
        gaussian: points, features, columns of the block.
        lists: points, neighbours, columns of the block.
        sparse: rows, columns, non-zeros, rank.
        step: rows of a view, widths of the network.
        certified: points, neighbours, rank.
        search: points, features, queries (0: all), each.
        neighbors: that a search is for.
    """

    square: int
    stream: int
    dense: tuple[int, int, int]
    tall: tuple[int, int]
    gaussian: tuple[int, int, int]
    lists: tuple[int, int, int]
    sparse: tuple[int, int, int, int]
    step: tuple[int, tuple[int, ...]]
    certified: tuple[int, int, int]
    search: tuple[tuple[int, int, int], ...]
    neighbors: int


NETWORK = (1024, (784, 512, 512, 128))
FULL = Sizes(
    square=8192,
    stream=2**28,
    dense=(100_000, 20_000, 64),
    tall=(1_000_000, 128),
    gaussian=(100_000, 20, 64),
    lists=(1_000_000, 30, 64),
    sparse=(200_000, 100_000, 5_000_000, 64),
    step=NETWORK,
    certified=(100_000, 30, 64),
    search=((100_000, 128, 0), (1_000_000, 128, 100_000)),
    neighbors=30,
)
QUICK = FULL._replace(
    dense=(50_000, 10_000, 64),
    gaussian=(50_000, 20, 64),
    lists=(300_000, 30, 64),
    sparse=(100_000, 50_000, 1_000_000, 64),
    certified=(30_000, 30, 64),
    search=((50_000, 128, 0),),
)
ON_CPU = Sizes(
    square=512,
    stream=2**23,
    dense=(3000, 1000, 16),
    tall=(20_000, 32),
    gaussian=(3000, 20, 16),
    lists=(20_000, 10, 16),
    sparse=(4000, 2000, 40_000, 8),
    step=(128, (64, 64, 32)),
    certified=(2000, 10, 8),
    search=((4000, 16, 0), (8000, 16, 1000)),
    neighbors=10,
)
SMOKE = {"quick": True, "budget": 300.0, "checks": 3, "only": ["tall", "neighbours"]}


class Clock:
    """The seconds that are left of a budget."""

    def __init__(self, budget: float) -> None:
        self._end = time.monotonic() + budget
        self.least = LEAST * budget
        # A compiler that never ends would keep Python from ending too.
        self._guard = threading.Timer((1 + GRACE) * budget, _give_up)
        self._guard.daemon = True
        self._guard.start()

    def left(self) -> float:
        """Seconds until the last workload may begin."""
        return self._end - time.monotonic()


def _give_up() -> None:
    print("time is up: what was measured is written", file=sys.stderr, flush=True)
    os._exit(124)


def main() -> None:
    # PyTorch and CuPy are to find room beside JAX.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--quick", action="store_true", help="two minutes, less work")
    parser.add_argument(
        "--budget", type=float, help="seconds; default: 420, or 105 with --quick"
    )
    parser.add_argument(
        "--checks", type=int, help="how many; default: all, fewer with --quick"
    )
    parser.add_argument(
        "--only", nargs="*", choices=WORKLOADS, default=list(WORKLOADS), help="which"
    )
    args = parse(parser, SMOKE)
    clock = Clock(args.budget or (105 if args.quick else 420))
    sizes = ON_CPU if platform() == "cpu" else QUICK if args.quick else FULL
    report = Report("accelerator", args)
    problems: list[str] = []
    notes: list[str] = []
    report.content |= {"device": describe_device(), "checks": []}
    report.content |= {"problems": problems, "notes": notes}
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    setting = Setting(sizes, Peaks(), rounds, args.seed, problems, notes)
    with tempfile.TemporaryDirectory() as folder:
        check = start_checks(report, args, Path(folder), clock)
        setting = setting._replace(peaks=roofs(report, setting))
        save(report, args)
        check()
        save(report, args)
    for name in args.only:
        workload(report, setting, name, clock)
        save(report, args)
    if args.json is None:
        report.write()
    failed = [c["name"] for c in report.content["checks"] if c["passed"] is False]
    for problem in [*problems, *(f"check {name}" for name in failed)]:
        print(f"FAILED: {problem}", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    # Threads of a library that does not end are no reason to wait.
    os._exit(1 if problems or failed else 0)


def save(report: Report, args: argparse.Namespace) -> None:
    if args.json is not None:
        report.write()


def roofs(report: Report, setting: Setting) -> Peaks:
    try:
        kinds, peaks = measure_roofs(setting)
    except Exception as error:
        setting.problems.append(f"roofs: {describe_error(error)}")
        return Peaks()
    for kind, rows in kinds.items():
        report.add_case(f"what the device does at most: {kind}", rows)
    return peaks


def workload(report: Report, setting: Setting, name: str, clock: Clock) -> None:
    """One workload; an error or the end of the time takes no other with it."""
    cases = WORKLOADS[name](setting)
    for done in itertools.count():
        if clock.left() < clock.least:
            setting.notes.append(f"{name}: time was up after {done} cases")
            return
        try:
            title, rows, facts = next(cases)
        except StopIteration:
            return
        except Exception as error:
            setting.problems.append(f"{name}: {describe_error(error)}")
            return
        peak = peak_megabytes()
        facts |= {} if peak is None else {"peak_MB_of_the_device_so_far": peak}
        report.add_case(title, rows, **facts)


def start_checks(
    report: Report, args: argparse.Namespace, folder: Path, clock: Clock
) -> Callable[[], None]:
    """Begin with the CPU's answers, in processes beside; the rest is called later."""
    sys.path.insert(0, str(ROOT))
    from tests.accelerator import cases as module

    cases = module.cases()
    names = list(cases)[: args.checks or default_checks(args.quick)]
    on_cpu = platform() == "cpu"
    end = clock.left() * (1 - CHECKS_SHARE / 2)
    processes = module.start_answers(
        folder, names, 1 if on_cpu else max(1, min(MOST_PROCESSES, cores() // 2))
    )
    if on_cpu:  # both would have the same cores
        waited(processes, clock.left() - end)

    def one(name: str) -> dict[str, Any]:
        start = time.perf_counter()
        found: Any
        try:
            found = cases[name].run(np.float32)
        except Exception as error:
            found = describe_error(error)
        return {"found": found, "seconds": time.perf_counter() - start}

    def check() -> None:
        end = clock.left() * (1 - CHECKS_SHARE)
        done: dict[str, dict[str, Any]] = {}
        with ThreadPoolExecutor(1 if on_cpu else min(MOST_THREADS, cores())) as pool:
            futures = {pool.submit(one, name): name for name in names}
            try:
                for future in as_completed(futures, max(clock.left() - end, 0)):
                    done[futures[future]] = future.result()
            except TimeoutError:
                pool.shutdown(wait=True, cancel_futures=True)
        waited(processes, clock.left() - end)
        truths = module.read_answers(folder)
        judge = functools.partial(judged, module, cases)
        report.content["checks"] += [
            judge(name, truths.get(name), done.get(name)) for name in names
        ]

    return check


def default_checks(quick: bool) -> int | None:
    """How many of the cases, which come one of each kind in turn; None: all."""
    if not quick:
        return None
    return 12 if platform() == "cpu" else 36


def waited(processes: list[Any], seconds: float) -> None:
    """Until they end; those that do not in time are ended."""
    end = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            process.kill()


def judged(
    module: Any, cases: Any, name: str, truth: Any, row: dict[str, Any] | None
) -> dict[str, Any]:
    """What the report says of one check."""
    case = cases[name]
    if row is None or truth is None:
        return {"name": name, "passed": None, "why": "time was up", "errors": {}}
    found = row["found"]
    told = {"name": name, "seconds": row["seconds"], "errors": {}, "passed": False}
    for answer in (truth, found):
        if isinstance(answer, str):
            absent = answer.startswith("ModuleNotFoundError")
            return {**told, "why": answer, "passed": None if absent else False}
    errors = {
        key: value / module.EPS for key, value in module.errors(found, truth).items()
    }
    allowed = {key: case.of.get(key, case.factor) for key in errors}
    bad = [key for key in errors if not errors[key] <= allowed[key]]
    why = "; ".join(
        f"{key}: {errors[key]:.3g} eps, {allowed[key]:g} allowed" for key in bad
    )
    return {**told, "errors": errors, "allowed": allowed, "passed": not bad, "why": why}


if __name__ == "__main__":
    main()
