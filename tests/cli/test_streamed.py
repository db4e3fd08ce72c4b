"""`contexture spectrum` of a folder of shards."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from contexture_jax.cli import main
from tests.cli.test_passes import assert_same_results, ended_after

RNG = np.random.default_rng(0)
TABLE = (RNG.random((120, 3)) @ RNG.random((3, 20)) + 0.2 * RNG.random((120, 20))) ** 2
TABLE = TABLE.astype(np.float32)
GIVEN = ["--context", "joint", "--rank", "3", "--no-plots", "--quiet"]


def run(data: Path, out: Path, *more: str) -> int:
    return main(["spectrum", str(data), *GIVEN, "--out", str(out), *more])


def shards(folder: Path) -> Path:
    folder.mkdir()
    for number, part in enumerate(np.array_split(TABLE, 3)):
        np.save(folder / f"{number}.npy", part)
    return folder


def test_a_folder_gives_what_one_file_gives(tmp_path):
    np.save(tmp_path / "whole.npy", TABLE)
    assert run(tmp_path / "whole.npy", tmp_path / "one") == 0
    assert run(shards(tmp_path / "parts"), tmp_path / "many") == 0
    one, many = (
        json.loads((tmp_path / name / "spectrum.json").read_text())
        for name in ("one", "many")
    )
    assert many["status"] == "converged"
    assert many["num_rows"] == 120
    assert "3 files" in " ".join(many["notes"])
    for name in ("singular_values", "total_energy"):
        np.testing.assert_allclose(many[name], one[name], atol=2e-5)
    # What was kept of the solve is not needed any more.
    assert not (tmp_path / "many" / "solve").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--context", "knn"], "expected --context joint"),
        (["--target", "x0"], "--target names a column"),
        (["--bootstrap", "3"], "--bootstrap takes all of a table"),
        (["--rank", "20"], "--rank 20 is more than there is"),
    ],
)
def test_what_takes_all_of_a_table_is_refused(tmp_path, capsys, more, said):
    assert run(shards(tmp_path / "parts"), tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_damaged_shard_is_one_line(tmp_path, capsys):
    folder = shards(tmp_path / "parts")
    (folder / "1.npy").write_bytes((folder / "1.npy").read_bytes()[:200])
    assert run(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert '1.npy"' in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_is_ended_goes_on_to_the_bit(tmp_path, monkeypatch, capsys):
    data = shards(tmp_path / "parts")
    more = ["--method", "randomized", "--tol", "1e-5"]
    assert run(data, tmp_path / "whole", *more) == 0
    with monkeypatch.context() as patched:
        ended_after(2, signal.SIGTERM, patched)
        assert run(data, tmp_path / "out", *more) == 143
    assert (tmp_path / "out" / "solve" / "state.npz").exists()
    assert run(data, tmp_path / "out", *more, "--rank", "2", "--resume") == 2
    assert "rank is 3 there and 2 here" in capsys.readouterr().err
    assert run(data, tmp_path / "out", *more, "--resume") == 0
    assert_same_results(tmp_path / "out", tmp_path / "whole")
