"""One quiet style: few lines, text that survives a thumbnail, colours all can tell."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

__all__ = [
    "ACCENT",
    "FAINT",
    "INK",
    "MAIN",
    "NUM_SAFE_COLOURS",
    "ON_WHITE",
    "PALETTE",
    "Bounds",
    "Interval",
    "count_axis",
    "dressed",
    "headline",
    "indexed",
    "mark_size",
    "new_axes",
    "plain",
    "save",
]

# Okabe and Ito's palette, which people with any colour vision tell apart, but for its
# yellow, which is too pale on white; then five more, with another mark.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#882255",
    "#8A8A00",
    "#6A3FB5",
    "#8C564B",
    "#00B8B8",
)
NUM_SAFE_COLOURS = 7
MAIN, ACCENT = PALETTE[:2]
INK = "#333333"
FAINT = "#BBBBBB"
# A legend that lines may pass behind.
ON_WHITE: dict[str, Any] = {
    "labelcolor": INK,
    "facecolor": "white",
    "edgecolor": "none",
    "framealpha": 0.9,
}

_SIZE = (5.6, 4.0)
_DPI = 200
_TEXT = 12
_HEADLINE = 13
_COMPRESSION = 1  # of 9
_LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_LINE = 48  # characters of a headline that the width has room for


@runtime_checkable
class Bounds(Protocol):
    """What pictures need of a `solvers.Certificate`, or of an `Interval`."""

    @property
    def lower(self) -> ArrayLike:
        """Lower ends, shape (k,)."""
        ...

    @property
    def upper(self) -> ArrayLike:
        """Upper ends, shape (k,)."""
        ...


@runtime_checkable
class Interval(Bounds, Protocol):
    """What pictures need of an `evaluation.Interval`."""

    @property
    def estimate(self) -> ArrayLike:
        """The values, shape (k,)."""
        ...


def new_axes(size: tuple[float, float] = _SIZE) -> Axes:
    """Axes on a figure of their own, which no global state knows."""
    # Not by `pyplot`, which keeps every figure until it is closed, and picks a backend.
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    # So that it can be saved without a display.
    FigureCanvasAgg(figure)
    return figure.subplots()


def dressed(ax: Axes, x_label: str, y_label: str) -> Axes:
    """Give axes their labels and take away what is not needed."""
    ax.set_xlabel(x_label, fontsize=_TEXT, color=INK)
    ax.set_ylabel(y_label, fontsize=_TEXT, color=INK)
    ax.tick_params(labelsize=_TEXT - 1, colors=INK, which="both", length=3)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.set_axisbelow(True)
    return ax


def headline(ax: Axes, text: str) -> None:
    """A title that says what there is to see, at the left as a sentence begins."""
    lines = "\n".join(textwrap.wrap(text, _LINE))
    ax.set_title(lines, fontsize=_HEADLINE, color=INK, loc="left", pad=10)


def indexed(letter: str, number: int) -> str:
    """A letter with an index, as s₁₂.

    In digits of Unicode: to lay out formulas takes longer than to draw the rest.
    """
    return letter + str(number).translate(_LOWERED)


def count_axis(ax: Axes, count: int) -> None:
    """Make the horizontal axis one of the integers from 1 to `count`."""
    ax.xaxis.set_major_locator(
        # One tick is enough where there is one value.
        MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    margin = max(0.6, 0.02 * count)
    # The tick at 0, where there is nothing, stays out.
    ax.set_xlim(max(1 - margin, 0.1), count + margin)


def mark_size(count: int) -> float:
    """Of the marks of so many values, in points."""
    return float(np.clip(60.0 / np.sqrt(count) / 2, 2.0, 7.0))


def plain(text: str) -> str:
    """`text` on one line, shown as it is: dollar signs start no formula."""
    return " ".join(text.split()).replace("$", r"\$")


def save(ax: Axes, path: str | Path) -> Path:
    """Write the figure of `ax`; the suffix of `path` tells the format."""
    path = Path(path)
    figure = ax.figure
    while not isinstance(figure, Figure):  # of a subfigure: up to the whole
        figure = figure.figure
    with warnings.catch_warnings():
        # Names of classes in a script that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if path.suffix == ".png" and _is_plain(figure):
            _save_png(figure, path)
        else:
            figure.savefig(path, facecolor="white")
    return path


def _is_plain(figure: Figure) -> bool:
    """Whether a figure is drawn into its own canvas as `savefig` would draw it."""
    # Not of a subclass, which has a window.
    is_agg = type(figure.canvas) is FigureCanvasAgg
    is_white = to_rgba(figure.get_facecolor()) == (1.0, 1.0, 1.0, 1.0)
    return is_agg and is_white and rcParams["savefig.bbox"] is None


def _save_png(figure: Figure, path: Path) -> None:
    """As `savefig`, which draws everything once before it draws it, to lay it out."""
    canvas: Any = figure.canvas
    canvas.draw()
    # Quick, for a file that is a little larger.
    options = {"compress_level": _COMPRESSION}
    picture = canvas.buffer_rgba()
    imsave(path, picture, dpi=figure.dpi, origin="upper", pil_kwargs=options)
