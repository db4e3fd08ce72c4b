"""A number beside what chance gives it, and how sure the rows are of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.intervals import Interval, student_interval
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, Float, Int, short_repr

__all__ = ["Compared", "judged_by_chance", "kept_rows", "num_groups", "without_groups"]

_MOST_GROUPS = 10


@short_repr
class Compared(NamedTuple):
    """A measure of a sample, beside what chance gives it.

    Attributes:
        value: of all rows, shape ().
        interval: for its value at ever more rows, by a jackknife over groups of rows: g
            times the value less g − 1 times the mean of the values without a group, and
            Student's t of g − 1 degrees of freedom on each side. What the value owes to
            few rows, which grows with the width, is off it to first order.
        null: the same with the rows of one side shuffled: the mean over the shuffles,
            between quantiles.
        p_value: (1 + number of shuffles that reach the value) / (1 + their number),
            exact whatever the number of rows and columns, shape ().
    """

    value: Float[Array, ""]
    interval: Interval
    null: Interval
    p_value: Float[Array, ""]

    @property
    def adjusted(self) -> Float[Array, ""]:
        """(value − null mean) / (1 − null mean): 0 by chance, 1 at best."""
        return safe_divide(self.value - self.null.estimate, 1 - self.null.estimate)


def num_groups(num_rows: int) -> int:
    """g: ten groups of rows, or as many of two rows as there are."""
    return min(_MOST_GROUPS, num_rows // 2)


def kept_rows(order: Int[Array, " n"], group: Any) -> Int[Array, " k"]:
    """The rows without a group, one of `num_groups` of n // g rows in `order`."""
    size = order.shape[0] // num_groups(order.shape[0])
    return jnp.roll(order, -group * size)[size:]


def without_groups(
    measure: Callable[[Int[Array, " k"]], Array], key: Array, num_rows: int
) -> Float[Array, "g ..."]:
    """`measure` of the rows without each group, which are drawn."""
    order = jax.random.permutation(key, num_rows)
    groups = jnp.arange(num_groups(num_rows))
    return jax.lax.map(lambda i: measure(kept_rows(order, i)), groups)


def judged_by_chance(
    value: Float[Array, ""],
    null: Float[Array, " b"],
    without: Float[Array, " g"],
    num_rows: int,
    level: float,
    *,
    unbiased: bool = False,
    least: float = -1.0,
) -> Compared:
    """Put a value of at most 1 beside its shuffles and its values without a group.

    Args:
        value: shape ().
        null: of shuffles, shape (b,).
        without: of the rows without each group, shape (g,).
        num_rows: n, of which a group is n // g.
        level: of both intervals.
        unbiased: whether the value stands for itself, with nothing to take off.
        least: what the value can be: the interval is cut there, and at 1.
    """
    g = without.shape[0]
    share = num_rows / (num_rows // g)
    # (g,): pseudo-values, whose mean has no term of order 1 / n (Tukey 1958).
    pseudo = share * value - (share - 1) * without
    error = pseudo.std(ddof=1) / share**0.5
    centre = value if unbiased else pseudo.mean()
    interval = student_interval(centre, error, level, g - 1)
    # A tie that rounding breaks must count as a tie.
    slack = 100 * float(jnp.finfo(value.dtype).eps)
    reached = jnp.sum(null >= value - slack)
    low, high = (jnp.quantile(null, 0.5 + sign * level / 2) for sign in (-1, 1))
    p_value = ((1 + reached) / (1 + null.shape[0])).astype(value.dtype)
    return Compared(
        value,
        jax.tree.map(lambda x: jnp.clip(x, least, 1), interval),
        Interval(null.mean(), low, high, level),
        # A NaN is above nothing, and would look like a discovery.
        jnp.where(jnp.isfinite(value), p_value, jnp.nan),
    )
