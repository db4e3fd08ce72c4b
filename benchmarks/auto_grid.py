"""The method that "auto" takes beside the alternatives, over a grid of problems.

A cell is a storage with its sizes, a spectrum, a rank and a tolerance. Every method and
several blocks run in each; the figure of a cell is the median over rounds of auto's
processor time by that of the fastest alternative which is as exact.
"""

import argparse
import itertools
import statistics
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from _measure import Contestant, measure, ratio, row_named
from _ours import read_setting
from contexture_jax.benchmarking import Triples, clustered_points
from dense_svd import make_problem
from sparse_svd import make_table

SPECTRA = {
    "fast": lambda i: 0.9**i,
    "medium": lambda i: 0.97**i,
    "slow": lambda i: (i + 1.0) ** -0.5,
    "flat": lambda i: 1.0 - 0.5 * i / len(i),
    "clustered": lambda i: 0.8 ** (i // 40),
    "low rank + noise": lambda i: np.where(i < 20, 1.0 - 0.03 * i, 0.1),
}
ALTERNATIVES = (
    "method=exact",
    "method=randomized",
    "method=krylov",
    "method=krylov,block_size=16",
    "method=krylov,block_size=32",
    "method=krylov,block_size=64",
)
LARGEST_EXACT = 2048  # of the smaller side: beyond, a dense SVD takes far longer
NEIGHBORS = 30
FLOOR = 1e-5  # of s_1: errors that count as none
CLOCK = "processor_seconds"
STORAGES = ("dense", "sparse", "knn", "rbf")
SIZES = ("200x200", "600x600", "1000x1000", "3000x2000", "12000x2500", "6000x6000")
SMOKE = {
    "storages": ["dense", "knn"],
    "sizes": ["80x60"],
    "spectra": ["fast"],
    "ranks": [4],
    "tols": [None],
}


class Cell(NamedTuple):
    """A problem of the grid; `columns` and `spectrum` are those of dense matrices."""

    storage: str
    rows: int
    columns: int
    spectrum: str
    rank: int
    tol: float | None

    @property
    def title(self) -> str:
        """For the table."""
        size = self.rows if self.storage in ("knn", "rbf") else self.columns
        tol = "" if self.tol is None else f", tol {self.tol:g}"
        spectrum = f", {self.spectrum}" if self.spectrum else ""
        return f"{self.storage} {self.rows} × {size}{spectrum}, rank {self.rank}{tol}"


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    add = parser.add_argument
    add("--storages", nargs="+", default=list(STORAGES), choices=STORAGES)
    add("--sizes", nargs="+", default=list(SIZES), help="ROWSxCOLUMNS")
    add("--spectra", nargs="+", default=list(SPECTRA), choices=SPECTRA)
    add("--ranks", nargs="+", type=int, default=[1, 8, 32, 64, 200, 500])
    add("--tols", nargs="+", type=float, default=[None, 1e-3])
    args = parse(parser, SMOKE)
    report = Report("auto_grid", args)
    ratios = {}
    for size, group in itertools.groupby(cells(args), lambda cell: cell[:3]):
        for cell in group:
            ratios[cell.title] = run(report, args, cell)
        print("done:", *size, file=sys.stderr)
        jax.clear_caches()
    found = [value for value in ratios.values() if value is not None]
    worst = max(ratios, key=lambda title: ratios[title] or 0.0)
    report.add_goal("auto / best, median", statistics.median(found), 1.1)
    report.add_goal("auto / best, worst", ratios[worst], 1.5, worst)
    report.write()


def cells(args: argparse.Namespace) -> list[Cell]:
    """The grid, without ranks that do not fit and what has no prescribed spectrum."""
    found = []
    for storage, size in itertools.product(args.storages, args.sizes):
        n, m = map(int, size.split("x"))
        spectra = args.spectra if storage == "dense" else [""]
        # Spectra share programs.
        for rank, tol, spectrum in itertools.product(args.ranks, args.tols, spectra):
            if 2 * rank < min(n, m):
                found.append(Cell(storage, n, m, spectrum, rank, tol))
    return found


def run(report: Report, args: argparse.Namespace, cell: Cell) -> float | None:
    """All contestants on one problem; auto's time by that of the best alternative."""
    problem, truth = make(cell, args.seed)
    chosen: dict[str, Any] = {}

    def contestant(text: str) -> Contestant:
        def solve(number: int) -> Any:
            result, info = problem(
                cell.rank,
                key=jax.random.key(number),
                tol=cell.tol,
                **read_setting(text),
            )
            chosen[text] = info
            return result

        return Contestant(
            text or "auto",
            solve,
            "ours",
            answer=lambda found: np.asarray(found.singular_values, np.float64),
        )

    def judge(values: np.ndarray) -> dict[str, float]:
        return {"value error": float(np.abs(values - truth).max() / truth[0])}

    texts = ["", *(text for text in ALTERNATIVES if fits(text, cell))]
    rows = measure(
        [contestant(text) for text in texts], rounds=args.rounds, judge=judge
    )
    for text, row in zip(texts, rows, strict=True):
        info = chosen[text]
        row["settings"] = f"{info.method}, {float(info.num_passes)} passes"
    best = fastest(rows, 1e-4 if cell.tol else FLOOR)
    value = None if best is None else ratio(rows, "auto", best, clock=CLOCK)
    report.add_case(
        cell.title, rows, reason=chosen[""].reason, best=best, auto_by_best=value
    )
    return value


def fits(text: str, cell: Cell) -> bool:
    """Whether an alternative is worth its time: no block wider than the default."""
    setting = read_setting(text)
    if setting["method"] == "exact":
        return min(cell.rows, cell.columns) <= LARGEST_EXACT
    return setting.get("block_size", 0) < cell.rank + max(10, cell.rank // 4)


def fastest(rows: list[dict[str, Any]], floor: float) -> str | None:
    """The fastest alternative whose error is at most twice auto's, or `floor`."""
    auto = row_named(rows, "auto")
    assert auto is not None
    limit = max(2 * auto["accuracy"]["value error"], floor)
    good = [row for row in rows[1:] if row["accuracy"]["value error"] <= limit]
    if not good:
        return None
    return min(good, key=lambda row: statistics.median(row[CLOCK]))["name"]


def make(cell: Cell, seed: int) -> tuple[Any, np.ndarray]:
    """A solver that lacks rank and settings, and the singular values."""
    if cell.storage == "dense":
        n, m = max(cell.rows, cell.columns), min(cell.rows, cell.columns)
        sizes = argparse.Namespace(rows=n, columns=m, rank=cell.rank, seed=seed)
        a, triples = make_problem(sizes, SPECTRA[cell.spectrum])
        matrix = jax.device_put(a if cell.rows == n else np.ascontiguousarray(a.T))
        return bind(cx.solvers.truncated_svd, matrix), values_of(triples)
    problem = bind(cx.svd, cx.association_operator(context(cell, seed)))
    # A block of twice the width misses nothing that one contestant finds.
    result, _ = problem(
        cell.rank,
        key=jax.random.key(seed + 1),
        method="randomized",
        num_oversamples=min(cell.rank + 32, min(cell.rows, cell.columns) // 3),
    )
    return problem, np.asarray(result.singular_values, np.float64)


def bind(door: Any, problem: Any) -> Any:
    return lambda rank, **settings: door(problem, rank, **settings)


def values_of(triples: Triples) -> np.ndarray:
    return np.asarray(triples.values, np.float64)


def context(cell: Cell, seed: int) -> Any:
    if cell.storage == "sparse":
        sizes = argparse.Namespace(
            rows=cell.rows,
            columns=cell.columns,
            nonzeros=20 * cell.rows,
            topics=20,
            seed=seed,
        )
        return cx.contexts.joint(make_table(sizes, 1))
    points = clustered_points(cell.rows, 20, seed)
    if cell.storage == "knn":
        return cx.contexts.knn(points, num_neighbors=min(NEIGHBORS, cell.rows // 3))
    return cx.contexts.rbf(points, 0.02)


if __name__ == "__main__":
    main()
