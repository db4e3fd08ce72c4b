"""What tests of the command share."""

from pathlib import Path
from typing import NamedTuple

import pytest

from contexture_jax.cli import main


class Ran(NamedTuple):
    """The exit status of a run and what it printed."""

    status: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ran:
    capsys.readouterr()
    status = main(["spectrum", *map(str, arguments)])
    captured = capsys.readouterr()
    return Ran(status, captured.out, captured.err)


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path
