"""Pictures of a learned spectrum beside the exact one, and of a run of training."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from contexture_jax._core.words import rounded
from contexture_jax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    MAIN,
    PALETTE,
    Interval,
    count_axis,
    dressed,
    headline,
    new_axes,
)

__all__ = ["plot_learned_spectrum", "plot_loss"]


def plot_learned_spectrum(
    learned: ArrayLike,
    exact: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    exact_error: ArrayLike | None = None,
    held_out: Interval | None = None,
    stages: dict[str, ArrayLike] | None = None,
) -> Axes:
    """Draw learned singular values over i, beside the exact ones.

    Args:
        learned: Ritz values of the encoder, shape (k,), in [0, 1].
        exact: singular values, shape (k2,); None: not known.
        ax: where to draw; None: a new figure.
        exact_error: how far off each of `exact` may be, shape (k2,), where they are
            estimates, as of a context that is drawn: a band, and other words.
        held_out: values on pairs that were not fitted to, shape (k3,), as from
            `evaluation.rayleigh_ritz`: a line in a band.
        stages: learned values at earlier times of training, by what to call them.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if an array is not a vector of finite numbers, or there is not one
            error for each exact value.
    """
    values = _vector(learned, "learned")
    ax = dressed(new_axes() if ax is None else ax, "index i", "singular value sᵢ")
    count = len(values)
    # A line, where learned values are marks: what is aimed at, and what was hit.
    if exact is not None:
        count = max(count, _draw_exact(ax, exact, exact_error))
    # Beneath the marks of what was learned in the end.
    for number, (name, earlier) in enumerate((stages or {}).items()):
        early = _vector(earlier, name)
        # Later stages are darker.
        share = (number + 1) / (len(stages or {}) + 1)
        ax.plot(
            np.arange(1, len(early) + 1),
            early,
            color=MAIN,
            alpha=0.15 + 0.5 * share,
            linewidth=1.2,
            label=name,
            zorder=2,
        )
    ax.plot(
        np.arange(1, len(values) + 1),
        values,
        linestyle="",
        marker="o",
        markersize=_mark_size(len(values)),
        color=MAIN,
        label="learned",
        clip_on=False,
        zorder=4,
    )
    if held_out is not None:
        kept, low, high = (
            _vector(part, "held_out")
            for part in (held_out.estimate, held_out.lower, held_out.upper)
        )
        index = np.arange(1, len(kept) + 1)
        ax.fill_between(index, low, high, color=ACCENT, alpha=0.2, linewidth=0)
        ax.plot(
            index,
            kept,
            linestyle=(0, (4, 3)),
            color=ACCENT,
            linewidth=1.5,
            label="on held-out pairs",
            zorder=3,
        )
    # No value is above 1; the margin keeps marks at 1 whole.
    ax.set_ylim(0.0, 1.02)
    count_axis(ax, count)
    ax.legend(frameon=False, fontsize=11, labelcolor=INK)
    headline(ax, _claim(values, exact, is_estimate=exact_error is not None))
    return ax


def plot_loss(
    steps: ArrayLike, losses: dict[str, ArrayLike], ax: Axes | None = None
) -> Axes:
    """Draw losses over steps.

    Args:
        steps: shape (k,), ascending.
        losses: by name, each of shape (k,); points that are not finite are left out.
        ax: where to draw; None: a new figure.

    Returns:
        The axes drawn on.
    """
    at = np.asarray(steps)
    ax = dressed(new_axes() if ax is None else ax, "step", "loss")
    # Not strict: a curve beyond the palette is left out rather than drawn in a colour
    # twice.
    for (name, values), colour in zip(losses.items(), PALETTE, strict=False):
        ax.plot(at, np.asarray(values), color=colour, linewidth=1.3, label=name)
    if len(losses) > 1:
        ax.legend(frameon=False, fontsize=11, labelcolor=INK)
    ax.grid(visible=True, axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    headline(ax, "Loss over the run")
    return ax


def _draw_exact(ax: Axes, exact: ArrayLike, error: ArrayLike | None) -> int:
    """A line, in a band if it is an estimate; how many values it has."""
    truth, label = _vector(exact, "exact"), "exact"
    index = np.arange(1, len(truth) + 1)
    if error is not None:
        off = _vector(error, "exact_error")
        if off.shape != truth.shape:
            msg = f"exact_error must be of shape {truth.shape}; got {off.shape}"
            raise ValueError(msg)
        label = f"estimated, within {rounded(float(off.max()), 2)}"
        ends = truth - off, truth + off
        ax.fill_between(index, *ends, color=INK, alpha=0.15, linewidth=0)
    ax.plot(index, truth, color=INK, linewidth=1.5, label=label, zorder=2)
    return len(truth)


def _vector(values: ArrayLike, name: str) -> np.ndarray:
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1 or vector.size == 0 or not np.isfinite(vector).all():
        msg = f"{name} must be a vector of finite numbers; got shape {vector.shape}"
        raise ValueError(msg)
    return vector


def _mark_size(count: int) -> float:
    # The same ink in all, from 40 values on.
    return 6.0 if count <= 40 else max(2.0, 6.0 * (40 / count) ** 0.5)


def _claim(
    learned: np.ndarray, exact: ArrayLike | None, *, is_estimate: bool = False
) -> str:
    if exact is None:
        return f"The learned spectrum: {len(learned)} values"
    # As many as were learned: the rest was not asked for.
    truth = np.asarray(exact, np.float64)[: len(learned)]
    energy = (truth**2).sum()
    word = "estimated" if is_estimate else "exact"
    if energy == 0:
        return f"Learned beside {word}: nothing to learn"
    # Σ λ̂_i over Σ s_i², the ratio trace over its largest value (theory.md §2.6); an
    # estimate may pass 1.
    share = (learned[: len(truth)] ** 2).sum() / energy
    return f"The encoder holds {100 * min(share, 1.0):.1f} % of the {word} energy"
