"""Tables larger than the memory allowed: time beside its parts, and memory.

Shards of a table whose leading functions are planted are written to a folder, and each
run is a process of its own: the first pass, the solve, then the same passes with
nothing multiplied ("reading"), and the same products of blocks in memory ("products").
The peak is that of resident memory of the process, from its start. Files that were just
written may lie in the system's cache; `--cold` asks for it to be dropped before each
part.

    python benchmarks/streaming.py --json FILE
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import Report, make_parser, parse

SMOKE = {"gigabytes": 0.004, "columns": [64, 256], "rank": 4, "block_megabytes": 0.25}
MOST, KINDS = 1.3, ("dense", "entries")
PER_ROW = 640  # entries
FACTS = ("reading_seconds", "products_seconds", "reads", "passes", "shape")
SHARD_BYTES = 2**28


def main() -> None:
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of shards")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--columns", type=int, nargs=2, default=[2000, 50_000], help="of both kinds"
    )
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--memory", type=float, default=2.0, help="gigabytes allowed")
    parser.add_argument("--block-megabytes", type=float, default=32.0)
    parser.add_argument("--folder", type=Path, help="for the shards, which stay")
    parser.add_argument("--cold", action="store_true", help="drop cached files")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parse(parser, SMOKE)
    if args.run:
        print(json.dumps(solve(args, Path(args.run))))
        return
    report = Report("streaming", args)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="shards-"))
    try:
        for kind in args.kinds:
            shards = generated(args, folder, kind)
            rows = [row(args, shards)]
            size = sum(path.stat().st_size for path in shards.iterdir())
            facts = {name: rows[0].pop(name) for name in FACTS}
            report.add_case(f"{kind}, {size / 1e9:.3g} GB", rows, **facts)
            parts = facts["reading_seconds"] + facts["products_seconds"]
            ratio = rows[0]["seconds_median"] / parts
            title = f"{kind}: time by reading and products"
            report.add_goal(title, ratio, MOST)
            peak = max(r["peak_megabytes"] for r in rows) / 1e3
            report.add_goal(f"{kind}: GB of resident memory", peak, args.memory)
            worst = max(r["accuracy"]["residual"] for r in rows)
            report.add_goal(f"{kind}: residual by s_1", worst, args.tol)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    report.write()


def generated(args: argparse.Namespace, folder: Path, kind: str) -> Path:
    """The folder of the shards, written unless it is there."""
    columns = args.columns[KINDS.index(kind)]
    place = folder / f"{kind}-{args.gigabytes:g}-{columns}-{args.seed}"
    if not place.exists():
        beside = place.with_name(place.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        make = dense if kind == "dense" else entries
        make(args, beside, columns)
        beside.rename(place)
    return place


def signs(rng: np.random.Generator, size: int, rank: int) -> np.ndarray:
    """Functions of values ±1, each with mean near 0: shape (size, rank)."""
    return rng.integers(0, 2, (size, rank)).astype(np.float32) * 2 - 1


def dense(args: argparse.Namespace, folder: Path, columns: int) -> None:
    """P(x, a) ∝ (1 + Σ s_i φ_i(x) ψ_i(a)) · noise, with s_i = 0.2 · 0.8^i."""
    rng = np.random.default_rng(args.seed)
    rank = args.rank + 4
    strengths = 0.2 * np.float32(0.8) ** np.arange(rank, dtype=np.float32)
    right = signs(rng, columns, rank)
    num_rows = int(args.gigabytes * 1e9 / (4 * columns))
    per_shard = max(1, min(SHARD_BYTES // (4 * columns), num_rows // 3 + 1))
    for number, start in enumerate(range(0, num_rows, per_shard)):
        size = min(per_shard, num_rows - start)
        shard = (signs(rng, size, rank) * strengths) @ right.T
        shard += 1.0
        for low in range(0, size, 4096):
            part = shard[low : low + 4096]
            part *= 0.5 + rng.random(part.shape, np.float32)
        np.save(folder / f"{number:05d}.npy", shard)


def entries(args: argparse.Namespace, folder: Path, columns: int) -> None:
    """Rows of groups: with a chance an entry is in columns of the group's own."""
    rng = np.random.default_rng(args.seed)
    num_groups, per_row = args.rank + 4, min(PER_ROW, columns // 4)
    width = columns // num_groups
    chances = 0.9 * 0.93 ** np.arange(num_groups)
    num_rows = int(args.gigabytes * 1e9 / (12 * per_row))
    per_shard = max(1, min(SHARD_BYTES // (12 * per_row), num_rows // 3 + 1))
    for number, start in enumerate(range(0, num_rows, per_shard)):
        size = min(per_shard, num_rows - start)
        group = rng.integers(0, num_groups, size)
        own = rng.random((size, per_row), np.float32) < chances[group][:, None]
        places = rng.integers(0, columns, (size, per_row), np.int32)
        places = np.where(own, places % width + (group * width)[:, None], places)
        rows = np.repeat(np.arange(start, start + size, dtype=np.int32), per_row)
        values = np.ones(rows.size, np.float32)
        shape = np.array([num_rows, columns])
        found: Any = {"rows": rows, "columns": places.ravel().astype(np.int32)}
        np.savez(folder / f"{number:05d}.npz", values=values, shape=shape, **found)


def row(args: argparse.Namespace, shards: Path) -> dict[str, Any]:
    """One run, in a process of its own."""
    command = [sys.executable, __file__, "--run", str(shards), "--rank", str(args.rank)]
    command += ["--tol", str(args.tol), "--seed", str(args.seed)]
    command += ["--block-megabytes", str(args.block_megabytes)]
    command += ["--cold"] if args.cold else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def solve(args: argparse.Namespace, shards: Path) -> dict[str, Any]:
    """First pass and solve, then its parts."""
    import jax

    import contexture_jax as cx

    started = resident()
    dropped(args, shards)
    size = int(args.block_megabytes * 2**20)
    source = cx.data.open_shards(shards)
    begin = time.perf_counter()
    op = cx.operators.streamed_operator(source, block_bytes=size)
    first = time.perf_counter() - begin
    op.reader.passes = 0.0
    begin, cpu = time.perf_counter(), time.process_time()
    result, info = cx.svd(op, args.rank, key=jax.random.key(1), tol=args.tol)
    jax.block_until_ready(result)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak, passes, tally = resident(), op.reader.passes, dict(op.reader.tally)
    dropped(args, shards)
    begin = time.perf_counter()
    for _ in op.reader.ahead():
        pass
    reading = (time.perf_counter() - begin) * passes
    products = sum(n * of_products(op, kind, r) for (kind, r), n in tally.items())
    residual = float(np.max(np.asarray(info.residuals)))
    s = np.asarray(result.singular_values)
    return {
        "settings": "",
        "name": f"rank {args.rank}, tol {args.tol:g}",
        "seconds": [seconds],
        "seconds_median": seconds,
        "first_call_seconds": first,
        "processor_seconds": cpu,
        "reading_seconds": reading,
        "products_seconds": products,
        "reads": passes,
        "passes": float(info.num_passes),
        "status": str(info.status),
        "shape": {"rows": op.shape[0], "columns": op.shape[1]},
        "singular_values": [float(x) for x in s],
        "accuracy": {"residual": residual / float(s[0])},
        "peak_megabytes": peak,
        "megabytes_after_imports": started,
    }


def of_products(op: Any, kind: str, r: int) -> float:
    """Seconds of a product with all blocks, if each were in memory: from the first."""
    reader = op.reader
    size = op.shape[0] if kind == "backward" else op.shape[1]
    given = np.random.default_rng(0).standard_normal((size, r), np.float32)
    made = op.fold(kind, given)
    number, block = next(iter(reader.ahead()))
    times, out = [], made.empty
    for _ in range(4):
        begin = time.perf_counter()
        out = made.add(out, reader.blocks[number], block)
        times.append(time.perf_counter() - begin)
    # The first compiles, where the solve has not.
    share = sum(b.stop - b.start for b in reader.blocks)
    one = reader.blocks[number].stop - reader.blocks[number].start
    return float(np.median(times[1:])) * share / one


def resident() -> float:
    """The most resident memory of this process so far, in MB."""
    # Not `ru_maxrss`, which counts what the process was before it became this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def dropped(args: argparse.Namespace, shards: Path) -> None:
    """Take the shards out of the system's cache, if that is asked for."""
    for path in shards.iterdir() if args.cold else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
