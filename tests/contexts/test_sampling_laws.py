"""Sampling contexts: what they draw follows the law that their density states."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests.tolerances import MONTE_CARLO_SIGMAS, tol

C = cx.contexts
DTYPE = jnp.zeros(()).dtype
KEY = jax.random.key(11)
NUM = 3000
TABLE = np.array([[0, 1], [1, 1], [0, 2]])


def strings(letters, length):
    return np.array(list(itertools.product(letters, repeat=length)))


def pictures(letters, height, width):
    return strings(letters, height * width).reshape(-1, height, width, 1)


PICTURE = np.array([[0, 1, 1], [1, 0, 0]])[:, :, None]
# Each: the context, one x, and all that A can be there.
DISCRETE = {
    "erasure": (lambda: C.erasure(0.3, fill=2), [0, 1, 1], strings(range(3), 3)),
    "erasure_by_coordinate": (
        lambda: C.erasure([0.1, 0.5, 1.0], fill=2),
        [0, 1, 1],
        strings(range(3), 3),
    ),
    "erasure_hidden": (lambda: C.erasure(0.3, fill=1), [0, 1, 0], strings([0, 1], 3)),
    "erasure_nan": (
        lambda: C.erasure(0.3, fill=np.nan),
        [0.5, 1.5],
        strings([0.5, 1.5, np.nan], 2),
    ),
    "mask": (lambda: C.coordinate_mask(2, fill=2), [0, 1, 1], strings(range(3), 3)),
    "mask_hidden": (lambda: C.coordinate_mask(2), [0, 1, 0, 1], strings([0, 1], 4)),
    "block": (lambda: C.block_mask(2, fill=2), [0, 1, 1, 0], strings(range(3), 4)),
    "scarf": (lambda: C.scarf(TABLE, [0.3, 0.6]), [0, 1], strings(range(3), 2)),
    "scarf_floating": (
        lambda: C.scarf(TABLE + 0.5, 0.4),
        [0.5, 1.5],
        strings([0.5, 1.5, 2.5], 2),
    ),
    "cutmix": (lambda: C.cutmix(TABLE, [0.3, 0.6]), [0, 1], strings(range(3), 2)),
    "masked_tokens": (
        lambda: C.masked_tokens(
            0.4, mask_token=3, vocabulary_size=3, random_share=0.3, keep_share=0.2
        ),
        [0, 2],
        strings(range(4), 2),
    ),
    "masked_tokens_padded": (
        lambda: C.masked_tokens(0.4, mask_token=3, vocabulary_size=3, padding=0),
        [2, 0],
        strings(range(4), 2),
    ),
    "flip": (lambda: C.flip(0.3), PICTURE, pictures([0, 1], 2, 3)),
    "flip_vertical": (
        lambda: C.flip(0.3, vertical=True),
        PICTURE,
        pictures([0, 1], 2, 3),
    ),
    "shift": (lambda: C.shift(1), PICTURE, pictures([0, 1], 2, 3)),
    "shift_wrap": (lambda: C.shift(1, mode="wrap"), PICTURE, pictures([0, 1], 2, 3)),
    "shift_edge": (lambda: C.shift(1, mode="edge"), PICTURE, pictures([0, 1], 2, 3)),
    "crop": (lambda: C.crop((1, 2)), PICTURE, pictures([0, 1], 1, 2)),
    "crop_padded": (lambda: C.crop(2, padding=1), PICTURE, pictures([0, 1], 2, 2)),
    "cutout": (lambda: C.cutout(1, fill=2), PICTURE, pictures([0, 1, 2], 2, 3)),
    "cutout_hidden": (lambda: C.cutout(2), PICTURE, pictures([0, 1], 2, 3)),
    "same_class": (lambda: C.same_class([3, 5, 3, 3, 5]), 2, np.arange(5)),
    "same_class_itself": (
        lambda: C.same_class(["b", "a", "b"], include_self=True),
        0,
        np.arange(3),
    ),
    "time_lag": (lambda: C.time_lag(5, (-1, 1, 2), [1, 2, 3]), 1, np.arange(5)),
    "time_lag_at_an_end": (lambda: C.time_lag([3, 3], (-1, 1, 2)), 3, np.arange(6)),
    "next_token": (lambda: C.next_token([0, 1, 2, 0, 1, 0, 1, 2], 2), 0, np.arange(3)),
    "neighbors": (lambda: C.knn(np.arange(5.0)[:, None], 3), 2, np.arange(5)),
    "neighbors_weighted": (
        lambda: C.neighbors([[0, 1, 1]] * 2, [[0.2, 0.3, 0.5]] * 2),
        1,
        np.arange(2),
    ),
}

# The same code as another of them on other numbers: not in every run.
VARIANTS = {
    "crop_padded",
    "cutout_hidden",
    "erasure_by_coordinate",
    "erasure_hidden",
    "flip_vertical",
    "mask_hidden",
    "masked_tokens_padded",
    "same_class_itself",
    "scarf_floating",
    "shift_edge",
    "shift_wrap",
    "time_lag_at_an_end",
}
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name in VARIANTS else ())
    for name in DISCRETE
]


@functools.partial(jax.jit, static_argnames="num")
def draw_and_evaluate(context, x, values, num, row_offset=0):
    many = jnp.broadcast_to(x, (num, *x.shape))
    at = jnp.broadcast_to(x, (values.shape[0], *x.shape))
    samples = context.sample(KEY, many, row_offset=row_offset)
    return samples, context.log_density(values, at)


class Drawn(NamedTuple):
    rows: np.ndarray
    rows_from_1000: np.ndarray
    values: np.ndarray
    logs: np.ndarray


@functools.cache
def drawn(name):
    make, x, values = DISCRETE[name]
    x = jnp.asarray(x)
    values = jnp.asarray(values, x.dtype)
    context = make()
    samples, logs = draw_and_evaluate(context, x, values, NUM)
    later, _ = draw_and_evaluate(context, x, values, NUM, 1000)
    assert samples.dtype == x.dtype or x.ndim == 0
    flat = np.asarray(values).reshape(len(values), -1)
    rows, part = (np.asarray(array).reshape(NUM, -1) for array in (samples, later))
    rows, part, flat = (np.nan_to_num(array, nan=-1) for array in (rows, part, flat))
    return Drawn(rows, part, flat, np.asarray(logs))


@pytest.mark.slow_cases("masked_tokens", "neighbors", "scarf")
@pytest.mark.parametrize("name", CASES)
def test_probabilities_add_up_to_one(name):
    logs = drawn(name).logs
    np.testing.assert_allclose(np.exp(logs).sum(), 1, atol=tol(DTYPE, factor=50))
    assert (np.exp(logs) > 0).sum() > 1


@pytest.mark.parametrize("name", CASES)
def test_a_part_of_a_batch_draws_what_the_whole_draws_there(name):
    found = drawn(name)
    np.testing.assert_array_equal(found.rows_from_1000[:-1000], found.rows[1000:])
    assert (found.rows_from_1000[:1000] != found.rows[:1000]).any()


@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_the_probabilities(name):
    rows, _, values, logs = drawn(name)
    law = np.exp(logs)
    matches = (rows[:, None, :] == values[None, :, :]).all(axis=2)
    assert (matches.sum(axis=1) == 1).all()
    counts = matches.sum(axis=0)
    assert (counts[law == 0] == 0).all()
    error = np.abs(counts / NUM - law)
    assert (error <= MONTE_CARLO_SIGMAS * np.sqrt(law * (1 - law) / NUM) + 1e-6).all()
    seen = law > 0
    chi_squared = ((counts - NUM * law)[seen] ** 2 / (NUM * law[seen])).sum()
    freedom = seen.sum() - 1
    assert chi_squared < freedom + MONTE_CARLO_SIGMAS * (np.sqrt(2 * freedom) + 1)


ROWS = jnp.arange(8.0, dtype=DTYPE).reshape(4, 2) / 7
CONTINUOUS = {
    "gaussian_noise": (lambda: C.gaussian_noise(jnp.array([0.3, 2.0])), 0.0),
    "uniform": (lambda: C.corruption(ROWS, 0.4, "uniform"), 0.6),
    "gaussian": (lambda: C.corruption(ROWS, [0.4, 0.4], "gaussian"), 0.6),
    "bimodal": (lambda: C.corruption(ROWS, 0.4, "bimodal"), 0.6),
}
POINT = jnp.array([ROWS[1, 0], ROWS[2, 1]])
# Off the atoms: no point of a grid of bins is an entry of `POINT`.
EDGES = np.linspace(-12.0, 13.0, 4001) + 1e-4


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_smooth_law_has_its_atom_and_its_histogram(name):
    make, atom = CONTINUOUS[name]
    context = make()
    x = jnp.broadcast_to(POINT, (NUM, 2))
    middles = jnp.asarray((EDGES[1:] + EDGES[:-1]) / 2, DTYPE)
    grid = jnp.stack([middles, jnp.broadcast_to(POINT[1], middles.shape)], axis=1)
    at = jnp.broadcast_to(POINT, grid.shape)

    @jax.jit
    def run(context, row_offset):
        samples = context.sample(KEY, x, row_offset=row_offset)
        return samples, context.log_density(grid, at), context.log_density(at, at)

    samples, logs, at_atom = map(np.asarray, run(context, 0))
    np.testing.assert_array_equal(run(context, 1000)[0][:-1000], samples[1000:])
    kept = samples[:, 0] == float(POINT[0])
    spread = np.sqrt(atom * (1 - atom) / NUM)
    assert abs(kept.mean() - atom) <= MONTE_CARLO_SIGMAS * spread
    # The second coordinate stays where it is, which has a mass or density of its own.
    other = 0.6 if atom else 1 / (2.0 * np.sqrt(2 * np.pi))
    mass = np.exp(logs) / other * np.diff(EDGES)
    np.testing.assert_allclose(mass.sum(), 1 - atom, atol=5e-3)
    if atom:
        np.testing.assert_allclose(np.exp(at_atom), atom**2, atol=tol(np.float32))
    coarse = mass.reshape(-1, 20).sum(axis=1)
    counts, _ = np.histogram(samples[~kept, 0], EDGES[::20])
    error = np.abs(counts / NUM - coarse)
    assert (
        error <= MONTE_CARLO_SIGMAS * np.sqrt(coarse * (1 - coarse) / NUM) + 3e-3
    ).all()


@pytest.mark.slow
def test_replacements_have_the_moments_that_they_are_named_for():
    x = jnp.zeros((2,), DTYPE)
    low, high = np.asarray(ROWS.min(axis=0)), np.asarray(ROWS.max(axis=0))
    variances = {"uniform": 1 / 12, "gaussian": 1 / 16, "bimodal": 1 / 16 + 1 / 64}
    for law, variance in variances.items():
        samples, _ = draw_and_evaluate(C.corruption(ROWS, 1.0, law), x, x[None], NUM)
        samples = np.asarray(samples)
        scale = np.sqrt(variance) * (high - low)
        error = np.abs(samples.mean(axis=0) - (low + high) / 2)
        assert (error <= MONTE_CARLO_SIGMAS * (scale / np.sqrt(NUM))).all()
        ratio = samples.var(axis=0) / scale**2
        assert (np.abs(ratio - 1) <= MONTE_CARLO_SIGMAS * np.sqrt(2 / NUM)).all()


def test_noise_has_the_moments_of_its_scale():
    scale = np.array([0.3, 2.0])
    context = C.gaussian_noise(scale)
    samples, _ = draw_and_evaluate(context, POINT, POINT[None], NUM)
    gaps = (np.asarray(samples) - np.asarray(POINT)) / scale
    assert (np.abs(gaps.mean(axis=0)) <= MONTE_CARLO_SIGMAS / np.sqrt(NUM)).all()
    spread = MONTE_CARLO_SIGMAS * np.sqrt(2 / NUM)
    assert (np.abs(gaps.var(axis=0) - 1) <= spread).all()


def test_a_constant_column_never_changes():
    rows = jnp.array([[1.0, 5.0], [2.0, 5.0]])
    context = C.corruption(rows, 0.9)
    samples, logs = draw_and_evaluate(context, rows[0], rows[:1], 50)
    assert (samples[:, 1] == 5.0).all()
    np.testing.assert_allclose(np.exp(logs), 0.1, rtol=tol(np.float32))


def test_all_pairs_of_a_law_with_atoms_share_one_measure():
    # Row 0 keeps 0.1 in column 0: rows with another number there cannot have drawn it.
    rows = jnp.array([[0.1, 0.2], [0.3, 0.2], [0.5, 0.9]])
    a = jnp.array([[0.1, 0.4], [0.2, 0.2]])
    joint = np.exp(jax.jit(C.corruption(rows, 0.4).log_densities)(a, rows))
    low, high = np.asarray(rows.min(axis=0)), np.asarray(rows.max(axis=0))
    density = 0.4 / (high - low)
    expected = [[0.6 * density[1], 0, 0], [density[0] * 0.6, density[0] * 0.6, 0]]
    np.testing.assert_allclose(joint, expected, rtol=1e-5)
