"""From a CSV to the pictures: the command in new processes, beside the usual script.

Writes a synthetic table (a mixture of Gaussians of unequal size and spread) and runs
`contexture spectrum` on it as a user would: a new process starts Python, imports,
reads, builds the k-NN graph, compiles, solves, judges, draws and writes; once with
no program kept from runs before, and once as it is, with the programs that its first
run left in the user's cache. Python's bytecode is kept for all, as an installation
leaves it: without, a process spends a second or two on its sources. The peer is
`_end_to_end_peer.py`: the same by pandas, scikit-learn, ARPACK and matplotlib, in a new
process too. Errors are residuals by the largest singular value, and the largest
difference of the singular values of the two. Seconds by stage are those that
`spectrum.json` reports; the peak is the resident memory of the process.

    python benchmarks/end_to_end.py --json FILE
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import Report, make_parser, optional, parse
from _measure import ratio

OURS, PEER = "contexture spectrum, nothing kept", "pandas + sklearn + ARPACK"
OURS_AGAIN = "contexture spectrum, programs kept by a run before"
# At most, by the peer's.
WALL = {OURS: 1.5, OURS_AGAIN: 1.0}
PROCESSOR = {OURS: 1.0, OURS_AGAIN: 0.75}
CACHE = "JAX_ENABLE_COMPILATION_CACHE"
UNSET = ("JAX_COMPILATION_CACHE", "PYTHONDONTWRITEBYTECODE")
NUM_CLUSTERS = 50
SMOKE = {"rounds": 1, "rows": 300, "columns": 4, "rank": 4, "neighbors": 10}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--neighbors", type=int, default=30)
    args = parse(parser, SMOKE)
    report = Report("end_to_end", args)
    with tempfile.TemporaryDirectory(prefix="contexture-bench-") as folder:
        table = Path(folder) / "table.csv"
        write_table(table, args.rows, args.columns, args.seed)
        rows = run_rounds(args, commands(args, table), Path(folder))
    title = f"{args.rows} × {args.columns}, K = {args.neighbors}, rank {args.rank}"
    report.add_case(title, rows)
    for name in (OURS, OURS_AGAIN):
        report.add_goal(
            f"end to end: time / {PEER}", ratio(rows, name, PEER), WALL[name], name
        )
        by_processor = ratio(rows, name, PEER, clock="processor_seconds")
        what = f"end to end: processor time / {PEER}"
        report.add_goal(what, by_processor, PROCESSOR[name], name)
    report.write()


def commands(args: argparse.Namespace, table: Path) -> dict[str, list[str]]:
    """What each contestant runs, but for where it writes."""
    common = [
        str(table),
        *("--num-neighbors", str(args.neighbors)),
        *("--rank", str(args.rank)),
    ]
    command = [
        *(sys.executable, "-m", "contexture_jax.cli", "spectrum"),
        *(*common, "--context", "knn"),
    ]
    found = {OURS: command, OURS_AGAIN: command}
    needed = ("pandas", "sklearn", "scipy", "matplotlib")
    if all(optional(name) is not None for name in needed):
        script = Path(__file__).with_name("_end_to_end_peer.py")
        found[PEER] = [sys.executable, str(script), *common]
    return found


def run_rounds(
    args: argparse.Namespace, commands: dict[str, list[str]], folder: Path
) -> list[dict[str, Any]]:
    """One round that warms the system's file cache, then the timed ones."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(0 if args.smoke else -1, args.rounds):
        for place, (name, command) in enumerate(commands.items()):
            out = folder / f"out-{place}-{number}"
            # Caches of the benchmark's own: empty in its first round. As a test it
            # does not compile the bytecode of all libraries anew.
            bytecode = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
            environment = {
                **{k: v for k, v in os.environ.items() if not k.startswith(UNSET)},
                "XDG_CACHE_HOME": str(folder / "cache"),
                **({} if args.smoke else bytecode),
                CACHE: str(int(name != OURS)),
            }
            runs[name].append(run_once([*command, "--out", str(out)], out, environment))
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    reference = np.array(runs[OURS][0]["singular_values"])
    return [row(name, found, reference) for name, found in runs.items()]


def row(name: str, runs: list[dict[str, Any]], reference: np.ndarray) -> dict[str, Any]:
    first, timed = runs[0], runs[1:] or runs
    seconds = [run["seconds"] for run in timed]
    values = np.array(first["singular_values"])
    return {
        "name": name,
        "kind": "peer" if name == PEER else "ours",
        "settings": first["status"],
        "first_call_seconds": first["seconds"],
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "processor_seconds": [run["processor_seconds"] for run in timed],
        "stage_seconds": timed[-1]["stage_seconds"],
        "peak_megabytes": max(run["peak_megabytes"] for run in timed),
        "accuracy": {
            "residual": max(first["residuals"]) / values[0],
            "value difference": float(np.abs(values - reference).max()),
        },
    }


def run_once(
    command: list[str], out: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """One run in a process of its own, so that its peak memory is its own too."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    message = process.stderr.read()
    _, wait_status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(wait_status)
    if process.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {process.returncode}: {message}")
    spectrum = json.loads((out / "spectrum.json").read_text(encoding="utf-8"))
    # Linux counts kilobytes, macOS bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return {
        "seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_megabytes": usage.ru_maxrss / unit,
        "stage_seconds": spectrum["seconds"],
        "status": spectrum["status"],
        "singular_values": spectrum["singular_values"],
        "residuals": spectrum["residuals"],
    }


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


if __name__ == "__main__":
    main()
