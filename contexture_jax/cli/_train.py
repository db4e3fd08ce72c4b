"""`contexture train`: a table in; learned functions beside the exact ones out."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from contexture_jax._core.words import rounded
from contexture_jax.cli._contexts import (
    Recipe,
    build_context,
    load,
    plan_context,
    plan_rank,
)
from contexture_jax.cli._probe import probed
from contexture_jax.cli._train_options import TrainOptions
from contexture_jax.cli.session import (
    RUN,
    Ending,
    Stages,
    check_claimed,
    check_installed,
    check_out,
    claim_run,
    claimed,
    computing,
    kept_of,
    make_mesh,
    publishing,
    replacing,
    told_in_one_line,
)
from contexture_jax.data import InputError, Table, counted, quoted_path

__all__ = ["run"]

# In the order of publishing: whoever sees the JSON sees the rest.
_FILES = ("model.npz", "train.npz", "learned.png", "loss.png", "train.json")
_NEEDED = ("orbax.checkpoint", "platformdirs", "pyarrow", "rich", "sklearn")
_LARGEST_OUTPUT = 512
_HIDDEN = (512, 512)
_NUMBERED = ("joint", "graph")  # contexts whose rows have no features
_LOG_EVERY = 50
_MEASURES = (
    ("ratio_trace", "ratio trace"),
    ("cca", "CCA"),
    ("mutual_knn", "mutual k-NN"),
    ("cka", "CKA"),
)


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
    base = options.base
    stages = Stages(quiet=base.quiet)
    with stages.stage("read"):
        check_installed([*_NEEDED, *(["matplotlib"] if base.plots else [])])
        out = check_out(base.out)
        table = load(base)
        recipe = plan_context(base, table)
        _check_loss(options, recipe)
        encoder = _encoder(options, recipe)
        plan_rank(base.rank, recipe, recipe.num_triples)
        mesh = make_mesh(base.devices)
        _check_batch(options)
    with computing(base.dtype), ExitStack() as stack:
        with stages.stage("context") as advance:
            from contexture_jax.cli import _compare, _report
            from contexture_jax.evaluation import num_singular_values
            from contexture_jax.operators import association_operator

            context = build_context(recipe, table, base.dtype, advance)
            op = association_operator(context)
            most = num_singular_values(op)
            rank = plan_rank(base.rank, recipe, min(recipe.num_triples, most))
        output = _output(options, rank)
        settings = _settings(options, recipe, rank, output, table, encoder)
        stack.enter_context(_run_of(out, settings, ending, resume=options.resume))
        with stages.stage("exact"):
            exact, exact_status = _compare.exact_spectrum(
                op, rank, most, seed=base.seed
            )
        check_claimed(out / RUN)
        with stages.stage("train"), told_in_one_line(ending):
            learned = _learned(
                options, recipe, table, context, op, rank, output, mesh, out / RUN
            )
        if not np.isfinite(learned.singular_values).all():
            raise InputError(
                f"{learned.message}; no results were written: expected a smaller"
                f" --learning-rate than {options.learning_rate:g}, and another --out"
            )
        with stages.stage("compare"):
            comparison = _compare.compare(learned.left, exact, op, seed=base.seed)
        description = {
            **settings,
            "num_rows": len(table.rows),
            **_described(learned),
            "exact_singular_values": exact.singular_values[:rank],
            "exact_status": exact_status,
            **comparison,
            "probe": None,
            "notes": [
                *table.notes,
                *recipe.notes,
                *_compare.tie_at(exact.singular_values, rank),
            ],
        }
        found = _Found(learned, exact, np.asarray(op.p_x), table)
        written, files = _publish(found, description, out, stages, options, ending)
    if learned.status == "non-finite":
        print(f"contexture: warning: {learned.message}", file=sys.stderr)
    if not base.quiet:
        paths = [str(Path(base.out) / name) for name in files]
        _report.print_table(_rows(written, paths))
    return out


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
    context: Any,
    op: Any,
    rank: int,
    output: int,
    mesh: Any,
    directory: Path,
) -> Any:
    """Train an encoder on pairs of the context; a `cx.learning.Learned`."""
    import optax

    import contexture_jax as cx

    base, steps = options.base, options.steps
    # A label or a column is a number, a neighbour a row.
    x = table.features.astype(base.dtype) if recipe.name not in _NUMBERED else None
    a = x if recipe.name in ("knn", "rbf") else None
    schedule = cx.training.warmup_cosine(options.learning_rate, steps)
    every = min(_LOG_EVERY, steps)
    is_shown = not base.quiet and sys.stderr.isatty()
    with warnings.catch_warnings():
        # The command says in its own words how a run ended.
        warnings.simplefilter("ignore", RuntimeWarning)
        return cx.learning.learn(
            context,
            x,
            a,
            rank=rank,
            num_steps=steps,
            batch_size=options.batch_size,
            seed=base.seed,
            loss=options.loss,
            encoder=cx.learning.Encoder(
                kind=options.encoder,
                hidden=tuple(_HIDDEN if options.hidden is None else options.hidden),
                activation=options.activation,
                output=output,
            ),
            optimizer=optax.adamw(schedule, weight_decay=options.weight_decay),
            op=op,
            directory=directory,
            checkpoints=cx.training.Checkpoints(
                save_every=every * max(1, -(-steps // (10 * every)))
            ),
            logging=cx.training.Logging(log_every=every, progress=is_shown),
            devices=cx.training.Devices(strategy=options.strategy, mesh=mesh),
        )


def _described(learned: Any) -> dict[str, Any]:
    import jax

    losses = learned.history.get("loss", np.zeros(0))
    leaves = jax.tree.leaves([tower.params for tower in learned.towers.values()])
    return {
        "status": learned.status,
        "message": learned.message,
        "steps_done": learned.num_steps,
        "parameters": sum(leaf.size for leaf in leaves),
        "loss_last": float(losses[-1]) if len(losses) else None,
        "learned_singular_values": learned.singular_values,
    }


def _publish(
    found: _Found,
    description: dict[str, Any],
    out: Path,
    stages: Stages,
    options: TrainOptions,
    ending: Ending,
) -> tuple[dict[str, Any], list[str]]:
    """Write all files, and then the probe; what the JSON holds, and their names."""
    from contexture_jax.cli import _report

    learned, table = found.learned, found.table
    rank = len(learned.singular_values)
    exact_values = found.exact.singular_values[:rank]
    exact_left = np.asarray(found.exact.left[:, :rank])
    with publishing(out, _FILES, ending) as folder:
        with stages.stage("pictures"):
            if options.base.plots:
                _draw(learned, exact_values, folder)
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
            probe, notes = probed(learned.left, exact_left, table, options.base)
        description["probe"] = probe
        description["notes"] += notes
        written = _timed(description, stages)
        with replacing(out / "train.json") as path:
            _report.write_json(written, path)
    return written, files


def _preprocessing(learned: Any, table: Table) -> dict[str, Any]:
    """What `contexture embed` needs to know of the data."""
    takes = "features" if table.encodings else "numbered rows"
    if type(learned.functions.context).__name__ == "Labels":
        takes = "classes"
    columns = [encoding._asdict() for encoding in table.encodings]
    return {"takes": takes, "columns": columns}


def _timed(description: dict[str, Any], stages: Stages) -> dict[str, Any]:
    from contexture_jax.cli import _report

    seconds = {**stages.seconds, "total": stages.total}
    return _report.plain({**description, "seconds": seconds})


@contextmanager
def _run_of(
    out: Path, settings: dict[str, Any], ending: Ending, *, resume: bool
) -> Iterator[None]:
    """Hold the directory of the run, in which other runs find that it is held."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {quoted_path(out)} cannot be made: {error.strerror or error};"
            " name another directory"
        ) from error
    with claimed(out):
        claim_run(out / RUN, settings, resume=resume)
        ending.kept = lambda: kept_of(out / RUN, settings["steps"], ending.command)
        yield


def _check_loss(options: TrainOptions, recipe: Recipe) -> None:
    if recipe.name == "teacher" and options.loss != "kise":
        raise InputError(
            "--context teacher is a kernel on rows, without values of A to embed;"
            f" expected --loss kise, got --loss {options.loss}"
        )


def _check_batch(options: TrainOptions) -> None:
    devices = options.base.devices
    if options.batch_size % devices:
        raise InputError(
            f"--batch-size {options.batch_size} cannot be shared by --devices"
            f" {devices}; expected a multiple"
        )


def _output(options: TrainOptions, rank: int) -> int:
    """The width of the embedding."""
    if options.output is None:
        if options.loss == "joint_nesting":
            return rank
        wide = min(4 * rank, _LARGEST_OUTPUT, options.batch_size // 4)
        return max(rank, wide)
    if options.output < rank:
        raise InputError(
            f"--output {options.output} is less than the {counted(rank, 'function')} to"
            f" learn; expected --output {rank} or more, or a smaller --rank"
        )
    return options.output


def _encoder(options: TrainOptions, recipe: Recipe) -> dict[str, Any]:
    """What embeds the rows.

    Raises:
        InputError: if the rows are not what the encoder embeds.
    """
    if recipe.name in _NUMBERED:
        if options.encoder != "mlp" or options.hidden is not None:
            raise InputError(
                f"--context {recipe.name} has numbered rows, without features to embed:"
                " each gets an embedding of its own; expected neither --encoder nor"
                " --hidden"
            )
        return {"kind": "table"}
    if options.encoder == "mlp":
        hidden = _HIDDEN if options.hidden is None else options.hidden
        return {
            "kind": "mlp",
            "hidden": list(hidden),
            "activation": options.activation,
        }
    if options.hidden is not None:
        raise InputError(
            f"--hidden is of --encoder mlp; got --encoder {options.encoder}"
        )
    return {"kind": options.encoder, "activation": options.activation}


def _settings(
    options: TrainOptions,
    recipe: Recipe,
    rank: int,
    output: int,
    table: Table,
    encoder: dict[str, Any],
) -> dict[str, Any]:
    """What makes a run the run that it is."""
    import contexture_jax as cx

    base = options.base
    content = hashlib.sha256(np.ascontiguousarray(table.features).data)
    if table.target is not None:
        content.update(np.asarray(table.target.values).astype(str).tobytes())
    return {
        "version": cx.__version__,
        "data": table.title,
        "fingerprint": content.hexdigest()[:16],
        "context": recipe.name,
        "params": recipe.params,
        "loss": options.loss,
        "encoder": {**encoder, "output": output},
        "rank": rank,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "dtype": base.dtype,
        "seed": base.seed,
        "devices": base.devices,
        "strategy": options.strategy,
    }


def _draw(learned: Any, exact_values: Any, folder: Path) -> None:
    from contexture_jax import plotting

    axes = plotting.plot_learned_spectrum(learned.singular_values, exact_values)
    plotting.save(axes, folder / "learned.png")
    steps, losses = learned.history["step"], learned.history["loss"]
    plotting.save(plotting.plot_loss(steps, {"loss": losses}), folder / "loss.png")


def _rows(d: dict[str, Any], files: list[str]) -> list[tuple[str, str]]:
    """The report as (label, text) pairs, in the order to read them."""
    params = ", ".join(f"{key} = {value}" for key, value in d["params"].items())
    encoder = d["encoder"]
    layers = " → ".join(map(str, [*encoder.get("hidden", []), encoder["output"]]))
    kind = ", ".join(
        encoder[name] for name in ("kind", "activation") if name in encoder
    )
    rows = [
        ("data", f"{d['data']}: {d['num_rows']:,} rows"),
        ("context", d["context"] + (f" ({params})" if params else "")),
        ("loss", d["loss"]),
        ("encoder", f"{layers} ({kind}, {d['parameters']:,} numbers)"),
        ("status", f"{d['status']} after {counted(d['steps_done'], 'step')}"),
        ("learned", _values(d["learned_singular_values"])),
        ("exact", _values(d["exact_singular_values"])),
    ]
    for name, label in _MEASURES:
        null = d["nulls"][name]
        rows.append((label, f"{d[name]:.3f}  (of shuffled rows: {null:.3f} at most)"))
    if d["probe"] is not None:
        probe = d["probe"]
        rows.append(
            (
                "probe error",
                f"{probe['learned']:.3f} learned, {probe['exact']:.3f} exact,"
                f" {probe['features']:.3f} features  ({probe['measure']})",
            )
        )
    rows += [("note", note) for note in d["notes"]]
    rows.append(("files", "\n".join(files)))
    return rows


def _values(values: list[float], shown: int = 10) -> str:
    more = f" … ({len(values)} in all)" if len(values) > shown else ""
    return " ".join(rounded(v, 4) for v in values[:shown]) + more
