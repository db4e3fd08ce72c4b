"""The k-NN operator and its adjoint on a block of 64 columns, beside its peers.

T averages over each point's K nearest neighbours; T* goes through the transpose. The
peers hold the same two matrices as CSR, or the neighbour lists themselves. Errors are
relative to the largest entry, against SciPy in float64. Work space is the peak above
the start of a call less the result, and what the compiler reports.

    python benchmarks/neighbor_operator.py --json FILE
"""

import argparse
from typing import Any

import numpy as np
import scipy.sparse

import contexture_jax as cx
from _common import Report, make_parser, parse
from _data import conditional
from _measure import (
    Contestant,
    compiled_bytes,
    fastest_as_accurate,
    measure,
    ratio,
    row_named,
)
from _ours import matmat, product, rmatmat
from _peers import optional_torch, torch_csr_product
from contexture_jax.benchmarking import clustered_points, make_entry_judge

OURS = "contexture_jax"
SCIPY_CSR, SCIPY_CSC = "scipy CSR", "scipy CSC"
TORCH_CSR = "torch CSR"
BAG = "torch embedding_bag"
BAG_INT32 = f"{BAG}, int32"
BAG_WEIGHTED = f"{BAG}, weighted"
WORK_SPACE_MEGABYTES = 60
SMOKE = {"rows": 400, "neighbors": 5, "columns": 4}


def main() -> None:
    parser = make_parser(__doc__, rounds=9)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument("--columns", type=int, default=64, help="of the block")
    args = parse(parser, SMOKE)
    report = Report("neighbor_operator", args)
    points = clustered_points(args.rows, args.features, args.seed)
    context = cx.contexts.knn(points, args.neighbors)
    operator = cx.association_operator(context)
    rng = np.random.default_rng(args.seed)
    block = rng.standard_normal((args.rows, args.columns), np.float32)
    indices = np.asarray(context.indices)
    for direction in ("forward", "adjoint"):
        run_case(report, args, operator, indices, block, direction)
    report.write()


def run_case(
    report: Report,
    args: argparse.Namespace,
    operator: cx.AssociationOperator,
    indices: np.ndarray,
    block: np.ndarray,
    direction: str,
) -> None:
    """One direction: everyone multiplies the same block."""
    matrix = as_matrix(indices, direction)
    function = matmat if direction == "forward" else rmatmat
    contestants = [
        product(OURS, function, operator, block, 2.0 * matrix.nnz * args.columns),
        *scipy_products(matrix, block),
        *torch_csr_product(TORCH_CSR, matrix, block),
        *(
            embedding_bag(indices, block)
            if direction == "forward"
            else weighted_bag(matrix, block)
        ),
    ]
    rows = measure(
        contestants,
        rounds=args.rounds,
        judge=make_entry_judge(matrix @ block.astype(np.float64)),
    )
    space = compiled_bytes(function, operator, block)
    report.add_case(
        f"{direction}, n = {args.rows}, K = {args.neighbors}, {args.columns} columns",
        rows,
        compiled=space,
        largest_in_degree=int(np.bincount(indices.reshape(-1)).max()),
    )
    peers = {
        "forward": ((BAG, 1.1), (BAG_INT32, 1.1), (SCIPY_CSR, 0.35)),
        "adjoint": ((TORCH_CSR, 1.1), (BAG_WEIGHTED, 1.1), (SCIPY_CSR, 0.35)),
    }
    for peer, at_most in peers[direction]:
        name = fastest_as_accurate(rows, peer)
        measured = None if name is None else ratio(rows, name, peer)
        report.add_goal(f"k-NN {direction}: time / {peer}", measured, at_most)
    add_memory_goals(report, rows, space, direction)


def add_memory_goals(
    report: Report, rows: list[dict[str, Any]], space: dict[str, int], direction: str
) -> None:
    row = row_named(rows, OURS)
    if row is not None and row["peak_megabytes"] is not None:
        beyond = row["peak_megabytes"] - row["output_megabytes"]
        what = f"k-NN {direction}: MB beyond inputs and output"
        report.add_goal(f"{what}, resident", beyond, WORK_SPACE_MEGABYTES)
        compiled = space["temporary_bytes"] / 1e6
        report.add_goal(f"{what}, compiled", compiled, WORK_SPACE_MEGABYTES)


def as_matrix(indices: np.ndarray, direction: str) -> scipy.sparse.csr_array:
    """T or T* in float64."""
    n, k = indices.shape
    starts = np.arange(0, n * k + 1, k)
    shares = np.full(n * k, 1.0 / k)
    matrix = scipy.sparse.csr_array((shares, indices.reshape(-1), starts), (n, n))
    if direction == "forward":
        return matrix
    return conditional(matrix.T)


def scipy_products(matrix: Any, block: np.ndarray) -> list[Contestant]:
    csr = matrix.astype(np.float32)
    csr.sort_indices()
    csc = csr.tocsc()
    return [
        Contestant(SCIPY_CSR, lambda _: csr @ block, settings="one thread by design"),
        Contestant(SCIPY_CSC, lambda _: csc @ block, settings="one thread by design"),
    ]


def embedding_bag(indices: np.ndarray, block: np.ndarray) -> list[Contestant]:
    """PyTorch's own average over lists of rows, with both widths of index."""
    torch = optional_torch()
    if torch is None:
        return []
    bag = torch.nn.functional.embedding_bag
    table = torch.from_numpy(block)

    def contestant(name: str, dtype: Any) -> Contestant:
        lists = torch.from_numpy(indices.astype(dtype))
        settings = f"{np.dtype(dtype)} indices"
        return Contestant(
            name, lambda _: bag(lists, table, mode="mean"), settings=settings
        )

    return [contestant(BAG, np.int64), contestant(BAG_INT32, np.int32)]


def weighted_bag(matrix: scipy.sparse.csr_array, block: np.ndarray) -> list[Contestant]:
    """PyTorch's weighted sum over lists of rows of any lengths."""
    torch = optional_torch()
    if torch is None:
        return []
    lists, ends = (
        torch.from_numpy(a.astype(np.int32)) for a in (matrix.indices, matrix.indptr)
    )
    weights = torch.from_numpy(matrix.data.astype(np.float32))
    table = torch.from_numpy(block)

    def run(_: int) -> Any:
        return torch.nn.functional.embedding_bag(
            lists,
            table,
            ends,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    return [Contestant(BAG_WEIGHTED, run, settings="int32 indices")]


if __name__ == "__main__":
    main()
