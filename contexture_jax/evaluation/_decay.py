"""The exponential rate at which a spectrum decays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_concrete
from contexture_jax._core.either import Either, namespace
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.evaluation._common import as_spectrum

__all__ = ["decay_rate"]

_GRID_POINTS = 256
# So many halvings of any cell of the grid leave no digit open in either dtype.
_BISECTIONS = 60


def decay_rate(singular_values: ArrayLike) -> Float[Array, ""]:
    """The λ ≥ 0 for which exp(−λ i) is nearest to s_i² in least squares.

    Minimises F(λ) = Σ_{i≥0} (s_i² − exp(−λ i))² with s_0² = 1 (Zhai et al. 2025 (CTX),
    §5; theory.md §3). The paper does not say where i starts; at 0 the trivial value is
    fitted exactly, whatever λ, so the values given are i = 1, 2, …

    F may have several minima, so the search is global: the best of 256 points, spaced
    evenly in log λ, then bisection on the sign of F′ between its neighbours. No
    minimum lies above log(2 / s_1²): for x = exp(−λ) ≤ 1/2,
    F′(x) / 2 = Σ i x^{i−1} (x^i − s_i²) ≤ 1.8 x − s_1². Derivatives in the values are
    those of the implicit function F′ = 0.

    Args:
        singular_values: s_1, s_2, … shape (k,), in any order, floating. The tail of a
            truncated spectrum plays no part.

    Returns:
        λ, shape (), in the dtype of the values: 0 if all are 1, infinite if all are 0.
    """
    s = as_spectrum(singular_values)
    if is_concrete(s):
        rate = _rate(np.asarray(s, np.float64) ** 2)
        return jax.device_put(rate.astype(s.dtype))
    # (k,): the paper fits s_i² and not s_i.
    energy = s**2
    # The search has no useful derivative: it comes in by the step below.
    rate = _rate(jax.lax.stop_gradient(energy))
    # One Newton step. At the root it is 0, and its derivative in the values is that of
    # the implicit function, −∂F′ / F″.
    step = _slope(rate, energy) / jax.lax.stop_gradient(_curvature(rate, energy))
    rate = rate - (step - jax.lax.stop_gradient(step))  # 0, with the right derivative
    return jnp.where(energy[0] == 0, jnp.inf, rate)


def _rate(energy: Float[Either, " k"]) -> Float[Either, ""]:
    """The rate, infinite if all values are 0."""
    xp, dtype = namespace(energy), energy.dtype
    positive = energy[0] > 0
    # Above it F rises, as the docstring shows; the inner 1 keeps the logarithm finite
    # where all values are 0, which the last line answers.
    highest = xp.log(2 / xp.where(positive, energy[0], 1))
    # There all e^{−λ i}, i ≤ k, are 1 to within 10⁻³ / k.
    lowest = 1e-3 / energy.shape[0] ** 2
    fractions = xp.linspace(0, 1, _GRID_POINTS - 1, dtype=dtype)
    # λ = 0 itself is the first point, for spectra whose values are all 1.
    grid = xp.pad(lowest * (highest / lowest) ** fractions, (1, 0))
    # (256, k)
    powers = _powers(grid, energy.shape[0])
    best = xp.argmin(xp.sum((energy[None, :] - powers) ** 2, axis=1))
    # The minimum lies between the neighbours of the best point, F being smooth; at the
    # ends of the grid one of them is the point itself.
    low = grid[xp.maximum(best - 1, 0)]
    high = grid[xp.minimum(best + 1, _GRID_POINTS - 1)]
    bracket = (low, high, energy)
    if xp is jnp:
        bracket = jax.lax.fori_loop(0, _BISECTIONS, _bisect, bracket)
    else:
        for number in range(_BISECTIONS):
            bracket = _bisect(number, bracket)
    return xp.where(positive, (bracket[0] + bracket[1]) / 2, xp.inf)


def _powers(rates: Float[Either, " r"], k: int) -> Float[Either, "r k"]:
    xp = namespace(rates)
    i = xp.arange(1, k + 1, dtype=rates.dtype)
    return xp.exp(-rates[:, None] * i[None, :])


def _slope(rate: Float[Either, ""], energy: Float[Either, " k"]) -> Float[Either, ""]:
    """F′(λ) / 2 = Σ i x^i (s_i² − x^i) with x = exp(−λ)."""
    power = _powers(rate[None], energy.shape[0])[0]
    i = namespace(energy).arange(1, energy.shape[0] + 1, dtype=energy.dtype)
    return (i * power * (energy - power)).sum()


def _curvature(
    rate: Float[Either, ""], energy: Float[Either, " k"]
) -> Float[Either, ""]:
    """F″(λ) / 2 = Σ i² x^i (2 x^i − s_i²)."""
    power = _powers(rate[None], energy.shape[0])[0]
    i = namespace(energy).arange(1, energy.shape[0] + 1, dtype=energy.dtype)
    return (i**2 * power * (2 * power - energy)).sum()


# The data ride in the carry: a body without closure is compiled once for each shape.
def _bisect(_: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    low, high, energy = state
    xp = namespace(energy)
    middle = (low + high) / 2
    # F rises here: the minimum is to the left.
    above = _slope(middle, energy) > 0
    return xp.where(above, low, middle), xp.where(above, middle, high), energy
