"""Disks that are full or read-only, directories that vanish, runs that meet, signals.

Each command that computes, in processes of its own: the last good results stay, and
there is one clear line.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax.cli.session._publish import replacing
from tests.cli.test_endings import TABLE, fill, start, tiny_disk, wait_for
from tests.data.helpers import write

__all__ = ["start"]  # the fixture

COMMANDS = {
    "spectrum": ["--rank", "4", "--num-neighbors", "5", "--no-plots"],
    "rank": ["--contexts", "knn", "--settings", "3", "--target", "y", "--no-plots"],
    # So many labels that no curve follows, and no graph of neighbours: each size, and
    # each way to predict, is compiled for.
    "predict": [
        *("--target", "y", "--context", "rbf", "--rank", "2", "--labelled", "0.8"),
        *("--splits", "1", "--no-plots"),
    ],
    "train": [
        *("--target", "y", "--num-neighbors", "5", "--rank", "2", "--hidden", "8"),
        *("--batch-size", "8", "--steps", "200", "--no-plots"),
    ],
}
# Claiming and publishing are the same code for all; `predict` computes for the longest.
CLAIMING = [name for name in COMMANDS if name != "predict"]
NUM_MOMENTS = int(os.environ.get("CONTEXTURE_KILLS", "1"))


def options(command: str, path: Path, out: Path) -> list[str | Path]:
    return [command, path, *COMMANDS[command], "--quiet", "--out", out]


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, err = process.communicate(timeout=300)
    return process.returncode, err.strip()


def results_of(out: Path) -> dict[str, bytes]:
    """What is published: files, without directories of runs that can go on."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def assert_one_line(err: str) -> None:
    assert err.count("\n") == 0, err
    assert err.startswith("contexture: "), err
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("table"), TABLE)


@pytest.fixture(scope="module")
def whole(start: Any, path: Path) -> Any:
    """By command: the names of the results of a run that nothing met, and its time."""
    found: dict[str, tuple[set[str], float]] = {}

    def of(command: str) -> tuple[set[str], float]:
        if command not in found:
            began, out = time.monotonic(), path.parent / command
            status, err = ended(start(*options(command, path, out)))
            assert status == 0, err
            found[command] = set(results_of(out)), time.monotonic() - began
        return found[command]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("command", CLAIMING)
def test_a_full_disk_leaves_the_last_results(
    start: Any, path: Path, tmp_path: Path, command: str
) -> None:
    disk = tmp_path / "disk"
    tiny_disk(disk, "600k")
    try:
        out = disk / "out"
        out.mkdir()
        (out / f"{command}.json").write_text("old", encoding="utf-8")
        fill(disk / "filler")
        status, err = ended(start(*options(command, path, out)))
        assert status == 2, err
        assert_one_line(err)
        assert "No space left on device" in err
        assert results_of(out) == {f"{command}.json": b"old"}
        assert not [p for p in out.iterdir() if p.name.startswith(".")]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["spectrum", "train"])  # `train` writes a run, too
def test_a_disk_that_becomes_read_only_leaves_the_last_results(
    start: Any, path: Path, tmp_path: Path, command: str
) -> None:
    disk = tmp_path / "disk"
    tiny_disk(disk, "4m")
    try:
        out = disk / "out"
        out.mkdir()
        (out / f"{command}.json").write_text("old", encoding="utf-8")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        status, err = ended(start(*options(command, path, out)))
        assert status == 2, err
        assert_one_line(err)
        assert "cannot be written" in err
        assert results_of(out) == {f"{command}.json": b"old"}
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", CLAIMING)
def test_a_directory_that_vanishes_is_told_or_made_anew(
    start: Any, path: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    process = start(*options(command, path, out))
    wait_for(lambda: list(out.glob(".contexture-*.lock")), process)
    shutil.rmtree(out)
    status, err = ended(process)
    if status == 0:
        assert f"{command}.json" in results_of(out)
    else:
        assert status == 2, err
        assert_one_line(err)
        assert not (out / f"{command}.json").exists()
    assert not [p for p in tmp_path.iterdir() if p.name != "out"]


@pytest.mark.slow
@pytest.mark.parametrize("command", CLAIMING)
def test_of_two_runs_in_one_directory_one_is_refused(
    start: Any, path: Path, whole: Any, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    runs = [start(*options(command, path, out)) for _ in range(2)]
    found = sorted(ended(process) for process in runs)
    assert found[0][0] == 0, found
    # Or it came when the first had ended: then it did all anew, or refused its run.
    if found[1][0]:
        assert found[1][0] == 2, found
        assert_one_line(found[1][1])
    assert set(results_of(out)) == whole(command)[0]
    assert not list(out.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_signals_at_any_moment_leave_old_results_or_new_ones(
    start: Any, path: Path, whole: Any, tmp_path: Path, command: str
) -> None:
    new, seconds = whole(command)
    first = list(COMMANDS).index(command)
    rng = np.random.default_rng(first)
    for moment in range(first, first + NUM_MOMENTS):
        out = tmp_path / f"out{moment}"
        out.mkdir()
        (out / f"{command}.json").write_text("old", encoding="utf-8")
        process = start(*options(command, path, out))
        # Handlers are in place once the directory is claimed; results come at the end.
        wait_for(lambda out=out: list(out.glob(".contexture-*.lock")), process)
        time.sleep(float(rng.uniform(0, seconds)))
        number = (signal.SIGTERM, signal.SIGINT)[moment % 2]
        process.send_signal(number)
        status, err = ended(process)
        files = results_of(out)
        # Once its work is done the process ends as any other does.
        is_late = status == -number and set(files) == new
        assert status in (0, 128 + number) or is_late, err
        if status > 0:
            assert_one_line(err)
            assert "interrupted" in err
        # All of one run: what was there, or what is new.
        is_old = files == {f"{command}.json": b"old"}
        assert is_old or set(files) == new, (files.keys(), err)
        assert not list(out.glob(".*")), err
        assert not list(tmp_path.glob(".*")), err


def test_two_that_replace_one_file_leave_one_of_both_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    both = threading.Barrier(2)
    contents = b"a" * 100_000, b"b" * 50_000

    def write_whole(content: bytes) -> None:
        with replacing(path) as beside:
            both.wait(timeout=30)
            with beside.open("wb") as file:
                for start in range(0, len(content), 1000):
                    file.write(content[start : start + 1000])
            both.wait(timeout=30)

    threads = [threading.Thread(target=write_whole, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["a.npy"]


def test_what_a_killed_run_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    for name in (".a.npy.77-ab.tmp", ".b.npy.77-ab.tmp"):
        (tmp_path / name).write_bytes(b"half")
    with replacing(tmp_path / "a.npy") as beside:
        beside.write_bytes(b"new")
    assert sorted(os.listdir(tmp_path)) == [".b.npy.77-ab.tmp", "a.npy"]
