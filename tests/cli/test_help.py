"""What the command tells of itself: each of its commands, in help and README."""

import re
from pathlib import Path

import pytest

from contexture_jax.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = (
    "spectrum",
    "rank",
    "predict",
    "diagnose",
    "train",
    "embed",
    "plan",
    "bench",
)


def told(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_these(capsys):
    listed = re.findall(r"^    (\w+) ", told(capsys), re.MULTILINE)
    assert set(listed) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_has_help_and_stands_in_the_readme(capsys, command):
    text = told(capsys, command)
    # Words about it before its options, each of which is told.
    assert len(text.split("options:")[0]) > 300
    for option in re.findall(r"^  (--[\w-]+)", text, re.MULTILINE):
        assert text.count(option) > 1, option
    assert f"contexture {command} " in README
