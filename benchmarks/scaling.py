"""How time and memory grow: with non-zeros, with n · K, with n² for the kernel.

Sizes double; all of one family run in turns. The slope is that of log time against log
work by least squares: 1 is linear. Memory is that of the compiled product, as the
compiler reports it, beside what `cost()` predicts from shapes alone.

    python benchmarks/scaling.py --json FILE
"""

import argparse
from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from _measure import compiled_bytes, measure
from _ours import matmat, product

MAX_SLOPE, MAX_MEMORY_ERROR = 1.15, 0.20
SMOKE = {"largest": [400, 400, 256], "doublings": 1, "columns": 4}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--largest",
        type=int,
        nargs=3,
        default=[200_000, 100_000, 32_768],
        help="n of the largest sparse, k-NN and kernel operator",
    )
    parser.add_argument("--doublings", type=int, default=3)
    parser.add_argument("--columns", type=int, default=64, help="of the block")
    args = parse(parser, SMOKE)
    report = Report("scaling", args)
    rng = np.random.default_rng(args.seed)
    makers = {"sparse": sparse, "k-NN": neighbors, "Gaussian": gaussian}
    for (family, make), largest in zip(makers.items(), args.largest, strict=True):
        sizes = [largest >> step for step in range(args.doublings, -1, -1)]
        run_family(report, args, family, [make(rng, n) for n in sizes])
    report.write()


def run_family(
    report: Report,
    args: argparse.Namespace,
    family: str,
    problems: list[tuple[str, float, cx.AssociationOperator]],
) -> None:
    """All sizes of one kind of operator."""
    rng = np.random.default_rng(args.seed)
    contestants, blocks = [], []
    for title, work, operator in problems:
        block = rng.standard_normal((operator.shape[1], args.columns), np.float32)
        contestants.append(
            product(title, matmat, operator, block, 2.0 * work * args.columns)
        )
        blocks.append(block)
    rows = measure(contestants, rounds=args.rounds)
    memory = [
        compare_memory(operator, block)
        for (_, _, operator), block in zip(problems, blocks, strict=True)
    ]
    for row, facts in zip(rows, memory, strict=True):
        row["memory"] = facts
    seconds = [row["seconds_median"] for row in rows]
    slope = float(np.polyfit(np.log([p[1] for p in problems]), np.log(seconds), 1)[0])
    report.add_case(family, rows, slope=slope)
    report.add_goal(f"{family}: slope of log time by log work", slope, MAX_SLOPE)
    worst = max(facts["relative_error"] for facts in memory)
    report.add_goal(f"{family}: error of predicted bytes", worst, MAX_MEMORY_ERROR)


def compare_memory(operator: cx.AssociationOperator, block: Any) -> dict[str, float]:
    """Bytes that `cost()` predicts and that the compiler reports, and their gap."""
    cost = operator.cost(block.shape[1])
    compiled = compiled_bytes(matmat, operator, jax.device_put(block))
    return {
        **compiled,
        "predicted_argument_bytes": cost.argument_bytes,
        "predicted_output_bytes": cost.output_bytes,
        "predicted_temporary_bytes": cost.temporary_bytes,
        "relative_error": abs(cost.bytes / sum(compiled.values()) - 1.0),
    }


def sparse(
    rng: np.random.Generator, n: int
) -> tuple[str, float, cx.AssociationOperator]:
    """25 observations a row, columns by a Zipf law; half as many columns as rows."""
    m, draws = n // 2, 25 * n
    rows = rng.integers(0, n, draws)
    law = np.cumsum(1.0 / np.arange(1, m + 1))
    columns = np.searchsorted(law, rng.random(draws) * law[-1]).clip(max=m - 1)
    context = cx.contexts.pairs(rows, columns, shape=(n, m))
    nonzeros = int(context.weights.size)
    return f"{nonzeros} non-zeros", nonzeros, cx.association_operator(context)


def neighbors(
    rng: np.random.Generator, n: int
) -> tuple[str, float, cx.AssociationOperator]:
    """30 random neighbours a point."""
    lists = rng.integers(0, n, (n, 30), np.int32)
    context = cx.contexts.neighbors(lists, num_points=n)
    return f"n = {n}, K = 30", 30 * n, cx.association_operator(context)


def gaussian(
    rng: np.random.Generator, n: int
) -> tuple[str, float, cx.AssociationOperator]:
    """20 normal features."""
    points = rng.standard_normal((n, 20), np.float32)
    context = cx.contexts.rbf(points, 0.05)
    return f"n = {n}", float(n) * n, cx.association_operator(context)


if __name__ == "__main__":
    main()
