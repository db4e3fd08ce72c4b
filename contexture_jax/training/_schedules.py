"""Learning rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from contexture_jax._core.checks import check_integer, check_number

__all__ = ["warmup_cosine"]


def warmup_cosine(
    peak: float,
    num_steps: int,
    *,
    warmup_steps: int | None = None,
    final_fraction: float = 1e-3,
) -> Callable[[Any], Any]:
    """A learning rate that rises linearly from 0 and falls by half a cosine.

    The defaults are those of the published code of Barlow Twins and VICReg: a warm-up
    of a hundredth of the run (10 of 1,000 epochs), and a thousandth of the peak at its
    end.

    Args:
        peak: the rate after the warm-up.
        num_steps: steps of the whole run.
        warmup_steps: steps of the warm-up; None: a hundredth of `num_steps`.
        final_fraction: the last rate over `peak`.

    Returns:
        A function from the number of steps done to the rate, for any Optax optimiser.

    Example:
        >>> import contexture_jax as cx
        >>> rate = cx.training.warmup_cosine(0.1, 1000)
        >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 1000)]
        [0.0, 0.05, 0.1, 0.0001]
    """
    steps = check_integer(num_steps, "num_steps", low=1)
    if warmup_steps is None:
        warmup_steps = steps // 100
    warmup = check_integer(warmup_steps, "warmup_steps", low=0, high=steps - 1)
    peak = check_number(peak, "peak")
    return optax.warmup_cosine_decay_schedule(
        # Without a warm-up the first step is at the peak: 0 would waste it.
        init_value=0.0 if warmup else peak,
        peak_value=peak,
        warmup_steps=warmup,
        # Optax counts the warm-up in.
        decay_steps=steps,
        end_value=peak * check_number(final_fraction, "final_fraction"),
    )
