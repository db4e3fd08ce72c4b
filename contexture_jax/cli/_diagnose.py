"""`contexture diagnose`: embeddings in; what they share, know and look like, out."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contexture_jax.cli._arguments import (
    Options,
    add_data_options,
    add_output_options,
    as_words,
    count,
    seed,
)
from contexture_jax.cli._diagnose_contexts import (
    AGAINST,
    Told,
    as_told,
    check_against,
    contexts_of,
    read_against,
    told_as_input,
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
from contexture_jax.data import (
    InputError,
    Message,
    Table,
    counted,
    load_features,
    load_matrix,
    quoted,
    quoted_path,
)

if TYPE_CHECKING:
    from contexture_jax.evaluation import Comparisons

__all__ = ["DESCRIPTION", "KNOWN", "DiagnoseOptions", "add_options", "run"]

DESCRIPTION = """\
What embeddings of the same rows have in common, and what each knows: EMBEDDINGS are
files of any framework, one row an example, as DATA below, numbers as they are. Each
pair is compared by several measures, each beside the mean that shuffled rows give it,
with a p-value and an interval; each has its geometry. With --context-of DATA, the table
that the rows embed, contexts of DATA are ranked by how much each embedding holds of
them: the ratio trace of its span over the largest that as many functions can have, and
the compatibility of its features. With --target, a column of DATA, a ridge probe and
the purity of the neighbours are told, and classes are a context too. --against names
the contexts to rank in place of these, also such as are in files of their own. Writes
diagnose.json and a picture of the pairs, which a clustering puts in order.

"""
DESCRIPTION += AGAINST
_FILES = ("models.png", "diagnose.json")
_FOLDER = "diagnose"
MEASURES = ("cca", "cka_debiased", "mutual_knn")
KNOWN = (
    *("cca", "svcca", "pwcca", "procrustes", "cka", "cka_debiased"),
    *("rsa", "rsa_linear", "cka_rbf", "cka_rbf_debiased", "mutual_knn", "cknna"),
)
_FEWEST_ROWS = 20


@dataclasses.dataclass(frozen=True)
class DiagnoseOptions(Options):
    """The arguments of `contexture diagnose`; `data` is that of the context.

    Attributes:
        embeddings: the files.
        context_of: DATA, or None.
        against: contexts to rank; none: those that DATA alone make.
        measures: of pairs.
        permutations: how many shuffles.
        max_rows: as many rows are drawn for contexts and probes.
    """

    data: str = ""
    embeddings: Sequence[str] = ()
    context_of: str | None = None
    against: Sequence[Told] = ()
    measures: Sequence[str] = MEASURES
    permutations: int = 99
    max_rows: int = 2000


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--context-of", metavar="DATA", help="the table that the rows embed"
    )
    add_data_options(group)
    group = parser.add_argument_group("diagnosis")
    group.add_argument(
        "--against",
        action="append",
        type=as_told,
        default=[],
        metavar="CONTEXT",
        help="rank this context, once for each: knn or knn:K, rbf or rbf:GAMMA, teacher"
        " and labels of DATA, column=NAME of it, teacher=FILE, joint=FILE and"
        " graph=FILE with a row for each example, or a FILE.json, see above; default:"
        " knn, rbf, teacher, and labels of a --target of classes",
    )
    group.add_argument(
        "--measures",
        type=_measures,
        default=MEASURES,
        metavar="MEASURE,…",
        help=f"of pairs, the first for the picture: some of {','.join(KNOWN)};"
        f" default: {','.join(MEASURES)}",
    )
    for option, default, what in (
        ("--permutations", 99, "shuffles of rows that each number is held against"),
        ("--max-rows", 2000, "draw so many rows for contexts and probes"),
    ):
        group.add_argument(
            option,
            type=count,
            default=default,
            metavar="N",
            help=f"{what}; default: %(default)s",
        )
    group.add_argument("--seed", type=seed, default=0, help="default: 0")
    add_output_options(parser.add_argument_group("output"))


def _measures(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in KNOWN:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(KNOWN)}; got {name!r}"
            )
    return names


def run(options: DiagnoseOptions, ending: Ending) -> Path:
    """Compare, measure, rank, draw and write.

    Args:
        options: what was asked for.
        ending: told what is kept if the run ends early.

    Returns:
        The directory with the results.

    Raises:
        InputError: if anything about the input or the output directory is wrong.
    """
    stages = Stages(quiet=options.quiet)
    with stages.stage("read"):
        check_installed("scipy", plots=options.plots)
        out = check_out(options.out, _FILES, _FOLDER)
        if options.max_rows < _FEWEST_ROWS:
            raise InputError(
                f"--max-rows {options.max_rows} is too few for a context or a probe;"
                f" expected at least {_FEWEST_ROWS}"
            )
        models = _models(options)
        table = _table(options, models)
        check_against(options, table)
        files = read_against(options, len(next(iter(models.values()))))
    with claimed(out), computing("float32"):
        with stages.stage("pairs"):
            compared = _compared(options, models)
        with stages.stage("geometry"):
            geometry = _geometry(models)
        held: dict[str, Any] = {}
        with stages.stage("contexts"):
            if table is not None or options.against:
                held = _held(options, models, files, table)
        _publish(
            options, models, table, (compared, geometry, held), out, stages, ending
        )
    return out


def _models(options: DiagnoseOptions) -> dict[str, np.ndarray]:
    """The embeddings by name: the file's, or its path where two are of one name."""
    stems = [Path(path).stem for path in options.embeddings]
    models: dict[str, np.ndarray] = {}
    for path, stem in zip(options.embeddings, stems, strict=True):
        name = stem if stems.count(stem) == 1 else path
        if name in models:
            raise InputError(f"{quoted_path(path)} is named twice")
        models[name] = load_matrix(
            path,
            separator=options.separator,
            decimal=options.decimal,
            missing=options.missing,
        )
    (first, one), *others = models.items()
    for name, other in others:
        if len(other) != len(one):
            raise InputError(
                f"{quoted(name)} has {counted(len(other), 'row')} and {quoted(first)}"
                f" {len(one):,}; expected a row for each example, the same in all"
            )
    if len(one) < _FEWEST_ROWS:
        raise InputError(
            f"{quoted(first)} has {counted(len(one), 'row')}; a comparison takes at"
            f" least {_FEWEST_ROWS}"
        )
    for name, x in models.items():
        if not np.ptp(x, axis=0).any():
            raise InputError(f"{quoted(name)} holds one row again and again")
    return models


def _table(options: DiagnoseOptions, models: dict[str, np.ndarray]) -> Table | None:
    """DATA, row for row with the embeddings, or None without it."""
    if options.context_of is None:
        if options.target is not None:
            raise InputError(
                "--target names a column of the table that the rows embed: say which"
                " with --context-of"
            )
        return None
    shared = {
        "drop": options.drop,
        "categorical": options.categorical,
        "separator": options.separator,
        "decimal": options.decimal,
        "missing": options.missing,
    }
    table = load_features(options.context_of, target=options.target, **shared)
    num_rows = len(table.rows)
    if options.target is not None:
        # Rows without a target are left out of `table`.
        num_rows = len(load_features(options.context_of, **shared).rows)
    first, one = next(iter(models.items()))
    if num_rows != len(one):
        raise InputError(
            f"--context-of {quoted_path(options.context_of)} has"
            f" {counted(num_rows, 'row')} and {quoted(first)} {len(one):,}; expected a"
            " row for each example, in the same order"
        )
    target = table.target
    if target is not None and len(np.unique(target.values)) < 2:
        raise InputError(
            f"--target {quoted(target.name)} of {table.title} has one value; expected"
            " at least 2"
        )
    if len(table.rows) < _FEWEST_ROWS:
        raise InputError(
            f"{table.title} has {counted(len(table.rows), 'row')} with a target;"
            f" expected at least {_FEWEST_ROWS}"
        )
    notes = [Message(note.worded(as_words)) for note in table.notes]
    return table._replace(notes=notes)


def _compared(options: DiagnoseOptions, models: dict[str, np.ndarray]) -> Comparisons:
    import jax

    import contexture_jax as cx

    return cx.evaluation.compare_all(
        {name: _float32(x) for name, x in models.items()},
        options.measures,
        key=jax.random.key(options.seed),
        num_permutations=options.permutations,
    )


def _float32(x: np.ndarray) -> np.ndarray:
    """In units of the largest entry and less the mean, which float32 might not hold."""
    x = x - x.mean(axis=0)
    return (x / np.abs(x).max()).astype(np.float32)


def _geometry(models: dict[str, np.ndarray]) -> dict[str, Any]:
    import contexture_jax as cx

    # As given, as directions from 0 count.
    return {
        name: cx.evaluation.geometry((x / np.abs(x).max()).astype(np.float32))
        for name, x in models.items()
    }


def _drawn(
    options: DiagnoseOptions, models: dict[str, np.ndarray], table: Table | None
) -> tuple[np.ndarray, Table | None]:
    """Which rows of the embeddings, and the table of these."""
    num = len(next(iter(models.values()))) if table is None else len(table.rows)
    rows = np.arange(num)
    if num > options.max_rows:
        rows = np.random.default_rng(options.seed).permutation(rows)
        rows = np.sort(rows[: options.max_rows])
    if table is None:
        return rows, None
    target = table.target
    if target is not None:
        target = target._replace(values=target.values[rows])
    sub = table._replace(
        features=table.features[rows], rows=table.rows[rows], target=target
    )
    return sub.rows, sub


def _held(
    options: DiagnoseOptions,
    models: dict[str, np.ndarray],
    files: dict[str, np.ndarray],
    table: Table | None,
) -> dict[str, Any]:
    """Of each model its contexts, ranked, and what it tells of the target."""
    import jax

    import contexture_jax as cx

    chosen, sub = _drawn(options, models, table)
    some = {name: _float32(z[chosen]) for name, z in models.items()}
    contexts = contexts_of(options, chosen, files, sub)
    y, is_of_classes = None, False
    if sub is not None and sub.target is not None:
        y, is_of_classes = sub.target.values, sub.target.kind == "classes"
        if is_of_classes:
            y = np.unique(y, return_inverse=True)[1].astype(np.int32)
    keys = jax.random.split(jax.random.key(options.seed + 1), 3)
    shared = {"key": keys[0], "num_permutations": options.permutations}
    width = max(z.shape[1] for z in some.values())
    found: dict[str, Any] = {name: {"contexts": {}} for name in some}
    for context, make in contexts.items():
        with told_as_input(context):
            op = cx.association_operator(make())
            rank = min(width, cx.evaluation.num_singular_values(op))
            result, _ = cx.svd(op, rank, key=keys[1])
            for name, z in some.items():
                fit = cx.evaluation.context_fit(z, op, result.singular_values, **shared)
                found[name]["contexts"][context] = fit
    if y is not None:
        y = y if is_of_classes else y.astype(np.float32)
        for name, z in some.items():
            told = cx.diagnostics.input_output(z, y, **shared)
            found[name]["probe"] = told.score
            if is_of_classes:
                found[name]["neighbor_purity"] = cx.evaluation.neighbor_purity(
                    z, y, **shared
                )
                found[name]["between_classes"] = float(
                    cx.evaluation.units(z, y, key=keys[2], num_permutations=1).pooled
                )
    return found


def _publish(
    options: DiagnoseOptions,
    models: dict[str, np.ndarray],
    table: Table | None,
    found: tuple[Any, Any, Any],
    out: Path,
    stages: Stages,
    ending: Ending,
) -> None:
    """Draw, write and print."""
    from contexture_jax.cli import _diagnose_report as report
    from contexture_jax.cli._report import print_table, write_json

    with publishing(out, _FILES, ending) as folder:
        description = report.describe(options, models, table, found)
        with stages.stage("pictures"):
            if options.plots and len(models) > 1:
                report.draw(description, folder / "models.png")
        description["seconds"] = {**stages.seconds, "total": stages.total}
        write_json(description, folder / "diagnose.json")
        files = [name for name in _FILES if (folder / name).exists()]
    if not options.quiet:
        paths = [str(Path(options.out) / name) for name in files]
        print_table(report.rows_of_table(description, paths))
