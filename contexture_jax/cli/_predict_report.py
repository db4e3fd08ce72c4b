"""What `contexture predict` leaves behind: a JSON, a CSV, a picture and a table."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import contexture_jax as cx
from contexture_jax._core.words import rounded
from contexture_jax.cli._contexts import Recipe
from contexture_jax.cli._report import plain
from contexture_jax.data import Table, counted

if TYPE_CHECKING:
    from contexture_jax.cli._predict import Predicted, PredictOptions

__all__ = ["FIT_ENDS", "describe", "draw", "rows_of_table", "write_predictions"]

_PROTOCOL = (
    "functions of the context on all rows, without the target; splits draw from the"
    " rows with a label, of each class its share and a row or more, and errors are on"
    " all others of them: the share that is misclassified, or the mean squared residual"
    " over the variance; everything that is chosen is chosen by labels of the split"
    " left out (ridge and nearest neighbours one by one, logistic, STKR and Zhou's α by"
    " folds); std: over splits; best: the least mean"
    " error over the splits, which is therefore a little too low; forecast: the mean"
    " squared error over the variance of ridge regression with the stated ridge on all"
    " functions (of classes on their indicators, and the share misclassified), from the"
    " labels of each split and the functions at all rows with a label, measured on"
    " draws of so many of these; its standard error is what the labels leave open of"
    " the target"
)
# What who types the command can make of how a fit ended, but for "converged".
FIT_ENDS = {
    "max iterations": "it had not ended after the most steps that it may take",
    "rounding": "as exact as float32 lets it be, which is a little less than asked for",
    "non-finite": "it met a number that is not finite: look at the columns' scales",
}


def describe(
    options: PredictOptions,
    table: Table,
    recipe: Recipe,
    found: Predicted,
    ridge: float,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Everything about a run but the predictions, as plain Python.

    Args:
        options: what was asked for.
        table: the data.
        recipe: the context.
        found: what was found.
        ridge: that of the forecast.
        seconds: of each stage.
    """
    answers, errors = found.answers, found.comparison.errors
    best, num_known = best_of(found), int(answers.known.sum())
    is_missing, num_labelled = has_missing(found), found.splits.shape[1]
    return plain(
        {
            "version": cx.__version__,
            "data": table.title,
            "num_rows": len(table.rows),
            "num_columns": table.num_columns,
            "num_features": table.features.shape[1],
            "target": answers.target.name,
            "target_kind": answers.target.kind,
            "class_names": answers.target.class_names or None,
            "context": recipe.name,
            "params": recipe.params,
            "rank": len(found.result.singular_values),
            "dtype": str(found.result.singular_values.dtype),
            "seed": options.seed,
            "method": str(found.info.method),
            "status": str(found.info.status),
            "singular_values": found.result.singular_values,
            "num_known": num_known,
            "labelled": options.labelled,
            "num_labelled": num_labelled,
            "num_splits": len(found.splits),
            "predictors": {
                name: {
                    "error": values.mean(),
                    "std": values.std(),
                    "errors": values,
                    "chosen": [
                        one[name].chosen for one in found.comparison.predictions
                    ],
                    "status": [
                        one[name].status for one in found.comparison.predictions
                    ],
                }
                for name, values in errors.items()
            },
            "best": best,
            "forecast": _forecast(found, ridge),
            "predictions": {
                "of_first_split": not is_missing,
                "num_rows": len(found.rows),
                "num_labels": num_known if is_missing else num_labelled,
                "chosen": {k: one.chosen for k, one in found.predictions.items()},
            },
            "protocol": _PROTOCOL,
            "seconds": seconds,
            "notes": [*table.notes, *recipe.notes, *_notes(found)],
        }
    )


def best_of(found: Predicted) -> str:
    """The predictor with the least mean error over the splits."""
    errors = found.comparison.errors
    return min(errors, key=lambda name: float(errors[name].mean()))


def has_missing(found: Predicted) -> bool:
    """Whether there are rows without a label, which the predictions are of."""
    y = found.answers.target.values
    return bool((~np.isfinite(y)).any() if y.dtype.kind == "f" else (y < 0).any())


def _forecast(found: Predicted, ridge: float) -> dict[str, Any]:
    curve = found.curve
    told, errors, wrong = curve.forecasts, curve.standard_errors, curve.wrong
    return {
        "ridge": ridge,
        "num_samples": curve.sizes,
        "forecast": None if told is None else told.mean(axis=1),
        "forecast_std": None if told is None else told.std(axis=1),
        "standard_error": None if errors is None else errors.mean(axis=1),
        "measured": curve.measured.mean(axis=1),
        "measured_std": curve.measured.std(axis=1),
        "misclassified": None if wrong is None else wrong[0].mean(axis=1),
        "measured_misclassified": None if wrong is None else wrong[1].mean(axis=1),
    }


def _notes(found: Predicted) -> list[str]:
    """What a reader should know of the figures."""
    notes, comparison = [], found.comparison
    if found.info.status != cx.Status.CONVERGED:
        notes.append(f"{found.info.status}: {found.info.status.advice}")
    for name in comparison.errors:
        statuses = Counter(one[name].status for one in comparison.predictions)
        for status, count in statuses.items():
            if status != "converged":
                told = FIT_ENDS[str(status)]
                notes.append(f"{name} in {counted(count, 'split')}: {told}")
    if best_of(found) == "guess":
        notes.append("no way to predict from this context is better than a guess")
    if found.curve.forecasts is None:
        notes.append("no forecast: it takes 4 labels or more")
    return notes


def write_predictions(table: Table, found: Predicted, path: Path) -> None:
    """Write a row of predictions for each row without a label, best first."""
    answers, best = found.answers, best_of(found)
    target, names = answers.target, list(found.predictions)

    def words(values: np.ndarray) -> list[str]:
        if answers.num_classes:
            return [target.class_names[int(code)] for code in values]
        numbers = values.astype(np.float64) * answers.deviation + answers.mean
        # Nine digits of how the target varies, however far from 0 that is.
        digits = 8 - math.floor(math.log10(answers.deviation))
        return [
            repr(round(number, digits)).removesuffix(".0")
            for number in numbers.tolist()
        ]

    rows = found.rows
    columns = {"row": [str(row) for row in table.rows[rows]]}
    if not has_missing(found):
        columns["truth"] = words(answers.values[rows])
    columns["prediction"] = words(found.predictions[best].values[rows])
    for name in names:
        columns[name] = words(found.predictions[name].values[rows])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def draw(found: Predicted, path: Path) -> None:
    """Draw the learning curve."""
    from contexture_jax import plotting

    curve, number = found.curve, found.splits.shape[1]
    name = found.answers.target.name
    title = f"{name}: ridge regression on the functions"
    if curve.forecasts is not None:
        last, told = curve.sizes[-1], rounded(float(curve.forecasts[-1].mean()), 2)
        after = float(curve.measured[-1].mean())
        title = (
            f"{name}: {number:,} labels forecast an error of {told}"
            f" with {last:,}; measured {rounded(after, 2)}"
        )
    axes = plotting.plot_learning_curve(
        curve.sizes,
        curve.measured,
        forecasts=curve.forecasts,
        num_labelled=number,
        title=title,
    )
    plotting.save(axes, path)


def rows_of_table(
    description: dict[str, Any], files: Sequence[str]
) -> list[tuple[str, str]]:
    """The report as (label, text) pairs, in the order to read them."""
    d, curve = description, description["forecast"]
    params = ", ".join(f"{key} = {value}" for key, value in d["params"].items())
    is_classes = d["target_kind"] == "classes"
    unit = "share misclassified" if is_classes else "squared error / variance"
    rows = [
        ("data", f"{d['data']}: {d['num_rows']:,} rows"),
        ("context", d["context"] + (f" ({params})" if params else "")),
        ("functions", f"{d['rank']} ({d['method']}, {d['dtype']})"),
        ("status", d["status"]),
        ("target", f"{d['target']} ({d['target_kind']})"),
        (
            "labelled",
            f"{d['num_labelled']:,} of {counted(d['num_known'], 'row')} with a label,"
            f" in each of {counted(d['num_splits'], 'split')}",
        ),
        ("error", f"{unit}, mean ± standard deviation over the splits"),
    ]
    for name, one in sorted(d["predictors"].items(), key=lambda item: item[1]["error"]):
        rows.append((f"  {name}", f"{one['error']:.4f} ± {one['std']:.4f}"))
    nothing = [None] * len(curve["measured"])
    told, errors = curve["forecast"] or nothing, curve["standard_error"] or nothing
    shares = curve["misclassified"] or nothing
    wrong = curve["measured_misclassified"] or nothing
    for size, before, error, after, scatter, share, seen in zip(
        curve["num_samples"],
        told,
        errors,
        curve["measured"],
        curve["measured_std"],
        shares,
        wrong,
        strict=True,
    ):
        forecast = "none" if before is None else f"{before:.3f} ± {error or 0:.3f}"
        measured = f"measured {after:.3f} ± {scatter:.3f}"
        more = "" if share is None else f"; misclassified {share:.3f}, {seen:.3f}"
        rows.append(
            (
                "forecast" if size == curve["num_samples"][0] else "",
                f"{size:,} labels: {forecast}, {measured}{more}",
            )
        )
    p = d["predictions"]
    rows.append(
        (
            "predictions",
            f"{counted(p['num_rows'], 'row')}"
            f"{' of the first split' if p['of_first_split'] else ''} without a label,"
            f" by {d['best']} from {counted(p['num_labels'], 'label')}",
        )
    )
    rows += [("note", note) for note in d["notes"]]
    rows.append(("files", "\n".join(files)))
    return rows
