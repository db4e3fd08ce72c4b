"""Numbers as people write them: converted and said, or refused with a way out."""

import numpy as np
import pytest

from contexture_jax.data._columns import interpret
from contexture_jax.data._features import load_features
from contexture_jax.data._messages import InputError, Message
from contexture_jax.data._notation import read_numbers
from contexture_jax.data._source import Dialect, Source
from contexture_jax.data._texts import Texts
from tests.data.helpers import write
from tests.tolerances import tol

CLOSE = tol(np.float64, factor=100)
UNREAD = "numbers in a notation that is not read"


def understood(cells, **options):
    source = Source("t", ["a"], [Texts.of(cells)], {})
    return interpret(source, source.columns[0], "a", feature=True, **options)


@pytest.mark.parametrize(
    ("texts", "values", "words"),
    [
        (["1,234,567", "89"], [1234567, 89], "commas between thousands"),
        (["1,234.5", "12"], [1234.5, 12], "commas between thousands"),
        (["12,34,567", "1,00,000"], [1234567, 100000], "commas between thousands"),
        (
            ["1.234.567,5", "1.000"],
            [1234567.5, 1000],
            "decimal commas, points between thousands",
        ),
        (["62,5", "-,75", "1,5e3"], [62.5, -0.75, 1500], "decimal commas"),
        (
            ["1 234,5", "1 000 000"],
            [1234.5, 1e6],
            "decimal commas, spaces between thousands",
        ),
        (["1\u00a0234", "5"], [1234, 5], "spaces between thousands"),
        (["1\u202f234.5", "5"], [1234.5, 5], "spaces between thousands"),
        (["1'234.5", "1’000"], [1234.5, 1000], "apostrophes between thousands"),
        (["5.5%", "-6 %"], [5.5, -6], '"%" behind each'),
        (["12 kg", "7.5kg"], [12, 7.5], '"kg" behind each'),
        (["3,5 m/s²", "4 m/s²"], [3.5, 4], 'decimal commas, "m/s²" behind each'),
        (["$1,234.50", "-$7", "$-8"], [1234.5, -7, -8], None),
        (["5 €", "1.234,5 €"], [5, 1234.5], None),
        (["USD 5", "USD 1,234.5"], [5, 1234.5], None),
        (["12 sq ft", "7.5 sq ft"], [12, 7.5], '"sq ft" behind each'),
        (["−5", "3.5"], [-5, 3.5], "typographic minus signs"),
        (["–5,5", "3"], [-5.5, 3], "decimal commas, typographic minus signs"),
        (["+5", "1E3"], [5, 1000], ""),
        (["１２．３", "－４"], [12.3, -4], "typographic minus signs"),
        (["５％", "６ ％"], [5, 6], '"%" behind each'),
        (["١٢٣٫٥", "٤٥"], [123.5, 45], ""),
        (["١٬٢٣٤٫٥", "٩"], [1234.5, 9], "Arabic commas between thousands"),
        (["१२३", "４５", "6"], [123, 45, 6], ""),
        (['5"', '7.5"'], [5, 7.5], "'\"' behind each"),
        (["5′", "7.5'"], [5, 7.5], '"\'" behind each'),
        (["500 kr.", "7.5 kr"], [500, 7.5], '"kr" behind each'),
        (["R$ 500,50", "R$ 7"], [500.5, 7], None),
        (["USD500.5", "USD -7"], [500.5, -7], '"USD" before each'),
    ],
)
def test_one_notation_throughout_is_read_and_named(texts, values, words):
    column = understood(texts)
    np.testing.assert_array_equal(column.values, values)
    if words is not None:
        assert ", ".join(column.words) == words


@pytest.mark.parametrize(
    ("cells", "look"),
    [
        (["12 kg", "900 g", "3 lb"], "numbers of several units"),
        (["5%", "0.5", "7 %", "x%"], None),
        (["1/2", "3/4", "1 1/3"], "fractions"),
        (["½", "¾", "1½"], "fractions"),
        (["2024-01-05", "2024-01-06", "2024-02-01"], "dates"),
        (["5.1.2024", "16.1.2024", "1.12.24"], "dates"),
        (["01/05/2024 10:00", "1/6/2024", "12/31/2024"], "dates"),
        (["5 May 2020", "16-Jun-21", "May 7, 2021"], "dates"),
        (["2024-Q1", "2024-Q2", "2024-Q3"], "dates"),
        (["12:30", "9:05", "23:59:59"], "times"),
        (["1-5", "6-10", "11-15"], "ranges"),
        (["(1,200)", "(3)", "(4)"], "numbers in parentheses"),
        (["<5", ">100", "<0.1"], "bounds"),
        (["5-", "6-", "7+"], "numbers with a sign behind"),
        (["1_000", "2_000", "3_000"], "numbers with underscores"),
        (["12 kg", "900 g"], "numbers of several units"),
        (["1.5D+03", "2.5D+03", "3D+00"], "numbers as powers of ten"),
        (["1.5×10³", "2×10^4", "3x10-2"], "numbers as powers of ten"),
        (["1 days 02:03:04", "-1 days +05:00:00", "2 days 00:00:01.5"], "durations"),
        (["2h30m", "1h 5m", "45 min"], "durations"),
        (["PT5M", "PT1H30M", "P1DT2H"], "durations"),
        (["5 years 3 months", "2 years", "1 year"], "durations"),
        (["100:02:03", "1:02.5", "10:00+02:00"], "times"),
        (["10am", "3 PM", "4 p.m."], "times"),
        (["2024-W05", "2024-W06", "2024-W07"], "dates"),
        (["Monday, 5 May 2020", "5 de mayo de 2020", "2024年1月"], "dates"),
        (["5'11\"", "6′1″", "5 ft 9 in"], "lengths in feet and inches"),
        (["51°30'N", "48°51'30\"N", "33.5° S"], "coordinates"),
        (["51.5, -0.1", "48.8, 2.3", "(35.6, 139.7)"], "coordinates"),
        (["+44 20 7946 0958", "+1 555 123 4567", "+49 30 12345"], "telephone numbers"),
        (["(555) 555-0100", "555-0101", "212-555-0199"], "telephone numbers"),
        (["1.2.3", "v2.0.1", "10.0.0-rc1"], "version numbers"),
        (["192.168.0.1", "10.0.0.1/8", "8.8.8.8"], "network addresses"),
        (["00:1A:2B:3C:4D:5E", "fe80::1", "2001:db8::ff00:42"], "network addresses"),
        (["0x1F", "0xFF", "0x10"], "hexadecimal, octal or binary numbers"),
        (["1+2j", "3 - 4i", "(5+6j)"], "complex numbers"),
        (["5±1", "7 +/- 0.5", "8 ± 1 kg"], "numbers with an uncertainty"),
        (["3:1", "16:9", "5:2:1"], "ratios"),
        (["10x20", "10 x 20 x 3", "3×4 cm"], "sizes of several numbers"),
        (["about 5", "ca. 6", "~7"], "bounds"),
        (["'5'", '"6"', "'7"], "numbers in quotation marks"),
        (["#1", "No. 2", "5*"], "numbers with marks"),
        (["[1, 2]", "[3, 4]", "[5, 6]"], UNREAD),
        (["1|2", "3|4", "5|6"], UNREAD),
        (["978-3-16-148410-0", "978-0-306-40615-7"], UNREAD),
        (["4111 1111 1111 1111", "5500 0000 0000 0004"], UNREAD),
        (["33N 500000 4649776", "33N 500001 4649776"], UNREAD),
        (["5\\6", "7\\8", "９～１２"], UNREAD),
    ],
)
def test_what_is_like_numbers_but_none_is_refused_with_ways_out(cells, look):
    match = rf'"a" of t (looks like {look}: "|holds numbers but for )' if look else "a"
    with pytest.raises(InputError, match=match) as error:
        understood(cells)
    assert "categorical=['a']" in str(error.value)
    assert "drop=['a']" in str(error.value)
    assert len(understood(cells, categorical=True).categories) == len(cells)


def test_too_many_for_categories_are_told_what_they_look_like():
    durations = [f"{i} days 02:03:04" for i in range(1001)]
    with pytest.raises(InputError, match="they look like durations: write them as num"):
        understood(durations)
    with pytest.raises(InputError, match="make a category: leave it out"):
        understood([f"name {i}" for i in range(1001)])


@pytest.mark.parametrize(
    "cells",
    [
        "ann bob cleo dan",
        "A1 B7 C12 D3",
        "P-17 P-18 Q-2 Q-30",
        "A+ B- O+ AB-",
        "TP53 BRCA1 EGFR KRAS2",
        "H2O CO2 NaCl C6H12O6",
        "IV IX XII VII",
        "d41d8cd98f00b204 09f7e02f1290be21 5d41402abc4b2a76 7d793037a0760186",
        "3c@x.com a1@x.com b2@x.com d@x.com",
        "七 一郎 二郎 三郎",
        "10_Downing_Street 221B_Baker_Street 5_Main_St 7_Rue_Cler",
        "12_Angry_Men 300_Spartans 2001:_A_Space_Odyssey 7_Samurai",
        "7-Eleven 3M Pepsi Coke",
        "SW1A_1AA M1_1AE B33_8TH E14_5AB",
    ],
)
def test_names_and_codes_are_categories_however_many(cells):
    texts = [cell.replace("_", " ") for cell in cells.split(" ")]
    column = understood(texts)
    assert sorted(column.categories) == sorted(texts)
    assert "nearly a category a row" in column.notes[0]


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (["2024.01", "2024.02", "", "2024.12"], "years with months"),
        (["2024.1", "2024.2", "2024.10"], "years with months"),
        (["2024,01", "2024,02"], "years with months"),
        (["01.2024", "12.2024"], "years with months"),
        (["202401", "202412"], "years with months"),
        (["20240105", "20241231"], "dates"),
        (["01234", "98765"], "codes with leading zeros"),
        (["007", "12.0", "NA"], "codes with leading zeros"),
        (["2024.5", "2023.1"], None),
        (["2024.13", "2024.01"], None),
        (["20240105", "20241331"], None),
        (["0", "0.5", "10"], None),
        (["2023", "2024"], None),
    ],
)
def test_numbers_that_may_be_dates_or_codes_are_noted_with_a_way_out(cells, what):
    notes = tuple(map(Message, understood(cells).notes))
    assert notes == (
        ()
        if what is None
        else (
            f"\"a\" looks like {what}, read as numbers: categorical=['a'] takes"
            " each text as a category",
        )
    )
    assert set(understood(cells, categorical=True).categories) == set(cells) - {
        "",
        "NA",
    }


def test_dates_in_an_array_are_noted_too():
    for cells in (np.array([2024.01, 2024.1, 2024.11]), np.array([20240105, 20231231])):
        source = Source("t", ["a"], [cells], {})
        (note,) = interpret(source, cells, "a", feature=True).notes
        assert "categorical=['a']" in note
    cells = np.array([2024.01, 1.5])
    assert (
        interpret(Source("t", ["a"], [cells], {}), cells, "a", feature=True).notes == ()
    )


def test_a_few_dates_are_categories_with_a_note():
    column = understood(["2024-01", "2024-02"] * 5)
    assert column.categories == ("2024-01", "2024-02")
    assert column.notes == ('"a" looks like dates, taken as categories',)


def test_texts_nearly_as_many_as_rows_are_noted():
    column = understood(["ann", "bob", "cleo", "bob"])
    assert column.notes == (
        '"a" has 3 different texts in 4 rows, nearly a category a row',
    )
    assert understood(["ann", "bob"]).notes != ()
    assert understood(["ann", "bob"] * 3).notes == ()


@pytest.mark.parametrize(
    ("decimal", "expected"), [(",", [1.234, 56.789]), (".", [1234, 56789])]
)
def test_a_comma_that_may_be_either_is_asked_about(decimal, expected):
    cells = ["1,234", "56,789"]
    with pytest.raises(InputError, match=r"decimal=',' or decimal='\.' tells"):
        understood(cells)
    column = understood(cells, dialect=Dialect(decimal=decimal))
    np.testing.assert_array_equal(column.values, expected)


@pytest.mark.parametrize(
    ("other", "expected"), [("0.5", [1234, 5678]), ('"0,5"', [1.234, 5.678])]
)
def test_the_rest_of_the_file_tells_what_a_comma_is(tmp_path, other, expected):
    text = f'a,b\n"1,234",{other}\n"5,678",2\n"1,234",7\n'
    found = load_features(str(write(tmp_path, text))).features[:, 0]
    values = np.array([*expected, expected[0]])
    np.testing.assert_allclose(
        found, (values - values.mean()) / values.std(), atol=CLOSE
    )


def test_points_that_may_be_between_thousands_are_noted(tmp_path):
    path = str(write(tmp_path, "a;b\n1.000;1\n2.500;2\n500;9\n"))
    assert load_features(path).notes == [
        "separator ;",
        "points taken as before decimals (decimal=',' if they are between thousands),"
        " in: a",
    ]
    thousands = load_features(path, decimal=",").features[:, 0]
    assert thousands[2] < thousands[0] < thousands[1]


def test_a_named_decimal_sign_holds_for_all_columns():
    with pytest.raises(InputError, match=r'holds numbers but for "0\.55"'):
        understood(["1,5", "0.55"], dialect=Dialect(decimal=","))
    column = understood(["1.500", "2"], dialect=Dialect(decimal=","))
    np.testing.assert_array_equal(column.values, [1500, 2])


def test_points_before_decimals_stay_where_other_columns_have_commas():
    column = understood(["0.25", "1.5"], dialect=Dialect(decimal=",", found=True))
    np.testing.assert_array_equal(column.values, [0.25, 1.5])


def test_readings_that_agree_are_no_doubt():
    reading = read_numbers(["1 234", "5"], np.ones(2))
    np.testing.assert_array_equal(reading.values, [1234, 5])
    assert reading.decimals == {".", ","}


@pytest.mark.parametrize("words", ["True TRUE true False", "FALSE false TRUE"])
def test_spellings_of_true_are_one_category(words):
    assert understood(words.split()).categories == ("false", "true")


def test_categories_that_differ_by_case_are_noted():
    column = understood(["Red", "red", "blue"] * 3)
    assert column.categories == ("Red", "blue", "red")
    (note,) = column.notes
    assert note.endswith('differ by case or spaces only: "Red" and "red"')


@pytest.mark.parametrize("base", [2**53, 2**63])
def test_integers_of_64_bits_stay_apart_as_classes(tmp_path, base):
    ids = [base, base + 1, base, base + 1]
    rows = "".join(f"{i},{v}\n" for i, v in enumerate(ids))
    np.savez(tmp_path / "d.npz", x=np.eye(4), y=np.array(ids, np.uint64))
    for path in (write(tmp_path, "a,y\n" + rows), tmp_path / "d.npz"):
        for categorical in ([], ["y"]):
            target = load_features(
                str(path), target="y", categorical=categorical
            ).target
            assert target is not None
            assert target.class_names == (str(base), str(base + 1))
            np.testing.assert_array_equal(target.values, [0, 1, 0, 1])


def test_integers_of_64_bits_as_numbers_are_noted():
    column = understood([str(2**53 + 1), str(2**54), "7"])
    assert "categorical" in column.notes[0]


def test_marks_of_missing_values_are_counted_and_chosen(tmp_path):
    text = "a,y\n1,None\n2,NA\n3,x\n4,x\n5,None\n6,z\n"
    path = str(write(tmp_path, text))
    table = load_features(path, target="y")
    assert table.notes == [
        '3 rows without a value of "y" left out ("None": 2, "NA": 1);'
        " missing says what counts as one"
    ]
    kept = load_features(path, target="y", missing=("x",))
    assert kept.target is not None
    assert kept.target.class_names == ("NA", "None", "z")
    np.testing.assert_array_equal(kept.rows, [0, 1, 4, 5])


def test_nan_is_a_class_if_no_mark_and_no_number_in_any_case():
    dialect = Dialect(missing=())
    assert understood(["roti", "nan", "Nan"], dialect=dialect).categories == (
        "Nan",
        "nan",
        "roti",
    )
    for cells in (["1", "nan", "3"], ["1,5", "NaN", "3"]):
        column = understood(cells, dialect=dialect)
        np.testing.assert_array_equal(column.missing, [False, True, False])
    assert understood(["roti", "nan", "roti"]).categories == ("roti",)


@pytest.mark.parametrize("mark", ["-999", "-999.0"])
def test_a_number_may_mark_a_missing_value(tmp_path, mark):
    np.save(tmp_path / "x.npy", np.array([[1.0], [-999.0], [4.0], [2.0]]))
    array = load_features(str(tmp_path / "x.npy"), missing=(mark,))
    text = load_features(str(write(tmp_path, "a\n1\n\n4\n2\n")))
    np.testing.assert_array_equal(array.features, text.features)


def test_a_median_of_the_largest_numbers_does_not_overflow(tmp_path):
    path = write(tmp_path, "a\n1e308\n\n1.7e308\n-1e308\n1.5e308\n")
    small = write(tmp_path, "a\n1\n\n1.7\n-1\n1.5\n", "small.csv")
    np.testing.assert_allclose(
        load_features(str(path)).features,
        load_features(str(small)).features,
        atol=CLOSE,
    )


@pytest.mark.parametrize(
    "form",
    [
        "{:,}",
        "{} kg",
        "\u2212{}",
        "{}.0",
        "{:_}",
    ],
)
def test_integers_of_64_bits_stay_apart_however_they_are_written(tmp_path, form):
    ids = [2**53 + i for i in (0, 1, 0, 1)]
    cells = [form.format(i).replace("_", " ") for i in ids]
    rows = "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
    target = load_features(str(write(tmp_path, "a,y\n" + rows)), target="y").target
    assert target is not None
    sign = "-" if "\u2212" in form else ""
    assert set(target.class_names) == {f"{sign}{i}" for i in ids}
    assert len(set(target.values)) == 2


def test_one_power_of_ten_leaves_integers_of_64_bits_apart(tmp_path):
    cells = [str(2**53), str(2**53 + 1), "1e3"] * 2
    rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
    target = load_features(str(write(tmp_path, "a,y\n" + rows)), target="y").target
    assert target is not None
    assert target.class_names == ("1000", str(2**53), str(2**53 + 1))


def test_integers_of_64_bits_beside_fractions_are_noted():
    assert "beyond 2^53" in understood([str(2**53 + 1), "0.5"]).notes[0]
    assert understood(["6.02e23", "0.5"]).notes == ()


def test_classes_that_differ_by_leading_zeros_are_noted(tmp_path):
    rows = "".join(f"{i},{y}\n" for i, y in enumerate(["01", "1", "2", "001", "2"]))
    table = load_features(str(write(tmp_path, "a,y\n" + rows)), target="y")
    assert table.notes == [
        '"y" has texts that are one number, so one class: "01" and "1" and "001"'
        " (categorical=['y'] keeps them apart)"
    ]
    padded = "".join(f"{i},{y}\n" for i, y in enumerate(["01", "02", "01", "02"]))
    path = str(write(tmp_path, "a,y\n" + padded))
    assert load_features(path, target="y").notes == []


@pytest.mark.parametrize("unit", ["", " kg"])
def test_a_column_of_decimal_commas_leaves_points_before_decimals(tmp_path, unit):
    values = np.array([1.125, 12, 350, 7])
    tags = ["0,5", "1,5", "0,5", "2,5"]
    rows = [f'{v:g}{unit},"{t}"\n' for v, t in zip(values, tags, strict=True)]
    table = load_features(str(write(tmp_path, "a,tag\n" + "".join(rows))))
    np.testing.assert_allclose(
        table.features[:, 0], (values - values.mean()) / values.std(), atol=CLOSE
    )
    assert "decimal comma" in table.notes
    # Nothing else than a sign between thousands fits here.
    text = 'a,tag\n1.234.567,"0,5"\n12,"1,5"\n7,"2,5"\n'
    large = load_features(str(write(tmp_path, text))).features[:, 0]
    assert large[0] > large[1] > large[2]


def test_a_column_of_marks_names_the_way_out(tmp_path):
    path = str(write(tmp_path, "a,b\n1,NA\n2,NA\n3,None\n"))
    with pytest.raises(InputError, match='"NA", "None"; missing=\\(\\) keeps such'):
        load_features(path)
    assert len(load_features(path, missing=()).feature_names) == 3


def test_classes_merged_by_rounding_are_refused_with_the_reason(tmp_path):
    cells = ["9,007,199,254,740,993", "9007199254740992", "9007199254740992.5"]
    rows = "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
    path = str(write(tmp_path, "a,y\n" + rows))
    with pytest.raises(InputError, match=r"integers beyond 2\^53, rounded"):
        load_features(path, target="y")
