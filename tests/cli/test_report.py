"""The certificate and τ in words."""

import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax._core.words import rounded
from contexture_jax.cli._dimensions import dimensions_in_words
from contexture_jax.cli._report import _bounds_in_words, _spans_in_words, _tau_in_words
from contexture_jax.cli._status import of_rounding


def described(sines, if_found=None, *, chance=0.0):
    values = [0.9997, 0.5, 0.25]
    return {
        "singular_values": values,
        "certificate": {
            "lower": [v - 1e-6 for v in values],
            "upper": [v + 2e-3 for v in values],
            "upper_if_none_missed": [v + 1e-6 for v in values],
            "next_upper": 0.2,
            "leading_sines": sines,
            "leading_sines_if_none_missed": if_found or sines,
            "failure_probability": chance,
            "clusters": [{"first": 1, "last": 3, "multiplicity": 3}],
        },
    }


def test_bounds_say_what_is_proved_and_what_is_not():
    text = _bounds_in_words(described([1, 1, 1], chance=1e-6))
    assert text == (
        "each value within 0.002: proved, but for a chance of 1e-06; within 1e-06 if no"
        " value was missed, which is not proved; s_4 at most 0.2; clusters: 1–3"
    )


@pytest.mark.parametrize(
    ("sines", "if_found", "text"),
    [
        ([0.1, 0.01, 1e-4], None, "the first 3 functions within 0.006°: proved"),
        (
            [0.1, 1, 1],
            None,
            "the first function within 6°: proved; beyond 1 nothing is known, as values"
            " are not told apart",
        ),
        (
            [1, 1, 1],
            [1, 0.01, 1],
            "the first 2 functions within 0.6°: if no value was missed, which is not"
            " proved; beyond 2 nothing is known, as values are not told apart",
        ),
        ([1, 1, 1], None, "nothing is known, as values are not told apart"),
    ],
)
def test_spans_are_told_as_far_as_they_are_known(sines, if_found, text):
    assert _spans_in_words(described(sines, if_found)) == text


def test_an_infinite_tau_has_its_reason():
    reason = {"tau": None, "tau_reason": "infinite: all are 1"}
    assert _tau_in_words(reason) == "infinite: all are 1"
    assert _tau_in_words({"tau": 1.25}).startswith("1.25 ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9997, "0.9997"),
        (0.9985, "0.9985"),
        (0.99997123, "0.999971"),
        (0.95, "0.95"),
        (0.12345, "0.123"),
        (1.0, "1"),
        (1 - 1e-7, "1"),
        (1.0004, "1.0004"),
        (413.4, "413"),
        (1e-9, "1e-09"),
        (0.0, "0"),
    ],
)
def test_digits_tell_a_value_from_1(value, text):
    assert rounded(value) == text


def test_no_dimension_stands_alone():
    d = {
        "singular_values": [0.6] * 9,
        "best_dim": 1,
        "energy_share": 0.9,
        "energy_dim": 9,
        "validation_dim": 8,
        "validation_error": 0.1251,
    }
    assert dimensions_in_words(d) == (
        "1 by τ; 9 keep 90% of χ²; 8 by rows left out (error 0.125 of the variance)"
    )
    d |= {"best_dim": None, "energy_dim": None, "validation_dim": None}
    assert dimensions_in_words(d) == (
        "none by τ, without a minimum; more than 9 keep 90% of χ²"
    )


@pytest.mark.parametrize(
    ("tol", "status", "is_told"),
    [
        (1e-8, cx.Status.CONVERGED, True),
        (1e-8, cx.Status.MAX_PASSES, False),
        (1e-5, cx.Status.CONVERGED, False),
        (None, cx.Status.CONVERGED, False),
    ],
)
def test_a_tolerance_below_rounding_is_told(tol, status, is_told):
    s, residuals = np.array([[0.5, 0.25], [1.2e-6, 3e-7]], np.float32)
    line = (
        "--tol 1e-08 is below what rounding leaves in float32: residuals end at 1.2e-06"
    )
    assert of_rounding(tol, status, s, residuals) == [line] * is_told
