"""From files to features: encoding, missing cells, targets, and what each format is."""

from pathlib import Path

import numpy as np
import pytest

from contexture_jax.data._counts import load_counts
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError
from contexture_jax.data._table import auto_gamma
from tests.data.helpers import write
from tests.tolerances import tol

F64 = np.float64
CLOSE = tol(F64, factor=100)


def column(table, name):
    return table.features[:, table.feature_names.index(name)]


def squared_distances(x):
    return ((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=2)


def test_numbers_are_standardised(tmp_path):
    table = load_features(str(write(tmp_path, "a,b\n1,5e300\n2,7e300\n4,9e300\n")))
    np.testing.assert_allclose(table.features.mean(axis=0), 0, atol=CLOSE)
    np.testing.assert_allclose(table.features.std(axis=0), 1, atol=CLOSE)
    assert table.feature_names == ["a", "b"]


@pytest.mark.parametrize("cell", ["", "?", "NA", "nan", "NaN", " ", "null"])
def test_a_missing_number_becomes_the_median(tmp_path, cell):
    # The median of 1, 2, 9 is 2: as if the cell were 2.
    holed = load_features(str(write(tmp_path, f"a,b\n1,1\n2,1\n9,2\n{cell},2\n")))
    whole = load_features(str(write(tmp_path, "a,b\n1,1\n2,1\n9,2\n2,2\n")))
    np.testing.assert_array_equal(holed.features, whole.features)
    assert holed.notes == [
        "1 missing number replaced by the median of the column, in: a"
    ]
    assert whole.notes == []


def test_two_categories_have_the_geometry_of_zero_and_one(tmp_path):
    text = load_features(str(write(tmp_path, "a\nno\nno\nyes\nno\nyes\n")))
    digits = load_features(str(write(tmp_path, "a\n0\n0\n1\n0\n1\n")))
    assert text.feature_names == ["a=no", "a=yes"]
    np.testing.assert_allclose(
        squared_distances(text.features), squared_distances(digits.features), atol=CLOSE
    )


def test_a_categorical_column_has_mean_0_and_total_variance_1(tmp_path):
    table = load_features(str(write(tmp_path, "a\nx\ny\nz\nx\nx\ny\n")))
    np.testing.assert_allclose(table.features.mean(axis=0), 0, atol=CLOSE)
    np.testing.assert_allclose((table.features**2).sum() / 6, 1, atol=CLOSE)


def test_a_missing_category_is_a_category_of_its_own(tmp_path):
    table = load_features(str(write(tmp_path, "a,b\nx,1\n?,2\ny,3\n,4\n")))
    assert table.feature_names == ["a=x", "a=y", "a=missing", "b"]
    missing = column(table, "a=missing")
    assert missing[1] == missing[3] > missing[0] == missing[2]
    assert table.notes == ["2 missing texts taken as a category of its own, in: a"]


def test_constant_columns_are_left_out_with_a_note(tmp_path):
    path = write(tmp_path, "a,b,c,d\n1,0.1,u,7\n2,0.1,u,\n3,0.1,u,7\n")
    table = load_features(str(path))
    assert table.feature_names == ["a"]
    assert table.num_columns == 1
    assert table.notes == ["3 constant columns left out: b, c, d"]


def test_categorical_makes_classes_of_numbers(tmp_path):
    path = write(tmp_path, "a,b\n10,1\n9,2\n10,3\n")
    table = load_features(str(path), categorical=["a"])
    assert table.feature_names == ["a=9", "a=10", "b"]


def test_drop_leaves_a_column_out(tmp_path):
    path = write(tmp_path, "id,a\nrow 1,3\nrow 2,4\n")
    assert load_features(str(path), drop=["id"]).feature_names == ["a"]


def test_a_saved_index_is_left_out(tmp_path):
    table = load_features(str(write(tmp_path, ",a\n0,3\n1,4\n2,4\n")))
    assert table.feature_names == ["a"]
    assert "numbers the rows" in table.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa,b\r\n1,2\r\n3,4\r\n",
        "a;b\n1;2\n3;4\n",
        "a\tb\n1\t2\n3\t4",
        '"a" , "b"\n1, 2\n\n3 ,4\n\n',
    ],
    ids=["bom and crlf", "semicolons", "tabs", "spaces and blank lines"],
)
def test_dialects_read_alike(tmp_path, text):
    text = text.replace('" , "', '","')
    table = load_features(str(write(tmp_path, text)))
    assert table.feature_names == ["a", "b"]
    np.testing.assert_allclose(table.features, [[-1, -1], [1, 1]], atol=CLOSE)


def test_an_empty_line_is_a_missing_cell_of_a_single_column(tmp_path):
    table = load_features(str(write(tmp_path, "a\n1\n\n4\n4\n\n")))
    assert table.features.shape == (4, 1)


def test_the_target_is_left_out_of_the_features(tmp_path):
    path = write(tmp_path, "a,y,b\n1,u,2\n3,v,5\n6,u,1\n")
    table = load_features(str(path), target="y")
    assert table.feature_names == ["a", "b"]
    assert table.target is not None
    assert table.target.class_names == ("u", "v")
    np.testing.assert_array_equal(table.target.values, [0, 1, 0])


def test_rows_without_a_target_are_left_out(tmp_path):
    path = write(tmp_path, "a,y\n1,u\n2,?\n3,v\n4,u\n")
    table = load_features(str(path), target="y")
    np.testing.assert_array_equal(table.rows, [0, 2, 3])
    assert table.features.shape == (3, 1)
    assert table.notes == ['1 row without a value of "y" left out ("?": 1)']


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 1, 0, 2, 2], "classes"),
        ([0.5, 1, 1, 0.5, 2, 2], "numbers"),
        ([10, 20, 30, 40, 50, 60], "numbers"),
        (["a", "b", "c", "d", "e", "f"], "classes"),
    ],
)
def test_few_integers_and_texts_are_classes(tmp_path, values, kind):
    rows = "".join(f"{i},{v}\n" for i, v in enumerate(values))
    table = load_features(str(write(tmp_path, "a,y\n" + rows)), target="y")
    assert table.target is not None
    assert table.target.kind == kind


def test_a_bad_cell_is_placed_by_its_line(tmp_path):
    path = write(tmp_path, 'a,b\n"two\nlines",1\nx,2\n\nx,3\ny,12..3\n')
    with pytest.raises(InputError, match=r'"b".*"12\.\.3" on line 7'):
        load_features(str(path))


def test_npy_is_read_as_features(tmp_path):
    x = np.array([[1, 2], [3, 4], [5, 9]])
    np.save(tmp_path / "x.npy", x)
    table = load_features(str(tmp_path / "x.npy"))
    expected = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(table.features, expected, atol=CLOSE)
    assert table.feature_names == ["x0", "x1"]


@pytest.mark.parametrize("key", ["y", "target"])
@pytest.mark.parametrize("name", ["x", "features"])
@pytest.mark.parametrize("asked", ["y", "target"])
def test_npz_has_features_and_a_target(tmp_path, key, name, asked):
    arrays = {name: np.arange(8.0).reshape(4, 2), key: np.array(["u", "v", "u", "v"])}
    np.savez(tmp_path / "d.npz", **arrays)
    table = load_features(str(tmp_path / "d.npz"), target=asked)
    assert table.features.shape == (4, 2)
    assert table.target is not None
    assert table.target.class_names == ("u", "v")


@pytest.mark.parametrize("asked", ["y", "target"])
def test_built_in_sets_have_a_target(asked):
    table = load_features("wine", target=asked)
    assert table.features.shape == (178, 13)
    assert table.target is not None
    assert table.target.class_names == ("class_0", "class_1", "class_2")
    assert np.bincount(table.target.values).tolist() == [59, 71, 48]


def test_a_feature_of_a_built_in_set_can_be_the_target():
    table = load_features("wine", target="alcohol")
    assert table.features.shape == (178, 12)
    assert table.target is not None
    assert table.target.kind == "numbers"


def test_counts_are_left_as_they_are(tmp_path):
    path = write(tmp_path, "word,c1,c2\nthe,3,0\na,0,2\n")
    table = load_counts(str(path))
    np.testing.assert_array_equal(table.features, [[3, 0], [0, 2]])
    assert table.notes == ['the first column "word" labels the rows']


def test_counts_without_labels_keep_all_columns(tmp_path):
    assert load_counts(str(write(tmp_path, "a,b\n1,2\n3,4\n"))).features.shape == (2, 2)


def test_magnitudes_near_the_largest_float_are_standardised(tmp_path):
    biggest = Path(write(tmp_path, "a\n1.7e308\n-1.7e308\n1e308\n"))
    assert np.isfinite(load_features(str(biggest)).features).all()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"drop": "a"}, TypeError, r"drop must hold texts, as \['a'\]; got one text"),
        ({"missing": "NA"}, TypeError, "missing must hold texts"),
        ({"decimal": "x"}, ValueError, "decimal must be '.' or ','; got 'x'"),
        ({"separator": ", "}, ValueError, "separator must be one character; got ', '"),
    ],
)
@pytest.mark.parametrize("load", [load_features, load_counts])
def test_keywords_are_checked(tmp_path, load, given, error, message):
    with pytest.raises(error, match=message):
        load(write(tmp_path, "a,b\n1,2\n3,5\n"), **given)


def test_gamma_is_one_over_the_columns_however_they_are_coded(tmp_path):
    path = write(tmp_path, "a,b,c\n1,x,7\n2,y,7\n4,z,7\n9,x,7\n")
    table = load_features(path)
    assert table.features.shape == (4, 4)
    assert auto_gamma(table) == 1 / 2
    mean = squared_distances(table.features).mean()
    np.testing.assert_allclose(auto_gamma(table) * mean, 2, atol=CLOSE)
