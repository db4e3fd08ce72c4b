"""The directory of a run: shared by nobody, on a full disk, vanished, damaged."""

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from contexture_jax._core.locks import HeldError, is_held, left_by_death, locked
from contexture_jax.training import CheckpointError
from contexture_jax.training._bits import examined
from contexture_jax.training._checkpoint import Progress, Store, key_words
from contexture_jax.training._log import History
from contexture_jax.training._retention import Retention
from tests.mutations import mutated
from tests.training.helpers import same_bits
from tests.training.runs import rows, saved_steps, train

# Orbax leaves coroutines behind where it fails; they complain as they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

KEY = jax.random.key(9)
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
WORDS = (b"null", b"0.5", b"12", b"6", b"1", b'"key"', b'"sums"', b"[", b"}", b"true")

HOLDER = """
import sys, time
from pathlib import Path
from contexture_jax._core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    gc.collect()


def test_a_lock_ends_with_its_process_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=f"process {other.pid} on "), locked(path):
            pass
        with ThreadPoolExecutor() as threads:
            left = threads.submit(left_by_death, path)
            with pytest.raises(TimeoutError):
                left.result(timeout=0.2)
            other.send_signal(signal.SIGKILL)
            told = left.result()
            assert told is not None
            assert told.startswith(f"process {other.pid} on ")
    assert path.exists()
    with locked(path):
        with pytest.raises(HeldError), locked(path):
            pass
        assert path.exists()
    assert not path.exists()
    with ThreadPoolExecutor() as threads:
        with locked(path):
            left = threads.submit(left_by_death, path)
            with pytest.raises(TimeoutError):
                left.result(timeout=0.2)
        assert left.result() is None
    with locked(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_run_that_still_trains_is_not_joined(tmp_path: Path) -> None:
    def joined() -> Iterator[Any]:
        for step, batch in enumerate(rows(), start=1):
            if step == 8:
                with pytest.raises(CheckpointError, match="that still trains") as told:
                    train(tmp_path)
                assert str(tmp_path) in str(told.value)
            yield batch

    assert train(tmp_path, data=joined(), prefetch_size=0).status == "finished"
    lines = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 12
    assert not (tmp_path / "run.lock").exists()


def refusing_from(
    step: int, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    """The disk refuses once a step is reached: the log, or checkpoints."""

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    if where == "log":
        cells = History._cells
        monkeypatch.setattr(
            History,
            "_cells",
            lambda self, row: refuse() if row["step"] >= step else cells(self, row),
        )
    else:
        save = ocp.CheckpointManager.save
        monkeypatch.setattr(
            ocp.CheckpointManager,
            "save",
            lambda self, at, **rest: refuse() if at >= step else save(self, at, **rest),
        )


@pytest.mark.slow_cases("log-28")
@pytest.mark.parametrize(
    ("where", "number"), [("log", errno.ENOSPC), ("save", errno.EROFS)]
)
def test_a_disk_that_refuses_is_told_and_the_last_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    whole = train(None)
    with monkeypatch.context() as patched:
        refusing_from(12, patched, where, number)
        with pytest.raises(CheckpointError) as told:
            train(tmp_path)
    text = str(told.value)
    named = "metrics.csv" if where == "log" else "the checkpoint of step 12"
    assert named in text
    assert f"cannot be written ({os.strerror(number)})" in text
    assert f"that of step 6 in {tmp_path / 'checkpoints'} is whole" in text
    assert "\n" not in text
    assert saved_steps(tmp_path) == [6]
    again = train(tmp_path)
    assert same_bits(again.state, whole.state)
    assert same_bits(again.history, whole.history)


@pytest.mark.usefixtures("collected")
def test_a_directory_that_vanishes_is_told(tmp_path: Path) -> None:
    def removing() -> Iterator[Any]:
        for step, batch in enumerate(rows(), start=1):
            if step == 5:
                shutil.rmtree(tmp_path / "run")
            yield batch

    gone = "was removed or replaced while the run trained in it: nothing of the run is"
    with pytest.raises(CheckpointError, match=gone):
        train(tmp_path / "run", data=removing(), prefetch_size=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("collected")
def test_a_directory_that_another_has_taken_over_is_left_to_it(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "run.lock"

    def replacing() -> Iterator[Any]:
        for step, batch in enumerate(rows(), start=1):
            if step == 8:
                deadline = time.monotonic() + 30
                while not (tmp_path / "run" / "checkpoints" / "6").exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                shutil.rmtree(tmp_path / "run")
                lock.parent.mkdir()
                lock.write_text("of another", encoding="utf-8")
            yield batch

    with pytest.raises(CheckpointError, match="was removed or replaced"):
        train(tmp_path / "run", data=replacing(), prefetch_size=0)
    assert lock.read_text(encoding="utf-8") == "of another"
    assert [*lock.parent.iterdir()] == [lock]


@pytest.mark.usefixtures("collected")
def test_a_checkpoint_that_failed_leaves_nothing_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(self: Any, at: int, **_: Any) -> None:
        del self
        begun = tmp_path / "checkpoints" / f"{at}.orbax-checkpoint-tmp"
        (begun / "state").mkdir(parents=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ocp.CheckpointManager, "save", begin)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train(tmp_path)
    assert [*(tmp_path / "checkpoints").iterdir()] == []


def test_old_checkpoints_that_cannot_be_deleted_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    store = Store(tmp_path, Retention(1, 0, "min"))
    store.save(6, {"w": jnp.ones(2)}, Progress((0,)), None)
    store.wait()
    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", refuse)
        store.save(12, {"w": jnp.ones(2)}, Progress((0,)), None)
        with pytest.raises(CheckpointError) as told:
            store.wait()
    text = str(told.value)
    assert text.startswith(f"old checkpoints in {tmp_path} cannot be deleted (Permissi")
    assert "that of step 12" in text
    assert "\n" not in text
    store.close()
    # The next run finds both, and deletes the old one with its first.
    store = Store(tmp_path, Retention(1, 0, "min"))
    assert store.latest == 12
    store.save(18, {"w": jnp.ones(2)}, Progress((0,)), None)
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["18"]


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    with pytest.raises(CheckpointError, match="run cannot be written"):
        train(tmp_path / "run")


def test_a_damaged_log_is_told(tmp_path: Path) -> None:
    train(tmp_path, num_steps=6)
    damaged = b"\xff\xfe", b"a,b\r\n1,2\r\n", b"step,loss\r\n2,x\r\n", b'"\r\n', b""
    for content in damaged:
        (tmp_path / "metrics.csv").write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"metrics\.csv cannot be read .*delete"
        ):
            train(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    assert train(tmp_path).history["step"][0] == 8


@pytest.mark.usefixtures("collected")
def test_a_checkpoint_under_the_name_of_another_is_told(tmp_path: Path) -> None:
    train(tmp_path, num_steps=12)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "6").rename(checkpoints / "18")
    with pytest.raises(
        CheckpointError, match=r"18 cannot be read \(it is that of another"
    ):
        train(tmp_path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Two checkpoints and their states, by step."""
    directory = tmp_path_factory.mktemp("good") / "checkpoints"
    rng = np.random.default_rng(0)
    state = {
        # Large enough for a file of its own, which Orbax does not check.
        "w": jnp.asarray(rng.normal(size=(60, 40)), jnp.float32),
        "small": jnp.asarray(rng.normal(size=5), jnp.float32),
        "count": jnp.asarray(3),
        "half": jnp.ones((3, 3), jnp.bfloat16),
        "mask": jnp.asarray([True, False]),
    }
    store = Store(directory, Retention(2, 0, "min"))
    store.save(6, state, Progress(key_words(KEY), best=0.5, stale=1), 0.5)
    newer = jax.tree.map(lambda leaf: leaf + leaf, state)
    store.save(12, newer, Progress(key_words(KEY), best=0.5, stale=1), 0.5)
    store.close()
    return directory, {6: state, 12: newer}


def restored(directory: Path, like: Any) -> tuple[int, Progress, Any]:
    store = Store(directory, Retention(2, 0, "min"))
    try:
        latest = store.latest
        assert latest is not None
        progress = store.progress(latest, like, KEY)
        return latest, progress, store.load(latest, like, HERE)
    finally:
        store.close()


def check_damage(good: tuple[Path, Any], folder: Path, count: int, seed: int) -> None:
    directory, state = good
    rng = np.random.default_rng(seed)
    files = sorted(path for path in (directory / "12").rglob("*") if path.is_file())
    num_refused = 0
    for _ in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(directory, folder)
        # Half of the time the largest, which holds the numbers.
        largest = max(files, key=lambda path: path.stat().st_size)
        picked = largest if rng.random() < 0.5 else files[int(rng.integers(len(files)))]
        path = folder / picked.relative_to(directory)
        match rng.integers(8):
            case 0:
                path.unlink()
            case 1:
                other = files[int(rng.integers(len(files)))]
                shutil.copy(other, path)
            case 2:
                shutil.rmtree(path.parent)
            case _:
                path.write_bytes(mutated(path.read_bytes(), rng, WORDS))
        start = time.perf_counter()
        try:
            latest, progress, found = restored(folder, state[12])
        except CheckpointError:
            num_refused += 1
        else:
            # All of the newest may be gone, and then the older one is the newest.
            assert latest == 12 or not (folder / "12").exists()
            assert (progress.best, progress.stale) == (0.5, 1)
            assert same_bits(found, state[latest])
        assert time.perf_counter() - start < 20
    assert num_refused > count / 3


@pytest.mark.slow
@pytest.mark.usefixtures("collected")
def test_many_damaged_checkpoints_are_read_right_or_refused(
    good: tuple[Path, Any], tmp_path: Path
) -> None:
    check_damage(good, tmp_path / "bad", count=250, seed=1)


@pytest.mark.slow
def test_sums_tell_every_bit_and_every_exchange(good: tuple[Path, Any]) -> None:
    state = good[1][12]
    is_finite, sums = examined(state)
    assert is_finite
    assert sums == examined(jax.tree.map(jnp.asarray, state))[1]
    for name, leaf in state.items():
        raw = bytearray(np.asarray(leaf).tobytes())
        raw[0] ^= 1
        flipped = np.frombuffer(raw, leaf.dtype).reshape(leaf.shape)
        found = examined(state | {name: jnp.asarray(flipped)})[1]
        assert {other for other in sums if found[other] != sums[other]} == {
            f"['{name}']"
        }
    exchanged = state["w"].at[jnp.array([0, 1])].set(state["w"][jnp.array([1, 0])])
    assert examined(state | {"w": exchanged})[1] != sums
    assert not examined(state | {"small": state["small"] * jnp.nan})[0]


def test_what_was_saved_without_sums_is_read(
    good: tuple[Path, Any], tmp_path: Path
) -> None:
    """Checkpoints of versions before there were any."""
    directory, state = good
    shutil.copytree(directory, tmp_path / "old")
    path = tmp_path / "old" / "12" / "progress" / "metadata"
    held = json.loads(path.read_text(encoding="utf-8"))
    for name in ("digest", "sums", "step", "between"):
        del held[name]
    path.write_text(json.dumps(held), encoding="utf-8")
    assert same_bits(restored(tmp_path / "old", state[12])[2], state[12])
