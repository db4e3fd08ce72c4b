"""The k-NN graph of features that are read in parts is that of all at once."""

import numpy as np
import pytest

import contexture_jax as cx

X = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32).round(1)
X[40:50] = X[:10]  # copies, and ties beside them


@pytest.mark.parametrize("query_bytes", [12 * 70, 12 * 30])
def test_the_graph_is_the_same_to_the_last_tie(tmp_path, query_bytes):
    np.save(tmp_path / "a.npy", X[:33])
    np.save(tmp_path / "b.npy", X[33:])
    seen = []
    found = cx.contexts.knn_of_blocks(
        cx.data.open_shards(tmp_path),
        7,
        block_bytes=12 * 20,
        query_bytes=query_bytes,
        progress=lambda *at: seen.append(at),
    )
    np.testing.assert_array_equal(found.indices, cx.contexts.knn(X, 7).indices)
    assert seen[-1] == (70, 70)


def test_entries_and_too_many_neighbours_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_neighbors"):
        cx.contexts.knn_of_blocks(X, 71)
    np.savez(tmp_path / "a.npz", rows=[0], columns=[1])
    with pytest.raises(TypeError, match="rows of features"):
        cx.contexts.knn_of_blocks(cx.data.open_shards(tmp_path), 1)
