"""`contexture spectrum`: a table in; a spectrum, a verdict and pictures out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contexture_jax._core.threads import single_threaded_lapack
from contexture_jax.cli._contexts import (
    Recipe,
    build_context,
    load,
    plan_context,
    plan_rank,
)
from contexture_jax.cli._devices import make_mesh
from contexture_jax.cli._options import Options
from contexture_jax.cli._programs import kept_programs
from contexture_jax.cli._progress import Stages
from contexture_jax.cli._publish import check_out, claimed, publishing
from contexture_jax.cli._signals import Ending
from contexture_jax.data import InputError, Table

__all__ = ["precision", "print_table", "run"]


def run(options: Options, ending: Ending) -> Path:
    """Compute, judge, draw and write.

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
        _check_installed(plots=options.plots)
        out = check_out(options.out)
        table = load(options, sparse=not options.bootstrap)
        recipe = plan_context(options, table)
        plan_rank(options.rank, recipe, recipe.num_triples)
        mesh = make_mesh(options.devices)
    with claimed(out):
        _compute(options, ending, stages, out, table, recipe, mesh)
    return out


def _compute(
    options: Options,
    ending: Ending,
    stages: Stages,
    out: Path,
    table: Table,
    recipe: Recipe,
    mesh: Any,
) -> None:
    with kept_programs(), precision(options.dtype), single_threaded_lapack():
        with stages.stage("context") as advance:
            from contexture_jax.cli import _report, _solve
            from contexture_jax.operators import association_operator

            context = build_context(recipe, table, options.dtype, advance)
            op = association_operator(context, mesh=mesh)
            # Now exactly: points that are nobody's neighbours do not count.
            limit = min(recipe.num_triples, _solve.num_triples(op))
            rank = plan_rank(options.rank, recipe, limit)
        with stages.stage("spectrum"):
            spectrum = _solve.solve(
                op,
                rank,
                limit=limit,
                seed=options.seed,
                method=options.method,
                tol=options.tol,
                max_passes=options.max_passes,
            )
            _check_finite(spectrum)
        with stages.stage("judge"):
            judgement = _solve.judge(spectrum, op, table.target)
        sampling = None
        if options.bootstrap:
            with stages.stage("bootstrap"):
                sampling = _solve.sampling(
                    table.features,
                    rank,
                    num_replicates=options.bootstrap,
                    seed=options.seed,
                )
    with publishing(out, _report.FILES, ending) as folder:
        with stages.stage("pictures"):
            if options.plots:
                from contexture_jax.cli._pictures import draw

                draw(table, spectrum, judgement, sampling, folder)
        seconds = {**stages.seconds, "total": stages.total}
        description = _report.describe(
            options, table, recipe, spectrum, judgement, sampling, seconds
        )
        _report.write_arrays(table, spectrum, folder / "spectrum.npz")
        _report.write_json(description, folder / "spectrum.json")
        files = [name for name in _report.FILES if (folder / name).exists()]
    if spectrum.status.name == "MAX_PASSES":
        warning = f"not converged: {_report.advice(spectrum.status)}"
        print(f"contexture: warning: {warning}", file=sys.stderr)
    if not options.quiet:
        paths = [str(Path(options.out) / name) for name in files]
        print_table(_report.rows_of_table(description, paths))


def _check_installed(*, plots: bool) -> None:
    needed = ["platformdirs", "pyarrow", "rich", *(["matplotlib"] if plots else [])]
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(
            f"the command needs {', '.join(absent)}: pip install 'contexture_jax[cli]'"
        )


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Set JAX's x64 mode, and put it back for a caller in the same process."""
    import jax

    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _check_finite(spectrum: Any) -> None:
    if spectrum.status.name == "NON_FINITE":
        raise InputError(
            "the spectrum is not finite, so nothing was written: values of the data or"
            " parameters of the context are too extreme; rescale them, or pass --dtype"
            " float64"
        )


def print_table(rows: list[tuple[str, str]]) -> None:
    """Print (label, text) pairs in two columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, text in rows:
        loud = label == "status" and not text.startswith("converged")
        # As `Text`, which takes brackets in names as they are.
        table.add_row(label, Text(text, style="bold red" if loud else ""))
    # A pipe or a file has no width of its own.
    Console(width=None if sys.stdout.isatty() else 120).print(table)
