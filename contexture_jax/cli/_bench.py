"""`contexture bench`: how fast the package is here, and whether that has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contexture_jax.cli._arguments import count, positive, seed
from contexture_jax.cli.session import (
    Ending,
    Stages,
    check_installed,
    check_out,
    claimed,
    make_mesh,
    precision,
    publishing,
)
from contexture_jax.data import InputError, counted, quoted_path

__all__ = ["DESCRIPTION", "BenchOptions", "add_options", "run", "status"]

DESCRIPTION = """\
How fast the package is on this machine, beside what the machine does at most.

  contexture bench [SUITE ...]          time suites; default: all of them
  contexture bench compare A B          what run B does otherwise than run A

Suites: operators (T g and T* f of each storage), solvers, kernels, knn, losses, step
(of training), scaling (with n, and with --devices). First the peaks of the device are
measured: products, copies, gathered rows, exponentials. Then all of a suite take turns,
so that a drift of the machine's speed meets all of them, beside yardsticks, work that
no code of the package is in. Told are the median of the rounds and their spread
(between the quartiles, by the median), passes, operations and bytes as operators count
them, the share of what the peaks allow, errors against float64 where that is cheap, and
memory (on a CPU resident memory above the start of a call). SciPy, scikit-learn,
PyTorch and FAISS take part where they are installed. Everything goes through JAX: CPU,
GPU and TPU are timed by the same code. --out gets bench.json, roofline.png and
seconds.png.

compare takes two files bench.json, or the directories they are in. A row is slower or
faster if the interval of its ratio, over all rounds and of a level for all rows
together, lies beyond 1 by 5 %, after what the yardsticks changed by is taken off; else
it is the same, as far as these rounds can tell. An error is worse if it more than
doubles. Other hardware, versions and settings are said. Where the yardsticks tell that
others kept the machine busy, seconds of processors are compared. With --out it writes
compare.json and compare.png.

exit status: 0 on success; of compare 1 if something of the package is slower, less
exact or missing in B; 2 on bad input (one line on stderr); 130 if ended by Ctrl-C, 143
by SIGTERM, with nothing written.
"""
_SUITES = ("operators", "solvers", "kernels", "knn", "losses", "step", "scaling")
_OUT = "contexture-bench"
# In the order of publishing: whoever sees the JSON sees the rest.
_OF_RUN = ("roofline.png", "seconds.png", "bench.json")
_OF_COMPARISON = ("compare.png", "compare.json")


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """The arguments of the command.

    Attributes:
        words: names of suites; or "compare" and two files.
        size: of the workloads.
        rounds: timed runs of each.
        time_limit: seconds after which nothing begins.
        devices: how many local devices share the rows.
        seed: of the data.
        peers: whether other libraries take part.
        out: the directory to write to; None: the default, of compare none.
        plots: whether to draw.
        quiet: whether to print nothing but errors.
    """

    words: Sequence[str] = ()
    size: str = "medium"
    rounds: int = 11
    time_limit: float = 600.0
    devices: int = 1
    seed: int = 0
    peers: bool = True
    out: str | None = None
    plots: bool = True
    quiet: bool = False


def add_options(parser: Any) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "words",
        metavar="SUITE",
        nargs="*",
        help=f"{', '.join(_SUITES)}; or compare A B",
    )
    group = parser.add_argument_group("workloads")
    group.add_argument(
        "--size",
        choices=("small", "medium", "large"),
        default="medium",
        help="small: seconds; medium: minutes on two cores; large: for an accelerator;"
        " default: %(default)s",
    )
    group.add_argument(
        "--rounds",
        type=count,
        default=11,
        help="timed runs of each, at least 3; default: 11",
    )
    group.add_argument(
        "--time-limit",
        type=positive,
        default=600.0,
        metavar="SECONDS",
        help="after which no suite begins, and no round but the first three of each;"
        " default: 600",
    )
    group.add_argument(
        "--devices",
        type=count,
        default=1,
        metavar="N",
        help="share the rows among N devices of this machine; default: 1",
    )
    group.add_argument("--seed", type=seed, default=0, help="of the data; default: 0")
    group.add_argument(
        "--no-peers",
        dest="peers",
        action="store_false",
        help="time the package alone",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="DIR",
        help=f"where to write, replaced; default: {_OUT}, of compare nowhere",
    )
    output.add_argument(
        "--no-plots", dest="plots", action="store_false", help="draw no pictures"
    )
    output.add_argument(
        "--quiet", action="store_true", help="print errors and warnings only"
    )


def status(result: dict[str, Any]) -> int:
    """The exit status: 1 of a comparison in which something is worse."""
    return int(result.get("is_worse", False))


def run(options: BenchOptions, ending: Ending) -> dict[str, Any]:
    """Time, or compare; then print, draw and write.

    Raises:
        InputError: if an option or a file is not what it should be.
    """
    words = list(options.words)
    if words[:1] == ["compare"]:
        return _compare(words[1:], options, ending)
    unknown = [word for word in words if word not in _SUITES]
    if unknown:
        raise InputError(
            f"no suite {unknown[0]!r}; expected {', '.join(_SUITES)}, or compare A B"
        )
    if options.rounds < 3:
        raise InputError(f"--rounds must be at least 3; got {options.rounds}")
    out = check_out(options.out or _OUT, _OF_RUN, "")
    check_installed("scipy", plots=options.plots)
    stages = Stages(quiet=options.quiet)
    with claimed(out), precision("float32"):
        mesh = make_mesh(options.devices)
        from contexture_jax import benchmarking

        with stages.stage("bench") as advance:
            chosen = words or list(_SUITES)

            def began(name: str) -> None:
                done = chosen.index(name) + 1 if name in chosen else 0
                advance(done, len(chosen) + 1, name)

            report = benchmarking.run_suites(
                chosen,
                size=options.size,
                rounds=options.rounds,
                seed=options.seed,
                mesh=mesh,
                peers=options.peers,
                time_limit=options.time_limit,
                began=began,
            )
        with publishing(out, _OF_RUN, ending) as folder:
            if options.plots:
                _draw_run(report, folder)
            benchmarking.write_report(report, folder / "bench.json")
    if not options.quiet:
        _print_run(report, out)
    return report


def _compare(words: list[str], options: BenchOptions, ending: Ending) -> dict[str, Any]:
    if len(words) != 2:
        raise InputError(f"compare takes two runs, A and B; got {len(words)}")
    out = None
    if options.out is not None:
        out = check_out(options.out, _OF_COMPARISON, "")
    check_installed("scipy", plots=options.plots and out is not None)
    from contexture_jax import benchmarking

    a, b = (_read(word, benchmarking) for word in words)
    found = benchmarking.compare(a, b)
    if not found["rows"]:
        raise InputError(f"{words[0]} and {words[1]} have no row in common")
    if not options.quiet:
        _print_comparison(found)
    if out is not None:
        with claimed(out), publishing(out, _OF_COMPARISON, ending) as folder:
            if options.plots:
                _draw_comparison(found, folder / "compare.png")
            benchmarking.write_report(found, folder / "compare.json")
    return found


def _read(word: str, benchmarking: Any) -> dict[str, Any]:
    path = Path(word)
    if path.is_dir():
        path /= "bench.json"
    try:
        return benchmarking.read_report(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {quoted_path(path)}: {reason}") from error
    except ValueError as error:
        raise InputError(str(error)) from error


def _ours(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (suite, row)
        for suite, found in report["suites"].items()
        for row in found["rows"]
        if row["kind"] == "ours"
    ]


def _draw_run(report: dict[str, Any], folder: Path) -> None:
    from contexture_jax.plotting import plot_roofline, plot_seconds, save

    title = _machine(report)
    points: dict[str, list[tuple[str, float, float]]] = {}
    for suite, row in _ours(report):
        if row.get("flops") and row.get("bytes"):
            rate = row["flops"] / row["seconds_median"]
            one = row["name"], row["flops"] / row["bytes"], rate
            points.setdefault(suite, []).append(one)
    peaks = report["peaks"]
    if points and peaks["flops"] > 0 and peaks["bandwidth"] > 0:
        ax = plot_roofline(points, peaks["flops"], peaks["bandwidth"], title=title)
        save(ax, folder / "roofline.png")
    rows = [
        (f"{row['name']}", row["kind"] == "ours", row["seconds"])
        for found in report["suites"].values()
        for row in found["rows"]
        if row["kind"] != "limit"
    ]
    if rows:
        save(plot_seconds(rows, title=title), folder / "seconds.png")


def _draw_comparison(found: dict[str, Any], path: Path) -> None:
    from contexture_jax.plotting import plot_speeds, save

    rows = [(r["name"], r["ratio"], r["lower"], r["upper"]) for r in found["rows"]]
    save(plot_speeds(rows, title=_counts(found)), path)


def _machine(report: dict[str, Any]) -> str:
    device, machine = report["device"], report["machine"]
    if device["platform"] == "cpu":
        return f"{machine['processor']}, {machine['cores']} cores"
    return f"{device['count']} × {device['kind']}"


def _print_run(report: dict[str, Any], out: Path) -> None:
    peaks = report["peaks"]
    lines = [
        f"{_machine(report)}, load {report['machine']['load_average_at_start']}; at"
        f" most {_si(peaks['flops'], 'FLOP/s')}, {_si(peaks['bandwidth'], 'B/s')}",
    ]
    header = ("", "seconds", "spread", "passes", "rate", "of peak", "error", "memory")
    for suite, found in report["suites"].items():
        rows = [row for row in found["rows"] if row["kind"] != "limit"]
        lines += ["", suite, *_columns([header, *(_cells(row) for row in rows)])]
        lines += [f"  {name}: {value:.3g}" for name, value in found["told"].items()]
    lines += [""] + [f"FAILED: {one}" for one in report["problems"]]
    lines += [f"note: {one}" for one in report["notes"]]
    lines.append(f"{report['seconds']:.0f} s; bench.json in {quoted_path(out)}")
    print("\n".join(lines))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    error = max((v for v in row["accuracy"].values() if v is not None), default=None)
    share, peak = row.get("of_bound"), row.get("peak_megabytes")
    rate = row["flops"] / row["seconds_median"] if row.get("flops") else None
    return (
        row["name"],
        f"{row['seconds_median']:.3g}",
        f"{row['spread']:.0%}",
        f"{row['passes']:g}" if "passes" in row else "",
        "" if rate is None else _si(rate, "FLOP/s"),
        "" if share is None else f"{share:.0%}",
        "" if error is None else f"{error:.1e}",
        "" if peak is None else f"{peak:.0f} MB",
    )


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    sides = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    return [
        "  ".join(
            [f"  {first.ljust(sides[0])}"]
            + [cell.rjust(side) for cell, side in zip(rest, sides[1:], strict=True)]
        ).rstrip()
        for first, *rest in rows
    ]


def _si(value: float, unit: str) -> str:
    for factor, prefix in (
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _counts(found: dict[str, Any]) -> str:
    counts = found["counts"]
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.items())


def _print_comparison(found: dict[str, Any]) -> None:
    lines = [f"NOTE: {one}" for one in found["differences"]]
    if any("hardware" in one or "version" in one for one in found["differences"]):
        lines.append("NOTE: ratios are of both, not of the package alone")
    if found["clock"] != "seconds":
        lines.append(
            "NOTE: the machine was busy: compared are seconds of all processors, which"
            " do not show work that is no longer done at the same time"
        )
    header = ("", "B ÷ A", "from", "to", "", "")
    rows = [
        (
            f"{row['suite']}: {row['name']}",
            *(f"{row[name]:.3g}" for name in ("ratio", "lower", "upper")),
            row["verdict"],
            _changes(row),
        )
        for row in found["rows"]
    ]
    lines += _columns([header, *rows])
    for suite, drifts in found["yardsticks"].items():
        told = ", ".join(f"{name} × {drift:.3g}" for name, drift in drifts.items())
        lines.append(f"the machine itself, in {suite}: {told}")
    lines += [f"missing in B: {name}" for name in found["missing"]]
    lines += [f"new in B: {name}" for name in found["new"]]
    blind = sum(not row["can_tell"] for row in found["rows"])
    if blind:
        lines.append(
            f"NOTE: {counted(blind, 'row')} of too few rounds to tell a difference:"
            " --rounds, or a longer --time-limit"
        )
    print("\n".join([*lines, _counts(found)]))


def _changes(row: dict[str, Any]) -> str:
    parts = [f"{name} {old:.2g} to {new:.2g}" for name, old, new in row["errors"]]
    if row["less_exact"]:
        parts.insert(0, "LESS EXACT:")
    if row["passes"]:
        parts.append(f"passes {row['passes'][0]} to {row['passes'][1]}")
    return " ".join(parts)
