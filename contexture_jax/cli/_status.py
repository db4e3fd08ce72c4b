"""What the status of a solve means, in words of the command line."""

from __future__ import annotations

import numpy as np

import contexture_jax as cx

__all__ = ["advice", "of_rounding"]


def advice(status: cx.Status) -> str:
    """What to do about a status, in words of the command line."""
    if status == cx.Status.MAX_PASSES:
        return "some residuals are above the tolerance; raise --max-passes or --tol"
    if status == cx.Status.STOPPED:
        return (
            "the run was told to end: values and functions are as exact as their"
            " residuals and bounds say; --resume goes on"
        )
    return status.advice


def of_rounding(
    tol: float | None, status: cx.Status, s: np.ndarray, residuals: np.ndarray
) -> list[str]:
    """That residuals are above the tolerance because rounding is."""
    largest, is_done = residuals.max(), status == cx.Status.CONVERGED
    # By a little they are where a recurrence told of them.
    if tol is None or not is_done or largest <= 2 * tol * s[0]:
        return []
    words = f"--tol {tol:g} is below what rounding leaves in {s.dtype}: residuals"
    return [f"{words} end at {largest:.2g}"]
