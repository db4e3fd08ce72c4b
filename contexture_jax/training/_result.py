"""What a run ends with."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from contexture_jax._core.types import short_repr
from contexture_jax.training._state import TrainState

__all__ = ["FitResult", "FitStatus"]


class FitStatus(StrEnum):
    """How a run ended. Compares equal to its text, as in `status == "finished"`."""

    FINISHED = "finished"
    EARLY_STOP = "early stop"
    DATA_EXHAUSTED = "data exhausted"
    NON_FINITE = "non-finite"
    INTERRUPTED = "interrupted"


@short_repr
class FitResult(NamedTuple):
    """What a run ends with.

    Attributes:
        state: the last state; after "non-finite" that of the last checkpoint, if there
            is one.
        history: the rows of the log as columns, "step" among them, float64 (steps:
            int64), NaN where a row lacks a metric.
        status: how the run ended.
        message: more words on that; empty for a run that finished.
        best_step: the step of the checkpoint with the best value of the metric that is
            watched, or None.
    """

    state: TrainState
    history: dict[str, np.ndarray]
    status: FitStatus
    message: str = ""
    best_step: int | None = None
