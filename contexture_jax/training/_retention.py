"""Which checkpoints of a run are kept: the rule by which Orbax deletes the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["Retention"]


@dataclasses.dataclass
class Retention:
    """A `PreservationPolicy` of Orbax, which asks it as a checkpoint is written.

    Orbax's own do not keep what a whole run would: `LatestN` counts what was saved as a
    run was interrupted; of two equal scores `BestN` keeps the later, and it reads them
    from files of its own, which no digest covers and older runs lack.

    Attributes:
        keep_last: how many of the newest to keep.
        keep_best: how many to keep of those with the best scores.
        mode: "min" or "max", which scores are good.
        scores: by step, of the checkpoints that have one.
        between: the steps that a whole run does not save; kept while they are newest.
    """

    keep_last: int
    keep_best: int
    mode: str
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    between: set[int] = dataclasses.field(default_factory=set)

    def add(self, step: int, score: float | None, *, between: bool) -> None:
        """Note a checkpoint that is about to be written."""
        # NaN has no place in an order: sorted, it would be anywhere.
        if score is not None and np.isfinite(score):
            self.scores[step] = score
        if between:
            self.between.add(step)

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> list[bool]:
        """Of checkpoints by rising step, which to keep; the others are deleted."""
        del context
        steps = [int(checkpoint.step) for checkpoint in checkpoints]
        # A whole run keeps `keep_last` of these; one that was interrupted is to keep
        # the same.
        regular = [step for step in steps if step not in self.between]
        kept = {
            # The newest always: it is the one that a resume goes on from.
            *steps[-1:],
            *regular[-self.keep_last :],
            *self.ranked(steps)[: self.keep_best],
        }
        # Scores go into every checkpoint; those of deleted ones would pile up.
        self.scores = {at: score for at, score in self.scores.items() if at in kept}
        return [step in kept for step in steps]

    def ranked(self, steps: Iterable[int]) -> list[int]:
        """Those of some steps that have a score, the best first."""
        sign = -1.0 if self.mode == "max" else 1.0
        scored = [step for step in steps if step in self.scores]
        # Of equal scores the earlier step, whatever order Orbax lists them in.
        return sorted(scored, key=lambda step: (sign * self.scores[step], step))
