"""Going on with a run that was killed, told to end, or finished: bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import optax
import pytest

import contexture_jax as cx
from contexture_jax.training._interrupt import interruptible
from tests.training.helpers import data, initial_state, make_step, same_bits
from tests.training.runs import (
    NUM_STEPS,
    assert_same_run,
    rows,
    saved_steps,
    train,
)

ROOT = Path(__file__).parents[2]


def killed(directory: Path, where: str, at: int) -> None:
    """Run `train` in a process that kills itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.training.killed", str(directory), where]
    run = subprocess.run(
        [*command, str(at)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save(
    whole: tuple[Any, Path], tmp_path: Path
) -> None:
    killed(tmp_path, "save", 12)
    assert saved_steps(tmp_path) == [6]
    assert len(list((tmp_path / "checkpoints").glob("12*"))) == 1, "not in a save"
    assert_same_run(train(tmp_path), tmp_path, whole)
    assert list((tmp_path / "checkpoints").glob("*tmp*")) == []


@pytest.mark.slow
def test_killed_again_and_again(whole: tuple[Any, Path], tmp_path: Path) -> None:
    killed(tmp_path, "run", 4)
    assert saved_steps(tmp_path) == []
    killed(tmp_path, "run", 11)
    killed(tmp_path, "begin", 12)
    killed(tmp_path, "save", 18)
    assert saved_steps(tmp_path) == [6, 12]
    killed(tmp_path, "run", 21)
    assert_same_run(train(tmp_path), tmp_path, whole)


@pytest.mark.parametrize("prefetch_size", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_stopped_and_gone_on_with(
    whole: tuple[Any, Path], tmp_path: Path, prefetch_size: int
) -> None:
    class Broken(Exception):
        pass

    def breaking() -> Any:
        for number, batch in zip(range(15), rows(), strict=False):
            yield batch
            if number == 14:
                raise Broken

    with pytest.raises(Broken):
        train(tmp_path, data=breaking(), prefetch_size=prefetch_size)
    with (tmp_path / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("16,0.")  # half a line, as a process that dies may leave
    assert_same_run(train(tmp_path), tmp_path, whole)


def told_at(*steps: int, number: int = signal.SIGTERM) -> Any:
    """Batches, and a signal to this process as those of some steps are read."""
    for step, batch in enumerate(rows(), start=1):
        if step in steps:
            signal.raise_signal(number)
        yield batch


@pytest.mark.slow_cases("2")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_goes_on_as_if_it_had_not(
    whole: tuple[Any, Path], tmp_path: Path, number: int
) -> None:
    handler = signal.getsignal(number)
    name = signal.Signals(number).name
    for step in (3, 12, 13, 20):  # after a row and not, at a save, and again
        message = rf"{name} ended the run after step {step} of 23; its checkpoint is in"
        with pytest.warns(RuntimeWarning, match=message):
            result = train(tmp_path, data=told_at(step, number=number), prefetch_size=0)
        assert (result.status, int(result.state.step)) == ("interrupted", step)
        assert str(tmp_path / "checkpoints") in result.message
        assert saved_steps(tmp_path)[-1] == step
        assert signal.getsignal(number) is handler
    assert_same_run(train(tmp_path), tmp_path, whole)


def test_a_run_without_a_directory_returns_what_it_has() -> None:
    with pytest.warns(RuntimeWarning, match="without a directory nothing was saved"):
        result = train(None, data=told_at(5), prefetch_size=0)
    assert (result.status, int(result.state.step)) == ("interrupted", 5)


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    def twice() -> Any:
        for step, batch in enumerate(told_at(8, number=signal.SIGINT), start=1):
            if step == 8:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, data=twice(), prefetch_size=0)
    assert saved_steps(tmp_path) == [6]


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait_for_data_that_never_come() -> None:
    come = threading.Event()

    def stuck() -> Any:
        yield rows().at(0)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            come.wait(1)
        come.wait(60)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(None, data=stuck())
    assert time.monotonic() - start < 30
    come.set()


def test_a_handler_of_the_program_is_called_once_the_state_is_saved(
    tmp_path: Path,
) -> None:
    saved = []
    before = signal.signal(
        signal.SIGTERM, lambda *_: saved.append(saved_steps(tmp_path))
    )
    try:
        with pytest.warns(RuntimeWarning, match="SIGTERM ended the run"):
            train(tmp_path, data=told_at(4), prefetch_size=0)
        # Too late to end the run, and not lost.
        train(tmp_path, data=told_at(NUM_STEPS), prefetch_size=0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert saved == [[4], saved_steps(tmp_path)]


def test_handlers_are_called_in_all_processes_that_a_signal_ends() -> None:
    called = []
    before = signal.signal(signal.SIGTERM, lambda *given: called.append(given[0]))
    try:
        for received in (False, True):
            told = iter([0, signal.SIGTERM])
            with interruptible(lambda _, told=told: next(told)) as interruption:
                if received:
                    signal.raise_signal(signal.SIGTERM)
                assert [interruption.is_asked() for _ in range(3)] == [0, 1, 1]
            assert called == [signal.SIGTERM] * (1 + received)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_bad_loss_before_an_interruption_is_not_saved(tmp_path: Path) -> None:
    def data() -> Any:
        for step, batch in enumerate(told_at(9), start=1):
            yield np.where(step == 9, np.nan, batch)

    with pytest.warns(RuntimeWarning, match="is nan at step 9; the checkpoint of step"):
        result = train(tmp_path, data=data(), prefetch_size=0)
    assert result.status == "non-finite"
    assert saved_steps(tmp_path) == [6]


@pytest.mark.slow
def test_iterators_go_on_where_they_were(
    whole: tuple[Any, Path], tmp_path: Path
) -> None:
    class Endless:
        """With a state, as Grain's iterators have."""

        def __init__(self) -> None:
            self.at = 0

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            self.at += 1
            return rows().at(self.at - 1)

        def get_state(self) -> Any:
            return {"at": self.at}

        def set_state(self, state: Any) -> None:
            self.at = state["at"]

    for name, source in (("state", Endless), ("none", lambda: iter(rows()))):
        train(tmp_path / name, data=source(), num_steps=12)
        result = train(tmp_path / name, data=source())
        assert_same_run(result, tmp_path / name, whole)


def test_grain_goes_on_where_it_was(tmp_path: Path) -> None:
    def loader() -> Any:
        source = grain.MapDataset.source(list(data())).seed(1).shuffle().repeat()
        options = grain.ReadOptions(num_threads=1)
        return iter(source.batch(64, drop_remainder=True).to_iter_dataset(options))

    whole = train(None, data=loader(), num_steps=10)
    train(tmp_path, data=loader(), num_steps=6)
    result = train(tmp_path, data=loader(), num_steps=10)
    assert same_bits(result.state, whole.state)
    assert int(result.state.step) == 10


def test_a_finished_run_is_only_read(whole: tuple[Any, Path]) -> None:
    again = train(whole[1], data=iter(()))
    assert same_bits(again.state, whole[0].state)
    assert same_bits(again.history, whole[0].history)
    assert again.status == "finished"


def test_a_directory_of_another_run_is_refused(whole: tuple[Any, Path]) -> None:
    directory = whole[1]
    with pytest.raises(ValueError, match="another key"):
        train(directory, key=jax.random.key(10))
    other = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"another model or optimiser: \.opt_state"):
        train(directory, step=make_step(other), state=initial_state(other))
    with pytest.raises(ValueError, match="resume=False; it holds one of 23 steps"):
        train(directory, resume=False)


@pytest.mark.parametrize("damaged", ["state", "progress"])
def test_a_damaged_checkpoint_is_named(
    whole: tuple[Any, Path], tmp_path: Path, damaged: str
) -> None:
    """And without it the run goes on from the one before."""
    copy = tmp_path / "copy"
    shutil.copytree(whole[1], copy)
    newest = max((copy / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in (newest / damaged).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(cx.training.CheckpointError, match="cannot be read") as caught:
        train(copy)
    assert str(newest) in str(caught.value)
    shutil.rmtree(newest)
    assert same_bits(train(copy).state, whole[0].state)
