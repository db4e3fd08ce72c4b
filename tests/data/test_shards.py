"""Folders of shards: what they hold, how they are cut, and what is told of bad ones."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax.data import InputError, open_shards

X = np.arange(60, dtype=np.float32).reshape(12, 5)


def saved(folder: Path, *cuts: int) -> Path:
    for number, part in enumerate(np.split(X, cuts)):
        np.save(folder / f"{number}.npy", part)
    return folder


def whole(shards, block_bytes: int) -> np.ndarray:
    parts = shards.blocks(block_bytes)
    assert [p.row for p in parts] == sorted(p.row for p in parts)
    return np.concatenate([shards.read(part) for part in parts])


@pytest.mark.parametrize("block_bytes", [1, 47, 10_000])
def test_blocks_of_any_size_are_all_rows_in_order(tmp_path, block_bytes):
    shards = open_shards(saved(tmp_path, 5, 6))
    assert shards.shape == X.shape
    assert shards.is_dense
    np.testing.assert_array_equal(whole(shards, block_bytes), X)
    rows = np.array([11, 0, 5, 5, 4])
    likened: Any = shards  # to an array
    found = np.take(likened, rows, axis=0, mode="clip")
    np.testing.assert_array_equal(found, X[rows])


def test_shards_of_several_dtypes_come_in_the_widest(tmp_path):
    np.save(tmp_path / "a.npy", X[:6])
    np.save(tmp_path / "b.npy", X[6:].astype(np.int16))
    shards = open_shards(tmp_path)
    room = np.empty((12, 5), np.float32)
    for part in shards.blocks(10_000):
        shards.read(part, room[part.row :])
    np.testing.assert_array_equal(room, X)
    assert shards.dtype == np.float32


def test_parquet_of_numbers_is_rows_by_groups(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({f"c{i}": column for i, column in enumerate(X.T)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    shards = open_shards(tmp_path)
    assert [(p.start, p.stop) for p in shards.blocks(1)] == [(0, 5), (5, 10), (10, 12)]
    assert [(p.start, p.stop) for p in shards.blocks(200)] == [(0, 10), (10, 12)]
    np.testing.assert_array_equal(whole(shards, 200), X)
    with pytest.raises(InputError, match=r"of \.npy files"):
        shards.take(np.array([1]))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_entries_are_cut_where_their_file_allows(tmp_path, save):
    rows, columns = np.divmod(np.arange(60), 5)
    save(tmp_path / "a.npz", row=rows, col=columns, data=X.ravel())
    shards = open_shards(tmp_path)
    parts = shards.blocks(20 * 13)
    assert len(parts) == (1 if save is np.savez_compressed else 5)
    found = [np.concatenate(x) for x in zip(*map(shards.read, parts), strict=True)]
    for one, two in zip(found, (rows, columns, X.ravel()), strict=True):
        np.testing.assert_array_equal(one, two)


def cut_off(folder: Path) -> None:
    path = saved(folder) / "0.npy"
    path.write_bytes(path.read_bytes()[:-8])


def other_width(folder: Path) -> None:
    np.save(saved(folder) / "1.npy", X[:, :3])


def two_kinds(folder: Path) -> None:
    np.savez(saved(folder) / "1.npz", rows=[0], columns=[1], values=[1.0])


def by_columns(folder: Path) -> None:
    np.save(folder / "0.npy", np.asfortranarray(X))


def texts(folder: Path) -> None:
    np.save(folder / "0.npy", np.array([["a"]]))


def one_axis(folder: Path) -> None:
    np.save(folder / "0.npy", X[0])


def pickled(folder: Path) -> None:
    np.save(folder / "0.npy", np.array([[{}]]), allow_pickle=True)


def no_zip(folder: Path) -> None:
    (folder / "0.npz").write_bytes(b"PK\x03\x04 and no more")


def no_roles(folder: Path) -> None:
    np.savez(folder / "0.npz", x=X)


def two_lengths(folder: Path) -> None:
    np.savez(folder / "0.npz", rows=[0, 1], columns=[1])


def fractions(folder: Path) -> None:
    np.savez(folder / "0.npz", rows=[0.5], columns=[1])


def nothing(folder: Path) -> None:
    (folder / "README.txt").write_text("no shards")


def one_missing(folder: Path) -> None:
    (saved(folder, 3, 5, 7) / "2.npy").unlink()


def last_missing(folder: Path) -> None:
    for number in range(2):
        np.save(folder / f"x-{number:03d}-of-003.npy", X)


def by_others(folder: Path) -> None:
    (saved(folder) / "1.csv").write_text("1,2,3,4,5\n")


def twice(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({f"c{i}": column for i, column in enumerate(X.T)})
    pq.write_table(table, saved(folder) / "0.parquet")


def other_order(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for number, order in enumerate(("ab", "ba")):
        table = pa.table(dict.fromkeys(order, X[:, 0]))
        pq.write_table(table, folder / f"{number}.parquet")


def no_parquet(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    (folder / "0.parquet").write_bytes(b"PAR1 and no more")


def no_rows(folder: Path) -> None:
    np.save(saved(folder) / "1.npy", X[:0])


def a_pipe(folder: Path) -> None:
    os.mkfifo(saved(folder) / "1.npy")


def a_folder(folder: Path) -> None:
    (saved(folder) / "1.npy").mkdir()


def a_loop(folder: Path) -> None:
    (saved(folder) / "1.npy").symlink_to(folder / "1.npy")


def much_said(folder: Path) -> None:
    np.savez(folder / "0.npz", rows=[0], columns=[1], shape=[2**40, 5])


def long_shape(folder: Path) -> None:
    np.savez(folder / "0.npz", rows=[0], columns=[1], shape=np.ones(200, int))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (cut_off, r'0.npy".*cut off or damaged'),
        (other_width, "3 columns and .* 5; expected as many"),
        (two_kinds, "expected shards of one kind"),
        (by_columns, "column by column"),
        (texts, "expected real numbers"),
        (one_axis, r"shape \(5,\); expected"),
        (pickled, "dtype object"),
        (no_zip, "cannot read"),
        (no_roles, "expected rows, columns and values"),
        (two_lengths, "vectors of one length"),
        (fractions, "expected integers"),
        (nothing, "holds no shards"),
        (one_missing, "lacks number 2 of its shards, .* from 0 to 3"),
        (last_missing, "holds 2 shards of the 3 that their names tell of"),
        (by_others, r"holds \.csv and \.npy files"),
        (twice, r"holds \.npy and \.parquet files"),
        (other_order, r'1.parquet" and .*0.parquet" are not called alike'),
        (no_parquet, "expected a Parquet file whose columns are numbers"),
        (no_rows, r"shape \(0, 5\); expected"),
        (a_pipe, r'1.npy" is no regular file'),
        (a_folder, r'1.npy" is no regular file'),
        (a_loop, r'cannot read .*1.npy": Too many levels of symbolic links'),
        (much_said, "1,099,511,627,776 rows and 5 columns, whose sums take 70.4 TB"),
        (long_shape, "expected two counts"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        open_shards(tmp_path)
    assert "\n" not in str(error.value)


def test_names_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 11):
        np.save(tmp_path / f"x{number}.npy", X[number : number + 1])
    names = [file.path.name for file in open_shards(tmp_path)]
    assert names == ["x9.npy", "x10.npy", "x11.npy"]


@pytest.mark.parametrize("numbers", ["1 2 20", "2 3 5", "20-1-1 20-1-3", "a-1 b-3"])
def test_numbers_that_are_no_count_may_have_gaps(tmp_path, numbers):
    for number in numbers.split():
        np.save(tmp_path / f"{number}.npy", X)
    assert len(open_shards(tmp_path).files) == len(numbers.split())


@pytest.mark.parametrize("role", ["rows", "columns"])
def test_entries_far_away_are_told_before_memory_is_taken(tmp_path, role):
    entries: Any = {"rows": [0, 1], "columns": [0, 1], role: [0, 2**40]}
    np.savez(tmp_path / "0.npz", **entries)
    shards = open_shards(tmp_path)
    with pytest.raises(InputError, match=r'0.npz" is of .*1,099,511,627,777'):
        shards.read(shards.blocks()[0])


def test_a_file_that_shrinks_or_goes_while_it_is_read_is_told(tmp_path):
    shards = open_shards(saved(tmp_path, 5))
    parts = shards.blocks(100)
    (tmp_path / "1.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r'1.npy" has changed since'):
        shards.read(parts[-1])
    (tmp_path / "0.npy").unlink()
    with pytest.raises(InputError, match=r'0.npy": No such file'):
        shards.check()
