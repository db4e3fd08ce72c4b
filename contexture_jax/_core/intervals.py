"""An estimate between two ends, and how sure they are."""

from __future__ import annotations

from statistics import NormalDist

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_values
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, Float, pytree_dataclass, static_field

__all__ = [
    "Interval",
    "check_level",
    "correlation_interval",
    "normal_interval",
    "student_interval",
]

_LARGEST = 1 - 1e-6  # the inverse hyperbolic tangent of 1 is infinite


@pytree_dataclass
class Interval:
    """What a sample says of a number, or of one an entry: an estimate and two ends.

    Of sampling error alone: bounds of a computation (`solvers.certify`) are another
    thing. A tree of its three arrays, which `jax.tree.map` takes through a rising
    function.

    Attributes:
        estimate: the number, as far as the sample tells, any shape; without its bias
            where that was estimated.
        lower: lower end, the same shape.
        upper: upper end, the same shape.
        level: the confidence, between 0 and 1. Static.
    """

    estimate: Float[Array, "*shape"]
    lower: Float[Array, "*shape"]
    upper: Float[Array, "*shape"]
    level: float = static_field()


def check_level(level: float) -> float:
    """A confidence; raises a `ValueError` unless it is between 0 and 1."""
    check_values(
        np.asarray(level), "level", lambda v: (v > 0) & (v < 1), "between 0 and 1"
    )
    return float(level)


def normal_interval(
    estimate: Float[Array, "*shape"], error: Float[Array, "*shape"], level: float
) -> Interval:
    """Estimate ± z_{1−α/2} · standard error, α = 1 − level."""
    reach = _quantile(level) * error
    return Interval(estimate, estimate - reach, estimate + reach, level)


def student_interval(
    estimate: Float[Array, "*shape"],
    error: Float[Array, "*shape"],
    level: float,
    freedom: int,
) -> Interval:
    """Estimate ± t · standard error, from `freedom` degrees of freedom."""
    # x = √ν tan θ has the density of Student's law where θ has cos^{ν−1} θ.
    theta = np.linspace(-np.pi / 2, np.pi / 2, 2**16 + 1)
    height = np.maximum(np.cos(theta), 0.0) ** (freedom - 1)
    below = np.cumsum((height[1:] + height[:-1]) / 2)
    theta = np.interp(0.5 + level / 2, below / below[-1], theta[1:])
    reach = float(np.sqrt(freedom) * np.tan(theta)) * error
    return Interval(estimate, estimate - reach, estimate + reach, level)


def correlation_interval(
    values: Float[Array, " k"], errors: Float[Array, " k"], level: float
) -> Interval:
    """Intervals for correlations on Fisher's scale, which stay in (−1, 1).

    Args:
        values: correlations; their interval holds them.
        errors: their standard errors.
        level: the confidence.
    """
    centre = jnp.arctanh(jnp.clip(values, -_LARGEST, _LARGEST))
    # d artanh r = dr / (1 − r²).
    reach = _quantile(level) * safe_divide(errors, 1 - values**2)
    lower, upper = jnp.tanh(centre - reach), jnp.tanh(centre + reach)
    # Where the centre was cut at _LARGEST the estimate may lie outside.
    return Interval(
        values, jnp.minimum(lower, values), jnp.maximum(upper, values), level
    )


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)
