"""A picture of the error over the number of labels: forecast, and measured."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from contexture_jax._core.types import summary
from contexture_jax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    MAIN,
    dressed,
    headline,
    new_axes,
    plain,
)

__all__ = ["plot_learning_curve"]

_LABEL_SIZE = 10
_CLOSE = 1.25  # a ratio of sizes below which two labels would touch


def plot_learning_curve(
    num_samples: ArrayLike,
    errors: ArrayLike,
    *,
    forecasts: ArrayLike | None = None,
    num_labelled: int | None = None,
    ax: Axes | None = None,
    error_label: str = "squared error / variance",
    title: str = "",
) -> Axes:
    """Draw measured errors over numbers of labels, and what was forecast of them.

    Lines are means over splits and bands the ends of all of them, or a standard
    deviation about the mean where it is narrower.

    Args:
        num_samples: labels of each fit, ascending, shape (sizes,).
        errors: measured, shape (sizes, splits), as `prediction.learning_curve` has.
        forecasts: shape (sizes, others); None: none.
        num_labelled: how many labels the forecast is from, marked; None: not.
        ax: where to draw; None: a new figure.
        error_label: what the errors are.
        title: what there is to see.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes do not fit, or no error is finite.
    """
    sizes, measured = np.asarray(num_samples), np.asarray(errors, np.float64)
    drawn = [(measured, MAIN, "-", "measured")]
    if forecasts is not None:
        drawn.append((np.asarray(forecasts, np.float64), ACCENT, "--", "forecast"))
    for values, *_ in drawn:
        if values.ndim != 2 or sizes.shape != values.shape[:1] or not values.size:
            msg = (
                "errors and forecasts must have one row for each of num_samples; got"
                f" {summary(values)} and {summary(sizes)}"
            )
            raise ValueError(msg)
    if not np.isfinite(measured).any():
        raise ValueError("errors must be finite at some place; got none")
    ax = dressed(
        new_axes() if ax is None else ax, "number of labels", plain(error_label)
    )
    for values, colour, style, name in drawn:
        shown = np.isfinite(values).all(axis=1)
        x, y = sizes[shown], values[shown]
        mean, deviation = y.mean(axis=1), y.std(axis=1)
        low = np.maximum(y.min(axis=1), mean - deviation)
        high = np.minimum(y.max(axis=1), mean + deviation)
        ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        line = {"color": colour, "linestyle": style, "marker": "o", "markersize": 4}
        ax.plot(x, mean, label=name, **line)
    ax.axhline(1.0, color=INK, linewidth=1.0, linestyle=":", label="guessing the mean")
    if num_labelled is not None:
        label = f"{num_labelled:,} labels at hand"
        ax.axvline(num_labelled, color=FAINT, linewidth=1.5, label=label)
    _size_axis(ax, sizes)
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    # Below the axes: inside, it would cover one part or another.
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18)}
    ax.legend(ncols=2, frameon=False, fontsize=_LABEL_SIZE, labelcolor=INK, **below)
    if title:
        headline(ax, plain(title))
    return ax


def _size_axis(ax: Axes, sizes: np.ndarray) -> None:
    """Logarithmic, with the sizes themselves for ticks where there is room."""
    ax.set_xscale("log")
    ticks = [float(sizes[0])]
    for size in sizes[1:]:
        if size >= _CLOSE * ticks[-1]:
            ticks.append(float(size))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
