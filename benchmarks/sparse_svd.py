"""The spectrum of a sparse contingency table with Zipf margins, beside its peers.

A table of counts: rows and columns are drawn by Zipf laws, in topics, until there are
enough different pairs. The problem is correspondence analysis: the leading singular
triples of D_x^-1/2 (P − p_x p_aᵀ) D_a^-1/2. Ours deflates the trivial triple exactly;
the peers factorise the CSR matrix with it, ask for one triple more and drop the first.
The truth is ARPACK's to a tight tolerance in float64.

A second case is one product with a block, a third a table small enough for `prince`,
which makes it dense.

    python benchmarks/sparse_svd.py --json FILE
"""

import argparse
import time
from typing import Any

import jax
import numpy as np
import scipy.sparse

import contexture_jax as cx
from _common import Report, make_parser, optional, parse
from _data import conditional
from _measure import (
    Contestant,
    compiled_bytes,
    fastest_as_accurate,
    measure,
    peak_memory,
    ratio,
    row_named,
)
from _ours import matmat, product, read_setting, rmatmat
from _peers import scipy_svds, sklearn_randomized_svd, torch_csr_product
from contexture_jax.benchmarking import Triples, make_entry_judge, make_judge

OURS = (
    "num_power_iterations=4,num_oversamples=16",
    "method=krylov,block_size=16,max_passes=12",
    "method=krylov,block_size=16,max_passes=14",
    # To the default tolerance, and to one that gives the errors of ARPACK's.
    "method=auto",
    "method=auto,tol=4e-5",
)
SKLEARN = "sklearn randomized_svd on CSR"
ARPACK = "scipy svds, ARPACK"
PRINCE = "prince CA"
TORCH, SCIPY = "torch CSR", "scipy CSR"
COMPILE_SECONDS, PEAK_MEGABYTES = 8.0, 400.0
SMOKE = {
    "rows": 300,
    "columns": 200,
    "nonzeros": 4000,
    "rank": 4,
    "small": 2,
    "widths": [4],
    "topics": 8,
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=100_000)
    parser.add_argument("--nonzeros", type=int, default=5_000_000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument(
        "--topics", type=int, default=0, help="0: rows and columns are independent"
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 74])
    parser.add_argument(
        "--small", type=int, default=40, help="the third case divides sizes by this"
    )
    parser.add_argument("--arpack-tol", type=float, default=1e-3)
    parser.add_argument(
        "--cases", nargs="+", default=["spectrum", "product", "small"], help="which"
    )
    parser.add_argument(
        "--ours",
        action="append",
        metavar="SETTING",
        help=f"arguments of cx.svd, as in {OURS[0]}; may be given again",
    )
    args = parse(parser, SMOKE)
    report = Report("sparse_svd", args)
    table = make_table(args, 1)
    operator, facts = build(table)
    if "spectrum" in args.cases:
        run_spectrum(report, args, table, operator, facts)
    if "product" in args.cases:
        for direction in ("forward", "adjoint"):
            for width in args.widths:
                run_product(report, args, table, operator, direction, width)
    if "small" in args.cases:
        run_small(report, args)
    report.write()


def make_table(args: argparse.Namespace, divisor: int) -> scipy.sparse.csr_array:
    """Counts of pairs, with Zipf margins in every topic."""
    n, m = args.rows // divisor, args.columns // divisor
    wanted = args.nonzeros // divisor
    rng = np.random.default_rng(args.seed)
    num_topics = max(1, args.topics)
    # A topic has its own order of popularity; one topic has the natural one.
    orders = [
        tuple(rng.permutation(k) if args.topics else np.arange(k) for k in (n, m))
        for _ in range(num_topics)
    ]
    table = scipy.sparse.csr_array((n, m), dtype=np.float32)
    while table.nnz < wanted:
        draws = max(wanted // num_topics, 1000)
        for row_order, column_order in orders:
            rows = row_order[draw_zipf(rng, n, draws)]
            columns = column_order[draw_zipf(rng, m, draws)]
            ones = np.ones(draws, np.float32)
            table = table + scipy.sparse.csr_array((ones, (rows, columns)), (n, m))
    entries = table.tocoo()
    kept = np.sort(rng.permutation(table.nnz)[:wanted])
    data, where = entries.data[kept], (entries.row[kept], entries.col[kept])
    return scipy.sparse.csr_array((data, where), (n, m))


def draw_zipf(rng: np.random.Generator, size: int, draws: int) -> np.ndarray:
    """Numbers below `size`, i with a probability in proportion to 1 / (i + 1)."""
    law = np.cumsum(1.0 / np.arange(1, size + 1))
    return np.searchsorted(law, rng.random(draws) * law[-1]).clip(max=size - 1)


def build(table: Any) -> tuple[cx.AssociationOperator, dict[str, Any]]:
    """Our operator, with what laying it out took."""
    start = time.perf_counter()
    peak, operator = peak_memory(
        lambda: cx.association_operator(cx.contexts.joint(table))
    )
    seconds = time.perf_counter() - start
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(operator)) / 1e6
    return operator, {
        "build_seconds": seconds,
        "build_peak_megabytes": peak,
        "operator_megabytes": size,
    }


def normalised(table: Any) -> tuple[scipy.sparse.csr_array, np.ndarray, np.ndarray]:
    """D_x^-1/2 P D_a^-1/2 in float64, √p_x and √p_a."""
    joint = table.astype(np.float64) / table.sum(dtype=np.float64)
    roots = [np.sqrt(joint.sum(axis=axis)) for axis in (1, 0)]
    scales = [
        scipy.sparse.diags_array(np.divide(1.0, r, out=np.zeros_like(r), where=r > 0))
        for r in roots
    ]
    return scipy.sparse.csr_array(scales[0] @ joint @ scales[1]), roots[0], roots[1]


def run_spectrum(
    report: Report,
    args: argparse.Namespace,
    table: Any,
    operator: cx.AssociationOperator,
    facts: dict[str, Any],
) -> None:
    matrix, root_x, root_a = normalised(table)
    truth = exact_triples(matrix, args.rank)
    small = matrix.astype(np.float32)
    contestants = [
        *ours(operator, args.rank, args.ours or OURS, root_x, root_a),
        *sklearn_randomized_svd(SKLEARN, small, args.rank + 1, 4, drop_first),
        arpack(small, args.rank, args.arpack_tol),
    ]
    rows = measure(contestants, rounds=args.rounds, judge=make_judge(truth))
    title = f"{args.rows} × {args.columns}, {table.nnz} non-zeros, rank {args.rank}"
    report.add_case(
        f"spectrum, {title}", rows, exact_values=list(truth.values), **facts
    )
    # Fixed passes beside fixed passes, and a tolerance beside a tolerance.
    for peer in (SKLEARN, ARPACK):
        name = fastest_as_accurate(rows, peer)
        measured = None if name is None else ratio(rows, name, peer)
        report.add_goal(f"sparse: time / {peer}", measured, 0.40, name)
    for row in rows:
        if row["kind"] == "ours":
            seconds, megabytes = row["compile_seconds"], row["peak_megabytes"]
            name = row["name"]
            report.add_goal("sparse: compile seconds", seconds, COMPILE_SECONDS, name)
            report.add_goal("sparse: peak MB", megabytes, PEAK_MEGABYTES, name)


def exact_triples(matrix: Any, rank: int) -> Triples:
    """ARPACK in float64, to a relative residual of 1e-9; the trivial triple dropped."""
    depth = min(4 * rank, min(matrix.shape) - 1)
    return drop_first(scipy_svds(matrix, rank + 1, 0, ncv=depth, tol=1e-9))


def drop_first(found: Triples) -> Triples:
    """Without the trivial triple."""
    return Triples(found.values[1:], found.left[:, 1:], found.right[:, 1:])


def ours(
    operator: Any, rank: int, settings: Any, root_x: np.ndarray, root_a: np.ndarray
) -> list[Contestant]:
    def euclidean(found: Any) -> Triples:
        result, _ = found
        left = root_x[:, None] * np.asarray(result.left, np.float64)
        right = root_a[:, None] * np.asarray(result.right, np.float64)
        return Triples(result.singular_values, left, right)

    def contestant(text: str) -> Contestant:
        setting = read_setting(text)
        return Contestant(
            f"contexture_jax ({text})",
            lambda number: cx.svd(
                operator, rank, key=jax.random.key(number), **setting
            ),
            "ours",
            text,
            answer=euclidean,
        )

    return [contestant(text) for text in settings]


def arpack(matrix: Any, rank: int, tol: float) -> Contestant:
    return Contestant(
        ARPACK,
        lambda number: scipy_svds(matrix, rank + 1, number, tol=tol),
        settings=f"tol={tol}",
        answer=drop_first,
    )


def run_product(
    report: Report,
    args: argparse.Namespace,
    table: Any,
    operator: cx.AssociationOperator,
    direction: str,
    width: int,
) -> None:
    """T or T* times one block, the same matrix for all."""
    matrix = conditional(table if direction == "forward" else table.T)
    rng = np.random.default_rng(args.seed)
    block = rng.standard_normal((matrix.shape[1], width), np.float32)
    function = matmat if direction == "forward" else rmatmat
    work = 2.0 * matrix.nnz * width
    single = matrix.astype(np.float32)
    contestants = [
        product("contexture_jax", function, operator, block, work),
        Contestant(SCIPY, lambda _: single @ block, work=work),
        *torch_csr_product(TORCH, matrix, block),
    ]
    truth = matrix @ block.astype(np.float64)
    rows = measure(contestants, rounds=args.rounds, judge=make_entry_judge(truth))
    report.add_case(
        f"product, {direction}, {width} columns",
        rows,
        compiled=compiled_bytes(function, operator, block),
    )
    name = fastest_as_accurate(rows, TORCH)
    measured = None if name is None else ratio(rows, name, TORCH)
    report.add_goal(
        f"sparse {direction}, {width} columns: time / {TORCH}", measured, 1.4
    )


def run_small(report: Report, args: argparse.Namespace) -> None:
    """A table that prince survives: it needs all n × m numbers several times."""
    prince, pandas = optional("prince"), optional("pandas")
    if prince is None or pandas is None:
        return
    table = make_table(args, args.small)
    # Rows and columns without a count are divided by in prince.
    table = table[table.sum(axis=1) > 0][:, np.asarray(table.sum(axis=0) > 0)]
    matrix, root_x, root_a = normalised(table)
    truth = exact_triples(matrix, args.rank)
    operator, facts = build(table)
    contestants = ours(operator, args.rank, args.ours or OURS, root_x, root_a)
    if prince is not None and pandas is not None:
        frame = pandas.DataFrame(table.toarray())

        def run(number: int) -> Any:
            analysis = prince.CA(
                n_components=args.rank, n_iter=4, random_state=number
            ).fit(frame)
            return analysis.svd_.U, analysis.svd_.s, analysis.svd_.V

        contestants.append(
            Contestant(
                PRINCE,
                run,
                settings="dense, float64, n_iter=4",
                answer=lambda t: Triples(t[1], t[0], t[2].T),
            )
        )
    rows = measure(contestants, rounds=args.rounds, judge=make_judge(truth))
    n, m = table.shape
    report.add_case(
        f"spectrum, {n} × {m}, {table.nnz} non-zeros, rank {args.rank}", rows, **facts
    )
    dense = 8e-9 * args.rows * args.columns
    row = row_named(rows, PRINCE)
    if row is not None:
        row["settings"] += f"; one copy of the large table would be {dense:.0f} GB"


if __name__ == "__main__":
    main()
