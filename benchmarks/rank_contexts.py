"""Does tau order contexts as their errors do? The published experiment on CSVs.

Of each table in a folder the 140 contexts of `ranking.published_family`, each with tau
and the error of a ridge probe, and the correlation of the two. What the publication
leaves open is chosen as `contexture rank` does; the facts of each table hold the
correlations under other choices, beside the published ones. Every table is reported.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from contexture_jax.ranking import ErrorName, RankedContext

# Pearson and distance correlation, Table 1 of Zhai et al. 2025 (CTX).
PUBLISHED = {
    "credit-approval": (0.583, 0.683),
    "diabetes": (0.737, 0.740),
    "cmc": (0.867, 0.860),
    "spambase": (0.775, 0.858),
    "abalone": (0.028, 0.470),
}
SMOKE = {"data": ["wine"], "settings": 2, "masks": 2, "splits": 2, "max_dim": 8}
ERRORS: tuple[ErrorName, ...] = (
    "error",
    "squared_error",
    "validated_error",
    "validated_squared_error",
)
LEFT_OUT: tuple[tuple[str, ...], ...] = (
    (),
    ("too strong",),
    ("too weak",),
    ("too weak", "too strong", "undecided"),
)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("data", nargs="*", help="CSVs, folders of them, built-in sets")
    parser.add_argument("--target", default="target", help="the column to predict")
    parser.add_argument("--preset", choices=("published",), default="published")
    parser.add_argument("--settings", type=int, default=35, help="of each type")
    parser.add_argument("--masks", type=int, default=50, help="of a masked context")
    parser.add_argument("--splits", type=int, default=5, help="of the probe")
    parser.add_argument("--max-dim", type=int, default=512, help="d0")
    parser.add_argument("--max-rows", type=int, default=5000, help="drawn of a table")
    args = parse(parser, SMOKE, argv)
    report = Report("rank_contexts", args)
    for name in tables(args.data):
        report_table(report, name, args)
        # A long run keeps what it has.
        report.write()


def tables(given: list[str]) -> list[str]:
    """Files and names, folders by their CSVs."""
    found = []
    for name in given:
        path = Path(name)
        found += sorted(map(str, path.glob("*.csv"))) if path.is_dir() else [name]
    return found


def report_table(report: Report, name: str, args: argparse.Namespace) -> None:
    """All contexts of one table, and what their figures say."""
    start = time.perf_counter()
    title = Path(name).stem
    try:
        rows, facts = ranked(name, args)
    except ValueError as error:
        # Every table is reported, whatever it shows.
        report.add_case(title, [], failed=str(error))
        print(f"{title}: {error}", file=sys.stderr)
        return
    seconds = time.perf_counter() - start
    whole = cx.ranking.correlations(rows)
    published = PUBLISHED.get(title.partition("-rings")[0])
    accuracy = {"pearson": whole.pearson, "distance correlation": whole.distance}
    figures = {key: value for key, value in accuracy.items() if value is not None}
    row = {
        "name": f"{len(rows)} contexts",
        "kind": "ours",
        "settings": f"{args.splits} splits",
        "first_call_seconds": seconds,
        "seconds": [seconds],
        "seconds_median": seconds,
        "peak_megabytes": None,
        "accuracy": figures,
    }
    contexts = [described(one) for one in rows]
    report.add_case(
        title,
        [row],
        **facts,
        published=published,
        correlations=choices(rows),
        contexts=contexts,
    )


def ranked(
    name: str, args: argparse.Namespace
) -> tuple[list[RankedContext], dict[str, Any]]:
    """What `rank_contexts` says of a table."""
    table = cx.data.load_features(name, target=args.target)
    assert table.target is not None
    kept = np.arange(len(table.rows))
    if len(kept) > args.max_rows:
        chosen = np.random.default_rng(args.seed).permutation(len(kept))
        kept = np.sort(chosen[: args.max_rows])
    x, y = table.features[kept], table.target.values[kept]
    widths = [len(encoding.feature_names) for encoding in table.encodings]
    specs = cx.ranking.published_family(x, args.settings, num_masks=args.masks)
    rows = cx.ranking.rank_contexts(
        x,
        specs,
        columns=np.repeat(np.arange(len(widths)), widths),
        probe=cx.ranking.RidgeProbe(y, num_splits=args.splits, seed=args.seed),
        max_dim=args.max_dim,
        seed=args.seed,
    )
    facts = {"num_rows": len(x), "of": len(table.rows), "kind": table.target.kind}
    return rows, facts


def choices(rows: list[RankedContext]) -> list[dict[str, Any]]:
    """The correlations under each way to read what the publication leaves open."""
    types = (None, *dict.fromkeys(row.spec.type for row in rows))
    return [
        {"type": of_type or "all", "left out": words, "error": error}
        | cx.ranking.correlations(
            rows, error=error, leave_out=words, kind=of_type
        )._asdict()
        for of_type, words, error in itertools.product(types, LEFT_OUT, ERRORS)
    ]


def described(row: RankedContext) -> dict[str, Any]:
    """A context as JSON has it: what is not finite is None."""
    probe = None if row.probe is None else row.probe._asdict()
    held = row._asdict() | {"spec": vars(row.spec), "probe": probe}
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in held.items()
    }


if __name__ == "__main__":
    main()
