"""What a run leaves behind: a JSON, an NPZ and a table to read."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import contexture_jax as cx
from contexture_jax._core.words import rounded
from contexture_jax.cli._arguments import Options
from contexture_jax.cli._contexts import Recipe
from contexture_jax.cli._dimensions import (
    bracket_in_words,
    dimensions,
    dimensions_in_words,
)
from contexture_jax.cli._status import advice, of_rounding
from contexture_jax.data import Table, Target, counted

if TYPE_CHECKING:
    from contexture_jax.cli._spectrum import Judged, Solved

__all__ = [
    "describe",
    "plain",
    "print_table",
    "rows_of_table",
    "write_arrays",
    "write_json",
]

_NUM_VALUES_SHOWN = 10  # about a line of them
_SAYS_NOTHING = 0.5  # a sine of 30°
_INFINITE = (
    "infinite: its term 1 / (1 - s_{d+1}²) is, for every d, as all computed values are"
    " 1 to rounding. So it is where groups of rows share no A, such as classes or"
    " separate parts of a graph: whichever functions are kept, A determines one that is"
    " left out"
)


def describe(
    options: Options,
    table: Table,
    recipe: Recipe,
    solved: Solved,
    judged: Judged,
    seconds: dict[str, float],
    *,
    tol: float | None,
) -> dict[str, Any]:
    """Everything about a run that is not an array of functions, as plain Python.

    Numbers that JSON has no word for (infinite, undefined) are None, and `notes` says
    which and why.

    Args:
        options: what was asked for.
        table: the data.
        recipe: the context.
        solved: the spectrum.
        judged: what the judges say.
        seconds: of each stage.
        tol: the tolerance asked for.
    """
    info, spectrum = solved.info, judged.spectrum
    return plain(
        {
            "version": cx.__version__,
            "data": table.title,
            "num_rows": len(table.rows),
            "num_columns": table.num_columns,
            "num_constant_columns": table.num_constant,
            "num_features": table.features.shape[1],
            "context": recipe.name,
            "params": recipe.params,
            "rank": len(solved.result.singular_values),
            "dtype": str(solved.result.singular_values.dtype),
            "seed": options.seed,
            "devices": options.devices,
            "method": str(info.method),
            "reason": str(info.reason),
            "status": str(info.status),
            "num_passes": float(info.num_passes),
            "singular_values": solved.result.singular_values,
            "residuals": np.asarray(info.residuals),
            "total_energy": float(info.total_energy),
            "tail_energy": float(info.tail_energy),
            "tail_error": float(info.tail_error),
            "certificate": _certificate(solved.certificate),
            "sampling": None if judged.counts is None else _sampling(judged.counts),
            **_usefulness(spectrum),
            **dimensions(solved, judged),
            "decay_rate": spectrum.decay_rate,
            "verdict": spectrum.verdict.association,
            "verdict_reason": spectrum.verdict.reason.replace("a rank of", "--rank"),
            **_target(table.target, judged.target),
            "seconds": seconds,
            "notes": [
                *table.notes,
                *recipe.notes,
                *of_rounding(
                    tol,
                    info.status,
                    np.asarray(solved.result.singular_values),
                    np.asarray(info.residuals),
                ),
                *_notes(table, solved, judged),
            ],
        }
    )


def _usefulness(spectrum: cx.evaluation.SpectrumJudgement) -> dict[str, Any]:
    useful, bounds = spectrum.usefulness, spectrum.bounds
    tau = None if useful is None else float(useful.tau)
    best_dim = None if useful is None else int(useful.best_dim)
    reason = None if useful is not None else "undefined: see the note"
    if tau is not None and not math.isfinite(tau):
        best_dim, reason = None, _INFINITE  # every d is as bad
    return {
        "tau": tau,
        "tau_reason": reason,
        "best_dim": best_dim,
        "tau_lower": None if bounds is None else bounds.lower,
        "tau_upper": None if bounds is None else bounds.upper,
        "tau_upper_dim": None if bounds is None else bounds.best_dim or None,
    }


def _target(
    target: Target | None, judged: cx.evaluation.TargetJudgement | None
) -> dict[str, Any]:
    classes = None
    if target is not None and judged is not None:
        named = judged.class_compatibility.items()
        classes = {target.class_names[c]: rho for c, rho in named}
    return {
        "target": None if target is None else target.name,
        "target_kind": None if target is None else target.kind,
        "target_energy": None if judged is None else judged.energy,
        "compatibility": None if judged is None else judged.compatibility,
        "class_compatibility": classes,
    }


def _notes(table: Table, solved: Solved, judged: Judged) -> list[str]:
    """What a reader should know of the figures."""
    info, spectrum, notes = solved.info, judged.spectrum, []
    useful, bounds = spectrum.usefulness, spectrum.bounds
    rank = len(solved.result.singular_values)
    if bounds is None:
        notes.append("tau is undefined: all singular values are 0")
    elif useful is None:
        notes.append("tau needs two singular values: --rank 2 or more")
    if table.target is not None and judged.target is None:
        notes.append(
            f'target "{table.target.name}" is constant on the rows that have weight:'
            " not judged"
        )
    if info.status != cx.Status.CONVERGED:
        notes.append(f"{info.status}: {advice(info.status)}")
    if useful is not None and not math.isfinite(useful.tau):
        notes.append(
            "tau is infinite, written as null: s_{d+1} = 1 for every d, that is, each"
            " computed function is determined by the context"
            + (
                f"; as are all {solved.num_values:,}: a projection, of which no"
                " number of functions but all is special, and more rank tells no more"
                if float(info.total_energy) > solved.num_values * (1 - 1e-4)
                else ""
            )
        )
    if bounds is not None and bounds.lower == bounds.upper and bounds.best_dim > rank:
        notes.append(
            f"tau_d is least at {bounds.best_dim} of up to 512 functions, beyond the"
            f" {rank} computed: --rank {bounds.best_dim} shows it beside other figures"
        )
    if not math.isfinite(spectrum.decay_rate):
        notes.append("decay_rate is infinite, written as null: all values are 0")
    return notes


def _certificate(certificate: cx.solvers.Certificate) -> dict[str, Any]:
    """Numerical bounds: of the computation, whatever the data are."""
    proved = certificate.proved
    return {
        "lower": certificate.lower,
        "upper": proved.upper,
        "next_upper": proved.next_upper.item(),
        "upper_if_none_missed": certificate.if_found.upper,
        "leading_sines": proved.leading_sines,
        "leading_sines_if_none_missed": certificate.if_found.leading_sines,
        # From 1, as the indices of s_i are.
        "clusters": [
            {
                "first": cluster.start + 1,
                "last": cluster.stop,
                "multiplicity": cluster.multiplicity,
                "lower": cluster.lower,
                "upper": cluster.upper,
                "sine": cluster.sine,
                "cut": cluster.cut,
            }
            for cluster in certificate.clusters
        ],
        "rounding": certificate.rounding.item(),
        "failure_probability": certificate.failure_probability.item(),
    }


def _sampling(sampling: cx.evaluation.CountsJudgement) -> dict[str, Any]:
    """Confidence intervals: for the law of the pairs, whatever the computation."""
    found, null = sampling.spectrum, sampling.null
    return {
        "num_pairs": sampling.num_pairs,
        "num_replicates": sampling.num_replicates,
        "level": sampling.level,
        "estimate": found.singular_values.estimate,
        "lower": found.singular_values.lower,
        "upper": found.singular_values.upper,
        "band_lower": found.band.lower,
        "band_upper": found.band.upper,
        "p_values": null.p_values,
        "total_estimate": found.total.estimate.item(),
        "total_lower": found.total.lower.item(),
        "total_upper": found.total.upper.item(),
        "total_p_value": null.total_p_value.item(),
        "independence_bias": found.independence_bias.item(),
        "tau_lower": found.tau.lower.item(),
        "tau_upper": found.tau.upper.item(),
    }


def plain(value: Any) -> Any:
    """Arrays as lists, NumPy numbers as Python's, and what is not finite as None."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())  # once more, for NaN inside
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(description: dict[str, Any], path: Path) -> None:
    """Write strict JSON: no NaN, no Infinity."""
    text = json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_arrays(table: Table, solved: Solved, path: Path) -> None:
    """Write the triples, the two laws, and which rows of DATA the rows are."""
    np.savez(
        path,
        singular_values=solved.result.singular_values,
        left=solved.result.left,
        right=solved.result.right,
        p_x=solved.p_x,
        p_a=solved.p_a,
        rows=table.rows,
    )


def print_table(rows: list[tuple[str, str]]) -> None:
    """Print (label, text) pairs in two columns."""
    from rich.console import Console
    from rich.table import Table as Columns
    from rich.text import Text

    table = Columns(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, text in rows:
        loud = label == "status" and not text.startswith("converged")
        # As `Text`, which takes brackets in names as they are.
        table.add_row(label, Text(text, style="bold red" if loud else ""))
    # A pipe or a file has no width of its own.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def rows_of_table(
    description: dict[str, Any], files: Sequence[str]
) -> list[tuple[str, str]]:
    """The report as (label, text) pairs, in the order to read them."""
    d = description
    params = ", ".join(f"{key} = {_shown(v)}" for key, v in d["params"].items())
    values = d["singular_values"]
    more = f" … ({len(values)} in all)" if len(values) > _NUM_VALUES_SHOWN else ""
    rows = [
        ("data", f"{d['data']}: {d['num_rows']:,} rows"),
        ("features", _features(d)),
        ("context", d["context"] + (f" ({params})" if params else "")),
        ("method", f"{d['method']} ({d['reason']})"),
        ("status", f"{d['status']} (passes: {d['num_passes']:g}, {d['dtype']})"),
        *([("devices", str(d["devices"]))] if d["devices"] > 1 else []),
        ("largest residual", f"{max(d['residuals']):.2g}"),
        ("χ²", f"{_energy(d['total_energy'], d)}  (Σ s_i², all of the spectrum)"),
        ("tail", f"{_energy(d['tail_energy'], d)}  (Σ s_i² beyond rank {d['rank']})"),
        (
            "singular values",
            " ".join(rounded(v, 4) for v in values[:_NUM_VALUES_SHOWN]) + more,
        ),
        ("numerical bounds", _bounds_in_words(d)),
        ("spans", _spans_in_words(d)),
        *_sampling_in_words(d),
        ("decay rate", f"{_shown(d['decay_rate'])}  (λ of s_i² ≈ e^(−λi))"),
        ("τ", _tau_in_words(d)),
        ("dimensions", dimensions_in_words(d)),
        ("τ, 512 dimensions", bracket_in_words(d)),
        ("verdict", f"association {d['verdict']}: {d['verdict_reason']}"),
    ]
    if d["compatibility"] is not None:
        energy = sum(d["target_energy"])
        rows += [
            ("target", f"{d['target']} ({d['target_kind']})"),
            (
                "compatibility",
                f"{rounded(d['compatibility'], 4)}  (of the target with the context, at"
                f" most s_1 = {rounded(values[0], 4)})",
            ),
            ("target energy", f"{energy:.1%} in the {len(values)} functions"),
        ]
    rows += [("note", note) for note in d["notes"]]
    rows.append(("files", "\n".join(files)))
    return rows


def _bounds_in_words(d: dict[str, Any]) -> str:
    certificate, values = d["certificate"], d["singular_values"]
    widest, if_found = (
        max(
            max(v - low, high - v)
            for low, high, v in zip(certificate["lower"], ends, values, strict=True)
        )
        for ends in (certificate["upper"], certificate["upper_if_none_missed"])
    )
    several = [c for c in certificate["clusters"] if c["multiplicity"] > 1]
    text = f"each value within {widest:.1g}: {_proved(d)}"
    if if_found < 0.1 * widest:  # worth a digit or more
        text += f"; within {if_found:.1g} if no value was missed, which is not proved"
    text += f"; s_{len(values) + 1} at most {rounded(certificate['next_upper'])}"
    if several:
        ranges = [f"{c['first']}–{c['last']}" for c in several[:_NUM_VALUES_SHOWN]]
        more = " …" if len(several) > _NUM_VALUES_SHOWN else ""
        text += f"; clusters: {', '.join(ranges)}{more}"
    return text


def _spans_in_words(d: dict[str, Any]) -> str:
    """How far the span of the first functions is known, for as many as it is."""
    certificate = d["certificate"]
    found = (
        (certificate["leading_sines"], _proved(d)),
        (
            certificate["leading_sines_if_none_missed"],
            "if no value was missed, which is not proved",
        ),
    )
    parts, known = [], 0
    for sines, how in found:
        told = [i for i, sine in enumerate(sines, start=1) if sine < _SAYS_NOTHING]
        if told and told[-1] > known:  # else the proved one says it all
            known = told[-1]
            first = "first function" if known == 1 else f"first {known} functions"
            angle = math.degrees(math.asin(max(0.0, sines[known - 1])))
            parts.append(f"the {first} within {angle:.1g}°: {how}")
    if known < len(d["singular_values"]):
        parts.append(
            f"beyond {known} nothing is known, as values are not told apart"
            if known
            else "nothing is known, as values are not told apart"
        )
    return "; ".join(parts)


def _proved(d: dict[str, Any]) -> str:
    chance = d["certificate"]["failure_probability"]
    return "proved" + (f", but for a chance of {chance:.0e}" if chance else "")


def _tau_in_words(d: dict[str, Any]) -> str:
    if d["tau"] is None:
        return d["tau_reason"]
    return f"{d['tau']:.4g}  (usefulness of these values: lower is better)"


def _sampling_in_words(d: dict[str, Any]) -> list[tuple[str, str]]:
    s = d["sampling"]
    if s is None:
        return []
    above = sum(1 for p in s["p_values"] if p <= 1 - s["level"])  # see theory.md §3.7
    return [
        (
            f"{s['level']:.0%} intervals",
            f"s_1: {s['lower'][0]:.4g} to {s['upper'][0]:.4g};"
            f" χ²: {s['total_lower']:.4g} to {s['total_upper']:.4g}"
            f"  (law of the {s['num_pairs']:,} pairs;"
            f" {counted(s['num_replicates'], 'resample')})",
        ),
        (
            "random pairings",
            f"{above} of {counted(len(s['p_values']), 'value')} above those of chance"
            f" (p ≤ {1 - s['level']:.2g}); χ²: p = {s['total_p_value']:.2g}",
        ),
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _features(d: dict[str, Any]) -> str:
    used, constant = d["num_columns"], d["num_constant_columns"]
    columns = f"{used:,} of {used + constant:,}" if constant else f"{used:,}"
    return f"{d['num_features']:,} from {columns} columns"


def _energy(value: float, d: dict[str, Any]) -> str:
    error = d["tail_error"]
    return f"{value:.4g}" + (f" ± {error:.1g}" if error else "")
