"""Which criterion without labels orders contexts of which everything is known?

Contexts of the zoo: three standard normal columns, or nine fair bits, each of which A
shows with a correlation ρ_j of its own. Singular functions are products of Hermite
polynomials, or parities of bits, and singular values the products of their ρ_j. So of a
target Σ u_i μ_i and labels with noise the error of least squares on the first d
functions is known but for terms of higher order in 1 / n (theory.md §3.9):

    Σ_{i>d} u_i² + σ² (d + 1) / n,   Σ u_i² = σ² = 1,   n labels;

of equal singular values functions are taken to share their energy alike.

The contexts: ρ_j = exp(−w_j t), t from 1/200 to 5 evenly in its logarithm, with weights
w that treat all columns alike, or show the first one best, or the last one; the targets
are of the first columns. Errors and criteria are those of `rank_contexts.py`: at the d
of τ, and at the best d. What the errors on the columns are is known, too: a column is
told once its own function is among the first d. The leverage of Hermite polynomials is
infinite, and what halves of rows agree in is not asked: their criteria abstain.

    python benchmarks/criteria_zoo.py --json FILE
"""

import argparse
import functools
import itertools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse, untimed
from _criteria import CRITERIA, Seen, halves, held_against

MOST_DEGREE = 40  # of a Hermite polynomial
NUM_NORMALS, NUM_BITS = 3, 9
SCALES = 1 / 200, 5.0
SMOKE = {"settings": 4, "max_dim": 16}
Index = tuple[int, ...]  # degrees of the columns


class Family(NamedTuple):
    """Contexts with the same functions.

    Attributes:
        columns: how many.
        indices: the degrees of each function, shape (N, columns).
        context: from correlations to a context of the zoo.
        leverage: sup_x of a squared function.
        complete: whether there are no more functions.
        targets: energies of each target by the degrees of functions.
    """

    columns: int
    indices: np.ndarray
    context: Callable[[np.ndarray], cx.zoo.AnalyticContext]
    leverage: float
    complete: bool
    targets: dict[str, dict[Index, float]]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--settings", type=int, default=35, help="of each type")
    parser.add_argument("--max-dim", type=int, default=512, help="d0")
    parser.add_argument("--labels", type=int, default=1000, help="n")
    args = parse(parser, SMOKE)
    report = Report("criteria_zoo", args)
    families = {"normals": normals(), "bits": bits()}
    titles = [
        f"{name}: {target}"
        for name, family in families.items()
        for target in family[-1]
    ]
    report.content["halves"] = halves(titles)
    for name, family in families.items():
        started = time.process_time()
        known = [solved(family, rho, args) for rho in correlations(family, args)]
        seconds = time.process_time() - started
        scores: dict[str, list[float]] = {
            word: [score(one.seen) for one in known] for word, score in CRITERIA.items()
        }
        for target, energies in family.targets.items():
            errors = [error_of(one, family, energies, args.labels) for one in known]
            told = zip(
                ("error", "validated_error"), zip(*errors, strict=True), strict=True
            )
            criteria = {word: held_against(scores, e) for word, e in told}
            row = untimed(f"{len(known)} contexts", {}, seconds=seconds)
            report.add_case(f"{name}: {target}", [row], criteria=criteria)
    report.write()


def normals() -> Family:
    """Products of standard normal pairs: orthonormal Hermite polynomials."""
    degrees = range(MOST_DEGREE + 1)
    every = np.array([*itertools.product(degrees, repeat=NUM_NORMALS)][1:])
    # sign(x) = Σ c_k h_k over odd k, c_k² = (2 / π) ((k − 2)!!)² / k!.
    signs, factor = {}, 2 / math.pi
    for k in range(1, MOST_DEGREE, 2):
        signs[k, 0, 0] = factor
        factor *= k**2 / ((k + 1) * (k + 2))
    targets = {
        "x₁": {(1, 0, 0): 1.0},
        "x₁²": {(2, 0, 0): 1.0},
        "x₁ x₂": {(1, 1, 0): 1.0},
        "sign of x₁": signs,
    }

    def context(rho: np.ndarray) -> cx.zoo.AnalyticContext:
        return cx.zoo.tensor_product([cx.zoo.gaussian(r) for r in rho.tolist()])

    return Family(NUM_NORMALS, every, context, math.inf, False, targets)


def bits() -> Family:
    """Products of bits that are flipped at times: parities of sets of bits."""
    every = np.array([*itertools.product((0, 1), repeat=NUM_BITS)])
    spins = 1 - 2 * every
    majority = np.sign(spins.sum(axis=1))
    # (sets,): the mean of the target times each parity.
    shares = np.array(
        [(majority * spins[:, s == 1].prod(axis=1)).mean() for s in every]
    )
    one, two = (tuple(np.eye(NUM_BITS, dtype=int)[j].tolist()) for j in (0, 1))
    both = tuple(np.add(one, two).tolist())
    targets = {
        "bit 1": {one: 1.0},
        "bits 1 and 2 differ": {both: 1.0},
        "bits 1 and 2 are set": dict.fromkeys((one, two, both), 1 / 3),
        "majority": {
            tuple(index.tolist()): float(share**2)
            for index, share in zip(every, shares, strict=True)
            if share
        },
    }

    def context(rho: np.ndarray) -> cx.zoo.AnalyticContext:
        flips = ((1 - rho) / 2).tolist()
        return cx.zoo.tensor_product([cx.zoo.binary_symmetric(1, p) for p in flips])

    return Family(NUM_BITS, every[1:], context, 1.0, True, targets)


def correlations(family: Family, args: argparse.Namespace) -> list[np.ndarray]:
    """ρ of each column, of all contexts."""
    even = np.linspace(0.5, 1.5, family.columns)
    weights = (np.ones(family.columns), even, even[::-1])
    return [
        np.exp(-w * t) for w in weights for t in np.geomspace(*SCALES, args.settings)
    ]


class Known(NamedTuple):
    """A context: what criteria see, and energies of all functions in its order."""

    seen: Seen
    in_order: Callable[[np.ndarray], np.ndarray]


def in_order(
    energies: np.ndarray, *, order: np.ndarray, clusters: np.ndarray
) -> np.ndarray:
    """Energies of all functions as those of the leading ones, shape (r,).

    Of equal values any rotation is as good, which shares their energy alike.

    Args:
        energies: shape (N,).
        order: the numbers of the leading functions, shape (r,).
        clusters: of each function the number of its value, shape (N,).
    """
    means = np.bincount(clusters, energies) / np.bincount(clusters)
    return means[clusters][order]


def solved(family: Family, rho: np.ndarray, args: argparse.Namespace) -> Known:
    """What there is to know of a context."""
    logs = family.indices @ np.log(rho)
    _, clusters = np.unique(np.round(-logs, 9), return_inverse=True)
    order = np.argsort(clusters, kind="stable")[: args.max_dim + 1]
    s = np.exp(logs[order]).astype(np.float32)
    context = family.context(rho)
    np.testing.assert_allclose(s, context.spectrum(len(s)), rtol=1e-4, atol=1e-6)
    complete = family.complete and len(s) == len(logs)
    found = cx.evaluation.usefulness(s, 1.0, args.max_dim, complete=complete)
    shared = functools.partial(in_order, order=order, clusters=clusters)
    is_column = (family.indices.sum(axis=1) == 1) / family.columns
    seen = Seen(
        float(found.tau),
        s,
        complete,
        context.total_energy(),
        args.labels,
        int(found.best_dim),
        1 - np.cumsum(shared(is_column)),
        family.leverage * np.arange(1.0, len(s) + 1),
        np.array([]),
    )
    return Known(seen, shared)


def error_of(
    known: Known, family: Family, energies: dict[Index, float], num_labels: int
) -> tuple[float, float]:
    """At the d of τ, and the least over d."""
    places = {tuple(index): i for i, index in enumerate(family.indices.tolist())}
    every = np.zeros(len(family.indices))
    for index, energy in energies.items():
        every[places[index]] = energy
    found = np.cumsum(known.in_order(every))
    curve = 1 - found + np.arange(2, len(found) + 2) / num_labels
    return float(curve[max(known.seen.best_dim, 1) - 1]), float(curve.min())


if __name__ == "__main__":
    main()
