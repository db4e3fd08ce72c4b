"""Pictures of many contexts: their errors beside something that orders them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike

from contexture_jax._core.types import summary
from contexture_jax.plotting._style import (
    FAINT,
    INK,
    NUM_SAFE_COLOURS,
    PALETTE,
    dressed,
    headline,
    new_axes,
    plain,
)

__all__ = ["plot_ranking"]

_LABEL_SIZE = 10
_WIDE = 20.0  # a ratio of ends above which an axis is logarithmic


def plot_ranking(
    order: ArrayLike,
    error: ArrayLike,
    kinds: Sequence[str],
    *,
    abstains: ArrayLike | None = None,
    ax: Axes | None = None,
    label: str = "τ",
    error_label: str = "error of the probe",
    title: str = "",
) -> Axes:
    """Draw the error of each context beside a number that may tell of it.

    Args:
        order: τ, or another number above 0, shape (k,), k ≥ 1; places that are not
            finite are left out.
        error: shape (k,).
        kinds: of each context, by which it is coloured.
        abstains: which are drawn hollow, shape (k,), bool; None: none.
        ax: where to draw; None: a new figure.
        label: what `order` is.
        error_label: what `error` is.
        title: what there is to see.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes differ, or no pair is finite.
    """
    x, y = np.asarray(order, np.float64), np.asarray(error, np.float64)
    hollow = np.zeros(len(x), bool) if abstains is None else np.asarray(abstains, bool)
    if not x.shape == y.shape == hollow.shape == (len(kinds),):
        msg = (
            "order, error, kinds and abstains must be of one length; got"
            f" {summary(x)}, {summary(y)}, {len(kinds)} and {summary(hollow)}"
        )
        raise ValueError(msg)
    shown = np.isfinite(x) & np.isfinite(y)
    if not shown.any():
        raise ValueError("order and error must be finite at some place; got none")
    ax = dressed(new_axes() if ax is None else ax, plain(label), plain(error_label))
    names = list(dict.fromkeys(kinds))
    for place, kind in enumerate(names):
        colour = PALETTE[place % len(PALETTE)]
        # Beyond the colours that all can tell apart the mark tells.
        mark = "o^sD"[place // NUM_SAFE_COLOURS % 4]
        own = shown & (np.array(kinds) == kind)
        for which, face in ((own & ~hollow, colour), (own & hollow, "none")):
            ax.scatter(
                x[which],
                y[which],
                s=22,
                marker=mark,
                facecolors=face,
                edgecolors=colour,
            )
        # One mark for each, whichever of its contexts are hollow.
        ax.scatter([], [], s=22, marker=mark, color=colour, label=plain(kind))
    positive = x[shown & (x > 0)]
    ratio = float(positive.max() / positive.min()) if positive.size else 1.0
    if ratio > _WIDE:
        _log_axis(ax, ratio)
    ax.grid(color=FAINT, linewidth=0.5, alpha=0.6)
    # Beside the points, which may be anywhere.
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    ax.legend(frameon=False, fontsize=_LABEL_SIZE, labelcolor=INK, **beside)
    if title:
        headline(ax, plain(title))
    return ax


def _log_axis(ax: Axes, ratio: float) -> None:
    ax.set_xscale("log")
    if ratio > 1000:
        return
    # Of few powers of ten the default labels are too few to read a value by.
    subs = (1.0, 2.0, 5.0) if ratio < 100 else (1.0, 3.0)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
