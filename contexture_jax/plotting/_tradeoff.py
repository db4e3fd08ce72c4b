"""A picture of approximation against estimation, beside what was measured."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from contexture_jax._core.types import summary
from contexture_jax.evaluation import ProbeTradeoff
from contexture_jax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    MAIN,
    PALETTE,
    count_axis,
    dressed,
    headline,
    new_axes,
    plain,
)

__all__ = ["plot_tradeoff"]

_LABEL_SIZE = 11
_DECADES = 4.0  # of the vertical axis, at most
_ROOM = 30.0  # how far above the errors bounds are followed
_ABOVE = 3.0  # how far above the bounds it may reach for what was measured


def plot_tradeoff(
    tradeoff: ProbeTradeoff,
    ax: Axes | None = None,
    *,
    measured: ArrayLike | None = None,
    measured_name: str = "measured",
) -> Axes:
    """Draw the bounds on the error of a probe over d, and the error that was measured.

    Args:
        tradeoff: from `evaluation.probe_tradeoff`.
        ax: where to draw; None: a new figure.
        measured: errors for d = 1, …, k in the unit of the bounds, shape (k,), finite
            or infinite; None: none.
        measured_name: what to call them.

    Returns:
        The axes drawn on. Where no bound is finite there is a grey band; what was
        measured far above all bounds is a mark on the upper edge.

    Raises:
        ValueError: if `measured` has another shape, or a NaN.
    """
    total = np.asarray(tradeoff.total, dtype=np.float64)
    left_out, estimation, least = (
        np.asarray(x, dtype=np.float64)
        for x in (tradeoff.approximation, tradeoff.estimation, tradeoff.least)
    )
    dims = np.arange(1, len(total) + 1)
    ax = dressed(new_axes() if ax is None else ax, "number of functions d", "error")
    _line(ax, dims, left_out, MAIN, "approximation: too few functions")
    _line(ax, dims, estimation, ACCENT, "estimation: too few labels, at most")
    _line(ax, dims, total, INK, "both: the upper bound")
    ax.plot(dims, least, color=INK, linewidth=1.0, linestyle=":", label="lower bound")
    errors, bounds = [left_out, least], np.concatenate([estimation, total])
    best_dim, best_measured = int(np.asarray(tradeoff.best_dim)), 0
    if measured is not None:
        found = np.asarray(measured, dtype=np.float64)
        if found.shape != total.shape or np.isnan(found).any():
            msg = f"measured must be numbers of shape {total.shape}; got "
            raise ValueError(msg + summary(found))
        known = np.concatenate([*errors, bounds])
        shown = found <= _ABOVE * known[np.isfinite(known)].max()
        mark = {"markersize": 4, "linestyle": "none", "color": PALETTE[2]}
        name = plain(measured_name)
        ax.plot(dims[shown], found[shown], marker="o", label=name, **mark)
        # One context that knows its rows alone would flatten all the rest.
        edge = ax.get_xaxis_transform()
        beyond = dims[~shown]
        if beyond.size:
            ones = np.full(beyond.shape, 0.98)
            ax.plot(beyond, ones, marker="^", transform=edge, **mark)
        errors.append(found[shown])
        best_measured = int(found.argmin()) + 1 if np.isfinite(found).any() else 0
    count_axis(ax, len(total))
    without = dims[~np.isfinite(total)]
    if without.size:
        # A leverage never falls with d: those without a bound are the last.
        edges = float(without[0]) - 0.5, len(total) + 0.5
        ax.axvspan(*edges, color=FAINT, alpha=0.3, linewidth=0)
    _scale(ax, np.concatenate(errors), bounds)
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    # Below the axes: inside, it would cover one part or another.
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
    ax.legend(ncols=2, frameon=False, fontsize=_LABEL_SIZE - 1, labelcolor=INK, **below)
    headline(ax, _headline(best_dim, best_measured, plain(measured_name)))
    return ax


def _line(ax: Axes, dims: np.ndarray, values: np.ndarray, colour: str, name: str):
    shown = np.isfinite(values)
    ax.plot(dims[shown], values[shown], color=colour, linewidth=1.8, label=name)


def _scale(ax: Axes, errors: np.ndarray, bounds: np.ndarray) -> None:
    """A logarithmic axis of the errors, four decades at most, and of bounds near them.

    A bound that says nothing may be any number: by it alone no error would be seen.
    """
    errors, bounds = (x[np.isfinite(x) & (x > 0)] for x in (errors, bounds))
    if not errors.size:
        errors = bounds
    if not errors.size:
        return
    high = float(errors.max())
    low = max(float(min(errors.min(), bounds.min(initial=np.inf))), high / 10**_DECADES)
    high = max(high, min(float(bounds.max(initial=0.0)), high * _ROOM))
    margin = max((high / low) ** 0.05, 1.1)
    ax.set_yscale("log")
    ax.set_ylim(low / margin, high * margin)


def _headline(best_dim: int, measured: int, name: str) -> str:
    bound = (
        f"The bound is least at d = {best_dim}" if best_dim else "No bound is finite"
    )
    return bound + (f"; {name} at d = {measured}" if measured else "")
