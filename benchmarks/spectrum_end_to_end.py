"""How long `contexture spectrum` takes on a table, from CSV to pictures.

Writes a synthetic table (a mixture of Gaussians), runs the command on it several times
in new processes, as a user would, and reports seconds (whole and by stage) and peak
resident memory as JSON.

    python benchmarks/spectrum_end_to_end.py --rows 20000 --columns 16 --repeats 3
    python benchmarks/spectrum_end_to_end.py --smoke
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SMOKE_ROWS, SMOKE_COLUMNS, SMOKE_RANK = 300, 4, 4
NUM_CLUSTERS = 50
PACKAGES = ("contexture_jax", "jax", "jaxlib", "numpy", "matplotlib")


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="contexture-bench-") as folder:
        table = Path(folder) / "table.csv"
        write_table(table, args.rows, args.columns, args.seed)
        command = [
            find_command(), "spectrum", str(table), "--context", "knn",
            "--num-neighbors", str(args.num_neighbors), "--rank", str(args.rank),
            "--out", str(Path(folder) / "out"),
        ]  # fmt: skip
        runs = [run_once(command, Path(folder) / "out") for _ in range(args.repeats)]
        report = {
            "benchmark": "spectrum_end_to_end",
            "command": " ".join(
                ["contexture", "spectrum", "table.csv", *command[3:-2]]
            ),
            "rows": args.rows,
            "columns": args.columns,
            "table_megabytes": round(table.stat().st_size / 1e6, 2),
            "wall_seconds_median": statistics.median(r["wall_seconds"] for r in runs),
            "peak_rss_megabytes_max": max(r["peak_rss_megabytes"] for r in runs),
            "runs": runs,
            "machine": describe_machine(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
        }
    text = json.dumps(report, indent=2)
    if args.json is None:
        print(text)
    else:
        args.json.write_text(text + "\n", encoding="utf-8")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--num-neighbors", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the table")
    parser.add_argument("--json", type=Path, help="file for the report; else stdout")
    parser.add_argument("--smoke", action="store_true", help="one tiny run, as a test")
    args = parser.parse_args()
    if args.smoke:
        args.rows, args.columns, args.rank = SMOKE_ROWS, SMOKE_COLUMNS, SMOKE_RANK
        args.num_neighbors, args.repeats = 10, 1
    return args


def find_command() -> str:
    """The command that belongs to this interpreter, else the first on the path."""
    beside = Path(sys.executable).with_name("contexture")
    found = str(beside) if beside.exists() else shutil.which("contexture")
    if found is None:
        sys.exit("no command `contexture`: install the package with its extra `cli`")
    return found


def write_table(path: Path, num_rows: int, num_columns: int, seed: int) -> None:
    """Clusters of unequal size and spread, so that no scale fits all."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(NUM_CLUSTERS, 2.0))
    cluster = rng.choice(NUM_CLUSTERS, size=num_rows, p=shares)
    centers = 1.5 * rng.standard_normal((NUM_CLUSTERS, num_columns))
    spreads = rng.uniform(0.5, 2.0, NUM_CLUSTERS)
    noise = rng.standard_normal((num_rows, num_columns))
    values = centers[cluster] + spreads[cluster, None] * noise
    header = ",".join(f"x{j}" for j in range(num_columns))
    np.savetxt(path, values, delimiter=",", header=header, comments="", fmt="%.6g")


def run_once(command: list[str], out: Path) -> dict[str, Any]:
    """One run in a process of its own, so that its peak memory is its own too."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    message = process.stderr.read()
    _, wait_status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(wait_status)
    if process.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {process.returncode}: {message}")
    spectrum = json.loads((out / "spectrum.json").read_text(encoding="utf-8"))
    # Linux counts kilobytes, macOS bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return {
        "wall_seconds": round(wall, 3),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_megabytes": round(usage.ru_maxrss / unit, 1),
        "stage_seconds": spectrum.get("seconds"),
        "status": spectrum["status"],
        "num_rows": spectrum["num_rows"],
        "first_singular_values": spectrum["singular_values"][:3],
    }


def describe_machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores in use, load, thread settings."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "threads": {
            name: os.environ[name]
            for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XLA_FLAGS")
            if name in os.environ
        },
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or "unknown"


if __name__ == "__main__":
    main()
