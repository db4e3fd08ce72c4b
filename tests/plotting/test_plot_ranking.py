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


def test_a_wide_range_is_logarithmic() -> None:
    assert plot_ranking([1.0, 900.0], [0.1, 0.2], ["a", "a"]).get_xscale() == "log"


@pytest.mark.parametrize(
    ("order", "words"), [([1.0], "one length"), ([np.nan, np.inf], "finite")]
)
def test_bad_input_is_told(order: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plot_ranking(order, [0.1, 0.2], ["a", "b"])
