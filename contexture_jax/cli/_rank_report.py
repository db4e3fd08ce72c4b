"""What `contexture rank` leaves behind: a JSON, pictures, and a table to read."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import contexture_jax as cx
from contexture_jax._core.words import rounded
from contexture_jax.cli._rank_advice import Commands, advice
from contexture_jax.cli._rank_data import Beside
from contexture_jax.cli._rank_family import kinds_of
from contexture_jax.cli._report import plain, print_table
from contexture_jax.data import Table

if TYPE_CHECKING:
    from contexture_jax.cli._rank import RankOptions
    from contexture_jax.ranking import ContextSpec, NamedContext, RankedContext

__all__ = ["describe", "draw", "print_ranking"]

_NUM_SHOWN = 15
_PROTOCOL = (
    "spectra of all rows, without the target; P_X uniform; tau of d = 1, ..., max_dim;"
    " best_dim: where tau_d is least, by its convention, and no advice: energy_dim"
    " keeps the stated share of chi_squared, validated_dim is that of validation;"
    " error: ridge on the functions up to best_dim (classes by the largest of fitted"
    " indicators), a quarter of the rows left out, a quarter of the rest for choosing"
    " the ridge, mean over splits; validated_error: d chosen likewise; pearson and"
    " distance_correlation: of tau with error over all contexts with a finite tau;"
    " mixtures are of the contexts of each type with the least validated_error (without"
    " a target: least_column_error), so that their errors are a little too low;"
    " contexts with num_draws are estimates from so many draws, which no bound on tau"
    " counts; guess_error: of the mean of the rows that are fitted; scarf"
    " is of numbers told to four quantiles, where its command corrupts the numbers"
)


def describe(
    options: RankOptions,
    table: Table,
    beside: Beside,
    specs: Sequence[ContextSpec | NamedContext],
    ranked: Sequence[RankedContext],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Everything about a run as plain Python; what is not finite is None.

    Args:
        options: what was asked for.
        table: the data.
        beside: what of it is in no feature.
        specs: the family.
        ranked: what of it was done.
        seconds: of each stage.
    """
    correlate = cx.ranking.correlations
    whole = correlate(ranked)
    types = dict.fromkeys(spec.type for spec in specs)
    ordered = in_order(ranked)
    target = None if table.target is None else table.target.name
    commands = Commands(options, beside, target, {spec.name: spec for spec in specs})
    guess = None
    if table.target is not None:
        probe = cx.ranking.RidgeProbe(
            table.target.values, num_splits=options.splits, seed=options.seed
        )
        guess = probe.guess_error()
    return plain(
        {
            "version": cx.__version__,
            "data": table.title,
            "num_rows": len(table.rows),
            "num_columns": table.num_columns,
            "target": target,
            "target_kind": None if table.target is None else table.target.kind,
            "preset": None if options.contexts else options.preset,
            "kinds": kinds_of(options),
            "context_columns": options.context_column,
            "teachers": list(beside.teachers),
            "max_dim": options.max_dim,
            "splits": options.splits,
            "seed": options.seed,
            "status": "complete" if len(ranked) == len(specs) else "stopped",
            "num_contexts": len(specs),
            "contexts": [
                _described(row, place) | {"command": commands.of(row.spec)}
                for place, row in ordered
            ],
            "pearson": whole.pearson,
            "distance_correlation": whole.distance,
            "correlations": {
                "all": whole._asdict(),
                "not_too_strong": correlate(ranked, leave_out=["too strong"])._asdict(),
                "without_abstentions": correlate(
                    ranked, leave_out=["too weak", "too strong", "undecided"]
                )._asdict(),
                "validated": correlate(ranked, error="validated_error")._asdict(),
                "validated_not_too_strong": correlate(
                    ranked, error="validated_error", leave_out=["too strong"]
                )._asdict(),
                **{t: correlate(ranked, kind=t)._asdict() for t in types},
            },
            "guess_error": guess and guess[0],
            "associations": Counter(row.association for row in ranked),
            "protocol": _PROTOCOL,
            "advice": advice(commands, table, [row for _, row in ordered], guess),
            "seconds": seconds,
            "notes": [str(note) for note in table.notes],
        }
    )


def in_order(ranked: Sequence[RankedContext]) -> list[tuple[int | None, RankedContext]]:
    """By τ, those that it abstains from after the others, with their places.

    Contexts whose bounds on τ overlap cannot be told apart: a place is one more than
    how many are surely better. Those that are abstained from have none.
    """
    told = [row for row in ranked if not row.abstains]
    ends = np.sort([_or(row.tau_upper, np.inf) for row in told])
    told.sort(key=lambda row: _or(row.tau, np.inf))
    places = [1 + int(np.searchsorted(ends, _or(row.tau_lower, 0.0))) for row in told]
    others = [(None, row) for row in ranked if row not in told]
    return [*zip(places, told, strict=True), *others]


def _described(row: RankedContext, place: int | None) -> dict[str, Any]:
    probe = row.probe
    held = row._asdict()
    del held["spec"], held["probe"]
    return {
        "name": row.spec.name,
        "type": row.spec.type,
        "params": row.spec.params,
        "place": place,
        **held,
        **(dict.fromkeys(cx.ranking.ProbeErrors._fields) if probe is None else {}),
        **({} if probe is None else probe._asdict()),
    }


def draw(ranked: Sequence[RankedContext], target: str, folder: Path) -> None:
    """Draw errors beside τ, and beside the association."""
    from contexture_jax import plotting

    rows = [row for row in ranked if row.probe is not None and row.chi_squared]
    if not any(row.tau is not None and np.isfinite(row.tau) for row in rows):
        return
    errors = [row.probe.error for row in rows if row.probe is not None]
    best = [row.probe.validated_error for row in rows if row.probe is not None]
    kinds = [row.spec.type for row in rows]
    abstains = [row.abstains for row in rows]
    taus = [np.inf if row.tau is None else row.tau for row in rows]
    for order, shown, label, where, name in (
        (taus, errors, "τ (hollow: τ abstains)", "d of τ", "tau_error.png"),
        (
            [row.chi_squared for row in rows],
            best,
            "association Σ s² (hollow: τ abstains)",
            "validated d",
            "association_error.png",
        ),
    ):
        axes = plotting.plot_ranking(
            np.array(order, float),
            np.array(shown),
            kinds,
            abstains=np.array(abstains),
            label=label,
            error_label=f"probe error at the {where}",
            title=f"{len(rows)} contexts and {target}",
        )
        plotting.save(axes, folder / name)


def print_ranking(description: dict[str, Any], files: Sequence[str]) -> None:
    """Print the first contexts in order, then what to make of all."""
    from rich.console import Console

    d, rows = description, description["contexts"]
    is_judged = d["target"] is not None
    if is_judged:
        # What can be known: the errors.
        rows = sorted(
            rows, key=lambda r: (r["validated_error"] is None, r["validated_error"])
        )
    shown = _columns(rows[:_NUM_SHOWN], is_judged=is_judged)
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    pairs = [("data", f"{d['data']}: {d['num_rows']:,} rows")]
    if len(rows) > _NUM_SHOWN:
        pairs.append(("more", f"{len(rows) - _NUM_SHOWN} contexts more in rank.json"))
    counts = ", ".join(f"{n} {word}" for word, n in d["associations"].items())
    pairs.append(("associations", f"{counts}; {d['status']}"))
    if is_judged:
        pairs += [
            ("τ and error", _correlated(d["correlations"]["all"])),
            ("… where τ tells", _correlated(d["correlations"]["without_abstentions"])),
            ("τ and error there", _correlated(d["correlations"]["validated"])),
            ("error of a guess", _shown(d["guess_error"])),
        ]
    pairs += [("advice", words) for words in d["advice"]]
    pairs += [("note", note) for note in d["notes"]]
    pairs.append(("files", "\n".join(files)))
    print_table(pairs)


def _columns(rows: Sequence[dict[str, Any]], *, is_judged: bool) -> Any:
    """A line for each context, as `rank.json` has them, with or without errors."""
    from rich.table import Table as Columns
    from rich.text import Text

    columns = Columns(box=None, padding=(0, 2, 0, 0))
    named = {"d of τ": "best_dim", "d of energy": "energy_dim", "χ²": "chi_squared"}
    judged = {"d of columns": "column_dim", "their error": "least_column_error"}
    if is_judged:
        judged = {"error at d of τ": "error", "d validated": "validated_dim"}
        judged["error there"] = "validated_error"
    for head in ("", "context", "τ", "between", *named, "verdict", *judged):
        columns.add_column(head, no_wrap=True)
    for r in rows:
        cells = [
            "abstains" if r["place"] is None else str(r["place"]),
            r["name"],
            _shown(r["tau"]),
            f"{_shown(r['tau_lower'])}–{_shown(r['tau_upper'])}",
            *(_shown(r[name]) for name in named.values()),
            r["association"] if r["status"] != "failed" else "failed",
            *(_shown(r[name]) for name in judged.values()),
        ]
        columns.add_row(*map(Text, cells))
    return columns


def _correlated(c: dict[str, Any]) -> str:
    if c["pearson"] is None:
        return f"not told by {c['num_contexts']} contexts"
    return (
        f"Pearson {c['pearson']:.3f}, distance {c['distance']:.3f}, over"
        f" {c['num_contexts']} contexts"
    )


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return rounded(value, 4) if isinstance(value, float) else str(value)
