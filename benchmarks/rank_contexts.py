"""Does tau order contexts as their errors do, and does anything without labels better?

The published experiment on CSVs. Of each table the 140 contexts of
`ranking.published_family`, each with τ, other criteria that see no labels
(`_criteria.py`), and the errors of ridge probes of its exact functions, at the d of τ
and at the d of validation; then the correlations. What the publication leaves open is
chosen as `contexture rank` does, and what another choice gives stands beside it. Every
table is reported. With --keep a run that was ended goes on, and what is known is not
solved again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from _criteria import (
    CRITERIA,
    Seen,
    correlated,
    half_spans,
    halves,
    held_against,
)
from contexture_jax.ranking import RankedContext, RidgeProbe, Solved

# Pearson and distance correlation, Table 1 of Zhai et al. 2025 (CTX).
PUBLISHED = {
    "credit-approval": (0.583, 0.683),
    "diabetes": (0.737, 0.740),
    "cmc": (0.867, 0.860),
    "spambase": (0.775, 0.858),
    "abalone": (0.028, 0.470),
}
SMOKE = {"data": ["wine"], "settings": 3, "masks": 2, "splits": 2, "max_dim": 8}
ERRORS = (
    "error",
    "squared_error",
    "validated_error",
    "validated_squared_error",
)
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "none": (),
    "too strong": ("too strong",),
    "too weak": ("too weak",),
    "all that tau abstains from": ("too weak", "too strong", "undecided"),
}
SHOWN = ("name", "tau", "best_dim", "chi_squared", "association", "dims")
HELD = ("tau", "tau_lower", "tau_upper", "best_dim", "energy_dim", "chi_squared")


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "data", nargs="*", help="CSVs, folders, built-in sets; X@N: N rows of X"
    )
    parser.add_argument("--target", default="target", help="the column to predict")
    parser.add_argument("--preset", choices=("published",), default="published")
    parser.add_argument("--settings", type=int, default=35, help="of each type")
    parser.add_argument("--masks", type=int, default=50, help="of a masked context")
    parser.add_argument("--splits", type=int, default=5, help="of the probe")
    parser.add_argument("--max-dim", type=int, default=512, help="d0")
    parser.add_argument("--max-rows", type=int, default=5000, help="drawn of a table")
    parser.add_argument("--range", action="store_true", help="scale columns to [0, 1]")
    parser.add_argument("--keep", type=Path, help="folder for what is known so far")
    args = parse(parser, SMOKE, argv)
    report = Report("rank_contexts", args)
    titles = [Path(name).stem for name, _ in tables(args.data)]
    # Where they lie is nobody's business.
    report.content["arguments"]["data"] = [Path(text).name for text in args.data]
    report.content["halves"] = halves(titles)
    for name, rows in tables(args.data):
        report_table(report, name, rows or args.max_rows, args)
        # A long run keeps what it has.
        report.write()


def tables(given: list[str]) -> list[tuple[str, int]]:
    """Files and names, folders by their CSVs, with the rows asked for or 0."""
    found = []
    for text in given:
        name, _, rows = text.partition("@")
        path = Path(name)
        names = sorted(map(str, path.glob("*.csv"))) if path.is_dir() else [name]
        found += [(name, int(rows or 0)) for name in names]
    return found


def report_table(
    report: Report, name: str, max_rows: int, args: argparse.Namespace
) -> None:
    """All contexts of one table, and what their figures say."""
    title = Path(name).stem
    try:
        contexts, facts = explored(name, max_rows, args)
    except ValueError as error:
        # Every table is reported, whatever it shows.
        report.add_case(title, [], failed=str(error))
        print(f"{title}: {error}", file=sys.stderr)
        return
    scores = scored(contexts, facts["num_rows"])
    errors = {error: mean_errors(contexts, error) for error in ERRORS}
    seconds = sum(one["seconds"] for one in contexts)
    whole = correlated(scores["tau"], errors["error"])
    row = {
        "name": f"{len(contexts)} contexts",
        "kind": "ours",
        "settings": f"{args.splits} splits",
        "first_call_seconds": seconds,
        "seconds": [seconds],
        "seconds_median": seconds,
        "peak_megabytes": None,
        "accuracy": {k: v for k, v in whole.items() if v is not None},
    }
    told = choices(contexts, scores["tau"])
    # Scaled otherwise, where such a run was kept, too.
    path = kept_path(name, facts["num_rows"], args, not args.range)
    other = list(read_kept(path).values())
    if len(other) == len(contexts):
        tau = scored(other, facts["num_rows"])["tau"]
        what = "columns " + ("standardised" if args.range else "from 0 to 1")
        for error in ERRORS:
            found = correlated(tau, mean_errors(other, error))
            told.append({"error": error, "contexts of": what, **found})
    columns = {key: [one[key] for one in contexts] for key in SHOWN}
    columns |= {name: plain(scores[name]) for name in scores if "columns at" in name}
    report.add_case(
        title,
        [row],
        **facts,
        published=PUBLISHED.get(title.partition("-rings")[0]),
        criteria={e: held_against(scores, errors[e]) for e in (ERRORS[0], ERRORS[2])},
        choices=told,
        contexts=columns | {e: plain(errors[e]) for e in (ERRORS[0], ERRORS[2])},
    )


def explored(
    name: str, max_rows: int, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is known of each context of a table."""
    table = cx.data.load_features(name, target=args.target)
    assert table.target is not None
    kept = np.arange(len(table.rows))
    if len(kept) > max_rows:
        chosen = np.random.default_rng(args.seed).permutation(len(kept))
        kept = np.sort(chosen[:max_rows])
    x, y = np.asarray(table.features[kept], np.float64), table.target.values[kept]
    if args.range:
        low, high = x.min(axis=0), x.max(axis=0)
        x = (x - low) / np.where(high > low, high - low, 1.0)
    widths = [len(encoding.feature_names) for encoding in table.encodings]
    specs = cx.ranking.published_family(x, args.settings, num_masks=args.masks)
    probes = [
        RidgeProbe(y, num_splits=1, seed=args.seed + split)
        for split in range(args.splits)
    ]
    path = kept_path(name, len(x), args, args.range)
    found = read_kept(path)
    solved: dict[str, Solved] = {}
    started = time.process_time()

    def hold(spec: Any, one: Solved) -> None:
        solved.clear()
        solved[spec.name] = one

    def keep(row: RankedContext) -> None:
        nonlocal started
        one = described(row, solved.get(row.spec.name), probes, x)
        one["seconds"] = round(time.process_time() - started, 4)
        started = time.process_time()
        found[row.spec.name] = one
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(one) + "\n")

    cx.ranking.rank_contexts(
        x,
        [spec for spec in specs if spec.name not in found],
        columns=np.repeat(np.arange(len(widths)), widths),
        max_dim=args.max_dim,
        seed=args.seed,
        on_context=keep,
        on_solved=hold,
    )
    facts = {"num_rows": len(x), "of": len(table.rows), "kind": table.target.kind}
    return [found[spec.name] for spec in specs], facts


def kept_path(
    name: str, num_rows: int, args: argparse.Namespace, in_range: bool
) -> Path | None:
    """Where the contexts of a table are kept, by all that they depend on."""
    if args.keep is None:
        return None
    sizes = (num_rows, args.settings, args.masks, args.splits, args.max_dim)
    words = [Path(name).stem, *map(str, sizes), *["range"] * in_range]
    return args.keep / f"{'-'.join(words)}.jsonl"


def read_kept(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {one["name"]: one for one in lines}


def described(
    row: RankedContext, solved: Solved | None, probes: list[RidgeProbe], x: np.ndarray
) -> dict[str, Any]:
    """A context as JSON has it: what is not finite is None."""
    held = {name: getattr(row, name) for name in (*HELD, "association", "status")}
    held |= {"name": row.spec.name, "type": row.spec.type, "reason": row.reason}
    held = {k: None if v in (np.inf, -np.inf) else v for k, v in held.items()}
    if solved is None or row.tau is None:
        return held | dict.fromkeys((*ERRORS, "dims", "values"))
    mu, dim = solved.functions, row.best_dim or 1
    told = [probe.errors(mu, dim) for probe in probes]
    held_out = cx.evaluation.leave_one_out_errors(
        np.float32(x), np.float32(mu), ridges=cx.ranking.RIDGES
    )
    columns = np.asarray(held_out)
    return (
        held
        | {error: plain([getattr(one, error) for one in told]) for error in ERRORS}
        | {"dims": int(np.median([one.validated_dim for one in told]))}
        | {"values": plain(solved.values, 9), "complete": solved.complete}
        | {"columns": plain(columns)}
        | {"leverage": plain(np.cumsum(mu**2, axis=1).max(axis=0))}
        | {"halves": plain(half_spans(mu, solved.values[: mu.shape[1]]))}
    )


def plain(values: Any, digits: int = 6) -> list[float | None]:
    """So many digits; what is not finite is None."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in values]


def numbers(values: list[float | None]) -> np.ndarray:
    return np.array([np.inf if v is None else v for v in values], float)


def scored(contexts: list[dict[str, Any]], num_rows: int) -> dict[str, list[float]]:
    """Each criterion of all contexts; NaN of those that have no spectrum."""
    found: dict[str, list[float]] = {name: [] for name in CRITERIA}
    for one in contexts:
        seen = None
        if one["values"] is not None:
            seen = Seen(
                np.inf if one["tau"] is None else one["tau"],
                numbers(one["values"]).astype(np.float32),
                one["complete"],
                one["chi_squared"],
                num_rows,
                one["best_dim"],
                numbers(one["columns"]),
                numbers(one["leverage"]),
                numbers(one.get("halves", [])),
            )
        for name, score in CRITERIA.items():
            found[name].append(np.nan if seen is None else score(seen))
    return found


def mean_errors(contexts: list[dict[str, Any]], error: str, split: Any = None) -> Any:
    """Over the splits, or of one."""
    splits = [one[error] for one in contexts]
    return np.array(
        [
            np.nan if s is None else np.mean(s) if split is None else s[split]
            for s in splits
        ]
    )


def choices(contexts: list[dict[str, Any]], tau: list[float]) -> list[dict[str, Any]]:
    """The correlations of τ where one thing is chosen otherwise, and of two together.

    First as published: the error at the d of τ, all types, all settings, all splits.
    """
    types = [one["type"] for one in contexts]
    words = [one["association"] for one in contexts]
    # The place of a setting among those of its type, from 0 to 1.
    counts = {kind: types.count(kind) for kind in types}
    places = [types[:i].count(kind) / counts[kind] for i, kind in enumerate(types)]
    place = np.array(places)
    kept = {f"type {kind}": np.array([t == kind for t in types]) for kind in counts}
    kept |= {
        "lower half of gamma and K": place < 0.5,
        "middle half of gamma and K": (place >= 0.25) & (place < 0.75),
        "upper half of gamma and K": place >= 0.5,
    }
    kept |= {
        f"left out: {what}": np.array([word not in out for word in words])
        for what, out in LEFT_OUT.items()
    }
    found = []
    for error in ERRORS:
        for what, mask in kept.items():
            masked = np.where(mask, tau, np.nan)
            row = correlated(masked, mean_errors(contexts, error))
            found.append({"error": error, "contexts of": what, **row})
    splits = max(len(one[ERRORS[0]] or ()) for one in contexts)
    for split in range(splits):
        row = correlated(tau, mean_errors(contexts, ERRORS[0], split))
        found.append({"error": ERRORS[0], "contexts of": f"split {split}", **row})
    return found


if __name__ == "__main__":
    main()
