"""`contexture rank`: a table in; many contexts, solved, judged and compared, out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contexture_jax.cli._arguments import (
    Options,
    add_data_options,
    add_output_options,
    count,
    seed,
    several,
    tolerance,
)
from contexture_jax.cli._rank_data import Beside, columns_of, load
from contexture_jax.cli._rank_family import (
    PRESETS,
    kinds,
    kinds_of,
    mixtures,
    specs_of,
)
from contexture_jax.cli._rank_subsets import told_of_all
from contexture_jax.cli.session import (
    Advance,
    Ending,
    Interrupted,
    Stages,
    check_installed,
    check_out,
    check_same,
    claimed,
    computing,
    made_inside,
    publishing,
    replacing,
    resumed,
)
from contexture_jax.data import InputError, Table, quoted_path

if TYPE_CHECKING:
    from contexture_jax.evaluation import Interval
    from contexture_jax.ranking import ContextSpec, NamedContext, RankedContext

    Spec = ContextSpec | NamedContext

__all__ = ["DESCRIPTION", "RankOptions", "add_options", "run"]

DESCRIPTION = """\
Which of many contexts of DATA is worth training on: solve each, judge it by its
spectrum, and, with --target, by the error of a ridge probe on its functions. Writes
rank.json and pictures to a directory. No number of dimensions is recommended by tau
alone: beside its d stand the d that keeps a share of the energy and, with --target, the
d that validation prefers. Where tau cannot tell, it abstains and says so; places with a
= are tied. What is infinite, as tau where every value is 1, is null in rank.json and
named in "infinite" there.

--preset published: 140 contexts of the rows: RBF and k-NN, and the mean of both over 50
masks that leave out 20 % of the columns, 35 settings each; gamma from 1/100 to 100 over
the median squared distance, K from 2 to half of the rows. --preset all, the default,
has two kinds more. scarf replaces cells of a row by those of other rows, at up to nine
rates; its law is by drawing, four values for each row, and of numbers told to four
quantiles: a cell that no other row has would tell the row, while train, which corrupts
the cells themselves, learns functions that are smooth in them. mix has convex
combinations with three weights, convolutions and joins of the best knn, rbf and scarf
of these, each with the others, as train --mix learns them. --contexts picks kinds one
by one.

Beside these --context-column takes what a column of DATA holds as a context, its
classes or rows that are near in it, and --teacher the whitened features of a file, row
for row, or --teacher-column those of columns. Such columns are left out of the
features, and the target is in no context. Columns of classes are mixed too.

Spectra are of all rows, and see no target; the probe is fitted, chosen and judged on
three parts of the rows. Of a larger table --max-rows are drawn, which all of this is
then of; with --subsets rbf, knn and their masked versions have an interval for tau of
all rows, too, from so many subsets of max_dim log max_dim rows (no more than
--max-rows) and their halves and quarters, K in proportion. It is told at a confidence
of .9, and abstains where subsets do not resolve a context; 8 take about as long as ten
rankings of so many rows.

Each context is kept as it is done: Ctrl-C and SIGTERM end the run after the one under
way, with the results so far, and --resume goes on, however the run was ended. Without
it a directory that holds such a run is refused.
"""
# In the order of publishing: whoever sees the JSON sees the rest.
_FILES = (
    "tau_error.png",
    "association_error.png",
    "tau_columns.png",
    "association_columns.png",
    "rank.json",
)
_FOLDER = "rank"
_KEPT = "*-*.json"  # of contexts, which are named by `_file`
_SETTINGS = ("settings", "masks", "max_dim", "splits", "max_rows")


@dataclasses.dataclass(frozen=True)
class RankOptions(Options):
    """The arguments of `contexture rank`.

    Attributes:
        preset: the family of contexts.
        contexts: kinds of contexts, in place of a preset.
        context_column: columns that are contexts.
        teacher: files of features, row for row.
        teacher_column: columns that are together the features of a teacher.
        settings: how many of each type.
        masks: how many masks a masked context is the mean of.
        max_dim: d0 of τ.
        splits: of the probe.
        max_rows: as many rows are drawn of a larger table.
        subsets: how many, that τ of all rows of a larger table is told from.
        energy_share: what share of Σ s_i² a number of functions is told for.
        tol: the relative residual of a solve.
        resume: go on with the run in `out`.
    """

    preset: str = "all"
    contexts: Sequence[str] = ()
    context_column: Sequence[str] = ()
    teacher: Sequence[str] = ()
    teacher_column: Sequence[str] = ()
    settings: int = 35
    masks: int = 50
    max_dim: int = 512
    splits: int = 5
    max_rows: int = 5000
    subsets: int = 0
    energy_share: float = 0.9
    tol: float = 0.03
    resume: bool = False


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    add_data_options(parser.add_argument_group("data"))
    group = parser.add_argument_group("contexts")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--preset", choices=PRESETS, default="all", help="default: %(default)s"
    )
    either.add_argument(
        "--contexts",
        type=kinds,
        default=(),
        metavar="KIND,KIND,…",
        help=f"in place of a preset: some of {','.join(PRESETS['all'])}",
    )
    for option, metavar, what in (
        ("--context-column", "COLUMN", "take this column as a context"),
        ("--teacher", "FILE", "take the features of this file as a context"),
        ("--teacher-column", "COLUMN", "take this column, with others, as a teacher"),
    ):
        group.add_argument(
            option,
            action="append",
            default=[],
            metavar=metavar,
            help=f"{what}; once for each",
        )
    for option, default, what in (
        ("--settings", 35, "contexts of each type"),
        ("--masks", 50, "masks that a masked context is the mean of"),
        (
            "--max-dim",
            512,
            "d0 of tau; one function more is computed, and may be the best",
        ),
        ("--splits", 5, "random splits that errors are the mean over"),
        ("--max-rows", 5000, "draw so many rows of a larger table"),
    ):
        group.add_argument(
            option,
            type=count,
            default=default,
            metavar="N",
            help=f"{what}; default: %(default)s",
        )
    group.add_argument(
        "--subsets",
        type=several,  # one has no spread
        default=0,
        metavar="N",
        help="of --max-rows: tell tau of all rows from so many subsets; default: none",
    )
    for option, default, what in (
        ("--energy-share", 0.9, "of the sum of s_i^2, which a d is told for"),
        ("--tol", 0.03, "relative residual of solves of more than 2,000 rows"),
    ):
        group.add_argument(
            option,
            type=tolerance,
            default=default,
            metavar="X",
            help=f"{what}; default: %(default)s",
        )
    group.add_argument("--seed", type=seed, default=0, help="default: 0")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run that --out holds, if one was ended there",
    )
    add_output_options(output)


def run(options: RankOptions, ending: Ending) -> Path:
    """Solve, judge, compare, draw and write.

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
        check_installed(plots=options.plots)
        out = check_out(options.out, _FILES, _FOLDER)
        table, beside = load(options)
    with claimed(out), computing("float32"), contextlib.ExitStack() as stack:
        with stages.stage("contexts") as advance:
            specs, ranked, number = _ranked(
                options, table, beside, out, ending, stack, advance
            )
        of_all: dict[str, Interval] = {}
        if options.subsets and beside.all_features is not None and not number:
            with stages.stage("subsets") as advance, ending.asked() as is_told:
                try:
                    of_all = told_of_all(
                        options, table, beside, specs, out / _FOLDER, advance, is_told
                    )
                except Interrupted as told:
                    number = told.number
        _publish(options, table, beside, specs, ranked, of_all, out, stages, ending)
        folder = quoted_path(out)
        if number:
            ending.kept = lambda: (
                f"the results of {len(ranked)} of {len(specs)} contexts are in"
                f" {folder}; go on with: {resumed(ending.command)}"
            )
            raise Interrupted(number)
        shutil.rmtree(out / _FOLDER, ignore_errors=True)
    return out


def _ranked(
    options: RankOptions,
    table: Table,
    beside: Beside,
    out: Path,
    ending: Ending,
    stack: contextlib.ExitStack,
    advance: Advance,
) -> tuple[list[Spec], list[RankedContext], int]:
    """The family, what of it was done, and the signal that ended it or 0."""
    from contexture_jax import ranking

    try:
        probe = None
        if table.target is not None:
            y = table.target.values
            probe = ranking.RidgeProbe(y, num_splits=options.splits, seed=options.seed)
        specs = specs_of(options, table, beside)
    except ValueError as error:
        raise InputError(f"{table.title} has no ranking: {error}") from error
    folder = _begun(options, table, beside, out, stack)
    found: dict[str, RankedContext] = {}
    number = 0
    with ending.asked() as is_told:

        def keep(row: RankedContext) -> bool:
            nonlocal number
            found[row.spec.name] = row
            with replacing(_file(folder, row.spec)) as path:
                path.write_text(_as_text(row), encoding="utf-8")
            advance(len(found), len(specs), f"{len(found)} of {len(specs)}")
            number = is_told()
            return bool(number)

        def solve(some: Sequence[Spec]) -> None:
            found.update(_kept(folder, some))
            ranking.rank_contexts(
                table.features,
                [] if number else [spec for spec in some if spec.name not in found],
                columns=columns_of(table),
                probe=probe,
                max_dim=options.max_dim,
                energy_share=options.energy_share,
                tol=options.tol,
                seed=options.seed,
                on_context=keep,
            )

        solve(specs)
        if len(found) == len(specs):
            mixed = mixtures(options, table, [found[spec.name] for spec in specs])
            specs = [*specs, *mixed]
            solve(mixed)
    return specs, [found[spec.name] for spec in specs if spec.name in found], number


def _begun(
    options: RankOptions,
    table: Table,
    beside: Beside,
    out: Path,
    stack: contextlib.ExitStack,
) -> Path:
    """Make the folder of the run, or find that it holds the same run."""
    folder, path = out / _FOLDER, out / _FOLDER / "settings.json"
    contents = hashlib.sha256(np.ascontiguousarray(table.features).tobytes())
    if beside.all_features is not None:
        contents.update(np.ascontiguousarray(beside.all_features).tobytes())
    if table.target is not None:
        contents.update(table.target.values.tobytes())
    for name, values in (*beside.columns.items(), *beside.teachers.items()):
        contents.update(name.encode() + np.ascontiguousarray(values).tobytes())
    names = (*_SETTINGS, "energy_share", "tol", "seed")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings |= {"contexts": list(kinds_of(options)), "contents": contents.hexdigest()}
    if path.exists() and options.resume:
        check_same(path, settings)
        return folder
    # As of a run of `train`: one that kept nothing is begun anew.
    if any(folder.glob(_KEPT)):
        raise InputError(
            f"{quoted_path(folder)} holds a run already; expected --resume to go on"
            " with it, another --out, or that directory deleted"
        )
    shutil.rmtree(folder, ignore_errors=True)
    made_inside(out, _FOLDER, stack)
    with replacing(path) as partial:
        partial.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return folder


def _file(folder: Path, spec: Spec) -> Path:
    """Where a context is kept: names may hold what file names may not."""
    readable = re.sub(r"[^A-Za-z0-9.+-]", "_", spec.name)[:80]
    mark = hashlib.sha256(spec.name.encode()).hexdigest()[:8]
    return folder / f"{readable}-{mark}.json"


def _as_text(row: RankedContext) -> str:
    """JSON, with numbers that are not finite as Python's takes them, and a digest."""
    probe = None if row.probe is None else row.probe._asdict()
    held = row._asdict() | {"spec": row.spec.name, "probe": probe}
    # As it is read again, where tuples are lists.
    held = json.loads(json.dumps(held))
    return json.dumps({"digest": _digest(held), "row": held}) + "\n"


def _as_written(text: str) -> Any:
    """What `_as_text` was given.

    Raises:
        ValueError: if it is another's, as of a digit that was changed.
    """
    said = json.loads(text)
    if said["digest"] != _digest(said["row"]):
        raise ValueError("it is not what was written")
    return said["row"]


def _digest(held: Any) -> str:
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def _kept(folder: Path, specs: Iterable[Spec]) -> dict[str, RankedContext]:
    """Those that were done before, by name."""
    from contexture_jax import ranking

    found = {}
    for spec in specs:
        path = _file(folder, spec)
        if not path.exists():
            continue
        try:
            held = _as_written(path.read_text(encoding="utf-8"))
            probe = held["probe"] and ranking.ProbeErrors(**held["probe"])
            row = ranking.RankedContext(**held | {"spec": spec, "probe": probe})
        # A file is there whole or not at all: somebody has changed it.
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{quoted_path(path)} is damaged ({error}); expected it deleted, so"
                " that its context is solved anew"
            ) from error
        found[spec.name] = row
    return found


def _publish(
    options: RankOptions,
    table: Table,
    beside: Beside,
    specs: list[Spec],
    ranked: list[RankedContext],
    of_all: dict[str, Interval],
    out: Path,
    stages: Stages,
    ending: Ending,
) -> None:
    """Draw, write and print."""
    from contexture_jax.cli import _rank_report as report
    from contexture_jax.cli._report import write_json

    with publishing(out, _FILES, ending) as folder:
        with stages.stage("pictures"):
            if options.plots:
                target = None if table.target is None else table.target.name
                report.draw(ranked, target, folder)
        seconds = {**stages.seconds, "total": stages.total}
        description = report.describe(
            options, table, beside, specs, ranked, of_all, seconds
        )
        write_json(description, folder / "rank.json")
        files = [name for name in _FILES if (folder / name).exists()]
    if not options.quiet:
        paths = [str(Path(options.out) / name) for name in files]
        report.print_ranking(description, paths)
