"""Damaged Parquet and Feather files are read or refused in one line, in little memory.

Neither has checksums of what it holds unless asked for, so that a flipped bit may be
another number; but it is a table of as many rows, or an error that says the file.
"""

import io
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute  # its first import is no time of reading
import pytest
from pyarrow import feather, parquet

from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from contexture_jax.data._read import read
from tests.mutations import mutations

# Of the library, to read a file of a few kilobytes in threads.
MOST_BYTES = 40_000_000
MOST_SECONDS = 2.0

PANDAS = {
    "index_columns": ["i"],
    "columns": [
        {"field_name": "k", "pandas_type": "categorical"},
        {"field_name": "x", "pandas_type": "float64"},
    ],
}
POOLS: list[Any] = []
HOSTILE = (
    b"",
    b"[]",
    b"null",
    b"7",
    b'"text"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"index_columns": 5}',
    b'{"index_columns": null, "columns": null}',
    b'{"index_columns": [["i"], {}, 3, "none"], "columns": [5, null, []]}',
    b'{"columns": [{"field_name": ["k"], "pandas_type": "categorical"}]}',
    b'{"columns": [{"field_name": {"k": 1}, "pandas_type": ["categorical"]}]}',
    b'{"columns": {"k": 1}}',
)
WORDS = (
    *(b"index_columns", b"columns", b"field_name", b"pandas_type", b"categorical"),
    *(b"[", b"]", b"{", b"}", b'"i"', b'"k"', b"null", b"PAR1", b"ARROW1", b"pandas"),
    *(b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"),
)


def table(metadata: bytes | None = None) -> Any:
    n = 40
    columns = {
        "i": pa.array(np.arange(n)),
        "x": pa.array([None if i % 7 == 3 else i / 4 for i in range(n)]),
        "s": pa.array([f"text {i % 5}" for i in range(n)]),
        "k": pa.array(["u", "v"] * (n // 2)).dictionary_encode(),
        "b": pa.array([i % 3 == 0 for i in range(n)]),
        "t": pa.array(np.arange(n), pa.timestamp("s")),
    }
    made = pa.table(columns)
    said = json.dumps(PANDAS).encode() if metadata is None else metadata
    return made.replace_schema_metadata({b"pandas": said})


def as_parquet(made: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(made, file, **options)
    return file.getvalue()


def as_feather(made: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    feather.write_feather(made, file, **options)
    return file.getvalue()


FILES = {
    "x.parquet": (
        as_parquet(table()),
        as_parquet(table(), compression="none", use_dictionary=False),
        as_parquet(table(), compression="zstd", data_page_version="2.0"),
        as_parquet(table(), compression="gzip", row_group_size=8),
    ),
    "x.feather": (
        as_feather(table()),
        as_feather(table(), compression="uncompressed"),
        as_feather(table(), compression="zstd", chunksize=8),
    ),
}


@pytest.fixture
def pool() -> Iterator[None]:
    before = pa.default_memory_pool()
    yield
    pa.set_memory_pool(before)


def check(path: Path, content: bytes) -> bool:
    """Whether a file is taken; it may fail in no way but by an `InputError`."""
    path.write_bytes(content)
    pool = pa.proxy_memory_pool(pa.system_memory_pool())
    # What is freed later goes back to the pool that it came from.
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    start = time.perf_counter()
    source, told = None, ""
    try:
        source = read(str(path))
    except InputError as error:
        told = str(error)
    assert "\n" not in told
    assert pool.max_memory() < MOST_BYTES + 4 * len(content)
    if source is not None:
        assert len(set(source.names)) == len(source.names) == len(source.columns)
        assert {len(column) for column in source.columns} == {source.num_rows}
        try:
            found = load_features(str(path))
        except InputError as error:
            told = str(error)
        else:
            assert np.isfinite(found.features).all()
            assert found.features.shape == (len(found.rows), len(found.feature_names))
    assert "\n" not in told
    assert time.perf_counter() - start < MOST_SECONDS
    return source is not None


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("name", FILES)
def test_damaged_frames_are_read_or_refused(tmp_path: Path, name: str) -> None:
    assert all(check(tmp_path / name, content) for content in FILES[name])
    taken = [
        check(tmp_path / name, content)
        for content in mutations(FILES[name], 100, seed=0, words=WORDS)
    ]
    assert not all(taken)


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("said", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_words_of_pandas_are_read_or_refused(
    tmp_path: Path, said: bytes
) -> None:
    check(tmp_path / "x.parquet", as_parquet(table(said)))
    check(tmp_path / "x.feather", as_feather(table(said)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Where texts end, which of the categories a cell is, and what a text is made
        # of: Arrow trusts all three, and is led out of its memory.
        (struct.pack("<3i", 6, 12, 18), struct.pack("<3i", 6, 2**30, 18)),
        (struct.pack("<4i", 0, 1, 0, 1), struct.pack("<4i", 0, 2**30, 0, 1)),
        (b"text 0text 1", b"text \xfftext 1"),
    ],
    ids=["offset", "category", "text"],
)
def test_what_arrow_trusts_is_looked_at(tmp_path: Path, old: bytes, new: bytes) -> None:
    content = as_feather(table(), compression="uncompressed")
    assert old in content
    (tmp_path / "x.feather").write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match="as Feather: it is damaged"):
        read(str(tmp_path / "x.feather"))


@pytest.mark.slow
@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("name", FILES)
def test_hundreds_of_damaged_frames_are_read_or_refused(
    tmp_path: Path, name: str
) -> None:
    for content in mutations(FILES[name], 900, 1, WORDS):
        check(tmp_path / name, content)
