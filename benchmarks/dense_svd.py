"""Rank-64 SVD of a dense matrix whose exact answer is known, beside its peers.

The matrix is U diag(s) Vᵀ with random orthogonal U and V (cosine transforms and random
signs, made in float64) and a spectrum that decays fast, 0.95^i, or slowly, i^-1/2.
Errors are medians over rounds, each with a random seed of its own. The limit is what
the passes of our solver take as bare matrix products of the same width and number, by
the spelling that the solver uses: on CPU it stores a transpose for long runs only.

    python benchmarks/dense_svd.py --json benchmarks/results/dense_svd.json
"""

from typing import Any

import jax
import numpy as np
import scipy.fft

import contexture_jax as cx
from _common import Report, cores, make_parser, parse
from _measure import Contestant, fastest_as_accurate, measure, ratio
from _ours import read_setting
from _peers import optional_torch, scipy_svds, sklearn_randomized_svd
from contexture_jax.benchmarking import Triples, make_judge

SPECTRA = {
    "decaying": lambda i: 0.95**i,
    "slow": lambda i: (i + 1.0) ** -0.5,
}
OURS = (
    "num_power_iterations=4,num_oversamples=10",
    "method=krylov,block_size=32,max_passes=4",
    "method=krylov,block_size=36,max_passes=5",
    "method=krylov,block_size=48,max_passes=4",
)
SPELLINGS = ("Aᵀ z", "Aᵀ stored")
MOST_WITHOUT_TRANSPOSE = 7.0  # passes, with the half ones at both ends
TORCH = "torch.svd_lowrank"
SKLEARN = "sklearn randomized_svd"
SKLEARN_AUTO = f"{SKLEARN}, n_iter auto"
PROPACK = "scipy svds, PROPACK"
PROPACK_TOL = 1e-4
SMOKE = {
    "rows": 160,
    "columns": 80,
    "rank": 4,
    "spectrum": ["decaying"],
    "ours": OURS[:1],
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--columns", type=int, default=4000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument(
        "--spectrum", choices=SPECTRA, action="append", help="default: both"
    )
    parser.add_argument(
        "--ours",
        action="append",
        metavar="SETTING",
        help=f"arguments of truncated_svd, as in {OURS[0]}; may be given again",
    )
    args = parse(parser, SMOKE)
    report = Report("dense_svd", args)
    for spectrum in args.spectrum or SPECTRA:
        a, truth = make_problem(args, SPECTRA[spectrum])
        passes: dict[str, float] = {}
        contestants = [
            *ours(a, args.rank, args.ours or OURS, passes),
            *sklearn_randomized_svd(SKLEARN, a, args.rank, 4),
            *sklearn_randomized_svd(SKLEARN_AUTO, a, args.rank, "auto"),
            *torch_svd(a, args.rank),
            propack(a, args.rank),
        ]
        rows = measure(contestants, rounds=args.rounds, judge=make_judge(truth))
        title = f"{args.rows} × {args.columns}, rank {args.rank}, {spectrum}"
        report.add_case(title, rows, passes=passes)
        add_goals(report, rows, spectrum, passes)
    report.write()


def make_problem(args: Any, law: Any) -> tuple[np.ndarray, Triples]:
    """A float32 matrix and its leading triples in float64."""
    rng = np.random.default_rng(args.seed)
    n, m = args.rows, args.columns
    values = law(np.arange(m, dtype=np.float64))
    left, right = (rng.choice([-1.0, 1.0], size=(3, k)) for k in (n, m))
    # U diag(s) Vᵀ: V applied to the rows of the diagonal, U to the columns.
    a = rotate(np.concatenate([np.diag(values), np.zeros((n - m, m))]), left)
    a = rotate(a.T, right).T
    units = (np.eye(k, args.rank) for k in (n, m))
    u, v = (rotate(e, s) for e, s in zip(units, (left, right), strict=True))
    return a.astype(np.float32, order="C"), Triples(values[: args.rank], u, v)


def rotate(block: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """A random orthogonal matrix times a block, in n log n operations a column."""
    for sign in signs:
        block = np.asarray(
            scipy.fft.dct(sign[:, None] * block, axis=0, norm="ortho", workers=cores())
        )
    return block


def ours(
    a: np.ndarray, rank: int, settings: Any, passes: dict[str, float]
) -> list[Contestant]:
    """Our solver in each of its settings, and its passes as bare products.

    Args:
        a: the matrix.
        rank: number of triples.
        settings: each as text.
        passes: filled with the number of passes that each setting made.
    """
    matrix = jax.device_put(a)
    # A copy: the limit takes the faster spelling.
    transposed = jax.device_put(np.ascontiguousarray(a.T))

    def solver(text: str) -> Contestant:
        setting = read_setting(text)

        def run(number: int) -> Any:
            result, info = cx.solvers.truncated_svd(
                matrix, rank, key=jax.random.key(number), **setting
            )
            passes[text] = float(info.num_passes)
            return result

        return Contestant(
            f"contexture_jax ({text})",
            run,
            "ours",
            answer=lambda found: Triples(
                found.singular_values, found.left, found.right
            ),
        )

    def bare(text: str, spelling: str) -> Contestant:
        setting = read_setting(text)
        width = setting.get("block_size", rank + setting.get("num_oversamples", 10))
        start = jax.random.normal(jax.random.key(0), (a.shape[0], width), a.dtype)
        backward = adjoint if spelling == SPELLINGS[0] else product
        operand = matrix if spelling == SPELLINGS[0] else transposed

        def run(number: int) -> Any:
            del number
            block = start
            # A pass is two products; the solver has run before.
            for step in range(round(2 * passes[text])):
                block = product(matrix, block) if step % 2 else backward(operand, block)
            return block

        return Contestant(
            f"bare products, {spelling} ({text})", run, "limit", f"width {width}"
        )

    return [
        contestant
        for text in settings
        for contestant in (solver(text), *(bare(text, s) for s in SPELLINGS))
    ]


@jax.jit
def product(matrix: Any, block: Any) -> Any:
    return matrix @ block


@jax.jit
def adjoint(matrix: Any, block: Any) -> Any:
    return matrix.T @ block


def torch_svd(a: np.ndarray, rank: int) -> list[Contestant]:
    """svd_lowrank with 4 iterations and 10 further columns."""
    torch = optional_torch()
    if torch is None:
        return []
    tensor = torch.from_numpy(a)

    def run(number: int) -> Any:
        torch.manual_seed(number)
        return torch.svd_lowrank(tensor, q=rank + 10, niter=4)

    return [
        Contestant(
            TORCH,
            run,
            "peer",
            f"q={rank + 10}, niter=4",
            answer=lambda t: Triples(t[1][:rank], t[0][:, :rank], t[2][:, :rank]),
        )
    ]


def propack(a: np.ndarray, rank: int) -> Contestant:
    """SciPy's Lanczos bidiagonalisation, to a tolerance that is tight for float32."""

    def run(number: int) -> Triples:
        return scipy_svds(
            a, rank, number, solver="propack", tol=PROPACK_TOL, maxiter=10 * rank
        )

    return Contestant(PROPACK, run, settings=f"tol={PROPACK_TOL}")


def add_goals(
    report: Report,
    rows: list[dict[str, Any]],
    spectrum: str,
    passes: dict[str, float],
) -> None:
    for peer, at_most in ((TORCH, 0.65), (SKLEARN, 0.40)):
        name = fastest_as_accurate(rows, peer)
        measured = None if name is None else ratio(rows, name, peer)
        report.add_goal(f"dense, {spectrum}: time / {peer}", measured, at_most, name)
    for row in rows:
        if row["kind"] == "ours":
            text = row["name"].removeprefix("contexture_jax (").removesuffix(")")
            spelling = SPELLINGS[passes[text] > MOST_WITHOUT_TRANSPOSE]
            report.add_goal(
                f"dense, {spectrum}: time / its passes as bare products, {spelling}",
                ratio(rows, row["name"], f"bare products, {spelling} ({text})"),
                1.15,
                row["name"],
            )


if __name__ == "__main__":
    main()
