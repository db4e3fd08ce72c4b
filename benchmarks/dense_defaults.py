"""Singular triples of dense matrices with no arguments but rank and key, beside peers.

Eight shapes and spectra, each library as its manual would have it for an error of 1e-6.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from _measure import Contestant, measure, ratio, row_named
from _peers import scipy_svds, sklearn_randomized_svd
from contexture_jax.benchmarking import Triples, make_judge
from dense_svd import PROPACK, PROPACK_TOL, TORCH, make_problem, propack, torch_svd

OURS = "contexture_jax, no arguments"
ARPACK = "scipy svds, ARPACK"
SKLEARN = "sklearn randomized_svd, n_iter auto"
FLOOR = 1e-5  # errors of values below it count as equal


class Case(NamedTuple):
    """A problem, with its spectrum in words and as a function of 0, 1, 2 and so on."""

    rows: int
    columns: int
    rank: int
    spectrum: str
    law: Callable[[np.ndarray], np.ndarray]
    is_fast: bool = False


CASES = (
    Case(6000, 5000, 48, "i^-1/2", lambda i: (i + 1.0) ** -0.5),
    Case(12000, 2500, 64, "0.96^i", lambda i: 0.96**i, is_fast=True),
    Case(3000, 9000, 32, "1/i", lambda i: 1.0 / (i + 1.0)),
    Case(6000, 6000, 64, "1 - i/500", lambda i: np.maximum(1.0 - i / 500.0, 0.0)),
    Case(2000, 2000, 10, "0.9^i", lambda i: 0.9**i, is_fast=True),
    Case(1000, 800, 20, "1/i", lambda i: 1.0 / (i + 1.0)),
    Case(4000, 1000, 100, "0.97^i", lambda i: 0.97**i, is_fast=True),
    Case(
        8000,
        4000,
        64,
        "rank 40 + noise",
        lambda i: np.where(i < 40, 1.0 - 0.02 * i, 0.1 * 0.999**i),
    ),
)
SMOKE = {"cases": [5], "divisor": 20}


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument(
        "--cases", nargs="+", type=int, default=list(range(len(CASES))), help="numbers"
    )
    parser.add_argument(
        "--divisor", type=int, default=1, help="of all sizes, and of ranks above 8"
    )
    args = parse(parser, SMOKE)
    report = Report("dense_defaults", args)
    shares = [
        share
        for number in args.cases
        if (share := run(report, args, CASES[number])) is not None
    ]
    mean = statistics.geometric_mean(shares) if shares else None
    report.add_goal(f"defaults: time / {SKLEARN}, geometric mean", mean, 0.35)
    report.write()


def run(report: Report, args: argparse.Namespace, case: Case) -> float | None:
    """One case; our time by that of scikit-learn."""
    a, truth = problem(args, case)
    rank = len(truth.values)
    contestants = [
        ours(a, rank),
        propack(a, rank),
        arpack(a, rank),
        *torch_svd(a, rank),
        *sklearn_randomized_svd(SKLEARN, a, rank, "auto"),
    ]
    rows = measure(contestants, rounds=args.rounds, judge=make_judge(truth))
    n, m = a.shape
    title = f"{n} × {m}, rank {rank}, {case.spectrum}"
    report.add_case(title, rows)
    peer = fastest_equal(rows)
    report.add_goal(
        f"defaults, {title}: time / the faster of PROPACK and ARPACK",
        None if peer is None else ratio(rows, OURS, peer),
        0.5,
        peer,
    )
    if case.is_fast:
        measured = ratio(rows, OURS, TORCH)
        report.add_goal(f"defaults, {title}: time / {TORCH}", measured, 1.0)
    return ratio(rows, OURS, SKLEARN)


def problem(args: argparse.Namespace, case: Case) -> tuple[np.ndarray, Triples]:
    """A float32 matrix, tall or wide, and its leading triples in float64."""
    n, m = case.rows // args.divisor, case.columns // args.divisor
    sizes = argparse.Namespace(
        rows=max(n, m),
        columns=min(n, m),
        rank=case.rank if case.rank <= 8 else max(8, case.rank // args.divisor),
        seed=args.seed,
    )
    a, truth = make_problem(sizes, case.law)
    if n >= m:
        return a, truth
    return np.ascontiguousarray(a.T), Triples(truth.values, truth.right, truth.left)


def ours(a: np.ndarray, rank: int) -> Contestant:
    matrix = jax.device_put(a)

    def run(number: int) -> Any:
        key = jax.random.key(number)
        result, _ = cx.solvers.truncated_svd(matrix, rank, key=key)
        return result

    return Contestant(
        OURS,
        run,
        "ours",
        answer=lambda found: Triples(found.singular_values, found.left, found.right),
    )


def arpack(a: np.ndarray, rank: int) -> Contestant:
    """SciPy's Lanczos iteration on AᵀA, to the tolerance that PROPACK has."""

    def run(number: int) -> Triples:
        return scipy_svds(a, rank, number, solver="arpack", tol=PROPACK_TOL)

    return Contestant(ARPACK, run, settings=f"tol={PROPACK_TOL}")


def fastest_equal(rows: list[dict[str, Any]]) -> str | None:
    """The faster of the two peers with a tolerance, if it is as exact as ours."""
    mine = row_named(rows, OURS)
    assert mine is not None
    limit = max(FLOOR, 2.0 * mine["accuracy"]["value error"])
    good = [
        row
        for row in rows
        if row["name"] in (PROPACK, ARPACK) and row["accuracy"]["value error"] <= limit
    ]
    return min(good, key=lambda row: row["seconds_median"])["name"] if good else None


if __name__ == "__main__":
    main()
