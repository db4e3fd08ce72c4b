"""A picture of how times change with the number of chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from contexture_jax.plotting._style import (
    FAINT,
    INK,
    PALETTE,
    dressed,
    headline,
    new_axes,
    plain,
)

__all__ = ["plot_scaling"]

_STYLES = ("-", "--", ":")


def plot_scaling(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
    *,
    ax: Axes | None = None,
    label: str = "least time of a pass, seconds",
    title: str = "",
) -> Axes:
    """Draw times beside numbers of chips, both on logarithmic axes.

    Args:
        curves: by a name, which has a colour, and by a kind, which has a style of line:
            the numbers of chips and the seconds, above 0; others are left out.
        ax: where to draw; None: a new figure.
        label: what the seconds are.
        title: what there is to see.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there is nothing to draw.
    """
    kinds = list(dict.fromkeys(kind for curve in curves.values() for kind in curve))
    if not any(s > 0 for c in curves.values() for line in c.values() for _, s in line):
        raise ValueError("curves must hold seconds above 0; got none")
    ax = new_axes((6.8, 4.0)) if ax is None else ax
    dressed(ax, "chips", plain(label))
    for place, (name, curve) in enumerate(curves.items()):
        colour = PALETTE[place % len(PALETTE)]
        for kind, points in curve.items():
            shown = np.array([point for point in points if point[1] > 0]).reshape(-1, 2)
            style = _STYLES[kinds.index(kind) % len(_STYLES)]
            text = plain(f"{name}, {kind}")
            ax.plot(*shown.T, style, marker="o", ms=3, color=colour, label=text)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(color=FAINT, linewidth=0.5, alpha=0.6)
    # Beside the lines, which may be anywhere.
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    ax.legend(frameon=False, fontsize=10, labelcolor=INK, **beside)
    if title:
        headline(ax, title)
    return ax
