"""The locks of runs that were killed: they keep nobody off, and are removed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from contexture_jax._core.locks import locked, remove_stale
from contexture_jax.cli.session._publish import claimed
from contexture_jax.data._messages import InputError

KILLED = """
import os, sys
from pathlib import Path
from contexture_jax.cli.session._publish import claimed
with claimed(Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


def locks(folder: Path) -> list[Path]:
    return sorted(folder.glob(".contexture-*.lock"))


def test_a_lock_of_a_killed_run_is_removed_by_the_next_one(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "out")], timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    (left,) = locks(tmp_path)
    content = left.read_bytes()
    for name in ("out", "other"):
        left.write_bytes(content)
        with claimed(tmp_path / name):
            (held,) = locks(tmp_path)
            assert (held == left) == (name == "out")
        assert not locks(tmp_path)
    # Once `out` is there, its lock lies in it and that of before beside it.
    left.write_bytes(content)
    (tmp_path / "out").mkdir()
    with claimed(tmp_path / "out"):
        assert not locks(tmp_path)
        assert len(locks(tmp_path / "out")) == 1


def test_a_lock_that_is_held_is_left(tmp_path: Path) -> None:
    with claimed(tmp_path / "one"):
        with claimed(tmp_path / "two"):
            assert len(locks(tmp_path)) == 2
        (held,) = locks(tmp_path)
        remove_stale(held)
        assert held.exists()
        with pytest.raises(InputError, match="is being written by another run"):
            claimed(tmp_path / "one").__enter__()


def test_whoever_only_looks_keeps_nobody_off(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    def looked() -> None:
        time.sleep(0.01)
        os.unlink(path)
        os.close(descriptor)

    thread = threading.Thread(target=looked)
    thread.start()
    with locked(path):
        assert path.exists()
    thread.join()


def test_what_is_no_lock_is_left(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    link = tmp_path / ".contexture-0.lock"
    link.symlink_to(tmp_path / "target")
    with claimed(tmp_path / "out"):
        pass
    assert link.is_symlink()
    assert (tmp_path / "target").exists()
