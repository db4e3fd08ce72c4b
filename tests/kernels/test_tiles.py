"""Tiles of laws that are never stored: their sizes, and products by uneven ones."""

import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.kernels import tile_shape
from tests.tolerances import tol


@pytest.mark.parametrize("m", [1, 5, 16, 50, 1000, 1024, 1030, 20_000, 200_000])
@pytest.mark.parametrize("tile_size", [1, 7, 16, 40, 1000, 1024])
def test_rows_of_a_tile_begin_where_vectors_do_and_tiles_are_no_more(m, tile_size):
    rows, columns = tile_shape(200_000, m, tile_size)
    assert 1 <= columns <= min(m, tile_size)
    assert columns % 16 == 0 or columns in (m, tile_size)
    assert -(-m // columns) <= -(-m // tile_size)
    assert rows <= tile_size


@pytest.mark.parametrize(("m", "columns"), [(17, 17), (33, 32), (50, 32)])
def test_a_last_tile_that_lies_over_the_one_before_counts_nothing_twice(m, columns):
    rng = np.random.default_rng(m)
    x, a = rng.standard_normal((23, 3)), rng.standard_normal((m, 3))
    context = cx.contexts.rbf(a, 0.3).at(x)
    op = cx.association_operator(context, tile_size=32)
    assert tile_shape(23, m, 32)[1] == columns
    weights = np.exp(-0.3 * ((x[:, None] - a[None]) ** 2).sum(2))
    g = rng.standard_normal((m, 4))
    truth = weights / weights.sum(1, keepdims=True) @ g
    ours = op.matmat(jnp.asarray(g, op.dtype))
    np.testing.assert_allclose(ours, truth, atol=tol(op.dtype, size=1))
