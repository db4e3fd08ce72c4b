"""Most of the nearest neighbours, and what share; points over devices; other graphs."""

import jax
import numpy as np
import pytest
import scipy.sparse
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import contexture_jax as cx
from contexture_jax.kernels import approximate_neighbors, nearest_neighbors
from contexture_jax.kernels.neighbors import _lists, _ring
from tests import hlo
from tests.conftest import X64
from tests.tolerances import tol

ROWS, NEIGHBORS = 2000, 7
RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
DTYPES = [np.float32, np.float64] if X64 else [np.float32]


def points(name: str, dtype: type = np.float32) -> np.ndarray:
    x = RNG.normal(size=(ROWS, 6))
    made = {
        "normal": x,
        "clusters": x + 20 * RNG.normal(size=(9, 6))[np.arange(ROWS) % 9],
        "far and large": 1e18 * x + 1e21,
        "halves": np.where(np.arange(ROWS)[:, None] % 2, x, 1.5),
    }
    return made[name].astype(dtype)


def shares(found: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of each point, the share of its nearest that was found, ties either way."""
    x = x.astype(np.float64)
    squares = (x**2).sum(1)
    distances = squares[:, None] + squares[None, :] - 2 * x @ x.T
    last = np.partition(distances, NEIGHBORS - 1, axis=1)[:, NEIGHBORS - 1]
    near = np.take_along_axis(distances, found, axis=1)
    scale = squares.max()
    return (near <= last[:, None] + 1e-6 * scale).mean(axis=1)


@pytest.mark.parametrize(
    ("name", "recall"), [("normal", 0.99), ("clusters", 0.99), ("halves", 0.6)]
)
def test_the_share_that_is_said_is_found(name, recall):
    x = points(name)
    found = approximate_neighbors(x, NEIGHBORS, key=KEY, recall=recall)
    index = np.asarray(found.indices)
    assert index.dtype == np.int32
    assert index.shape == (ROWS, NEIGHBORS)
    assert all(len(set(row)) == NEIGHBORS for row in index.tolist())
    true = shares(index, x).mean()
    error = max(found.standard_error, 1e-3)
    assert abs(found.recall - true) < 4 * error
    assert true > recall - 4 * error
    # Fewer lists than there are: of few probes not much more than asked for is found.
    assert 1 <= found.num_probes < found.num_lists
    # Nearest first, itself at the head.
    gaps = np.linalg.norm(x[:, None] - x[index], axis=2)
    assert (np.diff(gaps, axis=1) >= -1e-5 * gaps.max()).all()
    assert (gaps[:, 0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_lists_give_the_exact_graph(dtype):
    x = points("clusters", dtype)[:300]
    exact = nearest_neighbors(x, x, NEIGHBORS)
    found = approximate_neighbors(x, NEIGHBORS, key=KEY, recall=1 - 1e-9)
    np.testing.assert_array_equal(found.indices, exact)
    assert (found.recall, found.standard_error) == (1.0, 0.0)


def test_offset_and_scale_do_not_matter():
    x = points("normal")
    one = approximate_neighbors(x, NEIGHBORS, key=KEY)
    two = approximate_neighbors(2.0**70 * x, NEIGHBORS, key=KEY)
    np.testing.assert_array_equal(one.indices, two.indices)
    far = approximate_neighbors(points("far and large"), NEIGHBORS, key=KEY)
    assert far.recall > 0.97


def test_a_recall_that_was_not_reached_is_told(monkeypatch):
    monkeypatch.setattr(_lists, "_enough", lambda *_: 1)
    x = points("normal")
    found = approximate_neighbors(x, NEIGHBORS, key=KEY)
    true = shares(np.asarray(found.indices), x).mean()
    assert true < 0.8
    assert abs(found.recall - true) < 4 * found.standard_error


def test_queries_that_choose_do_not_judge(monkeypatch):
    seen, nearest = [], _lists._nearest

    def kept(a, sample, count):
        seen.append(set(sample.tolist()))
        return nearest(a, sample, count)

    monkeypatch.setattr(_lists, "_nearest", kept)
    approximate_neighbors(points("normal"), NEIGHBORS, key=KEY)
    assert len(seen) == 2
    assert not seen[0] & seen[1]


def test_a_device_searches_in_one_program():
    x = points("clusters")[:700]
    x = x - x.mean(axis=0)
    found = _lists.search_on_device(
        jax.numpy.asarray(x), num_neighbors=NEIGHBORS, block=64, recall=0.99
    )
    # On a CPU the operation is exact.
    np.testing.assert_array_equal(found, nearest_neighbors(x, x, NEIGHBORS))


def test_progress_is_told_to_the_end():
    told = []
    # Equal rows are searched for once.
    x = points("halves")[:1000]
    approximate_neighbors(
        x, 3, key=KEY, progress=lambda done, n: told.append((done, n))
    )
    assert told[-1] == (1000, 1000)
    assert len(told) > 10


def test_bad_input_is_refused():
    x = points("normal")[:20]
    with pytest.raises(ValueError, match="recall must be above 0 and below 1; got 1"):
        approximate_neighbors(x, 3, key=KEY, recall=1.0)
    with pytest.raises(ValueError, match=r"num_neighbors must be .*20"):
        cx.contexts.approximate_knn(x, 21, key=KEY)


def test_graphs_of_other_libraries_are_taken_as_they_are():
    """As FAISS, hnswlib and scikit-learn give them: int64, uint64 and a CSR matrix."""
    x = points("clusters")[:60].astype(np.float64)
    lists = np.array(nearest_neighbors(x, x, NEIGHBORS))
    table = np.asarray(cx.contexts.knn(x, NEIGHBORS).table())
    for dtype in (np.int64, np.uint64):
        context = cx.contexts.neighbors(lists.astype(dtype), num_points=60)
        np.testing.assert_allclose(context.table(), table, rtol=1e-6)
    start = NEIGHBORS * np.arange(61)
    csr = scipy.sparse.csr_array(
        (np.ones(lists.size), lists.ravel(), start), shape=(60, 60)
    )
    np.testing.assert_allclose(cx.contexts.joint(csr).table(), table, rtol=1e-6)
    # What FAISS gives where a search found too few.
    lists[3, -1] = -1
    with pytest.raises(ValueError, match=r"between 0 and 59; got -1"):
        cx.contexts.neighbors(lists, num_points=60)


def _few_bits(num_rows, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, size=(num_rows, 3)).astype(np.float32)


@pytest.mark.parametrize("num_rows", [48, 45])
def test_points_over_devices_find_the_same_neighbours(num_rows):
    """Numbers of few bits: distances are exact, and ties are in order of number."""
    mesh = jax.make_mesh((8,), ("x",))
    # About their mean, which is not of few bits, rounding ordered some of these.
    for seed in range(8):
        x = _few_bits(num_rows, seed)
        over = cx.contexts.knn(x, NEIGHBORS, mesh=mesh).indices
        np.testing.assert_array_equal(over, cx.contexts.knn(x, NEIGHBORS).indices)
    x = _few_bits(num_rows, 0)
    over = cx.contexts.knn(x, NEIGHBORS, mesh=mesh)
    if num_rows == 48:
        assert {s.data.shape for s in over.indices.addressable_shards} == {(6, 7)}
    op = cx.association_operator(over, mesh=mesh)
    wanted = cx.association_operator(cx.contexts.knn(x, NEIGHBORS)).as_matrix()
    np.testing.assert_allclose(op.as_matrix(), wanted, rtol=tol(np.float32))


@pytest.mark.slow
def test_no_device_holds_more_points_than_two_shares():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    cut = NamedSharding(mesh, PartitionSpec("x"))
    x = jax.ShapeDtypeStruct((4096, 3), np.float32, sharding=cut)
    program = _ring._search_over_mesh.lower(
        x, num_neighbors=5, mesh=mesh, axis="x"
    ).compile()
    text = program.as_text() or ""
    assert not [shape for shape in hlo.shapes(text) if 4096 in shape]
    large = {what for what in hlo.collectives(text) if what[1] > 100}
    assert large == {("collective-permute", 512 * 3 * 4)}


def test_an_axis_that_a_mesh_has_not_is_refused():
    mesh = jax.make_mesh((2,), ("x",))
    with pytest.raises(ValueError, match=r"axis must be one of .*'x'.*; got 'y'"):
        cx.contexts.knn(np.eye(4), 2, mesh=mesh, axis="y")
