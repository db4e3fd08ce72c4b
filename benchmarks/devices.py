"""Two devices, and two processes, beside one device that has all cores.

Every operator that can be cut: a product with T and one with T*, of 64 columns. Each
round starts new processes, one after the other: one of one device, one of two virtual
devices, and two of one device each that meet on the loopback. A figure of a round is
the median of its products; the ratio is that of the medians over the rounds. Beside
them the time of what the devices tell each other, as `collectives` states it, with no
product: no operator that is cut can be faster than that and half of its arithmetic.

    python benchmarks/devices.py --json FILE
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from _common import Report, make_parser, parse
from _measure import ratio

ONE, DEVICES, PROCESSES = "one device", "two devices", "two processes"
AT_MOST = {DEVICES: 1.1, PROCESSES: 1.2}
SMOKE = {"rounds": 1, "rows": 512, "columns": 4, "products": 1, "only": "scattered"}
NUM_NEIGHBORS, NUM_CLASSES, WIDE = 30, 100, 4


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--columns", type=int, default=64, help="of a block")
    parser.add_argument("--products", type=int, default=9, help="timed in a round")
    parser.add_argument("--only", default="", help="operators whose names have this")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parse(parser, SMOKE)
    if args.run:
        work(args, *args.run.split(","))
        return
    report = Report("devices", args)
    seconds: dict[str, dict[str, list[float]]] = {}
    told: dict[str, dict[str, list[float]]] = {}
    for number in range(args.rounds):
        for how in (ONE, DEVICES, PROCESSES):
            for name, (whole, alone) in run_once(args, how).items():
                seconds.setdefault(name, {}).setdefault(how, []).append(whole)
                if how != ONE:
                    told.setdefault(name, {}).setdefault(how, []).append(alone)
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    for name, found in seconds.items():
        rows = [row(how, values) for how, values in found.items()]
        alone = {how: statistics.median(each) for how, each in told[name].items()}
        title = f"{name}, {args.rows} rows, {args.columns} columns"
        report.add_case(title, rows, seconds_of_what_is_told=alone)
        for how, most in AT_MOST.items():
            title = f"{name}: {how}, time / {ONE}"
            report.add_goal(title, ratio(rows, how, ONE), most)
    report.write()


def row(how: str, seconds: list[float]) -> dict[str, Any]:
    return {
        "name": how,
        "kind": "ours",
        "settings": "",
        "first_call_seconds": None,
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "peak_megabytes": None,
        "accuracy": {},
    }


def run_once(args: argparse.Namespace, how: str) -> dict[str, tuple[float, float]]:
    """Seconds of each operator and of what is told, in processes of their own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    names = ("rows", "columns", "products", "seed", "only")
    given = [word for n in names for word in (f"--{n}", str(vars(args)[n]))]
    runs = [
        subprocess.Popen(
            [sys.executable, __file__, *given, "--run", f"{how},{index},{port}"],
            stdout=subprocess.PIPE,
        )
        for index in range(2 if how == PROCESSES else 1)
    ]
    said = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        sys.exit(f"{how}: a process ended with {[run.returncode for run in runs]}")
    return json.loads(said[0].splitlines()[-1])


def contexts(args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """By name; made one after the other."""
    import contexture_jax as cx

    rng, n = np.random.default_rng(args.seed), args.rows
    of, few = cx.contexts, max(n // WIDE, 1)
    lists = (n, min(NUM_NEIGHBORS, n // 2))
    scattered = rng.integers(0, n, lists)
    near = (np.arange(n)[:, None] + rng.integers(-200, 200, lists)) % n
    weights = rng.random(lists, np.float32) + np.float32(0.1)
    x = rng.standard_normal((few, 16), np.float32)
    classes = rng.permutation(np.arange(n) % NUM_CLASSES)
    pairs = np.repeat(np.arange(n), lists[1]), rng.integers(0, few, n * lists[1])
    table = rng.random((n // 8, n // 16), np.float32)
    wide = rng.standard_normal((n, 64), np.float32)
    both = [of.neighbors(scattered), of.same_class(classes)]
    return {
        "dense": lambda: of.joint(table),
        "sparse": lambda: of.pairs(*pairs),
        "k-NN of rows that are near": lambda: of.neighbors(near),
        "k-NN, scattered": lambda: of.neighbors(scattered),
        "k-NN, scattered, with weights": lambda: of.neighbors(scattered, weights),
        "Gaussian": lambda: of.rbf(x, 0.1),
        "attention": lambda: of.attention(x, x),
        "teacher": lambda: of.teacher(wide),
        "labels": lambda: of.labels(classes),
        "same class": lambda: of.same_class(classes),
        "k-NN and same class, convex": lambda: of.convex_combination(both, [0.5, 0.5]),
        "k-NN and same class, convolved": lambda: of.convolve(*both),
    }


def median_seconds(run: Callable[[], Any], times: int) -> float:
    """Of so many runs, after one that compiles."""
    import jax

    jax.block_until_ready(run())
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def telling(op: Any, columns: int, mesh: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A program of the collectives of a product with T and one with T*, and no more."""
    import jax
    import jax.numpy as jnp

    ways = {
        "all-reduce": lambda x: jax.lax.psum(x, "x"),
        "all-gather": lambda x: jax.lax.all_gather(x, "x", tiled=True),
        "all-to-all": lambda x: jax.lax.all_to_all(x, "x", 0, 0, tiled=True),
        "collective-permute": lambda x: jax.lax.ppermute(x, "x", [(0, 1), (1, 0)]),
    }
    stated = op.collectives(columns)

    def tell(*arrays: Any) -> list[Any]:
        # Each as often as it is stated, one after the other.
        out: list[Any] = []
        for each, x in zip(stated, arrays, strict=True):
            for _ in range(each.times):
                own, _ = jax.lax.optimization_barrier((x, out[-1:]))
                out.append(ways[each.kind](own))
        return out

    cut = jax.NamedSharding(mesh, jax.P("x"))
    # Of each device as many numbers as it gives, and an even one.
    sizes = [2 * 2 * (each.bytes // 8) for each in stated]
    arrays = [jax.jit(lambda s=s: jnp.ones(s), out_shardings=cut)() for s in sizes]
    run = jax.shard_map(
        tell, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"), check_vma=False
    )
    return jax.jit(run), arrays


def work(args: argparse.Namespace, how: str, index: str, port: str) -> None:
    """One process of a round; the first prints what it took."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if how == DEVICES:
        jax.config.update("jax_num_cpu_devices", 2)
    if how == PROCESSES:
        jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
    import contexture_jax as cx

    mesh = None if how == ONE else cx.make_mesh()
    rng, seconds = np.random.default_rng(args.seed), {}
    products = jax.jit(lambda op, g: op.rmatmat(op.matmat(g)))
    for name, make in contexts(args).items():
        if args.only not in name:
            continue
        op = cx.association_operator(make(), mesh=mesh)
        block: Any = rng.standard_normal((op.shape[1], args.columns), np.float32)
        if mesh is not None:
            whole = jax.NamedSharding(mesh, jax.P())
            block = jax.make_array_from_callback(
                block.shape, whole, lambda part, block=block: block[part]
            )
        took = median_seconds(lambda op=op, g=block: products(op, g), args.products)
        alone = 0.0
        if mesh is not None:
            tell, arrays = telling(op, args.columns, mesh)
            alone = median_seconds(lambda t=tell, a=arrays: t(*a), args.products)
        seconds[name] = took, alone
    if jax.process_index() == 0:
        print(json.dumps(seconds))


if __name__ == "__main__":
    main()
