"""The command in several processes: the figures of one, and one error for all."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import processes
from tests.cli.helpers import run
from tests.tolerances import promised

GIVEN = ("--dtype", "float64", "--no-plots", "--quiet", "--rank", "4")
WAITING = ("--patience", 100)  # where nothing is killed, and a machine may be busy
# States are saved after each pass, and a pass takes a while, so that there are moments.
RUNNER = """
import sys, time
from contexture_jax.cli import main
from contexture_jax.cli.session import WatchedSolve, _solve

_solve._BETWEEN = 0.0
_solve._SHARE = float("inf")
on_step = WatchedSolve.on_step

def slowly(self, progress):
    time.sleep(0.1)
    return on_step(self, progress)

WatchedSolve.on_step = slowly
sys.exit(main())
"""
SLOW = ["-c", RUNNER]
# A step takes a while, so that one can be killed between two checkpoints.
STEP = [
    "-c",
    """
import sys, time
from contexture_jax.cli import main
from contexture_jax.training._interrupt import Interruption

is_asked = Interruption.is_asked

def slowly(self):
    time.sleep(0.05)
    return is_asked(self)

Interruption.is_asked = slowly
sys.exit(main())
""",
]
PLAIN = ["-m", "contexture_jax.cli"]


def write(folder: Path, num_rows: int = 61) -> Path:
    x = np.random.default_rng(0).normal(size=(num_rows, 3))
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def begin(
    count: int,
    *arguments: Any,
    command: str = "spectrum",
    program: list[str] = PLAIN,
    own: Any = (),
) -> list[subprocess.Popen[str]]:
    """Begin the command in so many processes, the last with arguments of its own."""
    port = processes.free_port()
    named = ["--processes", count, "--coordinator", f"127.0.0.1:{port}"]
    return [
        processes.begin(
            *program,
            command,
            *GIVEN,
            *arguments,
            *named,
            "--process-id",
            index,
            *(own if index == count - 1 else ()),
            XLA_FLAGS=processes.FASTER,  # the devices of the tests' own process
        )
        for index in range(count)
    ]


def results(out: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(out / "spectrum.npz") as arrays:
        return json.loads((out / "spectrum.json").read_text()), dict(arrays)


def assert_same(one: Path, other: Path) -> None:
    (a, arrays), (b, others) = results(one), results(other)
    assert (a["status"], b["status"]) == ("converged", "converged")
    tolerance = 1e3 * promised(np.float64)
    np.testing.assert_allclose(
        a["singular_values"], b["singular_values"], atol=tolerance
    )
    np.testing.assert_allclose(a["tau"], b["tau"], rtol=tolerance)
    # Beyond the rank values are others: of equal ones no vector is told from another.
    np.testing.assert_allclose(product(arrays), product(others), atol=1e2 * tolerance)


def product(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """U S Vᵀ, shape (n, m)."""
    return arrays["left"] * arrays["singular_values"] @ arrays["right"].T


def test_processes_that_differ_are_told_so_in_one_line_each(tmp_path: Path) -> None:
    out = tmp_path / "out"
    workers = begin(2, write(tmp_path), "--out", out, *WAITING, own=("--seed", 1))
    said = processes.finish(workers, timeout=300)
    for worker, text in zip(workers, said, strict=True):
        line = "contexture: error: processes differ: seed is 0 in process 0 and 1 in"
        assert text == f"{line} process 1\n"
        assert worker.returncode == 2
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.slow
def test_a_launcher_says_who_is_who(tmp_path: Path) -> None:
    """The variables of SLURM, as on one node; each process asks for another seed."""
    x, port = write(tmp_path), processes.free_port()
    job = {
        "SLURM_JOB_ID": (port - 61440) % 4096,  # JAX makes a port of it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": 2,
        "SLURM_STEP_NUM_NODES": 1,
    }
    given = ["spectrum", x, *GIVEN, "--out", tmp_path / "out", "--processes", "auto"]
    workers = [
        processes.begin(
            *PLAIN, *given, "--seed", i, SLURM_PROCID=i, SLURM_LOCALID=i, **job
        )
        for i in range(2)
    ]
    for text in processes.finish(workers, timeout=120):
        assert "processes differ: seed is 0 in process 0 and 1 in process 1" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--processes", "2"], "takes --coordinator and --process-id too"),
        (["--process-id", "0"], "--process-id goes with --processes N"),
        (["--processes", "auto", "--coordinator", "a:1"], "got --processes auto"),
        (
            ["--processes", "2", "--coordinator", "a:1", "--process-id", "2"],
            "--process-id 2 is more than there is; expected 0 to 1",
        ),
        *(
            (
                ["--processes", "2", "--coordinator", where, "--process-id", "0"],
                "--coordinator is HOST:PORT, as 127.0.0.1:9876, with a port of 1 to",
            )
            for where in ("host", ":1", "host:", "host:0", "host:99999", "host:a")
        ),
    ],
)
def test_who_is_who_is_said_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], words: str
) -> None:
    ran = run(capsys, "wine", "--out", tmp_path / "out", *given)
    assert ran.status == 2
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Of two that have met the second dies, before they look at each other.
DYING = [
    "-c",
    """
import os, signal, sys
from contexture_jax.cli import main
from contexture_jax.cli.session import _processes

check_devices = _processes._check_devices

def dies(count):
    import jax
    if jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    check_devices(count)

_processes._check_devices = dies
sys.exit(main())
""",
]


def ends_in_vain(worker: subprocess.Popen[str], text: str, words: str) -> None:
    assert worker.returncode == 2, text
    assert text.startswith(f"contexture: error: {words}")
    assert text.endswith("no results were written\n")
    assert text.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_one_that_nobody_meets_ends_with_a_line(tmp_path: Path, index: int) -> None:
    given = [write(tmp_path), "--patience", 10, "--out", tmp_path / "out"]
    named = ["--processes", 2, "--coordinator", f"127.0.0.1:{processes.free_port()}"]
    named += ["--process-id", index]
    worker = processes.begin(*PLAIN, "spectrum", *GIVEN, *given, *named)
    [text] = processes.finish([worker], timeout=100)
    ends_in_vain(worker, text, "the processes do not meet: not all 2 came to ")


@pytest.mark.slow
def test_one_whose_other_dies_when_they_have_met_ends_with_a_line(
    tmp_path: Path,
) -> None:
    given = [write(tmp_path), "--patience", 20, "--out", tmp_path / "out"]
    workers = begin(2, *given, program=DYING)
    said = processes.finish(workers, timeout=100)
    assert workers[1].returncode == -signal.SIGKILL, said[1]
    words = "process 0 of 2 waits for another that has died, or hangs, "
    ends_in_vain(workers[0], said[0], words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "words"),
    [
        (("--drop", "x9"), "process 1 of 2: --drop: x.npy has no column"),
        (("--rank", 500), "process 1 of 2: --rank 500 is more than there is"),
        (("--out", "elsewhere"), "--out is not shared"),
    ],
)
def test_what_one_is_refused_all_are(tmp_path: Path, own: Any, words: str) -> None:
    own = [tmp_path / "other" if arg == "elsewhere" else arg for arg in own]
    workers = begin(2, write(tmp_path), "--out", tmp_path / "out", own=own)
    for text in processes.finish(workers, timeout=120):
        assert text.startswith("contexture: error: ")
        assert text.count("\n") == 1
        assert words in text
    assert [worker.returncode for worker in workers] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("context", "num_rows"), [("rbf", 64), ("teacher", 61)])
def test_two_processes_find_what_one_finds(
    tmp_path: Path, context: str, num_rows: int
) -> None:
    x = write(tmp_path, num_rows)  # four devices divide 64, and each reads its own
    given = ["--context", context, *(["--num-neighbors", 7] * (context == "knn"))]
    given += ["--rank", 3] if context == "teacher" else []  # all, of equal values
    alone = ["spectrum", x, *GIVEN, *given, "--out", tmp_path / "1"]
    one = processes.begin(*PLAIN, *alone, XLA_FLAGS=processes.FASTER)
    assert processes.finish([one], timeout=300) == [""]
    given += [*WAITING, "--devices", 2]
    workers = begin(2, x, *given, "--out", tmp_path / "2")
    said = processes.finish(workers, timeout=300)
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    assert_same(tmp_path / "1", tmp_path / "2")
    assert results(tmp_path / "2")[0]["devices"] == 4
    names = sorted(path.name for path in (tmp_path / "2").iterdir())
    assert names == ["spectrum.json", "spectrum.npz"]


@pytest.mark.slow
def test_sigterm_to_one_ends_both_with_what_there_is(tmp_path: Path) -> None:
    given = [write(tmp_path), "--num-neighbors", 7, "--method", "randomized"]
    given += [*WAITING, "--out", tmp_path / "out", "--tol", 1e-15]
    workers = begin(2, *given, program=SLOW)
    processes.wait_for([tmp_path / "out" / "solve" / "state.npz"], workers)
    workers[1].send_signal(signal.SIGTERM)
    said = processes.finish(workers, timeout=120)
    for worker, text in zip(workers, said, strict=True):
        assert worker.returncode == 128 + signal.SIGTERM, text
        line = "contexture: interrupted by SIGTERM; the results of "
        assert text.splitlines()[-1].startswith(line)
    assert results(tmp_path / "out")[0]["status"] == "stopped"


@pytest.mark.slow
def test_four_that_are_killed_at_any_moment_lose_nothing(tmp_path: Path) -> None:
    x, out = write(tmp_path), tmp_path / "out"
    given = [x, "--num-neighbors", 7, "--method", "randomized", "--resume"]
    began = time.monotonic()
    [alone] = begin(1, *given, *WAITING, "--out", tmp_path / "whole", program=SLOW)
    assert processes.finish([alone], timeout=600) == [""]
    seconds = 2 * (time.monotonic() - began)  # of four, on few cores
    chance = random.Random(0)
    for _ in range(int(os.environ.get("CONTEXTURE_KILLS", "1"))):
        workers = begin(4, *given, "--patience", 30, "--out", out, program=SLOW)
        time.sleep(chance.uniform(0.2, 1.0) * seconds)
        workers[chance.randrange(4)].send_signal(signal.SIGKILL)
        began = time.monotonic()
        said = processes.finish(workers, timeout=120)
        assert time.monotonic() - began < 60
        codes = [worker.returncode for worker in workers]
        # By itself, with a line, or by JAX, which aborts.
        assert set(codes) <= {0, 1, 2, -signal.SIGABRT, -signal.SIGKILL}, codes
        assert "Traceback" not in "\n".join(said)
    count = chance.choice([1, 2, 4])
    workers = begin(count, *given, *WAITING, "--out", out)
    said = processes.finish(workers, timeout=600)
    assert [worker.returncode for worker in workers] == [0] * count, "\n".join(said)
    assert_same(out, tmp_path / "whole")
    names = sorted(path.name for path in out.iterdir())
    assert names == ["spectrum.json", "spectrum.npz"]


@pytest.mark.slow
def test_two_that_train_find_what_one_finds_however_they_are_ended(
    tmp_path: Path,
) -> None:
    given = [write(tmp_path), "--num-neighbors", 7, "--steps", 200, "--batch-size", 64]
    given += ["--hidden", 16, "--output", 8, "--devices", 2, *WAITING]
    whole, two = (tmp_path / name for name in ("whole", "two"))

    def train(
        out: Path, count: int, program: list[str] = PLAIN
    ) -> list[subprocess.Popen[str]]:
        again = ["--out", out, "--resume"]
        return begin(count, *given, *again, command="train", program=program)

    [alone] = train(whole, 1)
    assert processes.finish([alone], timeout=600) == [""]

    # Once a checkpoint is there.
    for step, who, number in (
        (50, 1, signal.SIGKILL),
        (100, 0, signal.SIGINT),
    ):
        workers = train(two, 2, STEP)
        processes.wait_for([two / "run" / "checkpoints" / str(step)], workers)
        workers[who].send_signal(number)
        began = time.monotonic()
        said = processes.finish(workers, timeout=120)
        assert time.monotonic() - began < 60
        assert "Traceback" not in "".join(said)
        assert not (two / "train.json").exists()
        codes = [worker.returncode for worker in workers]
        if number == signal.SIGKILL:
            # By itself, with a line, or by JAX, which aborts.
            assert codes[0] in (1, 2, -signal.SIGABRT), said
            continue
        assert codes == [128 + number] * 2, said
        kept = max(int(path.name) for path in (two / "run" / "checkpoints").iterdir())
        assert step < kept < step + 50
        for text in said:
            # JAX may tell that the first one goes, too.
            [line] = [x for x in text.splitlines() if x.startswith("contexture")]
            assert line.startswith(f"contexture: interrupted; step {kept} of 200")
    # Two went on where two were killed; one ends what both began.
    [last] = train(two, 1)
    assert processes.finish([last], timeout=600) == [""]
    assert last.returncode == 0
    names = sorted(path.name for path in two.iterdir())
    assert names == ["model.npz", "run", "train.json", "train.npz"]
    assert json.loads((two / "train.json").read_text())["devices"] == 2
    assert_close(whole / "train.npz", two / "train.npz")


def assert_close(one: Path, other: Path) -> None:
    with np.load(one) as arrays, np.load(other) as others:
        assert set(arrays) == set(others)
        for name, value in arrays.items():
            tolerance = 1e3 * promised(np.float64)
            np.testing.assert_allclose(value, others[name], atol=tolerance)
