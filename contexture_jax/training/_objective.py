"""Objectives: a loss of embeddings with what it carries on from step to step."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from contexture_jax import losses
from contexture_jax._core.types import Array, summary

__all__ = ["Objective", "check_objective", "evaluated", "from_loss", "signed", "takes"]

Objective = Callable[..., Any]


def from_loss(loss: Callable[..., Array]) -> Objective:
    """The objective of a loss without state: `loss(*embeddings, axis_name=...)`.

    Args:
        loss: a function of one array of embeddings or several, as in `cx.losses`.

    Returns:
        `objective(embeddings, loss_state, *, axis_name=None)`, which gives the loss and
        (loss_state, {}); `embeddings` is one array or a tuple of them.

    Raises:
        TypeError: if `loss` is no function, or takes no `axis_name`.
    """
    if not callable(loss):
        msg = f"loss must be a function, as cx.losses.svme; got {summary(loss)}"
        raise TypeError(msg)
    # Without it, every device would form the loss of its own rows under "shard_map":
    # another objective, and no error.
    if not takes(loss, axis_name=None):
        msg = (
            "loss must take axis_name, over which it reduces its moments, as in"
            f" `def loss(phi, *, axis_name=None)`; got {signed(loss)}"
        )
        raise TypeError(msg)

    return _OfLoss(loss)


# A class and not a closure, so that `evaluated` can tell our wrapper from others'.
@dataclasses.dataclass(frozen=True)
class _OfLoss:
    """The objective of a loss without state."""

    loss: Callable[..., Array]

    def __call__(
        self, embeddings: Any, loss_state: Any, *, axis_name: str | None = None
    ) -> tuple[Array, tuple[Any, dict[str, Any]]]:
        # Two towers give a tuple, one encoder an array.
        parts = embeddings if isinstance(embeddings, (tuple, list)) else (embeddings,)
        return self.loss(*parts, axis_name=axis_name), (loss_state, {})


def takes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a function takes such arguments, beside others, as far as one can see."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # not every callable says
        return True
    try:
        # Partial: other parameters of the function may have been bound before, or have
        # defaults.
        signature.bind_partial(*args, **kwargs)
    except TypeError:
        return False
    return True


def signed(function: Any) -> str:
    """The name of a function with those of its parameters, for messages."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    try:
        return f"{name}({', '.join(inspect.signature(function).parameters)})"
    except (TypeError, ValueError):
        return name


def _is_own_loss(function: Any) -> bool:
    """Whether it is one of `cx.losses`, with some of its options given or not."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", "")
    return name in losses.__all__ and getattr(losses, name) is function


def check_objective(objective: Any) -> None:
    """Raise a `TypeError` unless it can be called as one, as a bare loss cannot."""
    # Ours would pass the check below: with (None, None) for two embeddings it can be
    # called as an objective.
    if _is_own_loss(objective) or not callable(objective):
        msg = (
            "objective must be objective(embeddings, loss_state, *, axis_name); got"
            f" {signed(objective)}: wrap a loss of embeddings, from_loss(loss)"
        )
        raise TypeError(msg)
    if not takes(objective, None, None, axis_name=None):
        msg = (
            "objective must take (embeddings, loss_state, *, axis_name); got"
            f" {signed(objective)}: wrap a loss of embeddings, from_loss(loss)"
        )
        raise TypeError(msg)


def evaluated(
    objective: Objective, embeddings: Any, loss_state: Any, axis_name: str | None
) -> Any:
    """What an objective gives, once it is known to be (loss, (loss_state, metrics))."""
    hint = "wrap a loss of embeddings, from_loss(loss)"
    try:
        given = objective(embeddings, loss_state, axis_name=axis_name)
    # What a bare loss of one array raises when it is given a tuple, or a state for its
    # second embedding. Who carries a state on has written an objective, whose error is
    # its own.
    except (TypeError, AttributeError) as error:
        if isinstance(objective, _OfLoss) or jax.tree.leaves(loss_state):
            raise
        msg = (
            "objective is called as objective(embeddings, loss_state, *, axis_name);"
            f" {signed(objective)} raised: {error}. If it is one, {hint}"
        )
        raise TypeError(msg) from error
    is_pair = isinstance(given, tuple) and len(given) == 2
    if is_pair and isinstance(given[1], tuple) and len(given[1]) == 2:
        return given
    shape = getattr(given, "shape", None)
    what = given if shape is None else f"an array of shape {shape}"
    msg = (
        f"objective must give (loss, (loss_state, metrics)); {signed(objective)} gave"
        f" {what}: {hint}"
    )
    raise TypeError(msg)
