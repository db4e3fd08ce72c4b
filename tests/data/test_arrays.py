"""Arrays in files: what is odd is read right, what is damaged is told in one line."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax.data import _arrays, _memory
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from contexture_jax.data._read import read
from tests.data.helpers import matrix

X = np.arange(12.0).reshape(4, 3) ** 2
GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 3), }"


def saved(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **options)
    return file.getvalue()


def with_header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    raw = text.encode()
    width = 2 if version == (1, 0) else 4
    length = len(raw).to_bytes(width, "little")
    return b"\x93NUMPY" + bytes(version) + length + raw + X.tobytes()


def archive(
    path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def columns(path: Path) -> np.ndarray:
    return matrix(read(str(path)))


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(str(path))
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        X,
        np.asfortranarray(X),
        X[::2],
        X.T,
        X.astype(">f8"),
        np.asfortranarray(X.astype(">i4")),
        X.astype(np.float16),
        X.astype(np.longdouble),
        X.astype(np.uint8),
        X > 3,
        X[:1, :1],
    ],
)
def test_all_that_numpy_saves_of_numbers_is_read(tmp_path: Path, array: Any) -> None:
    for version in (None, (1, 0), (2, 0), (3, 0)):
        (tmp_path / "x.npy").write_bytes(saved(array, version=version))
        np.testing.assert_array_equal(columns(tmp_path / "x.npy"), array)
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "x.npz", array)
        np.testing.assert_array_equal(columns(tmp_path / "x.npz"), array)


def test_numbers_stay_of_their_own_dtype_until_they_are_encoded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    assert matrix(read(str(tmp_path / "x.npy"))).dtype == np.float32
    features = load_features(str(tmp_path / "x.npy")).features
    expected = (X - X.mean(axis=0)) / X.std(axis=0)
    np.testing.assert_allclose(features, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_BZIP2,
        zipfile.ZIP_LZMA,
    ],
)
def test_members_that_are_no_arrays_are_left_out_with_a_note(
    tmp_path: Path, method: int
) -> None:
    members = {
        "README.txt": b"About x.",
        "x.npy": saved(X),
        "folder/": b"",
        "y.npy": saved([b"u", b"v", "ü".encode(), b"u"]),
        "empty.txt": b"",
    }
    path = archive(tmp_path / "d.npz", members, method)
    source = read(str(path))
    np.testing.assert_array_equal(matrix(source), X)
    assert source.vectors["y"].tolist() == ["u", "v", "ü", "u"]
    assert source.notes == (
        "2 members of d.npz left out as no arrays: README.txt, empty.txt",
    )
    assert load_features(str(path)).notes == [*source.notes]


def test_arrays_that_are_not_needed_may_be_odd(tmp_path: Path) -> None:
    fields = np.zeros(4, dtype=[("a", "f8"), ("b", "i4")])
    members = {
        "x.npy": saved(X),
        "fields.npy": saved(fields),
        "objects.npy": saved(np.array([{}, 1], dtype=object), allow_pickle=True),
        "deep.npy": saved(np.zeros((2, 2, 2))),
        "when.npy": saved(np.zeros(4, dtype="M8[s]")),
    }
    source = read(str(archive(tmp_path / "d.npz", members)))
    assert list(source.vectors) == ["when"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "(" * 5000,
        "-" * 9000 + "1",
        "not " * 2400 + "1",
        "[" * 90 + "]" * 90,
        "1e999",
        "__import__('os')",
        "{'descr': '<f8', 'fortran_order': False}",
        GOOD.replace("'shape'", "'size'"),
        GOOD.replace("(4, 3)", "[4, 3]"),
        GOOD.replace("(4, 3)", "(True, 3)"),
        GOOD.replace("(4, 3)", "(-4, -3)"),
        GOOD.replace("(4, 3)", "(4.0, 3)"),
        GOOD.replace("(4, 3)", "(10**9, 10**9)"),
        GOOD.replace("(4, 3)", "(1000000000, 1000000000)"),
        GOOD.replace("(4, 3)", "(18446744073709551616, 1)"),
        GOOD.replace("(4, 3)", "(18446744073709551616, 0)"),
        GOOD.replace("(4, 3)", "(4, 2)"),
        GOOD.replace("(4, 3)", "(4, 3, 1)"),
        GOOD.replace("(4, 3)", "(" + "1, " * 100 + ")"),
        GOOD.replace("False", "0"),
        GOOD.replace("'<f8'", "'<f9'"),
        GOOD.replace("'<f8'", "'<f4'"),
        GOOD.replace("'<f8'", "'|O'"),
        GOOD.replace("'<f8'", "'<f8,<f8'"),
        GOOD.replace("'<f8'", "'(2,)<f8'"),
        GOOD.replace("'<f8'", "('<f8', (2,))"),
        GOOD.replace("'<f8'", "[('a', '<f8')]"),
        GOOD.replace("'<f8'", "'float'"),
        GOOD.replace("'<f8'", "8"),
        GOOD.replace("'<f8'", "{1, 2}"),
        GOOD.replace("'<f8'", "'<c16'"),
        GOOD + " " * 20_000,
        GOOD + "\x00",
        GOOD.replace("4", "\\N{x}"),
    ],
)
def test_headers_that_are_no_header_are_told(tmp_path: Path, text: str) -> None:
    for version in ((1, 0), (3, 0)):
        content = with_header(text, version)
        (tmp_path / "x.npy").write_bytes(content)
        refused(tmp_path / "x.npy")
        refused(archive(tmp_path / "x.npz", {"x.npy": content}))


def test_headers_by_others_are_read(tmp_path: Path) -> None:
    for text in (GOOD, GOOD.replace("(4, 3)", "(4L, 3L)")):  # as Python 2 wrote it
        (tmp_path / "x.npy").write_bytes(with_header(text))
        np.testing.assert_array_equal(columns(tmp_path / "x.npy"), X)


@pytest.mark.parametrize("version", [(0, 0), (4, 0), (1, 1)])
def test_unknown_versions_are_told(tmp_path: Path, version: tuple[int, int]) -> None:
    (tmp_path / "x.npy").write_bytes(with_header(GOOD, version))
    assert f"format version {version[0]}.{version[1]}" in refused(tmp_path / "x.npy")


def test_every_length_but_the_whole_is_refused(tmp_path: Path) -> None:
    content, path = saved(X), tmp_path / "x.npy"
    for end in (0, 1, 5, 6, 7, 8, 9, 10, 11, 60, 127, 128, 129, 223):
        path.write_bytes(content[:end])
        refused(path)
    path.write_bytes(content + b"\0")
    assert "96 bytes, but 97 bytes are there" in refused(path)


@pytest.mark.parametrize(
    ("at", "to", "words"),
    [
        # Places in the local header and in the directory: flags and method.
        ((6, 8), b"\x01", "is encrypted"),
        ((8, 10), b"\x63", "compression"),
    ],
)
def test_encryption_and_unknown_compression_are_told(
    tmp_path: Path, at: tuple[int, int], to: bytes, words: str
) -> None:
    path = archive(tmp_path / "x.npz", {"x.npy": saved(X)})
    content = bytearray(path.read_bytes())
    content[at[0]] = to[0]
    content[content.index(b"PK\x01\x02") + at[1]] = to[0]
    path.write_bytes(bytes(content))
    assert words in refused(path)


def test_texts_that_hold_no_characters_are_told(tmp_path: Path) -> None:
    codes = np.array([97, 0x110000, 98, 99], np.uint32).view("<U1")
    np.savez(tmp_path / "d.npz", x=X, y=codes)
    assert 'array "y"' in refused(tmp_path / "d.npz")


def test_two_members_of_one_name_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("x.npy", saved(X))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("x.npy", saved(X + 1))
    assert 'two members are called "x.npy"' in refused(tmp_path / "d.npz")


def test_what_does_not_fit_in_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 20), np.float32))
    np.save(tmp_path / "x.npy", np.zeros((1000, 20), np.float32))
    monkeypatch.setattr(_arrays, "available", lambda: 390_000)
    for name in ("x.npy", "x.npz"):
        text = refused(tmp_path / name)
        assert "takes 400 kB of memory, and 390 kB are free" in text
    monkeypatch.setattr(_arrays, "available", lambda: 410_000)
    assert len(read(str(tmp_path / "x.npz")).columns) == 20
    monkeypatch.setattr(_arrays, "available", lambda: None)
    assert len(read(str(tmp_path / "x.npy")).columns) == 20


def test_an_archive_that_says_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", {"x.npy": saved(X)})
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    assert "cannot hold the 4,000,000,000 that it says" in refused(path)


def test_memory_is_known_here_and_told_in_words() -> None:
    room = _memory.available()
    assert room is None or 1e6 < room < 1e15
    assert _memory.in_words(4_830_000_000) == "4.83 GB"
    assert _memory.in_words(12) == "12 bytes"
    assert _memory.in_words(8 * 10**18) == "8.0e+06 TB"
