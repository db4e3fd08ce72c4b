"""The blocked Gaussian operator on 64 columns, beside fused attention and KeOps.

(T g)(x) = Σ_a softmax(−γ|x − a|²) g(a) with n × n pairs, none of which is stored. Ours
has the normaliser of each row folded in when the operator is built (seconds of that are
reported apart); the peers find it anew. `--queries` takes that many rows of x against
all n points, for every contestant equally; at n = 200,000 that is the default, and the
whole product is made once for its memory. Errors are relative to the largest entry, on
256 rows in float64.

    python benchmarks/kernel_operator.py --json FILE
"""

import argparse
import time
from typing import Any, NamedTuple

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, optional, parse
from _measure import (
    Contestant,
    compiled_bytes,
    fastest_as_accurate,
    measure,
    peak_memory,
    ratio,
)
from _ours import matmat, product
from _peers import optional_torch
from contexture_jax.benchmarking import clustered_points, make_entry_judge

OURS = "contexture_jax"
SDPA = "torch scaled_dot_product_attention"
KEOPS = "PyKeOps"
KEOPS_PLAIN = f"{KEOPS}, exp"
HEAD_WIDTH = 64  # the flash kernel wants a width like that of the values
NUM_CHECKED = 256
WORK_SPACE_MEGABYTES = 64
SMOKE = {"rows": [300], "queries": 100, "columns": 4, "whole": 300}


class Problem(NamedTuple):
    """Queries x (q, d) against points a (n, d), values g (n, r), all float32."""

    queries: np.ndarray
    points: np.ndarray
    block: np.ndarray
    gamma: float

    @property
    def work(self) -> float:
        """Operations of the two matrix products; exponentials come on top."""
        pairs = 2.0 * len(self.queries) * len(self.points)
        return pairs * (self.points.shape[1] + self.block.shape[1])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--columns", type=int, default=64, help="of the block")
    parser.add_argument("--gamma", type=float, default=0.05)
    parser.add_argument(
        "--queries", type=int, default=4096, help="rows of x where n is above `whole`"
    )
    parser.add_argument(
        "--whole", type=int, default=20_000, help="largest n to time all rows of"
    )
    args = parse(parser, SMOKE)
    report = Report("kernel_operator", args)
    for n in args.rows:
        run_case(report, args, n)
    report.write()


def run_case(report: Report, args: argparse.Namespace, n: int) -> None:
    """One number of points: the contestants, then the memory of the whole product."""
    points = clustered_points(n, args.features, args.seed)
    rng = np.random.default_rng(args.seed)
    block = rng.standard_normal((n, args.columns), np.float32)
    queries = points if n <= args.whole else points[: args.queries]
    context = cx.contexts.rbf(points, args.gamma)
    part = context if len(queries) == n else context.at(queries)
    operator, seconds = build(part)
    problem = Problem(queries, points, block, args.gamma)
    contestants = [
        product(OURS, matmat, operator, block, problem.work),
        *fused_attention(problem),
        *keops(problem),
    ]
    truth = exact_rows(problem)
    rows = measure(contestants, rounds=args.rounds, judge=make_entry_judge(truth))
    memory = whole_memory(context, operator if part is context else None, block)
    title = f"n = {n}, d = {args.features}, {args.columns} columns"
    if len(queries) < n:
        title += f", {len(queries)} rows of x"
    report.add_case(title, rows, build_seconds=seconds, whole_product=memory)
    for peer, at_most in ((SDPA, 1.0), (KEOPS, 0.12), (KEOPS_PLAIN, 0.12)):
        name = fastest_as_accurate(rows, peer)
        measured = None if name is None else ratio(rows, name, peer)
        report.add_goal(f"Gaussian, n = {n}: time / {peer}", measured, at_most)
    for way, megabytes in memory.items():
        report.add_goal(
            f"Gaussian, n = {n}: MB beyond inputs, {way}",
            megabytes,
            WORK_SPACE_MEGABYTES,
        )


def build(context: cx.Context) -> tuple[cx.AssociationOperator, float]:
    start = time.perf_counter()
    operator = jax.block_until_ready(cx.association_operator(context))
    return operator, time.perf_counter() - start


def whole_memory(
    context: cx.Context, operator: cx.AssociationOperator | None, block: np.ndarray
) -> dict[str, float]:
    """Megabytes of the product of all rows beyond the operator and the block."""
    if operator is None:
        operator, _ = build(context)
    argument = jax.device_put(block)
    compiled = jax.jit(matmat).lower(operator, argument).compile()
    peak, result = peak_memory(lambda: compiled(operator, argument))
    space = compiled_bytes(matmat, operator, argument)
    found = {"compiled": space["temporary_bytes"] / 1e6}
    if peak is not None:
        found["resident, less the output"] = peak - result.nbytes / 1e6
    return found


def exact_rows(problem: Problem) -> np.ndarray:
    """The first rows of T g in float64."""
    x = problem.queries[:NUM_CHECKED].astype(np.float64)
    a = problem.points.astype(np.float64)
    distances = (x**2).sum(1)[:, None] + (a**2).sum(1)[None, :] - 2.0 * x @ a.T
    weights = np.exp(-problem.gamma * distances)
    return (weights @ problem.block) / weights.sum(1, keepdims=True)


def fused_attention(problem: Problem, device: str = "cpu") -> list[Contestant]:
    """−γ|x − a|² as a product of factors of width 64, so that the flash kernel runs."""
    torch = optional_torch()
    queries, points, block, gamma = problem
    if torch is None or points.shape[1] >= HEAD_WIDTH:
        return []
    center = points.mean(axis=0, keepdims=True)
    x, a = queries - center, points - center
    ones = np.ones((len(x), 1), np.float32)
    factors = (
        np.concatenate([2.0 * gamma * x, ones], axis=1),
        np.concatenate([a, -gamma * (a**2).sum(1, keepdims=True)], axis=1),
    )
    padding = HEAD_WIDTH - factors[0].shape[1]
    q, k = (
        torch.from_numpy(np.pad(f, ((0, 0), (0, padding)))).to(device)[None, None]
        for f in factors
    )
    v = torch.from_numpy(block).to(device)[None, None]
    attention = torch.nn.functional.scaled_dot_product_attention

    def run(_: int) -> Any:
        return attention(q, k, v, scale=1.0)

    settings = f"queries and keys padded to {HEAD_WIDTH}"
    return [Contestant(SDPA, run, settings=settings, work=problem.work)]


def keops(problem: Problem) -> list[Contestant]:
    """The softmax reduction, and a plain sum of exponentials that needs no maximum."""
    module = optional("pykeops.numpy")
    if module is None:
        return []
    queries, points, block, gamma = problem
    x = module.LazyTensor(queries[:, None, :])
    a = module.LazyTensor(points[None, :, :])
    exponent = ((x - a) ** 2).sum(-1) * np.float32(-gamma)
    values = module.LazyTensor(block[None, :, :])
    ones = np.ones((len(points), 1), np.float32)
    work = problem.work
    with_ones = np.ascontiguousarray(np.concatenate([block, ones], axis=1))

    def softmax(_: int) -> Any:
        return exponent.sumsoftmaxweight(values, axis=1)

    def plain(_: int) -> Any:
        sums = exponent.exp() @ with_ones
        return sums[:, :-1] / sums[:, -1:]

    return [
        Contestant(KEOPS, softmax, settings="sumsoftmaxweight", work=work),
        Contestant(KEOPS_PLAIN, plain, settings="exp() @ [g, 1]", work=problem.work),
    ]


if __name__ == "__main__":
    main()
