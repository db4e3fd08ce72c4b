"""Pictures of benchmarks: against the roofline, and of two runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from contexture_jax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    MAIN,
    PALETTE,
    dressed,
    headline,
    new_axes,
    plain,
)

__all__ = ["plot_roofline", "plot_seconds", "plot_speeds"]

_SMALL = 9
_MARKS = "osD^vPX"


def plot_roofline(
    points: Mapping[str, Sequence[tuple[str, float, float]]],
    flops: float,
    bandwidth: float,
    *,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw rates of work beside what the device does at most.

    The roof is min(peak of products, flops a byte × peak of copies): Williams, Waterman
    and Patterson (2009).

    Args:
        points: by a name, which has a colour: of each workload its name, its operations
            for each byte moved, and its operations a second.
        flops: operations a second of products, above 0.
        bandwidth: bytes a second of copies, above 0.
        ax: where to draw; None: a new figure.
        title: what there is to see.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if a peak is not finite and above 0, or there is no point.
    """
    if not (0 < flops < np.inf and 0 < bandwidth < np.inf):
        raise ValueError(f"peaks must be above 0; got {flops} and {bandwidth}")
    known = [one for line in points.values() for one in line]
    if not known:
        raise ValueError("points must hold a workload; got none")
    ax = new_axes((7.6, 4.4)) if ax is None else ax
    dressed(ax, "operations for each byte moved", "operations a second")
    ridge = flops / bandwidth
    xs = [x for _, x, _ in known]
    # Room at the left for the name of the slope.
    ends = min(*xs, ridge / 8) / 2, max(*xs, ridge) * 3
    line = np.geomspace(*ends, 200)
    ax.plot(line, np.minimum(flops, line * bandwidth), color=INK, linewidth=1.5)
    beside = {"fontsize": _SMALL, "color": INK, "ha": "right", "va": "bottom"}
    ax.text(ends[1], flops * 1.1, f"products: {_rate(flops, 'FLOP/s')}", **beside)
    x = 0.6 * ridge
    ax.text(x * 0.8, x * bandwidth, f"copies: {_rate(bandwidth, 'B/s')}", **beside)
    for place, (name, some) in enumerate(points.items()):
        if not some:
            continue
        x, y = np.array([one[1:] for one in some]).T
        ax.plot(
            x,
            y,
            _MARKS[place % len(_MARKS)],
            color=PALETTE[place % len(PALETTE)],
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=plain(name),
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(top=flops * 4)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _rate(value, "")))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.grid(color=FAINT, linewidth=0.5, alpha=0.6)
    _legend(ax)
    if title:
        headline(ax, title)
    return ax


def _legend(ax: Axes) -> None:
    """Beside what is drawn, which may be anywhere."""
    ax.legend(
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )


def _rate(value: float, unit: str) -> str:
    for factor, prefix in (
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def plot_speeds(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw how many times longer one run takes than another, with noise bands.

    Args:
        rows: of each workload its name, the ratio of its seconds, and the ends of the
            interval of that, all above 0; from top to bottom.
        ax: where to draw; None: a new figure.
        title: what there is to see.

    Returns:
        The axes drawn on. Bands that do not hold 1 have the colour of what changed.

    Raises:
        ValueError: if there is no row, or a number is not above 0.
    """
    if not rows or not all(0 < one < np.inf for row in rows for one in row[1:]):
        raise ValueError("rows must hold ratios above 0")
    ax = new_axes((7.6, 1.3 + 0.24 * len(rows))) if ax is None else ax
    dressed(ax, "seconds after, by seconds before", "")
    ax.axvline(1.0, color=INK, linewidth=1.0)
    for place, (_, ratio, lower, upper) in enumerate(rows):
        colour = ACCENT if lower > 1 else MAIN if upper < 1 else "#777777"
        ax.plot((lower, upper), (place, place), color=colour, linewidth=2.5, alpha=0.5)
        ax.plot(ratio, place, "o", color=colour, markersize=5)
    ax.set_yticks(range(len(rows)), [plain(row[0]) for row in rows], fontsize=_SMALL)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    low = min(0.8, *(row[2] for row in rows))
    high = max(1.25, *(row[3] for row in rows))
    ax.set_xscale("log", base=2)
    ax.set_xlim(low / 1.05, high * 1.05)
    ax.xaxis.set_major_locator(
        LogLocator(2, subs=(1.0, 1.5) if high / low < 4 else (1.0,))
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(color=FAINT, linewidth=0.5, alpha=0.6, axis="x")
    if title:
        headline(ax, title)
    return ax


def plot_seconds(
    rows: Sequence[tuple[str, bool, Sequence[float]]],
    *,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw the seconds of all rounds of each workload.

    Args:
        rows: of each its name, whether it is ours or a peer's, and the seconds of its
            rounds, above 0; from top to bottom.
        ax: where to draw; None: a new figure.
        title: what there is to see.

    Returns:
        The axes drawn on: a line from the fastest to the slowest round, a mark at the
        median.

    Raises:
        ValueError: if there is no row, or a number is not above 0.
    """
    if not rows or not all(row[2] and min(row[2]) > 0 for row in rows):
        raise ValueError("rows must hold seconds above 0")
    ax = new_axes((7.6, 1.3 + 0.24 * len(rows))) if ax is None else ax
    dressed(ax, "seconds of a run", "")
    for place, (_, is_ours, seconds) in enumerate(rows):
        colour = MAIN if is_ours else ACCENT
        ends = min(seconds), max(seconds)
        ax.plot(ends, (place, place), color=colour, linewidth=2.5, alpha=0.4)
        ax.plot(float(np.median(seconds)), place, "o", color=colour, markersize=5)
    names = [plain(row[0]) for row in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=_SMALL)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xscale("log")
    ax.grid(color=FAINT, linewidth=0.5, alpha=0.6, axis="x")
    for is_ours, colour, name in (
        (True, MAIN, "this package"),
        (False, ACCENT, "peers"),
    ):
        if any(row[1] == is_ours for row in rows):
            ax.plot([], [], "o-", color=colour, markersize=5, label=name)
    _legend(ax)
    if title:
        headline(ax, title)
    return ax
