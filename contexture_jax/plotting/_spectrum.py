"""Pictures of a spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatterMathtext, NullLocator
from numpy.typing import ArrayLike

from contexture_jax._core.words import rounded
from contexture_jax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    MAIN,
    ON_WHITE,
    PALETTE,
    Bounds,
    Interval,
    count_axis,
    dressed,
    headline,
    indexed,
    mark_size,
    new_axes,
)

__all__ = ["plot_spectrum"]

_IS = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
_LABEL_SIZE = 11
_CUTOFF = 100.0
_VISIBLE = 0.02  # of the height of the axes
_WHOLE = 1.5  # the least ratio of a logarithmic axis
_FLAT = 1e-5  # a spread of values that may be rounding


def plot_spectrum(
    singular_values: ArrayLike,
    ax: Axes | None = None,
    *,
    decay_rate: float | None = None,
    numerical: Bounds | None = None,
    sampling: Interval | None = None,
    cluster: ArrayLike | None = None,
) -> Axes:
    """Draw the singular values s_i over i, on a logarithmic axis.

    Values of which the least is above two thirds of the largest (or of 1, near it) have
    a linear axis of their own range, where they differ by more than rounding.

    Values of at most 100 · eps (of their dtype; the scale is s_0 = 1) are zeros to
    rounding, which a logarithmic axis cannot show: hollow marks on its lower edge.

    Args:
        singular_values: s_1 ≥ s_2 ≥ …, shape (k,), k ≥ 1, non-negative.
        ax: where to draw; None: a new figure.
        decay_rate: λ of a fit s_i² ≈ e^{−λi}, drawn as a line; None: no line.
        numerical: bounds of what was computed, `lower` and `upper` of shape (k,), as
            from `solvers.certify`: bars, where they are wide enough to be seen.
        sampling: confidence intervals for the law that a sample came from, shape (k,),
            as the band of `evaluation.bootstrap_spectrum`: a band.
        cluster: the number of the cluster of each value, ascending, shape (k,): a line
            under the values of each cluster of two or more.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if `singular_values` is not a vector of finite numbers ≥ 0, or
            another array has not its shape.
    """
    values, eps = _checked_values(singular_values)
    ax = dressed(new_axes() if ax is None else ax, "index i", "singular value sᵢ")
    index = np.arange(1, len(values) + 1)
    # Beside s_0 = 1, which is the scale of rounding however small all values are.
    visible = values > _CUTOFF * eps * max(1.0, values.max())
    # The axis first, as of the values alone: bands and bars may only widen it.
    low = _log_axis(ax, values[visible], room=_WHOLE if visible.all() else 10.0)
    if sampling is not None:
        _draw_band(ax, index, _ends(sampling, "sampling", values), low)
    if numerical is not None:
        _draw_bars(ax, index, values, _ends(numerical, "numerical", values))
    if cluster is not None:
        _draw_clusters(
            ax, index, values, visible, _same_shape(cluster, "cluster", values)
        )
    # Last of what is drawn about them, so that they lie on the final axis.
    _draw_values(ax, index, values, visible, low)
    # Of one value there is none.
    if decay_rate is not None and np.isfinite(decay_rate) and len(values) > 1:
        _draw_decay(ax, index, decay_rate, low)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=_LABEL_SIZE, **ON_WHITE)
    count_axis(ax, len(values))
    headline(ax, _spectrum_headline(values, visible))
    return ax


def _checked_values(singular_values: ArrayLike) -> tuple[np.ndarray, float]:
    """The values in float64, and the eps of the dtype that they came in."""
    given = np.asarray(singular_values)
    eps = np.finfo(given.dtype if given.dtype.kind == "f" else np.float64).eps
    values = given.astype(np.float64)
    if values.ndim != 1 or values.size == 0:
        msg = f"singular_values must have shape (k,), k >= 1; got {values.shape}"
        raise ValueError(msg)
    if not (np.isfinite(values) & (values >= 0)).all():
        msg = f"singular_values must be finite and non-negative; got {values.min()}"
        raise ValueError(msg)
    return values, float(eps)


def _same_shape(given: ArrayLike, name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(given)
    if array.shape != values.shape:
        msg = f"{name} must have shape {values.shape}; got {array.shape}"
        raise ValueError(msg)
    return array


def _ends(
    given: Bounds, name: str, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    ends = given.lower, given.upper
    low, high = (_same_shape(end, name, values).astype(np.float64) for end in ends)
    return low, high


def _draw_values(
    ax: Axes,
    index: np.ndarray,
    values: np.ndarray,
    visible: np.ndarray,
    floor: float,
) -> None:
    """Marks; hollow ones on the edge for zeros, which a logarithm cannot show."""
    # Marks may overlap the frame: values at either end are whole.
    shared: dict[str, Any] = {
        "marker": "o",
        "markersize": mark_size(len(values)),
        "color": MAIN,
        "clip_on": False,
        "zorder": 3,
    }
    line = "-" if len(values) > 1 else ""
    ax.plot(index[visible], values[visible], linestyle=line, linewidth=1.0, **shared)
    if not visible.all():
        ax.plot(
            index[~visible],
            np.full(int((~visible).sum()), floor),
            linestyle="",
            markerfacecolor="white",
            label="0 to rounding",
            **shared,
        )


def _draw_decay(ax: Axes, index: np.ndarray, rate: float, floor: float) -> None:
    # s = e^{−λ i / 2} for s² = e^{−λ i}.
    fit = np.exp(-0.5 * rate * index)
    shown = fit >= floor
    ax.plot(
        index[shown],
        fit[shown],
        linestyle=(0, (4, 3)),
        linewidth=1.5,
        color=ACCENT,
        zorder=2,
        label=f"fit sᵢ² = exp(−{rate:.3g} i)",
    )


def _draw_band(
    ax: Axes, index: np.ndarray, ends: tuple[np.ndarray, np.ndarray], floor: float
) -> None:
    """A band over all values; the axis grows to hold it, one power of ten at most."""
    lower, upper = ends
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        above = lower[lower > 0]
        # A lower end of 0 has no place on a logarithmic axis: it is cut at the edge.
        low = max(min(low, 0.8 * above.min() if above.size else low), floor / 10)
    ax.set_ylim(low, high)
    _make_room(ax, float(lower.min()), float(upper.max()))
    low = ax.get_ylim()[0]
    # A single value has a width of its own.
    edges = index if len(index) > 1 else index + np.array([-0.2, 0.2])
    ax.fill_between(
        edges,
        np.broadcast_to(np.maximum(lower, low), edges.shape),
        np.broadcast_to(upper, edges.shape),
        color=MAIN,
        alpha=0.15,
        linewidth=0,
        zorder=1,
        label="sampling band",
    )


def _make_room(ax: Axes, lowest: float, highest: float) -> None:
    """Grow the axis to hold what is drawn about the values.

    A linear axis has room of its own below too; the values keep a third of it.
    """
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        ax.set_ylim(low, max(high, 1.05 * highest))
        return
    span = high - low
    ax.set_ylim(
        min(low, max(lowest - 0.05 * span, low - span, 0.0)),
        max(high, min(highest + 0.05 * span, high + span)),
    )


def _draw_bars(
    ax: Axes,
    index: np.ndarray,
    values: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
) -> None:
    """Bars of numerical bounds, of those that a reader can see."""
    low, high = ax.get_ylim()
    lower, upper = np.maximum(ends[0], low), ends[1]
    if ax.get_yscale() == "log":
        # As a share of the height of the axes, in its own scale.
        seen = np.log(np.maximum(upper, low) / lower) > _VISIBLE * np.log(high / low)
    else:
        seen = upper - ends[0] > _VISIBLE * (high - low)
    if not seen.any():
        return
    _make_room(ax, float(ends[0][seen].min()), float(upper[seen].max()))
    lower = np.maximum(ends[0], ax.get_ylim()[0])
    # `errorbar` takes lengths, which must not be negative: a value may lie outside by
    # rounding.
    middle = np.clip(values[seen], lower[seen], upper[seen])
    ax.errorbar(
        index[seen],
        middle,
        yerr=(middle - lower[seen], upper[seen] - middle),
        fmt="none",
        ecolor=INK,
        elinewidth=1.2,
        capsize=min(3.0, mark_size(len(values))),
        zorder=4,
        label="numerical bounds",
    )


def _draw_clusters(
    ax: Axes,
    index: np.ndarray,
    values: np.ndarray,
    visible: np.ndarray,
    cluster: np.ndarray,
) -> None:
    """A line under the values of each cluster that has more than one above 0."""
    label: str | None = "cluster"
    for number in np.unique(cluster[visible]):
        here = index[(cluster == number) & visible]
        if len(here) < 2:
            continue
        # Just below the lowest of them.
        height = values[here[0] - 1 : here[-1]].min()
        if ax.get_yscale() == "log":
            low, high = ax.get_ylim()
            # The same share of the height on either axis.
            height *= (low / high) ** 0.045
        else:
            low, high = ax.get_ylim()
            height -= 0.045 * (high - low)
        ax.plot(
            [here[0] - 0.3, here[-1] + 0.3],
            [height, height],
            linewidth=3.0,
            solid_capstyle="butt",
            color=PALETTE[4],
            zorder=2,
            label=label,
        )
        # One entry in the legend for all clusters.
        label = None


def _log_axis(ax: Axes, visible: np.ndarray, *, room: float) -> float:
    """Set the vertical axis, to a ratio of at least `room`; returns its lower end."""
    if visible.size == 0:
        ax.set_ylim(0.0, 1.0)
        return 0.0
    span = float(visible.max() - visible.min())
    # Values that are nearly equal: their differences are what there is to see.
    if room == _WHOLE and span > _FLAT and visible.min() * room > visible.max():
        # A linear axis of the range itself: equal values would lie on one line of a
        # logarithmic one.
        low = float(visible.min()) - 0.1 * span
        ax.set_ylim(low, float(visible.max()) + 0.1 * span)
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
        return low
    ax.set_yscale("log")
    # A twentieth of the range above and below; nothing of a context is above 1.
    largest = max(1.0, visible.max()) if visible.max() > 0.8 else 1.1 * visible.max()
    margin = (largest / min(visible.min(), largest / room)) ** 0.05
    high = largest * margin
    low = min(visible.min(), largest / room) / margin
    ax.set_ylim(low, high)
    if high / low > 30:
        ax.yaxis.set_major_formatter(LogFormatterMathtext())
    else:
        # Within a decade or two the default labels are too few to read a value by.
        digits = (1, 2, 5) if high / low > 6 else (1, 2, 3, 4, 5, 6, 8)
        ticks = [d * 10.0**p for p in range(-12, 1) for d in digits]
        ticks = [t for t in ticks if low <= t <= high]
        if ticks:
            ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    return low


def _spectrum_headline(values: np.ndarray, visible: np.ndarray) -> str:
    count = len(values)
    if not visible.any():
        return "All singular values are 0: A tells nothing about X"
    if count == 1:
        return f"One singular value: s₁ = {rounded(values[0])}"
    if not visible.all():
        return f"{int(visible.sum())} of {count} singular values are above 0"
    ends = [f"{indexed('s', i + 1)}{_IS}{rounded(values[i])}" for i in (0, count - 1)]
    return f"{count} singular values, {ends[0]} to {ends[1]}"
