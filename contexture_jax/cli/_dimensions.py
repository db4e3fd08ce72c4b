"""How many functions to take: three answers, none of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import contexture_jax as cx
from contexture_jax._core.words import rounded

if TYPE_CHECKING:
    from contexture_jax.cli._spectrum import Judged, Solved

__all__ = [
    "bracket_in_words",
    "dimensions",
    "dimensions_by_name",
    "dimensions_in_words",
]

_SHARE = 0.9  # of the energy: a convention


def dimensions(solved: Solved, judged: Judged) -> dict[str, Any]:
    """The d that keeps a share of the energy, and with a target that of validation.

    τ weighs by a convention and cuts through clusters, so its d is one of three. None
    where the functions computed do not hold the share, or nothing was validated.
    """
    values, left_out = solved.result.singular_values, None
    if judged.target is not None:
        left_out = judged.target.left_out
    kept = 0
    if np.any(values > 0):
        tail = max(0.0, float(solved.info.tail_energy))
        found = cx.evaluation.energy_dimension(values, _SHARE, tail_energy=tail)
        kept = int(found)
    best = error = None
    if left_out is not None and np.isfinite(left_out).any():
        best, error = int(np.argmin(left_out)) + 1, float(left_out.min())
    return {
        "energy_share": _SHARE,
        "energy_dim": kept or None,
        "validation_dim": best,
        "validation_error": error,
    }


def dimensions_by_name(d: dict[str, Any]) -> dict[str, int]:
    """Those that are not of τ, as a picture names them."""
    found = {
        f"{d['energy_share']:.0%} of χ²": d["energy_dim"],
        "rows left out": d["validation_dim"],
    }
    return {name: dim for name, dim in found.items() if dim}


def dimensions_in_words(d: dict[str, Any]) -> str:
    """All of them in a line."""
    share, rank = d["energy_share"], len(d["singular_values"])
    parts = [
        f"{d['best_dim']} by τ" if d["best_dim"] else "none by τ, without a minimum",
        f"{d['energy_dim']} keep {share:.0%} of χ²"
        if d["energy_dim"]
        else f"more than {rank} keep {share:.0%} of χ²",
    ]
    if d["validation_dim"]:
        error = rounded(d["validation_error"], 3)
        parts.append(
            f"{d['validation_dim']} by rows left out (error {error} of the variance)"
        )
    return "; ".join(parts)


def bracket_in_words(d: dict[str, Any]) -> str:
    """What τ of all of the spectrum can be."""
    low, high, dim = d["tau_lower"], d["tau_upper"], d["tau_upper_dim"]
    if low is None:
        return "undefined where all values are 0, infinite where all are 1"
    if high is None:
        return f"{low:.4g} or more: infinite, if all values are as near 1 as these"
    at = f"with {dim} function{'s' * (dim != 1)}"
    if high - low <= 5e-4 * high:  # alike in the digits shown
        return f"{high:.4g} {at}"
    return f"between {low:.4g} and {high:.4g} (the latter {at})"
