"""The loop: log, early stop, bad numbers, checkpoints, and going on after a kill."""

import csv
import dataclasses
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
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import contexture_jax as cx
from contexture_jax.training._checkpoint import Progress, Store
from contexture_jax.training._options import group
from contexture_jax.training._retention import Retention
from tests.training.helpers import data, initial_state, make_step, same_bits

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(9)
NUM_STEPS = 23

# One program for all runs of this file; a run leaves the states that it is given alone.
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run that nothing interrupts, and its directory."""
    directory = tmp_path_factory.mktemp("whole")
    return train(directory), directory


def saved_steps(directory: Path) -> list[int]:
    names = [path.name for path in (directory / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def test_a_run_reports_itself(whole: tuple[Any, Path]) -> None:
    result, directory = whole
    assert result.status == "finished"
    assert int(result.state.step) == NUM_STEPS
    steps = [*range(2, NUM_STEPS, 2), NUM_STEPS]
    assert result.history["step"].tolist() == steps
    assert result.history["loss"][-1] < result.history["loss"][0]
    with (directory / "metrics.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["step", "grad_norm", "largest", "loss"]
    assert [int(row["step"]) for row in table] == steps
    for name in ("loss", "grad_norm", "largest"):
        written = np.array([float(row[name]) for row in table])
        np.testing.assert_array_equal(written, result.history[name])
    assert saved_steps(directory) == sorted({18, NUM_STEPS, result.best_step})


def test_a_run_is_the_steps_one_by_one(whole: tuple[Any, Path]) -> None:
    step = compiled()
    state, source = step.place_state(initial_state()), rows()
    for number in range(NUM_STEPS):
        state, _ = step(state, source.at(number), KEY)
    assert same_bits(state, whole[0].state)
    assert step.num_traces == 1


def assert_same_run(result: Any, directory: Path, whole: tuple[Any, Path]) -> None:
    expected, reference = whole
    assert same_bits(result.state, expected.state)
    assert (result.status, result.best_step) == ("finished", expected.best_step)
    for name in ("metrics.csv",):
        assert (directory / name).read_bytes() == (reference / name).read_bytes()
    assert same_bits(result.history, expected.history)
    assert saved_steps(directory) == saved_steps(reference)


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


@pytest.mark.parametrize("prefetch_size", [0, 3])
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


def test_early_stop(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0, 1.0, 0.5, 9.0])
    options: dict[str, Any] = {"metric": "held_out", "patience": 2, "save_every": 2}
    result = train(tmp_path, evaluate=lambda _: {"held_out": next(values)}, **options)
    assert (result.status, int(result.state.step)) == ("early stop", 8)
    assert "not improved in 2 rows, up to step 8; the best was 1.0" in result.message
    assert result.history["held_out"].tolist() == [3.0, 1.0, 2.0, 1.0]
    assert result.best_step == 4
    assert saved_steps(tmp_path) == [4, 6, 8]
    again = train(tmp_path, evaluate=lambda _: {"held_out": 0.0}, **options)
    assert (again.status, int(again.state.step)) == ("early stop", 8)


def test_larger_may_be_better() -> None:
    result = train(
        None,
        num_steps=8,
        save_every=2,
        evaluate=lambda state: {"score": -float(state.step)},
        metric="score",
        mode="max",
        patience=1,
    )
    assert (result.status, int(result.state.step)) == ("early stop", 4)


def test_evaluation_comes_with_checkpoints_and_at_the_end() -> None:
    result = train(None, evaluate=lambda state: {"doubled": 2.0 * int(state.step)})
    steps, doubled = result.history["step"], result.history["doubled"]
    evaluated = np.isfinite(doubled)
    assert steps[evaluated].tolist() == [6, 12, 18, NUM_STEPS]
    np.testing.assert_array_equal(doubled[evaluated], 2.0 * steps[evaluated])


def poisoned(at: int) -> Any:
    """Batches of which one holds a NaN."""
    for number, batch in enumerate(rows()):
        yield np.where(number == at - 1, np.nan, batch)


def test_a_bad_loss_ends_the_run_at_the_last_good_state(
    whole: tuple[Any, Path], tmp_path: Path
) -> None:
    message = "is nan at step 9; the checkpoint of step 6 is the last good state"
    with pytest.warns(RuntimeWarning, match=message):
        result = train(tmp_path, data=poisoned(9))
    assert result.status == "non-finite"
    assert int(result.state.step) == 6
    assert result.history["step"].tolist() == [2, 4, 6, 8]
    assert saved_steps(tmp_path) == [6]
    # The data mended, the same call goes on.
    assert_same_run(train(tmp_path), tmp_path, whole)


def test_a_bad_state_is_not_saved(tmp_path: Path) -> None:
    # Loss and gradient are good to the end; the parameters are not.
    optimizer = optax.scale_by_schedule(
        lambda count: jnp.where(count == 11, jnp.inf, -0.1)
    )
    with pytest.warns(RuntimeWarning, match="after step 12 not finite.*of step 6 is"):
        result = train(
            tmp_path,
            step=make_step(optimizer),
            state=initial_state(optimizer),
            num_steps=20,
        )
    assert saved_steps(tmp_path) == [6]
    assert int(result.state.step) == 6


def test_a_bad_loss_without_checkpoints() -> None:
    with pytest.warns(RuntimeWarning, match="at step 3; there is no checkpoint"):
        result = train(None, data=poisoned(3))
    assert result.status == "non-finite"


def test_data_may_end_early(tmp_path: Path) -> None:
    some = [rows().at(step) for step in range(5)]
    result = train(tmp_path, data=some)
    assert result.status == "data exhausted"
    assert result.message == f"the data ended after step 5 of {NUM_STEPS}"
    assert result.history["step"].tolist() == [2, 4, 5]
    assert saved_steps(tmp_path) == [5]


def test_the_state_that_was_given_is_left_alone() -> None:
    state = initial_state()
    before = jax.tree.map(np.array, state)
    train(None, state=state, num_steps=3)
    assert same_bits(state, before)


def test_the_best_and_the_newest_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, Retention(2, 1, "max"))
    progress = Progress((0,))
    for step, score in enumerate([0.1, 0.9, 0.3, 0.2, None]):
        store.save(step, {"w": jnp.full((2,), step)}, progress, score)
    store.wait()
    assert store.best == 1
    store.close()
    assert saved_steps_of(tmp_path) == [1, 3, 4]


def saved_steps_of(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir())


def test_tensorboard_gets_the_rows(tmp_path: Path) -> None:
    train(tmp_path, num_steps=4, tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"grad_norm" in events.read_bytes()


def test_tensorboard_is_needed_only_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboardX"):
        train(tmp_path, num_steps=4, tensorboard=True)
    assert train(tmp_path, num_steps=4).status == "finished"


def test_a_bar_is_drawn_on_demand(capfd: pytest.CaptureFixture[str]) -> None:
    train(None, num_steps=4, progress=True)
    assert "4/4" in capfd.readouterr().err
    train(None, num_steps=4)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"save_every": 3},
            r"Checkpoints.save_every must be a multiple of Logging.log_every=2; got 3",
        ),
        ({"save_every": 0}, r"Checkpoints\.save_every must be at least 1; got 0"),
        ({"keep_last": 0}, r"Checkpoints\.keep_last must be at least 1; got 0"),
        ({"keep_best": -1}, r"Checkpoints\.keep_best must be at least 0; got -1"),
        ({"log_every": 0}, r"Logging\.log_every must be at least 1; got 0"),
        ({"tensorboard": True}, r"Logging\.tensorboard=True needs a directory"),
        ({"mode": "least"}, r'Monitor\.mode must be "min" or "max"; got \'least\''),
        ({"patience": 0}, r"Monitor\.patience must be at least 1; got 0"),
        ({"prefetch_size": -1}, r"Devices\.prefetch_size must be at least 0; got -1"),
    ],
)
def test_bad_arguments_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(None, **options)


def test_a_group_is_of_its_kind() -> None:
    for name, kind in GROUPS.items():
        assert group(None, kind, name) == kind()
        message = f"{name} must be None or cx.training.{kind.__name__}.*; got .'a'"
        with pytest.raises(TypeError, match=message):
            group({"a": 1}, kind, name)


def test_an_unknown_metric_is_told() -> None:
    told = r"Monitor\.metric must be one of "
    with pytest.raises(ValueError, match=told + ".*'largest', 'loss'"):
        train(None, metric="accuracy", num_steps=2)
    with pytest.raises(ValueError, match=told + ".*'held_out'"):
        train(None, metric="accuracy", evaluate=lambda _: {"held_out": 1.0})
