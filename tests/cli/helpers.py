"""What tests of the command share."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from contexture_jax.cli import main
from contexture_jax.training import PairBatches


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


def told_at(step: int, monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Signals to this process as the batch of a step is read."""
    at = PairBatches.at

    def telling(self: Any, which: int) -> Any:
        if which == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        return at(self, which)

    monkeypatch.setattr(PairBatches, "at", telling)
