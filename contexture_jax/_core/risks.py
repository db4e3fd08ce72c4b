"""Risks of the worst laws near that of a batch, exact by one sort (theory.md §9.1).

Where a law is cut is one number for the whole batch: the losses of all devices, one
number a row, are gathered and sorted on each of them. All else is sums over devices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.moments import Batch
from contexture_jax._core.numerics import safe_divide, safe_sqrt
from contexture_jax._core.scaling import common_exponent, times_power_of_two
from contexture_jax._core.types import Array, Float

__all__ = ["Descending", "chi_squared_risk", "descending", "tail_mean"]


class Descending(NamedTuple):
    """The law of the losses of all devices, from the largest on; constants.

    Attributes:
        values: shape (N,).
        probabilities: shape (N,).
    """

    values: Float[Array, " N"]
    probabilities: Float[Array, " N"]


class _Cut(NamedTuple):
    """The upper part of a law: what is above a value, and a share of what is at it."""

    value: Float[Array, ""]
    share: Float[Array, ""]

    def of(self, values: Float[Array, " b"]) -> Float[Array, " b"]:
        """Which share of the mass at each value is in the upper part."""
        at = jnp.where(values == self.value, self.share, 0.0)
        return jnp.where(values > self.value, jnp.ones_like(at), at)


def descending(values: Float[Array, " b"], batch: Batch) -> Descending:
    """Sort the losses of all devices; rows without probability count as the least."""
    z, p = _present(values, batch), _probabilities(values, batch)
    z, p = (batch.gather(jax.lax.stop_gradient(x)) for x in (z, p))
    # They must be no step of the law: sums below are of differences of neighbours.
    least = jnp.min(jnp.where(p > 0, z, jnp.max(z)))
    negative, p = jax.lax.sort((-jnp.where(p > 0, z, least), p), num_keys=1)
    return Descending(-negative, p)


def tail_mean(
    values: Float[Array, " b"], batch: Batch, order: Descending, alpha: Any, trim: Any
) -> Float[Array, ""]:
    """The mean of the worst α of what is left when the worst `trim` is dropped.

    Args:
        values: losses, shape (b,).
        batch: their law.
        order: `descending(values, batch)`.
        alpha: α in (0, 1].
        trim: ε in [0, 1).
    """
    values = _present(values, batch)
    mass = alpha * (1 - trim)
    weights = _cut(values, batch, order, trim + mass).of(values)
    if not _is_zero(trim):
        weights = weights - _cut(values, batch, order, trim).of(values)
    return batch.mean(weights * values) / mass


def chi_squared_risk(
    values: Float[Array, " b"], batch: Batch, order: Descending, radius: Any, trim: Any
) -> Float[Array, ""]:
    """The supremum of E_Q ℓ over χ²(Q, P) ≤ ρ, of P without its worst `trim`.

    With S = {ℓ > η} at the best η of the dual, m = P(S), and μ and v the mean and the
    variance given S, it is μ + √(v (ρ m − (1 − m))): a smooth function while S stays.

    Args:
        values: losses, shape (b,).
        batch: their law.
        order: `descending(values, batch)`.
        radius: ρ ≥ 0.
        trim: ε in [0, 1).
    """
    values = _present(values, batch)
    law, p = batch, order.probabilities
    if not _is_zero(trim):
        cut = _cut(values, batch, order, trim)
        kept = _probabilities(values, batch) * (1 - cut.of(values)) / (1 - trim)
        law = Batch(kept, batch.size, batch.axis_name)
        held = jax.lax.stop_gradient(cut)
        p = p * (1 - held.of(order.values)) / (1 - trim)
    # Homogeneous: at a scale whose squares are in range.
    exponent = common_exponent(values, axis_name=batch.axis_name)
    z = times_power_of_two(values, -exponent)
    least = _least_in_support(
        times_power_of_two(order.values, -exponent), p, jax.lax.stop_gradient(radius)
    )
    inside = (z >= least).astype(z.dtype)
    mass, outside = law.mean(inside), law.mean(1 - inside)
    mean = safe_divide(law.mean(inside * z), mass)
    variance = safe_divide(law.mean(inside * (z - mean) ** 2), mass)
    # By what is outside: 1 − m would leave rounding under the root where ρ is small.
    room = jnp.maximum(radius * mass - outside, 0)
    return times_power_of_two(mean + safe_sqrt(variance * room), exponent)


def _least_in_support(
    z: Float[Array, " N"], p: Float[Array, " N"], radius: Any
) -> Float[Array, ""]:
    """The least value above the best η, or the largest that has mass."""
    # A_k = E (ℓ − z_k)₊ and B_k = E (ℓ − z_k)²₊ from one value to the next: sums of
    # terms that are not negative, which lose no digits.
    mass, step = jnp.cumsum(p)[:-1], z[:-1] - z[1:]
    first = jnp.pad(jnp.cumsum(mass * step), (1, 0))
    second = jnp.pad(jnp.cumsum(step * (2 * first[:-1] + mass * step)), (1, 0))
    # The dual C √B + η, convex, rises at z_k: the best η is below.
    above = second > (1 + radius) * first**2
    top = jnp.max(jnp.where(p > 0, z, z[-1]))
    return jnp.min(jnp.where(above, z, top))


def _cut(
    values: Float[Array, " b"], batch: Batch, order: Descending, fraction: Any
) -> _Cut:
    """The upper part of a law that has the mass `fraction`."""
    before = jnp.sum(jnp.cumsum(order.probabilities) < fraction)
    value = order.values[jnp.minimum(before, order.values.shape[0] - 1)]
    above = batch.mean((values > value).astype(values.dtype))
    at = batch.mean((values == value).astype(values.dtype))
    missing = fraction - above
    # Rounding of sums is not to leave a trace of a row: a χ² risk moves by its root.
    slack = 4 * float(jnp.finfo(values.dtype).eps)
    share = jnp.where(missing > slack, safe_divide(missing, at), 0.0)
    return _Cut(value, jnp.where(missing > at - slack, jnp.ones_like(share), share))


def _probabilities(values: Float[Array, " b"], batch: Batch) -> Float[Array, " b"]:
    if batch.probabilities is None:
        return jnp.full(batch.size, 1 / batch.global_size, values.dtype)
    return batch.probabilities


def _present(values: Float[Array, " b"], batch: Batch) -> Float[Array, " b"]:
    """The losses, 0 where there is no probability: there they may be anything."""
    if batch.probabilities is None:
        return values
    return jnp.where(batch.probabilities > 0, values, 0)


def _is_zero(trim: Any) -> bool:
    return isinstance(trim, (int, float)) and trim == 0
