"""Weights of contexts that are found while an encoder is trained (theory.md §7.8)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_floating, check_integer, check_number
from contexture_jax._core.numerics import safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr

__all__ = [
    "MinMax",
    "MixedLoss",
    "PartWeights",
    "init_part_weights",
    "update_part_weights",
    "with_part_weights",
]


class MixedLoss(NamedTuple):
    """The loss of several contexts, and that of each.

    Attributes:
        loss: what is minimised, shape ().
        parts: L_j, shape (j,).
    """

    loss: Float[Array, ""]
    parts: Float[Array, " j"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinMax:
    """Weights that rise where the loss is high: min over encoders of max over w.

    After every `every` steps, with l̂_j the mean losses of the contexts over them, less
    their mean and over their standard deviation,

        w_j ← w_j exp(η_t l̂_j) / Σ_l w_l exp(η_t l̂_l),    η_t = rate / t^decay

    at the t-th time (Algorithm 2 of the dissertation, which keeps η: decay 0). Of two
    contexts l̂ = ±1 however little they differ, so that only a falling η settles. The
    weights are those of all functions of an embedding, as many as it is wide.

    Attributes:
        rate: η of the first time, above 0.
        every: steps between two updates.
        decay: in [0, 1].
    """

    rate: float = 0.3
    every: int = 20
    decay: float = 0.5

    def __post_init__(self) -> None:
        check_integer(self.every, "MinMax.every", low=1)
        if not 0 < check_number(self.rate, "MinMax.rate") < float("inf"):
            msg = f"MinMax.rate must be above 0; got {self.rate}"
            raise ValueError(msg)
        if not 0 <= check_number(self.decay, "MinMax.decay") <= 1:
            msg = f"MinMax.decay must be in [0, 1]; got {self.decay}"
            raise ValueError(msg)


@short_repr
class PartWeights(NamedTuple):
    """Weights of contexts while they are found; the same on every device.

    Attributes:
        weights: w_j, shape (j,), summing to 1.
        losses: sums of L_j since the last update, shape (j,).
        num_steps: of how many steps, int32.
        num_updates: how often the weights were changed, int32.
    """

    weights: Float[Array, " j"]
    losses: Float[Array, " j"]
    num_steps: Int[Array, ""]
    num_updates: Int[Array, ""]


def init_part_weights(weights: ArrayLike) -> PartWeights:
    """The state before the first step.

    Args:
        weights: w_j to begin with, shape (j,), summing to 1.
    """
    w = as_floating(weights, "weights")
    zero = jnp.zeros((), jnp.int32)
    return PartWeights(w, jnp.zeros_like(w), zero, zero)


def update_part_weights(
    state: PartWeights, losses: Float[Array, " j"], rule: MinMax
) -> PartWeights:
    """Add the losses of a step, and change the weights if it is time.

    A weight of 0 stays 0.
    """
    # The losses tell the weights, and are not to be lowered by them.
    summed = state.losses + jax.lax.stop_gradient(losses).astype(state.losses.dtype)
    count = state.num_steps + 1
    is_due = count >= rule.every
    centred = summed - jnp.mean(summed)
    # Of sums as of means: standardised they are the same.
    scores = centred * safe_reciprocal(safe_sqrt(jnp.mean(centred**2)))
    times = (state.num_updates + 1).astype(scores.dtype)
    changed = jax.nn.softmax(
        jnp.log(state.weights) + rule.rate * times ** (-rule.decay) * scores
    )
    return PartWeights(
        jnp.where(is_due, changed, state.weights),
        jnp.where(is_due, jnp.zeros_like(summed), summed),
        jnp.where(is_due, 0, count).astype(jnp.int32),
        state.num_updates + is_due.astype(jnp.int32),
    )


def with_part_weights(
    loss: Callable[..., MixedLoss],
    weights: ArrayLike,
    rule: MinMax | None = None,
) -> tuple[Callable[..., Any], Any]:
    """The objective of a train step over several contexts, and its first state.

    Args:
        loss: called as `loss(*embeddings, part_weights, axis_name=...)`: `svme_mixed`
            or `kise_mixed`, or a partial one of them.
        weights: w_j, shape (j,), summing to 1: fixed, or to begin with.
        rule: by which they change; None: they do not.

    Returns:
        `objective(embeddings, state, *, axis_name=None)`, which gives `(loss, (state,
        metrics))` with the loss of each context and, where they change, its weight
        among the metrics; and the state to start it with, () for fixed weights.
    """
    first = init_part_weights(weights)

    def objective(
        embeddings: Any, state: Any, *, axis_name: Any = None
    ) -> tuple[Array, tuple[Any, dict[str, Array]]]:
        held = first.weights if rule is None else state.weights
        found = loss(*embeddings, held, axis_name=axis_name)
        metrics = {f"loss_{j}": part for j, part in enumerate(found.parts)}
        if rule is not None:
            metrics |= {f"weight_{j}": weight for j, weight in enumerate(held)}
            state = update_part_weights(state, found.parts, rule)
        return found.loss, (state, metrics)

    return objective, () if rule is None else first
