"""A picture of the inputs in the plane of the first two functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from contexture_jax._core.words import rounded
from contexture_jax.plotting._style import (
    FAINT,
    INK,
    MAIN,
    NUM_SAFE_COLOURS,
    PALETTE,
    dressed,
    headline,
    indexed,
    new_axes,
    plain,
)

__all__ = ["plot_functions"]

_MOST_POINTS = 6000
_MOST_CLASSES = len(PALETTE)
_LABEL_SIZE = 10
_LONGEST_NAME = 16


class _Group(NamedTuple):
    """Inputs drawn alike: those of one class, or of all the rarest classes."""

    name: str
    rows: np.ndarray
    colour: str
    marker: str


def plot_functions(
    left: ArrayLike,
    target: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    singular_values: ArrayLike | None = None,
    kind: Literal["classes", "numbers"] | None = None,
    class_names: Sequence[str] | None = None,
    target_name: str = "target",
) -> Axes:
    """Draw each input at (μ_1(x), μ_2(x)), coloured by the target.

    With one function only, its values are drawn over the target if that is of numbers,
    and counted otherwise. Of more than 6,000 inputs an even choice is drawn.

    Args:
        left: the functions as columns, shape (n, k), k ≥ 1, finite; the first two are
            used.
        target: a class or a number for each input, shape (n,); None: one colour.
        ax: where to draw; None: a new figure.
        singular_values: s_1, s_2, …, shape (≥ min(k, 2),), named at the axes; or None.
        kind: how to read `target`; None: text, booleans and integers are classes.
        class_names: names of the classes 0, 1, … in place of the values of `target`,
            integers then; or None.
        target_name: what to call the target.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes do not agree or `kind` is unknown.
    """
    functions = np.asarray(left, dtype=np.float64)
    if functions.ndim != 2 or 0 in functions.shape:
        msg = f"left must have shape (n, k), n, k >= 1; got {functions.shape}"
        raise ValueError(msg)
    if kind not in (None, "classes", "numbers"):
        msg = f'kind must be None, "classes" or "numbers"; got {kind!r}'
        raise ValueError(msg)
    values = None if target is None else np.asarray(target)
    if values is not None and values.shape != functions.shape[:1]:
        msg = f"target must have shape {functions.shape[:1]}; got {values.shape}"
        raise ValueError(msg)
    # As for `linear_probe`: floats are measured, all else named.
    if values is not None and kind is None:
        kind = "numbers" if values.dtype.kind == "f" else "classes"
    num_inputs = len(functions)
    shown = np.unique(
        # Even and without chance: the same points in each picture of one data set.
        np.linspace(0, num_inputs - 1, min(num_inputs, _MOST_POINTS)).astype(int)
    )
    functions = functions[shown, :2]
    numbers = groups = None
    if values is not None and kind == "numbers":
        numbers = values[shown].astype(np.float64)
    elif values is not None:
        # Of what is shown: a class without a point has no place in the legend.
        groups = _groups(values[shown], class_names)
    labels = [_axis_label(i, singular_values) for i in range(functions.shape[1])]
    ax = new_axes() if ax is None else ax
    if functions.shape[1] == 1:
        _one_function(ax, functions[:, 0], numbers, groups, target_name)
        what = "The first function"
        dressed(ax, labels[0], "rows" if numbers is None else plain(target_name))
    else:
        _two_functions(ax, functions, numbers, groups, target_name)
        what = "The first two functions"
        dressed(ax, *labels)
    if len(shown) < num_inputs:
        what += f" ({len(shown):,} of {num_inputs:,} rows)"
    elif values is not None and functions.shape[1] > 1:
        what += f", coloured by {_shortened(target_name).strip()}"
    headline(ax, what)
    return ax


def _groups(values: np.ndarray, class_names: Sequence[str] | None) -> list[_Group]:
    classes, codes = np.unique(values, return_inverse=True)
    named = np.arange(len(classes))
    if len(classes) > _MOST_CLASSES:
        sizes = np.bincount(codes)
        # The largest classes, in their own order; the last colour is left for the rest.
        named = np.sort(np.argsort(-sizes, kind="stable")[: _MOST_CLASSES - 1])
    groups = [
        _Group(
            _shortened(
                str(classes[c] if class_names is None else class_names[classes[c]])
            ),
            np.flatnonzero(codes == c),
            PALETTE[i],
            "o" if i < NUM_SAFE_COLOURS else "^",
        )
        for i, c in enumerate(named)
    ]
    if len(named) < len(classes):
        # Faint, and one entry: they are there, and not told apart.
        rest = np.flatnonzero(~np.isin(codes, named))
        name = f"{len(classes) - len(named)} others"
        groups.append(_Group(name, rest, FAINT, "o"))
    return groups


def _axis_label(i: int, singular_values: ArrayLike | None) -> str:
    name = indexed("μ", i + 1)
    if singular_values is None:
        return name
    value = rounded(float(np.asarray(singular_values)[i]))
    return f"{name}   ({indexed('s', i + 1)} = {value})"


def _two_functions(
    ax: Axes,
    functions: np.ndarray,
    numbers: np.ndarray | None,
    groups: list[_Group] | None,
    target_name: str,
) -> None:
    # The functions have mean 0: the cross marks it.
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    ax.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    style = _point_style(len(functions))
    if numbers is not None:
        _by_number(ax, functions, numbers, target_name, style)
    elif groups is not None:
        _by_class(ax, functions, groups, target_name, style)
    else:
        ax.scatter(*functions.T, color=MAIN, **style)


def _point_style(count: int) -> dict:
    # Marks and ink shrink with the number of points, within what can be seen.
    size = float(np.clip(24000.0 / count, 9.0, 32.0))
    alpha = float(np.clip(900.0 / count, 0.45, 0.85))
    # In a vector file, thousands of marks become one picture.
    return {"s": size, "alpha": alpha, "linewidths": 0, "rasterized": True}


def _by_number(
    ax: Axes, functions: np.ndarray, values: np.ndarray, name: str, style: dict
) -> None:
    # Outliers would leave one colour to all the rest.
    low, high = np.quantile(values, [0.02, 0.98])
    # More than 96 % of one value: the whole range then.
    if low == high:
        low, high = values.min(), values.max()
    norm = Normalize(low, high)
    ax.scatter(*functions.T, c=values, cmap="viridis", norm=norm, **style)
    # Of its own mappable: the bar is opaque although the points are not.
    mappable = ScalarMappable(norm, cmap="viridis")
    bar = ax.figure.colorbar(mappable, ax=ax, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label(plain(name), fontsize=_LABEL_SIZE + 1, color=INK)
    bar.ax.tick_params(labelsize=_LABEL_SIZE, colors=INK, length=2)


def _by_class(
    ax: Axes, functions: np.ndarray, groups: list[_Group], name: str, style: dict
) -> None:
    group = np.empty(len(functions), dtype=int)
    for number, member in enumerate(groups):
        group[member.rows] = number
    colours = np.array([member.colour for member in groups])
    markers = np.array([member.marker for member in groups])
    # Drawn in one random order, or the last class would cover the others.
    order = np.random.default_rng(0).permutation(len(functions))
    for marker in np.unique(markers):
        # One call of `scatter` for each mark, which takes one mark and many colours.
        rows = order[markers[group[order]] == marker]
        ax.scatter(
            *functions[rows].T, c=colours[group[rows]].tolist(), marker=marker, **style
        )
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=member.marker,
            markersize=6,
            markeredgewidth=0,
            color=member.colour,
            label=member.name,
        )
        for member in groups
    ]
    _legend(ax, name, handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _legend(ax: Axes, name: str, **kwargs: Any) -> None:
    ax.legend(
        title=_shortened(name),
        title_fontproperties={"size": _LABEL_SIZE},
        alignment="left",
        frameon=False,
        fontsize=_LABEL_SIZE,
        labelcolor=INK,
        handletextpad=0.3,
        borderaxespad=0.2,
        **kwargs,
    )


def _shortened(name: str) -> str:
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + "…"
    # A legend leaves out what starts with an underscore.
    return f" {plain(name)}" if name.startswith("_") else plain(name)


def _one_function(
    ax: Axes,
    function: np.ndarray,
    numbers: np.ndarray | None,
    groups: list[_Group] | None,
    target_name: str,
) -> None:
    # Over the target: two axes tell more than a colour.
    if numbers is not None:
        ax.scatter(function, numbers, color=MAIN, **_point_style(len(function)))
        return
    parts = groups or [_Group("", np.arange(len(function)), MAIN, "o")]
    ax.hist(
        [function[part.rows] for part in parts],
        # Of all classes together: stacked bars need common edges.
        bins=np.histogram_bin_edges(function, bins=30).tolist(),
        stacked=True,
        color=[part.colour for part in parts],
        label=[part.name for part in parts],
    )
    if groups is not None:
        _legend(ax, target_name, loc="best")
