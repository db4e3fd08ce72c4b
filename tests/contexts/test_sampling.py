"""Sampling contexts: keys a row, transformations, known spectra, errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import contexture_jax as cx
from tests import oracle
from tests.tolerances import tol

C = cx.contexts
DTYPE = jnp.zeros(()).dtype
KEY = jax.random.key(3)
VECTORS = jax.random.normal(jax.random.key(0), (8, 3), DTYPE)
IMAGES = jax.random.normal(jax.random.key(1), (8, 4, 5, 2), DTYPE)
TOKENS = jax.random.randint(jax.random.key(2), (8, 6), 0, 9)


@jax.jit
def sample(context, key, x, row_offset):
    return context.sample(key, x, row_offset=row_offset)


@pytest.mark.slow
def test_parts_of_a_batch_draw_what_a_chain_draws_in_all():
    context = C.compose(C.shift(1), C.flip(), C.gaussian_noise(0.1))
    whole = sample(context, KEY, IMAGES, 0)
    rolled = jnp.roll(IMAGES, 4, axis=0)
    np.testing.assert_array_equal(sample(context, KEY, rolled, 4)[:4], whole[4:])
    assert abs(whole - IMAGES).max() > 0.1


def test_equal_rows_draw_apart():
    x = jnp.zeros((100, 1), DTYPE)
    assert len(np.unique(sample(C.gaussian_noise(1.0), KEY, x, 0))) == 100


def test_devices_draw_what_one_device_draws():
    context = C.gaussian_noise(0.3)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def part(x):
        return context.sample(KEY, x, row_offset=jax.lax.axis_index("x") * len(x))

    cut = jax.shard_map(part, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    whole = sample(context, KEY, VECTORS, 0)
    np.testing.assert_allclose(jax.jit(cut)(VECTORS), whole, rtol=tol(DTYPE))


@pytest.mark.slow
def test_draws_are_differentiable_in_the_scale_and_vectorise_over_keys():
    def total(scale):
        return C.GaussianNoise(scale).sample(KEY, VECTORS).sum()

    noise = (sample(C.gaussian_noise(1.0), KEY, VECTORS, 0) - VECTORS).sum()
    slope = jax.jit(jax.grad(total))(jnp.asarray(0.5, DTYPE))
    np.testing.assert_allclose(slope, noise, rtol=tol(DTYPE, factor=1000))
    keys = jax.random.split(KEY, 3)
    context = C.erasure(0.5)
    several = jax.jit(jax.vmap(context.sample, in_axes=(0, None)))(keys, VECTORS)
    np.testing.assert_array_equal(several[1], sample(context, keys[1], VECTORS, 0))


def test_a_traced_rate_is_a_leaf():
    rates = jax.jit(lambda rate: C.erasure(rate).log_density(VECTORS, VECTORS))
    expected = 3 * np.log(0.75)
    np.testing.assert_allclose(rates(0.25), expected, rtol=tol(np.float32))


def cube(dimension):
    return (np.arange(2**dimension)[:, None] >> np.arange(dimension)) & 1


@jax.jit
def log_densities(context, a, x):
    return context.log_densities(a, x)


SPECTRA = {
    "erasure": (C.erasure(0.3, fill=2), cx.zoo.erasure(3, 0.3)),
    "block": (
        C.block_mask(2, fill=2),
        cx.zoo.mask_law([[True, True, False], [False, True, True]], [0.5, 0.5]),
    ),
    "mask": (
        C.coordinate_mask(1, fill=2),
        cx.zoo.mask_law(np.eye(3, dtype=bool), [1 / 3, 1 / 3, 1 / 3]),
    ),
    "scarf": (C.scarf(cube(3), 0.4), cx.zoo.scarf([[0.5, 0.5]] * 3, 0.4)),
}


@pytest.mark.slow_cases("scarf")
@pytest.mark.parametrize("name", SPECTRA)
def test_the_law_on_uniform_bits_has_the_known_spectrum(name):
    context, known = SPECTRA[name]
    letters = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T
    logs = log_densities(context, jnp.asarray(letters), jnp.asarray(cube(3)))
    values = oracle.singular_values(np.exp(logs).T / 8)
    np.testing.assert_allclose(values, known.spectrum(values.size), atol=1e-5)
    assert (known.spectrum(7)[values.size :] == 0).all()


@jax.jit
def table(context):
    return context.table()


def test_pairs_of_a_class_have_the_spectrum_of_labels():
    itself = oracle.singular_values(
        table(C.same_class([0, 0, 0, 1, 1, 1], include_self=True))
    )
    np.testing.assert_allclose(itself, [1, 0, 0, 0, 0], atol=1e-5)
    others = oracle.singular_values(table(C.same_class([0, 0, 0, 1, 1, 1])))
    np.testing.assert_allclose(others, [1, 0.5, 0.5, 0.5, 0.5], atol=1e-5)


def test_a_lag_of_a_periodic_walk_loses_the_times_without_a_law():
    context = C.time_lag([4, 3], 2)
    law = np.asarray(table(context))
    expected = np.zeros((7, 7))
    expected[[0, 1, 4], [2, 3, 6]] = 1 / 3
    np.testing.assert_allclose(law, expected, atol=tol(DTYPE))
    assert context.inputs().tolist() == [0, 1, 4]


def test_windows_that_are_equal_share_their_followers():
    context = C.next_token([0, 1, 2, 0, 1, 0, 1, 2], 2)
    expected = np.array([[1, 0, 2], [3, 0, 0], [0, 3, 0], [1, 0, 2], [0, 3, 0]])
    rows = np.concatenate([expected, expected[:1]]) / 18
    np.testing.assert_allclose(table(context), rows, atol=tol(DTYPE))
    # Windows 01, 10, 12 and 20, and what follows them.
    joint = np.array([[1, 0, 2], [0, 1, 0], [1, 0, 0], [0, 1, 0]]) / 6
    np.testing.assert_allclose(context.joint().table(), joint, atol=tol(DTYPE))


def test_a_crop_is_a_part_of_the_image_and_a_shift_moves_it():
    image = jnp.arange(20.0).reshape(1, 4, 5, 1)
    part = np.asarray(sample(C.crop((2, 3)), KEY, image, 0))[0, :, :, 0]
    assert part.shape == (2, 3)
    np.testing.assert_array_equal(np.diff(part, axis=0), 5)
    np.testing.assert_array_equal(np.diff(part, axis=1), 1)
    moved = np.asarray(sample(C.shift(1, mode="wrap"), KEY, image, 0))
    assert sorted(moved.ravel()) == sorted(np.asarray(image).ravel())


def test_every_window_of_the_image_is_equally_likely():
    image = jnp.arange(12.0).reshape(3, 4, 1)
    windows = jnp.stack(
        [image[i : i + 2, j : j + 2] for i in range(2) for j in range(3)]
    )
    logs = log_densities(C.crop(2), windows, image[None])
    np.testing.assert_allclose(logs, -np.log(6), rtol=tol(np.float32))


def test_a_chain_applies_its_parts_in_turn_and_has_no_density():
    context = C.compose(C.erasure(1.0, fill=3.0), C.gaussian_noise(1e-3))
    samples = sample(context, KEY, VECTORS, 0)
    assert abs(samples - 3).max() < 0.01
    with pytest.raises(cx.CapabilityError, match="Composed context has no"):
        context.log_density(samples, VECTORS)


BAD = [
    (lambda: C.gaussian_noise(0.0), ValueError, "scale must be positive; got 0.0"),
    (lambda: C.erasure(1.5), ValueError, r"rate must be in \[0, 1\]; got 1.5"),
    (lambda: C.erasure(0.5, fill=0.5).sample(KEY, TOKENS), TypeError, "fill must be"),
    (lambda: C.erasure(0.5).sample(KEY, jnp.ones(())), ValueError, "got a scalar"),
    (lambda: C.coordinate_mask(4).sample(KEY, VECTORS), ValueError, "d at least 4"),
    (
        lambda: C.coordinate_mask(-1),
        ValueError,
        "num_masked must be at least 0; got -1",
    ),
    (
        lambda: C.crop(9).sample(KEY, IMAGES),
        ValueError,
        r"at least 9 × 9 .* got \(4, 5, 2\)",
    ),
    (lambda: C.crop(3, mode="mirror"), ValueError, 'mode must be "zero"'),
    (lambda: C.cutout(5).sample(KEY, IMAGES), ValueError, "images of at least 5 × 5"),
    (lambda: C.flip().sample(KEY, VECTORS), ValueError, "height, width, channels"),
    (lambda: C.flip([0.5, 0.5]), ValueError, "probability must be one number"),
    (lambda: C.scarf([[np.nan]], 0.5), ValueError, "x must be without NaN"),
    (lambda: C.scarf(VECTORS, [0.5, 0.5]), ValueError, "one for each of 3 columns"),
    (
        lambda: C.scarf(VECTORS, 0.5).sample(KEY, VECTORS[:, :2]),
        ValueError,
        r"x must have shape \(b, 3\)",
    ),
    (lambda: C.corruption(VECTORS, 0.5, "cauchy"), ValueError, "law must be"),
    (lambda: C.cutmix(jnp.zeros((0, 2)), 0.5), ValueError, "at least one row"),
    (
        lambda: C.masked_tokens(
            0.1, mask_token=0, vocabulary_size=3, random_share=0.6, keep_share=0.6
        ),
        ValueError,
        "at most 1; got 1.2",
    ),
    (
        lambda: C.masked_tokens(0.1, mask_token=0, vocabulary_size=3).sample(
            KEY, VECTORS
        ),
        TypeError,
        "x must hold integer tokens",
    ),
    (lambda: C.same_class([0, 0, 7]), ValueError, "class 7 has one"),
    (
        lambda: C.same_class([0, 0]).sample(KEY, jnp.array([2])),
        ValueError,
        "between 0 and 1",
    ),
    (
        lambda: C.same_class([0, 0]).sample(KEY, jnp.array([0.0])),
        TypeError,
        "x must hold row numbers",
    ),
    (lambda: C.time_lag(3, 3), ValueError, "some lag must stay within a series"),
    (lambda: C.time_lag(3, (1, 1)), ValueError, "lags must be distinct"),
    (
        lambda: C.time_lag(5, 2).sample(KEY, jnp.array([1, 3])),
        ValueError,
        r"a lag stays within the series, as in `inputs\(\)`; got 3",
    ),
    (lambda: C.next_token([1, 2], 2), ValueError, "more than length, 2; got 2"),
    (
        lambda: C.next_token([1, 2], 1, vocabulary_size=2),
        ValueError,
        "between 0 and 1; got 1 to 2",
    ),
    (lambda: C.compose(), TypeError, "at least one context"),
    (
        lambda: C.compose(C.flip(), C.teacher(VECTORS)),
        TypeError,
        "got Teacher at position 1",
    ),
    (
        lambda: C.erasure(0.5).log_density(VECTORS, VECTORS[:2]),
        ValueError,
        "as many rows as x, 2; got shape",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(
    call, error, message
):
    with pytest.raises(error, match=message):
        call()


def test_a_context_on_numbers_has_a_table_and_the_others_name_what_they_have():
    names = ("sample", "log_density", "kernel", "table", "at")
    assert C.same_class([0, 0]).capabilities == names
    with pytest.raises(
        cx.CapabilityError,
        match=r"GaussianNoise context has no `table`; it has: sample, log_density",
    ):
        C.gaussian_noise(1.0).table()


@pytest.mark.slow
def test_inputs_are_drawn_for_a_neighbour_of_theirs():
    context: Any = C.reverse(C.knn(VECTORS, 3))
    laws = np.asarray(context.table(), np.float64)
    laws = laws / laws.sum(axis=1, keepdims=True)
    drawn = context.sample(KEY, np.repeat(np.arange(8), 1000)).reshape(8, 1000)
    for law, row in zip(laws, drawn, strict=True):
        share = np.bincount(row, minlength=8) / 1000
        assert (abs(share - law) <= 5 * np.sqrt(law * (1 - law) / 1000) + 1e-6).all()
    logs = context.log_density(np.arange(8)[None, :], np.arange(8)[:, None])
    np.testing.assert_allclose(np.exp(logs), laws, atol=tol(DTYPE))
    with pytest.raises(TypeError, match="a reversed neighbour context to draw from"):
        sample(context, KEY, np.arange(8), 0)
    # Two steps of it as a program: from a point to one that has a neighbour in common.
    batch = cx.training.pair_batches(C.compose(context.reverse(), context), 8, seed=0)
    drawn = batch.at(0)
    near = np.asarray(context.table()) > 0
    assert (near.T @ near)[drawn.x, drawn.a[0]].all()
