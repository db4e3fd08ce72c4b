"""A picture of where in a spectrum a target lives."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from contexture_jax._core.types import summary
from contexture_jax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    MAIN,
    count_axis,
    dressed,
    headline,
    new_axes,
    plain,
)

__all__ = ["plot_target_energy"]

_LABEL_SIZE = 11


def plot_target_energy(
    energy: ArrayLike, ax: Axes | None = None, *, target_name: str = "the target"
) -> Axes:
    """Draw the share of a target's variance along each function, and their sums.

    Args:
        energy: u_i² / Σ_j u_j² of the target f = Σ_j u_j μ_j (its variance: Σ_j u_j²),
            shape (k,), k ≥ 1, non-negative, of sum at most 1 to rounding.
        ax: where to draw; None: a new figure.
        target_name: what to call the target.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if `energy` is not a vector of finite numbers.
    """
    shares = np.asarray(energy, dtype=np.float64)
    if shares.ndim != 1 or shares.size == 0 or not np.isfinite(shares).all():
        msg = f"energy must be finite, of shape (k,), k >= 1; got {summary(shares)}"
        raise ValueError(msg)
    ax = dressed(new_axes() if ax is None else ax, "function i", "share of variance")
    count = len(shares)
    edges = np.arange(count + 1) + 0.5
    # Stairs, as both are functions of whole numbers.
    sums = np.cumsum(shares)
    ax.stairs(sums, edges, fill=True, color=MAIN, alpha=0.18, label="first i functions")
    ax.stairs(sums, edges, baseline=None, color=MAIN, linewidth=1.2)
    ax.stairs(shares, edges, fill=True, color=ACCENT, label="function i alone")
    count_axis(ax, count)
    # All of the variance, whatever the functions hold of it: pictures of two contexts
    # compare.
    ax.set_ylim(0.0, 1.0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    # Below the axes: inside, it would cover one part or another.
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=2,
        frameon=False,
        fontsize=_LABEL_SIZE,
        labelcolor=INK,
    )
    headline(ax, _energy_headline(shares, sums[-1], plain(target_name)))
    return ax


def _energy_headline(shares: np.ndarray, total: float, target_name: str) -> str:
    if len(shares) == 1:
        return f"One function holds {total:.0%} of {target_name}"
    return f"{len(shares)} functions hold {total:.0%} of {target_name}"
