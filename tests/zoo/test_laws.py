"""The conditional laws of the zoo: tables in full, samples and densities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import zoo
from tests.conftest import X64
from tests.tolerances import monte_carlo, tol

needs_x64 = pytest.mark.skipif(not X64, reason="compares in float64")
KEY = jax.random.key(7)

EXPLICIT = {
    "label_noise": (
        lambda: zoo.label_noise(3, 0.3),
        [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
    ),
    "label_noise_to_another": (
        lambda: zoo.label_noise(3, 0.3, to_another=True),
        [[0.7, 0.15, 0.15], [0.15, 0.7, 0.15], [0.15, 0.15, 0.7]],
    ),
    "complete_graph": (
        lambda: zoo.complete_graph(3),
        [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    ),
    "binary_symmetric": (
        lambda: zoo.binary_symmetric(1, 0.2),
        [[0.8, 0.2], [0.2, 0.8]],
    ),
    "erasure": (lambda: zoo.erasure(1, 0.3), [[0.7, 0, 0.3], [0, 0.7, 0.3]]),
    "scarf": (
        lambda: zoo.scarf([[0.25, 0.75]], 0.4),
        [[0.7, 0.3], [0.1, 0.9]],
    ),
    "mask_law": (
        lambda: zoo.mask_law([[True], [False]], [0.3, 0.7], flip=0.1),
        [[0.63, 0.07, 0.3], [0.07, 0.63, 0.3]],
    ),
    "tree": (
        lambda: zoo.tree(2, [0.1, 0.9]),
        [[0.1, 0.9, 0], [0.1, 0, 0.9]],
    ),
    "lazy_ring": (
        lambda: zoo.lazy_ring(4, 0.2),
        [
            [0.6, 0.2, 0, 0.2],
            [0.2, 0.6, 0.2, 0],
            [0, 0.2, 0.6, 0.2],
            [0.2, 0, 0.2, 0.6],
        ],
    ),
    "cyclic": (
        lambda: zoo.cyclic([0.5, 0.3, 0.2]),
        [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]],
    ),
    "hypercube_walk": (
        lambda: zoo.hypercube_walk(2),
        [[0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5], [0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]],
    ),
    "krawtchouk": (
        lambda: zoo.krawtchouk(2, 0.1),
        [[0.81, 0.18, 0.01], [0.09, 0.82, 0.09], [0.01, 0.18, 0.81]],
    ),
    "complete_bipartite": (
        lambda: zoo.complete_bipartite(1, 2),
        [[0, 0.5, 0.5], [1, 0, 0], [1, 0, 0]],
    ),
    "deterministic_labels": (
        lambda: zoo.deterministic_labels([0.2, 0.8], 2),
        [[1, 0], [1, 0], [0, 1], [0, 1]],
    ),
}


@needs_x64
@pytest.mark.parametrize("name", sorted(EXPLICIT))
def test_conditional_law_is_the_one_the_family_is_named_after(name):
    make, expected = EXPLICIT[name]
    joint = np.asarray(make().table())
    conditional = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(conditional, expected, atol=tol(np.float64))


DISCRETE = (
    "beta_binomial",
    "poisson_thinning",
    "erasure",
    "krawtchouk",
    "mask_law",
    "nested",
    "cyclic",
    "tree",
)


@jax.jit
def sample_and_evaluate(context, x, a, at):
    """One compilation for both: x repeats one input; log P(a|at)."""
    return context.sample(KEY, x), context.log_density(a, at)


@pytest.mark.parametrize("name", DISCRETE)
def test_samples_and_log_density_follow_the_rows_of_the_table(name):
    context = zoo.FAMILIES[name]()
    joint, values = np.asarray(context.table()), np.asarray(context.context_values())
    point, num = np.asarray(context.inputs())[1:2], 4000
    x, at = np.repeat(point, num, axis=0), np.repeat(point, len(values), axis=0)
    drawn, log_density = sample_and_evaluate(context, x, values, at)
    assert drawn.dtype == jnp.asarray(values).dtype
    law = joint[1] / joint[1].sum()
    matches = np.asarray(drawn)[:, None] == values[None, :]
    matches = matches.all(axis=-1) if values.ndim == 2 else matches
    assert matches.any(axis=1).all()
    error = np.abs(matches.mean(axis=0) - law)
    assert (error <= monte_carlo(np.sqrt(law * (1 - law) / num)) + 1e-12).all()
    density = np.exp(np.asarray(log_density))
    np.testing.assert_allclose(density, law, atol=tol(density.dtype, size=10))


CONTINUOUS = {
    # E f(A) at x for one f, in closed form.
    "gaussian": (zoo.gaussian(-0.6), 1.5, lambda a: a, -0.9),
    "circle_heat": (zoo.circle_heat(0.4), 2.0, np.cos, math.exp(-0.4) * math.cos(2.0)),
    "circle_shift": (
        zoo.circle_shift(2.0),
        2.0,
        np.cos,
        math.sin(1.0) * math.cos(2.0),
    ),
    "circle": (
        zoo.circle(lambda u: 1 + 0.5 * np.cos(u - 1.0) + 0.3 * np.sin(2 * u)),
        2.0,
        np.cos,
        0.25 * math.cos(2.0 + 1.0),
    ),
    "logistic_map": (
        zoo.logistic_map(5),
        0.3,
        lambda a: np.cos(2 * np.pi * a),
        5 / 6 * math.cos(2 * np.pi * 0.84),
    ),
}


@pytest.mark.parametrize("name", sorted(CONTINUOUS))
def test_continuous_samples_and_densities_have_the_exact_mean(name):
    context, point, function, expected = CONTINUOUS[name]
    num, period = 4000, {"gaussian": 24.0, "logistic_map": 1.0}.get(name, 2 * np.pi)
    grid = period / num * np.arange(num) - (12.0 if name == "gaussian" else 0.0)
    x = np.full(num, point)
    drawn, log_density = map(np.asarray, sample_and_evaluate(context, x, grid, x))
    values = function(drawn.astype(np.float64))
    sem = values.std() / math.sqrt(num)
    assert abs(values.mean() - expected) <= monte_carlo(sem)
    if name != "gaussian":
        assert drawn.min() >= 0
        assert drawn.max() <= period
    density, step = np.exp(log_density), period / num
    # The density of a shift jumps twice, each time within one step of the grid.
    atol = 2 * step if name == "circle_shift" else tol(density.dtype, size=100)
    np.testing.assert_allclose(density.sum() * step, 1.0, atol=atol)
    np.testing.assert_allclose(density @ function(grid) * step, expected, atol=atol)


def test_von_mises_fisher_samples_have_the_mean_of_its_first_singular_value():
    context = zoo.von_mises_fisher(3, 2.0)
    point, points = np.array([0.6, 0.0, 0.8]), np.asarray(context.inputs())
    x, at = np.tile(point, (4000, 1)), np.tile(point, (len(points), 1))
    drawn, log_density = map(np.asarray, sample_and_evaluate(context, x, points, at))
    np.testing.assert_allclose((drawn**2).sum(axis=1), 1.0, atol=tol(drawn.dtype))
    heights = drawn @ point
    first = float(context.spectrum(1)[0])
    assert abs(heights.mean() - first) <= monte_carlo(heights.std() / math.sqrt(4000))
    weights = np.asarray(context.table()).sum(axis=0)
    density = np.exp(log_density) * 4 * np.pi
    np.testing.assert_allclose(weights @ density, 1.0, atol=tol(drawn.dtype, size=100))


@needs_x64
def test_parameters_are_leaves_that_densities_differentiate():
    def log_density(rho):
        return zoo.gaussian(rho).log_density(jnp.asarray(0.4), jnp.asarray(1.1))

    rho, step = 0.3, 1e-5
    numeric = (log_density(rho + step) - log_density(rho - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(log_density)(rho), numeric, rtol=1e-8)


def test_float32_inputs_give_float32_samples_and_densities():
    context, x = zoo.gaussian(0.5), jnp.zeros(4, dtype=jnp.float32)
    assert context.sample(KEY, x).dtype == jnp.float32
    assert context.log_density(x, x).dtype == jnp.float32
