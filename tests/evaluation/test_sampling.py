"""Coverage of intervals for samples, by drawing samples from laws that are known.

All tables are padded to one shape, so that every family runs the same program. Rows and
columns without mass have no part in anything.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax import zoo
from contexture_jax.evaluation._pairs import count_cells
from tests import oracle
from tests.conftest import X64
from tests.tolerances import MONTE_CARLO_SIGMAS, tol

DTYPE = np.float64 if X64 else np.float32
SIZE, RANK, NUM_PAIRS, LEVEL = 5, 4, 1000, 0.9
SMALL, LARGE = (80, 80), (160, 80)
# Simple values; the same, larger; one value four times; zeros.
NAMES = ["staff_smoking", "three_state_chain", "label_noise", "independent"]


class Simulated(NamedTuple):
    table: np.ndarray
    values: np.ndarray
    found: cx.evaluation.SpectrumSampling
    held: cx.evaluation.HeldOut
    null: cx.evaluation.PermutationNull
    percentile: cx.evaluation.Interval
    cluster: cx.evaluation.Interval


def judge(cells, keys, *, num_pairs, num_replicates):
    """Every judge on every sample; `num_pairs` leading pairs of each count."""
    ev = cx.evaluation

    def one(arguments):
        cells, key = arguments
        sample = ev.PairSample(cells[:num_pairs], (SIZE, SIZE))
        keys = jax.random.split(key, 3)
        found = ev.bootstrap_spectrum(
            sample, RANK, key=keys[0], num_replicates=num_replicates, level=LEVEL
        )
        squares = found.band.estimate**2, found.replicates**2
        return (
            found,
            ev.held_out_spectrum(sample, 2, key=keys[1], level=LEVEL),
            ev.permutation_null(sample, RANK, key=keys[2], num_permutations=39),
            ev.bootstrap_interval(*squares, level=LEVEL, kind="percentile"),
            ev.bootstrap_interval(
                squares[0].mean(), squares[1].mean(axis=1), level=LEVEL
            ),
        )

    return jax.lax.map(one, (cells, keys))


judged = jax.jit(judge, static_argnames=("num_pairs", "num_replicates"))


def simulated(name: str, size: tuple[int, int] = SMALL) -> Simulated:
    return drawn(name, size)


@functools.cache
def drawn(name: str, size: tuple[int, int]) -> Simulated:
    num_tables, num_replicates = size
    with jax.enable_x64(True):
        law = np.asarray(zoo.FAMILIES[name]().table())
    table = np.zeros((SIZE, SIZE))
    table[: law.shape[0], : law.shape[1]] = law
    rng = np.random.default_rng(0)
    cells = rng.choice(table.size, (num_tables, NUM_PAIRS), p=table.ravel())
    out = judged(
        jnp.asarray(cells, jnp.int32),
        jax.random.split(jax.random.key(1), num_tables),
        num_pairs=NUM_PAIRS,
        num_replicates=num_replicates,
    )
    s = oracle.singular_values(table)
    # Values at rounding are zeros, exactly.
    values = np.pad(np.where(s > 1e-9, s, 0.0), (0, RANK - len(s)))
    return Simulated(table, values, *jax.tree.map(np.asarray, out))


def covered(truth, interval) -> np.ndarray:
    """Share of the intervals that hold the truth, along the first axis."""
    slack = tol(DTYPE, factor=100)
    lower, upper = interval.lower - slack, interval.upper + slack
    return ((lower <= truth) & (truth <= upper)).mean(axis=0)


def least(num_tables: int, level: float = LEVEL) -> float:
    """Coverage that a right interval stays above, by the binomial law."""
    return level - MONTE_CARLO_SIGMAS * (level * (1 - level) / num_tables) ** 0.5


sizes = pytest.mark.parametrize(
    "size", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"]
)


@pytest.mark.slow
@sizes
@pytest.mark.parametrize("name", NAMES)
def test_the_band_holds_all_values_whatever_their_multiplicities(name, size):
    case = simulated(name, size)
    slack = tol(DTYPE, factor=100)
    low, high = case.found.band.lower - slack, case.found.band.upper + slack
    inside = ((low <= case.values) & (case.values <= high)).all(axis=1)
    assert inside.mean() >= least(len(inside))


@pytest.mark.slow
@sizes
@pytest.mark.parametrize(
    ("name", "num", "at_least"),
    [
        # s_2 of 0.1 is at the noise of 1,000 pairs: short of nominal.
        ("staff_smoking", 2, 0.8),
        ("three_state_chain", 2, LEVEL),
        ("independent", 3, LEVEL),
    ],
)
def test_an_interval_for_one_value_holds_it(name, num, at_least, size):
    case = simulated(name, size)
    coverage = covered(case.values, case.found.singular_values)[:num]
    assert coverage.min() >= least(size[0], at_least)


@pytest.mark.slow_cases("small")
@sizes
def test_repeated_values_need_the_band_or_a_symmetric_function(size):
    """The sample orders what the law does not: the largest of four equal values."""
    case = simulated("label_noise", size)
    np.testing.assert_allclose(case.values, 0.7, atol=1e-9)
    assert covered(case.values, case.found.singular_values)[0] < 0.8
    assert covered((case.values**2).mean(), case.cluster) >= least(size[0])


@pytest.mark.slow
@sizes
@pytest.mark.parametrize("name", NAMES)
def test_the_total_is_covered_once_its_bias_is_off(name, size):
    case = simulated(name, size)
    truth = (case.values**2).sum()
    assert covered(truth, case.found.total) >= least(size[0])
    plug_in = (case.found.band.estimate**2).sum(axis=1)
    errors = [
        abs(estimates.mean() - truth)
        for estimates in (case.found.total.estimate, plug_in)
    ]
    sem = plug_in.std() / size[0] ** 0.5
    # Corrections are cut at 0, which leaves half a bias where the truth is 0.
    assert errors[0] <= MONTE_CARLO_SIGMAS * sem + 0.6 * errors[1]
    assert plug_in.mean() > truth - MONTE_CARLO_SIGMAS * sem


@pytest.mark.slow
def test_percentiles_of_replicates_do_not_cover():
    """What theory.md §3.7 says of them, and why the others are offered."""
    case = simulated("independent")
    assert covered(case.values**2, case.percentile)[0] == 0
    case = simulated("label_noise")
    assert covered(case.values**2, case.percentile)[0] < 0.5


@pytest.mark.slow
def test_the_mean_under_independence_is_what_is_said():
    case = simulated("independent")
    estimates = (case.found.band.estimate**2).sum(axis=1)
    # Of the 4 × 3 law; the bias of the padded table counts its empty rows.
    mean = 3 * 2 / (NUM_PAIRS - 1)
    sem = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - mean) <= MONTE_CARLO_SIGMAS * sem
    np.testing.assert_allclose(case.found.independence_bias, 16 / (NUM_PAIRS - 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["staff_smoking", "three_state_chain", "label_noise"])
def test_tau_is_inside_its_interval(name):
    case = simulated(name)
    tau = cx.evaluation.usefulness(case.values, complete=True).tau
    interval = case.found.tau
    assert covered(float(tau), interval) >= least(SMALL[0])
    assert (interval.lower <= interval.estimate + 1e-6).all()
    assert (interval.estimate <= interval.upper + 1e-6).all()


@pytest.mark.slow_cases("label_noise-small", "three_state_chain-small")
@sizes
@pytest.mark.parametrize("name", ["staff_smoking", "three_state_chain", "label_noise"])
def test_held_out_intervals_hold_what_the_functions_reach(name, size):
    case = simulated(name, size)
    p_x, p_a = case.table.sum(axis=1), case.table.sum(axis=0)

    def correlation(f, g):
        f, g = f - p_x @ f, g - p_a @ g
        norm = np.sqrt((p_x @ f**2) * (p_a @ g**2))
        return (f * (case.table @ g)).sum(axis=0) / norm

    reached = np.array(
        [
            [correlation(f, g) for f, g in zip(left, right, strict=True)]
            for left, right in zip(case.held.left, case.held.right, strict=True)
        ]
    )
    assert (covered(reached.mean(axis=1), case.held.held_out) >= least(size[0])).all()
    # No functions reach more than s_1; those of a sample claim more than they reach.
    assert reached.max() <= case.values[0] + tol(DTYPE, factor=100)
    assert case.held.optimistic.mean(axis=0)[0] > reached.mean(axis=(0, 1))[0]
    gap = np.abs(case.held.held_out.estimate.mean(axis=0) - reached.mean(axis=(0, 1)))
    sem = case.held.held_out.estimate.std(axis=0) / size[0] ** 0.5
    assert (gap <= MONTE_CARLO_SIGMAS * sem).all()


@pytest.mark.slow_cases("small")
@sizes
def test_p_values_are_uniform_under_independence(size):
    null = simulated("independent", size).null
    for p in (null.p_values[:, 0], null.total_p_value, null.tau_p_value):
        share = (p <= 0.1).mean()
        error = (0.1 * 0.9 / size[0]) ** 0.5
        assert abs(share - 0.1) <= MONTE_CARLO_SIGMAS * error


@pytest.mark.slow
def test_p_values_find_what_is_there_and_little_else():
    null = simulated("staff_smoking").null
    rejected = (null.p_values <= 0.1).mean(axis=0)
    assert rejected[0] == 1
    assert rejected[2:].max() <= 0.1
    assert (simulated("label_noise").null.p_values <= 0.05).all()


def test_counts_and_pairs_are_the_same_sample():
    counts = np.array([[3, 0, 1], [0, 2, 4]])
    one = cx.evaluation.counted_sample(counts)
    rows, columns = np.repeat(np.argwhere(counts), counts[counts > 0], axis=0).T
    other = cx.evaluation.pair_sample(rows, columns)
    assert one.shape == other.shape == (2, 3)
    assert one.num_pairs == 10
    np.testing.assert_array_equal(np.sort(one.cells), np.sort(other.cells))
    assert cx.evaluation.counted_sample(counts.astype(float)).num_pairs == 10


@pytest.mark.slow
def test_estimates_are_the_spectrum_of_the_table():
    counts = np.random.default_rng(2).integers(0, 9, (6, 4))
    sample = cx.evaluation.counted_sample(counts)
    found = cx.evaluation.bootstrap_spectrum(
        sample, 3, key=jax.random.key(0), num_replicates=5
    )
    s = oracle.singular_values(counts / counts.sum())
    atol = tol(DTYPE, factor=20)
    np.testing.assert_allclose(found.band.estimate, s, atol=atol)
    total = found.total.estimate + (found.replicates**2).sum(axis=1).mean()
    np.testing.assert_allclose(total, 2 * (s**2).sum(), atol=atol)
    assert found.replicates.shape == (5, 3)
    assert found.band.lower.dtype == DTYPE


@pytest.mark.parametrize("kind", ["normal", "basic", "percentile"])
def test_an_interval_is_its_formula(kind):
    drawn = np.random.default_rng(3).gamma(2.0, size=(200, 2)).astype(DTYPE)
    theta = np.array([2.0, 3.0], DTYPE)
    got = cx.evaluation.bootstrap_interval(theta, drawn, level=0.8, kind=kind)
    low, high = np.quantile(drawn, [0.1, 0.9], axis=0)
    corrected = 2 * theta - drawn.mean(axis=0)
    reach = 1.2815515655446004 * drawn.std(axis=0, ddof=1)
    ends = {
        "normal": (corrected - reach, corrected + reach),
        "basic": (2 * theta - high, 2 * theta - low),
        "percentile": (low, high),
    }[kind]
    atol = tol(DTYPE, factor=100)
    np.testing.assert_allclose(got.lower, ends[0], atol=atol)
    np.testing.assert_allclose(got.upper, ends[1], atol=atol)
    estimate = theta if kind == "percentile" else corrected
    np.testing.assert_allclose(got.estimate, estimate, atol=atol)
    assert got.level == 0.8


def a_sample():
    return cx.evaluation.counted_sample([[3, 1, 2], [1, 4, 2]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda ev: ev.counted_sample([[0.5, 1]]), ValueError, "whole numbers of"),
        (lambda ev: ev.counted_sample([[1, 0]]), ValueError, "at least 2 pairs; got 1"),
        (lambda ev: ev.counted_sample([1, 2]), ValueError, "2 dimension"),
        (
            lambda ev: ev.counted_sample([[1e9, 1.0]]),
            ValueError,
            "at most 67108864 pairs",
        ),
        (lambda ev: ev.pair_sample([0.0, 1.0], [0, 1]), TypeError, "hold integers"),
        (lambda ev: ev.pair_sample([0, 1], [0]), ValueError, "one length, at least 2"),
        (
            lambda ev: ev.pair_sample([0, 3], [0, 1], (2, 2)),
            ValueError,
            "x_index must be between 0 and 1",
        ),
        (
            lambda ev: ev.bootstrap_spectrum(a_sample(), 2, key=jax.random.key(0)),
            ValueError,
            "rank must be between 1 and 1",
        ),
        (
            lambda ev: ev.bootstrap_spectrum(
                a_sample(), 1, key=jax.random.key(0), level=1.0
            ),
            ValueError,
            "level must be between 0 and 1",
        ),
        (
            lambda ev: ev.held_out_spectrum(
                ev.pair_sample([0, 1, 1], [0, 1, 1]), 1, key=jax.random.key(0)
            ),
            ValueError,
            "at least 4 pairs",
        ),
        (
            lambda ev: ev.permutation_null(
                ev.pair_sample([0, 0], [0, 1]), 1, key=jax.random.key(0)
            ),
            ValueError,
            "at least 2 rows and 2 columns",
        ),
        (
            lambda ev: ev.bootstrap_interval([0.5], [[0.4]], level=0.0),
            ValueError,
            "level must be between 0 and 1",
        ),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(cx.evaluation)


@pytest.mark.slow
def test_more_pairs_are_counted_than_float32_has_whole_numbers():
    num_pairs = 2**24 + 2
    cells = jnp.zeros((num_pairs,), jnp.int32)
    counts = jax.jit(count_cells, static_argnums=(1, 2))(cells, (1, 2), jnp.float32)
    np.testing.assert_array_equal(counts, [[num_pairs, 0]])
