"""`contexture predict`: few labels in; predictions and their error out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contexture_jax.cli._arguments import (
    CONTEXTS,
    Options,
    add_context_options,
    add_data_options,
    add_output_options,
    add_rank_options,
    count,
    tolerance,
)
from contexture_jax.cli._contexts import (
    Recipe,
    build_context,
    load,
    plan_context,
    plan_rank,
)
from contexture_jax.cli.session import (
    Ending,
    Stages,
    check_installed,
    check_out,
    claimed,
    computing,
    publishing,
)
from contexture_jax.data import InputError, Table, Target, counted, quoted

if TYPE_CHECKING:
    from contexture_jax import SolveInfo, SVDResult
    from contexture_jax.prediction import Comparison, Prediction

__all__ = ["DESCRIPTION", "PredictOptions", "add_options", "run"]

DESCRIPTION = """\
Predict the column --target of DATA from a context, where few rows have a value of it.
The functions of the context are of all rows, labelled or not. The rows with a label are
split at random, --labelled of them to fit by and the others to measure the error on. On
the same splits: ridge and logistic regression and nearest neighbours on the functions,
kernel regression with a transformed dual kernel (STKR), and label propagation by Zhou
and by Zhu where the context is a graph (graph, knn); beside them a guess, the largest
class or the mean. The error of ridge regression with more labels is forecast from those
of each split, and measured beside it.

Writes predict.json; learning_curve.png, the forecast beside what was measured; and
predictions.csv for the rows whose cell of the target is empty, by all labels. If none
is empty, it is for the rows that the first split leaves without a label. The context
labels, which is the target itself, is not among these here.
"""
_FILES = ("predictions.csv", "learning_curve.png", "predict.json")
_RIDGE = 0.1  # of the forecast: less has a peak near as many labels as functions
_NUM_SIZES = 4
_MOST_LABELLED = 0.8  # of the rows with a label, in the curve
_WALKS: Any = {"graph": "single", "knn": "double"}


@dataclasses.dataclass(frozen=True)
class PredictOptions(Options):
    """The arguments of `contexture predict`.

    Attributes:
        labelled: the share of the rows with a label that each split keeps it of.
        splits: how many.
    """

    labelled: float = 0.1
    splits: int = 5


class Answers(NamedTuple):
    """The target as it is predicted.

    Attributes:
        target: as it was read.
        known: which rows have it and weight in the context, shape (n,), bool.
        values: shape (n,), classes as int32, or numbers of mean 0 and variance 1.
        num_classes: None for numbers.
        mean: of the numbers.
        deviation: likewise.
    """

    target: Target
    known: np.ndarray
    values: np.ndarray
    num_classes: int | None
    mean: float
    deviation: float


class Curve(NamedTuple):
    """The error of ridge regression with numbers of labels.

    Attributes:
        sizes: numbers of labels, shape (sizes,).
        measured: squared errors over the variance, shape (sizes, splits).
        forecasts: likewise, from the labels of each split; None: too few.
        standard_errors: of the forecasts, likewise.
        wrong: of classes the shares misclassified, forecast and measured, likewise.
    """

    sizes: np.ndarray
    measured: np.ndarray
    forecasts: np.ndarray | None
    standard_errors: np.ndarray | None
    wrong: tuple[np.ndarray, np.ndarray] | None


class Predicted(NamedTuple):
    """All that was found, on the host.

    Attributes:
        result: the functions.
        info: how they were found.
        answers: the target.
        splits: which of the known rows have a label, shape (splits, l).
        comparison: the errors on them.
        curve: forecast and measured.
        rows: what `predictions` is told for, shape (k,).
        predictions: of all rows, by name.
    """

    result: SVDResult
    info: SolveInfo
    answers: Answers
    splits: np.ndarray
    comparison: Comparison
    curve: Curve
    rows: np.ndarray
    predictions: dict[str, Prediction]


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    add_data_options(parser.add_argument_group("data"))
    add_context_options(
        parser.add_argument_group("context"),
        choices=[name for name in CONTEXTS if name != "labels"],
        help="default: %(default)s",
    )
    add_rank_options(parser.add_argument_group("solver"), devices=False)
    group = parser.add_argument_group("splits")
    group.add_argument(
        "--labelled",
        type=tolerance,
        default=0.1,
        metavar="SHARE",
        help="of the rows with a label, how many each split keeps it of, between 0 and"
        " 1; default: %(default)s",
    )
    group.add_argument(
        "--splits",
        type=count,
        default=5,
        metavar="N",
        help="random splits that errors are the mean over; default: %(default)s",
    )
    add_output_options(parser.add_argument_group("output"))


def run(options: PredictOptions, ending: Ending) -> Path:
    """Read, solve, predict, draw and write.

    Args:
        options: what was asked for.
        ending: told what is kept if the run ends early.

    Returns:
        The directory with the results.

    Raises:
        InputError: if anything about the input or the output directory is wrong;
            nothing has been written then.
    """
    stages = Stages(quiet=options.quiet)
    with stages.stage("read"):
        check_installed(plots=options.plots)
        out = check_out(options.out, _FILES, "predict")
        if options.target is None:
            raise InputError("predict needs --target: the column to predict")
        table = load(options, unlabelled=True)
        assert table.target is not None  # as it was named
        recipe = plan_context(options, table)
        plan_rank(options.rank, recipe, recipe.num_triples)
        answers = _answers(table.target, options.dtype)
        _num_labelled(options, table, answers)
    with claimed(out), computing(options.dtype):
        found = _computed(options, table, recipe, answers, stages)
        _publish(options, table, recipe, found, out, stages, ending)
    return out


def _answers(target: Target, dtype: str) -> Answers:
    values = target.values
    if target.kind == "classes":
        num_classes = len(target.class_names)
        return Answers(
            target, values >= 0, values.astype(np.int32), num_classes, 0.0, 1.0
        )
    known = np.isfinite(values)
    # In a unit of their own first, whose squares are in range.
    unit = float(np.abs(values[known]).max())
    scaled = values / unit
    mean, deviation = float(scaled[known].mean()), float(scaled[known].std())
    scaled = ((scaled - mean) / deviation).astype(dtype)
    return Answers(target, known, scaled, None, mean * unit, deviation * unit)


def _num_labelled(options: PredictOptions, table: Table, answers: Answers) -> int:
    """How many rows of a split have a label.

    Raises:
        InputError: if they are too few, or all.
    """
    known, least = int(answers.known.sum()), max(2, answers.num_classes or 0)
    number = round(options.labelled * known)
    name = quoted(answers.target.name)
    of = f"{counted(known, 'row')} with a value of {name}"
    for_each = f"a row of each of {answers.num_classes} classes"
    need = for_each if answers.num_classes else "2 rows"
    if known <= least:
        raise InputError(
            f"{table.title} has {of}: too few for {need} and one more to measure the"
            " error on"
        )
    if number < least:
        enough = math.ceil(1000 * least / known) / 1000
        expected = f"; expected --labelled {enough:g} or more" if enough < 1 else ""
        raise InputError(
            f"--labelled {options.labelled:g} of {of} is {counted(number, 'row')}: too"
            f" few for {need}{expected}"
        )
    if number >= known:
        raise InputError(
            f"--labelled {options.labelled:g} of {of} is all of them; expected one or"
            " more left to measure the error on"
        )
    return number


def _computed(
    options: PredictOptions,
    table: Table,
    recipe: Recipe,
    answers: Answers,
    stages: Stages,
) -> Predicted:
    with stages.stage("context") as advance:
        import jax

        import contexture_jax as cx

        context = build_context(recipe, table, options.dtype, advance)
        op = cx.association_operator(context)
        num_values = min(recipe.num_triples, cx.evaluation.num_singular_values(op))
        rank = plan_rank(options.rank, recipe, num_values)
        p_x = np.asarray(op.p_x)
        # Nothing is learned from a row that the context says nothing of.
        answers = answers._replace(known=answers.known & (p_x > 0))
        number = _num_labelled(options, table, answers)
        y, rows = answers.values[answers.known], np.flatnonzero(answers.known)
        key = jax.random.key(options.seed)
        try:
            splits = cx.prediction.labelled_splits(
                y, number, key=jax.random.fold_in(key, 1), num_splits=options.splits
            )
        except ValueError as error:
            raise InputError(
                f"--labelled {options.labelled:g} of {table.title} is too little:"
                f" {error}"
            ) from error
    result, info = _solved(op, rank, key, stages)
    how: Any = {"num_classes": answers.num_classes, "walk": _WALKS.get(recipe.name)}
    with stages.stage("splits") as advance:
        comparison = cx.prediction.compare_predictors(
            op,
            result,
            y,
            rows,
            splits,
            on_split=lambda done: advance(done, options.splits),
            **how,
        )
    with stages.stage("forecast"):
        curve = _curve(
            np.asarray(result.left)[rows],
            np.asarray(result.singular_values),
            y,
            splits,
            answers.num_classes,
            jax.random.fold_in(key, 2),
        )
    told = np.flatnonzero(answers.target.values < 0) if answers.num_classes else None
    if told is None:
        told = np.flatnonzero(~np.isfinite(answers.target.values))
    predictions = comparison.predictions[0]
    with stages.stage("predict"):
        if len(told):
            predictions = cx.prediction.predict_each(op, result, y, rows, **how)
        else:
            told = np.setdiff1d(np.arange(len(p_x)), rows[splits[0]])
    result, info = jax.device_get((result, info))
    return Predicted(
        result, info, answers, splits, comparison, curve, told, predictions
    )


def _solved(op: Any, rank: int, key: Any, stages: Stages) -> tuple[Any, Any]:
    import contexture_jax as cx

    with stages.stage("spectrum"):
        result, info = cx.svd(op, rank, key=key)
        if info.status == "non-finite":
            raise InputError(
                "the functions are not finite, so nothing was written: values of the"
                " data or parameters of the context are too extreme; rescale them, or"
                " pass --dtype float64"
            )
    return result, info


def _curve(
    functions: np.ndarray,
    singular_values: np.ndarray,
    y: np.ndarray,
    splits: np.ndarray,
    num_classes: int | None,
    key: Any,
) -> Curve:
    from contexture_jax.prediction import forecast_error, learning_curve

    first, known = splits.shape[1], len(y)
    last = max(first, int(_MOST_LABELLED * known))
    sizes = np.unique(np.geomspace(first, last, _NUM_SIZES).round().astype(int))
    how: Any = {"num_classes": num_classes}
    measured = learning_curve(
        functions, y, sizes, key=key, ridges=_RIDGE, num_splits=len(splits), **how
    )
    forecasts = errors = wrong = None
    if first >= 4:
        import jax

        how |= {"ridge": _RIDGE, "singular_values": singular_values}
        how |= {"key": jax.random.fold_in(key, 1)}
        told = [
            forecast_error(functions, y[split], split, sizes, **how) for split in splits
        ]
        forecasts = np.stack([one.errors for one in told], axis=1)
        errors = np.stack([one.standard_errors for one in told], axis=1)
        if num_classes is not None:
            shares = np.stack([np.asarray(one.misclassified) for one in told], axis=1)
            wrong = shares, np.asarray(measured.errors)
    return Curve(sizes, np.asarray(measured.squared_errors), forecasts, errors, wrong)


def _publish(
    options: PredictOptions,
    table: Table,
    recipe: Recipe,
    found: Predicted,
    out: Path,
    stages: Stages,
    ending: Ending,
) -> None:
    """Draw, write and print."""
    from contexture_jax.cli import _predict_report as report
    from contexture_jax.cli._report import print_table, write_json

    with publishing(out, _FILES, ending) as folder:
        with stages.stage("pictures"):
            if options.plots:
                report.draw(found, folder / "learning_curve.png")
        seconds = {**stages.seconds, "total": stages.total}
        description = report.describe(options, table, recipe, found, _RIDGE, seconds)
        report.write_predictions(table, found, folder / "predictions.csv")
        write_json(description, folder / "predict.json")
        files = [name for name in _FILES if (folder / name).exists()]
    if not options.quiet:
        paths = [str(Path(options.out) / name) for name in files]
        print_table(report.rows_of_table(description, paths))
