"""Gaussian kernels and attention at any scale: the law of the numbers that are given.

What is right is worked out by NumPy in twice the digits, or as many as it has.
"""

import functools
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.kernels._exponents import LARGEST, SAFE, Form, lay_out
from contexture_jax.kernels._softmax import exp_matmul, logsumexp_rows, normalise
from tests import oracle
from tests.conftest import X64
from tests.tolerances import MONTE_CARLO_SIGMAS, promised, tol

DTYPE = np.float64 if X64 else np.float32
WIDE = np.longdouble if X64 else np.float64
N, D = 48, 3


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(DTYPE)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def gaussian(x, gamma, points=None):
    x = x.astype(WIDE)
    points = x if points is None else points.astype(WIDE)
    return softmax(-WIDE(gamma) * ((x[:, None] - points[None]) ** 2).sum(axis=2))


def attended(q, k, scale):
    return softmax(q.astype(WIDE) @ k.T.astype(WIDE) * WIDE(scale))


def blobs(distance):
    place = np.random.default_rng(1).integers(0, 3, (N, 1))
    return (normal(0, N, D) + distance * place).astype(DTYPE)


def with_outlier(size):
    x = normal(0, N, D)
    x[5] *= size
    return x


def cities():
    """Longitude and latitude in degrees, spread over about a kilometre."""
    here = np.array([[2.3522, 48.8566, 0], [139.6917, 35.6895, 0]])
    spread = 0.01 * normal(0, N, D) * np.array([1, 1, 0])
    return (here[np.arange(N) % 2] + spread).astype(DTYPE)


X, K = normal(0, N, D), normal(7, N, D)
# Times 1e20 or 1e-20 and no further, in either dtype.
BIG, SMALL = DTYPE(1e20), DTYPE(1e-20)

ROWS = {
    **{f"blobs {d:g} apart": (blobs(d), 0.5) for d in (1e2, 1e4, 1e6, 1e8)},
    "an outlier": (with_outlier(1e6), 0.5),
    "a far outlier": (with_outlier(1e15), 0.5),
    "cities": (cities(), 1e4),
    "a sharp kernel": (X, 40.0),
    "large": (X * BIG, 0.5),
    "large, and the kernel as wide": (X * BIG, 0.5e-40),
    "small": (X * SMALL, 0.5),
    "small, and the kernel as narrow": (X * SMALL, 0.5e40),
    "the widest kernel": (X, 1e-300),
    "a narrow kernel": (X, 1e30),
    "the narrowest kernel": (X, 1e300),
}


def check(context, law, accuracy):
    """Rows sum to 1, T* is the adjoint, P_A the marginal, and all is as in `law`."""
    op = cx.association_operator(context)
    matrix = np.asarray(op.as_matrix(), np.float64)
    law = np.asarray(law, np.float64)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=accuracy)
    np.testing.assert_allclose(matrix, law, atol=accuracy)
    p_x, p_a = (np.asarray(p, np.float64) for p in (op.p_x, op.p_a))
    np.testing.assert_allclose(p_a, p_x @ law, atol=accuracy)
    back = np.asarray(op.rmatmat(jnp.eye(op.shape[0], dtype=DTYPE)), np.float64)
    np.testing.assert_allclose(
        p_a[:, None] * back, (p_x[:, None] * matrix).T, atol=accuracy / op.shape[0]
    )
    scaled = oracle.symmetrised(p_x[:, None] * law)
    norm = op.squared_norm()
    assert norm is not None
    np.testing.assert_allclose(norm, (scaled**2).sum(), rtol=N * accuracy)
    return np.linalg.svd(scaled, compute_uv=False)


@pytest.mark.parametrize("name", ROWS)
def test_a_gaussian_law_is_right_at_any_scale(name):
    x, gamma = ROWS[name]
    check(cx.contexts.rbf(x, gamma), gaussian(x, gamma), tol(DTYPE))


@pytest.mark.slow_cases("3", "100.0")
@pytest.mark.parametrize("largest", [3, 1e2, 1e4])
def test_an_attention_map_is_right_for_logits_of_any_size(largest):
    scale = DTYPE(largest / np.abs(X @ K.T).max())
    context = cx.contexts.attention(X, K, scale)
    law = attended(X, K, scale)
    # One product rounds logits up to SAFE.
    check(context, law, tol(DTYPE, factor=30))
    there = law.sum(axis=0) > 1e-30
    back = (law[:, there] / law.sum(axis=0)[there]).T
    turned = np.asarray(cx.association_operator(context.reverse()).as_matrix())
    np.testing.assert_allclose(turned[there], back, atol=tol(DTYPE, factor=100))


@pytest.mark.slow
def test_attention_of_huge_queries_and_keys_picks_the_largest():
    """One query and key of them of their own scale, in a scale that no float32 has."""
    q, k = X * BIG, K * BIG
    law = attended(X, K, 1e40)
    check(cx.contexts.attention(q, k), law, tol(DTYPE))
    check(cx.contexts.attention(q, k, 1e-40), attended(X, K, 1), tol(DTYPE))


@pytest.mark.slow_cases("30-0.03")
@pytest.mark.parametrize(
    ("distance", "gamma"), [(30, 0.03), (1e3, 1e-3), (1e6, 0.5), (1e12, 0.5)]
)
def test_rows_far_from_all_points_have_their_law(distance, gamma):
    """Log weights of −1e24, of which the differences count."""
    far = X + DTYPE(distance) * np.array([1, 0, 0], DTYPE)
    part = cx.contexts.rbf(X, gamma).at(far)
    check(part, gaussian(far, gamma, X), tol(DTYPE))


@pytest.mark.slow_cases("blobs 1e+08 apart")
@pytest.mark.parametrize(
    "name", ["blobs 1e+08 apart", pytest.param("cities", marks=pytest.mark.slow)]
)
def test_the_rest_of_a_context_is_right_there_too(name):
    x, gamma = ROWS[name]
    context, law = cx.contexts.rbf(x, gamma), np.asarray(gaussian(x, gamma), np.float64)
    p_a = law.mean(axis=0)
    accuracy = tol(DTYPE)
    np.testing.assert_allclose(context.table(), law / N, atol=accuracy / N)
    back = np.asarray(cx.association_operator(context.reverse()).as_matrix())
    np.testing.assert_allclose(back, (law / p_a / N).T, atol=accuracy)
    few = jnp.arange(4)
    np.testing.assert_allclose(
        context.kernel(few, few), (law[:4] / p_a) @ law[:4].T, rtol=accuracy, atol=1e-30
    )
    near = jnp.asarray(np.argsort(law, axis=1)[:4, -2])
    np.testing.assert_allclose(
        context.log_density(near, few),
        np.log(law[np.arange(4), np.asarray(near)]),
        atol=tol(DTYPE, factor=100),
    )
    a = np.asarray(context.sample(jax.random.key(0), jnp.full(4000, 1)))
    share = np.bincount(a, minlength=N) / 4000
    sem = np.sqrt(law[1] * (1 - law[1]) / 4000)
    assert (np.abs(share - law[1]) <= MONTE_CARLO_SIGMAS * sem + 1e-12).all()


@pytest.mark.slow
def test_the_spectrum_of_far_blobs_is_that_of_numpy(key):
    x, gamma = ROWS["blobs 10000 apart"]
    expected = check(cx.contexts.rbf(x, gamma), gaussian(x, gamma), tol(DTYPE))
    op = cx.association_operator(cx.contexts.rbf(x, gamma))
    result, info = cx.svd(op, 8, key=key)
    assert info.status == "converged"
    np.testing.assert_allclose(
        result.singular_values, expected[1:9], atol=promised(DTYPE)
    )


@pytest.mark.slow
def test_inside_a_trace_either_law_is_found():
    @jax.jit
    def matrix(x, gamma):
        return cx.association_operator(cx.contexts.rbf(x, gamma)).as_matrix()

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def both(x, gammas):
        return matrix(x, gammas)

    for name in ("blobs 10000 apart", "large", "a sharp kernel"):
        x, gamma = ROWS[name]
        law = np.asarray(gaussian(x, gamma), np.float64)
        np.testing.assert_allclose(matrix(x, gamma), law, atol=tol(DTYPE), err_msg=name)
    found = both(X, jnp.asarray([0.01, 40.0], DTYPE))
    for one, gamma in zip(found, (0.01, 40.0), strict=True):
        law = np.asarray(gaussian(X, gamma), np.float64)
        np.testing.assert_allclose(one, law, atol=tol(DTYPE, factor=100))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.99])
def test_rows_sum_to_1_as_exactly_as_weights_are_known(share):
    """Up to the ends of the ranges in which tiles are formed as they are."""
    eps, safe = np.finfo(DTYPE).eps, share * SAFE[np.dtype(DTYPE).name]
    largest = share * LARGEST["distances"][np.dtype(DTYPE).name]
    reach = ((X - X.mean(axis=0)) ** 2).sum(axis=1).max()
    far = X + DTYPE(1e6) * np.array([1, 0, 0], DTYPE)
    for context, bound in (
        (cx.contexts.rbf(X, safe / 2 / reach), safe * eps),
        (cx.contexts.attention(X, X, safe / (X**2).sum(axis=1).max()), safe * eps),
        (cx.contexts.rbf(X, largest / 1e12).at(far), largest * eps**2),
    ):
        op = cx.association_operator(context)
        sums = np.asarray(op.matmat(jnp.ones((N, 1), DTYPE)), np.float64)
        np.testing.assert_allclose(sums, 1, atol=bound + tol(DTYPE, factor=8))


def test_near_points_take_one_product_and_no_more():
    near, far = (cx.contexts.rbf(x, 0.5).form() for x in (X, blobs(100)))
    assert (near.plain, near.exact) == (True, False)
    assert (far.plain, far.exact) == (False, True)
    assert SAFE["float32"] < SAFE["float64"]


@jax.jit
def _traced_status(gamma, p_x, x, key):
    op = cx.association_operator(cx.contexts.rbf(x, gamma, p_x))
    result, info = cx.svd(op, 2, key=key)
    return result.singular_values, info


@pytest.mark.parametrize(
    ("gamma", "mass", "bad"),
    [
        (-0.5, 1.0, 0.0),
        (0.0, 1.0, 0.0),
        (np.nan, 1.0, 0.0),
        (np.inf, 1.0, 0.0),
        (0.5, -0.1, 0.0),
        (0.5, np.nan, 0.0),
        (0.5, 1.0, np.inf),
    ],
)
def test_what_no_trace_can_refuse_gives_no_spectrum(gamma, mass, bad, key):
    p_x, x = np.ones(N, DTYPE), X.copy()
    p_x[3], x[2, 1] = mass, X[2, 1] + bad
    values, info = _traced_status(DTYPE(gamma), p_x, x, key)
    assert info.status == "non-finite"
    assert not np.isfinite(values).any()


@jax.jit
def _traced_norm(scale, bias):
    op = cx.association_operator(cx.contexts.attention(X, K, scale, bias))
    return op.squared_norm()


def test_an_attention_map_refuses_likewise():
    bias = np.zeros(N, DTYPE)
    assert np.isfinite(_traced_norm(DTYPE(1), bias))
    for value in (np.nan, np.inf):
        assert np.isnan(_traced_norm(DTYPE(value), bias))
    for value in (np.nan, np.inf, -np.inf):
        assert np.isnan(_traced_norm(DTYPE(1), bias + DTYPE(value)))
    with pytest.raises(ValueError, match="scale must be finite; got inf"):
        cx.contexts.attention(X, K, np.inf)


@pytest.mark.slow
def test_a_sample_is_of_its_rows_alone(key):
    context = cx.contexts.rbf(blobs(1e4), 0.5)
    rows = jnp.arange(N)[::-1]
    whole = context.sample(key, rows)
    part = context.sample(key, rows[20:], row_offset=20)
    np.testing.assert_array_equal(whole[20:], part)


@pytest.mark.slow
def test_a_few_rows_are_drawn_and_weighed_without_the_others():
    """Read off the compiled programs: nothing of n · m, nor of batch · m."""
    n, m, few = 3000, 60_000, 400
    context = cx.contexts.attention(normal(0, n, D), normal(1, m, D))

    def space(function, *arrays):
        compiled = jax.jit(function).lower(context, *arrays).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    rows = jnp.arange(few)
    table = few * m * X.itemsize
    assert space(lambda c, k, x: c.sample(k, x), jax.random.key(0), rows) < table / 2
    assert space(lambda c, a, x: c.log_density(a, x), rows, rows) < table / 2


TILES: dict[str, tuple[Any, bool, bool, float]] = {
    "one product": ("inner", True, False, 1.0),
    "pieces": ("inner", False, True, 40.0),
    "differences": ("distances", False, True, 1.0),
    "differences, far": ("distances", False, True, 400.0),
    "a choice of pieces": ("inner", True, True, 40.0),
    "a choice of one product": ("distances", True, True, 0.1),
}


@pytest.mark.slow_cases("a choice of pieces", "differences, far", "one product")
@pytest.mark.parametrize(
    "name",
    [
        "one product",
        "differences, far",
        "a choice of pieces",
        *[
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("pieces", "differences", "a choice of one product")
        ],
    ],
)
@pytest.mark.skipif(not X64, reason="held against float64")
def test_tiles_have_the_gradients_of_the_dense_formulas(name):
    """Log weights in the hundreds where they are formed exactly, some far below all."""
    kind, *ways, scale = TILES[name]
    form = Form(kind, 3, *ways)
    arrays = (scale * normal(1, 11, 3), normal(2, 14, 3), normal(3, 14, 2))
    factor, bias, out = np.asarray(0.7), normal(5, 14), normal(4, 11, 2)
    large = np.asarray(0.0 if form.plain and not form.exact else 1e9)

    def parts(q, k, factor, bias):
        one, zero, one_k = jnp.ones(11), jnp.zeros(11), jnp.ones(14)
        if kind == "distances":
            norms = [factor * (x * x).sum(axis=1) for x in (q, k)]
            plain = [2 * factor * q, -norms[0], one], [k, one_k, bias - norms[1]]
        else:
            norms = [zero, 0 * one_k]
            plain = [factor * q, zero, one], [k, one_k, bias]
        size = large if scale > 1 else 0.0
        exact = (
            [q, factor * one, zero, zero, norms[0] + size],
            [k, one_k, bias, 0 * one_k, norms[1]],
        )
        return [lay_out(form, *both) for both in zip(plain, exact, strict=True)]

    def tiled(q, k, v, factor, bias):
        queries, keys = parts(q, k, factor, bias)
        lse = functools.partial(logsumexp_rows, form=form, tile_size=4)
        queries, _, low = normalise(form, queries, keys, lse)
        product = exp_matmul(queries, keys, v, form=form, tile_size=4)
        square = exp_matmul(queries, keys, v, form=form, tile_size=4, power=2.0)
        return (product * out).sum() + square.sum() + low.sum()

    def dense(q, k, v, factor, bias):
        if kind == "distances":
            logits = -((q[:, None] - k[None]) ** 2).sum(axis=2)
        else:
            logits = q @ k.T
        logits = factor * logits + bias[None, :]
        law, lse = jax.nn.softmax(logits, axis=1), jax.nn.logsumexp(logits, axis=1)
        return (law @ v * out).sum() + (law**2 @ v).sum() + lse.sum()

    given = (*arrays, factor, bias)
    got, expected = (jax.jit(jax.grad(f, range(5)))(*given) for f in (tiled, dense))
    for one, other in zip(got, expected, strict=True):
        size = float(np.abs(other).max())
        # Of the formula: its logits go to 1e6 there.
        rtol = 1e-9 if name.endswith("far") else 1e-11
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * size)


@jax.jit
def _tiled_with_gradient(q, k, v):
    form = Form("distances", 3, plain=False, exact=True)

    def rows(x, points):
        one, zero = jnp.ones_like(x[:, 0]), jnp.zeros_like(x[:, 0])
        return lay_out(form, None, [points, one, zero, zero, zero])

    def total(q, k, v):
        queries, keys = rows(q, q), rows(k, k)
        lse = functools.partial(logsumexp_rows, form=form, tile_size=4)
        queries, _, _ = normalise(form, queries, keys, lse)
        return (exp_matmul(queries, keys, v, form=form, tile_size=4) ** 2).sum()

    return jax.value_and_grad(total, range(3))(q, k, v)


@functools.cache
def _exported():
    count, other = jax.export.symbolic_shape("n, m")
    open_shapes = [
        jax.ShapeDtypeStruct(shape, DTYPE)
        for shape in ((count, 3), (other, 3), (other, 2))
    ]
    return jax.export.export(_tiled_with_gradient)(*open_shapes)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(11, 14), (1, 1), (4, 9), (5, 3)])
def test_tiles_of_numbers_that_an_export_leaves_open(sizes):
    """Far from the origin too: padding must be in no law, and give no NaN."""
    n, m = sizes
    q, k, v = 50 * normal(1, n, 3), 50 * normal(2, m, 3), normal(3, m, 2)
    value, bars = _exported().call(q, k, v)
    expected, expected_bars = _tiled_with_gradient(q, k, v)
    law = gaussian(q, 1.0, k)
    # Both round exponents of this size, each in its own order.
    rounding = tol(DTYPE, factor=1) * float(((q[:, None] - k) ** 2).sum(axis=2).max())
    np.testing.assert_allclose(value, ((law @ v) ** 2).sum(), rtol=rounding)
    np.testing.assert_allclose(value, expected, rtol=rounding)
    for one, of_closed in zip(bars, expected_bars, strict=True):
        size = float(np.abs(of_closed).max() + np.abs(k).max() * value)
        np.testing.assert_allclose(one, of_closed, atol=rounding * size)
