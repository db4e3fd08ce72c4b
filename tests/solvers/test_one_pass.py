"""A sketch of rows that are seen once, and its bounds."""

import jax
import numpy as np
import pytest

import contexture_jax as cx
from tests import oracle

KEY = jax.random.key(4)


def table(decay: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    signs = [rng.integers(0, 2, (size, 6)) * 2.0 - 1 for size in (150, 40)]
    found = 1 + signs[0] * (0.3 * decay ** np.arange(6)) @ signs[1].T
    found = np.maximum(found, 0) * (0.8 + 0.4 * rng.random(found.shape))
    found[3], found[:, 5] = 0, 0
    return found.astype(np.float32)


def seen_once(rows: np.ndarray, step: int = 64):
    yield from (rows[i : i + step] for i in range(0, len(rows), step))


@pytest.mark.parametrize("width", [39, 12])
def test_bounds_hold_and_are_tight_where_the_sketch_is_wide(width):
    rows = table(0.6)
    sketch = cx.solvers.one_pass(seen_once(rows), 5, key=KEY, width=width)
    s, _, right = oracle.triples(rows / rows.sum(dtype=float))
    s, right = s[:5], right[:, :5]
    assert (sketch.lower <= s).all()
    assert (s <= sketch.upper).all()
    energy = (oracle.triples(rows / rows.sum(dtype=float))[0] ** 2).sum()
    np.testing.assert_allclose(sketch.total_energy, energy, atol=1e-5)
    assert sketch.missed_energy <= energy
    gram = sketch.right.T @ (sketch.p_a[:, None] * sketch.right)
    np.testing.assert_allclose(gram, np.eye(5), atol=1e-4)
    assert abs(sketch.p_a @ sketch.right).max() < 1e-5
    if width == 39:
        np.testing.assert_allclose(sketch.singular_values, s, atol=1e-4)
        assert (sketch.upper - sketch.lower)[0] < 1e-3
        op = cx.association_operator(cx.contexts.joint(rows))
        exact, _ = cx.svd(op, 5, key=KEY)
        gap = np.minimum(
            abs(sketch.left(rows) - exact.left), abs(sketch.left(rows) + exact.left)
        )
        assert gap[:, :2].max() < 1e-2


def test_how_rows_are_cut_does_not_matter_beyond_rounding():
    rows = table(0.5)
    one, two = (
        cx.solvers.one_pass(seen_once(rows, step), 4, key=KEY) for step in (64, 150)
    )
    np.testing.assert_allclose(one.singular_values, two.singular_values, atol=1e-5)


@pytest.mark.parametrize(
    ("blocks", "rank", "said"),
    [
        ([], 1, "got none"),
        ([np.ones((2, 3)), np.ones((2, 4))], 1, r"\(b, 3\)"),
        ([-np.ones((2, 3))], 1, "0 or more"),
        ([np.zeros((2, 3))], 1, "some weight"),
        ([np.ones((2, 3))], 3, "at most 2"),
    ],
)
def test_what_is_no_table_of_weights_is_refused(blocks, rank, said):
    with pytest.raises(ValueError, match=said):
        cx.solvers.one_pass(iter(blocks), rank, key=KEY)
