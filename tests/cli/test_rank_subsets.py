"""`contexture rank --subsets`: τ of all rows of a table of which some were drawn."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax import ranking
from contexture_jax.cli import _rank_subsets, main
from tests.cli.test_rank import assert_same

SMALL = ["--settings", "3", "--max-dim", "4", "--contexts", "knn,rbf", "--no-plots"]


@pytest.fixture(scope="module")
def three_clusters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.normal(c, 0.7, size=(100, 2)) for c in (-1, 0.5, 2)])
    path = tmp_path_factory.mktemp("data") / "clusters.csv"
    np.savetxt(path, x, delimiter=",", header="a,b", comments="")
    return path


def ranked(data: Path, out: Path, *more: str | int) -> dict[str, Any]:
    assert main(told(data, out, *more)) == 0
    return json.loads((out / "rank.json").read_text())


def told(data: Path, out: Path, *more: str | int) -> list[str]:
    own = ["rank", str(data), *SMALL, "--quiet", "--out", str(out)]
    return [*own, *map(str, more)]


@pytest.mark.slow
def test_intervals_are_of_all_rows(three_clusters: Path, tmp_path: Path) -> None:
    own = ("--max-rows", 200, "--subsets", 4, "--max-dim", 24, "--settings", 6)
    found = ranked(three_clusters, tmp_path / "some", *own)
    assert (found["num_rows"], found["num_rows_of_all"]) == (200, 300)
    rows = {row["name"]: row for row in found["contexts"]}
    # γ is the same on all rows, and K half as much again.
    counts = {name: row["params"].get("num_neighbors") for name, row in rows.items()}
    told_of = {
        name: row["tau_of_all"]
        for name, row in rows.items()
        if not row["tau_of_all"]["abstains"]
    }
    # Of either kind some are told.
    assert {name.partition("-")[0] for name in told_of} == {"knn", "rbf"}
    x = np.loadtxt(three_clusters, delimiter=",", skiprows=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    specs = [
        ranking.ContextSpec("knn", round(1.5 * counts[name]))
        if counts[name]
        else ranking.ContextSpec("rbf", rows[name]["params"]["gamma"])
        for name in told_of
    ]
    truth = ranking.rank_contexts(x, specs, max_dim=24)
    for row, interval in zip(truth, told_of.values(), strict=True):
        assert interval["lower"] <= row.tau <= interval["upper"]
        assert interval["level"] == 0.9


def test_a_run_that_is_ended_keeps_its_subsets(
    three_clusters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("--max-rows", 100, "--subsets", 2, "--contexts", "rbf")
    whole = ranked(three_clusters, tmp_path / "whole", *own)
    calls, solve = [], ranking.spectra_of_rows

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return solve(*args, **kwargs)

    monkeypatch.setattr(ranking, "spectra_of_rows", counted)
    out = tmp_path / "ended"
    assert main(told(three_clusters, out, *own)) == 130
    stopped = json.loads((out / "rank.json").read_text())
    assert stopped["status"] == "stopped"
    assert all(row["tau_of_all"] is None for row in stopped["contexts"])
    found = ranked(three_clusters, out, *own, "--resume")
    assert len(calls) == 2 * _rank_subsets._PARTS
    assert_same(found, whole)


def test_what_was_kept_is_not_believed_if_it_is_damaged(
    three_clusters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = ("--max-rows", 100, "--subsets", 2)
    solve = ranking.spectra_of_rows

    def ended(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return solve(*args, **kwargs)

    monkeypatch.setattr(ranking, "spectra_of_rows", ended)
    assert main(told(three_clusters, tmp_path, *own)) == 130
    (path,) = tmp_path.glob("rank/subset-*.npz")
    path.write_bytes(path.read_bytes()[:-40])
    assert main(told(three_clusters, tmp_path, *own, "--resume")) == 2
    assert "is damaged" in capsys.readouterr().err


def test_one_subset_has_no_spread(
    three_clusters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(told(three_clusters, tmp_path, "--subsets", 1)) == 2
    assert "--subsets: expected an integer of at least 2" in capsys.readouterr().err


def test_a_table_that_is_ranked_whole_needs_no_subsets(
    three_clusters: Path, tmp_path: Path
) -> None:
    found = ranked(three_clusters, tmp_path, "--subsets", 2, "--settings", 1)
    assert found["num_rows_of_all"] == found["num_rows"] == 300
    assert all(row["tau_of_all"] is None for row in found["contexts"])
