"""The tables of `rank_contexts`: a column a table, Pearson / distance in each cell."""

from collections.abc import Callable
from typing import Any

__all__ = ["criteria_tables", "rank_tables"]

Table = list[list[str]]
ERRORS = {
    "error": "of the first d functions, d that of τ, as published",
    "validated_error": "of as many functions as validation prefers",
}


def rank_tables(result: dict[str, Any], markdown: Callable[[Table], str]) -> list[str]:
    """Lines for the text of all tables of one run."""
    failed = [case for case in result["cases"] if "failed" in case["facts"]]
    cases = [case for case in result["cases"] if "failed" not in case["facts"]]
    if not cases:
        return []
    lines = ["**τ and errors** (each cell: Pearson / distance correlation)\n"]
    lines.append(markdown(whole(cases)))
    lines += criteria_tables({**result, "cases": cases}, markdown)
    lines.append("**What a choice of the protocol moves**: τ and the error\n")
    lines.append(markdown(choices(cases)))
    lines += [f"- {case['case']} failed: {case['facts']['failed']}" for case in failed]
    return [*lines, ""] if failed else lines


def criteria_tables(
    result: dict[str, Any], markdown: Callable[[Table], str]
) -> list[str]:
    """Lines for the text of criteria beside errors."""
    lines, cases = [], result["cases"]
    for error, words in ERRORS.items():
        lines.append(f"**Criteria without labels, beside the error {words}**\n")
        lines.append(markdown(criteria(cases, error, result["halves"])))
        lines.append(chosen(cases, error, result["halves"]) + "\n")
    return lines


def short(title: str) -> str:
    return title.partition("-rings")[0].partition("-red")[0]


def cell(row: dict[str, Any]) -> str:
    return pair(row["pearson"], row["distance"])


def pair(pearson: float | None, distance: float | None) -> str:
    if pearson is None or distance is None:
        return "—"
    return f"{pearson:.2f} / {distance:.2f}"


def whole(cases: list[dict[str, Any]]) -> Table:
    """A line a data set."""
    head = ["data", "rows", "contexts", "published", "as published", "d by validation"]
    head += ["not too strong", "where τ does not abstain", "solved in CPU s"]
    body = []
    for case in cases:
        facts = case["facts"]
        found = {(row["error"], row["contexts of"]): row for row in facts["choices"]}
        rows = str(facts["num_rows"])
        if facts["of"] > facts["num_rows"]:
            rows += f" of {facts['of']}"
        out = "left out: "
        body.append(
            [
                short(case["case"]),
                rows,
                str(found["error", f"{out}none"]["contexts"]),
                pair(*(facts["published"] or (None, None))),
                cell(found["error", f"{out}none"]),
                cell(found["validated_error", f"{out}none"]),
                cell(found["error", f"{out}too strong"]),
                cell(found["error", f"{out}all that tau abstains from"]),
                f"{case['rows'][0]['seconds_median']:.0f}",
            ]
        )
    return [head, *body]


def criteria(cases: list[dict[str, Any]], error: str, halves: list[list[str]]) -> Table:
    """A line a criterion; * where it is at least τ by both correlations."""
    head = ["criterion", *(short(case["case"]) for case in cases)]
    head += ["at least τ", "chosen on", "other half"]
    body = []
    for place, first in enumerate(cases[0]["facts"]["criteria"][error]):
        rows = [case["facts"]["criteria"][error][place] for case in cases]
        wins = {
            case["case"]: row["at_least_tau"]
            for case, row in zip(cases, rows, strict=True)
        }
        counts = [list(wins), *([t for t in half if t in wins] for half in halves)]
        body.append(
            [
                first["name"],
                *(cell(row) + " *" * row["at_least_tau"] for row in rows),
                *(f"{sum(wins[t] for t in half)} of {len(half)}" for half in counts),
            ]
        )
    return [head, *body]


def chosen(cases: list[dict[str, Any]], error: str, halves: list[list[str]]) -> str:
    """Which criterion is the best of the first half of the tables, and on the other.

    By the number of tables where it is at least τ, then by the mean of its
    correlations.
    """
    found = {
        case["case"]: {row["name"]: row for row in case["facts"]["criteria"][error]}
        for case in cases
    }
    first, second = ([t for t in half if t in found] for half in halves)
    # τ where it does not abstain is τ: it is at least that by itself.
    names = [
        name
        for name in found[cases[0]["case"]]
        if name not in ("tau", "tau, moderate only")
    ]

    def merit(name: str) -> tuple[int, float]:
        rows = [found[title][name] for title in first]
        values = [row[k] or 0.0 for row in rows for k in ("pearson", "distance")]
        return sum(row["at_least_tau"] for row in rows), sum(values)

    best = max(names, key=merit)
    wins = sum(found[title][best]["at_least_tau"] for title in second)
    return (
        f"Chosen among {len(names)} on {', '.join(map(short, first))}: *{best}*; on the"
        f" others it is at least τ by both correlations for {wins} of {len(second)}."
    )


def choices(cases: list[dict[str, Any]]) -> Table:
    """A line a choice, the published error first."""
    head = ["error", "contexts of", *(short(case["case"]) for case in cases)]
    told = [
        {(row["error"], row["contexts of"]): row for row in case["facts"]["choices"]}
        for case in cases
    ]
    nothing = {"pearson": None, "distance": None}
    body = [
        [
            key[0].replace("_", " "),
            key[1],
            *(cell(found.get(key, nothing)) for found in told),
        ]
        for key in dict.fromkeys(key for found in told for key in found)
        if shown(*key)
    ]
    return [head, *body]


def shown(error: str, what: str) -> bool:
    """Two choices together are in the JSON."""
    return error == "error" or what == "left out: none" or "columns" in what
