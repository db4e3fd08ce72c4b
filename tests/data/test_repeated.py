"""Columns of one value take no memory, and nothing else of them changes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from contexture_jax.data._counts import load_counts
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from contexture_jax.data._read import read
from contexture_jax.data._source import is_repeated
from tests.data.helpers import write

NUM_CELLS = 4_000_000
SMALL = np.array([[0, 3, 7, 5], [0, 3, 8, 0], [0, 3, 7, 2], [0, 3, 9, 1]])


def peak_of_refusal(path: Path, target: str | None = None) -> int:
    """The most memory at once of reading what there is nothing to learn from."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"constant columns|all 4000000 rows"):
            load_features(str(path), target=target)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(NUM_CELLS // 4, 4), (NUM_CELLS // 200, 200)])
def test_zeros_that_a_small_archive_says_take_their_own_size(tmp_path, shape):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros(shape, np.uint8))
    assert path.stat().st_size < 10_000
    assert peak_of_refusal(path) < 2.5 * NUM_CELLS


def test_a_target_of_zeros_takes_its_own_size(tmp_path):
    zeros = np.zeros(NUM_CELLS, np.uint8)
    np.savez_compressed(tmp_path / "x.npz", x=zeros[:, None], y=zeros)
    # With the numbers of the rows, which are of 64 bits.
    assert peak_of_refusal(tmp_path / "x.npz", target="y") < 4 * 2 * NUM_CELLS


@pytest.mark.slow
def test_empty_columns_of_a_sparse_matrix_take_no_memory(tmp_path):
    weights = sparse.csr_array(([1.0, 2.0], ([0, 5], [7, 7])), shape=(800, 800))
    sparse.save_npz(tmp_path / "x.npz", weights)
    tracemalloc.start()
    try:
        table = load_features(str(tmp_path / "x.npz"))
        assert tracemalloc.get_traced_memory()[1] < 4 * 800**2
    finally:
        tracemalloc.stop()
    assert table.feature_names == ["x7"]
    column = weights.toarray()[:, 7]
    np.testing.assert_allclose(
        table.features[:, 0], (column - column.mean()) / column.std(), rtol=1e-14
    )


@pytest.mark.parametrize("kind", ["C", "F", "sparse"])
def test_columns_of_one_value_are_as_they_were(tmp_path, kind):
    path = tmp_path / "x.npz"
    if kind == "sparse":
        sparse.save_npz(path, sparse.coo_array(SMALL))
    else:
        np.savez(path, x=np.array(SMALL, order=kind), y=np.arange(4.0))
    lines = ["x0,x1,x2,x3", *(",".join(map(str, row)) for row in SMALL)]
    text = str(write(tmp_path, "\n".join(lines)))
    found, expected = load_features(str(path)), load_features(text)
    np.testing.assert_array_equal(found.features, expected.features)
    assert found.notes == expected.notes == ["2 constant columns left out: x0, x1"]
    np.testing.assert_array_equal(load_counts(str(path)).features, SMALL)
    with pytest.raises(InputError, match=r'"x1" of x.npz has no values'):
        load_features(str(path), missing=("3",))


def test_rows_without_a_target_leave_one_value_one(tmp_path):
    y = np.array([1.0, np.nan, 2.0, 4.0])
    np.savez(tmp_path / "x.npz", x=SMALL, y=y)
    source = read(str(tmp_path / "x.npz"))
    assert [is_repeated(cells) for cells in source.columns] == [
        True,
        True,
        False,
        False,
    ]
    table = load_features(str(tmp_path / "x.npz"), target="y")
    assert table.num_constant == 2
    np.testing.assert_array_equal(table.rows, [0, 2, 3])
