"""Damaged tables are read right or refused in one line, in little time and memory."""

import io
import os
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.csv  # noqa: F401  (its first import is no time of reading)
import pytest
from scipy import sparse

from contexture_jax.data._counts import load_counts
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from contexture_jax.data._read import read
from contexture_jax.data._source import Source
from tests.data.helpers import matrix
from tests.mutations import mutations

X = np.arange(21.0).reshape(7, 3) ** 2
Y = np.array(["u", "v", "u", "v", "w", "w", "u"])
# For the most part the dictionary of LZMA.
MOST_BYTES = 40_000_000
MOST_SECONDS = 2.0

HEADER_WORDS = (
    *(b"(7, 3)", b"'<f8'", b"False", b"x.npy", b"y.npy", b"'shape'", b"'descr'", b"}"),
    *(b"(10**9, 10**9)", b"(2**64, 1)", b"(True, 2)", b"(-7, 3)", b"((((((", b"[7, 3]"),
    *(b"'|O'", b"'|V8'", b"[('a','<f8')]", b"'>f8'", b"'<f4'", b"'<M8[ns]'", b"None"),
    *(b"(7, 3, 1)", b"(21, 1)", b"(3, 7)", b"(1000000000, 1000000000)", b"True"),
)
CSV_WORDS = (
    *(b",", b";", b"\t", b"\n", b"\r\n", b"\r", b'"', b'""', b" ", b"'", b"|", b"."),
    *(b"nan", b"NA", b"?", b"inf", b"-1e999", b"1_000", b"1,5", b"1.234.567,5"),
    *(b"0", b"1", b"True", b"None", b"\x00", b"\xff", b"\xe2\x88\x92", b"5%", b"#"),
)


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npz(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", npy(X))
        archive.writestr("README.txt", "About x.")
        archive.writestr("y.npy", npy(Y))
    return file.getvalue()


def sparse_npz(form: str) -> bytes:
    file = io.BytesIO()
    sparse.save_npz(file, getattr(sparse, f"{form}_array")(X))
    return file.getvalue()


NPY = (
    *(npy(X.astype(dtype)) for dtype in ("<f8", "<f4", ">f8", "<i8", "|u1")),
    *(npy(X, version=version) for version in ((2, 0), (3, 0))),
    npy(np.asfortranarray(X)),
)
NPZ = tuple(
    npz(method)
    for method in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_BZIP2,
        zipfile.ZIP_LZMA,
    )
)
SPARSE = tuple(sparse_npz(form) for form in ("csr", "coo", "dia", "bsr", "csc"))
SPARSE_WORDS = (b"data.npy", b"indices.npy", b"shape.npy", b"'<i4'", b"'<i8'", b"(2,)")
CSV = (
    b"a,b,c\n1,1.5,u\n4,2.25,v\n9,3.5,u\n16,4.5,w\n25,5.5,v\n",
    b'name;"height, m";kg\r\nAnna;1,64;62,5\r\n"Bo ""B""";1,80;\r\nCy;1,75;80\r\n',
    b"\xef\xbb\xbft\tu\n1\t2\n3\t\n5\t6.5e3\n-7\t8\n",
    b',x,y\n0,"1,234",1\n1,"2,345",2\n2,"3",\n3,-4,5\n',
    b"a,b,c\n3,0,1\n0,2,5\n1,1,0\n",
)


def bounded(work: Callable[[], Source]) -> Source | None:
    """What `work` returns, or None if it refuses; it may fail in no other way."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        return work()
    except InputError:
        return None
    finally:
        seconds, (_, peak) = (
            time.perf_counter() - start,
            tracemalloc.get_traced_memory(),
        )
        tracemalloc.stop()
        assert peak < MOST_BYTES
        assert seconds < MOST_SECONDS


def check_npy(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    source = bounded(lambda: read(str(path)))
    if source is not None:
        expected = np.load(path, allow_pickle=False)
        np.testing.assert_array_equal(matrix(source), expected)
    return source is not None


def check_npz(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    source = bounded(lambda: read(str(path)))
    if source is not None:
        # The archive has checksums: what is read is what was written.
        np.testing.assert_array_equal(matrix(source), X)
        for values in source.vectors.values():
            np.testing.assert_array_equal(values, Y)
    return source is not None


def check_sparse(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    source = bounded(lambda: read(str(path)))
    if source is not None:
        # Where the name of a part is lost, what is left may be taken as a vector.
        assert source.weights is not None
        np.testing.assert_array_equal(source.weights.toarray(), X)
    return source is not None


def check_csv(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    source = bounded(lambda: read(str(path)))
    if source is None:
        return False
    assert len(set(source.names)) == len(source.names) == len(source.columns)
    assert {len(column) for column in source.columns} == {source.num_rows}
    for load in (load_features, load_counts):
        try:
            table = load(str(path))
        except InputError:
            continue
        assert np.isfinite(table.features).all()
        assert table.features.shape == (len(table.rows), len(table.feature_names))
    return True


CASES = [
    pytest.param(check_npy, "x.npy", NPY, HEADER_WORDS, id="npy"),
    pytest.param(check_npz, "x.npz", NPZ, HEADER_WORDS, id="npz"),
    pytest.param(check_sparse, "s.npz", SPARSE, SPARSE_WORDS, id="sparse"),
    pytest.param(check_csv, "x.csv", CSV, CSV_WORDS, id="csv"),
]


@pytest.mark.slow_cases("csv")
@pytest.mark.parametrize(("check", "name", "contents", "words"), CASES)
def test_damaged_tables_are_read_right_or_refused(
    tmp_path: Path,
    check: Callable[[Path, bytes], bool],
    name: str,
    contents: tuple[bytes, ...],
    words: tuple[bytes, ...],
) -> None:
    assert all(check(tmp_path / name, content) for content in contents)
    taken = [
        check(tmp_path / name, content)
        for content in mutations(contents, 150, seed=0, words=words)
    ]
    assert not all(taken)


@pytest.mark.slow
@pytest.mark.parametrize(("check", "name", "contents", "words"), CASES)
def test_thousands_of_damaged_tables_are_read_right_or_refused(
    tmp_path: Path,
    check: Callable[[Path, bytes], bool],
    name: str,
    contents: tuple[bytes, ...],
    words: tuple[bytes, ...],
) -> None:
    for content in mutations(contents, 2000, seed=1, words=words):
        check(tmp_path / name, content)


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".parquet", ".feather"])
def test_pipes_and_devices_are_not_read(tmp_path: Path, suffix: str) -> None:
    pipe, device = (tmp_path / f"{name}{suffix}" for name in ("pipe", "device"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/null")
    for path in (pipe, device):
        with pytest.raises(InputError, match="is a pipe or a device; expected a file"):
            load_features(str(path))
