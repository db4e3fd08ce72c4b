"""What `contexture rank` leaves behind: a JSON, pictures, and a table to read."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import contexture_jax as cx
from contexture_jax._core.words import rounded
from contexture_jax.cli._rank_advice import Commands, advice, associations
from contexture_jax.cli._rank_data import Beside
from contexture_jax.cli._rank_family import kinds_of
from contexture_jax.cli._report import plain, print_table
from contexture_jax.data import Table

if TYPE_CHECKING:
    from contexture_jax.cli._rank import RankOptions
    from contexture_jax.evaluation import Interval
    from contexture_jax.ranking import ContextSpec, NamedContext, RankedContext

__all__ = ["describe", "draw", "print_ranking"]

_NUM_SHOWN, _NUM_ABSTAINING = 15, 5
_FAR = 2.0  # times the error of a guess: one such error may be all of a correlation
_BOUNDS = ("tau", "tau_lower", "tau_upper")
_PROTOCOL = (
    "spectra of all rows, without the target; P_X uniform; place: by tau, those that"
    " cannot be told apart with the same, null where tau abstains (reason says why);"
    " tau of d = 1, ..., max_dim, tau_lower and tau_upper: bounds on it by those of the"
    " solver; num_abstaining: how many; target_kind: classes or numbers; num_masks:"
    " how many masks a context is the mean over, mask_share: of the columns, what each"
    " leaves out; decay_rate: of s_i^2 that fall as exp(-rate i);"
    " chi_squared: the sum of s_i^2; deviation: the mean of |k(x, x') - 1|, k the dual"
    " kernel; effective_rank: (sum of s_i^2)^2 over the sum of s_i^4; column_error: of"
    " the columns by the first best_dim functions, least_column_error: by column_dim of"
    " them, as many as are best; best_dim: where tau_d is least, by its convention,"
    " and no advice:"
    " energy_dim keeps the stated share of chi_squared, validated_dim is that of"
    " validation; error: ridge on the functions up to best_dim (classes by the largest"
    " of fitted indicators), a quarter of the rows left out, a quarter of the rest for"
    " choosing the ridge, mean over splits; validated_error: d chosen likewise;"
    " squared_error, validated_squared_error: of the same, over the variance of the"
    " target; error_std, validated_error_std: over the splits;"
    " pearson and distance_correlation: of tau with error over all contexts with a"
    " finite tau; correlations: of these (all), of those that tau tells of"
    " (without_abstentions), of all but the too strong (not_too_strong), with"
    " validated_error (validated, validated_not_too_strong, and validated_near: of"
    " those with at most twice the error of a guess), and by types;"
    " mixtures are of the contexts of each type with the least"
    " validated_error (without a target: least_column_error), so that their errors are"
    " a little too low; contexts with num_draws are estimates from so many draws,"
    " which no bound on tau counts; infinite: the names of those numbers that are,"
    " which are null, as is what is undefined; ties: how many others tau cannot tell"
    " from it, by bounds that overlap; energy_dim is null if more than max_dim are"
    " needed; where all values are 0 to rounding tau, best_dim and energy_dim are"
    " null, and errors those of one function that says nothing; associations: of"
    " contexts that are no mixtures, by which is advised, and mixed_associations: of"
    " those that are; command_note: where the --target of a command is the column that"
    " is the context, its probe is of that column; guess_error: of the mean of the"
    " rows that are fitted; scarf is of numbers told to four quantiles, where its"
    " command corrupts the numbers; tau_of_all: where num_rows of num_rows_of_all rows"
    " were drawn, an interval for tau of all from subsets (theory.md §3.8), for"
    " contexts of words alone, K in proportion to the rows; where it abstains its"
    " upper end is infinite, which is null"
)


def describe(
    options: RankOptions,
    table: Table,
    beside: Beside,
    specs: Sequence[ContextSpec | NamedContext],
    ranked: Sequence[RankedContext],
    of_all: Mapping[str, Interval],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Everything about a run as plain Python; what is not finite is None.

    Args:
        options: what was asked for.
        table: the data.
        beside: what of it is in no feature.
        specs: the family.
        ranked: what of it was done.
        of_all: by names, intervals for τ of all rows of which these are drawn.
        seconds: of each stage.
    """
    whole = cx.ranking.correlations(ranked)
    types = dict.fromkeys(spec.type for spec in specs)
    ordered = in_order(ranked)
    target = None if table.target is None else table.target.name
    commands = Commands(options, beside, target, {spec.name: spec for spec in specs})
    asked = bool(options.subsets) and beside.all_features is not None
    is_complete = len(ranked) == len(specs) and (bool(of_all) or not asked)
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
            "energy_share": options.energy_share,
            "splits": options.splits,
            "seed": options.seed,
            "status": "complete" if is_complete else "stopped",
            "num_rows_of_all": len(table.rows)
            if beside.all_features is None
            else len(beside.all_features),
            "subsets": options.subsets,
            "num_contexts": len(specs),
            "num_abstaining": sum(row.abstains for row in ranked),
            "contexts": [
                _described(row, place, tied, commands)
                | {"tau_of_all": _interval(of_all.get(row.spec.name))}
                for (place, row), tied in zip(ordered, _ties(ordered), strict=True)
            ],
            "pearson": whole.pearson,
            "distance_correlation": whole.distance,
            "correlations": _correlations(ranked, types, guess and guess[0]),
            "guess_error": guess and guess[0],
            "associations": associations(ranked),
            "mixed_associations": associations(ranked, mixed=True),
            "protocol": _PROTOCOL,
            "advice": advice(commands, table, [row for _, row in ordered], guess),
            "seconds": seconds,
            "notes": [str(note) for note in table.notes],
        }
    )


def _correlations(
    ranked: Sequence[RankedContext], types: Iterable[str], guess: float | None
) -> dict[str, dict[str, Any]]:
    """Of τ with errors, over all contexts and over some of them."""
    correlate = cx.ranking.correlations
    most = math.inf if guess is None else _FAR * guess
    near = [r for r in ranked if r.probe is None or r.probe.validated_error <= most]
    return {
        "all": correlate(ranked)._asdict(),
        "not_too_strong": correlate(ranked, leave_out=["too strong"])._asdict(),
        "without_abstentions": correlate(
            ranked, leave_out=["too weak", "too strong", "undecided"]
        )._asdict(),
        "validated": correlate(ranked, error="validated_error")._asdict(),
        "validated_not_too_strong": correlate(
            ranked, error="validated_error", leave_out=["too strong"]
        )._asdict(),
        "validated_near": correlate(near, error="validated_error")._asdict(),
        **{t: correlate(ranked, kind=t)._asdict() for t in types},
    }


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


def _interval(found: Interval | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "estimate": float(found.estimate),
        "lower": float(found.lower),
        "upper": float(found.upper),
        "level": found.level,
        "abstains": bool(np.isinf(found.upper)),
    }


def _ties(ordered: Sequence[tuple[int | None, RankedContext]]) -> list[int | None]:
    """How many others each context with a place has that its τ is not told from."""
    told = [row for place, row in ordered if place is not None]
    lower = np.sort([_or(row.tau_lower, 0.0) for row in told])
    upper = np.sort([_or(row.tau_upper, np.inf) for row in told])
    found: list[int | None] = []
    for place, row in ordered:
        if place is None:
            found.append(None)
            continue
        begun = np.searchsorted(lower, _or(row.tau_upper, np.inf), side="right")
        ended = np.searchsorted(upper, _or(row.tau_lower, 0.0))
        found.append(int(begun - ended) - 1)  # the row itself is one
    return found


def _described(
    row: RankedContext, place: int | None, ties: int | None, commands: Commands
) -> dict[str, Any]:
    probe, command = row.probe, commands.of(row.spec)
    held = row._asdict()
    infinite = [name for name in _BOUNDS if held[name] == np.inf]
    del held["spec"], held["probe"]
    return {
        "name": row.spec.name,
        "type": row.spec.type,
        "params": row.spec.params,
        "place": place,
        "ties": ties,
        "infinite": infinite,
        **held,
        **(dict.fromkeys(cx.ranking.ProbeErrors._fields) if probe is None else {}),
        **({} if probe is None else probe._asdict()),
        "command": command,
        "command_note": None if command is None else commands.note(row.spec),
    }


def draw(ranked: Sequence[RankedContext], target: str | None, folder: Path) -> None:
    """Draw errors beside τ, and beside the association.

    Of the columns of DATA, in files of their own, where there is no target.
    """
    from contexture_jax import plotting

    # Of what is nothing but rounding there is no τ.
    rows = [row for row in ranked if row.tau is not None and row.chi_squared]
    taus = [_or(row.tau, np.inf) for row in rows]
    if not np.isfinite(taus).any():
        return
    count = f"{len(rows)} contexts"
    if len(rows) < len(ranked):
        count = f"{len(rows)} of {len(ranked)} contexts, those with a τ,"
    if target is None:
        of, name = "error on the columns", "columns"
        errors = [_or(row.column_error, np.nan) for row in rows]
        best = [_or(row.least_column_error, np.nan) for row in rows]
    else:
        of, name = "probe error", "error"
        errors = [np.nan if r.probe is None else r.probe.error for r in rows]
        best = [np.nan if r.probe is None else r.probe.validated_error for r in rows]
    if not np.isfinite(errors).any():
        return
    kinds = [row.spec.type for row in rows]
    abstains = [row.abstains for row in rows]
    least = "best" if target is None else "validated"
    for order, shown, label, where, file in (
        (taus, errors, "τ (hollow: τ abstains)", "d of τ", f"tau_{name}.png"),
        (
            [row.chi_squared for row in rows],
            best,
            "association Σ s² (hollow: τ abstains)",
            f"{least} d",
            f"association_{name}.png",
        ),
    ):
        axes = plotting.plot_ranking(
            np.array(order, float),
            np.array(shown),
            kinds,
            abstains=np.array(abstains),
            label=label,
            error_label=f"{of} at the {where}",
            title=f"{count}: errors on {target or 'the columns'}",
        )
        plotting.save(axes, folder / file)


def print_ranking(description: dict[str, Any], files: Sequence[str]) -> None:
    """Print the first contexts in order, then what to make of all."""
    from rich.console import Console

    d, rows = description, description["contexts"]
    is_judged = d["target"] is not None
    if is_judged:
        # What can be known: the errors.
        rows = _by(rows, "validated_error")[:_NUM_SHOWN]
    else:
        told = [row for row in rows if row["place"] is not None]
        others = _by(
            [row for row in rows if row["place"] is None], "least_column_error"
        )
        # Of both, as τ cannot tell which is better.
        room = _NUM_SHOWN - min(len(others), _NUM_ABSTAINING)
        rows = [*told[:room], *others[: _NUM_SHOWN - len(told[:room])]]
    of_all = any(row["tau_of_all"] for row in d["contexts"])
    shown = _columns(rows, d["max_dim"], is_judged=is_judged, of_all=of_all)
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    pairs = [("data", f"{d['data']}: {d['num_rows']:,} rows")]
    if len(d["contexts"]) > len(rows):
        more = f"{len(d['contexts']) - len(rows)} contexts more in rank.json"
        pairs.append(("more", more))
    pairs += _told_of_tau(d, is_judged=is_judged)
    if any(row["params"].get("num_draws") for row in rows):
        drawn = "estimates from draws, whose scatter no bound on τ counts"
        pairs.append(("* drawn", drawn))
    counts = _counted(d["associations"])
    if d["mixed_associations"]:
        counts += f"; of mixtures {_counted(d['mixed_associations'])}"
    pairs.append(("associations", f"{counts}; {d['status']}"))
    if any(_is_beyond(row) for row in rows):
        pairs.append(
            (
                "d of energy",
                f">{d['max_dim']}: of more functions than --max-dim"
                f" {d['max_dim']} is {d['energy_share']:.0%} of χ²",
            )
        )
    if is_judged:
        pairs += [
            ("τ and error", _correlated(d["correlations"]["all"])),
            ("… where τ tells", _correlated(d["correlations"]["without_abstentions"])),
            ("τ and error there", _correlated(d["correlations"]["validated"])),
            *_carried(d),
            ("error of a guess", _shown(d["guess_error"])),
        ]
    pairs += [("advice", words) for words in d["advice"]]
    pairs += [("note", note) for note in d["notes"]]
    pairs.append(("files", "\n".join(files)))
    print_table(pairs)


def _carried(d: dict[str, Any]) -> list[tuple[str, str]]:
    """What the correlation is without contexts that predict far worse than a guess."""
    guess = d["guess_error"]
    if guess is None:
        return []
    rows, most = d["contexts"], _FAR * guess
    far = [row["name"] for row in rows if (row["validated_error"] or 0) > most]
    if not far:
        return []
    words = _correlated(d["correlations"]["validated_near"])
    more = f" and {len(far) - 1} more" if len(far) > 1 else ""
    return [("… without", f"{words}; far worse than a guess: {far[0]}{more}")]


def _by(rows: Sequence[dict[str, Any]], error: str) -> list[dict[str, Any]]:
    """The least error first; those without one last."""
    return sorted(rows, key=lambda row: (row[error] is None, row[error]))


def _told_of_tau(d: dict[str, Any], *, is_judged: bool) -> list[tuple[str, str]]:
    """How many contexts τ abstains from, and how many it cannot tell apart."""
    num = len(d["contexts"])
    abstaining = f"{d['num_abstaining']} of {num} contexts, of which τ cannot tell"
    if d["num_abstaining"] and not is_judged:
        abstaining += "; those above in order of their error on the columns"
    ties = sum(bool(row["ties"]) for row in d["contexts"])
    tied = f"{ties or 'none'} of {num - d['num_abstaining']} places"
    tied += ", marked by =" if ties else ""
    return [("abstains", abstaining), ("ties", tied)]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {word}" for word, n in counts.items())


def _is_beyond(row: dict[str, Any]) -> bool:
    """Whether the stated share of Σ s_i² takes more functions than were computed."""
    return row["energy_dim"] is None and bool(row["chi_squared"])


def _columns(
    rows: Sequence[dict[str, Any]], max_dim: int, *, is_judged: bool, of_all: bool
) -> Any:
    """A line for each context, as `rank.json` has them, with or without errors."""
    from rich.table import Table as Columns
    from rich.text import Text

    columns = Columns(box=None, padding=(0, 2, 0, 0))
    named = {"d of τ": "best_dim", "d of energy": "energy_dim", "χ²": "chi_squared"}
    judged = {"d of columns": "column_dim", "their error": "least_column_error"}
    if is_judged:
        judged = {"error at d of τ": "error", "d validated": "validated_dim"}
        judged["error there"] = "validated_error"
    told = ("τ of all rows",) if of_all else ()
    for head in (
        "place by τ",
        "context",
        "τ",
        "between",
        *told,
        *named,
        "verdict",
        *judged,
    ):
        columns.add_column(head, no_wrap=True)
    for r in rows:
        tau, low, high = (
            "inf" if n in r["infinite"] else _shown(r[n]) for n in _BOUNDS
        )
        own = {name: _shown(r[name]) for name in named.values()}
        if _is_beyond(r):
            own["energy_dim"] = f">{max_dim}"
        cells = [
            "abstains"
            if r["place"] is None
            else f"{r['place']}{'=' * bool(r['ties'])}",
            r["name"],
            tau,
            f"{low}–{high}{'*' * bool(r['params'].get('num_draws'))}",
            *([_told(r["tau_of_all"])] if of_all else ()),
            *own.values(),
            r["association"] if r["status"] != "failed" else "failed",
            *(_shown(r[name]) for name in judged.values()),
        ]
        columns.add_row(*map(Text, cells))
    return columns


def _told(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    ends = f"{_shown(found['lower'])}–{_shown(found['upper'])}"
    return "abstains" if found["abstains"] else ends


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
