import numpy as np
import pytest

import contexture_jax as cx

RNG = np.random.default_rng(0)


def test_pearson_is_that_of_numpy() -> None:
    a, b = RNG.normal(size=(2, 30))
    expected = np.corrcoef(a, b)[0, 1]
    assert cx.evaluation.pearson_correlation(a, b) == pytest.approx(expected)


def test_pearson_knows_no_unit() -> None:
    a, b = RNG.normal(size=(2, 30))
    scaled = cx.evaluation.pearson_correlation(1e200 * a, 1e-200 * b)
    assert scaled == pytest.approx(cx.evaluation.pearson_correlation(a, b))


def test_distance_correlation_sees_what_pearson_does_not() -> None:
    a = np.linspace(-1, 1, 21)
    assert abs(cx.evaluation.pearson_correlation(a, a**2)) < 1e-12
    assert cx.evaluation.distance_correlation(a, a**2) > 0.3
    assert cx.evaluation.distance_correlation(a, 3 - 2 * a) == pytest.approx(1)


def test_distance_correlation_of_all_pairs_is_0() -> None:
    # Every value of one beside every value of the other: independent exactly.
    a, b = np.repeat([0.0, 1.0, 5.0], 4), np.tile([0.0, 2.0, 3.0, 7.0], 3)
    assert cx.evaluation.distance_correlation(a, b) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", ["pearson_correlation", "distance_correlation"])
@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([1.0, 1.0], [1.0, 2.0], "a must hold at least 2 different"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "one length"),
        ([1.0, np.nan], [1.0, 2.0], "finite"),
    ],
)
def test_bad_lists_are_refused(name: str, a: list, b: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(cx.evaluation, name)(a, b)
