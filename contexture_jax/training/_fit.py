"""The training loop: steps over data, watched, saved, and resumed bit for bit."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.locks import HeldError, locked
from contexture_jax._core.types import Array, short_repr, summary
from contexture_jax.training._checkpoint import (
    CheckpointError,
    Progress,
    Store,
    examined,
    key_words,
    reason,
)
from contexture_jax.training._data import check_feed, feed
from contexture_jax.training._interrupt import Interruption, interruptible
from contexture_jax.training._log import History, progress_bar, tensorboard_writer
from contexture_jax.training._parallel import CompiledStep, compile_step
from contexture_jax.training._prefetch import prefetch
from contexture_jax.training._processes import agreement, watched
from contexture_jax.training._state import TrainState

__all__ = ["FitResult", "FitStatus", "fit"]

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


class _Options(NamedTuple):
    """The arguments of `fit` that the loop reads."""

    num_steps: int
    log_every: int
    save_every: int
    monitor: str
    sign: float
    patience: int | None
    min_delta: float
    evaluate: Callable[[TrainState], dict[str, Any]] | None


def fit(
    step: Callable[..., Any],
    state: TrainState,
    data: Iterable[Any],
    *,
    num_steps: int,
    key: Array,
    strategy: str | None = None,
    mesh: Mesh | None = None,
    directory: str | Path | None = None,
    resume: bool = True,
    log_every: int = 50,
    save_every: int | None = None,
    keep_last: int | None = None,
    keep_best: int | None = None,
    evaluate: Callable[[TrainState], dict[str, Any]] | None = None,
    monitor: str = "loss",
    mode: str = "min",
    patience: int | None = None,
    min_delta: float = 0.0,
    tensorboard: bool = False,
    progress: bool | None = None,
    prefetch_size: int = 2,
) -> FitResult:
    """Train: run a step over data until a number of steps is done.

    With a `directory`, metrics go to `metrics.csv` in it and states to `checkpoints/`.
    The same call again goes on from the newest checkpoint, bit for bit as if it had
    never ended, whenever the process was killed: with the same key, data and arguments
    a run's states and rows depend on the step alone.

    Loss, gradient norm and the objective's metrics of every step are checked to be
    finite, those of `log_every` steps at a time, so that no step waits for the host;
    a state is checked as a whole before it is saved. A run that meets NaN or infinity
    warns which value of which step it was, ends with status "non-finite", and returns
    the last checkpoint, which is good.

    SIGTERM and Ctrl-C, in the main thread, end a run after the step that is under way:
    its state is saved, a warning says so, and the status is "interrupted". A second
    Ctrl-C is a KeyboardInterrupt at once. A handler that the program has set itself is
    called once the state is saved.

    In several processes a signal to one ends the run in all of them, at one step, up to
    four steps later. If one dies, the others cannot go on: with a `directory`, on a
    file system with locks, each then says on stderr which process is gone and which
    checkpoint is whole, and exits with status 1, where JAX would wait for its
    heartbeats (`heartbeat_timeout_seconds` of `jax.distributed.initialize`) and abort.
    Of the death of process 0, which serves JAX's own messages, JAX may tell as well.

    Args:
        step: as from `make_step`, to be compiled with `strategy` and `mesh`, or as from
            `compile_step`.
        state: the state to start from, as from `init_state`; left as it is. On a resume
            only its form counts.
        data: batches: `batches(...)`, an iterator with `get_state` and `set_state`
            (Grain's), which a resume sets back, or any iterable, of which a resume
            skips the batches that are done. In several processes, each one's own rows.
        num_steps: steps of the whole run, those before a resume included.
        key: the key of the run; see `make_step` on how steps and rows fold it.
        strategy: see `compile_step`; None: "jit", or that of a compiled step.
        mesh: see `compile_step`; None: all devices, or those of a compiled step.
        directory: where to write, shared by all processes; None: nothing is written,
            and no run is resumed.
        resume: False: raise an error if there are checkpoints to go on from.
        log_every: steps between rows of the log; each holds the metrics of its step.
        save_every: steps between checkpoints and evaluations, a multiple of
            `log_every`; None: ten times that. The last state is saved too.
        keep_last: how many of the newest checkpoints to keep; None: 2.
        keep_best: how many of the best by `monitor` to keep beside them; None: 1.
        evaluate: metrics of a state on held-out data, a dict of numbers, called at each
            checkpoint (or where one would be); their names join the log's.
        monitor: the metric that `patience` and `keep_best` go by: one of the step's or
            of `evaluate`'s.
        mode: whether `monitor` is to be small or large.
        patience: end after that many rows in a row with `monitor` and no improvement;
            None: never.
        min_delta: by how much `monitor` must change to count as an improvement.
        tensorboard: write `tensorboard/` too; needs the extra `train`.
        progress: a bar on stderr; None: on a terminal.
        prefetch_size: batches to read and place ahead in a thread; 0: none.

    Raises:
        TypeError: if `data` is one array.
        ValueError: if `strategy` or `mesh` is not that of a compiled step, what is to
            be written has no `directory`, or there is no metric called `monitor`; as
            `CheckpointError`, if the directory holds another model's run, one with
            another key, one that another process still trains, or one whose newest
            checkpoint cannot be read or is not what was saved; or if it cannot be
            written, as on a full disk, or is removed meanwhile. The message says what
            is whole.

    Example:
        >>> import jax, optax
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> def second_moment_is_one(z, axis_name=None):
        ...     return jnp.sum((z.T @ z / z.shape[0] - jnp.eye(2)) ** 2)
        >>> encode = lambda params, batch, key: jnp.tanh(batch @ params)
        >>> optimizer = optax.adam(0.05)
        >>> params = jax.random.normal(jax.random.key(0), (3, 2))
        >>> x = jax.random.normal(jax.random.key(1), (640, 3))
        >>> result = cx.training.fit(
        ...     cx.training.make_step(
        ...         encode, cx.training.from_loss(second_moment_is_one), optimizer
        ...     ),
        ...     cx.training.init_state(params, optimizer),
        ...     cx.training.batches(x, 64, seed=0),
        ...     num_steps=100,
        ...     key=jax.random.key(2),
        ... )
        >>> result.status == "finished", result.history["step"].tolist()
        (True, [50, 100])
        >>> bool(result.history["loss"][-1] < 0.5)
        True
    """
    check_key(key)
    log_every = check_integer(log_every, "log_every", low=1)
    save_every = 10 * log_every if save_every is None else save_every
    if check_integer(save_every, "save_every", low=1) % log_every:
        msg = (
            f"save_every must be a multiple of log_every={log_every}; got {save_every}"
        )
        raise ValueError(msg)
    if mode not in ("min", "max"):
        msg = f'mode must be "min" or "max"; got {summary(mode)}'
        raise ValueError(msg)
    check_feed(data)
    written = {"tensorboard": tensorboard or None}
    written |= {"keep_last": keep_last, "keep_best": keep_best}
    for name, value in written.items():
        if value is not None and directory is None:
            msg = f"{name}={value} needs a directory to write to; got None"
            raise ValueError(msg)
    if patience is not None:
        check_integer(patience, "patience", low=1)
    options = _Options(
        num_steps=check_integer(num_steps, "num_steps", low=0),
        log_every=log_every,
        save_every=save_every,
        monitor=monitor,
        sign=-1.0 if mode == "max" else 1.0,
        patience=patience,
        min_delta=min_delta,
        evaluate=evaluate,
    )
    compiled = _compiled(step, strategy, mesh)
    root = None if directory is None else Path(directory)
    first = jax.process_index() == 0
    with ExitStack() as stack:
        interruption = stack.enter_context(interruptible(agreement(compiled.mesh)))
        checkpoints = None if root is None else root / "checkpoints"
        stack.enter_context(watched(checkpoints))
        if root is not None and first:
            is_ours = stack.enter_context(_alone(root))
        else:
            is_ours = None
        store = None
        if checkpoints is not None:
            store = Store(
                checkpoints,
                keep_last=2
                if keep_last is None
                else check_integer(keep_last, "keep_last", low=1),
                keep_best=1
                if keep_best is None
                else check_integer(keep_best, "keep_best", low=0),
                mode=mode,
                is_ours=is_ours,
            )
            stack.callback(store.close)
        history = History(None if root is None else root / "metrics.csv", writes=first)
        state, done = _start(compiled, state, store, key, resume)
        start = int(state.step)
        with _told_what_is_whole(store):
            history.restart(start)
        loop = _Loop(compiled, store, history, options, interruption, state, done)
        if start >= options.num_steps or loop.is_stale:
            status = FitStatus.FINISHED if not loop.is_stale else FitStatus.EARLY_STOP
            return loop.result(status)
        events = root / "tensorboard" if root is not None and tensorboard else None
        write = stack.enter_context(
            tensorboard_writer(events if first else None, start)
        )
        move = stack.enter_context(
            progress_bar(progress if first else False, options.num_steps, start)
        )
        batches = stack.enter_context(
            prefetch(
                feed(data, start, done.position),
                lambda item: (compiled.place_batch(item[0]), item[1]),
                size=prefetch_size,
            )
        )
        return loop.run(batches, compiled.place_state(key), write, move)


def _compiled(
    step: Callable[..., Any], strategy: str | None, mesh: Mesh | None
) -> CompiledStep:
    if not isinstance(step, CompiledStep):
        return compile_step(step, strategy or "jit", mesh)
    if strategy not in (None, step.strategy):
        msg = (
            f'strategy must be None or "{step.strategy}", as the step was compiled; got'
            f" {summary(strategy)}"
        )
        raise ValueError(msg)
    if mesh not in (None, step.mesh):
        msg = f"mesh must be None or that of the compiled step, {step.mesh}; got {mesh}"
        raise ValueError(msg)
    return step


@contextmanager
def _alone(root: Path) -> Iterator[Callable[[], bool]]:
    """Keep other processes off the directory of a run while this one trains in it.

    Yields:
        A function: whether the directory is still that of this run.
    """
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            is_ours = stack.enter_context(locked(root / "run.lock"))
        except HeldError as error:
            msg = (
                f"{root} is that of a run that still trains ({error}): wait for it or"
                " end it, or choose another directory"
            )
            raise CheckpointError(msg) from error
        except OSError as error:
            msg = f"{root} cannot be written ({reason(error)})"
            raise CheckpointError(msg) from error
        yield is_ours


@contextmanager
def _told_what_is_whole(store: Store | None) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        msg = str(error) if store is None else f"{error}; {store.whole}"
        raise CheckpointError(msg) from error


def _start(
    compiled: CompiledStep,
    state: TrainState,
    store: Store | None,
    key: Array,
    resume: bool,
) -> tuple[TrainState, Progress]:
    """The state to go on from, on the devices, and what the run knows beside it."""
    latest = None if store is None else store.latest
    if store is None or latest is None:
        return compiled.place_state(state), Progress(key_words(key))
    if not resume:
        msg = (
            f"directory must hold no run with resume=False; it holds one of {latest}"
            " steps: choose another directory, or delete it"
        )
        raise ValueError(msg)
    progress = store.progress(latest, state, key)
    state = store.load(latest, state, compiled.everywhere)
    if int(state.step) != latest:
        msg = (
            f"the checkpoint in {store.directory / str(latest)} is that of step"
            f" {int(state.step)}: delete that directory to go on from the one before it"
        )
        raise CheckpointError(msg)
    return state, progress


class _Loop:
    """The state of a run while it runs."""

    def __init__(
        self,
        compiled: CompiledStep,
        store: Store | None,
        history: History,
        options: _Options,
        interruption: Interruption,
        state: TrainState,
        done: Progress,
    ) -> None:
        self._step = compiled
        self._interruption = interruption
        self._store = store
        self._history = history
        self._options = options
        self._like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state
        )
        self._state = state
        self._start = self._at = int(state.step)
        self._saved = None if store is None else store.latest
        self._done = done
        self._pending: list[tuple[int, dict[str, Any]]] = []
        self._row: dict[str, Any] = {}

    @property
    def is_stale(self) -> bool:
        """Whether patience is at its end."""
        patience = self._options.patience
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
            if self._row.get("step") != self._at and self._pending:
                self._log(write, evaluates=True)
            if self._saved != self._at:
                self._save()
        except _NonFiniteError as error:
            return self._non_finite(str(error))
        return self.result(status)

    def result(self, status: FitStatus, message: str = "") -> FitResult:
        """What to return."""
        options, best = self._options, None
        if status == FitStatus.EARLY_STOP:
            message = (
                f"{options.monitor} has not improved in {self._done.stale} rows, up to"
                f" step {self._at}; the best was {self._done.best}"
            )
        elif status == FitStatus.DATA_EXHAUSTED:
            message = f"the data ended after step {self._at} of {options.num_steps}"
        if self._store is not None:
            self._store.settle()
            self._store.check()
            best = self._store.best
        return FitResult(self._state, self._history.columns(), status, message, best)

    def _steps(
        self, batches: Iterable[Any], key: Array, write: Any, move: Any
    ) -> FitStatus:
        options = self._options
        in_flight: deque[Any] = deque()
        if self._interruption.is_asked():
            return FitStatus.INTERRUPTED
        for batch, position in batches:
            self._state, metrics = self._step(self._state, batch, key)
            self._at += 1
            self._done = self._done._replace(position=position)
            self._pending.append((self._at, metrics))
            in_flight.append(metrics["loss"])
            if len(in_flight) > MAX_IN_FLIGHT:
                # Batches of steps that wait for the device take memory.
                jax.block_until_ready(in_flight.popleft())
            is_last = self._at == options.num_steps
            if self._at % options.log_every == 0 or is_last:
                due = self._at % options.save_every == 0
                self._log(write, evaluates=due or is_last)
                if due:
                    self._save()
            move(self._at, self._row)
            if self.is_stale and not is_last:
                return FitStatus.EARLY_STOP
            if is_last:
                return FitStatus.FINISHED
            if self._interruption.is_asked():
                return FitStatus.INTERRUPTED
        return FitStatus.DATA_EXHAUSTED

    def _log(self, write: Any, *, evaluates: bool) -> None:
        """Check the steps since the last row, and write a row for the last of them."""
        options = self._options
        at, metrics = self._checked()[-1]
        row = {"step": at, **{name: float(value) for name, value in metrics.items()}}
        if evaluates and options.evaluate is not None:
            held_out = options.evaluate(self._state)
            taken = sorted(row.keys() & held_out.keys())
            if taken:
                msg = f"evaluate must not return metrics of the step; got {taken}"
                raise ValueError(msg)
            row |= {name: float(value) for name, value in held_out.items()}
        is_complete = evaluates or options.evaluate is None
        if is_complete and options.monitor not in row:
            known = sorted(row.keys() - {"step"})
            msg = f"monitor must be one of {known}; got {options.monitor!r}"
            raise ValueError(msg)
        self._row = row
        if self._store is not None:
            self._store.check()
        with _told_what_is_whole(self._store):
            self._history.append(row)
        write(row)
        if options.monitor in row:
            self._judge(row[options.monitor])

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
        options, best = self._options, self._done.best
        improves = math.isfinite(value) and (
            best is None or options.sign * (best - value) > options.min_delta
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
        is_finite, sums = examined(self._state)
        if not is_finite:
            msg = f"the parameters or the optimiser's state are after step {self._at}"
            raise _NonFiniteError(f"{msg} not finite")
        score = None if between else self._row.get(self._options.monitor)
        done = self._done._replace(between=between)
        self._store.save(self._at, self._state, done, score, sums)
        self._saved = self._at

    def _interrupted(self) -> FitResult:
        # No row: the run that goes on from here writes those of a whole run.
        self._checked()
        options, store = self._options, self._store
        if store is not None and self._saved != self._at and self._at > self._start:
            self._save(between=True)
        message = (
            f"{self._interruption.name} ended the run after step {self._at} of"
            f" {options.num_steps}"
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
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return self.result(FitStatus.INTERRUPTED, message)

    def _non_finite(self, what: str) -> FitResult:
        message = f"training stopped: {what}"
        latest = None if self._store is None else self._store.latest
        if self._store is None or latest is None:
            message += "; there is no checkpoint to go back to"
        else:
            message += f"; the checkpoint of step {latest} is the last good state"
            self._state = self._store.load(latest, self._like, self._step.everywhere)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return self.result(FitStatus.NON_FINITE, message)
