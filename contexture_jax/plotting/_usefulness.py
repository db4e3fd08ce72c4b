"""A picture of how useful each number of functions is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from contexture_jax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    MAIN,
    ON_WHITE,
    PALETTE,
    count_axis,
    dressed,
    headline,
    mark_size,
    new_axes,
    plain,
)

__all__ = ["Usefulness", "plot_usefulness"]

_LABEL_SIZE = 11


@runtime_checkable
class Usefulness(Protocol):
    """What `plot_usefulness` needs: the result of `evaluation.usefulness`."""

    @property
    def tau(self) -> ArrayLike:
        """The smallest τ_d, shape ()."""
        ...

    @property
    def best_dim(self) -> ArrayLike:
        """The d at which it is, shape ()."""
        ...

    @property
    def curve(self) -> ArrayLike:
        """τ_d for d = 1, 2, …, shape (k,)."""
        ...


def plot_usefulness(
    usefulness: Usefulness,
    ax: Axes | None = None,
    *,
    others: Mapping[str, int] | None = None,
) -> Axes:
    """Draw τ_d over the number of functions d, with its minimum marked.

    Args:
        usefulness: the result of `evaluation.usefulness`: `tau`, `best_dim`, `curve`.
        ax: where to draw; None: a new figure.
        others: further d by what they are of, as by energy or by validation: lines.

    Returns:
        The axes drawn on. Where τ_d is infinite (s_{d+1} = 1) there is a grey band.

    Raises:
        ValueError: if the curve is not a vector.
    """
    curve = np.asarray(usefulness.curve, dtype=np.float64)
    if curve.ndim != 1 or curve.size == 0:
        msg = f"usefulness.curve must have shape (k,), k >= 1; got {curve.shape}"
        raise ValueError(msg)
    tau = float(np.asarray(usefulness.tau))
    best_dim = int(np.asarray(usefulness.best_dim))
    ax = dressed(
        new_axes() if ax is None else ax, "number of functions d", "τ of the first d"
    )
    dims = np.arange(1, len(curve) + 1)
    finite = np.isfinite(curve)
    size = mark_size(len(curve)) * 0.6
    line: dict[str, Any] = {"linewidth": 1.8, "color": MAIN, "markersize": size}
    ax.plot(dims[finite], curve[finite], "o-", **line)
    # All of a spectrum has a place beside the curve, which ends one before.
    count_axis(ax, max(len(curve), *(others or {"": 1}).values()))
    if (infinite := dims[~finite]).size:
        edges = float(infinite[0]) - 0.5, float(infinite[-1]) + 0.5
        ax.axvspan(*edges, color=FAINT, alpha=0.3, linewidth=0)
        ax.text(
            sum(edges) / 2,
            0.5,
            "∞",
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="center",
            fontsize=20,
            color=INK,
        )
    # No finite value to scale the axis by.
    if not np.isfinite(tau):
        ax.set_yticks([])
        headline(ax, "τ is infinite: whatever d is, the value after it is 1")
        return ax
    ax.axvline(best_dim, color=ACCENT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    ax.plot([best_dim], [tau], "o", color=ACCENT, markersize=8, zorder=4)
    _zoom_on_minimum(ax, curve[finite], tau)
    _mark_cut(ax, dims[finite], curve[finite])
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    names: dict[int, list[str]] = {}
    for name, dim in (others or {}).items():
        names.setdefault(dim, []).append(plain(name))
    # A line each: one would hide another that is where it is.
    for place, (dim, of) in enumerate(names.items(), 2):
        label = f"d = {dim}: {', '.join(of)}"
        ax.vlines([dim], *ax.get_ylim(), color=PALETTE[place], label=label)
    if names:
        ax.legend(fontsize=_LABEL_SIZE, **ON_WHITE)
    headline(ax, f"Usefulness: τ = {tau:.4g}, least at d = {best_dim} of {len(curve)}")
    return ax


def _zoom_on_minimum(ax: Axes, curve: np.ndarray, tau: float) -> None:
    """Keep a near-infinite start of the curve from flattening the rest."""
    # The median: half of the curve is within the picture, whatever its start is.
    middle = float(np.median(curve)) - tau
    span = min(float(curve.max()) - tau, max(4.0 * middle, 0.3))
    span = max(span, 0.05)
    ax.set_ylim(tau - 0.12 * span, tau + 1.1 * span)


def _mark_cut(ax: Axes, dims: np.ndarray, curve: np.ndarray) -> None:
    """Say where the curve is above the top edge, and how far up it goes."""
    top = ax.get_ylim()[1]
    # Told in words, as the part that is cut off cannot be read.
    above = dims[curve > top]
    if not above.size:
        return
    ax.axvspan(above[0] - 0.5, above[-1] + 0.5, color=FAINT, alpha=0.15, linewidth=0)
    ax.annotate(
        f"↑ up to {curve.max():.3g}",
        (float(above[0]), 0.97),
        xycoords=ax.get_xaxis_transform(),
        va="top",
        fontsize=_LABEL_SIZE,
        color=INK,
    )
