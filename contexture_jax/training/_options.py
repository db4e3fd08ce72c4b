"""What `fit` can be told beside step and data: groups that check themselves."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from jax.sharding import Mesh

from contexture_jax._core.checks import check_integer, check_number
from contexture_jax._core.types import summary

__all__ = ["Checkpoints", "Devices", "Logging", "Monitor", "group"]

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When the state of a run is saved, and which checkpoints are kept.

    Orbax writes and deletes them; an old one goes only once a newer one is whole.

    Attributes:
        save_every: steps between checkpoints and evaluations, a multiple of
            `Logging.log_every`; None: ten times that. The last state is saved too.
        keep_last: how many of the newest to keep, at least 1.
        keep_best: how many of the best by `Monitor.metric` to keep beside them.
        resume: False: raise an error if there are checkpoints to go on from.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if one is out of its range.
    """

    save_every: int | None = None
    keep_last: int = 2
    keep_best: int = 1
    resume: bool = True

    def __post_init__(self) -> None:
        # Whether it is a multiple of `log_every` is checked by `fit`, which knows both.
        if self.save_every is not None:
            check_integer(self.save_every, "Checkpoints.save_every", low=1)
        check_integer(self.keep_last, "Checkpoints.keep_last", low=1)
        check_integer(self.keep_best, "Checkpoints.keep_best", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging:
    """Where the metrics of a run go, beside `history` and `metrics.csv`.

    Attributes:
        log_every: steps between rows of the log; each holds the metrics of its step.
        tensorboard: write `tensorboard/` too; needs the extra `train`.
        progress: a bar on stderr; None: on a terminal.

    Raises:
        TypeError: if `log_every` is no integer.
        ValueError: if it is less than 1.
    """

    # Rows cost a wait for the device; a NaN is noticed at the latest after so many
    # steps.
    log_every: int = 50
    tensorboard: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        check_integer(self.log_every, "Logging.log_every", low=1)


@dataclasses.dataclass(frozen=True)
class Monitor:
    """The metric that a run is judged by: its best checkpoints, and an early stop.

    Attributes:
        metric: the name of one of the step's metrics or of `evaluate`'s.
        mode: "min" or "max": whether it is to be small or large.
        patience: end after that many rows in a row with the metric and no improvement;
            None: never.
        min_delta: by how much it must change to count as an improvement.

    Raises:
        TypeError: if a number is none.
        ValueError: if `mode` is neither, or `patience` less than 1.

    Example:
        >>> import contexture_jax as cx
        >>> cx.training.Monitor("accuracy", mode="max", patience=5)
        Monitor(metric='accuracy', mode='max', patience=5, min_delta=0.0)
    """

    metric: str = "loss"
    # `Monitor("accuracy", ...)` reads well; the rest is only clear by name.
    _: dataclasses.KW_ONLY
    mode: str = "min"
    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            msg = f'Monitor.mode must be "min" or "max"; got {summary(self.mode)}'
            raise ValueError(msg)
        if self.patience is not None:
            check_integer(self.patience, "Monitor.patience", low=1)
        check_number(self.min_delta, "Monitor.min_delta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """Where a run computes, and how far its data are read ahead.

    Attributes:
        strategy: see `compile_step`; None: "jit", or that of a compiled step.
        mesh: see `compile_step`; None: all devices, or those of a compiled step.
        prefetch_size: batches to read and place ahead in a thread; 0: none.

    Raises:
        TypeError: if `prefetch_size` is no integer.
        ValueError: if it is negative.
    """

    strategy: str | None = None
    mesh: Mesh | None = None
    # One to use next and one to be read meanwhile; more evens out a source of uneven
    # speed.
    prefetch_size: int = 2

    def __post_init__(self) -> None:
        check_integer(self.prefetch_size, "Devices.prefetch_size", low=0)


def group(value: Any, kind: type[_T], name: str) -> _T:
    """A group of options as `fit` was given it; None: that of the defaults.

    Raises:
        TypeError: if it is something else.
    """
    if value is None:
        return kind()
    if not isinstance(value, kind):
        msg = (
            f"{name} must be None or cx.training.{kind.__name__}(…); got"
            f" {summary(value)}"
        )
        raise TypeError(msg)
    return value
