"""Runs that are ended, or meet each other or a full disk: one line, nothing lost."""

import contextlib
import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from contexture_jax._core.locks import locked
from contexture_jax.cli import _spectrum, main
from contexture_jax.cli.session import _publish
from contexture_jax.cli.session._publish import claimed, publishing, replacing
from contexture_jax.cli.session._signals import Ending, Interrupted, ending_on_signals
from contexture_jax.data._messages import InputError
from tests.cli.helpers import run, told_at
from tests.data.helpers import write
from tests.processes import KEEPING

TABLE = "a,b,y\n" + "".join(f"{i % 7},{i * i % 11},{'uv'[i % 2]}\n" for i in range(24))
TRAIN = ["--context", "knn", "--num-neighbors", "5", "--rank", "2", "--target", "y"]
TRAIN += ["--hidden", "8", "--batch-size", "8", "--steps", "60", "--learning-rate"]
TRAIN += ["0.01", "--quiet", "--no-plots"]


def train(path: Path, out: Path, *more: str) -> int:
    return main(["train", str(path), *TRAIN, "--out", str(out), *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table, and the results of a run that nothing ended."""
    folder = tmp_path_factory.mktemp("whole")
    path = write(folder, TABLE)
    assert train(path, folder / "out") == 0
    return path, folder / "out"


def assert_same_results(out: Path, whole: Path) -> None:
    with np.load(out / "train.npz") as found, np.load(whole / "train.npz") as expected:
        assert found.files == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
    log = Path("run") / "metrics.csv"
    assert (out / log).read_bytes() == (whole / log).read_bytes()
    assert list(out.glob(".*")) == []


@pytest.mark.slow
def test_a_run_that_is_interrupted_says_what_is_kept_and_goes_on_to_the_bit(
    whole: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As after SIGTERM, which `test_train` has."""
    path, out = whole[0], tmp_path / "out"
    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patched:
        told_at(20, patched, signal.SIGINT)
        assert train(path, out) == 130
    assert signal.getsignal(signal.SIGINT) is before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("contexture: interrupted;")
    assert f"; step {max(whole_steps(out))} of 60 is kept in " in err
    command = err.partition("go on from it with: contexture ")[2].split()
    assert command == ["train", str(path), *TRAIN, "--out", str(out), "--resume"]
    assert main(command) == 0
    assert_same_results(out, whole[1])


@pytest.mark.slow
def test_a_run_that_kept_no_step_starts_anew(
    whole: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from contexture_jax.cli import _train_report

    def told(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(_train_report, "exact_spectrum", told)
        assert train(whole[0], tmp_path / "out") == 143
    assert "no step was kept: the same command starts anew" in capsys.readouterr().err
    assert train(whole[0], tmp_path / "out") == 0
    assert_same_results(tmp_path / "out", whole[1])


@pytest.mark.slow
def test_a_second_interrupt_ends_a_run_at_once(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        told_at(20, patched, signal.SIGINT, signal.SIGTERM)
        from contexture_jax.training import _loop

        patched.setattr(
            _loop.Loop, "_save", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)
        )
        assert train(whole[0], tmp_path / "out") == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "out" / "train.json").exists()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts the command in a process of its own; programs are compiled once."""
    # Where the whole run of tests keeps programs, or here.
    programs = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs"))}
    environment = {**programs, **os.environ, **KEEPING, "JAX_PLATFORMS": "cpu"}

    def started(*arguments: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "contexture_jax.cli", *map(str, arguments)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


def whole_steps(out: Path) -> list[int]:
    folder = out / "run" / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return [int(name) for name in names if name.isdigit()]


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    assert condition()


def test_a_process_that_is_ended_leaves_old_results_and_nothing_else(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path, TABLE), tmp_path / "out"
    out.mkdir()
    (out / "spectrum.json").write_text("old", encoding="utf-8")
    process = start("spectrum", path, "--rank", "4", "--quiet", "--out", out)
    wait_for(lambda: list(out.glob(".contexture-*.lock")), process)
    # Meanwhile nobody else writes there.
    ran = run(capsys, path, "--out", out)
    assert ran.status == 2
    assert f"is being written by another run (process {process.pid} on" in ran.err
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.strip() == (
        "contexture: interrupted by SIGTERM; no results were written"
    )
    assert [path.name for path in out.iterdir()] == ["spectrum.json"]
    assert (out / "spectrum.json").read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "table.csv"]


LONG = [*TRAIN, "--steps", "1000"]


@pytest.fixture(scope="module")
def long(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table, and the results of a long run that nothing ended."""
    folder = tmp_path_factory.mktemp("long")
    path = write(folder, TABLE)
    process = start("train", path, *LONG, "--out", folder / "out")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return path, folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGKILL], -9),
    ],
)
def test_a_process_that_trains_is_ended_and_goes_on_to_the_bit(
    start: Start,
    long: tuple[Path, Path],
    tmp_path: Path,
    numbers: list[int],
    status: int,
) -> None:
    path, whole = long
    out = tmp_path / "out"
    given = ["train", path, *LONG, "--out", out]
    process = start(*given)
    checkpoints = out / "run" / "checkpoints"
    wait_for(lambda: checkpoints.exists() and list(checkpoints.glob("[0-9]*")), process)
    if status < 0:  # one that was killed: what another would find meanwhile
        # Stopped, so that it is still there when the other one comes.
        process.send_signal(signal.SIGSTOP)
        other = start(*given, "--resume")
        _, err = other.communicate(timeout=120)
        assert other.returncode == 2
        assert f"is being written by another run (process {process.pid} on" in err
        process.send_signal(signal.SIGCONT)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.05)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    if status > 0:
        assert err.strip().count("\n") == 0
        assert "of 1,000 is kept in" in err
    process = start(*given, "--resume")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_same_results(out, whole)


def test_results_of_a_run_that_was_killed_while_publishing_are_removed(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    for home in (tmp_path, out):
        home.mkdir(exist_ok=True)
        for name in (".out.1.tmp", f".out.{os.getpid()}.tmp", ".out.77-ab.tmp"):
            (home / name).mkdir()
            (home / name / "half.npz").write_bytes(b"half")
    others = [tmp_path / ".other.1.tmp", tmp_path / ".out.live.tmp"]
    for path in others:
        path.mkdir()
    with locked(others[1]), publishing(out, ["a"], Ending()) as folder:
        (folder / "a").write_text("new", encoding="utf-8")
    assert [path.name for path in out.iterdir()] == ["a"]
    assert sorted(tmp_path.iterdir()) == sorted([out, *others])


def test_a_signal_while_results_are_moved_comes_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _publish._move

    def moving(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        original(*arguments, **options)

    monkeypatch.setattr(_publish, "_move", moving)
    with ending_on_signals() as ending:
        with (
            pytest.raises(Interrupted),
            publishing(tmp_path / "out", ["a"], ending) as folder,
        ):
            (folder / "a").write_text("new", encoding="utf-8")
        assert "the results are in" in ending.kept()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


def test_a_signal_while_a_module_is_imported_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half imported modules of jaxlib crash."""
    (tmp_path / "ended_in_import.py").write_text(
        "import os, signal, time\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(0.2)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)

    def load_and_wait() -> None:
        importlib.import_module("ended_in_import")
        time.sleep(10)

    before = signal.getsignal(signal.SIGALRM)
    with ending_on_signals(), pytest.raises(Interrupted):
        load_and_wait()
    assert "ended_in_import" in sys.modules
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_old_results_and_nothing_else(
    tmp_path: Path, exists: bool
) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "a").write_text("old", encoding="utf-8")

    def publish() -> None:
        with publishing(out, ["a"], Ending()) as folder:
            (folder / "a").write_text("half", encoding="utf-8")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        publish()
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == (["a", "out"] if exists else [])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["settings", "checkpoint", "log", "results"])
def test_a_full_disk_ends_training_in_one_line_and_it_goes_on(
    whole: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    import orbax.checkpoint as ocp

    from contexture_jax.cli import _report
    from contexture_jax.training._log import History

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = {
        "settings": (Path, "write_text"),
        "checkpoint": (ocp.CheckpointManager, "save"),
        "log": (History, "_cells"),
        "results": (_report, "write_json"),
    }[where]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, full)
        assert train(whole[0], tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert str(tmp_path / "out") in err
    assert not (tmp_path / "out" / "train.json").exists()
    # Without a checkpoint there is nothing to resume, and the same command starts anew.
    more = ["--resume"] if where == "results" else []
    assert train(whole[0], tmp_path / "out", *more) == 0
    assert_same_results(tmp_path / "out", whole[1])


def tiny_disk(folder: Path, size: str) -> None:
    """A file system of its own in a folder, or no test."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("no file system can be mounted here")


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb") as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
def test_training_on_a_disk_that_fills_up(start: Start, tmp_path: Path) -> None:
    path, disk = write(tmp_path, TABLE), tmp_path / "disk"
    options = [*TRAIN, "--steps", "1000", "--hidden", "64", "--out", disk / "out"]
    tiny_disk(disk, "600k")
    try:
        filler = disk / "filler"
        process = start("train", path, *options)
        wait_for(lambda: whole_steps(disk / "out"), process)
        fill(filler)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert err.strip().count("\n") == 0
        assert "No space left on device" in err
        assert "is whole: a run can go on from it" in err
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        process = start("train", path, *options, "--resume")
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_directory_in_use_is_told_by_its_name_wherever_it_lies(
    tmp_path: Path,
) -> None:
    out = tmp_path / "deep" / "out"
    with claimed(out):
        with pytest.raises(InputError, match="is being written by another run"):
            claimed(tmp_path / "deep" / ".." / "deep" / "out").__enter__()
        with claimed(tmp_path / "deep" / "other"):
            pass
        assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_replaced_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(InputError, match="cannot be written"),
        replacing(tmp_path / "a") as path,
    ):
        path.write_text("new", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


WATCHED = """
import hashlib
from contexture_jax.cli.session import _signals
_signals._GRACE = 0.2
with _signals.ending_on_signals() as ending:
    ending.clean_up = lambda: print("cleaned", flush=True)
    print("here", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # in C, for minutes
"""


def test_a_watch_ends_what_cannot_be_told() -> None:
    """As a program of XLA that runs for minutes."""
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        time.sleep(0.5)  # until it is in C, where it cannot be told
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out == "cleaned\n"
    assert err == "contexture: interrupted by SIGTERM; no results were written\n"


LOST = """
import time
from contexture_jax.cli.session import _signals
class Told:
    def __del__(self):
        print("here", flush=True)
        time.sleep(60)
with _signals.ending_on_signals():
    Told()
    time.sleep(60)
"""


def test_an_exception_that_python_ignores_is_not_lost() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "contexture: interrupted; no results were written\n"


@pytest.mark.parametrize("words", ["Connection reset by peer", "closed by peer [::1]"])
def test_a_lost_connection_is_one_line(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is not the watch of the processes that tells."""

    def lost(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError(f"INTERNAL: Gloo all-reduce failed: {words}")

    monkeypatch.setattr(_spectrum, "run", lost)
    assert main(["spectrum", "wine"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "connection to another process of the run was lost" in line
