"""A picture of how alike several things are, all pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from contexture_jax._core.types import summary
from contexture_jax.plotting._style import INK, headline, new_axes, plain

__all__ = ["plot_matrix"]

_MOST_WRITTEN = 12  # rows that have room for numbers
_NAME = 24  # characters


def plot_matrix(
    values: ArrayLike,
    names: Sequence[str],
    *,
    order: Sequence[int] | None = None,
    ax: Axes | None = None,
    label: str = "",
    title: str = "",
) -> Axes:
    """Draw a symmetric matrix of scores of at most 1 with its names.

    Args:
        values: shape (k, k), finite.
        names: k of them.
        order: in which rows and columns stand, such as that of a clustering; None: as
            they are.
        ax: where to draw; None: a new figure.
        label: what the scores are.
        title: what there is to see.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes differ or a score is not finite.
    """
    scores = np.asarray(values, np.float64)
    k = len(names)
    if scores.shape != (k, k) or not np.isfinite(scores).all():
        msg = f"values must be finite, of shape ({k}, {k}); got {summary(scores)}"
        raise ValueError(msg)
    places = list(range(k)) if order is None else list(order)
    scores = scores[np.ix_(places, places)]
    shown = [plain(names[i]) for i in places]
    shown = [n if len(n) <= _NAME else n[: _NAME - 1] + "…" for n in shown]
    side = min(12.0, max(4.0, 2.4 + 0.5 * k))
    ax = new_axes((side + 0.8, side)) if ax is None else ax
    image = ax.imshow(scores, cmap="Blues", vmin=min(0.0, scores.min()), vmax=1.0)
    ax.set_xticks(range(k), shown, rotation=45, ha="right", color=INK)
    ax.set_yticks(range(k), shown, color=INK)
    if k <= _MOST_WRITTEN:
        for i in range(k):
            for j in range(k):
                ink = "white" if scores[i, j] > 0.6 else INK
                text = f"{scores[i, j]:.2f}"
                ax.text(j, i, text, ha="center", va="center", color=ink, fontsize=9)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.set_label(plain(label), color=INK)
    if title:
        headline(ax, plain(title))
    return ax
