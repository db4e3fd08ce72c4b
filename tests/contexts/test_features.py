"""Contexts of feature vectors: nearest neighbours, Gaussian kernels, teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import contexture_jax as cx
from contexture_jax.kernels.neighbors._search import nearest_neighbors
from tests.conftest import X64
from tests.problems import features
from tests.tolerances import tol

DTYPE = np.float64 if X64 else np.float32


@pytest.mark.slow_cases("3000-5-12", "900-2-900")
@pytest.mark.parametrize(
    ("rows", "dim", "num_neighbors"), [(40, 3, 7), (3000, 5, 12), (900, 2, 900)]
)
def test_neighbours_are_those_of_a_brute_force_peer(rows, dim, num_neighbors):
    """Below, at and above the size where selection goes in two stages."""
    x = np.random.default_rng(0).normal(size=(rows, dim)).astype(DTYPE)
    context = cx.contexts.knn(x, num_neighbors)
    peer = NearestNeighbors(n_neighbors=num_neighbors, algorithm="brute").fit(x)
    distances, indices = peer.kneighbors(x)
    found = np.asarray(context.indices)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(indices, axis=1))
    gaps = np.linalg.norm(x[:, None] - x[found], axis=2)
    np.testing.assert_allclose(gaps, distances, atol=tol(DTYPE, factor=1e3) ** 0.5)


def test_a_point_is_its_own_neighbour_and_columns_have_mass():
    context = cx.contexts.knn(features(DTYPE), 4)
    np.testing.assert_array_equal(context.indices[:, 0], np.arange(14))
    assert (np.asarray(cx.association_operator(context).p_a) > 0).all()


def test_the_law_of_neighbours_is_not_taken_to_be_uniform():
    context = cx.contexts.knn(features(DTYPE), 4)
    op = cx.association_operator(context)
    counts = np.bincount(np.asarray(context.indices).ravel(), minlength=14)
    np.testing.assert_allclose(op.p_a, counts / counts.sum(), atol=tol(DTYPE))
    assert np.ptp(counts) > 0


def test_equal_points_have_equal_laws():
    """More copies than neighbours: the first ones count, for every copy alike."""
    x = np.repeat(features(DTYPE)[:2], 6, axis=0)
    indices = np.asarray(cx.contexts.knn(x, 3).indices)
    assert (indices[:6] == [0, 1, 2]).all()
    assert (indices[6:] == [6, 7, 8]).all()


def test_data_far_from_the_origin_lose_no_digits():
    x = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    near = np.asarray(cx.contexts.knn(x, 9).indices)
    far = np.asarray(cx.contexts.knn(x + np.float32(1024), 9).indices)
    shared = np.mean([np.isin(a, b).mean() for a, b in zip(near, far, strict=True)])
    assert shared > 0.99  # adding 1024 rounds the data themselves


def test_the_neighbours_of_a_query_do_not_depend_on_its_company():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(500, 4)).astype(np.float32))
    together = nearest_neighbors(x, x, 8)
    alone = nearest_neighbors(x[17:18], x, 8)
    np.testing.assert_array_equal(together[17], alone[0])


@pytest.mark.slow
def test_progress_is_reported_up_to_the_end():
    x = np.random.default_rng(3).normal(size=(9000, 2)).astype(np.float32)
    calls = []
    cx.contexts.knn(x, 2, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) > 1
    assert calls[-1] == (9000, 9000)


def test_an_rbf_row_is_a_softmax_of_distances():
    x = features(DTYPE)
    scores = -0.5 * ((x[:, None] - x[None]) ** 2).sum(axis=2)
    law = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        cx.contexts.rbf(x, 0.5).table(), law / len(x), atol=tol(DTYPE)
    )


@pytest.mark.slow
def test_a_tiny_bandwidth_stays_finite():
    """Scores of minus thousands: every row keeps a law, its own point."""
    op = cx.association_operator(cx.contexts.rbf(features(DTYPE), 1e4))
    np.testing.assert_allclose(op.as_matrix(), np.eye(14), atol=tol(DTYPE))


@pytest.mark.slow
def test_gamma_has_a_gradient():
    x = jnp.asarray(features(DTYPE))

    def association(gamma: jax.Array) -> jax.Array:
        zeros, law = jnp.zeros(14, DTYPE), jnp.full(14, 1 / 14)
        context = cx.contexts.Rbf(x, x, gamma, zeros, law)
        found = cx.association_operator(context).squared_norm()
        assert found is not None
        return found

    gamma, step = jnp.asarray(0.5, DTYPE), 1e-4
    slope = (association(gamma + step) - association(gamma - step)) / (2 * step)
    accuracy = 1e-6 if X64 else 2e-2
    np.testing.assert_allclose(jax.grad(association)(gamma), slope, rtol=accuracy)


@pytest.mark.slow
def test_a_teacher_has_ones_for_every_direction_whatever_the_scale(key):
    context = cx.contexts.teacher(features(DTYPE) * np.array([1, 100, 0.01], DTYPE))
    op = cx.association_operator(context)
    result, _ = cx.svd(op, 5, key=key)
    np.testing.assert_allclose(
        result.singular_values, [1, 1, 1, 0, 0], atol=tol(DTYPE, factor=100)
    )
    np.testing.assert_allclose(context.spectrum(4), [1, 1, 1, 0], atol=tol(DTYPE))


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="theory.md §0 E14")
def test_printed_batch_size_in_the_teacher_kernel_keeps_the_eigenvalues():
    eigenvalues = np.linalg.eigvalsh(teacher_kernel(factor=7) / 14)
    np.testing.assert_allclose(eigenvalues[-4:], 1, atol=tol(DTYPE, factor=100))


def test_the_number_of_rows_in_the_teacher_kernel_keeps_the_eigenvalues():
    """theory.md §0 E14: k = N z zᵀ + 1 with z whitened over all N rows."""
    kernel = teacher_kernel(factor=14)
    eigenvalues = np.linalg.eigvalsh(kernel / 14)
    np.testing.assert_allclose(eigenvalues[-4:], 1, atol=tol(DTYPE, factor=100))
    context = cx.contexts.teacher(features(DTYPE))
    index = jnp.arange(14)
    np.testing.assert_allclose(
        context.kernel(index, index), kernel, atol=tol(DTYPE, factor=1000)
    )


def teacher_kernel(factor: int) -> np.ndarray:
    z = features(np.float64)
    u = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)[0]
    return factor * u @ u.T + 1


def test_a_threshold_keeps_strong_directions_and_zero_keeps_the_spectrum():
    z = features(DTYPE) * np.array([1, 10, 0.1], DTYPE)
    sigma = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    assert cx.contexts.teacher(z, 0.999 * float(sigma[1])).values.shape == (2,)
    np.testing.assert_allclose(
        cx.contexts.teacher(z, 0.0).values, sigma / sigma[0], rtol=tol(DTYPE, factor=99)
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: cx.contexts.knn(x, 15), ValueError, "number of points, 14; got 15"),
        (
            lambda x: cx.contexts.knn(x, 0),
            ValueError,
            "num_neighbors must be at least 1",
        ),
        (lambda x: cx.contexts.knn(x[0], 1), ValueError, r"x must have 2 dimension"),
        (
            lambda x: cx.contexts.knn(x * np.nan, 2),
            ValueError,
            r"x must be finite; got n",
        ),
        (lambda x: cx.contexts.knn(x[:0], 1), ValueError, "x must not be empty"),
        (
            lambda x: cx.contexts.rbf(x, 0.0),
            ValueError,
            "gamma must be positive; got 0",
        ),
        (lambda x: cx.contexts.rbf(x, np.inf), ValueError, "gamma must be positive"),
        (lambda x: cx.contexts.rbf(x, x), ValueError, "gamma must have 0 dimension"),
        (
            lambda x: cx.contexts.attention(x, x[:, :2]),
            ValueError,
            r"same width; got shapes \(14, 3\) and \(14, 2\)",
        ),
        (
            lambda x: cx.contexts.attention(x, x, bias=x[:3, 0]),
            ValueError,
            r"bias must have shape \(14,\)",
        ),
        (
            lambda _: cx.contexts.neighbors(np.array([[0, 5]]), num_points=3),
            ValueError,
            r"indices must be between 0 and 2; got 5 at indices\[0, 1\]",
        ),
        (
            lambda _: cx.contexts.neighbors(np.full((2, 2), -1)),
            ValueError,
            r"indices must be between 0 and 0; got -1 at indices\[0, 0\]",
        ),
        (lambda x: cx.contexts.neighbors(x), TypeError, "indices must hold integers"),
        (
            lambda _: cx.contexts.neighbors(np.array([[0, 1]]), np.zeros((1, 2))),
            ValueError,
            "weights must be of positive mass in every row",
        ),
        (
            lambda _: cx.contexts.teacher(np.ones((5, 2))),
            ValueError,
            "z must have a direction that varies",
        ),
        (
            lambda x: cx.contexts.teacher(x, -1.0),
            ValueError,
            "threshold must be non-negative; got -1",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(features(DTYPE))
