"""Pictures of many contexts: their errors beside something that orders them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from contexture_jax._core.types import summary
from contexture_jax.plotting._style import (
    FAINT,
    INK,
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
    ax = dressed(new_axes() if ax is None else ax, plain(label), "error of the probe")
    for place, kind in enumerate(dict.fromkeys(kinds)):
        colour = PALETTE[place % len(PALETTE)]
        own = shown & (np.array(kinds) == kind)
        for which, face in ((own & ~hollow, colour), (own & hollow, "none")):
            ax.scatter(x[which], y[which], s=22, facecolors=face, edgecolors=colour)
        # One mark for each, whichever of its contexts are hollow.
        ax.scatter([], [], s=22, color=colour, label=plain(kind))
    positive = x[shown & (x > 0)]
    if positive.size and positive.max() > _WIDE * positive.min():
        ax.set_xscale("log")
    ax.grid(color=FAINT, linewidth=0.5, alpha=0.6)
    ax.legend(frameon=False, fontsize=_LABEL_SIZE, labelcolor=INK)
    if title:
        headline(ax, plain(title))
    return ax
