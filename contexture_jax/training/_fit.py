"""The front door of training: what a run is made of, where it starts, and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.locks import HeldError, locked
from contexture_jax._core.threads import held_lapack
from contexture_jax._core.types import Array, summary
from contexture_jax.training._checkpoint import (
    Progress,
    Store,
    key_words,
    told_what_is_whole,
)
from contexture_jax.training._data import check_feed, feed
from contexture_jax.training._errors import CheckpointError, reason
from contexture_jax.training._interrupt import interruptible
from contexture_jax.training._log import History, progress_bar, tensorboard_writer
from contexture_jax.training._loop import FitResult, FitStatus, Loop, Plan
from contexture_jax.training._options import (
    Checkpoints,
    Devices,
    Logging,
    Monitor,
    group,
)
from contexture_jax.training._parallel import CompiledStep, compile_step
from contexture_jax.training._prefetch import prefetch
from contexture_jax.training._processes import agreement, watching
from contexture_jax.training._retention import Retention
from contexture_jax.training._state import TrainState

__all__ = ["fit"]


@held_lapack
def fit(
    step: Callable[..., Any],
    state: TrainState,
    data: Iterable[Any],
    *,
    num_steps: int,
    key: Array,
    directory: str | Path | None = None,
    evaluate: Callable[[TrainState], dict[str, Any]] | None = None,
    monitor: Monitor | None = None,
    checkpoints: Checkpoints | None = None,
    logging: Logging | None = None,
    devices: Devices | None = None,
) -> FitResult:
    """Train: run a step over data until a number of steps is done.

    With a `directory`, metrics go to `metrics.csv` in it and states to `checkpoints/`.
    The same call again goes on from the newest checkpoint, bit for bit as if it had
    never ended, whenever the process was killed: with the same key, data and arguments
    a run's states and rows depend on the step alone.

    Loss, gradient norm and the objective's metrics of every step are checked to be
    finite, those of `Logging.log_every` steps at a time, so that no step waits for the
    host; a state is checked as a whole before it is saved. A run that meets NaN or
    infinity warns which value of which step it was, ends with status "non-finite", and
    returns the last checkpoint, which is good.

    SIGTERM and Ctrl-C, in the main thread, end a run after the step that is under way:
    its state is saved, a warning says so, and the status is "interrupted". A second
    Ctrl-C is a KeyboardInterrupt at once. A handler that the program has set itself is
    called once the state is saved.

    In several processes a signal to one ends the run in all of them, at one step, up to
    four steps later, and handlers of the program are called in all. If one dies, fails
    or is stopped, the others cannot go on: with a `directory`, which all must see, each
    then says on stderr which process it was and which checkpoint is whole, and exits
    with status 1, at once or, on a file system without locks, within a minute, where
    JAX would wait for its heartbeats (`heartbeat_timeout_seconds` of
    `jax.distributed.initialize`) and abort. Of the death of process 0, which serves
    JAX's own messages, JAX may tell as well.

    Args:
        step: as from `make_step`, to be compiled for `devices`, or as from
            `compile_step`.
        state: the state to start from, as from `init_state`; left as it is. On a resume
            only its form counts.
        data: batches: `batches(...)`, an iterator with `get_state` and `set_state`
            (Grain's), which a resume sets back, or any iterable, of which a resume
            skips the batches that are done. In several processes, each one's own rows.
        num_steps: steps of the whole run, those before a resume included.
        key: the key of the run; see `make_step` on how steps and rows fold it.
        directory: where to write, shared by all processes; None: nothing is written,
            and no run is resumed.
        evaluate: metrics of a state on held-out data, a dict of numbers, called at each
            checkpoint (or where one would be); their names join the log's.
        monitor: the metric that the run is judged by, and when it stops early.
        checkpoints: how often to save, what to keep, and whether to go on from it.
        logging: how often to log, TensorBoard, the progress bar.
        devices: where to compute, and how far to read ahead. Of this group and those
            above, None is one with its defaults.

    Raises:
        TypeError: if `data` is one array, or a group of options of another kind.
        ValueError: if `save_every` is no multiple of `log_every`, `strategy` or `mesh`
            is not that of a compiled step, what is to be written has no `directory`, or
            there is no metric of the monitor's name; as `CheckpointError`, if the
            directory holds another model's run, one with another key, one that another
            process still trains, or one whose newest checkpoint cannot be read or is
            not what was saved; or if it cannot be written, as on a full disk, or is
            removed meanwhile. The message says what is whole.

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
    # All that can be checked is, before a directory is made or a step is compiled.
    check_key(key)
    check_feed(data)
    monitor = group(monitor, Monitor, "monitor")
    checkpoints = group(checkpoints, Checkpoints, "checkpoints")
    logging = group(logging, Logging, "logging")
    devices = group(devices, Devices, "devices")
    plan = Plan(
        check_integer(num_steps, "num_steps", low=0),
        logging.log_every,
        _save_every(checkpoints, logging),
        evaluate,
        monitor,
    )
    # No directory: options that need one are an error, rather than silence.
    root = None if directory is None else Path(directory)
    if root is None:
        _check_nothing_to_write(checkpoints, logging)
    compiled = _compiled(step, devices)
    # One writer; Orbax writes in all processes, each its own share.
    writes = jax.process_index() == 0
    with ExitStack() as stack:
        # The order of leaving is the reverse: threads that read ahead end first, then
        # the store waits for its last checkpoint, and signals are handed back last.
        enter = stack.enter_context
        interruption = enter(interruptible(agreement(compiled.mesh)))
        store = None
        if root is not None:
            store = enter(_store(root, checkpoints, monitor.mode, compiled.mesh))
        log = History(None if root is None else root / "metrics.csv", writes=writes)
        # Before the log is cut: what cannot be resumed leaves its metrics as they are.
        state, done = _start(compiled, state, store, key, checkpoints.resume)
        start = int(state.step)
        with told_what_is_whole(store):
            # Rows beyond the checkpoint belong to steps that are done again.
            log.restart(start)
        loop = Loop(compiled, store, log, plan, interruption, state, done)
        # A run that had ended is not run further by the same call.
        if loop.is_stale:
            return loop.result(FitStatus.EARLY_STOP)
        if start >= plan.num_steps:
            return loop.result(FitStatus.FINISHED)
        events = root / "tensorboard" if root and logging.tensorboard else None
        # `None` is "on a terminal", which only the first process has a say in.
        shows = logging.progress if writes else False
        batches = prefetch(
            feed(data, start, done.position),
            # Placed in the thread: the copy to the device overlaps the step before.
            lambda item: (compiled.place_batch(item[0]), item[1]),
            size=devices.prefetch_size,
        )
        write = enter(tensorboard_writer(events if writes else None, start))
        move = enter(progress_bar(shows, plan.num_steps, start))
        return loop.run(enter(batches), compiled.place_state(key), write, move)


def _save_every(checkpoints: Checkpoints, logging: Logging) -> int:
    """Steps between checkpoints, which fall on rows of the log."""
    log_every = logging.log_every
    if checkpoints.save_every is None:
        return 10 * log_every
    if checkpoints.save_every % log_every:
        msg = (
            "Checkpoints.save_every must be a multiple of Logging.log_every="
            f"{log_every}; got {checkpoints.save_every}"
        )
        raise ValueError(msg)
    return checkpoints.save_every


def _check_nothing_to_write(checkpoints: Checkpoints, logging: Logging) -> None:
    """Raise a `ValueError` if an option only counts with a directory."""
    needs = [(checkpoints, "keep_last"), (checkpoints, "keep_best")]
    for options, name in [*needs, (logging, "tensorboard")]:
        value, kind = getattr(options, name), type(options)
        if value != getattr(kind, name):  # the default
            msg = f"{kind.__name__}.{name}={value} needs a directory to write to"
            raise ValueError(f"{msg}; got None")


def _compiled(step: Callable[..., Any], devices: Devices) -> CompiledStep:
    strategy, mesh = devices.strategy, devices.mesh
    # A compiled step keeps its program; another strategy would silently be another
    # program.
    if not isinstance(step, CompiledStep):
        return compile_step(step, strategy or "jit", mesh)
    if strategy not in (None, step.strategy):
        msg = (
            f'Devices.strategy must be None or "{step.strategy}", as the step was'
            f" compiled; got {summary(strategy)}"
        )
        raise ValueError(msg)
    if mesh not in (None, step.mesh):
        msg = (
            f"Devices.mesh must be None or that of the compiled step, {step.mesh}; got"
            f" {mesh}"
        )
        raise ValueError(msg)
    return step


@contextmanager
def _store(root: Path, options: Checkpoints, mode: str, mesh: Mesh) -> Iterator[Store]:
    """The checkpoints of a run, in a directory that is its own for the while."""
    directory = root / "checkpoints"
    with ExitStack() as stack:
        stack.enter_context(watching(directory, mesh))
        is_ours = None
        # The lock is for other runs; processes of this one share the directory.
        if jax.process_index() == 0:
            is_ours = stack.enter_context(_alone(root))
        kept = Retention(options.keep_last, options.keep_best, mode)
        store = Store(directory, kept, is_ours)
        # Entered after the lock, so that it waits for its threads while the directory
        # is still ours.
        stack.callback(store.close)
        yield store


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
        # Two runs in one directory would delete each other's checkpoints.
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
    # An error, and no deletion: what is there may be the work of days.
    if not resume:
        msg = (
            "directory must hold no run with Checkpoints.resume=False; it holds one of"
            f" {latest} steps: choose another directory, or delete it"
        )
        raise ValueError(msg)
    # Before `load`: whose checkpoint it is can be told without its arrays.
    progress = store.progress(latest, state, key)
    state = store.load(latest, state, compiled.everywhere)
    # The arrays may be whole and of another step, as where folders were renamed.
    if int(state.step) != latest:
        msg = (
            f"the checkpoint in {store.directory / str(latest)} is that of step"
            f" {int(state.step)}: delete that directory to go on from the one before it"
        )
        raise CheckpointError(msg)
    return state, progress
