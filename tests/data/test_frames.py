"""Sparse matrices, Parquet and Feather as tables."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet
from scipy import sparse

from contexture_jax.cli._arguments import Options
from contexture_jax.cli._contexts import build_context, plan_context
from contexture_jax.data._counts import _symmetric, load_counts
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from tests.tolerances import tol

WEIGHTS = np.array([[0, 2, 1], [2, 0, 0], [1, 0, 3.0]])


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("form", ["matrix", "array"])
def test_a_sparse_matrix_is_a_table(tmp_path, kind, form):
    path = tmp_path / "w.npz"
    sparse.save_npz(path, getattr(sparse, f"{kind}_{form}")(WEIGHTS))
    for graph in (False, True):
        table = load_counts(str(path), graph=graph)
        np.testing.assert_array_equal(table.features, WEIGHTS)
    assert load_features(str(path)).features.shape == (3, 3)


def test_a_large_sparse_matrix_stays_sparse(tmp_path):
    n = 3000
    path = [np.arange(n - 1), np.arange(1, n)]
    weights = sparse.coo_array(
        (np.ones(2 * (n - 1)), (np.concatenate(path), np.concatenate(path[::-1]))),
        shape=(n, n),
    )
    sparse.save_npz(tmp_path / "w.npz", weights)
    options = Options(str(tmp_path / "w.npz"), context="graph")
    table = load_counts(options.data, graph=True, sparse=True)
    assert table.features.nnz == 2 * (n - 1)
    recipe = plan_context(options, table)
    assert recipe.num_triples == n - 1
    context = build_context(recipe, table, "float32")
    assert context.shape == (n, n)
    np.testing.assert_allclose(context.weights, 1 / (2 * n - 2), rtol=tol(np.float32))
    with pytest.raises(InputError, match="no target, drop or categorical"):
        load_counts(options.data, target="y", sparse=True)


@pytest.mark.parametrize(
    "change",
    [
        {"indices": np.array([0, 1, 7, 0, 2], np.int32)},
        {"indptr": np.array([0, 9, 3, 5], np.int32)},
        {"indptr": np.array([0.0, 2, 3, 5])},
        {"shape": np.array([3])},
        {"shape": np.array([2**40, 2**40])},
        {"format": np.array(b"xyz")},
        {"data": np.array([1, 2, np.nan, 3, 4])},
        {"data": np.array(["a", "b", "c", "d", "e"])},
    ],
    ids=lambda change: "".join(change),
)
def test_a_damaged_sparse_matrix_is_refused(tmp_path, change):
    matrix = sparse.csr_array(WEIGHTS)
    parts = {
        "format": np.array(b"csr"),
        "shape": np.array(matrix.shape),
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
    }
    np.savez(tmp_path / "w.npz", **(parts | change))
    with pytest.raises(InputError, match=r"w\.npz"):
        load_counts(str(tmp_path / "w.npz"))


def frame():
    """What pandas writes from nullable and categorical columns and a named index."""
    columns = {
        "a": pa.array([1, None, 3, 5]),
        "c": pa.array(["u", "v", "u", None]).dictionary_encode(),
        "k": pa.array([1, 2, 1, 2]),
        "b": pa.array([True, None, False, True]),
        "d": pa.array([0, 1, 2, 3], pa.timestamp("us")),
        "list": pa.array([[1], [2], [3], [4]]),
        "id": pa.array([2**53, 2**53 + 1, None, 2**53]),
        "row": pa.array([5, 6, 8, 9]),
    }
    said = {
        "index_columns": ["row"],
        "columns": [{"field_name": "k", "pandas_type": "categorical"}],
    }
    table = pa.table(columns)
    return table.replace_schema_metadata({"pandas": json.dumps(said)})


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_a_frame_is_read_with_its_types(tmp_path, name):
    path = str(tmp_path / name)
    write = parquet.write_table if name == "t.parquet" else feather.write_feather
    write(frame(), path)
    with pytest.raises(InputError, match=r'"d" of t.* looks like dates'):
        load_features(path)
    with pytest.raises(InputError, match=r'"list" of t.* holds lists'):
        load_features(path, drop=["d"])
    table = load_features(path, drop=["d", "list", "id"])
    assert table.feature_names == [
        "a", "c=u", "c=v", "c=missing", "k=1", "k=2", "b",
    ]  # fmt: skip
    assert table.notes[0] == "the index of the rows left out: row"
    assert any("2 missing numbers" in note for note in table.notes)
    judged = load_features(path, target="id", drop=["d", "list"], categorical=["id"])
    assert judged.target is not None
    assert judged.target.class_names == (str(2**53), str(2**53 + 1))
    np.testing.assert_array_equal(judged.rows, [0, 1, 3])
    assert load_features(path, target="row", drop=["d", "list"]).target is not None


def test_an_index_labels_the_rows_of_counts(tmp_path):
    said = {"index_columns": ["__index_level_0__"], "columns": []}
    table = pa.table({"u": [1, 2], "v": [3, 1], "__index_level_0__": [7, 9]})
    table = table.replace_schema_metadata({"pandas": json.dumps(said)})
    parquet.write_table(table, tmp_path / "t.parquet")
    counts = load_counts(str(tmp_path / "t.parquet"))
    np.testing.assert_array_equal(counts.features, [[1, 3], [2, 1]])
    assert counts.notes == ["the first column labels the rows"]


def test_a_frame_that_pandas_writes_is_read(tmp_path):
    data = {
        "a": pd.array([1, None, 3], dtype="Int64"),
        "c": pd.Categorical([10, 9, 10]),
    }
    pd.DataFrame(data, index=[3, 5, 6]).to_parquet(tmp_path / "t.parquet")
    table = load_features(str(tmp_path / "t.parquet"))
    assert table.feature_names == ["a", "c=9", "c=10"]
    assert table.notes[0] == "the index of the rows left out: without a name"


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_a_damaged_frame_is_refused(tmp_path, name):
    path = tmp_path / name
    (parquet.write_table if name == "t.parquet" else feather.write_feather)(
        frame(), str(path)
    )
    whole = path.read_bytes()
    for raw in (b"", b"x" * 40, whole[: len(whole) // 2], whole[:-9] + b"\0" * 9):
        path.write_bytes(raw)
        with pytest.raises(InputError, match=f"cannot read {name}"):
            load_features(str(path))


@pytest.mark.parametrize("unit", [1e300, 1e39, 1e-40, 1e-305])
@pytest.mark.parametrize("context", ["joint", "graph"])
def test_the_unit_of_counts_does_not_matter(tmp_path, unit, context):
    np.save(tmp_path / "w.npy", WEIGHTS * unit)
    options = Options(str(tmp_path / "w.npy"), context=context)
    table = load_counts(options.data, graph=context == "graph")
    law = build_context(plan_context(options, table), table, "float32").table()
    np.testing.assert_allclose(law, WEIGHTS / 9, rtol=tol(np.float32))


def test_separators_are_of_text_files(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(3))
    with pytest.raises(InputError, match=r"separator goes with a \.csv; path is"):
        load_features(str(tmp_path / "x.npy"), separator=";")


@pytest.mark.parametrize(("dtype", "sums"), [("u1", 300), ("?", 2), ("i1", 200)])
def test_repeated_entries_are_added_up_beyond_their_dtype(tmp_path, dtype, sums):
    data = {"u1": [200, 100], "?": [1, 1], "i1": [100, 100]}[dtype]
    parts = {
        "format": np.array(b"coo"),
        "shape": np.array([2, 2]),
        "data": np.array([*data, 1]).astype(dtype),
        "row": np.array([0, 0, 1]),
        "col": np.array([0, 0, 1]),
    }
    np.savez(tmp_path / "w.npz", **parts)
    np.testing.assert_array_equal(
        load_counts(str(tmp_path / "w.npz")).features, [[sums, 0], [0, 1]]
    )


@pytest.mark.parametrize("made", [np.asarray, sparse.csr_array])
def test_a_small_one_way_edge_beside_a_large_weight_is_refused(made):
    weights = np.zeros((4, 4))
    weights[[0, 1, 2], [1, 2, 0]] = 0.5
    weights[3, 3] = 1e6
    with pytest.raises(InputError, match="symmetric"):
        _symmetric("w", made(weights))
    both = weights + weights.T
    rounded = both * (1 + 1e-9 * np.triu(np.ones((4, 4))))
    found = _symmetric("w", made(rounded))
    found = found if made is np.asarray else found.toarray()
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, both, rtol=1e-8)


def test_text_of_a_typed_file_is_no_mark_of_a_missing_value(tmp_path):
    path = str(tmp_path / "t.parquet")
    table = pa.table({"a": [1, 2, 4, 8], "y": ["None", "NA", None, "None"]})
    parquet.write_table(table, path)
    target = load_features(path, target="y").target
    assert target is not None
    assert target.class_names == ("NA", "None")
    np.testing.assert_array_equal(load_features(path, target="y").rows, [0, 1, 3])
    asked = load_features(path, missing=("NA",))
    assert "y=missing" in asked.feature_names
