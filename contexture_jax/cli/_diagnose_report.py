"""What `contexture diagnose` leaves behind: a JSON, a picture, and a table to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import contexture_jax as cx
from contexture_jax.cli._report import plain
from contexture_jax.data import Table

if TYPE_CHECKING:
    from contexture_jax.cli._diagnose import DiagnoseOptions
    from contexture_jax.evaluation import Compared, Comparisons, ContextFit, Geometry

__all__ = ["describe", "draw", "rows_of_table"]

_PROTOCOL = (
    "value: of all rows; null: the mean of shuffled rows; p_value: share of shuffles,"
    " itself counted, that reach the value; lower, upper: a jackknife interval of 90 %"
    " for the value at ever more rows, mutual_knn and cknna at these; adjusted: (value"
    " - null) / (1 - null); contexts are ranked by adjusted ratio trace"
)


def describe(
    options: DiagnoseOptions,
    models: dict[str, np.ndarray],
    table: Table | None,
    found: tuple[Comparisons, dict[str, Geometry], dict[str, Any]],
) -> dict[str, Any]:
    """Everything about a run as plain Python; what is not finite is None."""
    compared, geometry, held = found
    names = list(models)
    target = None if table is None else table.target
    first = options.measures[0]
    return plain(
        {
            "version": cx.__version__,
            "num_rows": len(next(iter(models.values()))),
            "models": names,
            "files": list(options.embeddings),
            "data": None if table is None else table.title,
            "target": None if target is None else target.name,
            "seed": options.seed,
            "permutations": options.permutations,
            "measures": {m: _table(c) for m, c in compared.compared.items()},
            "order": _order(np.asarray(compared.compared[first].value)),
            "geometry": {n: _shape(g, models[n]) for n, g in geometry.items()},
            "contexts": {n: _ranked(h["contexts"]) for n, h in held.items()},
            "target_told": {
                n: {
                    key: one if isinstance(one, float) else _numbers(one)
                    for key, one in h.items()
                    if key != "contexts"
                }
                for n, h in held.items()
            },
            "protocol": _PROTOCOL,
            "notes": [] if table is None else [str(note) for note in table.notes],
        }
    )


def _numbers(one: Compared) -> dict[str, Any]:
    return {
        "value": float(one.value),
        "null": float(one.null.estimate),
        "p_value": float(one.p_value),
        "lower": float(one.interval.lower),
        "upper": float(one.interval.upper),
        "adjusted": float(one.adjusted),
    }


def _table(found: Compared) -> dict[str, Any]:
    return {
        "value": np.asarray(found.value).tolist(),
        "null": np.asarray(found.null.estimate).tolist(),
        "p_value": np.asarray(found.p_value).tolist(),
        "lower": np.asarray(found.interval.lower).tolist(),
        "upper": np.asarray(found.interval.upper).tolist(),
    }


def _order(values: np.ndarray) -> list[int]:
    """Of the leaves of a tree by average linkage of 1 − value."""
    if len(values) < 3:
        return list(range(len(values)))
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    apart = np.maximum(1 - (values + values.T) / 2, 0)
    np.fill_diagonal(apart, 0)
    tree = hierarchy.linkage(squareform(apart, checks=False), "average")
    leaves = hierarchy.leaves_list(
        hierarchy.optimal_leaf_ordering(tree, squareform(apart, checks=False))
    )
    return [int(i) for i in leaves]


def _shape(found: Geometry, x: np.ndarray) -> dict[str, Any]:
    dimension = found.intrinsic_dimension
    return {
        "width": x.shape[1],
        "effective_rank": float(found.effective_rank),
        "entropy_rank": float(found.entropy_rank),
        "num_directions": int(found.num_directions),
        "collapsed": float(found.collapsed),
        "anisotropy": float(found.anisotropy),
        "intrinsic_dimension": float(dimension.estimate),
        "intrinsic_dimension_lower": float(dimension.lower),
        "intrinsic_dimension_upper": float(dimension.upper),
        "explained": np.asarray(found.explained)[:50].tolist(),
    }


def _ranked(fits: dict[str, ContextFit]) -> list[dict[str, Any]]:
    rows = [
        {
            "context": name,
            "ratio_trace": _numbers(fit.ratio_trace),
            "compatibility": _numbers(fit.compatibility),
        }
        for name, fit in fits.items()
    ]
    return sorted(rows, key=lambda row: -row["ratio_trace"]["adjusted"])


def draw(description: dict[str, Any], path: Path) -> None:
    """Draw the pairs by the first measure."""
    from contexture_jax import plotting

    measure, table = next(iter(description["measures"].items()))
    names = description["models"]
    off = ~np.eye(len(names), dtype=bool)
    chance = float(np.asarray(table["null"])[off].mean())
    axes = plotting.plot_matrix(
        table["value"],
        names,
        order=description["order"],
        label=f"{measure} (by chance {chance:.2f} on average)",
        title=f"{len(names)} embeddings of {description['num_rows']:,} rows",
    )
    plotting.save(axes, path)


def rows_of_table(d: dict[str, Any], files: Sequence[str]) -> list[tuple[str, str]]:
    """The report as (label, text) pairs, in the order to read them."""
    names = d["models"]
    rows = [("rows", f"{d['num_rows']:,}, of {len(names)} embeddings")]
    for name, shape in d["geometry"].items():
        rows.append(
            (
                name,
                f"width {shape['width']}, effective rank {shape['effective_rank']:.3g}"
                f" (RankMe {shape['entropy_rank']:.3g}), intrinsic dimension"
                f" {_shown(shape['intrinsic_dimension'])}, mean cosine"
                f" {shape['anisotropy']:.2f}, {shape['collapsed']:.0%} collapsed",
            )
        )
    for measure, t in d["measures"].items():
        for i in range(len(names)):
            for j in range(i):
                # Of few rows a value may lie outside: it holds what chance adds.
                ends = f"{t['lower'][i][j]:.3f} to {t['upper'][i][j]:.3f}"
                is_near = measure in ("mutual_knn", "cknna")
                of = "of these rows" if is_near else "of ever more rows"
                text = (
                    f"{measure} {t['value'][i][j]:.3f} ({of} {ends}; by chance"
                    f" {t['null'][i][j]:.3f}, p = {t['p_value'][i][j]:.2g})"
                )
                rows.append((f"{names[j]} | {names[i]}", text))
    for name, fits in d["contexts"].items():
        for place, fit in enumerate(fits, start=1):
            share, rho = fit["ratio_trace"], fit["compatibility"]
            text = (
                f"{place}. {fit['context']}: ratio trace {share['value']:.3f} of the"
                f" best (by chance {share['null']:.3f}, p = {share['p_value']:.2g}),"
                f" compatibility {rho['value']:.3f} ({rho['null']:.3f})"
            )
            rows.append((f"{name} knows", text))
    for name, told in d["target_told"].items():
        for what, one in told.items():
            text = (
                f"{one:.3f}"
                if isinstance(one, float)
                else (
                    f"{one['value']:.3f} (by chance {one['null']:.3f}, p ="
                    f" {one['p_value']:.2g})"
                )
            )
            rows.append((f"{name}, {d['target']}", f"{what.replace('_', ' ')} {text}"))
    rows += [("note", note) for note in d["notes"]]
    return [*rows, ("files", ", ".join(files))]


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"
