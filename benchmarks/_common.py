"""What every benchmark shares: arguments, environment, report.

A script parses with `parse`, measures with `_measure.measure`, and hands what it found
to a `Report`, which adds machine, versions and date and writes JSON.
"""

import argparse
import datetime as dt
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from contexture_jax.benchmarking import cores, describe_machine, load, versions

__all__ = [
    "Report",
    "cores",
    "describe_machine",
    "make_parser",
    "optional",
    "parse",
    "untimed",
    "versions",
]

# Each contestant has both cores and the kernels that its library picks by itself; no
# program comes out of a cache.
_UNSET = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "JAX_COMPILATION_CACHE_DIR",
)
_WAS_UNSET = "CONTEXTURE_BENCH_UNSET"


def make_parser(doc: str | None, *, rounds: int = 5) -> argparse.ArgumentParser:
    """A parser with the arguments that all scripts have."""
    parser = argparse.ArgumentParser(
        description=(doc or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the data")
    parser.add_argument("--json", type=Path, help="file for the report; else stdout")
    parser.add_argument("--smoke", action="store_true", help="tiny, as a test")
    return parser


def parse(
    parser: argparse.ArgumentParser,
    smoke: dict[str, Any],
    argv: list[str] | None = None,
) -> argparse.Namespace:
    """Parse, with the values of `smoke` in place of what was given if that is asked.

    Starts the process anew where the environment holds settings that would slow one
    contestant: libraries read them when they are loaded. Not with `smoke`, where nobody
    looks at a time.
    """
    args = parser.parse_args(argv)
    if args.smoke:
        vars(args).update({"rounds": 2, **smoke})
        return args
    unwanted = [name for name in _UNSET if name in os.environ]
    if unwanted:
        environment = {k: v for k, v in os.environ.items() if k not in unwanted}
        environment[_WAS_UNSET] = " ".join(unwanted)
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, environment)
    return args


def optional(name: str) -> Any:
    """A module that a peer needs, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"without {name}, which is not installed", file=sys.stderr)
        return None


def untimed(
    name: str,
    accuracy: dict[str, Any],
    *,
    settings: str = "",
    seconds: float = 0.0,
    first: float | None = None,
) -> dict[str, Any]:
    """A row of ours whose figures are its errors; `seconds` are what it took once."""
    return {
        "name": name,
        "kind": "ours",
        "settings": settings,
        "first_call_seconds": seconds if first is None else first,
        "seconds": [seconds],
        "seconds_median": seconds,
        "peak_megabytes": None,
        "accuracy": accuracy,
    }


class Report:
    """The JSON of one benchmark.

    Attributes:
        content: what is written, but for the end of the run.
    """

    def __init__(self, benchmark: str, args: argparse.Namespace) -> None:
        """Start with the arguments, and the load before the work begins."""
        settings = {
            name: _without_folder(value)
            for name, value in vars(args).items()
            if name not in ("json", "smoke")
        }
        self._path: Path | None = args.json
        self._load = load()
        self.content: dict[str, Any] = {
            "benchmark": benchmark,
            "arguments": settings,
            "cases": [],
            "goals": [],
        }

    def add_case(self, title: str, rows: list[dict[str, Any]], **facts: Any) -> None:
        """The rows of one workload, with what else was found out about it."""
        self.content["cases"].append({"case": title, "facts": facts, "rows": rows})
        for row in rows:
            print(_one_line(title, row), file=sys.stderr)

    def add_goal(
        self, what: str, measured: float | None, at_most: float, by: str | None = None
    ) -> None:
        """A figure and its bound; None where a contestant was absent, or less exact.

        Args:
            what: which figure.
            measured: the figure.
            at_most: its bound.
            by: which of our contestants, where there are several.
        """
        goal = {
            "what": what,
            "measured": measured,
            "at_most": at_most,
            "met": None if measured is None else measured <= at_most,
            "by": by,
        }
        self.content["goals"].append(goal)
        print(
            f"goal: {what}: {measured} (at most {at_most}) {by or ''}", file=sys.stderr
        )

    def write(self) -> None:
        """Write the file, or print."""
        self.content |= {
            "machine": {
                "load_average_at_start": self._load,
                **describe_machine(),
                "unset_for_the_run": os.environ.get(_WAS_UNSET, "").split(),
            },
            "versions": versions(),
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
        }
        text = json.dumps(self.content, indent=1, default=str)
        if self._path is None:
            print(text)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(text + "\n", encoding="utf-8")


def _without_folder(value: Any) -> Any:
    """Where a file lies is of no use elsewhere."""
    is_path = isinstance(value, Path) or (isinstance(value, str) and os.sep in value)
    return Path(value).name if is_path else value


def _one_line(title: str, row: dict[str, Any]) -> str:
    figures = [f"{row['seconds_median']:.4g} s"]
    figures += [f"{name} {value:.2g}" for name, value in row["accuracy"].items()]
    if row.get("peak_megabytes") is not None:
        figures.append(f"peak {row['peak_megabytes']:.0f} MB")
    if row["first_call_seconds"] is not None:
        figures.append(f"first call {row['first_call_seconds']:.3g} s")
    return f"{title} | {row['name']}: {', '.join(figures)}"
