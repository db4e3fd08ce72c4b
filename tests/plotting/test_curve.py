"""Errors over the number of labels."""

import numpy as np
import pytest

from contexture_jax.plotting import plot_learning_curve


def test_nothing_is_cut_and_means_are_drawn() -> None:
    sizes, errors = (
        [20, 22, 80, 320],
        np.array([[0.8, 1.2], [0.7, 0.9], [0.4, 0.4], [0.3, 0.1]]),
    )
    axes = plot_learning_curve(
        sizes,
        errors,
        forecasts=np.array([[np.inf, 1.0], [0.8, 0.8], [0.5, 0.5], [0.2, 0.2]]),
        num_labelled=20,
        title="price in $: 20 labels forecast an error of 0.2 with 320; measured 0.2",
    )
    measured, forecast = axes.lines[:2]
    np.testing.assert_allclose(np.asarray(measured.get_ydata()), errors.mean(axis=1))
    np.testing.assert_allclose(np.asarray(forecast.get_xdata()), sizes[1:])
    axes.figure.canvas.draw()
    drawn, whole = axes.get_tightbbox(), axes.figure.bbox
    assert drawn is not None
    assert whole.x0 <= drawn.x0 < drawn.x1 <= whole.x1
    assert whole.y0 <= drawn.y0 < drawn.y1 <= whole.y1
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert ticks == ["20", "80", "320"]


@pytest.mark.parametrize(
    ("errors", "words"), [([[0.1]], "one row"), ([[np.nan], [np.inf]], "finite")]
)
def test_bad_input_is_told(errors: list[list[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plot_learning_curve([2, 4], errors)
