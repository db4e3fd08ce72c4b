"""The loop: log, early stop, bad numbers, and what is kept."""

import csv
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from contexture_jax.training._checkpoint import Progress, Store
from contexture_jax.training._options import group
from contexture_jax.training._retention import Retention
from tests.training.helpers import initial_state, make_step, same_bits
from tests.training.runs import (
    GROUPS,
    KEY,
    NUM_STEPS,
    assert_same_run,
    compiled,
    rows,
    saved_steps,
    train,
)


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


def test_threads_of_a_run_leave_the_warnings_of_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # `catch_warnings` is one state for all threads: entered by one that reads ahead, it
    # swallows what the loop says of a bad state.
    entered = set()
    enter = warnings.catch_warnings.__enter__

    def noted(self: Any) -> Any:
        entered.add(threading.current_thread().name)
        return enter(self)

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", noted)
    train(None, num_steps=6)
    assert entered <= {threading.current_thread().name}


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
