"""What is found out about how a CSV is written, said, and overridden."""

import numpy as np
import pytest

from contexture_jax.data._counts import load_counts
from contexture_jax.data._csv import read_csv
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from contexture_jax.data._source import Dialect
from tests.data.helpers import write
from tests.tolerances import tol

CLOSE = tol(np.float64, factor=100)


def read(tmp_path, text, **options):
    return read_csv(write(tmp_path, text), Dialect(**options))


@pytest.mark.parametrize(
    ("text", "names", "rows", "separator"),
    [
        (
            "weight, kg;height, m\n62,5;1,64\n",
            ["weight, kg", "height, m"],
            [["62,5", "1,64"]],
            ";",
        ),
        ("kg,w;m,h\n62,5;1,64\n7,5;1,8\n", ["kg,w", "m,h"], None, ";"),
        ("\n \n\na;b\n1;2\n", ["a", "b"], [["1", "2"]], ";"),
        ("a;b\r1,5;2\r3;4\r", ["a", "b"], [["1,5", "2"], ["3", "4"]], ";"),
        ('"a,1";b\n1;2\n', ["a,1", "b"], [["1", "2"]], ";"),
        ('"a;1",b\n"x;y",2\n', ["a;1", "b"], [["x;y", "2"]], None),
        (
            "id,note\n1,so; so\n2,x\n",
            ["id", "note"],
            [["1", "so; so"], ["2", "x"]],
            None,
        ),
        ("id;note\n1;one, two\n2;x, y\n", ["id", "note"], None, ";"),
        ("a\tb\nx, y\t1\n", ["a", "b"], [["x, y", "1"]], "tab"),
        ("a|b\n1|2\n", ["a", "b"], [["1", "2"]], "|"),
        ("a  b\n 1   2 \nNA 4", ["a", "b"], [["1", "2"], ["NA", "4"]], "spaces"),
        (
            'a "b c"\n1 "x  y"\n2 z\n',
            ["a", "b c"],
            [["1", "x  y"], ["2", "z"]],
            "spaces",
        ),
        ("sep=;\na;b\n1;2\n", ["a", "b"], [["1", "2"]], ";"),
        ("height\n1,64\n1,7\n", ["height"], [["1,64"], ["1,7"]], None),
        ("full name\nAnn Lee\nJo Ek\n", ["full name"], [["Ann Lee"], ["Jo Ek"]], None),
        ('a,b\n"x\n""y""",1\n,2\n', ["a", "b"], [['x\n"y"', "1"], ["", "2"]], None),
    ],
)
def test_the_separator_is_found_out(tmp_path, text, names, rows, separator):
    source = read(tmp_path, text)
    assert source.names == names
    assert source.separator == separator
    if rows is not None:
        found = [list(row) for row in zip(*(c.tolist() for c in source.columns))]  # noqa: B905
        assert found == rows


def test_the_separator_that_is_named_is_taken(tmp_path):
    source = read(tmp_path, "a;b,c\n1;2,3\n", separator=",")
    assert source.names == ["a;b", "c"]
    assert source.separator is None
    assert read(tmp_path, "a b\nx y\n", separator=" ").names == ["a", "b"]


def test_what_was_found_out_is_said(tmp_path):
    text = "weight, kg;height, m\n62,5;1,64\n70;1,80\n54,25;1,7\n"
    table = load_features(str(write(tmp_path, text)))
    plain = load_features(str(write(tmp_path, "w,h\n62.5,1.64\n70,1.8\n54.25,1.7\n")))
    assert table.notes == ["separator ;, decimal comma"]
    np.testing.assert_array_equal(table.features, plain.features)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('\n\na;b\n"x\ny";1\nz;2\n\nz;3\nz;2..5\n', 9),
        ("a;b\rx;1\rz;2\rz;2..5\r", 4),
        ("sep=;\na;b\nx;1\nz;2\nz;2..5\n", 5),
        ("a b\n1 1\n2 2\n\n3 2..5\n4 5", 5),
    ],
)
def test_lines_are_those_of_the_file(tmp_path, text, line):
    with pytest.raises(InputError, match=rf'"2\.\.5" on line {line};'):
        load_features(str(write(tmp_path, text)))


def test_lines_stay_right_where_rows_were_left_out(tmp_path):
    text = "a,y\n1,u\n2,\n\n3,v\n4,v\n2..5,u\n"
    with pytest.raises(InputError, match=r'"2\.\.5" on line 7;'):
        load_features(str(write(tmp_path, text)), target="y")


@pytest.mark.parametrize(
    "text", ['a,b\n1,"2\n', 'a,b\n1,"2"3\n4,5\n', 'a,b\n1,"2"\n3,"4\n5"6\n']
)
def test_quotation_marks_are_read_strictly(tmp_path, text):
    with pytest.raises(InputError, match=r"line \d of table.csv starts a row that is"):
        read(tmp_path, text)


def test_a_row_may_be_longer_than_a_block(tmp_path):
    cell = "x" * 100_000
    source = read(tmp_path, f"{','.join('abcdefghijklmno')}\n{','.join([cell] * 15)}\n")
    assert source.columns[-1].tolist() == [cell]


def test_drop_comes_before_interpretation(tmp_path):
    text = "n,c1,c2\n1,3,0\na,1,2\n3,2,2\n"
    path = str(write(tmp_path, text))
    with pytest.raises(InputError, match=r"categorical=\['n'\].* or drop=\['n'\]"):
        load_counts(path)
    for table in (load_counts(path, drop=["n"]), load_counts(path, categorical=["n"])):
        np.testing.assert_array_equal(table.features, [[3, 0], [1, 2], [2, 2]])


@pytest.mark.parametrize("label", ["", "?", "NA"])
def test_a_first_column_without_values_labels_the_rows(tmp_path, label):
    path = write(tmp_path, f"n,c1,c2\n{label},3,0\n{label},1,2\n")
    table = load_counts(str(path))
    assert table.feature_names == ["c1", "c2"]
    assert table.notes == ['the first column "n" labels the rows']


def test_years_are_counted_with_a_note(tmp_path):
    path = str(write(tmp_path, "year,a,b\n1990,0,1\n1991,1,0\n1992,1,1\n"))
    table = load_counts(path)
    assert table.feature_names == ["year", "a", "b"]
    assert table.notes == [
        "\"year\" is taken as counts; categorical=['year'] takes it as labels,"
        " drop=['year'] leaves it out"
    ]
    assert load_counts(path, categorical=["year"]).feature_names == ["a", "b"]


def test_a_first_column_named_as_labels_are_is_noted(tmp_path):
    table = load_counts(str(write(tmp_path, "user_id,a,b\n7,0,1\n3,1,0\n3,1,1\n")))
    assert table.feature_names == ["user_id", "a", "b"]
    assert "drop=['user_id'] leaves it out" in table.notes[0]


def test_a_column_before_a_square_graph_labels_the_rows(tmp_path):
    path = write(tmp_path, "year,a,b,c\n1990,0,1,1\n1991,1,0,1\n1992,1,1,0\n")
    table = load_counts(str(path), graph=True)
    assert table.feature_names == ["a", "b", "c"]
    assert table.notes == ['the first column "year" labels the rows']


def test_only_labels_and_the_target_of_counts_can_be_categories(tmp_path):
    path = str(write(tmp_path, "n,c1,y\n1,3,0\n2,1,2\n3,5,2\n"))
    with pytest.raises(InputError, match="categorical c1: the columns of a table"):
        load_counts(path, categorical=["c1"])
    target = load_counts(path, target="y", categorical=["y"]).target
    assert target is not None
    assert target.class_names == ("0", "2")


def test_a_graph_that_is_symmetric_to_rounding_is_made_symmetric(tmp_path):
    weights = np.array([[0, 1, 2], [1 + 1e-7, 0, 3], [2, 3 - 2e-7, 0]])
    np.save(tmp_path / "w.npy", weights)
    table = load_counts(str(tmp_path / "w.npy"), graph=True)
    np.testing.assert_array_equal(table.features, table.features.T)
    np.testing.assert_allclose(table.features, weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "cells", "noted"),
    [
        ("x", [2003, 2001, 2005], True),
        ("customerID", [7, 3, 3], True),
        ("customer", [1, 3, 1], True),
        ("zip", [3, 3, 1], True),
        ("words", [3, 1, 3], False),
        ("x0", [2003, 2001, 2005], False),
    ],
)
def test_a_first_column_as_labels_are_is_noted(tmp_path, name, cells, noted):
    rows = [[cell, 4, i] for i, cell in enumerate(cells)]
    if name == "x0":
        np.save(tmp_path / "x.npy", np.array(rows))
        path = tmp_path / "x.npy"
    else:
        text = "".join(f"{a},{b},{c}\n" for a, b, c in rows)
        path = write(tmp_path, f"{name},b,c\n{text}")
    assert load_counts(str(path)).notes == [
        f"\"{name}\" is taken as counts; categorical=['{name}'] takes it as labels,"
        f" drop=['{name}'] leaves it out"
    ] * int(noted)


def test_a_first_column_partly_empty_has_ways_out(tmp_path):
    path = str(write(tmp_path, "my id,a,b\n1,0,1\n,1,0\n3,1,1\n"))
    with pytest.raises(InputError, match="a missing cell on line 3") as error:
        load_counts(path)
    for way in ("drop=['my id']", "categorical=['my id']"):
        assert way in str(error.value)
    assert load_counts(path, categorical=["my id"]).feature_names == ["a", "b"]
