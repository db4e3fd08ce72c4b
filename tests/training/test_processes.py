"""Two processes with two devices each compute what one process computes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import contexture_jax as cx
from tests.tolerances import promised
from tests.training.helpers import data, difference, initial_state, make_step
from tests.training.worker import NUM_STEPS

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    port = str(free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.worker", str(i), port, tmp_path],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors

    rows = cx.training.batches(data(), 64, seed=0)
    mesh = cx.training.data_mesh(4)
    alone = cx.training.fit(
        make_step(num_micro_batches=2),
        initial_state(),
        rows,
        num_steps=NUM_STEPS,
        key=jax.random.key(9),
        log_every=1,
        mesh=mesh,
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
