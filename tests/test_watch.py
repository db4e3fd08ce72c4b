"""Processes of a run end with the one that dies, fails, is stopped or stays behind."""

import re
import time
from pathlib import Path

import pytest

from tests import processes

TELLS = {
    "killed": r"process 1 of 2 \(process \d+ on .*\) is gone; nothing is kept",
    "first": r"process 0 of 2 \(process \d+ on .*\) is gone; nothing is kept",
    "stopped": r"process 1 of 2 gave no sign of life for 6 s; nothing is kept",
    "behind": r"process 1 of 2 has been behind this one for 6 s; nothing is kept",
    "fails": r"process 1 of 2: no luck; nothing is kept",
}


@pytest.mark.fast("killed")
@pytest.mark.parametrize("how", TELLS)
def test_one_that_ends_ends_the_other_with_a_line(tmp_path: Path, how: str) -> None:
    workers = processes.start("tests.watched", tmp_path, how)
    gone = 0 if how == "first" else 1
    other, began = workers[1 - gone], time.monotonic()
    try:
        if how in ("killed", "first"):
            workers[gone].wait(timeout=300)
            began = time.monotonic()
        said = processes.finish([other], timeout=300)[0]
        assert time.monotonic() - began < 60
    finally:
        workers[gone].kill()
        workers[gone].communicate()
    told = [line for line in said.splitlines() if line.startswith("process ")]
    assert len(told) == 1
    assert re.fullmatch(TELLS[how], told[0])
    if how != "first":  # else JAX tells of it too, and aborts, perhaps before
        assert other.returncode == 1


@pytest.mark.slow
def test_nothing_is_left_of_those_that_end_well(tmp_path: Path) -> None:
    workers = processes.start("tests.watched", tmp_path, "well")
    said = processes.finish(workers, timeout=300)
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    assert list((tmp_path / "processes").iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_refused_in_both(tmp_path: Path) -> None:
    workers = processes.start("tests.watched", tmp_path, "unshared")
    for said in processes.finish(workers, timeout=300):
        words = "must be seen by all processes of a run; process 0 sees the files"
        assert words in said


@pytest.mark.slow
def test_what_is_refused_in_all_ends_none_by_the_word_of_another(
    tmp_path: Path,
) -> None:
    workers = processes.start("tests.watched", tmp_path, "refused")
    for said in processes.finish(workers, timeout=300):
        assert "DisagreementError: process 0 of 2: no luck" in said
        assert not [line for line in said.splitlines() if line.startswith("process ")]
