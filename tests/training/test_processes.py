"""Two processes with two devices each compute what one process computes."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import contexture_jax as cx
from tests import processes
from tests.tolerances import promised
from tests.training.ended import NUM_STEPS as ALL_STEPS
from tests.training.ended import SAVE_EVERY
from tests.training.helpers import data, difference, initial_state, make_step
from tests.training.lasting import SECONDS_A_STEP
from tests.training.worker import NUM_STEPS


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    workers = processes.start("tests.training.worker", tmp_path)
    errors = processes.finish(workers, timeout=600)
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)

    rows = cx.training.batches(data(), 64, seed=0)
    mesh = cx.training.data_mesh(4)
    alone = cx.training.fit(
        make_step(num_micro_batches=2),
        initial_state(),
        rows,
        num_steps=NUM_STEPS,
        key=jax.random.key(9),
        logging=cx.training.Logging(log_every=1),
        devices=cx.training.Devices(mesh=mesh),
    )
    compiled = cx.training.compile_step(make_step(), "shard_map", mesh)
    mapped, metrics = compiled(initial_state(), rows.at(0), jax.random.key(9))
    expected = [*jax.tree.leaves((alone.state, mapped))]
    tolerance = promised(np.float64)
    for i in range(2):
        with np.load(tmp_path / f"{i}.npz") as found:
            leaves = [found[f"arr_{k}"] for k in range(len(expected))]
            assert difference(leaves, expected) < tolerance
            assert difference(found["loss"], metrics["loss"]) < tolerance
            assert difference(found["history"], alone.history["loss"]) < tolerance
    # One process wrote the log; both read one checkpoint in one process as well.
    lines = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + NUM_STEPS
    again = cx.training.fit(
        compiled,
        initial_state(),
        rows,
        num_steps=NUM_STEPS,
        key=jax.random.key(9),
        directory=tmp_path / "run",
    )
    assert difference(again.state, alone.state) < tolerance


@pytest.mark.slow
def test_sigterm_to_one_ends_both_at_one_step(tmp_path: Path) -> None:
    workers = processes.start("tests.training.ended", tmp_path, 1, "SIGTERM", 5)
    errors = processes.finish(workers, timeout=600)
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    one, two = (dict(np.load(tmp_path / f"{i}.npz")) for i in range(2))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert one["status"].tolist() == ["interrupted", "finished", "finished"]
    ended, *others = one["steps"].tolist()
    assert 5 <= ended < ALL_STEPS
    assert others == [ALL_STEPS, ALL_STEPS]
    assert f"SIGTERM ended the run after step {ended} of {ALL_STEPS}" in str(
        one["message"]
    )
    # What goes on from there is what nothing ended, bit for bit.
    leaves = [value for name, value in one.items() if name.startswith("arr_")]
    half = len(leaves) // 2
    for again, whole in zip(leaves[:half], leaves[half:], strict=True):
        np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(*one["history"])
    assert list((tmp_path / "run" / "processes").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_death_of_one_ends_the_other_with_a_line(tmp_path: Path, who: int) -> None:
    at = SAVE_EVERY + 3
    workers = processes.start("tests.training.ended", tmp_path, who, "SIGKILL", at)
    workers[who].wait(timeout=600)
    began = time.monotonic()
    said = processes.finish(workers, timeout=600)[1 - who]
    assert time.monotonic() - began < 20
    told = [line for line in said.splitlines() if line.startswith("process")]
    assert len(told) == 1
    checkpoints = tmp_path / "run" / "checkpoints"
    assert told[0].startswith(f"process {who} of 2 (process {workers[who].pid} on ")
    assert told[0].endswith(
        f" is gone; the checkpoint of step {SAVE_EVERY} in {checkpoints} is whole:"
        " start all processes again, and the same call goes on from it"
    )
    assert "Traceback" not in said
    if who == 1:
        assert said.splitlines() == told
        assert workers[0].returncode == 1
    else:  # JAX tells of this one too, and aborts, which may come in between
        assert workers[1].returncode != 0


@pytest.mark.slow
def test_four_that_are_killed_at_any_moment_lose_nothing(tmp_path: Path) -> None:
    kills = int(os.environ.get("CONTEXTURE_KILLS", "1"))
    steps = 20 * (kills + 1)  # more than those that are killed ever come to
    chance = random.Random(0)

    def begun(*more: Any) -> list[Any]:
        name = "tests.training.lasting"
        return processes.start(name, tmp_path, 4, steps, *more, count=4)

    for _ in range(kills):
        began, workers = time.time(), begun()
        beats = [tmp_path / "run" / "processes" / f"{i}.beat" for i in range(4)]
        processes.wait_for(beats, workers, since=began)
        time.sleep(chance.uniform(0, 20 * SECONDS_A_STEP))
        who = chance.randrange(4)
        workers[who].send_signal(signal.SIGKILL)
        at = time.monotonic()
        said = processes.finish(workers, timeout=120)
        assert time.monotonic() - at < 60
        codes = [worker.returncode for worker in workers]
        assert codes[who] == -signal.SIGKILL, "\n".join(said)
        # By itself, with a line, or by JAX, which aborts.
        others = {*codes[:who], *codes[who + 1 :]}
        assert others <= {1, -signal.SIGABRT}, "\n".join(said)
    workers = begun("WHOLE")
    said = processes.finish(workers, timeout=600)
    assert [worker.returncode for worker in workers] == [0] * 4, "\n".join(said)
    for index in range(4):
        paths = (tmp_path / f"{name}{index}.npz" for name in ("whole", "ended"))
        one, two = (dict(np.load(path)) for path in paths)
        assert one.keys() == two.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, two[name])
