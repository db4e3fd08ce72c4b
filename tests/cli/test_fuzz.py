"""Random command lines and damaged files: one line, status 2, nothing written."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from contexture_jax import ranking
from contexture_jax.cli import _rank, main
from contexture_jax.data import InputError
from tests.data.helpers import write
from tests.data.test_damaged_files import CSV, CSV_WORDS, HEADER_WORDS, NPY, NPZ
from tests.data.test_damaged_frames import FILES, WORDS
from tests.mutations import mutations

COMMANDS = (
    "spectrum",
    "rank",
    "predict",
    "diagnose",
    "train",
    "embed",
    "plan",
    "bench",
)
OPTIONS = (
    *("--target", "--drop", "--categorical", "--separator", "--decimal", "--missing"),
    *("--context", "--num-neighbors", "--gamma", "--rank", "--dtype", "--devices"),
    *("--seed", "--tol", "--max-passes", "--method", "--steps", "--batch-size"),
    *("--hidden", "--loss", "--learning-rate", "--settings", "--masks", "--splits"),
    *("--contexts", "--teacher", "--context-column", "--mix", "--size", "--rounds"),
    *("--time-limit", "--rows", "--columns", "--memory", "--largest", "--json"),
    *("--preset", "--max-rows", "--energy-share", "--measures", "--neighbors"),
)
FLAGS = ("--lazy", "--no-plots", "--quiet", "--resume", "--no-peers", "--", "-x", "---")
VALUES = (
    *("", "0", "-1", "1", "7", "nan", "inf", "1e400", "-0", "1_0", "0x7", "٣", "１"),
    *("9" * 40, "1e-400", "auto", "knn", "rbf", "labels", "joint", "none", "y", "a"),
    *(
        "float32",
        "float16",
        ",",
        ";;",
        "\t",
        "\n",
        "\x00",
        "'",
        '"',
        "$(x)",
        "é",
        "\udcff",
    ),
    *("a" * 5000, "../..", "/", "~", "{", "[", "knn:k=-1", "convolve(knn,", "small"),
)
BAD = "a,b\n1\n"  # refused wherever it is read


def assert_refused(
    status: int, told: str, argv: Sequence[str], *, seconds: float
) -> None:
    assert status == 2, (argv, told)
    assert told.startswith("contexture: error: "), (argv, told)
    # Notes may come before it.
    assert len(told.splitlines()) == 1, (argv, told)
    assert seconds < 5, argv


def command_lines(count: int, seed: int, data: Sequence[str]) -> list[list[str]]:
    """Each with something that cannot be: DATA that is damaged or not there."""
    rng = np.random.default_rng(seed)

    def one(of: Sequence[str]) -> str:
        return of[int(rng.integers(len(of)))]

    lines = []
    for _ in range(count):
        argv = [one(COMMANDS), one(data)]
        for _ in range(int(rng.integers(0, 5))):
            if rng.random() < 0.2:
                argv.append(one(FLAGS))
            elif rng.random() < 0.2:
                argv.append(f"{one(OPTIONS)}={one(VALUES)}")
            else:
                argv += [one(OPTIONS), one(VALUES)]
        lines.append(argv)
    return lines


def check_lines(
    folder: Path, capsys: pytest.CaptureFixture[str], count: int, seed: int
) -> None:
    data = [str(write(folder, BAD)), str(folder / "none.npz"), "no such set"]
    before = sorted(folder.iterdir())
    for argv in command_lines(count, seed, data):
        start = time.perf_counter()
        status = main([*argv, f"--out={folder / 'out'}"])
        seconds = time.perf_counter() - start
        assert_refused(status, capsys.readouterr().err, argv, seconds=seconds)
        assert sorted(folder.iterdir()) == before, argv


def test_command_lines_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_lines(tmp_path, capsys, 150, seed=0)


@pytest.mark.slow
def test_thousands_of_command_lines_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_lines(tmp_path, capsys, 1000, seed=1)


WORDS_OF_ROWS = (
    *(b"null", b"true", b"[]", b"{}", b"NaN", b"-Infinity", b"1e999", b'"digest"'),
    *(b'"row"', b'"probe"', b'"spec"', b'"tau"', b"2.5", b"1.75", b"[" * 2000, b"0"),
)


def check_kept(folder: Path, count: int, seed: int) -> None:
    """What `rank` keeps of a context is what it kept, or refused."""
    spec = ranking.ContextSpec("knn", 5)
    probe = ranking.ProbeErrors(0.25, 0.01, 0.3, 6, 0.25, 0.01, 0.3)
    row = ranking.RankedContext(
        spec, tau=1.75, chi_squared=2.5, tau_upper=float("inf"), probe=probe
    )
    path, whole = _rank._file(folder, spec), _rank._as_text(row).encode()
    path.write_bytes(whole)
    assert _rank._kept(folder, [spec]) == {spec.name: row}
    refused = 0
    for content in mutations([whole], count, seed, WORDS_OF_ROWS):
        path.write_bytes(content)
        try:
            found = _rank._kept(folder, [spec])
        except InputError:
            refused += 1
        else:
            assert found == {spec.name: row}
    assert refused > count / 2


def test_damaged_contexts_of_rank_are_those_kept_or_refused(tmp_path: Path) -> None:
    check_kept(tmp_path, 300, seed=0)


@pytest.mark.slow
def test_thousands_of_contexts_of_rank_are_those_kept_or_refused(
    tmp_path: Path,
) -> None:
    check_kept(tmp_path, 3000, seed=1)


# A target that no table has: what is read well is refused after all of it was read.
READERS = {
    "spectrum": ["--target", "no such column"],
    "rank": ["--target", "no such column"],
    "predict": ["--target", "no such column"],
    "train": ["--target", "no such column"],
    "diagnose": ["--num-neighbors", "7"],
}
KINDS = {
    "t.csv": (CSV, CSV_WORDS),
    "t.npy": (NPY, HEADER_WORDS),
    "t.npz": (NPZ, HEADER_WORDS),
    "t.parquet": (FILES["x.parquet"], WORDS),
    "t.feather": (FILES["x.feather"], WORDS),
}


def check_files(
    folder: Path, capsys: pytest.CaptureFixture[str], count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for name, (contents, words) in KINDS.items():
        for content in mutations(contents, count, seed, words):
            (folder / name).write_bytes(content)
            command = list(READERS)[int(rng.integers(4))]
            argv = [command, str(folder / name), *READERS[command]]
            start = time.perf_counter()
            status = main([*argv, f"--out={folder / 'out'}"])
            seconds = time.perf_counter() - start
            assert_refused(status, capsys.readouterr().err, argv, seconds=seconds)
        (folder / name).unlink()
    assert list(folder.iterdir()) == []


def test_damaged_files_are_refused_by_each_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_files(tmp_path, capsys, 12, seed=0)


@pytest.mark.slow
def test_thousands_of_damaged_files_are_refused_by_each_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_files(tmp_path, capsys, 300, seed=1)
