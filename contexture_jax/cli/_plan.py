"""`contexture plan`: what a solve or a step takes on chips that are not here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from contexture_jax.cli._arguments import count, positive, widths
from contexture_jax.cli.session import (
    Ending,
    check_installed,
    check_out,
    claimed,
    publishing,
    replacing,
)
from contexture_jax.data import InputError, quoted_path

__all__ = ["DESCRIPTION", "PlanOptions", "add_options", "run"]

DESCRIPTION = """\
What a solve or a training step takes on chips that are not here. The real program is
compiled from shapes alone for each TOPOLOGY: v5e:16x16, v5p:4x4x4, v6e:8x8 (with
libtpu), h100:8 (with jax[cuda12]) or cpu:8 (virtual devices of this machine). Told
are bytes of a chip; flops, bytes moved and what the chips tell each other in a pass (a
product with T and one with T*) or a step; the least time by the published peaks and the
resource that binds; whether it fits, and the largest problem that does. Nothing runs.
Flops and bytes moved of a pass are counted by the operator, since the compiler counts
the body of a loop once; those of a step are the compiler's.
"""
_KNOWN = ("scaling.png", "plan.json")


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """The arguments of the command.

    Attributes:
        topologies: names of topologies.
        context: the kind of context; None: none was named.
        encoder: the kind of encoder, in place of a context.
        rows: n, or rows of a batch.
        columns: features, or the columns of a table.
        rank: singular functions, or the width of an embedding.
        num_neighbors: K of a k-NN context.
        dtype: the precision of the work.
        loss: what an encoder learns by.
        hidden: widths of the hidden layers of an encoder.
        largest: what to make as large as memory allows.
        memory: gigabytes of a chip in place of what is published.
        json: the file for all figures.
        out: the directory for a picture.
        quiet: whether to print nothing but errors.
    """

    topologies: list[str]
    rows: int
    context: str | None = None
    encoder: str | None = None
    columns: int = 64
    rank: int = 64
    num_neighbors: int = 30
    dtype: str = "float32"
    loss: str = "kise"
    hidden: tuple[int, ...] = (512, 512)
    largest: str = "rows"
    memory: float | None = None
    json: str | None = None
    out: str | None = None
    quiet: bool = False


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "topologies", metavar="TOPOLOGY", nargs="+", help="chips, as v5e:16x16"
    )
    group = parser.add_argument_group("problem")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--context",
        choices=("knn", "rbf", "joint"),
        help="whose spectrum is computed; joint: a dense table; default: knn",
    )
    which.add_argument(
        "--encoder", choices=("mlp",), help="a step of training it, instead"
    )
    group.add_argument(
        "--rows", type=count, required=True, help="n; with --encoder of a whole batch"
    )
    for option, default, what in (
        ("--columns", 64, "features, or columns of the table"),
        ("--rank", 64, "singular functions, or the width of an embedding"),
    ):
        group.add_argument(
            option, type=count, default=default, help=f"{what}; default: {default}"
        )
    group.add_argument(
        "--num-neighbors",
        "--neighbors",
        type=count,
        default=30,
        metavar="K",
        help="of knn, the row itself included; default: 30",
    )
    group.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="of numbers"
    )
    group.add_argument("--loss", default="kise", help="of --encoder; default: kise")
    group.add_argument(
        "--hidden",
        type=widths,
        default=(512, 512),
        metavar="W,W,…",
        help="widths of the hidden layers of --encoder; default: 512,512",
    )
    group.add_argument(
        "--largest",
        choices=("rows", "rank", "none"),
        default="rows",
        help="what to make as large as fits, which compiles a second program; default:"
        " rows",
    )
    group.add_argument(
        "--memory", type=positive, metavar="GB", help="of a chip; default: as published"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write all figures, replaced")
    output.add_argument(
        "--out",
        metavar="DIR",
        help="write scaling.png, least times from 1 to 1,024 chips, and plan.json",
    )
    output.add_argument("--quiet", action="store_true", help="print errors only")


def run(options: PlanOptions, ending: Ending) -> list[dict[str, Any]]:
    """Plan for each topology, and print, write and draw.

    Raises:
        InputError: if an option is not what it should be, or a compiler is not here.
    """
    file, out = _checked_paths(options)
    from contexture_jax import planning

    try:
        problem = planning.Problem(
            kind=options.encoder or options.context or "knn",
            rows=options.rows,
            columns=options.columns,
            rank=options.rank,
            neighbors=options.num_neighbors,
            dtype=options.dtype,
            loss=options.loss,
            hidden=options.hidden,
        )
        asked = [planning.parse_topology(name) for name in options.topologies]
        if out and not any(topology.chip.bandwidth for topology in asked):
            raise InputError(
                "--out draws times, and cpu has no published peaks; name another"
                " topology, or take --json"
            )
        memory = None if options.memory is None else 1e9 * options.memory
        plans = [
            planning.plan_apart(
                problem, topology, largest=options.largest, memory=memory
            )
            for topology in asked
        ]
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error
    if not options.quiet:
        print(_table(plans, _title(options)))
    text = json.dumps(plans, indent=1) + "\n"
    if file:
        with replacing(file) as path:
            path.write_text(text, encoding="utf-8")
    if out:
        with claimed(out), publishing(out, _KNOWN, ending) as folder:
            _draw(plans, folder / "scaling.png", _title(options))
            (folder / "plan.json").write_text(text, encoding="utf-8")
    return plans


def _checked_paths(options: PlanOptions) -> tuple[Path | None, Path | None]:
    """Where to write, found out before any work."""
    file = None if options.json is None else Path(options.json)
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise InputError(
            f"--json {quoted_path(file)} is no file in a directory that is"
        )
    if options.out is None:
        return file, None
    check_installed(plots=True)
    return file, check_out(options.out, _KNOWN, "")


def _title(options: PlanOptions) -> str:
    sizes = f"{options.rows:,} × {options.columns:,}, rank {options.rank}"
    return f"{options.encoder or options.context or 'knn'}, {sizes}, {options.dtype}"


def _table(plans: list[dict[str, Any]], title: str) -> str:
    """All plans side by side."""
    per = plans[0]["per"]
    rows: list[list[str]] = [["", *(plan["topology"] for plan in plans)]]

    def add(name: str, *cells: str) -> None:
        rows.append([name, *cells])

    for part in ("arguments", "results", "temporaries", "code", "peak"):
        add(f"{part} a chip", *(_size(plan["bytes"][part]) for plan in plans))
    add("memory of a chip", *(_size(plan["memory"]) for plan in plans))
    add("fits", *("yes" if plan["fits"] else "NO" for plan in plans))
    for name, key, unit in (
        (f"flops a {per}", "flops", ""),
        (f"moved a {per}", "moved_bytes", "B"),
    ):
        add(name, *(_size(plan[key], unit) for plan in plans))
    # Of a CPU no peaks are published: alone it has no lines of them.
    if any(plan["seconds"] for plan in plans):
        for name in ("arithmetic", "memory", "links"):
            times = [(plan["seconds"] or {}).get(name) for plan in plans]
            add(f"least time, {name}", *(_time(seconds) for seconds in times))
        add("binds", *(plan["binds"] or "-" for plan in plans))
    what = (plans[0]["largest"] or {}).get("what")
    if what:
        add(f"largest {what}", *(f"{plan['largest']['size']:,}" for plan in plans))
        add(
            "  compiled there",
            *(
                f"{p['largest']['checked']:,}: {_size(p['largest']['peak'])}"
                for p in plans
            ),
        )
    sides = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    lines = [title, ""]
    for first, *rest in rows:
        cells = [cell.rjust(side) for cell, side in zip(rest, sides[1:], strict=True)]
        lines.append("  ".join([first.ljust(sides[0]), *cells]))
    for plan in plans:
        lines += ["", f"between the chips of {plan['topology']}, a {per}:"]
        found = sorted(plan["collectives"], key=lambda c: -c["bytes"] * c["times"])
        lines += [
            f"  {c['times']:5} × {c['kind']:18} {_size(c['bytes']):>9}  on {c['axis']}"
            for c in found
        ] or ["  nothing"]
    return "\n".join(lines)


def _size(value: Any, unit: str = "B") -> str:
    for factor, prefix in (
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}".rstrip()
    return f"{value:.0f} {unit}".rstrip()


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"


def _draw(plans: list[dict[str, Any]], path: Path, title: str) -> None:
    from contexture_jax.plotting import plot_scaling, save

    curves = {
        plan["topology"]: {
            f"{kind} scaling": [(one["chips"], one["seconds"]) for one in line]
            for kind, line in plan["scaling"].items()
        }
        for plan in plans
        if plan["scaling"]
    }
    per = plans[0]["per"]
    save(
        plot_scaling(curves, label=f"least time of a {per}, seconds", title=title), path
    )
