"""Runs of the suites: what a report holds, on one device and on two."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import pytest

from contexture_jax.benchmarking import (
    SUITES,
    OnDevice,
    Peaks,
    Setting,
    Work,
    measure,
    read_report,
    run_suites,
    write_report,
)
from contexture_jax.benchmarking import _run as module
from contexture_jax.benchmarking._timing import _LEAST_ROUNDS
from contexture_jax.cli import main
from contexture_jax.cli._bench import _SUITES


def setting(**changed: Any) -> Setting:
    made = Setting(None, Peaks(1e9, 1e9, 1e9, 1e9), 4, 0, [], [])
    return made._replace(**changed)


def test_the_command_names_the_suites_that_there_are() -> None:
    assert _SUITES == SUITES


def test_what_fails_is_told_and_takes_nothing_with_it() -> None:
    def fail(_: int) -> None:
        raise ValueError("broken\nin two lines")

    made = setting()
    rows = measure(
        [
            OnDevice("good", lambda _: 1, "ours", needs=lambda _: Work(1e6, 2e6)),
            OnDevice("bad", fail, "ours"),
            OnDevice("other", fail),
        ],
        made,
    )
    assert [row["name"] for row in rows] == ["good"]
    assert made.problems == ["bad: ValueError: broken"]
    assert made.notes == ["other: ValueError: broken"]
    (row,) = rows
    assert len(row["seconds"]) == len(row["processor_seconds"]) == 4
    assert row["bound_seconds"] == 2e6 / 1e9
    assert math.isclose(row["of_bound"] * row["seconds_median"], row["bound_seconds"])
    assert (row["flops"], row["bytes"]) == (1e6, 2e6)


def test_rounds_end_when_the_time_is_up() -> None:
    made = setting(rounds=50, deadline=0.0)
    (row,) = measure([OnDevice("one", lambda _: 1, "ours")], made)
    assert len(row["seconds"]) == _LEAST_ROUNDS


def test_a_suite_that_fails_and_one_without_time_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(module, "measure_roofs", fail)
    monkeypatch.setitem(module._SUITES, "knn", module._Suite(fail))
    found = run_suites(["knn"], size="small", rounds=3)
    assert found["problems"] == [
        "peaks: RuntimeError: no memory",
        "knn: RuntimeError: no memory",
    ]
    found = run_suites(["knn"], size="small", rounds=3, time_limit=0.0)
    assert found["notes"] == ["knn: left out, as the time was up"]
    several: Any = ({"suites": ["paint"]}, {"size": "tiny"}, {"rounds": 2})
    for wrong in several:
        with pytest.raises(ValueError, match="must be"):
            run_suites(**wrong)


def check(path: Path, suites: tuple[str, ...], devices: int) -> dict[str, Any]:
    report = read_report(path)
    assert tuple(report["suites"]) == suites
    assert report["problems"] == []
    assert report["arguments"]["devices"] == devices
    assert {"jax", "jaxlib", "numpy", "contexture_jax"} <= set(report["versions"])
    for suite in suites:
        rows = report["suites"][suite]["rows"]
        ours = [row for row in rows if row["kind"] == "ours"]
        assert ours
        for row in rows:
            assert len(row["seconds"]) == report["arguments"]["rounds"]
            assert row["spread"] >= 0
            # Far below what float32 can do, with room for solvers' tolerances.
            for name, error in row["accuracy"].items():
                most = 0.1 if name == "width of bounds" else 1e-3
                assert 0 <= error < most, (row["name"], name)
    return report


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_scaling_is_timed_beside_the_peaks(tmp_path: Path, devices: int) -> None:
    mesh = None
    if devices > 1:
        mesh = jax.make_mesh(
            (devices,), ("x",), axis_types=(jax.sharding.AxisType.Auto,)
        )
    found = run_suites(["scaling"], size="small", rounds=3, mesh=mesh)
    write_report(found, tmp_path / "r.json")
    report = check(tmp_path / "r.json", ("scaling",), devices)
    assert all(value > 0 for value in report["peaks"].values())
    told = report["suites"]["scaling"]["told"]
    assert set(told) == ({"slope"} if devices == 1 else {"slope", "gain"})
    ours = [row for row in report["suites"]["scaling"]["rows"] if "flops" in row]
    assert len(ours) == 3 * devices
    assert all(row["of_bound"] > 0 for row in ours)


@pytest.mark.slow
def test_all_suites_run_and_are_the_same_as_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    told = ["bench", "--size", "small", "--rounds", "3", "--out", str(out)]
    assert main(told) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SUITES)
    names = {path.name for path in out.iterdir()}
    assert names == {"bench.json", "roofline.png", "seconds.png"}
    report = check(out / "bench.json", SUITES, 1)
    solved = {
        row["name"]: row
        for row in report["suites"]["solvers"]["rows"]
        if row["kind"] == "ours" and "passes" in row
    }
    assert set(solved) == {
        "dense: truncated_svd",
        "k-NN: svd",
        "Gaussian: svd",
        "sparse: svd",
    }
    assert all(row["passes"] >= 0.5 for row in solved.values())
    assert main(["bench", "compare", str(out), str(out)]) == 0
    assert "0 faster" in capsys.readouterr().out
    assert json.loads((out / "bench.json").read_text())["seconds"] > 0
