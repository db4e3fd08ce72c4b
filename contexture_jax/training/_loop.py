"""The steps of a run, logged, judged and saved, and what it ends with."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple

import jax
import numpy as np

from contexture_jax._core.types import Array, short_repr
from contexture_jax.training._bits import examined
from contexture_jax.training._checkpoint import Progress, Store, told_what_is_whole
from contexture_jax.training._interrupt import Interruption
from contexture_jax.training._log import History
from contexture_jax.training._options import Monitor
from contexture_jax.training._parallel import CompiledStep
from contexture_jax.training._state import TrainState

__all__ = ["FitResult", "FitStatus", "Loop", "Plan"]

# Steps that the device may be behind. Each keeps its batch there.
MAX_IN_FLIGHT = 4


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


class _NonFiniteError(Exception):
    """Says which value of which step is NaN or infinite."""


class Plan(NamedTuple):
    """What is done at which step.

    Attributes:
        num_steps: steps of the whole run.
        log_every: steps between rows of the log.
        save_every: steps between checkpoints and evaluations, a multiple of that.
        evaluate: metrics of a state on held-out data, or None.
        monitor: the metric that the run is judged by.
    """

    num_steps: int
    log_every: int
    save_every: int
    evaluate: Callable[[TrainState], dict[str, Any]] | None
    monitor: Monitor


class Loop:
    """The state of a run while it runs."""

    def __init__(
        self,
        compiled: CompiledStep,
        store: Store | None,
        history: History,
        plan: Plan,
        interruption: Interruption,
        state: TrainState,
        done: Progress,
    ) -> None:
        self._step = compiled
        self._interruption = interruption
        self._store = store
        self._history = history
        self._plan = plan
        # Shapes alone: `load` after a NaN needs the form of a state whose arrays have
        # been donated by then.
        self._like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state
        )
        self._state = state
        self._start = self._at = int(state.step)
        # Read once: to ask again would wait for a checkpoint that is being written.
        self._saved = None if store is None else store.latest
        self._done = done
        # Metrics of steps since the last row, on the device: to read each would make
        # every step wait for the host.
        self._pending: list[tuple[int, dict[str, Any]]] = []
        self._row: dict[str, Any] = {}

    @property
    def is_stale(self) -> bool:
        """Whether patience is at its end."""
        patience = self._plan.monitor.patience
        return patience is not None and self._done.stale >= patience

    def run(
        self,
        batches: Iterable[Any],
        key: Array,
        write: Callable[[dict[str, Any]], None],
        move: Callable[[int, dict[str, Any]], None],
    ) -> FitResult:
        """Steps until something ends the run."""
        try:
            status = self._steps(batches, key, write, move)
            if status == FitStatus.INTERRUPTED:
                return self._interrupted()
            # The data may end between two rows: the last step has one too.
            if self._row.get("step") != self._at and self._pending:
                self._log(write, evaluates=True)
            # The last state of a run is kept, wherever `save_every` falls.
            if self._saved != self._at:
                self._save()
        except _NonFiniteError as error:
            return self._non_finite(str(error))
        return self.result(status)

    def result(self, status: FitStatus, message: str = "") -> FitResult:
        """What to return."""
        plan, best = self._plan, None
        if status == FitStatus.EARLY_STOP:
            message = (
                f"{plan.monitor.metric} has not improved in {self._done.stale} rows, up"
                f" to step {self._at}; the best was {self._done.best}"
            )
        elif status == FitStatus.DATA_EXHAUSTED:
            message = f"the data ended after step {self._at} of {plan.num_steps}"
        if self._store is not None:
            # What is returned is on disk: a caller may read it at once.
            self._store.wait()
            self._store.check()
            best = self._store.best
        return FitResult(self._state, self._history.columns(), status, message, best)

    def _steps(
        self, batches: Iterable[Any], key: Array, write: Any, move: Any
    ) -> FitStatus:
        plan = self._plan
        in_flight: deque[Any] = deque()
        # Also before the first step; in several processes every call is a collective,
        # so each makes the same number of them.
        if self._interruption.is_asked():
            return FitStatus.INTERRUPTED
        for batch, position in batches:
            self._state, metrics = self._step(self._state, batch, key)
            self._at += 1
            # With the step, not when a checkpoint is due: the data are read ahead by
            # then.
            self._done = self._done._replace(position=position)
            self._pending.append((self._at, metrics))
            # An output of the step stands for all of it; the state itself is
            # overwritten by the next.
            in_flight.append(metrics["loss"])
            if len(in_flight) > MAX_IN_FLIGHT:
                # Batches of steps that wait for the device take memory.
                jax.block_until_ready(in_flight.popleft())
            is_last = self._at == plan.num_steps
            if self._at % plan.log_every == 0 or is_last:
                # A multiple of `log_every`, so that a checkpoint has a row, hence a
                # score, of its own step, and its steps have been found finite.
                due = self._at % plan.save_every == 0
                self._log(write, evaluates=due or is_last)
                if due:
                    self._save()
            move(self._at, self._row)
            # A run that is at its end anyway is finished.
            if self.is_stale and not is_last:
                return FitStatus.EARLY_STOP
            if is_last:
                return FitStatus.FINISHED
            if self._interruption.is_asked():
                return FitStatus.INTERRUPTED
        return FitStatus.DATA_EXHAUSTED

    def _log(self, write: Any, *, evaluates: bool) -> None:
        """Check the steps since the last row, and write a row for the last of them."""
        evaluate, metric = self._plan.evaluate, self._plan.monitor.metric
        # Finite first: `evaluate` may be dear, and its figures of a NaN state say
        # nothing.
        at, metrics = self._checked()[-1]
        row = {"step": at, **{name: float(value) for name, value in metrics.items()}}
        if evaluates and evaluate is not None:
            held_out = evaluate(self._state)
            # One of them would hide the other in the log and in what is watched.
            taken = sorted(row.keys() & held_out.keys())
            if taken:
                msg = f"evaluate must not return metrics of the step; got {taken}"
                raise ValueError(msg)
            row |= {name: float(value) for name, value in held_out.items()}
        # A metric of `evaluate` is missing from rows between evaluations: only a whole
        # row can show that its name is wrong.
        is_complete = evaluates or evaluate is None
        if is_complete and metric not in row:
            known = sorted(row.keys() - {"step"})
            msg = f"Monitor.metric must be one of {known}; got {metric!r}"
            raise ValueError(msg)
        self._row = row
        # Before the row is written, which would make a directory that was removed anew.
        if self._store is not None:
            self._store.check()
        with told_what_is_whole(self._store):
            self._history.append(row)
        write(row)
        if metric in row:
            self._judge(row[metric])

    def _checked(self) -> list[tuple[int, dict[str, Any]]]:
        """The metrics of the steps since the last row, which are found to be finite."""
        fetched = jax.device_get(self._pending)
        self._pending = []
        for at, metrics in fetched:
            for name, value in metrics.items():
                if not np.isfinite(value):
                    msg = f"{name} is {float(value)} at step {at}"
                    raise _NonFiniteError(msg)
        return fetched

    def _judge(self, value: float) -> None:
        monitor, best = self._plan.monitor, self._done.best
        sign = -1.0 if monitor.mode == "max" else 1.0
        # As the first value of `evaluate`, a NaN would be the best for ever.
        improves = math.isfinite(value) and (
            best is None or sign * (best - value) > monitor.min_delta
        )
        if improves:
            self._done = self._done._replace(best=value, stale=0)
        else:
            self._done = self._done._replace(stale=self._done.stale + 1)

    def _save(self, *, between: bool = False) -> None:
        """Save the state.

        Args:
            between: whether the step is none at which a whole run would save.
        """
        if self._store is None:
            return
        # All of the state, as NaN can sit in a moment of the optimiser while the loss
        # is finite still. The last checkpoint stays the last good one.
        is_finite, sums = examined(self._state)
        if not is_finite:
            msg = f"the parameters or the optimiser's state are after step {self._at}"
            raise _NonFiniteError(f"{msg} not finite")
        # A whole run has no score there, and would not keep it for one.
        score = None if between else self._row.get(self._plan.monitor.metric)
        done = self._done._replace(between=between)
        self._store.save(self._at, self._state, done, score, sums)
        self._saved = self._at

    def _interrupted(self) -> FitResult:
        # No row: the run that goes on from here writes those of a whole run.
        self._checked()
        store = self._store
        # Nothing new since `start`: no checkpoint beside the one that was loaded.
        if store is not None and self._saved != self._at and self._at > self._start:
            self._save(between=True)
        message = (
            f"{self._interruption.name} ended the run after step {self._at} of"
            f" {self._plan.num_steps}"
        )
        if store is None:
            message += "; without a directory nothing was saved: the state is here"
        elif store.latest is None:
            message += "; nothing was saved, as no step was done"
        else:
            message += (
                f"; its checkpoint is in {store.directory}: the same call goes on from"
                " it"
            )
        # Level 4 is the caller of `fit`.
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return self.result(FitStatus.INTERRUPTED, message)

    def _non_finite(self, what: str) -> FitResult:
        message = f"training stopped: {what}"
        latest = None if self._store is None else self._store.latest
        if self._store is None or latest is None:
            message += "; there is no checkpoint to go back to"
        else:
            message += f"; the checkpoint of step {latest} is the last good state"
            # The newest that is whole: every state is checked before it is saved.
            self._state = self._store.load(latest, self._like, self._step.everywhere)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return self.result(FitStatus.NON_FINITE, message)
