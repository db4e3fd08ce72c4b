"""Few labels: what ours make of them, beside scikit-learn's predictors.

optdigits and the 10,000 test images of Fashion-MNIST, 1 % and 10 % of the rows with a
label, the error on all others; pixels as they are, between 0 and 1. Of the labelled
rows of a split a quarter of each class is for validation: it chooses the setting of
every contestant, which is then fitted by all labels. Of equal errors the first counts,
in an order of trials on other splits; that of LabelSpreading's α is ours of Zhou's.

- "ours": half and half of what these two say of the classes, each with the setting that
  validation takes for it alone. To choose between them, or among their pairs, would
  cost more than it gains with so few labels; other splits said so.
  - label propagation, Zhou's and Zhu's, on k-NN contexts;
  - STKR with the kernels of contexts whose joint law is a Gaussian kernel of all rows:
    a single step, s(λ) = √λ.
- scikit-learn's LabelSpreading, on k-NN graphs and on Gaussian weights of the 50
  nearest rows (all n × n of its default take minutes a split here), KernelRidge with a
  Gaussian kernel, and LogisticRegression on pixels.

Scales γ are over the median squared distance to the tenth nearest row, penalties of
ridge regressions over the mean of the kernel's diagonal at the labelled rows.

    python benchmarks/few_labels.py ../data --json benchmarks/results/few_labels.json
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.sparse

import contexture_jax as cx
from _common import Report, make_parser, optional, parse
from _data import read_idx
from contexture_jax import prediction

OURS, PEERS = "ours", ("LabelSpreading", "KernelRidge", "LogisticRegression")
HALVES = ("label propagation", "STKR")
NEIGHBORS, NEAREST = (7, 10), 50
ALPHAS = (0.99, 0.95, 0.8)  # of Zhou's
GAMMAS, RIDGES = (0.3, 0.1), (0.3, 0.1)
TOLERANCE = 1e-3  # of the residuals of STKR
SPREADING_ALPHAS, SPREADING_GAMMAS = (0.99, 0.95, 0.8, 0.2), (1.0, 3.0)
KERNEL_GAMMAS, KERNEL_RIDGES = (0.1, 0.3, 0.03, 1.0), (0.03, 0.1, 0.01, 0.3, 1e-3)
CS = (1.0, 10.0, 0.1)
SMOKE = {
    "data": None,
    "splits": 2,
    "labelled": [0.1],
    "rows": 300,
    "sets": None,
}
Scores = Callable[[np.ndarray], np.ndarray]  # labelled rows -> scores of all, (n, C)


class Setting(NamedTuple):
    """One way to predict, its parameters in words."""

    words: str
    scores: Scores


class Points(NamedTuple):
    """A data set: pixels, classes, squared distances, and the nearest rows of each."""

    x: np.ndarray
    y: np.ndarray
    distances: np.ndarray
    nearest: np.ndarray
    unit: float  # median squared distance to the tenth nearest row


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("data", nargs="?", type=Path, help="folder; else digits")
    parser.add_argument("--sets", nargs="+", help="of these alone")
    parser.add_argument("--labelled", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000, help="of a set, at most")
    args = parse(parser, SMOKE)
    report = Report("few_labels", args)
    for name, (x, y) in sets(args.data).items():
        if args.sets and name not in args.sets:
            continue
        points = measured(x[: args.rows], y[: args.rows])
        families = {**ours(points), **peers(points)}
        for share in args.labelled:
            title = f"{name}, {share:.0%} of {len(points.y)} rows"
            rows = judged(families, points, share, args)
            report.add_case(title, rows)
            for row in rows:
                if row["name"] in PEERS:
                    short = -row["accuracy"]["ours less by"]
                    report.add_goal(f"{title}: error above {row['name']}", short, 0)
    report.write()


def sets(folder: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if folder is None:
        from sklearn.datasets import load_digits

        pixels, classes = load_digits(return_X_y=True)
        return {"digits": (np.asarray(pixels, np.float32) / 16, np.asarray(classes))}
    table = np.loadtxt(folder / "tabular" / "optdigits.csv", delimiter=",", skiprows=1)
    images = folder / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
    classes = folder / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz"
    return {
        "optdigits": (table[:, :-1].astype(np.float32) / 16, table[:, -1].astype(int)),
        "Fashion-MNIST": (
            read_idx(images, 16).reshape(-1, 784).astype(np.float32) / 255,
            read_idx(classes, 8).astype(int),
        ),
    }


def measured(x: np.ndarray, y: np.ndarray) -> Points:
    """Distances and neighbours, once for all contestants."""
    squares = (x**2).sum(axis=1)
    distances = x @ (-2 * x.T)
    distances += squares[:, None] + squares[None, :]
    np.maximum(distances, 0, out=distances)
    nearest = np.asarray(cx.contexts.knn(x, NEAREST).indices)
    unit = np.median(distances[np.arange(len(x)), nearest[:, 10]])
    _, codes = np.unique(y, return_inverse=True)
    return Points(x, codes.astype(np.int32), distances, nearest, float(unit))


def ours(points: Points) -> dict[str, list[Setting]]:
    """Settings of each of our families, over contexts of all rows."""
    walks = {k: neighbor_operator(points, k) for k in NEIGHBORS}
    linear = {
        f"γ = {gamma:g}, β = {beta:g}": regressed(points, op, beta)
        for gamma in GAMMAS
        for op in [gaussian(points, gamma)]
        for beta in RIDGES
    }
    propagations = {
        f"K = {k}, {how}": propagated(points, walk, **arguments)
        for k, walk in walks.items()
        for how, arguments in (
            *((f"α = {a:g}", {"alpha": a}) for a in ALPHAS),
            ("Zhu", {"kind": "zhu"}),
        )
    }
    return {
        name: [Setting(words, scores) for words, scores in family.items()]
        for name, family in zip(HALVES, (propagations, linear), strict=True)
    }


def propagated(points: Points, walk: cx.AssociationOperator, **how: Any) -> Scores:
    def scores(rows: np.ndarray) -> np.ndarray:
        labels, num_classes = points.y[rows], int(points.y.max()) + 1
        fit = prediction.label_propagation(
            walk, labels, rows, num_classes=num_classes, **how
        )
        return np.asarray(fit.values)

    return scores


def gaussian(points: Points, gamma: float) -> cx.AssociationOperator:
    weights = np.exp(-gamma / points.unit * points.distances)
    return cx.operators.dense_operator(weights / float(weights.sum(dtype=np.float64)))


def regressed(points: Points, op: cx.AssociationOperator, beta: float) -> Scores:
    def scores(rows: np.ndarray) -> np.ndarray:
        # The kernel's diagonal there, P(a = x | x) / P(x) − 1.
        there = op.at_rows(rows)
        assert there is not None
        own = np.asarray(there.as_matrix())[np.arange(len(rows)), rows]
        size = float(np.mean(own / np.asarray(op.p_a)[rows])) - 1
        fit = prediction.stkr(
            op,
            points.y[rows],
            rows,
            transform=prediction.polynomial([1.0]),
            ridge=beta * size / len(rows),
            walk="single",
            num_classes=int(points.y.max()) + 1,
            tol=TOLERANCE,
        )
        return np.asarray(fit.values)

    return scores


def neighbor_operator(points: Points, k: int) -> cx.AssociationOperator:
    lists = cx.contexts.neighbors(points.nearest[:, :k], num_points=len(points.y))
    return cx.association_operator(lists)


def peers(points: Points) -> dict[str, list[Setting]]:
    """Settings of scikit-learn's predictors, where it is installed."""
    if optional("sklearn.semi_supervised") is None:
        return {}
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import LabelSpreading

    n, indicators = len(points.y), np.eye(int(points.y.max()) + 1)[points.y]

    def graph(k: int, gamma: float | None) -> Any:
        columns = points.nearest[:, :k].ravel()
        rows = np.repeat(np.arange(n), k)
        weights = np.ones(n * k)
        if gamma is not None:
            weights = np.exp(-gamma / points.unit * points.distances[rows, columns])
        found = scipy.sparse.csr_array((weights, (rows, columns)), shape=(n, n))
        # As a Gaussian kernel is symmetric; its `knn` graph is not.
        return found if gamma is None else found.maximum(found.T)

    def spread(graph: Any, alpha: float) -> Scores:
        def kernel(*_: Any) -> Any:
            return graph

        how: Any = {"kernel": kernel, "alpha": alpha}

        def scores(rows: np.ndarray) -> np.ndarray:
            given = np.full(n, -1)
            given[rows] = points.y[rows]
            model = LabelSpreading(**how, max_iter=100)
            return model.fit(points.x, given).label_distributions_

        return scores

    def kernel_ridge(gamma: float, alpha: Any) -> Scores:
        def scores(rows: np.ndarray) -> np.ndarray:
            kernel = np.exp(-gamma / points.unit * points.distances[:, rows])
            model = KernelRidge(alpha=alpha, kernel="precomputed")
            return model.fit(kernel[rows], indicators[rows]).predict(kernel)

        return scores

    def odds(c: float) -> Scores:
        def scores(rows: np.ndarray) -> np.ndarray:
            model = LogisticRegression(C=c, max_iter=300)
            return model.fit(points.x[rows], points.y[rows]).predict_proba(points.x)

        return scores

    graphs = {f"knn {k}": graph(k, None) for k in NEIGHBORS}
    graphs |= {f"rbf {g:g}": graph(NEAREST, g) for g in SPREADING_GAMMAS}
    return {
        "LabelSpreading": [
            Setting(f"{name}, α = {alpha:g}", spread(one, alpha))
            for name, one in graphs.items()
            for alpha in SPREADING_ALPHAS
        ],
        "KernelRidge": [
            Setting(f"γ = {gamma:g}, α = {alpha:g}", kernel_ridge(gamma, alpha))
            for gamma in KERNEL_GAMMAS
            for alpha in KERNEL_RIDGES
        ],
        "LogisticRegression": [Setting(f"C = {c:g}", odds(c)) for c in CS],
    }


class Chosen(NamedTuple):
    """What validation took: its words, its scores of all rows, and what it took."""

    words: str
    scores: np.ndarray
    seconds: float
    processor_seconds: float


def judged(
    families: dict[str, list[Setting]],
    points: Points,
    share: float,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A row for each family, and for the halves of ours together."""
    count = round(share * len(points.y))
    splits = prediction.labelled_splits(
        points.y, count, key=jax.random.key(args.seed), num_splits=args.splits
    )
    found: dict[str, list[Chosen]] = {name: [] for name in (OURS, *families)}
    errors: dict[str, list[float]] = {name: [] for name in found}
    for number, rows in enumerate(splits, start=1):
        check = prediction.held_out_rows(points.y[rows], seed=args.seed + number)
        took = {
            name: tuned(settings, points, rows, check)
            for name, settings in families.items()
        }
        took[OURS] = together([took[name] for name in HALVES])
        rest = np.setdiff1d(np.arange(len(points.y)), rows)
        for name, one in took.items():
            wrong = one.scores[rest].argmax(axis=1) != points.y[rest]
            errors[name].append(float(np.mean(wrong)))
            # Scores of all rows and splits are no one's to keep.
            found[name].append(one._replace(scores=np.empty(0)))
        told = ", ".join(f"{name} {one[-1]:.4f}" for name, one in errors.items())
        print(f"split {number} of {args.splits}: {told}", file=sys.stderr)
    ours = np.array(errors[OURS])
    return [
        line(name, picked, np.array(errors[name]), ours)
        for name, picked in found.items()
    ]


def tuned(
    settings: list[Setting], points: Points, rows: np.ndarray, check: np.ndarray
) -> Chosen:
    """The setting with the least error on labels left out, by all labels."""
    start, began = time.perf_counter(), time.process_time()
    fit, left_out = rows[~check], rows[check]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that end at their bound
        wrong = [
            np.mean(one.scores(fit)[left_out].argmax(axis=1) != points.y[left_out])
            for one in settings
        ]
        best = settings[int(np.argmin(wrong))]
        scores = best.scores(rows)
    spent = time.perf_counter() - start, time.process_time() - began
    return Chosen(best.words, scores, *spent)


def together(halves: list[Chosen]) -> Chosen:
    return Chosen(
        " and ".join(one.words for one in halves),
        np.mean([one.scores for one in halves], axis=0),
        sum(one.seconds for one in halves),
        sum(one.processor_seconds for one in halves),
    )


def line(
    name: str, picked: list[Chosen], errors: np.ndarray, ours: np.ndarray
) -> dict[str, Any]:
    """A contestant as the report has it; differences are of the same splits."""
    figures = {"error": float(errors.mean()), "± its standard error": deviation(errors)}
    if name != OURS:
        figures |= {
            "ours less by": float((errors - ours).mean()),
            "± that of the difference": deviation(errors - ours),
        }
    seconds = [one.seconds for one in picked]
    return {
        "name": name,
        "kind": "peer" if name in PEERS else "ours",
        "settings": most_often([one.words for one in picked]),
        "first_call_seconds": seconds[0],
        "seconds": seconds,
        "seconds_median": float(np.median(seconds)),
        "processor_seconds": [one.processor_seconds for one in picked],
        "peak_megabytes": None,
        "accuracy": figures,
        "errors": errors.tolist(),
    }


def deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def most_often(words: list[str]) -> str:
    found, counts = np.unique(words, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    return "; ".join(f"{found[i]} {counts[i]}×" for i in order)


if __name__ == "__main__":
    main()
