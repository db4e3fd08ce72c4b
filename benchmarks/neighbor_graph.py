"""The exact k-nearest-neighbour graph, beside scikit-learn's and FAISS's exact search.

`--queries` searches for the neighbours of that many points, drawn at random, among all
n, for every contestant equally; the seconds of the whole graph are those times n /
queries. What a search does once (ours centres the points in every call) is scaled up
with the rest. Recall counts neighbours that are as near as the float64 truth's, on 256
queries; the error is 1 − recall.

    python benchmarks/neighbor_graph.py --json FILE
"""

import argparse
import functools
from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, cores, make_parser, optional, parse
from _measure import Contestant, measure, ratio, row_named
from contexture_jax.benchmarking import clustered_points

OURS = "contexture_jax knn"
SKLEARN = "sklearn NearestNeighbors, brute"
FAISS = "FAISS IndexFlatL2"
NUM_CHECKED = 256
MAX_MISSED = 1e-3
LIMIT = "distance products alone"
GOALS = {20: {SKLEARN: 0.5, FAISS: 0.5}, 784: {FAISS: 1.1}}
SMOKE = {"rows": 2000, "features": [20], "neighbors": 5, "queries": 500}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, nargs="+", default=[20, 784])
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument(
        "--queries", type=int, default=4096, help="0: all, as the graph needs"
    )
    args = parse(parser, SMOKE)
    report = Report("neighbor_graph", args)
    for num_features in args.features:
        run_case(report, args, num_features)
    report.write()


def run_case(report: Report, args: argparse.Namespace, num_features: int) -> None:
    points = clustered_points(args.rows, num_features, args.seed)
    whole = args.queries in (0, args.rows)
    rng = np.random.default_rng(args.seed)
    chosen = rng.permutation(args.rows)[: args.rows if whole else args.queries]
    queries = points if whole else points[chosen]
    contestants = [
        ours(points, None if whole else queries, args.neighbors),
        *sklearn_brute(points, queries, args.neighbors),
        *faiss_flat(points, queries, args.neighbors),
        products_alone(points, queries),
    ]
    truth = exact_radii(queries[:NUM_CHECKED], points, args.neighbors)
    rows = measure(
        contestants,
        rounds=args.rounds,
        judge=functools.partial(judge, queries=queries, points=points, radii=truth),
    )
    for row in rows:
        row["whole_graph_seconds"] = row["seconds_median"] * args.rows / len(queries)
    title = f"n = {args.rows}, d = {num_features}, K = {args.neighbors}"
    report.add_case(f"{title}, {len(queries)} queries", rows)
    for peer, at_most in GOALS.get(num_features, {}).items():
        measured = None
        row = row_named(rows, OURS)
        if row is not None and row["accuracy"]["1 − recall"] <= MAX_MISSED:
            measured = ratio(rows, OURS, peer)
        report.add_goal(
            f"k-NN graph, d = {num_features}: time / {peer}", measured, at_most
        )


def ours(points: np.ndarray, queries: np.ndarray | None, k: int) -> Contestant:
    """The graph itself, or the search of `Neighbors.at`, which is the same one."""
    if queries is None:
        return Contestant(
            OURS, lambda _: cx.contexts.knn(points, k).indices, "ours", "knn(x)"
        )
    lists = np.zeros((1, k), np.int32)
    context = cx.contexts.Neighbors(
        jax.device_put(lists),
        None,
        jax.device_put(points),
        jax.device_put(np.ones(1, np.float32)),
        len(points),
    )
    return Contestant(
        OURS, lambda _: context.at(queries).indices, "ours", "knn(x).at(queries)"
    )


def sklearn_brute(points: np.ndarray, queries: np.ndarray, k: int) -> list[Contestant]:
    """Its fused reduction, which takes the cores whatever n_jobs says."""
    neighbors = optional("sklearn.neighbors")
    if neighbors is None:
        return []
    search = neighbors.NearestNeighbors(
        n_neighbors=k, algorithm="brute", n_jobs=cores()
    ).fit(points)
    return [
        Contestant(
            SKLEARN,
            lambda _: search.kneighbors(queries, return_distance=False),
            settings=f"n_jobs={cores()}",
        )
    ]


def faiss_flat(points: np.ndarray, queries: np.ndarray, k: int) -> list[Contestant]:
    faiss = optional("faiss")
    if faiss is None:
        return []
    faiss.omp_set_num_threads(cores())
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    return [
        Contestant(
            FAISS,
            lambda _: index.search(queries, k)[1],
            settings=f"{cores()} threads",
        )
    ]


def products_alone(points: np.ndarray, queries: np.ndarray) -> Contestant:
    """The matrix products that give all inner products, in blocks, and a maximum."""
    columns = jax.device_put(np.ascontiguousarray(points.T))
    block = 256
    blocks = jax.device_put(
        queries[: len(queries) // block * block].reshape(-1, block, queries.shape[1])
    )

    @jax.jit
    def run(blocks: Any, columns: Any) -> Any:
        return jax.lax.map(lambda q: (q @ columns).max(axis=1), blocks)

    work = 2.0 * blocks.size * len(points)
    return Contestant(
        LIMIT, lambda _: run(blocks, columns), "limit", "in JAX", work=work
    )


def exact_radii(queries: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of the k-th neighbour in float64."""
    distances = squared_distances(queries, points)
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def squared_distances(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, a = queries.astype(np.float64), points.astype(np.float64)
    return (x**2).sum(1)[:, None] + (a**2).sum(1)[None, :] - 2.0 * x @ a.T


def judge(
    found: Any, queries: np.ndarray, points: np.ndarray, radii: np.ndarray
) -> dict[str, float]:
    """The share of true neighbours that were missed; ties of float32 count as found."""
    lists = np.asarray(found)[: len(radii)]
    x = queries[: len(radii), None, :].astype(np.float64)
    distances = ((x - points[lists].astype(np.float64)) ** 2).sum(axis=2)
    unique = [len(np.unique(row)) for row in lists]
    near = distances <= radii[:, None] * (1 + 1e-5) + 1e-6
    share = near.sum() * np.mean(unique) / lists.shape[1] / near.size
    return {"1 − recall": float(1.0 - share)}


if __name__ == "__main__":
    main()
