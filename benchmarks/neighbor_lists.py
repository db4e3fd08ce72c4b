"""The approximate k-nearest-neighbour graph, beside FAISS's inverted file.

Both divide the points into lists and search the nearest of them; FAISS is given as many
lists as ours takes, and as few probes, in steps of a quarter, as find the share of the
neighbours that is asked for on the queries that are judged.
Training and filling are timed with the search, ours with what it takes to choose its
lists and to judge itself. The error is 1 − recall, in float64 on 256 queries.

    python benchmarks/neighbor_lists.py --json FILE
    python benchmarks/neighbor_lists.py --spectrum 64 --rows 1000000 --features 64

The second graph's spectrum is computed too, once and beside no peer: seconds of both,
and the peak of resident memory of the whole process.
"""

import argparse
import resource
import time
from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, cores, make_parser, optional, parse
from _measure import Contestant, measure, ratio
from contexture_jax.benchmarking import clustered_points
from neighbor_graph import exact_radii, judge

OURS = "contexture_jax approximate_knn"
FAISS = "FAISS IndexIVFFlat"
NUM_CHECKED = 256
AT_MOST = 1.5
MINUTES, GIGABYTES = 15, 5  # of a million points
SMOKE = {"rows": 3000, "features": [20], "neighbors": 5, "spectrum": 4}


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, nargs="+", default=[20, 784])
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument(
        "--spectrum", type=int, help="rank of a spectrum of the graph, without peers"
    )
    args = parse(parser, SMOKE)
    report = Report("neighbor_lists", args)
    for num_features in args.features:
        points = clustered_points(args.rows, num_features, args.seed)
        if args.spectrum is None or args.smoke:
            against_faiss(report, args, points)
        if args.spectrum is not None:
            spectrum(report, args, points)
    report.write()


def graph(points: np.ndarray, args: argparse.Namespace, seed: int) -> Any:
    return cx.contexts.approximate_knn(
        points, args.neighbors, key=jax.random.key(seed), recall=args.recall
    )


def against_faiss(report: Report, args: argparse.Namespace, points: np.ndarray) -> None:
    rng = np.random.default_rng(args.seed)
    queries = rng.choice(len(points), min(NUM_CHECKED, len(points)), replace=False)
    radii = exact_radii(points[queries], points, args.neighbors)

    def errors(lists: Any) -> dict[str, float]:
        return judge(np.asarray(lists)[queries], points[queries], points, radii)

    _, found = graph(points, args, args.seed)
    contestants = [
        Contestant(
            OURS,
            lambda number: graph(points, args, number)[0].indices,
            "ours",
            f"{found.num_lists} lists, {found.num_probes} searched",
        ),
        *faiss_lists(points, args, found.num_lists, errors),
    ]
    rows = measure(contestants, rounds=args.rounds, judge=errors)
    title = f"n = {len(points)}, d = {points.shape[1]}, K = {args.neighbors}"
    report.add_case(title, rows)
    report.add_goal(
        f"approximate k-NN graph, d = {points.shape[1]}: time / {FAISS}",
        ratio(rows, OURS, FAISS),
        AT_MOST,
    )


def faiss_lists(
    points: np.ndarray, args: argparse.Namespace, num_lists: int, errors: Any
) -> list[Contestant]:
    faiss = optional("faiss")
    if faiss is None:
        return []
    faiss.omp_set_num_threads(cores())

    def build() -> Any:
        flat = faiss.IndexFlatL2(points.shape[1])
        index = faiss.IndexIVFFlat(flat, points.shape[1], max(1, num_lists))
        # Fewer points a list are enough for it, and it says so on stderr otherwise.
        index.cp.min_points_per_centroid = 1
        index.train(points)
        index.add(points)
        return index

    def search(index: Any, probes: int) -> Any:
        index.nprobe = probes
        return index.search(points, args.neighbors)[1]

    index, probes = build(), 1
    while 1 - errors(search(index, probes))["1 − recall"] < args.recall:
        probes = max(probes + 1, probes * 5 // 4)
    return [
        Contestant(
            FAISS,
            lambda _: search(build(), probes),
            settings=f"{num_lists} lists, {probes} probes, {cores()} threads",
        )
    ]


def spectrum(report: Report, args: argparse.Namespace, points: np.ndarray) -> None:
    """Graph and spectrum, once: what a user waits for, compiling included."""
    start = time.perf_counter()
    context, found = graph(points, args, args.seed)
    seconds = {"graph": time.perf_counter() - start}
    start = time.perf_counter()
    op = cx.association_operator(context)
    result, info = cx.svd(op, args.spectrum, key=jax.random.key(args.seed))
    values = np.asarray(jax.block_until_ready(result.singular_values))
    seconds["spectrum"] = time.perf_counter() - start
    largest = float(np.max(np.asarray(info.residuals)))
    rows = [
        {
            "name": f"contexture_jax, {name}",
            "kind": "ours",
            "settings": settings,
            "first_call_seconds": seconds[name],
            "seconds": [seconds[name]],
            "seconds_median": seconds[name],
            "compile_seconds": None,
            # Kilobytes; of the whole process, the points and their making included.
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            "accuracy": accuracy,
        }
        for name, settings, accuracy in (
            (
                "graph",
                f"{found.num_probes} of {found.num_lists} lists",
                {"1 − recall": 1 - found.recall},
            ),
            (
                "spectrum",
                f"{info.status}, s_{args.spectrum} = {values[-1]:.4f}",
                {"residual": largest},
            ),
        )
    ]
    title = f"n = {len(points)}, d = {points.shape[1]}, K = {args.neighbors}"
    report.add_case(f"{title}, rank {args.spectrum}", rows)
    minutes, peak = sum(seconds.values()) / 60, rows[0]["peak_megabytes"] / 1e3
    report.add_goal(f"graph and spectrum, {title}: minutes", minutes, MINUTES)
    report.add_goal(f"graph and spectrum, {title}: GB at most", peak, GIGABYTES)


if __name__ == "__main__":
    main()
