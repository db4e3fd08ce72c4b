"""Pictures have the artists that say what the figures say, whatever comes in."""

import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from contexture_jax.evaluation import probe_tradeoff
from contexture_jax.plotting import (
    plot_functions,
    plot_learned_spectrum,
    plot_spectrum,
    plot_target_energy,
    plot_tradeoff,
    plot_usefulness,
    save,
)


class Useful(NamedTuple):
    tau: float
    best_dim: int
    curve: np.ndarray


class Interval(NamedTuple):
    estimate: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def functions(num_rows=40, rank=3):
    return np.random.default_rng(1).normal(size=(num_rows, rank))


def points(ax):
    return np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])


def curve_of(line):
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def legend_texts(ax):
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def tradeoff():
    left_out = [0.5, 0.1, 0.04, 0.03]
    return probe_tradeoff(left_out, [1.0, 3.0, 6.0, 90.0], 300, noise=0.2)


def own_axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()


EVERY_PLOT = {
    "spectrum": lambda ax: plot_spectrum([0.9, 0.5, 0.1], ax, decay_rate=0.4),
    "usefulness": lambda ax: plot_usefulness(Useful(1.5, 1, np.array([1.5, 2.0])), ax),
    "functions": lambda ax: plot_functions(functions(), np.arange(40) % 3, ax),
    "numbers": lambda ax: plot_functions(functions(), np.linspace(0, 1, 40), ax),
    "energy": lambda ax: plot_target_energy([0.5, 0.2, 0.0], ax),
    "tradeoff": lambda ax: plot_tradeoff(tradeoff(), ax, measured=[1, 0.5, 0.3, 0.4]),
}


@pytest.mark.parametrize("name", EVERY_PLOT)
def test_the_given_axes_are_drawn_on_and_returned(name):
    ax = own_axes()
    assert EVERY_PLOT[name](ax) is ax
    assert ax.has_data()
    assert ax.get_title(loc="left")
    assert ax.get_xlabel()
    assert ax.get_ylabel()


@pytest.mark.parametrize("name", EVERY_PLOT)
def test_a_new_figure_is_saved_with_ink_on_it(name, tmp_path):
    path = save(EVERY_PLOT[name](None), tmp_path / "a.png")
    pixels = imread(path)[:, :, :3].mean(axis=2)
    assert min(pixels.shape) >= 600
    assert pixels.std() > 0.01
    # Nothing is cut off: the outermost pixels are blank.
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 1).all()


def test_a_picture_that_is_drawn_once_is_that_of_matplotlib(tmp_path):
    save(EVERY_PLOT["spectrum"](None), tmp_path / "one.png")
    figure: Any = EVERY_PLOT["spectrum"](None).figure
    figure.savefig(tmp_path / "other.png", facecolor="white")
    one, other = (imread(tmp_path / f"{name}.png") for name in ("one", "other"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_no_global_state_is_touched():
    script = (
        "import sys, contexture_jax.plotting as p\n"
        "p.plot_spectrum([0.5, 0.2])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_spectrum_is_drawn_whole_on_a_log_axis():
    values = np.array([0.9, 0.5, 0.01])
    ax = plot_spectrum(values)
    assert ax.get_yscale() == "log"
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.c_[[1, 2, 3], values])
    low, high = ax.get_ylim()
    assert low < 0.01 < 0.9 < high


def test_zeros_are_hollow_marks_on_the_lower_edge():
    ax = plot_spectrum([1.0] * 5 + [1e-17] * 2 + [0.0])
    ones, zeros = ax.lines
    np.testing.assert_array_equal(ones.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(zeros.get_xdata(), [6, 7, 8])
    assert set(curve_of(zeros)[1]) == {ax.get_ylim()[0]}
    assert zeros.get_markerfacecolor() == "white"
    assert ax.get_title(loc="left") == "5 of 8 singular values are above 0"
    assert "0 to rounding" in legend_texts(ax)


def test_what_is_a_zero_depends_on_the_dtype():
    values = [1.0, 1e-6, 1e-12, 1e-15]
    assert len(curve_of(plot_spectrum(values).lines[0])[0]) == 3
    single = np.array(values, dtype=np.float32)
    assert len(curve_of(plot_spectrum(single).lines[0])[0]) == 1


def test_a_spectrum_of_zeros_has_no_log_axis():
    ax = plot_spectrum([0.0, 0.0])
    assert ax.get_yscale() == "linear"
    assert "All singular values are 0" in ax.get_title(loc="left")


def test_the_fit_is_the_square_root_of_the_exponential():
    ax = plot_spectrum([0.9, 0.8], decay_rate=0.2)
    np.testing.assert_allclose(curve_of(ax.lines[-1])[1], np.exp([-0.1, -0.2]))
    assert "0.2" in legend_texts(ax)[0]
    assert len(plot_spectrum([0.9], decay_rate=np.inf).lines) == 1


def test_bounds_that_can_be_seen_are_bars_and_others_are_not():
    values = np.array([0.9, 0.5, 0.1])
    lower, upper = np.array([0.899, 0.45, 0.1]), np.array([0.9, 0.6, 0.1])
    ax = plot_spectrum(values, numerical=Interval(values, lower, upper))
    (bars,) = ax.collections
    segments: Any = bars
    np.testing.assert_allclose(
        [segment[:, 1] for segment in segments.get_segments()], [[0.45, 0.6]]
    )
    assert "numerical bounds" in legend_texts(ax)
    exact = plot_spectrum(
        values, numerical=Interval(values, values - 1e-6, values + 1e-6)
    )
    assert not exact.collections
    assert exact.get_legend() is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_sampling_band_is_drawn_within_the_axes(count):
    values = np.array([0.9, 0.5, 0.1])[:count]
    lower, upper = 0.5 * values, np.minimum(1.3 * values, 1.0)
    lower[-1] = 0.0
    ax = plot_spectrum(values, sampling=Interval(values, lower, upper))
    (band,) = ax.collections
    ends = band.get_paths()[0].get_extents()
    low, high = ax.get_ylim()
    assert (ends.y0, ends.y1) == (low, upper.max())
    assert high > upper.max()
    assert "sampling band" in legend_texts(ax)


def test_clusters_of_several_values_are_underlined():
    values = np.array([0.9, 0.5, 0.5, 0.1, 1e-17, 0.0])
    ax = plot_spectrum(values, cluster=[0, 1, 1, 2, 3, 3])
    lines = [line for line in ax.lines if line.get_label() == "cluster"]
    assert [curve_of(line)[0].tolist() for line in lines] == [[1.7, 3.3]]
    assert "cluster" in legend_texts(ax)


def test_held_out_values_are_a_line_in_their_band():
    values = np.array([0.8, 0.4])
    held_out = Interval(values, values - 0.1, values + 0.05)
    ax = plot_learned_spectrum([0.9, 0.5], held_out=held_out)
    (band,) = ax.collections
    ends = band.get_paths()[0].get_extents()
    np.testing.assert_allclose((ends.y0, ends.y1), (0.3, 0.85))
    assert "on held-out pairs" in legend_texts(ax)
    np.testing.assert_array_equal(curve_of(ax.lines[-1])[1], values)


def test_an_estimate_is_called_one_and_tells_its_error() -> None:
    ax = plot_learned_spectrum([0.9, 0.4], [0.8, 0.4], exact_error=[0.01, 0.026])
    assert "estimated, within 0.026" in legend_texts(ax)
    assert "exact" not in legend_texts(ax)
    assert "of the estimated energy" in ax.get_title(loc="left").replace("\n", " ")
    (band,) = ax.collections
    ends = band.get_paths()[0].get_extents()
    np.testing.assert_allclose((ends.y0, ends.y1), (0.374, 0.81))
    with pytest.raises(ValueError, match="exact_error must be of shape"):
        plot_learned_spectrum([0.9], [0.8, 0.4], exact_error=[0.01])


@pytest.mark.parametrize(
    "given",
    [
        {"numerical": Interval(np.ones(2), np.zeros(1), np.ones(1))},
        {"sampling": Interval(np.ones(2), np.zeros(2), np.ones(1))},
        {"cluster": [0, 1, 2]},
    ],
)
def test_bounds_of_another_shape_are_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=rf"{name} must have shape \(2,\)"):
        plot_spectrum([0.5, 0.2], **given)


@pytest.mark.parametrize("bad", [[], [[0.5]], [np.nan], [-0.1], [np.inf]])
def test_a_bad_spectrum_is_refused(bad):
    with pytest.raises(ValueError, match="singular_values must"):
        plot_spectrum(bad)


def test_the_best_dimension_is_marked():
    curve = np.array([3.0, 1.8, 1.5, 1.6, 1.7])
    ax = plot_usefulness(Useful(1.5, 3, curve))
    marks = [curve_of(line) for line in ax.lines if len(curve_of(line)[0]) == 1]
    assert marks == [(3, 1.5)]
    assert ax.get_title(loc="left") == "Usefulness: τ = 1.5, least at d = 3 of 5"
    low, high = ax.get_ylim()
    assert low < 1.5 < high
    ax = plot_usefulness(Useful(1.5, 3, curve), others={"energy": 4, "probe": 9})
    legend: Any = ax.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["d = 4: energy", "d = 9: probe"]
    lines: Any = ax.collections
    assert [len(one.get_segments()) for one in lines] == [1, 1]
    # The second lies beyond the curve, and within the picture.
    assert ax.get_xlim()[1] > 9


def test_a_curve_that_leaves_through_the_top_is_marked():
    curve = np.append([90.0, 40.0, 9.0], np.linspace(2.4, 2.0, 20))
    ax = plot_usefulness(Useful(2.0, 23, curve))
    (band,) = ax.patches
    box = band.get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose([box.x0, box.x1], [0.5, 3.5])
    assert [text.get_text() for text in ax.texts] == ["↑ up to 90"]


def test_the_axis_of_a_spectrum_ends_where_values_do():
    low, high = plot_spectrum(np.linspace(0.99, 0.47, 64)).get_ylim()
    assert 0.44 < low < 0.47
    assert 1.0 < high < 1.05
    low, high = plot_spectrum([0.02, 0.01]).get_ylim()
    assert low < 0.01 < 0.02 < high < 0.03


def test_values_near_1_have_an_axis_and_digits_of_their_own():
    values = np.array([0.9997, 0.9996, 0.9991, 0.9985])
    ax = plot_spectrum(values, cluster=[0, 1, 1, 2])
    low, high = ax.get_ylim()
    assert ax.get_yscale() == "linear"
    assert 0.998 < low < values.min() < values.max() < high < 1.0
    title = ax.get_title(loc="left")
    assert "s₁\xa0=\xa00.9997" in title
    assert "s₄\xa0=\xa00.9985" in title
    wide = plot_spectrum(
        values, numerical=Interval(values, values - 0.01, values + 0.01)
    )
    assert (values.max() - values.min()) * 5 > np.diff(wide.get_ylim())[0]


def test_values_that_are_one_to_rounding_have_the_axis_of_one():
    ax = plot_spectrum(np.float32(1) - np.arange(4, dtype=np.float32) * 1e-7)
    assert ax.get_yscale() == "log"
    assert "s₁\xa0=\xa01 to s₄\xa0=\xa01" in ax.get_title(loc="left")


def test_dimensions_of_infinite_tau_are_a_band():
    ax = plot_usefulness(Useful(2.0, 3, np.array([np.inf, np.inf, 2.0, 2.1])))
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [3, 4])
    (band,) = ax.patches
    box = band.get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose([box.x0, box.x1], [0.5, 2.5])


def test_infinite_tau_is_said():
    ax = plot_usefulness(Useful(np.inf, 0, np.full(3, np.inf)))
    assert "infinite" in ax.get_title(loc="left")
    assert ax.has_data()


def test_functions_without_a_target_have_one_colour():
    left = functions()
    ax = plot_functions(left)
    np.testing.assert_array_equal(points(ax), left[:, :2])
    assert ax.get_legend() is None


def test_classes_have_colours_and_names():
    left, codes = functions(), np.arange(40) % 3
    ax = plot_functions(left, codes, class_names=["u", "v", "w"], target_name="kind")
    assert legend_texts(ax) == ["u", "v", "w"]
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "kind"
    (drawn,) = ax.collections
    colours = np.array([to_hex(c) for c in np.asarray(drawn.get_facecolor())])
    order = [int(np.argmin(np.abs(left[:, 0] - x))) for x in points(ax)[:, 0]]
    assert sorted(order) == list(range(40))
    for code, name in enumerate(legend.get_lines()):
        assert set(colours[codes[order] == code]) == {to_hex(name.get_color())}


def test_many_classes_are_told_apart_by_marks_and_the_rarest_put_together():
    sizes = [10] * 11 + [1, 2, 3, 4]
    target = np.repeat([f"c{i:02}" for i in range(15)], sizes)
    ax = plot_functions(functions(len(target)), target)
    assert legend_texts(ax) == [f"c{i:02}" for i in range(11)] + ["4 others"]
    assert len(points(ax)) == len(target)
    legend = ax.get_legend()
    assert legend is not None
    assert len({line.get_color() for line in legend.get_lines()}) == 12


def test_numbers_have_a_colour_bar():
    ax = plot_functions(functions(), np.linspace(0, 5, 40), target_name="age")
    (bar,) = (other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "age"
    coloured: Any = ax.collections[0]
    np.testing.assert_allclose(coloured.get_array(), np.linspace(0, 5, 40))


@pytest.mark.parametrize(
    ("target", "label"), [(None, "rows"), (np.arange(40) % 2, "rows")]
)
def test_one_function_is_counted(target, label):
    ax = plot_functions(functions(rank=1), target)
    bars: Any = ax.patches
    assert sum(bar.get_height() for bar in bars) == 40
    assert ax.get_ylabel() == label


def test_one_function_is_drawn_over_a_target_of_numbers():
    left, target = functions(rank=1), np.linspace(0, 5, 40)
    ax = plot_functions(left, target, target_name="age", singular_values=[0.75])
    np.testing.assert_array_equal(points(ax), np.c_[left, target])
    assert ax.get_ylabel() == "age"
    assert "0.75" in ax.get_xlabel()


def test_of_many_inputs_an_even_choice_is_drawn():
    left = np.c_[np.arange(20000.0), np.ones(20000)]
    ax = plot_functions(left)
    chosen = points(ax)[:, 0]
    assert len(chosen) == 6000
    assert set(np.diff(chosen)) <= {3, 4}
    assert "6,000 of 20,000 rows" in ax.get_title(loc="left")


@pytest.mark.parametrize("name", ["_a", "$5 to $10", r"$\bad$", "日本", "a" * 60, ""])
def test_any_name_of_a_class_can_be_drawn(name, tmp_path):
    target = np.array([name, "other"])[np.arange(40) % 2]
    ax = plot_functions(functions(), target, target_name=name)
    assert len(legend_texts(ax)) == 2
    assert save(ax, tmp_path / "a.png").stat().st_size > 0


def test_a_name_that_starts_with_an_underscore_is_in_every_legend():
    target = np.array(["_a", "b"])[np.arange(40) % 2]
    for rank in (1, 2):
        ax = plot_functions(functions(rank=rank), target)
        assert [text.strip() for text in legend_texts(ax)] == ["_a", "b"]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"left": np.ones(3)}, "left must have shape"),
        ({"left": np.ones((3, 0))}, "left must have shape"),
        ({"left": np.ones((3, 2)), "target": [1, 2]}, "target must have shape"),
    ],
)
def test_bad_functions_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        plot_functions(**kwargs)


def test_an_unknown_kind_of_target_is_refused():
    kind: Any = "colours"
    # By the type checker of the suite, and by the function itself without it.
    with pytest.raises((ValueError, TypeCheckError), match="kind"):
        plot_functions(functions(), kind=kind)


def test_energy_is_drawn_for_each_function_and_summed():
    ax = plot_target_energy([0.5, 0.25, 0.125], target_name="age")
    patches: Any = ax.patches
    sums, _, alone = patches
    np.testing.assert_allclose(sums.get_data().values, [0.5, 0.75, 0.875])
    np.testing.assert_allclose(alone.get_data().values, [0.5, 0.25, 0.125])
    assert ax.get_title(loc="left") == "3 functions hold 88% of age"
    assert ax.get_ylim() == (0, 1)


def test_the_energy_of_one_function_is_said():
    ax = plot_target_energy([0.8])
    assert ax.get_title(loc="left") == "One function holds 80% of the target"


@pytest.mark.parametrize("bad", [[], [[0.1]], [np.nan]])
def test_bad_energy_is_refused(bad):
    with pytest.raises(ValueError, match="energy must be finite"):
        plot_target_energy(bad)


def test_bounds_on_a_probe_are_drawn_beside_what_was_measured():
    found = tradeoff()
    ax = plot_tradeoff(found, measured=[0.6, 0.2, 0.1, np.inf], measured_name="ridge")
    left_out, estimation, total, least, measured, above = map(curve_of, ax.lines)
    np.testing.assert_allclose(left_out[1], found.approximation)
    np.testing.assert_allclose(least[1], found.least)
    # The last has no bound: a band, and no point.
    for drawn, values in ((estimation, found.estimation), (total, found.total)):
        np.testing.assert_array_equal(drawn[0], [1, 2, 3])
        np.testing.assert_allclose(drawn[1], values[:3])
    np.testing.assert_array_equal(measured[0], [1, 2, 3])
    np.testing.assert_array_equal(above[0], [4])
    assert len(ax.patches) == 1
    best = f"The bound is least at d = {int(found.best_dim)}"
    assert ax.get_title(loc="left") == f"{best}; ridge at d = 3"
    assert "ridge" in legend_texts(ax)


def test_errors_far_above_the_bounds_do_not_flatten_them():
    found = tradeoff()
    ax = plot_tradeoff(found, measured=[0.6, 1e8, 0.3, 1e7])
    low, high = ax.get_ylim()
    assert low < float(np.min(found.least)) < float(found.total[0]) < high < 10
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), [2, 4])


def test_a_bound_that_says_nothing_hides_no_error() -> None:
    known = np.array([0.3, 0.2, 0.1], np.float32)
    lever = np.array([1.0, 4.0, 180.0], np.float32)
    bounds = probe_tradeoff(known, lever, 800, noise=1.0)
    assert 1e3 < float(bounds.total[-1]) < np.inf
    low, high = plot_tradeoff(bounds, measured=1.1 * known).get_ylim()
    assert low < 0.1
    assert 1.1 * 0.3 < high < 100


@pytest.mark.parametrize("bad", [[0.1], [0.1, 0.2, np.nan, 0.1]])
def test_bad_measured_errors_are_refused(bad):
    with pytest.raises(ValueError, match=r"measured must be numbers of shape \(4,\)"):
        plot_tradeoff(tradeoff(), measured=bad)


def test_one_value_has_no_decay_and_lines_at_one_place_one_name():
    ax = plot_spectrum(np.array([0.9]), decay_rate=0.2)
    assert ax.get_legend() is None
    found = Useful(1.5, 2, np.array([2.0, 1.5, 1.7]))
    others = {"by energy": 3, "by validation": 3, "by rows": 1}
    ax = plot_usefulness(found, others=others)
    said = ax.get_legend_handles_labels()[1]
    assert said == ["d = 3: by energy, by validation", "d = 1: by rows"]
