"""`contexture spectrum`: a table in; a spectrum, a verdict and pictures out."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contexture_jax.cli import _streamed
from contexture_jax.cli._arguments import (
    Options,
    add_context_options,
    add_data_options,
    add_output_options,
    add_process_options,
    add_rank_options,
    count,
    replicates,
    tolerance,
)
from contexture_jax.cli._contexts import (
    Recipe,
    build_context,
    check_belongs,
    digest,
    load,
    plan_context,
    plan_rank,
)
from contexture_jax.cli._spectrum_pictures import draw
from contexture_jax.cli._status import advice
from contexture_jax.cli.session import (
    SOLVE,
    Ending,
    Interrupted,
    Processes,
    Stages,
    WatchedSolve,
    check_installed,
    check_out,
    computing,
    joined,
    meanwhile,
    publishing,
)
from contexture_jax.data import InputError, Shards, Table, quoted_path

if TYPE_CHECKING:
    from contexture_jax import SolveInfo, SVDResult
    from contexture_jax.evaluation import (
        CountsJudgement,
        SpectrumJudgement,
        TargetJudgement,
    )
    from contexture_jax.solvers import Certificate

__all__ = ["DESCRIPTION", "SpectrumOptions", "add_options", "run"]

DESCRIPTION = """\
The spectrum of a context: compute the leading singular functions of the expectation
operator of a context on DATA, judge it, and write spectrum.json, spectrum.npz and
pictures to a directory. Ctrl-C and SIGTERM end the solver after the pass under way:
what it has found is judged and written, with the status "stopped". A long solve keeps
its state in the subdirectory solve, and --resume goes on from it, however the run was
ended, bit for bit as if it had not been (on other --devices: to rounding, where a
--method was named).
"""
METHODS = ("auto", "exact", "randomized", "krylov", "nystrom")
# In the order of publishing: whoever sees the JSON sees the rest.
_FILES = (
    "spectrum.npz",
    "spectrum.png",
    "tau.png",
    "functions.png",
    "energy.png",
    "spectrum.json",
)


@dataclasses.dataclass(frozen=True)
class SpectrumOptions(Options):
    """The arguments of `contexture spectrum`.

    Attributes:
        method: the solver.
        tol: the relative residual to stop at.
        max_passes: the bound on passes of the solver.
        bootstrap: how often to draw a sample of pairs anew; 0: not.
        resume: go on with the solve in `out`.
    """

    method: str = "auto"
    tol: float | None = None
    max_passes: int | None = None
    bootstrap: int = 0
    resume: bool = False


class Solved(NamedTuple):
    """A solved context and what the judges say of it, on the host.

    Attributes:
        result: the triples.
        info: how they were found.
        certificate: numerical bounds on the values and spans.
        p_x: shape (n,).
        p_a: shape (m,).
        num_values: how many values there are beside the trivial one.
    """

    result: SVDResult
    info: SolveInfo
    certificate: Certificate
    p_x: np.ndarray
    p_a: np.ndarray
    num_values: int


class Judged(NamedTuple):
    """What the judges say.

    Attributes:
        spectrum: of the singular values.
        target: of the target beside the functions, or None.
        counts: of a table of counts as a sample, or None.
    """

    spectrum: SpectrumJudgement
    target: TargetJudgement | None = None
    counts: CountsJudgement | None = None


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    add_data_options(parser.add_argument_group("data"))
    add_context_options(parser.add_argument_group("context"))
    solver = parser.add_argument_group("solver")
    add_rank_options(solver)
    _add_solver_options(solver)
    add_process_options(parser.add_argument_group("several processes"))
    add_output_options(parser.add_argument_group("output"))


def _add_solver_options(group: Any) -> None:
    group.add_argument("--method", choices=METHODS, default="auto", help="the solver")
    group.add_argument(
        "--tol",
        type=tolerance,
        help="relative residual to stop at, between 0 and 1",
    )
    group.add_argument(
        "--max-passes",
        type=count,
        metavar="N",
        help="bound on passes of the solver over the operator",
    )
    group.add_argument(
        "--bootstrap",
        type=replicates,
        default=0,
        metavar="N",
        help="of joint, where DATA counts independent pairs: intervals for the law"
        " behind them from N resamples, and N random pairings; default: 0",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the solve that --out holds, if one was ended there",
    )


def run(options: SpectrumOptions, ending: Ending) -> Path:
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
    with joined(options, ending) as processes:
        out, signal = _run(options, ending, processes)
    # The results are whole; the exit status tells that there were more to come.
    if signal:
        raise Interrupted(signal)
    return out


def _run(options: SpectrumOptions, ending: Ending, processes: Processes) -> Any:
    stages = Stages(quiet=options.quiet or not processes.is_first)
    # What can be refused is refused before anything is computed or written.
    with processes.together():
        check_installed(plots=options.plots)
        out = check_out(options.out, _FILES, SOLVE)
    with processes.watching(out, ending):
        with stages.stage("read"), processes.together():
            shards = _streamed.opened(options)
            table: Any = None  # of shards, until their passes are made
            # 0 is the default, and no choice of the user's.
            wanted = options.bootstrap or None
            check_belongs("--bootstrap", wanted, "joint", options.context)
            if shards is not None:
                processes.check_alone("a folder of shards")
                _streamed.check_streamed("--bootstrap", options.bootstrap, shards)
                recipe = _streamed.recipe_of(shards)
            else:
                # Resamples of pairs are dense tables.
                sparse = not options.bootstrap
                table = load(options, sparse=sparse, share=processes.share())
                recipe = plan_context(options, table)
            plan_rank(options.rank, recipe, recipe.num_triples)
            # Before JAX is used, which fixes how many devices a CPU is cut into.
            mesh = processes.mesh(options.devices)
        solve = WatchedSolve(out, ending, processes)
        with processes.claimed(out), solve:
            settings = _settings(options, recipe)
            more = {name: getattr(options, name) for name in ("rank", "resume")}
            facts = {"the command": "spectrum", **settings, **more}
            processes.compare(lambda: {**facts, "data": digest(table)})
            with processes.together():
                if options.resume:
                    solve.check(settings)
            with computing(options.dtype):
                table, solved, judged = _computed(
                    options, shards, table, recipe, mesh, stages, solve, processes
                )
            # What is told of float64 is worked out in it.
            with computing(options.dtype), processes.together(waits=True):
                if processes.is_first:
                    devices = 1 if mesh is None else mesh.size
                    told = dataclasses.replace(options, devices=devices)
                    _publish(told, table, recipe, solved, judged, out, stages, ending)
            is_stopped = solved.info.status == "stopped"
            solve.is_published(float(solved.info.num_passes) if is_stopped else None)
    return out, solve.signal


def _computed(
    options: SpectrumOptions,
    shards: Shards | None,
    table: Any,
    recipe: Recipe,
    mesh: Any,
    stages: Stages,
    solve: WatchedSolve,
    processes: Processes,
) -> tuple[Table, Solved, Judged]:
    with stages.stage("context") as advance:
        import contexture_jax as cx

        if options.plots and processes.is_first:
            # Matplotlib takes a while to import, and pictures come last.
            meanwhile(lambda: importlib.import_module("contexture_jax.plotting"))
        if shards is not None:
            folder = solve.folder(_settings(options, recipe)) / "passes"
            op = _streamed.streamed_context(shards, options, folder)
            table = _streamed.placeholder(shards, op.shape)
        else:
            context = build_context(recipe, table, options.dtype, advance, mesh)
            op = cx.association_operator(context, mesh=mesh)
        # Now exactly: points that are nobody's neighbours do not count.
        there = cx.evaluation.num_singular_values(op)
        num_values = min(recipe.num_triples, there)
        with processes.together():
            rank = plan_rank(options.rank, recipe, num_values)
    with stages.stage("spectrum") as advance:
        settings = {**_settings(options, recipe), "rank": rank}
        with processes.together():
            state = solve.begin(settings, advance, resume=options.resume)
        # The certificate's programs, while the solver runs its own.
        method: Any = options.method
        wait = processes.meanwhile(
            lambda: cx.solvers.compile_certificate(op, rank, method)
        )
        try:
            result, info = _result(op, rank, options, solve, state)
        except InputError:
            # JAX would warn of the precision that is put back while it compiles.
            wait()
            raise
        # Else `certify` would compile the same beside the thread.
        wait()
        solved = _solved(result, info, op, num_values, options, processes)
        _check_finite(solved)
    with stages.stage("judge"):
        spectrum = cx.evaluation.judge_spectrum(
            solved.result, solved.info, op, num_values=num_values
        )
        target = None
        if table.target is not None:
            target = cx.evaluation.judge_target(
                table.target.values,
                solved.result.left,
                op,
                num_classes=len(table.target.class_names) or None,
            )
    counts = None
    if options.bootstrap:
        with stages.stage("bootstrap"):
            counts = _resampled(options, table, rank)
    return table, solved, Judged(spectrum, target, counts)


def _settings(options: SpectrumOptions, recipe: Recipe) -> dict[str, Any]:
    """What of the options makes a solve the solve that it is; the rank is beside."""
    # Neither devices, which change rounding alone, nor the data: a state knows whether
    # it fits an operator.
    names = ("dtype", "seed", "method", "tol", "max_passes")
    return {
        "context": recipe.name,
        "params": recipe.params,
        **{name: getattr(options, name) for name in names},
    }


def _result(
    op: Any, rank: int, options: SpectrumOptions, solve: WatchedSolve, state: Any
) -> tuple[SVDResult, SolveInfo]:
    import jax

    import contexture_jax as cx

    try:
        found = cx.svd(
            op,
            rank,
            key=jax.random.key(options.seed),
            method=options.method,  # pyright: ignore[reportArgumentType]
            tol=options.tol,
            max_passes=options.max_passes,
            on_step=solve.on_step,
            state=state,
        )
    except ValueError as error:
        # An error of the program; with a state, one that is of another operator.
        if state is None:
            raise
        raise InputError(
            f"--out {quoted_path(options.out)} holds a solve of other data: {error};"
            " expected the same DATA, or another --out"
        ) from error
    # A signal that comes while this is certified, judged and drawn ends the run.
    solve.end_of_passes()
    return found


def _solved(
    result: SVDResult,
    info: SolveInfo,
    op: Any,
    num_values: int,
    options: Options,
    processes: Processes,
) -> Solved:
    import jax

    import contexture_jax as cx

    # With random probes of what was not found: where the tail is heavy, bounds from its
    # energy alone say nothing.
    # A key of its own: a probe bounds what was missed if no solver has seen it
    # (theory.md §6.11).
    key = jax.random.key(options.seed + 1)
    if cx.operators.is_streamed(op):
        # Each pass of probes would read all of it; the energy of the tail is at hand.
        certificate = cx.solvers.certify(result, info)
    else:
        certificate = cx.solvers.certify(result, info, op, key=key)
    # At once, to the host, where the rest of the command reads them.
    arrays = result, info, certificate, op.p_x, op.p_a
    result, info, certificate, p_x, p_a = processes.whole(arrays)
    return Solved(result, info, certificate, p_x, p_a, num_values)


def _check_finite(solved: Solved) -> None:
    if solved.info.status == "non-finite":
        raise InputError(
            "the spectrum is not finite, so nothing was written: values of the data or"
            " parameters of the context are too extreme; rescale them, or pass --dtype"
            " float64"
        )


def _resampled(options: SpectrumOptions, table: Table, rank: int) -> CountsJudgement:
    import jax

    import contexture_jax as cx

    # Apart from those of the solver and of the certificate.
    key = jax.random.key(options.seed + 2)
    try:
        return cx.evaluation.judge_counts(
            table.features, rank, key=key, num_replicates=options.bootstrap
        )
    except ValueError as error:
        raise InputError(
            f"--bootstrap takes a table that counts pairs: {error}"
        ) from None


def _publish(
    options: SpectrumOptions,
    table: Table,
    recipe: Recipe,
    solved: Solved,
    judged: Judged,
    out: Path,
    stages: Stages,
    ending: Ending,
) -> None:
    """Draw, write and print."""
    from contexture_jax.cli import _report

    with publishing(out, _FILES, ending) as folder:
        with stages.stage("pictures"):
            if options.plots:
                draw(table, solved, judged, folder)
        # After the pictures, whose seconds are among them.
        seconds = {**stages.seconds, "total": stages.total}
        description = _report.describe(
            options, table, recipe, solved, judged, seconds, tol=options.tol
        )
        _report.write_arrays(table, solved, folder / "spectrum.npz")
        _report.write_json(description, folder / "spectrum.json")
        files = [name for name in _FILES if (folder / name).exists()]
    # Loudly, on stderr too: a table in a file is not read at once.
    if solved.info.status.name == "MAX_PASSES":
        warning = f"not converged: {advice(solved.info.status)}"
        print(f"contexture: warning: {warning}", file=sys.stderr)
    if not options.quiet:
        paths = [str(Path(options.out) / name) for name in files]
        _report.print_table(_report.rows_of_table(description, paths))
