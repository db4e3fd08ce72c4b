"""Labels on a k-NN graph: kernel regression and propagation, from points to classes.

Ten classes that are linear in the points, a few labels, errors on all other points.
Every contestant begins with the points: the graph is a part of its work.

    python benchmarks/stkr.py --json FILE
"""

import argparse
import resource
from typing import Any

import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, optional, parse
from _measure import Contestant, measure, row_named
from contexture_jax.benchmarking import clustered_points

INVERSE, POLYNOMIAL = "stkr, inverse Laplacian", "stkr, eighth power"
ZHOU, SPREADING = "label_propagation, Zhou", "scikit-learn LabelSpreading, knn"
NUM_CLASSES = 10
SECONDS, MEGABYTES = 60, 1500
SMOKE = {"rows": 300, "neighbors": 6, "labelled": 0.2}


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument("--labelled", type=float, default=0.01, help="share of rows")
    parser.add_argument("--ridge", type=float, default=1e-3)
    args = parse(parser, SMOKE)
    report = Report("stkr", args)
    points = clustered_points(args.rows, args.features, args.seed)
    rng = np.random.default_rng(args.seed)
    scores = points @ rng.standard_normal((args.features, NUM_CLASSES), np.float32)
    truth = scores.argmax(axis=1)
    labelled = rng.permutation(args.rows)[: int(args.labelled * args.rows)]
    rows = measure(
        contestants(args, points, truth, labelled),
        rounds=args.rounds,
        judge=lambda told: judged(told, truth, labelled),
    )
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    report.add_case(
        f"n = {args.rows}, K = {args.neighbors}, {len(labelled)} labels",
        rows,
        peak_of_the_process_megabytes=high,
        share_of_the_largest_class=float(np.bincount(truth).max() / args.rows),
    )
    for name in (INVERSE, POLYNOMIAL, ZHOU):
        row = row_named(rows, name)
        if row is not None:
            first = row["first_call_seconds"]
            report.add_goal(f"{name}: seconds of a first call", first, SECONDS)
            report.add_goal(f"{name}: peak MB", row["peak_megabytes"], MEGABYTES)
    report.write()


def contestants(
    args: argparse.Namespace, points: Any, truth: Any, labelled: Any
) -> list[Contestant]:
    labels = truth[labelled]

    def operator() -> cx.AssociationOperator:
        return cx.association_operator(cx.contexts.knn(points, args.neighbors))

    def regression(transform: cx.prediction.SpectralTransform) -> Any:
        return cx.prediction.stkr(
            operator(), labels, labelled, transform=transform, ridge=args.ridge
        )

    forms = {
        INVERSE: cx.prediction.inverse_laplacian(0.99),
        POLYNOMIAL: cx.prediction.polynomial([0.0] * 7 + [1.0]),
    }
    ours = [
        Contestant(
            name,
            lambda _, transform=transform: regression(transform),
            "ours",
            f"ridge {args.ridge:g}",
            answer=told,
        )
        for name, transform in forms.items()
    ]
    zhou = Contestant(
        ZHOU,
        lambda _: cx.prediction.label_propagation(operator(), labels, labelled),
        "ours",
        "α = 0.99",
        answer=told,
    )
    return [*ours, zhou, *spreading(args, points, truth, labelled)]


def told(fit: Any) -> tuple[np.ndarray, int, float]:
    """What a fit of ours predicts, after how many iterations, and what is left."""
    steps, left = int(fit.num_iterations), float(np.max(fit.residuals))
    return np.asarray(fit.predict()), steps, left


def spreading(
    args: argparse.Namespace, points: Any, truth: Any, labelled: Any
) -> list[Contestant]:
    semi = optional("sklearn.semi_supervised")
    if semi is None:
        return []
    given = np.full(len(truth), -1)
    given[labelled] = truth[labelled]

    def run(_: int) -> Any:
        # Its `alpha` is Zhou's; 30 steps by default do not reach his fixed point.
        model = semi.LabelSpreading(
            kernel="knn", n_neighbors=args.neighbors, alpha=0.99, max_iter=300
        )
        model.fit(points, given)
        return model.transduction_, model.n_iter_

    return [
        Contestant(SPREADING, run, settings="α = 0.99", answer=lambda x: (*x, None))
    ]


def judged(answer: Any, truth: Any, labelled: Any) -> dict[str, float]:
    classes, steps, left = answer
    unseen = np.ones(len(truth), bool)
    unseen[labelled] = False
    error = float(np.mean(classes[unseen] != truth[unseen]))
    found = {"error": error, "iterations": float(steps)}
    return found if left is None else {**found, "residual": left}


if __name__ == "__main__":
    main()
