"""Errors of contexts beside τ."""

import numpy as np
import pytest

from contexture_jax.plotting import plot_ranking


def test_each_type_has_a_mark_and_what_is_not_finite_is_left_out() -> None:
    kinds = ["rbf", "knn", "knn"]
    axes = plot_ranking([1.5, np.inf, 1.7], [0.1, 0.2, 0.3], kinds, label="$τ")
    assert axes.get_legend_handles_labels()[1] == ["rbf", "knn"]
    shown = np.vstack([drawn.get_offsets() for drawn in axes.collections])
    np.testing.assert_allclose(np.sort(shown[:, 0]), [1.5, 1.7])


def test_nothing_is_cut_and_the_legend_covers_no_point() -> None:
    ranks = plot_ranking(
        np.linspace(1.0, 30.0, 60),
        np.linspace(0.0, 1.0, 60)[::-1] ** 2,
        ["knn", "rbf", "rbf-mask"] * 20,
        error_label="probe error at the validated d",
        title="60 contexts and default payment next month of a client",
    )
    ranks.figure.canvas.draw()
    whole, drawn = ranks.figure.bbox, ranks.get_tightbbox()
    legend = ranks.get_legend()
    assert drawn is not None
    assert legend is not None
    assert whole.x0 <= drawn.x0 < drawn.x1 <= whole.x1
    assert whole.y0 <= drawn.y0 < drawn.y1 <= whole.y1
    assert not legend.get_window_extent().overlaps(ranks.get_window_extent())
    shown = [text.get_text() for text in ranks.get_xticklabels()]
    assert {"1", "2", "5", "10", "20"} <= set(shown)


def test_a_wide_range_is_logarithmic() -> None:
    assert plot_ranking([1.0, 900.0], [0.1, 0.2], ["a", "a"]).get_xscale() == "log"


@pytest.mark.parametrize(
    ("order", "words"), [([1.0], "one length"), ([np.nan, np.inf], "finite")]
)
def test_bad_input_is_told(order: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plot_ranking(order, [0.1, 0.2], ["a", "b"])
