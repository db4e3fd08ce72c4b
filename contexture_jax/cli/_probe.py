"""The linear probe in words."""

from __future__ import annotations

from typing import Any

import numpy as np

import contexture_jax as cx
from contexture_jax.cli._arguments import Options
from contexture_jax.data import Table, quoted

__all__ = ["probed"]

_MEASURES = {"classes": "misclassified", "numbers": "squared error over variance"}


def probed(
    learned: np.ndarray, exact: np.ndarray, table: Table, options: Options
) -> tuple[dict[str, Any] | None, list[str]]:
    """The errors of linear probes on the same rows left out, as plain Python.

    Args:
        learned: functions of the rows, shape (n, rank).
        exact: the same, exact.
        table: the data, with a target.
        options: the seed is of the rows left out.

    Returns:
        (probe, notes): the error of each kind of features; None, and why, where there
        can be no probe.
    """
    assert table.target is not None
    features = {"learned": learned, "exact": exact, "features": table.features}
    try:
        probes = {
            name: cx.prediction.linear_probe(z, table.target.values, seed=options.seed)
            for name, z in features.items()
        }
    except ValueError as error:
        why = " ".join(str(error).split())
        return None, [f"no probe of the target {quoted(table.target.name)}: {why}"]
    one = probes["learned"]
    return {
        "measure": _MEASURES[one.kind],
        "num_test_rows": int(one.held_out.sum()),
        **{name: probe.error for name, probe in probes.items()},
    }, []
