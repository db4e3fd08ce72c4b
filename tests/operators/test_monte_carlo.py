"""Operators on a sample of inputs by Monte Carlo, and their error."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import contexture_jax as cx
from contexture_jax.operators import monte_carlo_operator
from tests import oracle
from tests.tolerances import MONTE_CARLO_SIGMAS, tol

C = cx.contexts
DTYPE = jnp.zeros(()).dtype
NUM_INPUTS = 48
# X ~ N(0, 1) in quantiles; A = X + 0.75 Z has ρ = 0.8.
NOISE = C.gaussian_noise(0.75)
NORMAL = norm.ppf((jnp.arange(NUM_INPUTS, dtype=DTYPE) + 0.5) / NUM_INPUTS)[:, None]
CUBE = jnp.asarray((np.arange(16)[:, None] >> np.arange(4)) & 1)
ERASURE = C.erasure(0.3, fill=2)


def exact_values(x, num):
    """Singular values of x and all of A = x + 0.75 Z, by the trapezoidal rule."""
    grid = np.linspace(-8.0, 8.0, 1601)
    gaps = (grid[None, :] - np.asarray(x, np.float64)) / 0.75
    table = np.exp(-0.5 * gaps**2)
    return oracle.singular_values(table / table.sum(axis=1, keepdims=True))[:num]


@functools.partial(jax.jit, static_argnames=("num_samples", "rank"))
def errors(context, x, key, num_samples, rank):
    op = cx.operators.monte_carlo_operator(context, x, num_samples=num_samples, key=key)
    key = jax.random.fold_in(key, 1)
    return cx.evaluation.monte_carlo_error(op, rank, key=key, level=0.95)


@functools.partial(jax.jit, static_argnames=("num_samples", "num_keys"))
def many_errors(num_samples, num_keys):
    keys = jax.random.split(jax.random.key(5), num_keys)
    return jax.lax.map(lambda key: errors(NOISE, NORMAL, key, num_samples, 3), keys)


def test_the_table_is_the_mixture_and_its_weights(key):
    build = functools.partial(monte_carlo_operator, num_samples=200)
    op = jax.jit(build)(ERASURE, CUBE, key=key)
    assert op.shape == (16, 200)
    np.testing.assert_allclose(op.joint.sum(), 1, atol=tol(DTYPE, size=200))
    np.testing.assert_allclose(op.p_a, 1 / 200, rtol=tol(DTYPE, size=20))
    letters = np.asarray(op.samples)[:, None, :]
    seen = letters != 2
    likelihood = np.where(seen, 0.7 * (letters == np.asarray(CUBE)), 0.3).prod(axis=2)
    expected = likelihood / likelihood.sum(axis=1, keepdims=True) / 200
    np.testing.assert_allclose(op.joint, expected.T, atol=1e-6)


def test_the_dual_kernel_is_estimated_without_bias(key):
    @jax.jit
    def kernels(keys):
        def kernel(key):
            op = monte_carlo_operator(ERASURE, CUBE, 100, key=key)
            return 16**2 * 100 * op.joint @ op.joint.T

        return jax.lax.map(kernel, keys)

    drawn = np.asarray(kernels(jax.random.split(key, 200)))
    same = np.asarray(CUBE)[:, None, :] == np.asarray(CUBE)[None, :, :]
    exact = (1 + 0.7 * np.where(same, 1.0, -1.0)).prod(axis=2)
    sem = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - exact) <= MONTE_CARLO_SIGMAS * sem).all()


@pytest.mark.slow
def test_gaussian_values_are_within_their_stated_error(key):
    found = errors(NOISE, NORMAL, key, 2000, 3)
    exact = exact_values(NORMAL, 3)
    assert (
        np.abs(found.estimate - exact) <= MONTE_CARLO_SIGMAS * found.standard_errors
    ).all()
    assert (found.standard_errors < 0.02).all()
    assert (found.band.lower <= exact).all()
    assert (exact <= found.band.upper).all()
    # What 48 quantiles stand for, to what they leave out in the tails.
    np.testing.assert_allclose(exact[:2], [0.8, 0.64], atol=0.03)


@pytest.mark.slow
def test_a_context_of_the_zoo_has_an_operator_too(key):
    found = errors(cx.zoo.gaussian(0.8), NORMAL[:, 0], key, 2000, 3)
    exact = exact_values(NORMAL, 3)
    assert (
        np.abs(found.estimate - exact) <= MONTE_CARLO_SIGMAS * found.standard_errors
    ).all()


@pytest.mark.slow
def test_tied_values_are_within_the_band_and_their_mean_within_its_error(key):
    found = errors(ERASURE, CUBE, key, 2000, 15)
    exact = np.asarray(cx.zoo.erasure(4, 0.3).spectrum(15))
    assert (found.band.lower <= exact).all()
    assert (exact <= found.band.upper).all()
    assert (found.band.upper - found.band.lower)[0] < 0.2
    for cluster in (slice(0, 4), slice(4, 10), slice(10, 14)):
        mean = (found.band.estimate[cluster] ** 2).mean()
        replicates = (found.replicates[:, cluster] ** 2).mean(axis=1)
        bias, error = cx.evaluation.jackknife(mean, replicates)
        assert abs(mean - bias - exact[cluster][0] ** 2) <= MONTE_CARLO_SIGMAS * error


@pytest.mark.slow
def test_the_error_falls_with_the_root_of_the_number_of_draws():
    exact = exact_values(NORMAL, 3)
    sizes, num_keys = (200, 3200), 40
    spread = []
    for size in sizes:
        found = many_errors(size, num_keys)
        miss = np.asarray(found.estimate) - exact
        spread.append(np.sqrt((miss**2).mean(axis=0)))
        stated = np.sqrt((np.asarray(found.standard_errors) ** 2).mean(axis=0))
        # Standard errors are what the values scatter by; both are known to 1 / √80.
        np.testing.assert_allclose(stated / spread[-1], 1, atol=0.45)
        low, high = np.asarray(found.band.lower), np.asarray(found.band.upper)
        inside = (low <= exact) & (exact <= high)
        assert inside.all(axis=1).mean() > 0.8
    np.testing.assert_allclose(spread[0] / spread[1], 4, rtol=0.45)


@pytest.mark.slow
def test_it_can_be_cut_over_devices_and_tells_its_error_there(key):
    mesh = jax.make_mesh((3,), ("x",), devices=jax.devices()[:3])
    options = {"x": CUBE, "num_samples": 20, "key": key}
    op = monte_carlo_operator(ERASURE, **options)
    cut = monte_carlo_operator(ERASURE, mesh=mesh, **options)
    np.testing.assert_allclose(cut.as_matrix(), op.as_matrix(), atol=tol(DTYPE))
    expected, found = (
        cx.evaluation.monte_carlo_error(each, 2, key=key, num_replicates=5)
        for each in (op, cut)
    )
    atol = tol(DTYPE, factor=300)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=atol), found, expected
    )


def test_a_density_that_does_not_fit_the_samples_is_refused(key):
    class Wrong(type(ERASURE)):
        def _draw(self, key, x):
            del key
            return x + 5

    with pytest.raises(ValueError, match=r"mixture of log_density .* must be finite"):
        cx.operators.monte_carlo_operator(
            Wrong(0.3, 2.0), CUBE, num_samples=20, key=key
        )


def test_options_that_do_not_fit_are_refused(key):
    with pytest.raises(ValueError, match="multiple of num_batches, 10; got"):
        monte_carlo_operator(ERASURE, CUBE, 7, key=key)
    with pytest.raises(ValueError, match="at least one row"):
        monte_carlo_operator(ERASURE, CUBE[:0], 10, key=key)
    with pytest.raises(cx.CapabilityError, match=r"operators\.monte_carlo_operator"):
        cx.association_operator(ERASURE)


def test_a_context_without_a_density_is_refused(key):
    context = C.compose(C.flip())
    x = jnp.zeros((2, 2, 2, 1))
    with pytest.raises(cx.CapabilityError, match="has no `log_density`"):
        cx.operators.monte_carlo_operator(context, x, num_samples=10, key=key)


@pytest.mark.slow
def test_an_error_needs_batches_of_a_monte_carlo_operator(key):
    op = cx.operators.monte_carlo_operator(
        ERASURE, CUBE, num_samples=20, num_batches=1, key=key
    )
    with pytest.raises(ValueError, match="at least 2 batches; got num_batches = 1"):
        cx.evaluation.monte_carlo_error(op, 2, key=key)


@pytest.mark.slow
def test_the_dual_kernel_comes_with_its_error(key):
    op = monte_carlo_operator(ERASURE, CUBE, 2000, key=key, num_batches=50)
    rows = jnp.arange(4)
    level = math.erf(MONTE_CARLO_SIGMAS / 2**0.5)  # of the normal law
    found = cx.operators.monte_carlo_kernel(op, rows, rows, level=level)
    assert isinstance(found, cx.evaluation.Interval)
    same = np.asarray(CUBE)[:4, None, :] == np.asarray(CUBE)[None, :4, :]
    exact = (1 + 0.7 * np.where(same, 1.0, -1.0)).prod(axis=2)
    assert ((found.lower <= exact) & (exact <= found.upper)).all()
    half = (found.upper - found.lower) / 2
    assert (half < 0.1 * MONTE_CARLO_SIGMAS * exact.max()).all()


@pytest.mark.slow
def test_a_kernel_needs_batches_and_numbers_of_inputs(key):
    op = monte_carlo_operator(ERASURE, CUBE, 20, key=key, num_batches=1)
    with pytest.raises(ValueError, match="at least 2 batches; got num_batches = 1"):
        cx.operators.monte_carlo_kernel(op, [0], [0])
    op = monte_carlo_operator(ERASURE, CUBE, 20, key=key)
    with pytest.raises(ValueError, match="x2 must be between 0 and 15; got 16"):
        cx.operators.monte_carlo_kernel(op, [0], [16])
    with pytest.raises(TypeError, match="x must hold numbers of inputs"):
        cx.operators.monte_carlo_kernel(op, CUBE / 2, [0])


def test_a_sampled_law_has_the_rows_of_the_operator_and_takes_densities_once(key):
    calls = []

    class Counted(type(ERASURE)):
        def _log_density(self, a, x):
            calls.append(1)
            return super()._log_density(a, x)

    jax.tree_util.register_pytree_node(
        Counted, lambda c: ((c.rate,), c.fill), lambda fill, c: Counted(*c, fill)
    )
    op = monte_carlo_operator(Counted(0.3, 2.0), CUBE, 40, key=key)
    once = len(calls)
    law = C.on_rows(Counted(0.3, 2.0), CUBE)
    found = cx.operators.sampled(law, 40, key=key)
    assert len(calls) == 2 * once
    np.testing.assert_array_equal(found.samples, op.samples)
    expected = op.joint / op.joint.sum(axis=1, keepdims=True) / len(CUBE)
    np.testing.assert_allclose(found.context.table(), expected, atol=tol(DTYPE))
