"""How the command names what it takes, in its own words and in those of `cx.data`."""

import subprocess

import pytest

from contexture_jax.cli._arguments import as_option, as_words
from contexture_jax.data import InputError, Message, load_counts, load_features
from contexture_jax.data._messages import parameter
from tests.data.helpers import write


@pytest.mark.parametrize(
    ("name", "value", "python", "command"),
    [
        ("drop", ["my id"], "drop=['my id']", "--drop 'my id'"),
        ("missing", (), "missing=()", "--missing ''"),
        ("missing", None, "missing", "--missing"),
        ("decimal", ",", "decimal=','", "--decimal ,"),
        ("graph", True, "graph=True", "--context graph"),
        ("graph", False, "graph=False", "--context joint"),
        ("path", None, "path", "DATA"),
        ("drop", ["a\nb'"], 'drop=["a\\nb\'"]', "--drop $'a\\u000ab\\''"),
    ],
)
def test_a_parameter_is_named_for_who_reads_it(name, value, python, command):
    message = Message(f"leave it out with {parameter(name, value)}, or not")
    assert message == f"leave it out with {python}, or not"
    assert message.worded(as_words) == f"leave it out with {command}, or not"


def test_errors_and_notes_of_data_name_keywords_and_options(tmp_path):
    path = write(tmp_path, "year,a,b\n1999,1,2\n2000,2,1\n2001,3,3\n")
    (note,) = load_counts(path).notes
    assert "drop=['year'] leaves it out" in note
    assert "--drop year leaves it out" in note.worded(as_words)
    with pytest.raises(InputError, match=r"drop: table\.csv has no column") as error:
        load_features(path, drop=["z"])
    assert error.value.message.worded(as_words).startswith("--drop: table.csv has no")
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("name", ["a", "my id", "it's", "-x", "$y", "a\nb'\\"])
def test_a_way_out_is_what_a_shell_takes(name):
    said = as_option("--drop", name)
    assert "\n" not in said
    found = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {said}"], capture_output=True, check=True
    ).stdout.decode()
    joined = f"--drop={name}\0" if name[0] == "-" else f"--drop\0{name}\0"
    assert found == joined
