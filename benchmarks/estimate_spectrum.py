"""A spectrum from an encoder and m rows: the published experiment, and how it errs.

An encoder Ψ of neighbours is trained on the whole table (K = 60). Of m rows and their
neighbours, its covariance over contexts, and that of its average Φ = T Ψ over rows,
give Ritz values λ̂, which estimate s². Reported is the mean |λ̂ − s²| over the top 256,
of the worst and of the median seed, beside what the literature reports for an encoder
of width 20,000 trained by VICReg (Zhai et al. 2025, Table 2).

    python benchmarks/estimate_spectrum.py --data TABLE.csv --json FILE
"""

import argparse
import statistics
import sys
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from _knn_encoder import (
    Problem,
    Setting,
    add_arguments,
    learn,
    parse_setting,
    prepare,
)

# Rows → mean absolute error; 0 for all rows.
PUBLISHED = {100: 0.157, 300: 0.124, 600: 0.088, 1000: 0.104, 2000: 0.110, 0: 0.088}
HALF_FROM = 600
SMOKE = {
    "base": "steps=4,batch=64,width=16,depth=2,output=16",
    "rank": 8,
    "seeds": 1,
    "sizes": [50, 0],
    "neighbors": 10,
}


def main() -> None:
    parser = make_parser(__doc__)
    add_arguments(parser, neighbors=60, rank=256)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=list(PUBLISHED), help="rows; 0: all"
    )
    args = parse(parser, SMOKE)
    report = Report("estimate_spectrum", args)
    problem = prepare(args)
    x, truth = problem.x, np.asarray(problem.exact.singular_values) ** 2
    with cx.single_threaded_lapack():
        errors, seconds = measure(args, problem, truth)
    rows = [
        {
            "name": f"{size or len(x)} rows",
            "kind": "ours",
            "settings": f"{args.seeds} seeds",
            "first_call_seconds": found[0],
            "seconds": found,
            "seconds_median": statistics.median(found),
            "peak_megabytes": None,
            "accuracy": {
                "mean error of s², worst": max(errors[size]),
                "mean error of s², median": statistics.median(errors[size]),
            }
            | ({"published": PUBLISHED[size]} if size in PUBLISHED else {}),
        }
        for size, found in seconds.items()
    ]
    report.add_case(
        f"{len(x)} rows, K = {args.neighbors}, top {args.rank}",
        rows,
        mean_of_the_truth=float(truth.mean()),
    )
    for size in args.sizes:
        if size in PUBLISHED:
            share = 0.5 if size == 0 or size >= HALF_FROM else 1.0
            report.add_goal(
                f"mean error of s², {size or len(x)} rows",
                max(errors[size]),
                share * PUBLISHED[size],
            )
    report.write()


def measure(
    args: argparse.Namespace, problem: Problem, truth: np.ndarray
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Errors and seconds of the estimate by size, over seeds."""
    setting = parse_setting(args.base, Setting())
    x, neighbors = problem.x, np.asarray(problem.context.indices)
    errors: dict[int, list[float]] = {size: [] for size in args.sizes}
    seconds: dict[int, list[float]] = {size: [] for size in args.sizes}
    for seed in range(args.seeds):
        encoder = learn(setting, seed, problem).towers["psi"]
        psi = encoder.apply(encoder.params, x)
        for size in args.sizes:
            start = time.perf_counter()
            rng = np.random.default_rng((seed, size))
            rows = rng.permutation(len(x))[: size or None]
            found = estimate(psi, neighbors[rows], args.rank)
            errors[size].append(float(np.abs(found - truth).mean()))
            seconds[size].append(time.perf_counter() - start)
            print(seed, size, errors[size][-1], file=sys.stderr)
    return errors, seconds


def estimate(psi: Any, neighbors: np.ndarray, rank: int) -> np.ndarray:
    """λ̂ of the operator that the rows' lists of neighbours alone define."""
    seen, columns = np.unique(neighbors, return_inverse=True)
    lists = cx.contexts.neighbors(
        columns.reshape(neighbors.shape), num_points=len(seen)
    )
    operator = cx.association_operator(lists)
    # Ψ has the covariance of the contexts, T Ψ that of the rows: the adjoint's roles.
    found = cx.evaluation.rayleigh_ritz(
        jnp.asarray(psi)[seen], cx.operators.reverse(operator)
    )
    values = np.asarray(found.singular_values)[:rank] ** 2
    return np.pad(values, (0, rank - len(values)))


if __name__ == "__main__":
    main()
