"""Runs of `fit` on one problem, of which tests look at the end and the directory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

import contexture_jax as cx
from tests.training.helpers import data, initial_state, make_step, same_bits

KEY = jax.random.key(9)
NUM_STEPS = 23

# One program for all runs; a run leaves the states that it is given alone.
COMPILED: list[Any] = []


def compiled() -> Any:
    if not COMPILED:
        COMPILED.append(cx.training.compile_step(make_step()))
    return COMPILED[0]


def rows() -> Any:
    return cx.training.batches(data(), 64, seed=0)


GROUPS: dict[str, Any] = {
    "monitor": cx.training.Monitor,
    "checkpoints": cx.training.Checkpoints,
    "logging": cx.training.Logging,
    "devices": cx.training.Devices,
}


def train(directory: Path | None, **options: Any) -> cx.training.FitResult:
    """A run of `fit`, with the options of all groups by their own names."""
    settings: dict[str, Any] = {
        "num_steps": NUM_STEPS,
        "key": KEY,
        "log_every": 2,
        "save_every": 6,
        "directory": directory,
    }
    settings |= options
    source = settings.pop("data", rows())
    step = settings.pop("step", compiled())
    state = settings.pop("state", initial_state())
    for name, kind in GROUPS.items():
        own = {field.name for field in dataclasses.fields(kind)} & settings.keys()
        settings[name] = kind(**{field: settings.pop(field) for field in own})
    return cx.training.fit(step, state, source, **settings)


def saved_steps(directory: Path) -> list[int]:
    names = [path.name for path in (directory / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def assert_same_run(result: Any, directory: Path, whole: tuple[Any, Path]) -> None:
    expected, reference = whole
    assert same_bits(result.state, expected.state)
    assert (result.status, result.best_step) == ("finished", expected.best_step)
    for name in ("metrics.csv",):
        assert (directory / name).read_bytes() == (reference / name).read_bytes()
    assert same_bits(result.history, expected.history)
    assert saved_steps(directory) == saved_steps(reference)
