"""What is around the table in a CSV: comments, separators too many, the encoding."""

import gzip

import numpy as np
import pytest

from contexture_jax.data._csv import read_csv
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from contexture_jax.data._source import Dialect
from tests.data.helpers import write

TABLE = "a,b\n1,2\n3,5\n4,4\n"
EMPTY = "1 empty column without a name left out"


def written(tmp_path, text, **options):
    return read_csv(write(tmp_path, text, "t.csv"), Dialect(**options))


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("a,b,\n1,2,\n3,5,\n4,4,\n", (EMPTY,)),
        ("a,b,\r\n1,2,\r\n3,5,\r\n4,4,\r\n", (EMPTY,)),
        ("a;b;\n1;2;\n3;5;\n4;4;\n", (EMPTY,)),
        ("a\tb\t\n1\t2\t\n3\t5\t\n4\t4\t\n", (EMPTY,)),
        ('a,b,""\n1,2,""\n3,5,""\n4,4,""\n', (EMPTY,)),
        (
            "a,b,,\n1,2,,\n3,5,,\n4,4,,\n",
            (EMPTY.replace("1 empty column", "2 empty columns"),),
        ),
        ("a,b\n1,2,\n3,5,\n4,4,\n", (EMPTY,)),
        ("a,b,,\n1,2,\n3,5,\n4,4,\n", (EMPTY,)),
        ("a,b,\n1,2\n3,5\n4,4\n", ()),
        ("a,,b\n1,,2\n3,,5\n4,,4\n", (EMPTY,)),
    ],
)
def test_separators_at_the_ends_of_lines_make_no_columns(tmp_path, text, notes):
    source = written(tmp_path, text)
    assert source.names == ["a", "b"]
    assert [c.tolist() for c in source.columns] == [["1", "3", "4"], ["2", "5", "4"]]
    assert source.notes == notes
    assert source.place(1) == "line 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,\n3,5\n4,4,\n", "line 2 of t.csv has 3 cells; the header names 2"),
        ("a,b\n1,2,\n3,5,7\n4,4,\n", "line 2 of t.csv has 3 cells; the header names 2"),
        ("a,b,c\n1,2\n3,5\n", "line 2 of t.csv has 2 cells; the header names 3"),
        ("a,b,\n1,2,x\n3,5,\n", "column 3 of t.csv has no name"),
        ("a\nu,x\nv,y\n", "line 2 of t.csv has 2 cells; the header names 1 column "),
        ("1,2,\n3,4,\n", 'the first line of t.csv holds numbers, starting with "1"'),
    ],
)
def test_what_a_cell_is_lost_by_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path, text)


@pytest.mark.parametrize(
    ("above", "notes"),
    [
        ("# made by x\n", ("1 line above the names left out: starts with #",)),
        (
            "\n# made by x\r\n\n  # on Monday, 5 May\n",
            ("4 lines above the names left out: start with #",),
        ),
        ("#\n", ("1 line above the names left out: starts with #",)),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", " "])
def test_comments_above_the_names_are_left_out(tmp_path, above, notes, separator):
    source = written(tmp_path, above + TABLE.replace(",", separator))
    assert source.names == ["a", "b"]
    assert source.notes == notes
    assert source.place(0) == f"line {above.count(chr(10)) + 2}"


@pytest.mark.parametrize(
    ("text", "names", "notes"),
    [
        ("# a,b\n1,2\n3,5\n", ["a", "b"], ("the names are those behind # on line 1",)),
        ("# a b\n1 2\n3 5\n", ["a", "b"], ("the names are those behind # on line 1",)),
        (
            "# made by x\n# a,b\n1,x\n3,y\n",
            ["a", "b"],
            (
                "1 line above the names left out: starts with #",
                "the names are those behind # on line 2",
            ),
        ),
        ("#a,b\n1,2\n3,5\n", ["#a", "b"], ()),
        ("#name,town\nann,rome\nbob,oslo\n", ["#name", "town"], ()),
        ("#,b\n1,2\n2,5\n", ["#", "b"], ()),
        ("# b\n1 2\n2 5\n", ["#", "b"], ()),
        (
            "# made\na\n1\n2\n",
            ["a"],
            ("1 line above the names left out: starts with #",),
        ),
    ],
)
def test_names_behind_a_hash_are_told_from_comments(tmp_path, text, names, notes):
    source = written(tmp_path, text)
    assert source.names == names
    assert source.notes == notes


def test_a_file_of_savetxt_is_read(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 2))
    for delimiter in ", ":
        np.savetxt(tmp_path / "x.csv", x, header=f"a{delimiter}b", delimiter=delimiter)
        table = load_features(str(tmp_path / "x.csv"))
        assert table.feature_names == ["a", "b"]
        assert table.notes[0] == "the names are those behind # on line 1"


def test_what_may_be_names_or_a_comment_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r'line 1 of t.csv starts with #: "# ann, x" m'
    ):
        written(tmp_path, "# ann, x\nname,town\nann,rome\nbob,oslo\n")


@pytest.mark.parametrize("line", ["# hello\n", "# hello, you, there\n"])
def test_a_comment_among_the_rows_is_refused_as_one(tmp_path, line):
    with pytest.raises(InputError, match=r"line 3 of t.csv starts with #, as"):
        written(tmp_path, f"a,b\n1,2\n{line}3,5\n")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            TABLE.encode("utf-16"),
            "t.csv is UTF-16; expected a CSV saved as UTF-8: iconv",
        ),
        (b"\xfe\xff" + TABLE.encode("utf-16-be"), "-f UTF-16 -t UTF-8 t.csv > t-utf8"),
        (TABLE.encode("utf-16-le"), "t.csv is UTF-16LE"),
        (TABLE.encode("utf-16-be"), "t.csv is UTF-16BE"),
        (("é,名\n" + TABLE).encode("utf-16-le"), "t.csv is UTF-16LE"),
        (TABLE.encode("utf-32"), "t.csv is UTF-32"),
        ("é,b\n1,2\n".encode("latin-1"), r"\(byte 0xe9\).*iconv -f WINDOWS-1252"),
        (gzip.compress(TABLE.encode(), mtime=0), "t.csv is binary, compressed by gzip"),
        (b"PK\x03\x04table", "t.csv is binary, a zip archive or a workbook"),
        (b"a,b\n1,\x00\n", "t.csv is binary"),
    ],
)
def test_what_is_not_utf_8_is_refused_by_its_name(tmp_path, raw, message):
    (tmp_path / "t.csv").write_bytes(raw)
    with pytest.raises(InputError, match=message) as error:
        read_csv(tmp_path / "t.csv")
    assert "\n" not in str(error.value)
