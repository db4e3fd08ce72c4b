"""Two runs held against each other: faster, slower or the same, beyond their noise."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

__all__ = ["compare", "ratio_interval"]

_LEVEL = 0.05  # chance of a difference told where there is none, of all rows together
_LEAST = 0.05  # a difference smaller than this is none
_ERRORS = 2.0  # times an error that counts as less exact
_ROUNDING = 1e-6  # and no error below it does
_BUSY = 4.0  # from the least to the largest that the machine may have changed by
_YARDSTICK = "yardstick: "

# What makes times of two runs those of two machines, or of two programs.
_HARDWARE = (
    ("device", "platform"),
    ("device", "kind"),
    ("device", "count"),
    ("machine", "processor"),
    ("machine", "cores"),
)
_SETTINGS = (
    ("arguments", "size"),
    ("arguments", "seed"),
    ("arguments", "devices"),
    ("machine", "system"),
    ("machine", "python"),
    ("machine", "environment"),
)


_Pair = tuple[str, dict[str, Any], dict[str, Any]]  # suite, a row before and after


class _Band(NamedTuple):
    """An interval of a log ratio, and the ratio of the medians."""

    lower: float
    upper: float
    centre: float


def ratio_interval(a: Any, b: Any, level: float) -> tuple[float, float, float]:
    """An interval for how many times longer b takes than a, whatever the law.

    From the fastest round of b over the s-th fastest of a to the s-th fastest of b over
    the fastest of a, with s by the precedence test (Nelson, 1963): if the logarithms
    are of laws that a shift turns into each other, and rounds are exchangeable, it
    holds e^shift but for a chance of at most `level`. The slowest rounds, which others
    on the machine have delayed, are in neither end. Of too few rounds for the level all
    are taken.

    Args:
        a: seconds of the rounds of one, above 0, shape (n,).
        b: of the other, shape (m,).
        level: the chance.

    Returns:
        Lower end, upper end, and the ratio of the medians.

    Example:
        >>> from contexture_jax.benchmarking import ratio_interval
        >>> low, high, middle = ratio_interval([1, 1.1, 1.2], [2, 2.2, 2.4], 0.1)
        >>> low <= 2 <= high, round(middle, 1)
        (True, 2.0)
    """
    a, b = (np.sort(np.asarray(x, np.float64)) for x in (a, b))
    low = b[0] / a[_num_before(len(a), len(b), level / 2) - 1]
    high = b[_num_before(len(b), len(a), level / 2) - 1] / a[0]
    return float(low), float(high), float(np.median(b) / np.median(a))


def _can_tell(n: int, m: int, level: float) -> bool:
    """Whether so many rounds can tell a difference at a level at all."""
    return math.comb(n + m, n) * level >= 2


@functools.cache
def _num_before(n: int, m: int, tail: float) -> int:
    """The least s, of at most n, with P(the s smallest of n + m are all of n) ≤ tail.

    At least more than half of n, so that the ratio of the medians is in the interval.
    """
    all_orders = math.comb(n + m, n)
    for s in range(n // 2 + 1, n):
        if math.comb(n + m - s, m) <= tail * all_orders:
            return s
    return n


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """What b does otherwise than a, two reports of `run_suites`.

    A row is slower, or faster, if the interval of the ratio of its seconds lies beyond
    1 by 5 %. Its level is such that, of all rows together, one comparison in twenty
    tells a difference where there is none; it is widened by how much the yardsticks of
    its suite, work that no code of ours is in, have changed between the two runs.

    Where the yardsticks tell that others kept the machine busy, the seconds are those
    of all processors of the host together, which that changes far less; that less was
    done at the same time is then not seen.

    Args:
        a: the run before.
        b: the run after.

    Returns:
        "clock": "seconds" or "processor_seconds"; "rows": suite, name, kind, ratio of
        seconds, its interval, verdict, whether the rounds are enough to tell a
        difference, and what changed of errors and passes; "differences", of hardware,
        versions and settings, in words; "yardsticks", by suite the factors by which the
        machine was slower; "missing" and "new" rows; "counts" of verdicts; "is_worse":
        whether one of ours is slower, less exact or missing.
    """
    pairs: list[_Pair] = []
    for suite in a["suites"]:
        if suite not in b["suites"]:
            continue
        before, after = _by_name(a, suite), _by_name(b, suite)
        pairs += [(suite, before[n], after[n]) for n in before if n in after]
    judged = [pair for pair in pairs if pair[1]["kind"] != "limit"]
    level = _LEVEL / max(len(judged), 1)
    clock = "seconds"
    if _is_busy(pairs) and all(_has_processor(row) for _, *two in pairs for row in two):
        clock = "processor_seconds"
        pairs = [(suite, _by_processor(x), _by_processor(y)) for suite, x, y in pairs]
        judged = [pair for pair in pairs if pair[1]["kind"] != "limit"]
    drifts = {suite: _drift(pairs, suite) for suite, *_ in pairs}
    rows = [_row(*pair, drifts[pair[0]], level) for pair in judged]
    missing, new = _unpaired(a, b), _unpaired(b, a)
    counts = {
        verdict: sum(row["verdict"] == verdict for row in rows)
        for verdict in ("faster", "the same", "slower")
    }
    ours = [row for row in rows if row["kind"] == "ours"]
    return {
        "clock": clock,
        "rows": rows,
        "differences": _differences(a, b),
        "yardsticks": {name: drift[2] for name, drift in drifts.items()},
        "missing": [name for name, kind in missing if kind != "limit"],
        "new": [name for name, kind in new if kind != "limit"],
        "counts": counts,
        "is_worse": any(kind == "ours" for _, kind in missing)
        or any(row["verdict"] == "slower" or row["less_exact"] for row in ours),
    }


def _is_busy(pairs: list[_Pair]) -> bool:
    drifts = [_drift(pairs, suite)[:2] for suite in {suite for suite, *_ in pairs}]
    return any(high - low > math.log(_BUSY) for low, high in drifts)


def _has_processor(row: dict[str, Any]) -> bool:
    return bool(row.get("processor_seconds")) and min(row["processor_seconds"]) > 0


def _by_processor(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "seconds": row["processor_seconds"]}


def _by_name(report: dict[str, Any], suite: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["suites"][suite]["rows"]}


def _drift(pairs: list[_Pair], suite: str) -> tuple[float, float, dict[str, float]]:
    """Log factors, at most 0 and at least 0, by which the machine may have changed."""
    bands = {
        before["name"].removeprefix(_YARDSTICK): _band(before, after, _LEVEL)
        for name, before, after in pairs
        if name == suite and before["name"].startswith(_YARDSTICK)
    }
    low = min((band.lower for band in bands.values()), default=0.0)
    high = max((band.upper for band in bands.values()), default=0.0)
    told = {name: math.exp(band.centre) for name, band in bands.items()}
    return min(low, 0.0), max(high, 0.0), told


def _band(before: dict[str, Any], after: dict[str, Any], level: float) -> _Band:
    low, high, middle = ratio_interval(before["seconds"], after["seconds"], level)
    return _Band(math.log(low), math.log(high), math.log(middle))


def _row(
    suite: str,
    before: dict[str, Any],
    after: dict[str, Any],
    drift: tuple[float, float, Any],
    level: float,
) -> dict[str, Any]:
    band = _band(before, after, level)
    # Whatever the machine may have changed by is taken off.
    lower, upper = band.lower - drift[1], band.upper - drift[0]
    beyond = math.log1p(_LEAST)
    verdict = "the same"
    can_tell = _can_tell(len(before["seconds"]), len(after["seconds"]), level)
    if can_tell and (lower > beyond or upper < -beyond):
        verdict = "slower" if lower > beyond else "faster"
    errors = _changed_errors(before["accuracy"], after["accuracy"])
    passes = [row.get("passes") for row in (before, after)]
    return {
        "suite": suite,
        "name": before["name"],
        "kind": before["kind"],
        "ratio": math.exp(band.centre),
        "lower": math.exp(lower),
        "upper": math.exp(upper),
        "verdict": verdict,
        "can_tell": can_tell,
        "less_exact": [name for name, old, new in errors if new > old],
        "errors": errors,
        "passes": passes if passes[0] != passes[1] else None,
    }


def _changed_errors(
    before: dict[str, Any], after: dict[str, Any]
) -> list[tuple[str, float, float]]:
    """Errors that are more than twice, or less than half, of what they were."""
    found = []
    for name in before:
        old, new = before[name], after.get(name)
        if old is None or new is None:
            continue
        small, large = sorted((old, new))
        if large > max(_ERRORS * small, _ROUNDING):
            found.append((name, old, new))
    return found


def _unpaired(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of a, of suites that both ran, that b does not have."""
    return [
        (f"{suite}: {row['name']}", row["kind"])
        for suite in a["suites"]
        if suite in b["suites"]
        for row in a["suites"][suite]["rows"]
        if row["name"] not in _by_name(b, suite)
    ]


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Of hardware, versions and settings, in words."""
    found = []
    for kind, fields in (("hardware", _HARDWARE), ("settings", _SETTINGS)):
        for part, name in fields:
            old, new = (report[part].get(name) for report in (a, b))
            if old != new:
                found.append(f"other {kind}: {name} {_told(old)} and {_told(new)}")
    names = dict.fromkeys(itertools.chain(a["versions"], b["versions"]))
    for name in names:
        old, new = (report["versions"].get(name) for report in (a, b))
        if old != new and None not in (old, new):
            found.append(f"other version: {name} {_told(old)} and {_told(new)}")
    return found


def _told(value: Any) -> str:
    text = str("not set" if value in (None, {}) else value)
    return " ".join(text.split())[:100]
