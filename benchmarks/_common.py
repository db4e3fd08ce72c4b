"""What every benchmark shares: arguments, environment, report.

A script parses with `parse`, measures with `_measure.measure`, and hands what it found
to a `Report`, which adds machine, versions and date and writes JSON.
"""

import argparse
import datetime as dt
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

__all__ = [
    "Report",
    "cores",
    "describe_machine",
    "make_parser",
    "optional",
    "parse",
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
_PACKAGES = {
    "contexture_jax": "contexture_jax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "faiss": "faiss-cpu",
    "pykeops": "pykeops",
    "prince": "prince",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
}


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
    contestant: libraries read them when they are loaded.
    """
    args = parser.parse_args(argv)
    if args.smoke:
        vars(args).update({"rounds": 2, **smoke})
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


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
            "machine": {"load_average_at_start": self._load, **describe_machine()},
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
    figures.append(f"first call {row['first_call_seconds']:.3g} s")
    return f"{title} | {row['name']}: {', '.join(figures)}"


def describe_machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores in use, load, thread settings."""
    return {
        "processor": processor_name(),
        "cores": cores(),
        "memory_gigabytes": memory_gigabytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average_at_end": load(),
        "blas": blas_libraries(),
        "environment": {
            name: os.environ[name]
            for name in ("XLA_FLAGS", "JAX_PLATFORMS", *_UNSET)
            if name in os.environ
        },
        "unset_for_the_run": os.environ.get(_WAS_UNSET, "").split(),
    }


def load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or "unknown"


def memory_gigabytes() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def blas_libraries() -> list[str]:
    """Thread pools that are loaded, with the kernels they chose and their threads."""
    threadpoolctl = optional("threadpoolctl")
    if threadpoolctl is None:
        return []
    return [
        f"{Path(pool['filepath']).name}: {pool['internal_api']}"
        f" {pool.get('architecture') or ''} {pool['num_threads']} threads"
        for pool in threadpoolctl.threadpool_info()
    ]


def versions() -> dict[str, str]:
    """Of the packages that the run has loaded, and of Python's."""
    loaded = {m: name for m, name in _PACKAGES.items() if m in sys.modules}
    return {name: _version(module, name) for module, name in loaded.items()}


def _version(module: str, distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return sys.modules[module].__version__
