"""Is the error of ridge regression known before it is trained?

Of each table the exact functions of a context of all rows, and a tenth of the labels or
30: from these the error of ridge regression on so many labels and on two, four and
eight times as many is forecast, and measured on draws of so many rows. A squared error,
and the share misclassified. Every table is reported, whatever it shows: the forecast of
each draw of labels, their mean, and how far it is off at most over the numbers of
labels; how many single forecasts are within 20 %, and how many of the measured errors
within two standard errors of the forecast.

    python benchmarks/forecast.py FOLDER --json FILE
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from contexture_jax.prediction import forecast_error, labelled_splits, learning_curve

WITHIN, LEAST_MET = 0.2, 8
MOST_LABELLED = 0.8
SMOKE = {"data": ["wine"], "rank": 8, "draws": 3}
MEASURES = {"squared error": "over the variance", "misclassified": "share of rows"}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("data", nargs="*", help="CSVs, folders, built-in sets")
    parser.add_argument("--target", default="target", help="the column to predict")
    parser.add_argument("--context", choices=("knn", "rbf"), default="knn")
    parser.add_argument("--neighbors", type=int, default=30)
    parser.add_argument("--rank", type=int, default=64, help="functions")
    parser.add_argument("--ridge", type=float, default=0.1)
    parser.add_argument("--labelled", type=float, default=0.1, help="share of rows")
    parser.add_argument("--least", type=int, default=30, help="labels")
    parser.add_argument("--draws", type=int, default=10, help="of labelled rows")
    parser.add_argument("--max-rows", type=int, default=5000, help="drawn of a table")
    args = parse(parser, SMOKE)
    report = Report("forecast", args)
    report.content["arguments"]["data"] = [Path(text).name for text in args.data]
    found = {name: explored(name, args) for name in tables(args.data)}
    for measure, unit in MEASURES.items():
        rows = [row(name, one, measure) for name, one in found.items()]
        rows = [one for one in rows if one]
        report.add_case(f"{measure}, {unit}", rows)
        met = sum(one["accuracy"]["off by at most"] <= WITHIN for one in rows)
        if len(rows) > LEAST_MET:
            short = max(0, LEAST_MET - met)
            report.add_goal(
                f"{measure}: sets of {len(rows)} within 20 % that are short of 8",
                float(short),
                0,
            )
    report.write()


def tables(given: list[str]) -> list[str]:
    """Files and names, folders by their CSVs."""
    found = []
    for text in given:
        path = Path(text)
        found += sorted(map(str, path.glob("*.csv"))) if path.is_dir() else [text]
    return found


def explored(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Forecasts and what was measured, each of shape (sizes, draws)."""
    started, began = time.perf_counter(), time.process_time()
    table = cx.data.load_features(name, target=args.target)
    assert table.target is not None
    kept = np.arange(len(table.rows))
    if len(kept) > args.max_rows:
        chosen = np.random.default_rng(args.seed).permutation(len(kept))
        kept = np.sort(chosen[: args.max_rows])
    x = np.asarray(table.features[kept], np.float32)
    y, is_classes = table.target.values[kept], table.target.kind == "classes"
    if args.context == "knn":
        context = cx.contexts.knn(x, args.neighbors)
    else:
        context = cx.contexts.rbf(x, cx.data.auto_gamma(table))
    op = cx.association_operator(context)
    keys = jax.random.split(jax.random.key(args.seed), 4)
    result, info = cx.svd(op, args.rank, key=keys[0])
    mu = np.asarray(result.left)
    if is_classes:
        _, y = np.unique(y, return_inverse=True)
        y = y.astype(np.int32)
    else:
        y = ((y - y.mean()) / y.std()).astype(np.float32)
    how: dict[str, Any] = {"num_classes": int(y.max()) + 1 if is_classes else None}
    count = max(args.least, round(args.labelled * len(y)))
    most = int(MOST_LABELLED * len(y))
    sizes = sorted({min(count * factor, most) for factor in (1, 2, 4, 8)})
    splits = labelled_splits(y, count, key=keys[1], num_splits=args.draws)
    told = [
        forecast_error(
            mu,
            y[split],
            split,
            sizes,
            key=keys[3],
            ridge=args.ridge,
            singular_values=result.singular_values,
            **how,
        )
        for split in splits
    ]
    curve = learning_curve(
        mu, y, sizes, key=keys[2], ridges=args.ridge, num_splits=args.draws, **how
    )
    found: dict[str, Any] = {
        "rows": len(y),
        "sizes": sizes,
        "status": str(info.status),
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - began,
        "squared error": (
            stacked(one.errors for one in told),
            np.asarray(curve.squared_errors),
            stacked(one.standard_errors for one in told),
        ),
    }
    if is_classes:
        wrong = stacked(one.misclassified for one in told)
        found["misclassified"] = (wrong, np.asarray(curve.errors), None)
    return found


def stacked(parts: Any) -> np.ndarray:
    return np.stack([np.asarray(part) for part in parts], axis=1)


def row(name: str, found: dict[str, Any], measure: str) -> dict[str, Any] | None:
    """What the table says of one data set; None: it has no such error."""
    if measure not in found:
        return None
    told, measured, deviations = found[measure]
    after = measured.mean(axis=1)
    off = np.abs(told / after[:, None] - 1)
    figures = {
        "labels": found["sizes"][0],
        "forecast": told[0].mean(),
        "measured": after[0],
        "most labels": found["sizes"][-1],
        "forecast there": told[-1].mean(),
        "measured there": after[-1],
        "off by at most": np.abs(told.mean(axis=1) / after - 1).max(),
        "single ones within 20 %": np.mean(off <= WITHIN),
    }
    if deviations is not None:
        inside = np.abs(told - after[:, None]) <= 2 * deviations
        figures["within two standard errors"] = inside.mean()
    print(f"{Path(name).stem}: {measure}: {told.mean(axis=1)} {after}", file=sys.stderr)
    return {
        "name": Path(name).stem,
        "kind": "ours",
        "settings": f"{found['rows']} rows, functions {found['status']}",
        "first_call_seconds": found["seconds"],
        "seconds": [found["seconds"]],
        "seconds_median": found["seconds"],
        "processor_seconds": [found["processor_seconds"]],
        "peak_megabytes": None,
        "accuracy": {key: float(value) for key, value in figures.items()},
    }


if __name__ == "__main__":
    main()
