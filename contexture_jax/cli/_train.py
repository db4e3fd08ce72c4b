"""`contexture train`: a table in; learned functions beside the exact ones out."""

from __future__ import annotations

import dataclasses
import functools
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contexture_jax.cli._contexts import Recipe, digest, load, plan_rank
from contexture_jax.cli._encoders import NUMBERED, plan_encoder, plan_output, plan_rate
from contexture_jax.cli._mix_words import MIX_FILE
from contexture_jax.cli._mixes import Built, build, plan
from contexture_jax.cli._train_options import TrainOptions, add_options
from contexture_jax.cli.session import (
    RUN,
    Ending,
    Interrupted,
    Processes,
    Stages,
    check_claimed,
    check_installed,
    check_out,
    check_run,
    claim_run,
    computing,
    joined,
    kept_of,
    made_inside,
    publishing,
    replacing,
    told_in_one_line,
)
from contexture_jax.data import InputError, Table

__all__ = ["DESCRIPTION", "TrainOptions", "add_options", "run"]

# In the order of publishing: whoever sees the JSON sees the rest.
_FILES = ("model.npz", "train.npz", "learned.png", "loss.png", "train.json")
_NEEDED = ("orbax.checkpoint", "sklearn")
_LOG_EVERY = 50  # steps; checkpoints are at some of these
# What of the options makes a run the run that it is.
_SETTINGS = (
    "steps",
    "batch_size",
    "weight_decay",
    "dtype",
    "seed",
    "devices",
    "strategy",
)
DESCRIPTION = f"""\
Learn the singular functions of a context on DATA with an encoder, and compare them with
the exact ones. Writes train.json, train.npz and pictures to a directory, and metrics
and checkpoints to its subdirectory run; --resume goes on from the last checkpoint, bit
for bit as if the run had never ended (on other --devices: to rounding).

{MIX_FILE}"""


def run(options: TrainOptions, ending: Ending) -> Path:
    """Train, extract, compare, draw and write.

    Args:
        options: what was asked for.
        ending: told what is kept if the run ends early.

    Returns:
        The directory with the results.

    Raises:
        InputError: if anything about the input, the output directory or the run that it
            holds is wrong. Results that were there are left as they were.
    """
    with joined(options, ending) as processes:
        return _run(options, ending, processes)


def _run(options: TrainOptions, ending: Ending, processes: Processes) -> Path:
    stages = Stages(quiet=options.quiet or not processes.is_first)
    with ExitStack() as stack:
        with processes.together():
            check_installed(*_NEEDED, plots=options.plots)
            out = check_out(options.out, _FILES, RUN)
        stack.enter_context(processes.watching(out, ending))
        with stages.stage("read"), processes.together():
            table = load(options)
            recipe = plan(options, table)
            encoder = plan_encoder(options, recipe)
            plan_rank(options.rank, recipe, recipe.num_triples)
            mesh = processes.mesh(options.devices)  # before JAX is used
            _check_devices(options, processes.count)
        # From here on those of all processes.
        num_devices = 1 if mesh is None else mesh.size
        options = dataclasses.replace(options, devices=num_devices)
        stack.enter_context(processes.claimed(out))
        stack.enter_context(computing(options.dtype))
        settings = _settings(options, recipe, table)
        facts = {"the command": "train", **settings, "resume": options.resume}
        processes.compare(lambda: facts)
        with processes.together():
            check_run(out / RUN, settings, resume=options.resume)
        with stages.stage("context") as advance, processes.together():
            from contexture_jax.cli import _train_report
            from contexture_jax.evaluation import num_singular_values

            built = build(options, recipe, table, advance)
            op = built.operator_at(None)
            most = num_singular_values(op)
            rank = plan_rank(options.rank, recipe, min(recipe.num_triples, most))
            encoder["output"] = plan_output(options, rank, op.shape[0])
        settings |= {"encoder": encoder, "rank": rank}
        with processes.together():
            if processes.is_first:
                folder = made_inside(out, RUN, stack)
                claim_run(folder, settings, resume=options.resume)
        ending.kept = lambda: kept_of(out / RUN, options.steps, ending.command)
        solve = functools.partial(
            _train_report.exact_spectrum, rank=rank, most=most, seed=options.seed
        )
        # Each process for itself: it is less than what is to come.
        with stages.stage("exact"):
            exact = solve(op)
        with processes.together():
            check_claimed(out / RUN)  # the exact solve may have taken long
        with stages.stage("train"), told_in_one_line(ending):
            learned = _learned(
                options, recipe, table, built, op, rank, encoder, mesh, out / RUN
            )
        if processes.count > 1 and learned.status == "interrupted":
            # Another was told to end, by what is ignored here; all ended at one step.
            raise Interrupted(signal.SIGTERM)
        with processes.together(waits=True):
            if not np.isfinite(learned.singular_values).all():
                raise InputError(
                    f"{learned.message}; no results were written: expected a smaller"
                    f" --learning-rate than {plan_rate(options):g}, and another --out"
                )
            if processes.is_first:
                done = _Trained(learned, exact, op, built, table, recipe, rank)
                _finish(done, settings, solve, out, stages, options, ending)
    return out


class _Trained(NamedTuple):
    """What is learned, what is exact and how sure that is, and of what."""

    learned: Any
    exact: tuple[Any, Any]
    op: Any
    built: Built
    table: Table
    recipe: Recipe
    rank: int


def _finish(
    done: _Trained,
    settings: dict[str, Any],
    solve: Callable[[Any], Any],
    out: Path,
    stages: Stages,
    options: TrainOptions,
    ending: Ending,
) -> None:
    """Compare, draw, write and print."""
    from contexture_jax.cli import _report, _train_report

    learned, (exact, exact_status), op = done.learned, done.exact, done.op
    with stages.stage("compare"):
        is_found = done.recipe.params.get("weights") == "minmax"
        weights = learned.weights if is_found else None
        if is_found:
            op = done.built.operator_at(weights)
            exact, exact_status = solve(op)
        beside = _beside(learned, done.built, weights, op, exact, solve, options.seed)
    description = {
        **settings,
        "num_rows": len(done.table.rows),
        **_train_report.describe(learned),
        "exact_status": exact_status,
        **beside,
        "probe": None,  # until the rest is written
        "notes": [
            *done.table.notes,
            *done.recipe.notes,
            *_train_report.tie_at(exact.singular_values, done.rank),
        ],
    }
    found = _Found(learned, exact, np.asarray(op.p_x), done.table)
    written, files = _publish(found, description, out, stages, options, ending)
    if learned.status == "non-finite":
        print(f"contexture: warning: {learned.message}", file=sys.stderr)
    if not options.quiet:
        paths = [str(Path(options.out) / name) for name in files]
        _report.print_table(_train_report.rows_of_table(written, paths))


def _beside(
    learned: Any,
    built: Built,
    weights: Any,
    op: Any,
    exact: Any,
    solve: Callable[[Any], Any],
    seed: int,
) -> dict[str, Any]:
    """The exact values, how sure they are if they are estimates, and how near Φ is."""
    from contexture_jax.cli import _train_report

    values = exact.singular_values[: len(learned.singular_values)]
    gaps = None
    if built.num_draws:
        other, _ = solve(built.operator_at(weights, 1))
        gaps = np.abs(other.singular_values[: len(values)] - values)
    return {
        "exact_singular_values": values,
        "exact_num_draws": built.num_draws,
        "exact_between_draws": gaps,
        **_train_report.compare(learned.left, exact, op, seed=seed),
    }


class _Found(NamedTuple):
    """What is learned, what is exact, and of what."""

    learned: Any
    exact: Any
    p_x: np.ndarray
    table: Table


def _learned(
    options: TrainOptions,
    recipe: Recipe,
    table: Table,
    built: Built,
    op: Any,
    rank: int,
    encoder: dict[str, Any],
    mesh: Any,
    directory: Path,
) -> Any:
    """Train an encoder on pairs of the context; a `cx.learning.Learned`."""
    import optax

    import contexture_jax as cx

    steps = options.steps
    # A label or a column is a number, a neighbour a row.
    x = table.features.astype(options.dtype) if recipe.name not in NUMBERED else None
    is_found = recipe.params.get("weights") == "minmax"
    schedule = cx.training.warmup_cosine(plan_rate(options), steps)
    is_table = encoder["kind"] == "table"  # which the library makes by itself
    given = {"output": encoder["output"]} if is_table else encoder
    every = min(_LOG_EVERY, steps)
    is_shown = not options.quiet and sys.stderr.isatty()
    with warnings.catch_warnings():
        # The command says in its own words how a run ended.
        warnings.simplefilter("ignore", RuntimeWarning)
        return cx.learning.learn(
            built.context,
            x,
            built.a,
            rank=rank,
            num_steps=steps,
            batch_size=options.batch_size,
            seed=options.seed,
            loss=options.loss,
            encoder=cx.learning.Encoder(**given),
            optimizer=optax.adamw(schedule, weight_decay=options.weight_decay),
            op=op,
            min_max=cx.losses.MinMax() if is_found else None,
            directory=directory,
            checkpoints=cx.training.Checkpoints(
                save_every=every * max(1, -(-steps // (10 * every)))  # ten at most
            ),
            logging=cx.training.Logging(log_every=every, progress=is_shown),
            devices=cx.training.Devices(strategy=options.strategy, mesh=mesh),
        )


def _publish(
    found: _Found,
    description: dict[str, Any],
    out: Path,
    stages: Stages,
    options: TrainOptions,
    ending: Ending,
) -> tuple[dict[str, Any], list[str]]:
    """Write all files, and then the probe; what the JSON holds, and their names."""
    from contexture_jax.cli import _report, _train_report

    learned, table = found.learned, found.table
    rank = len(learned.singular_values)
    exact_values = found.exact.singular_values[:rank]
    exact_left = np.asarray(found.exact.left[:, :rank])
    with publishing(out, _FILES, ending) as folder:
        with stages.stage("pictures"):
            if options.plots:
                gaps = description["exact_between_draws"]
                _draw(learned, exact_values, gaps, folder)
        held = _preprocessing(learned, table)
        learned.save(folder / "model.npz", preprocessing=held)
        np.savez(
            folder / "train.npz",
            learned_singular_values=learned.singular_values,
            learned_left=learned.left,
            exact_singular_values=exact_values,
            exact_left=exact_left,
            p_x=found.p_x,
            rows=table.rows,
        )
        written = _timed(description, stages)
        _report.write_json(written, folder / "train.json")
        files = [name for name in _FILES if (folder / name).exists()]
    if table.target is not None and len(table.target.values) == len(learned.left):
        # What is written by now does not hang on it.
        with stages.stage("probe"):
            probe, notes = _train_report.probed(
                learned.left, exact_left, table, options
            )
        description["probe"] = probe
        description["notes"] += notes
        written = _timed(description, stages)
        with replacing(out / "train.json") as path:
            _report.write_json(written, path)
    return written, files


def _preprocessing(learned: Any, table: Table) -> dict[str, Any]:
    """What `contexture embed` needs to know of the data."""
    takes = "features" if table.encodings else "numbered rows"
    functions = learned.functions
    parts = [part for _, part in functions.parts] or [functions]
    if any(_takes_classes(part.context) for part in parts):
        takes = "classes"
    columns = [encoding._asdict() for encoding in table.encodings]
    return {"takes": takes, "columns": columns}


def _takes_classes(context: Any) -> bool:
    """Whether T Ψ at new rows asks for their class, as that of labels does."""
    from contexture_jax.contexts import Composed, Labels

    parts = getattr(context, "contexts", ())
    # X of a chain is that of its first.
    parts = parts[:1] if isinstance(context, Composed) else parts
    return isinstance(context, Labels) or any(map(_takes_classes, parts))


def _timed(description: dict[str, Any], stages: Stages) -> dict[str, Any]:
    from contexture_jax.cli import _report

    seconds = {**stages.seconds, "total": stages.total}
    return _report.plain({**description, "seconds": seconds})


def _check_devices(options: TrainOptions, num_processes: int) -> None:
    count = options.devices * num_processes
    if options.batch_size % count:
        of = f" of {num_processes} processes" if num_processes > 1 else ""
        raise InputError(
            f"--batch-size {options.batch_size} cannot be shared by --devices"
            f" {options.devices}{of}; expected a multiple of {count}"
        )
    if num_processes > 1 and options.strategy == "pmap":
        raise InputError("--strategy pmap takes one process; expected jit or shard_map")


def _settings(options: TrainOptions, recipe: Recipe, table: Table) -> dict[str, Any]:
    """What makes a run the run that it is, as far as no operator is needed."""
    import contexture_jax as cx

    return {
        "version": cx.__version__,
        "data": table.title,
        "fingerprint": digest(table),  # of the numbers, not the path
        "context": recipe.name,
        "params": recipe.params,
        "loss": options.loss,
        **{name: getattr(options, name) for name in _SETTINGS},
        "learning_rate": plan_rate(options),
    }


def _draw(learned: Any, exact_values: Any, gaps: Any, folder: Path) -> None:
    """Draw values and losses; `gaps`: what other draws change, of an estimate."""
    from contexture_jax import plotting

    axes = plotting.plot_learned_spectrum(
        learned.singular_values, exact_values, exact_error=gaps
    )
    plotting.save(axes, folder / "learned.png")
    steps, losses = learned.history["step"], learned.history["loss"]
    plotting.save(plotting.plot_loss(steps, {"loss": losses}), folder / "loss.png")
