"""Operators that are read block by block: in memory, from shards, and cut off."""

import itertools
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp

import contexture_jax as cx
from contexture_jax.operators.streamed import _operator, _sums
from tests.tolerances import tol

KEY = jax.random.key(3)
N, M = 90, 24
BLOCK = 4 * M * 16  # 16 rows


def table() -> np.ndarray:
    """A few strong functions, some rows and columns without mass."""
    rng = np.random.default_rng(0)
    found = (rng.random((N, 3)) @ rng.random((3, M)) + 0.3 * rng.random((N, M))) ** 3
    found *= found > 0.6
    found[5] = 0
    found[:, 7] = 0
    return found.astype(np.float32)


TABLE = table()
F, G = (np.random.default_rng(1).normal(size=(k, 3)).astype("float32") for k in (N, M))


def saved_rows(folder: Path, cuts=(0, 40, 41, N)) -> cx.data.Shards:
    for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
        np.save(folder / f"part-{number}.npy", TABLE[start:stop])
    return cx.data.open_shards(folder)


def saved_entries(folder: Path, kind: str, *, sort: bool) -> cx.data.Shards:
    entries = sp.coo_array(TABLE)
    order = np.arange(entries.nnz)
    if not sort:
        np.random.default_rng(2).shuffle(order)
    for number, part in enumerate(np.array_split(order, 4)):
        columns = {
            "rows": entries.row[part],
            "columns": entries.col[part],
            "values": entries.data[part],
        }
        if kind == "npz":
            np.savez(folder / f"{number}.npz", shape=np.array(TABLE.shape), **columns)
        else:
            pa = pytest.importorskip("pyarrow")
            pq = pytest.importorskip("pyarrow.parquet")
            pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    return cx.data.open_shards(folder, shape=TABLE.shape)


def same_as_in_memory(op) -> None:
    """Both products, T* T, marginals and the norm."""
    exact: Any = cx.association_operator(cx.contexts.joint(TABLE))
    atol = tol(np.float32, factor=20)
    for found, expected in (
        (op.p_x, exact.p_x),
        (op.p_a, exact.p_a),
        (op.matmat(G), exact.matmat(G)),
        (op.rmatmat(F), exact.rmatmat(F)),
        (op.gram(G), exact.rmatmat(exact.matmat(G))),
        (op.T.matmat(F), exact.rmatmat(F)),
    ):
        np.testing.assert_allclose(found, expected, atol=atol)
    if op.norm2 is not None:
        np.testing.assert_allclose(op.norm2, exact.squared_norm(), rtol=atol)


def test_shards_of_rows_are_the_table_and_to_the_bit_that_of_memory(tmp_path):
    op = cx.operators.streamed_operator(
        saved_rows(tmp_path, (0, 32, N)), block_bytes=BLOCK
    )
    same_as_in_memory(op)
    near = cx.operators.streamed_operator(TABLE, block_bytes=BLOCK)
    found, expected = (cx.svd(o, 3, key=KEY, tol=1e-4) for o in (op, near))
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, two)
    assert found[1].status == "converged"
    exact, _ = cx.svd(cx.association_operator(cx.contexts.joint(TABLE)), 3, key=KEY)
    np.testing.assert_allclose(
        found[0].singular_values, exact.singular_values, atol=1e-4
    )


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_shards_of_entries_in_any_order_are_the_table(tmp_path, kind, sort):
    op = cx.operators.streamed_operator(saved_entries(tmp_path, kind, sort=sort))
    same_as_in_memory(op)
    assert not op.has_whole_rows  # cut anywhere, or shuffled


def test_entries_of_whole_rows_are_read_once_for_both_products(tmp_path):
    entries = sp.coo_array(TABLE)
    for number in range(3):
        part = entries.row // 30 == number
        np.savez(
            tmp_path / f"{number}.npz",
            row=entries.row[part],
            col=entries.col[part],
            data=entries.data[part],
        )
    # Rows and columns behind the last entry are not told.
    op = cx.operators.streamed_operator(cx.data.open_shards(tmp_path, shape=(N, M)))
    same_as_in_memory(op)
    before = op.reader.passes
    op.gram(G)
    assert op.has_whole_rows
    assert op.reader.passes - before == pytest.approx(1)


def test_a_filter_reads_once_a_pass_and_blocks_in_memory_are_few(tmp_path):
    op = cx.operators.streamed_operator(saved_rows(tmp_path), block_bytes=BLOCK)
    _, info = cx.svd(op, 3, key=KEY, num_oversamples=2, tol=1e-5)
    tally = op.reader.tally
    ritz = sum(count for (kind, _), count in tally.items() if kind == "forward")
    grams = sum(count for (kind, _), count in tally.items() if kind == "gram")
    assert grams > 0
    assert ritz + grams == info.num_passes - 0.5
    # One is multiplied, the others are read or wait.
    assert len(op.reader._room()) == op.reader.depth + 1 == 3


def test_a_product_goes_on_from_its_block_to_the_same_bits(tmp_path, monkeypatch):
    shards = saved_rows(tmp_path)

    def opened(where):
        return cx.operators.streamed_operator(
            shards, block_bytes=BLOCK, journal=where, journal_seconds=0.0
        )

    plain = opened(tmp_path / "other")
    expected = {
        "forward": plain.matmat(G),
        "backward": plain.rmatmat(F),
        "gram": plain.gram(G),
    }
    products: list[tuple[Any, np.ndarray]]
    products = [("forward", G), ("backward", F), ("gram", G)]
    for kind, block in products:
        op = opened(tmp_path / f"journal-{kind}")
        made = _operator.by_rows

        def failing(*args, made=made):
            product, calls = made(*args), []

            def add(out, place, numbers):
                calls.append(place)
                if len(calls) == 4:
                    raise KeyboardInterrupt
                return product.add(out, place, numbers)

            return product._replace(add=add)

        monkeypatch.setattr(_operator, "by_rows", failing)
        with pytest.raises(KeyboardInterrupt):
            op._product(kind, block, "block")
        monkeypatch.setattr(_operator, "by_rows", made)
        before = op.reader.passes
        found = op._product(kind, block, "block")
        assert op.reader.passes - before < 0.7  # of a pass: three blocks were there
        np.testing.assert_array_equal(found, expected[kind])


def test_a_first_pass_goes_on_from_its_block(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    shards = saved_rows(tmp_path / "shards")
    check, calls = _sums._check, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        check(*args)

    def opened():
        return cx.operators.streamed_operator(
            shards, block_bytes=BLOCK, journal=tmp_path / "kept", journal_seconds=0.0
        )

    monkeypatch.setattr(_sums, "_check", failing)
    with pytest.raises(KeyboardInterrupt):
        opened()
    monkeypatch.setattr(_sums, "_check", check)
    op = opened()
    assert op.reader.passes < 0.7
    plain = cx.operators.streamed_operator(shards, block_bytes=BLOCK)
    for one, two in zip(jax.tree.leaves(op), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_a_solve_that_is_killed_within_a_pass_goes_on_to_the_same_bits(tmp_path):
    (tmp_path / "shards").mkdir()
    saved_rows(tmp_path / "shards")
    command = [
        sys.executable,
        __file__,
        str(tmp_path / "shards"),
        str(tmp_path / "kept"),
    ]

    def run(*more):
        return subprocess.Popen([*command, *more], stdout=subprocess.PIPE)

    with run("whole") as whole:
        expected = pickle.loads(whole.communicate()[0])
    rng, killed, found = np.random.default_rng(0), 0, []
    for number in range(60):
        with run() as process:
            assert process.stdout is not None
            process.stdout.read(1)  # it has begun
            try:
                # Longer and longer, as a busy machine may take seconds to compile.
                process.wait(0.3 + 0.3 * number * rng.random())
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
                continue
            found = pickle.loads(process.stdout.read())
            break
    assert killed > 2
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("end", ["gone", "changed"])
def test_shards_that_are_gone_or_changed_are_told(tmp_path, end):
    op = cx.operators.streamed_operator(saved_rows(tmp_path), block_bytes=BLOCK)
    path = tmp_path / "part-1.npy"
    if end == "gone":
        path.unlink()
    else:
        np.save(path, TABLE[:3])
    with pytest.raises(ValueError, match=r'part-1.npy"(:| has changed)'):
        op.matmat(G)


def test_what_is_no_table_of_weights_is_refused(tmp_path):
    bad = TABLE.copy()
    for value in (-1.0, np.nan, np.inf):
        bad[50, 3] = value
        with pytest.raises(ValueError, match="rows 48 to 63: holds"):
            cx.operators.streamed_operator(bad, block_bytes=BLOCK)
    with pytest.raises(ValueError, match="all of the table is 0"):
        cx.operators.streamed_operator(0 * TABLE)
    with pytest.raises(TypeError, match="open_shards"):
        cx.operators.streamed_operator("folder")  # pyright: ignore
    saved_entries(tmp_path, "npz", sort=True)
    narrow = cx.data.open_shards(tmp_path, shape=(N, 20))
    with pytest.raises(
        ValueError, match=r'0.npz" holds .* 23; expected numbers below 2'
    ):
        cx.operators.streamed_operator(narrow)


@pytest.mark.parametrize("unit", [1e300, 1e-300, 1e-40])
def test_numbers_that_float32_does_not_hold_are_refused(unit):
    wide = TABLE.astype(np.float64) * unit
    with pytest.raises(ValueError, match="float64 is read as float32: take float64"):
        cx.operators.streamed_operator(wide, dtype=np.float32)
    op = cx.operators.streamed_operator(wide)
    exact = cx.operators.streamed_operator(TABLE)
    np.testing.assert_allclose(op.p_x, exact.p_x, atol=tol(np.float32))


def test_a_trace_is_told_that_python_reads():
    op = cx.operators.streamed_operator(TABLE)
    with pytest.raises(TypeError, match="part of jit"):
        jax.jit(op.matmat)(G)
    with pytest.raises(ValueError, match="no coarse products"):
        op.narrowed(np.float16)


@pytest.mark.parametrize("query_bytes", [12 * 30, 2**20])
def test_a_kernel_of_features_in_parts_is_that_of_all_at_once(query_bytes):
    x = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    op = cx.operators.streamed_rbf(x, 0.7, block_bytes=12 * 20, query_bytes=query_bytes)
    near: Any = cx.association_operator(cx.contexts.rbf(x, 0.7))
    block = np.random.default_rng(1).normal(size=(70, 3)).astype(np.float32)
    atol = tol(np.float32, factor=40)
    for found, expected in (
        (op.p_a, near.p_a),
        (op.matmat(block), near.matmat(block)),
        (op.rmatmat(block), near.rmatmat(block)),
    ):
        np.testing.assert_allclose(found, expected, atol=atol)
    np.testing.assert_allclose(op.norm2, near.norm2, rtol=atol)
    with pytest.raises(ValueError, match="gamma must be positive"):
        cx.operators.streamed_rbf(x, 0.0)
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="no finite number"):
        cx.operators.streamed_rbf(x)


def main() -> None:
    """A solve that keeps its state, begun anew until it is done."""
    folder, kept, *whole = sys.argv[1:]
    place = Path(kept)
    place.mkdir(exist_ok=True)
    shards = cx.data.open_shards(folder)

    class Slow:
        """Shards that are read slowly."""

        def __getattr__(self, name):
            return getattr(shards, name)

        def read(self, block, room=None):
            time.sleep(0 if whole else 0.01)
            return shards.read(block, room)

    op = cx.operators.streamed_operator(
        Slow(), block_bytes=BLOCK, journal=place / "journal", journal_seconds=0.0
    )
    path, state = place / "state.npz", None
    if path.exists() and not whole:
        state = cx.solvers.load_state(path)
    sys.stdout.buffer.write(b"" if whole else b".")
    sys.stdout.flush()
    result, info = cx.svd(
        op,
        3,
        key=KEY,
        tol=1e-5,
        state=state,
        on_step=lambda p: None if whole else cx.solvers.save_state(path, p.state),
    )
    found = [*result[:3], info.num_passes]
    sys.stdout.buffer.write(pickle.dumps([np.asarray(x) for x in found]))


if __name__ == "__main__":
    main()
