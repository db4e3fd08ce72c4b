"""A report of a run as a file of JSON: written strictly, and read with suspicion."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMAT", "VERSION", "read_report", "write_report"]

FORMAT, VERSION = "contexture_jax.benchmarking", 1


def write_report(report: dict[str, Any], path: str | Path) -> None:
    """Write a report; what is not finite becomes null.

    Args:
        report: from `run_suites` or `compare`.
        path: of the file, which is replaced.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps(_plain(report), indent=1, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_report(path: str | Path) -> dict[str, Any]:
    """Read what `write_report` wrote of a run.

    Args:
        path: of the file.

    Returns:
        With "device", "machine", "versions", "arguments", "peaks", "problems", and
        "suites": by name its "rows", each with its "name", "kind" and "seconds" of the
        rounds, all above 0.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such report.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        report = json.loads(content.decode("utf-8"))
        is_ours = report["format"] == FORMAT
    except (ValueError, TypeError, KeyError, RecursionError):
        is_ours, report = False, {}
    if not is_ours:
        raise ValueError(f"{path} is no report of contexture bench, or it is damaged")
    if report.get("version") != VERSION:
        raise ValueError(
            f"{path} must be a report of version {VERSION}; got"
            f" {str(report.get('version'))[:40]}"
        )
    try:
        _check(report)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r:.100}") from error
    return report


def _check(report: dict[str, Any]) -> None:
    """Raise unless all that comparing looks at is what it should be."""
    for name in ("device", "machine", "versions", "arguments", "peaks"):
        dict(report[name].items())
    for name in ("problems", "notes"):
        if not all(isinstance(one, str) for one in report[name]):
            raise TypeError(f"{name} are no texts")
    for suite in report["suites"].values():
        names = [row["name"] for row in suite["rows"]]
        if len(set(names)) < len(names):
            raise ValueError("a name comes twice")
        for row in suite["rows"]:
            _check_row(row)


def _check_row(row: dict[str, Any]) -> None:
    if not (isinstance(row["name"], str) and row["kind"] in ("ours", "peer", "limit")):
        raise TypeError(f"a row is called {row['name']!r:.40} of {row['kind']!r:.40}")
    seconds = row["seconds"]
    if not isinstance(seconds, list) or not seconds:
        raise TypeError("seconds are no list")
    busy = row.get("processor_seconds", [])
    if not isinstance(busy, list):
        raise TypeError("processor_seconds are no list")
    if not all(isinstance(one, (int, float)) and 0 <= one < 1e9 for one in busy):
        raise ValueError("processor_seconds are below 0")
    for one in (*seconds, *row["accuracy"].values()):
        if one is not None and not isinstance(one, (int, float)):
            raise TypeError(f"{one!r:.40} is no number")
    if not all(one is not None and 0 < one < 1e9 for one in seconds):
        raise ValueError("seconds are not above 0")
