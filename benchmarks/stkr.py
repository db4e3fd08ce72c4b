"""Labels by a graph or a kernel: regression and propagation, from points to classes.

Ten classes that are linear in the points, a few labels, errors on all other points.
Every contestant begins with the points: a k-NN graph is a part of its work.

    python benchmarks/stkr.py --json FILE
    python benchmarks/stkr.py --context rbf --rows 200000 --once --json FILE

The second is kernel regression alone, with a Gaussian context of more points than a
matrix of their distances has room for: nothing of n × n numbers is stored. `--once` is
one call, compiling included. scikit-learn's LabelSpreading has a dense graph there and
takes part up to 20,000 points.
"""

import argparse
import resource
from typing import Any

import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, optional, parse
from _measure import Contestant, measure, measure_once, row_named
from contexture_jax.benchmarking import clustered_points

INVERSE, POLYNOMIAL = "stkr, inverse Laplacian", "stkr, eighth power"
DUAL = "stkr, the dual kernel"
ZHOU, SPREADING = "label_propagation, Zhou", "scikit-learn LabelSpreading"
NUM_CLASSES, MOST_DENSE = 10, 20_000
MOST = {"knn": (60, 1500), "rbf": (30 * 60, 3000)}  # seconds and megabytes
SMOKE = {"rows": 300, "neighbors": 6, "labelled": 0.2}


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--context", choices=tuple(MOST), default="knn")
    parser.add_argument("--neighbors", type=int, default=30, help="of knn")
    parser.add_argument("--gamma", type=float, default=0.05, help="of rbf")
    parser.add_argument("--once", action="store_true", help="one call each, no rounds")
    parser.add_argument("--labelled", type=float, default=0.01, help="share of rows")
    parser.add_argument("--ridge", type=float, default=1e-3)
    args = parse(parser, SMOKE)
    report = Report("stkr", args)
    points = clustered_points(args.rows, args.features, args.seed)
    rng = np.random.default_rng(args.seed)
    scores = points @ rng.standard_normal((args.features, NUM_CLASSES), np.float32)
    truth = scores.argmax(axis=1)
    labelled = rng.permutation(args.rows)[: int(args.labelled * args.rows)]
    found = contestants(args, points, truth, labelled)

    def judge(told: Any) -> dict[str, float]:
        return judged(told, truth, labelled)

    if args.once:
        rows = measure_once(found, judge=judge)
    else:
        rows = measure(found, rounds=args.rounds, judge=judge)
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    kind = f"K = {args.neighbors}" if args.context == "knn" else f"γ = {args.gamma:g}"
    report.add_case(
        f"n = {args.rows}, {kind}, {len(labelled)} labels",
        rows,
        peak_of_the_process_megabytes=high,
        share_of_the_largest_class=float(np.bincount(truth).max() / args.rows),
    )
    seconds, megabytes = MOST[args.context]
    of = "" if args.context == "knn" else f", rbf of {args.rows} points"
    for name in (INVERSE, POLYNOMIAL, DUAL, ZHOU):
        row = row_named(rows, name)
        if row is not None:
            first = row["first_call_seconds"]
            report.add_goal(f"{name}{of}: seconds of a first call", first, seconds)
            report.add_goal(f"{name}{of}: peak MB", row["peak_megabytes"], megabytes)
    report.write()


def contestants(
    args: argparse.Namespace, points: Any, truth: Any, labelled: Any
) -> list[Contestant]:
    labels = truth[labelled]

    def operator() -> cx.AssociationOperator:
        if args.context == "knn":
            context = cx.contexts.knn(points, args.neighbors)
        else:
            context = cx.contexts.rbf(points, args.gamma)
        return cx.association_operator(context)

    def regression(transform: cx.prediction.SpectralTransform) -> Any:
        return cx.prediction.stkr(
            operator(), labels, labelled, transform=transform, ridge=args.ridge
        )

    if args.context == "knn":
        forms = {
            INVERSE: cx.prediction.inverse_laplacian(0.99),
            POLYNOMIAL: cx.prediction.polynomial([0.0] * 7 + [1.0]),
        }
    else:
        # The one whose iterations are of the labelled points alone.
        forms = {DUAL: cx.prediction.polynomial([1.0])}
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
    if args.context == "knn":
        ours.append(zhou)
    return [*ours, *spreading(args, points, truth, labelled)]


def told(fit: Any) -> tuple[np.ndarray, int, float]:
    """What a fit of ours predicts, after how many iterations, and what is left."""
    steps, left = int(fit.num_iterations), float(np.max(fit.residuals))
    return np.asarray(fit.predict()), steps, left


def spreading(
    args: argparse.Namespace, points: Any, truth: Any, labelled: Any
) -> list[Contestant]:
    semi = optional("sklearn.semi_supervised")
    is_dense = args.context == "rbf"
    if semi is None or (is_dense and args.rows > MOST_DENSE):
        return []
    given = np.full(len(truth), -1)
    given[labelled] = truth[labelled]

    def run(_: int) -> Any:
        # Its `alpha` is Zhou's; 30 steps by default do not reach his fixed point.
        model = semi.LabelSpreading(
            kernel=args.context,
            n_neighbors=args.neighbors,
            gamma=args.gamma,
            alpha=0.99,
            max_iter=300,
        )
        model.fit(points, given)
        return model.transduction_, model.n_iter_

    name = f"{SPREADING}, {args.context}"
    return [Contestant(name, run, settings="α = 0.99", answer=lambda x: (*x, None))]


def judged(answer: Any, truth: Any, labelled: Any) -> dict[str, float]:
    classes, steps, left = answer
    unseen = np.ones(len(truth), bool)
    unseen[labelled] = False
    error = float(np.mean(classes[unseen] != truth[unseen]))
    found = {"error": error, "iterations": float(steps)}
    return found if left is None else {**found, "residual": left}


if __name__ == "__main__":
    main()
