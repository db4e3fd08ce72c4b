"""Do mixed contexts beat their parts? Probes of exact functions on CSVs with classes.

Of each table at most `--rows` rows are drawn. Four contexts of them, without labels:

- `knn`: A is one of the 20 nearest rows;
- `rbf`: P⁺(a|x) ∝ exp(−γ ‖x − a‖²), 1 / γ the number of columns;
- `scarf`: the row with each cell replaced by one of its column with probability 0.6,
  numbers cut at their quintiles (by 4 draws of A a row);
- `column`: the cell of one random column, numbers cut likewise, and which one it was.

They are mixed: side by side with their index seen (`convex`: weights equal, by min–max,
by min–max of the excess, of the least τ, of the least error on rows for validation),
by `convolve` (the pair with the least error there), by `join` of knn and column, and by
`concatenate`, a quarter of the functions of each, whitened together. Of each the first
`--dim` functions are taken, all exact, and a ridge probe is fitted on the same rows,
with the same rows for validation, which chooses the ridge, and the same ones left out.
Beside them stand the same probe on raw columns, logistic regression, and scikit-learn's
HistGradientBoosting, their settings chosen by the same validation.

Contexts see the features of all rows and no label; trees and regressions see the rows
that they are fitted on.

    python benchmarks/mixing.py ../data --json benchmarks/results/mixing.json
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, optional, parse
from _mixing import (
    Functions,
    Scores,
    Split,
    best_of,
    codes_of,
    dual,
    dual_of_tuples,
    functions,
    parts_of,
    peers,
    probed,
    splits_of,
)

threadpoolctl = optional("threadpoolctl")
optional("sklearn.ensemble")  # its OpenMP is held below if it is there by then
SMOKE = {
    "data": ["wine"],
    "rows": 80,
    "splits": 2,
    "dim": 8,
    "steps": 2,
    "min_max_rounds": 2,
}
ALL, BASELINE = "All tables", "best part, validated"


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("data", nargs="*", help="CSVs, folders, built-in sets, reports")
    parser.add_argument("--target", default="target", help="the column of classes")
    parser.add_argument("--rows", type=int, default=1000, help="at most, of a table")
    parser.add_argument("--splits", type=int, default=10, help="of the rows")
    parser.add_argument("--dim", type=int, default=32, help="functions of each")
    parser.add_argument("--steps", type=int, default=4, help="of a weight, to 1")
    parser.add_argument("--min-max-rounds", type=int, default=20, help="of weights")
    args = parse(parser, SMOKE, argv)
    report = Report("mixing", args)
    cases = report.content["cases"]
    # Threads of BLAS and OpenMP spin: processor time would be theirs.
    with threadpoolctl.threadpool_limits(1):
        for name in tables(args.data):
            cases += reported(name) if name.endswith(".json") else [case_of(name, args)]
            if args.json:  # a long run keeps what it has
                report.write()
    report.content["arguments"]["data"] = [case["case"] for case in cases]
    cases.append({"case": ALL, "facts": {}, "rows": over_tables(cases)})
    report.write()


def case_of(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A table as the report has it; every one is told, whatever it shows."""
    title = Path(name).stem
    try:
        facts, rows = on_table(name, args)
    except ValueError as error:
        return {"case": title, "facts": {}, "rows": [], "failed": str(error)}
    for row in rows:
        accuracy = row["accuracy"].items()
        figures = ", ".join(f"{k} {v:.3g}" for k, v in accuracy if v is not None)
        print(f"{title} | {row['name']}: {figures} {row['settings']}", file=sys.stderr)
    return {"case": title, "facts": facts, "rows": rows}


def reported(name: str) -> list[dict[str, Any]]:
    """The tables of an earlier report, as of a part of a long run."""
    cases = json.loads(Path(name).read_text(encoding="utf-8"))["cases"]
    return [case for case in cases if case["case"] != ALL]


def tables(given: list[str]) -> list[str]:
    """Files and names, folders by their CSVs."""
    found = []
    for name in given:
        path = Path(name)
        found += sorted(map(str, path.glob("*.csv"))) if path.is_dir() else [name]
    return found


def tau(s: np.ndarray) -> float:
    found = cx.evaluation.usefulness(s.astype(np.float32), complete=True)
    return float(found.tau)


class Row(NamedTuple):
    """One contestant: of which functions, how well, and in what words."""

    name: str
    scores: Scores
    functions: Functions | None = None
    words: str = ""


def read(name: str, args: argparse.Namespace) -> Any:
    """Features, the widths of columns among them, and classes, of some rows."""
    table = cx.data.load_features(name, target=args.target)
    if table.target is None or table.target.values.dtype.kind == "f":
        raise ValueError("a target of classes is needed")
    rows = np.random.default_rng(args.seed).permutation(len(table.rows))[: args.rows]
    widths = [len(encoding.feature_names) for encoding in table.encodings]
    _, y = np.unique(table.target.values[rows], return_inverse=True)
    return np.asarray(table.features)[rows], widths, y, len(table.rows)


def on_table(
    name: str, args: argparse.Namespace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All contestants on one table: their errors, and what their spectra say."""
    features, widths, y, total = read(name, args)
    splits = splits_of(y, args.splits, args.seed)
    codes = codes_of(features, widths)
    parts = parts_of(features, codes, args.seed)
    kernels = {part: dual(context, len(y)) for part, context in parts.items()}
    rows = [*of_parts(kernels, y, splits, args)]
    known = {row.name: row for row in rows}
    rows += of_convex(parts, kernels, y, splits, args)
    rows += of_others(parts, kernels, known, y, splits, args)
    rows += [Row(*peer) for peer in peers(features, y, splits)]
    share = float(np.mean(y != np.bincount(y).argmax()))
    facts = {
        "rows": len(y),
        "of": total,
        "columns": len(widths),
        "classes": int(y.max() + 1),
        "error of the largest class": share,
    }
    base = next(row for row in rows if row.name == BASELINE)
    return facts, [line(row, base, known, y) for row in rows]


def of_parts(
    kernels: dict[str, np.ndarray],
    y: np.ndarray,
    splits: list[Split],
    args: argparse.Namespace,
) -> Iterator[Row]:
    found = []
    for part, kernel in kernels.items():
        known = functions(kernel, args.dim)
        scores = probed(known.left, y, splits)
        found.append(scores)
        yield Row(part, scores, known)
    scores, best = best_of(found)
    yield Row(BASELINE, scores, None, counted(list(kernels), best))


def of_convex(
    parts: dict[str, Any],
    kernels: dict[str, np.ndarray],
    y: np.ndarray,
    splits: list[Split],
    args: argparse.Namespace,
) -> Iterator[Row]:
    """Convex combinations, their weights equal or found."""
    all_of = np.array([*kernels.values()])
    contexts = [*parts.values()]
    equal = np.full(len(contexts), 1 / len(contexts))
    tried: list[Scores] = []

    def least_tau(s: np.ndarray, left: np.ndarray) -> float:
        # All criteria see the same combinations.
        tried.append(probed(left[:, : args.dim], y, splits))
        return tau(s)

    def min_max(excess: bool) -> np.ndarray:
        return cx.ranking.min_max_weights(
            contexts, args.dim, num_rounds=args.min_max_rounds, excess=excess
        ).weights

    def by_tau() -> Any:
        return cx.ranking.criterion_weights(
            contexts, len(y) - 1, least_tau, num_steps=args.steps
        )

    def row(name: str, find: Callable[[], np.ndarray]) -> Row:
        weights = find()
        known = functions(np.tensordot(weights, all_of, 1), args.dim)
        scores = probed(known.left, y, splits)
        words = described(kernels, weights)
        return Row(name, scores, known, words)

    yield row("convex, equal weights", lambda: equal)
    yield row("convex, min–max", lambda: min_max(False))
    yield row("convex, min–max of the excess", lambda: min_max(True))
    found = by_tau()
    yield row("convex, least τ", lambda: found.weights)
    scores, best = best_of(tried)
    words = "in the mean " + described(kernels, found.tried[best].mean(axis=0))
    yield Row("convex, validated", scores, None, words)


def of_others(
    parts: dict[str, Any],
    kernels: dict[str, np.ndarray],
    known: dict[str, Row],
    y: np.ndarray,
    splits: list[Split],
    args: argparse.Namespace,
) -> Iterator[Row]:
    """Convolutions, a join and functions side by side."""
    # T = T₁ T₁* T₂ has the dual kernel K₁ K₂ K₁.
    pairs = [(one, two) for one in kernels for two in kernels if one != two]
    tried = [
        probed(
            functions(kernels[a] @ kernels[b] @ kernels[a], args.dim).left, y, splits
        )
        for a, b in pairs
    ]
    scores, best = best_of(tried)
    names = [f"{one} then {two}" for one, two in pairs]
    yield Row("convolve, validated", scores, None, counted(names, best))
    both = cx.contexts.join([parts["knn"], parts["column"]])
    joined = functions(dual_of_tuples(both, len(y)), args.dim)
    scores = probed(joined.left, y, splits)
    yield Row("join of knn and column", scores, joined)
    quarter = args.dim // len(kernels)
    firsts = (row.functions for row in known.values() if row.functions)
    some = [part.left[:, :quarter].astype(np.float32) for part in firsts]
    whitened = np.asarray(cx.evaluation.concatenate(*some).features)
    scores = probed(whitened, y, splits)
    side_by_side = Functions(np.zeros(0), whitened)
    words = f"{whitened.shape[1]} of {quarter * len(kernels)} directions"
    yield Row("concatenate", scores, side_by_side, words)


def described(names: Any, weights: np.ndarray) -> str:
    return ", ".join(f"{n} {w:.2f}" for n, w in zip(names, weights, strict=True))


def counted(names: list[str], best: np.ndarray) -> str:
    """How often validation took which, most often first."""
    counts = np.bincount(best, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    return ", ".join(f"{names[i]} {counts[i]}×" for i in order[:3] if counts[i])


def line(row: Row, base: Row, known: dict[str, Row], y: np.ndarray) -> dict[str, Any]:
    """A contestant as the report has it, with what its spectrum says."""
    errors = row.scores.errors
    figures: dict[str, Any] = {
        "error": float(errors.mean()),
        "spread": float(errors.std()),
    }
    if row.name != base.name:
        figures |= paired(errors, base.scores.errors)
    words = row.words
    if row.functions is not None:
        told, said = spectral(row.functions, y)
        figures |= told
        words = "; ".join(filter(None, (said, words)))
    return {
        "name": row.name,
        "settings": words,
        "seconds": [],
        "seconds_median": None,
        "first_call_seconds": None,
        "peak_megabytes": None,
        "accuracy": figures,
        "errors": errors.tolist(),
        "spans": spans(row, known),
    }


def spans(row: Row, known: dict[str, Row]) -> dict[str, float]:
    """How much of the span is that of each part: 1 says that mixing changed nothing."""
    if row.functions is None:
        return {}
    left = row.functions.left
    return {
        name: float(((part.functions.left.T @ left / len(left)) ** 2).sum())
        / left.shape[1]
        for name, part in known.items()
        if part.functions is not None
    }


def paired(errors: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """How much less than another in the same splits, and its standard error."""
    less = base - errors
    return {
        "less than the best part": float(less.mean()),
        "± its standard error": float(less.std(ddof=1) / np.sqrt(len(less))),
    }


def spectral(found: Functions, y: np.ndarray) -> tuple[dict[str, Any], str]:
    """What the spectrum says: association, τ, verdict, and the target in the span."""
    s, left = found
    indicators = np.eye(y.max() + 1)[y]
    indicators -= indicators.mean(axis=0)
    held = ((left.T @ indicators) ** 2).sum() / len(y) / (indicators**2).sum()
    if len(s) == 0:
        return {"target held": float(held)}, ""
    dim = left.shape[1]
    figures = {
        "s₁²": float(s[0] ** 2),
        f"s² at {dim}": float(s[dim - 1] ** 2),
        "Σ s²": float((s**2).sum()),
        "τ": tau(s) if np.isfinite(tau(s)) else None,
        "target held": float(held),
    }
    told = cx.evaluation.verdict(s.astype(np.float32), complete=True)
    return figures, told.association


def over_tables(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often each beats the best part by more than its standard error."""
    found = [
        {row["name"]: np.array(row["errors"]) for row in case["rows"]}
        for case in cases
        if case["rows"]
    ]
    rows = []
    for name in found[0] if found else ():
        told = [[*paired(t[name], t[BASELINE]).values()] for t in found]
        gain, noise = np.array(told).T
        even = [[*paired(t[name], t["convex, equal weights"]).values()] for t in found]
        over, unsure = np.array(even).T
        rows.append(
            {
                "name": name,
                "settings": "",
                "seconds": [],
                "seconds_median": None,
                "first_call_seconds": None,
                "peak_megabytes": None,
                "accuracy": {
                    "mean error": float(np.mean([t[name] for t in found])),
                    "better than the best part": int((gain > noise).sum()),
                    "alike": int((np.abs(gain) <= noise).sum()),
                    "worse": int((gain < -noise).sum()),
                    "mean gain": float(gain.mean()),
                    "gain over equal weights": float(over.mean()),
                    "better than those": int((over > unsure).sum()),
                    "worse than those": int((over < -unsure).sum()),
                },
            }
        )
    return rows


if __name__ == "__main__":
    main()
