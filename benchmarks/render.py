"""The tables of README.md, from the JSON files in results/.

    python benchmarks/render.py            rewrite what is between the markers
    python benchmarks/render.py --check    fail if it is not what the files say

Every figure comes from a file. `--smoke` is `--check`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _rank_tables import criteria_tables, rank_tables

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
ORDER = (
    "roofline",
    "dense_svd",
    "dense_defaults",
    "auto_grid",
    "sparse_svd",
    "neighbor_operator",
    "neighbor_graph",
    "neighbor_lists",
    "kernel_operator",
    "end_to_end",
    "scaling",
    "devices",
    "streaming",
    "train_step",
    "learn_zoo",
    "learn_abalone",
    "estimate_spectrum",
    "rank_contexts",
    "criteria_zoo",
    "tau_of_subsets",
    "learn_images",
    "mixing",
    "stkr",
    "few_labels",
    "forecast",
    "shift",
    "text_contexts",
    "accelerator",
)
PICTURES = {
    "learn_abalone": "A dot a variant of the training, a panel a figure of how close"
    " its functions are to the exact ones; the reference, the worst of its seeds, and"
    " what is published as lines; variants are of one seed each"
}
Table = list[list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--smoke", action="store_true", help="the same")
    args = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n\n{render(read_results())}\n{END}{after}"
    if not (args.check or args.smoke):
        README.write_text(new, encoding="utf-8")
    elif new != text:
        sys.exit(f"{README.name} is not what results/ says: run render.py")


def read_results() -> list[dict[str, Any]]:
    """What has been measured, in the order of the text."""
    # A workload may have been measured in parts: learn_zoo_2d.json.
    files = [f for name in ORDER for f in sorted(RESULTS.glob(f"{name}*.json"))]
    return [json.loads(f.read_text(encoding="utf-8")) for f in files]


def render(results: list[dict[str, Any]]) -> str:
    """All tables: the goals first, then one a case."""
    if not results:
        return "Nothing has been measured yet.\n"
    goals = [
        [
            goal["what"],
            number(goal["measured"]),
            number(goal["at_most"]),
            {True: "yes", False: "no", None: "—"}[goal["met"]],
            goal["by"] or "",
        ]
        for result in results
        for goal in result["goals"]
    ]
    parts = []
    if goals:
        head = ["figure", "measured", "at most", "met", "by"]
        parts.append("### Goals\n\n" + markdown([head, *goals]))
    parts += [section(result) for result in results]
    return "\n".join(parts)


def section(result: dict[str, Any]) -> str:
    """One benchmark: where and when, then its cases."""
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"### `{result['benchmark']}`\n",
        f"{result['date']}; {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gigabytes']} GB, {machine['system']}; load average"
        f" {machine['load_average_at_start']} at the start,"
        f" {machine['load_average_at_end']} at the end; Python {machine['python']},"
        f" {packages}.\n",
        *device_lines(result),
    ]
    if result["benchmark"] == "rank_contexts":
        return "\n".join([*lines, *rank_tables(result, markdown)])
    if result["benchmark"] == "criteria_zoo":
        return "\n".join([*lines, *criteria_tables(result, markdown)])
    for case in result["cases"]:
        lines.append(f"**{case['case']}**{plain_facts(case['facts'])}\n")
        lines.append(markdown(case_table(case["rows"])))
        lines += near_words(case["facts"].get("neighbours", {}))
    name = result["benchmark"]
    if name in PICTURES and result["arguments"]["picture"]:
        lines.append(f"![{PICTURES[name]}](results/{name}.png)\n")
    return "\n".join(lines)


def device_lines(result: dict[str, Any]) -> list[str]:
    """What `accelerator` says of its device, the checks on it and what went wrong."""
    if "device" not in result:
        return []
    device, checks = result["device"], result["checks"]
    memory = device["memory_gigabytes"]
    memory = "" if memory is None else f" of {memory} GB"
    what = f"Measured on: **{device['platform'].upper()}**, {device['kind']}{memory}."
    if device["platform"] == "cpu":
        what += " No GPU or TPU was there: small sizes, to show that it runs."
    groups: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        groups.setdefault(check["name"].partition(":")[0], []).append(check)
    head = [
        "check",
        "passed",
        "failed",
        "left out",
        "largest error, of what is allowed",
    ]
    rows = [check_line(name, group) for name, group in groups.items()]
    told = [f"check {c['name']}: {c['why']}" for c in checks if not c["passed"]]
    told += [*result["problems"], *result["notes"]]
    return [
        f"{what}\n",
        "**float32 on the device beside a CPU's float64**\n",
        markdown([head, *rows]),
        *(f"- {line}" for line in told),
        *([""] if told else []),
    ]


def check_line(name: str, group: list[dict[str, Any]]) -> list[str]:
    """How many of a kind passed, and by what margin: in shares of what is allowed."""
    counts = [
        str(sum(c["passed"] is way for c in group)) for way in (True, False, None)
    ]
    shares = [
        error / c["allowed"][key]
        for c in group
        for key, error in c["errors"].items()
        if c["allowed"][key]
    ]
    return [name, *counts, number(max(shares)) if shares else "—"]


def near_words(neighbours: dict[str, dict[str, list[str]]]) -> list[str]:
    """A line a word, the nearest by each contestant in a column of its own."""
    if not neighbours:
        return []
    words = list(next(iter(neighbours.values())))
    body = [[w, *(", ".join(near[w]) for near in neighbours.values())] for w in words]
    return [markdown([["nearest to", *neighbours], *body])]


def plain_facts(facts: dict[str, Any]) -> str:
    """Facts that are one number or a few."""
    shown = []
    for name, value in facts.items():
        if name == "neighbours":
            continue
        label = name.replace("_", " ")
        if isinstance(value, (int, float)):
            shown.append(f"{label} {number(value)}")
        elif isinstance(value, dict):
            inner = (f"{k.replace('_', ' ')} {number(v)}" for k, v in value.items())
            shown.append(f"{label}: {', '.join(inner)}")
    return f" ({'; '.join(shown)})" if shown else ""


def case_table(rows: list[dict[str, Any]]) -> Table:
    """A line a contestant; columns that nobody fills are left out."""
    errors = list(dict.fromkeys(name for row in rows for name in row["accuracy"]))
    units = [row["unit"] for row in rows if "unit" in row]
    columns = {
        "contestant": lambda row: row["name"],
        "settings": lambda row: row["settings"],
        "seconds": lambda row: number(row["seconds_median"]),
        "slowest": lambda row: number(max(row["seconds"], default=None)),
        (units or ["rate"])[0]: lambda row: number(row.get("rate")),
        "peak MB": lambda row: number(row["peak_megabytes"]),
        "of the bound": lambda row: number(row.get("of_bound")),
        "first call, s": lambda row: number(row["first_call_seconds"]),
        "whole graph, s": lambda row: number(row.get("whole_graph_seconds")),
        "predicted memory off by": lambda row: number(
            row.get("memory", {}).get("relative_error")
        ),
        **{
            name: (lambda row, name=name: number(row["accuracy"].get(name)))
            for name in errors
        },
    }
    body = [[column(row) for column in columns.values()] for row in rows]
    filled = [
        index
        for index in range(len(columns))
        if any(line[index] not in ("", "—") for line in body)
    ]
    heads = list(columns)
    return [[line[index] for index in filled] for line in [heads, *body]]


def number(value: float | None) -> str:
    """Three digits; a dash where there is no figure."""
    if value is None:
        return "—"
    # Below that it is what rounding leaves of figures of order 1.
    if abs(value) < 1e-17 or isinstance(value, int):
        return str(int(value))
    if 1e-3 <= abs(value) < 1e4:
        digits = f"{value:.3g}"
        return digits if "e" not in digits else f"{value:.0f}"
    return f"{value:.1e}"


def markdown(table: Table) -> str:
    head, *body = table
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
