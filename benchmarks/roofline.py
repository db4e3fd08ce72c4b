"""What this machine can do at most, by NumPy, PyTorch and JAX: the limits of the rest.

Square matrix products, tall ones in both orientations and at several widths, reading
and adding of arrays that no cache holds, gathering of rows, exponentials of an array
that one does hold. Rates are of the median round.

    python benchmarks/roofline.py --json FILE
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from _common import Report, make_parser, parse
from _measure import Contestant, measure
from _peers import optional_torch

Operation = Callable[..., Any]
SMOKE = {
    "side": 64,
    "rows": 80,
    "columns": 40,
    "widths": [8],
    "megabytes": 1,
    "points": 200,
}
EXPONENTIALS = 2**20  # 4 MB
GATHERED = 64  # columns


def main() -> None:
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument("--side", type=int, default=3072, help="of square matrices")
    parser.add_argument("--rows", type=int, default=8000, help="of the tall product")
    parser.add_argument("--columns", type=int, default=4000)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 74, 128])
    parser.add_argument(
        "--megabytes", type=int, default=256, help="of an array to read"
    )
    parser.add_argument(
        "--points", type=int, default=100_000, help="rows to gather from"
    )
    args = parse(parser, SMOKE)
    report = Report("roofline", args)
    for title, contestants in cases(args):
        report.add_case(title, measure(contestants, rounds=args.rounds))
    report.write()


def cases(args: argparse.Namespace) -> Iterator[tuple[str, list[Contestant]]]:
    """One workload after the other, so that only its arrays are held."""
    rng = np.random.default_rng(args.seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    side, n, m = args.side, args.rows, args.columns
    product: Operation = lambda a, b: a @ b  # noqa: E731 - shared by libraries
    adjoint: Operation = lambda a, b: a.T @ b  # noqa: E731 - likewise
    square = normal(side, side)
    title = f"square product, {side}³"
    yield title, everyone(product, (square, square), 2.0 * side**3)
    a = normal(n, m)
    transposed = np.ascontiguousarray(a.T)
    for width in args.widths:
        work = 2.0 * n * m * width
        right, left = normal(m, width), normal(n, width)
        size = f"{n} × {m} × {width}"
        yield f"A q, {size}", everyone(product, (a, right), work)
        yield f"Aᵀ z, {size}", everyone(adjoint, (a, left), work)
        yield f"(stored Aᵀ) z, {size}", everyone(product, (transposed, left), work)
    del a, transposed, square
    count = args.megabytes * 2**20 // 4
    x, y = normal(count), normal(count)
    title = f"read {args.megabytes} MiB"
    yield title, everyone(lambda x: x.sum(), (x,), 4.0 * count, "B/s")
    title = f"add two arrays of {args.megabytes} MiB (2 reads, 1 write)"
    yield title, everyone(lambda x, y: x + y, (x, y), 12.0 * count, "B/s")
    block = normal(args.points, GATHERED)
    rows = rng.integers(0, args.points, 4 * args.points).astype(np.int32)
    title = f"gather {len(rows)} rows of {GATHERED} from {args.points}"
    work = 4.0 * GATHERED * len(rows)
    yield title, everyone(lambda x, i: x[i], (block, rows), work, "B/s")
    small = -np.abs(normal(min(EXPONENTIALS, count)))
    title = f"exponentials of {small.size} numbers"
    yield title, everyone("exp", (small,), float(small.size), "exp/s")


def everyone(
    operation: Operation | str,
    arrays: tuple[np.ndarray, ...],
    work: float,
    unit: str = "FLOP/s",
) -> list[Contestant]:
    """The same operation by each library: in a common spelling, or by its name."""

    def of(library: Any) -> Operation:
        if isinstance(operation, str):
            return getattr(library, operation)
        return operation

    by_numpy, by_jax, on_device = of(np), jax.jit(of(jnp)), jax.device_put(arrays)
    contestants = [
        Contestant("numpy", lambda _: by_numpy(*arrays), work=work, unit=unit),
        Contestant("jax", lambda _: by_jax(*on_device), "ours", work=work, unit=unit),
    ]
    torch = optional_torch()
    if torch is not None:
        by_torch, tensors = of(torch), [torch.from_numpy(array) for array in arrays]
        contestants.append(
            Contestant("torch", lambda _: by_torch(*tensors), work=work, unit=unit)
        )
    return contestants


if __name__ == "__main__":
    main()
