"""Two runs beside each other: what is told, and what is noise."""

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax.benchmarking import (
    compare,
    ratio_interval,
    read_report,
    write_report,
)
from contexture_jax.benchmarking._compare import _num_before
from contexture_jax.cli import main
from tests.benchmarking.helpers import report
from tests.mutations import mutations


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 7), (7, 5)])
def test_ends_are_those_of_the_precedence_test(n: int, m: int) -> None:
    orders = list(itertools.combinations(range(n + m), n))  # places of the n
    for tail in (0.001, 0.01, 0.1):
        s = _num_before(n, m, tail)
        # How many of them have the s smallest of all.
        first = sum(places[s - 1] == s - 1 for places in orders) / len(orders)
        assert first <= tail or s == n
        sooner = sum(places[s - 2] == s - 2 for places in orders) / len(orders)
        assert sooner > tail or s == n // 2 + 1


def test_intervals_hold_the_ratio_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    level, draws = 0.1, 2000
    missed = 0
    for _ in range(draws):
        a, b = np.exp(rng.standard_normal((2, 7)))
        low, high, middle = ratio_interval(a, 1.5 * b, level)
        assert low <= middle <= high
        missed += not low <= 1.5 <= high
    # Below the level, as ranks come in steps, and not by far.
    error = math.sqrt(level * (1 - level) / draws)
    assert level / 2 < missed / draws < level + 5 * error


def test_a_run_against_itself_is_the_same() -> None:
    run = report(0)
    found = compare(run, run)
    assert found["counts"] == {"faster": 0, "the same": 20, "slower": 0}
    assert all(row["ratio"] == 1 for row in found["rows"])
    assert not found["is_worse"]
    assert found["clock"] == "seconds"
    assert found["differences"] == found["missing"] == found["new"] == []


@pytest.mark.parametrize("machine", [1.0, 1.7, 0.5])
def test_two_runs_of_one_build_are_the_same_on_a_noisy_machine(machine: float) -> None:
    told = 0
    for seed in range(20):
        found = compare(report(seed), report(100 + seed, machine=machine))
        told += found["counts"]["faster"] + found["counts"]["slower"]
    # Of 20 comparisons one may tell a difference.
    assert told <= 1


def test_what_is_slower_or_faster_is_told() -> None:
    changed = {"r3": 2.0, "r5": 0.5}
    found = compare(report(1, noise=0.1), report(2, noise=0.1, factors=changed))
    verdicts = {r["name"]: r["verdict"] for r in found["rows"]}
    assert {n: v for n, v in verdicts.items() if v != "the same"} == {
        "r3": "slower",
        "r5": "faster",
    }
    assert found["is_worse"]
    by_name = {r["name"]: r for r in found["rows"]}
    assert by_name["r3"]["lower"] < 2.0 < by_name["r3"]["upper"]


def test_a_slower_machine_does_not_hide_what_is_slower_still() -> None:
    slower = report(2, noise=0.05, machine=1.3, factors={"r0": 3.0})
    found = compare(report(1, noise=0.05), slower)
    assert [r["name"] for r in found["rows"] if r["verdict"] == "slower"] == ["r0"]
    assert 1.2 < found["yardsticks"]["operators"]["copy"] < 1.5


def test_on_a_busy_machine_processors_tell_what_is_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = report(1, noise=0.05, busy=True), report(2, noise=0.05, busy=True)
    assert compare(a, b)["clock"] == "processor_seconds"
    assert compare(a, b)["counts"]["the same"] == 20
    c = report(3, noise=0.05, busy=True, factors={"r2": 2.0})
    found = compare(a, c)
    assert [r["name"] for r in found["rows"] if r["verdict"] != "the same"] == ["r2"]
    for name, run in (("a", a), ("c", c)):
        write_report(run, tmp_path / f"{name}.json")
    files = [str(tmp_path / f"{name}.json") for name in "ac"]
    assert main(["bench", "compare", *files]) == 1
    assert "the machine was busy" in capsys.readouterr().out
    for row in c["suites"]["operators"]["rows"]:
        del row["processor_seconds"]  # not told everywhere
    assert compare(a, c)["clock"] == "seconds"


def test_too_few_rounds_tell_no_difference_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [report(s, rounds=5, factors={"r0": 1 + 99 * s}) for s in (0, 1)]
    found = compare(*runs)
    assert found["counts"]["slower"] == 0
    assert not any(row["can_tell"] for row in found["rows"])
    for number, run in enumerate(runs):
        write_report(run, tmp_path / f"{number}.json")
    files = [str(tmp_path / f"{number}.json") for number in (0, 1)]
    assert main(["bench", "compare", *files]) == 0
    assert "20 rows of too few rounds" in capsys.readouterr().out


def test_other_hardware_versions_and_settings_are_said() -> None:
    a, b = report(0), report(0)
    b["device"]["kind"] = "TPU v6e"
    b["versions"]["jax"] = "0.12.0"
    b["machine"]["environment"] = {"XLA_FLAGS": "--x"}
    told = compare(a, b)["differences"]
    assert told == [
        "other hardware: kind cpu and TPU v6e",
        "other settings: environment not set and {'XLA_FLAGS': '--x'}",
        "other version: jax 0.10.0 and 0.12.0",
    ]


def test_errors_passes_and_missing_rows_are_told() -> None:
    a, b = report(0), report(0)
    rows = b["suites"]["operators"]["rows"]
    rows[4]["accuracy"]["error"] = 3e-5
    rows[5]["accuracy"]["error"] = 1.9e-5
    rows[6]["passes"] = 6.0
    found = compare(a, b)
    by_name = {r["name"]: r for r in found["rows"]}
    assert by_name[rows[4]["name"]]["less_exact"] == ["error"]
    assert by_name[rows[5]["name"]]["less_exact"] == []
    assert by_name[rows[6]["name"]]["passes"] == [4.0, 6.0]
    assert found["is_worse"]
    del rows[4]
    found = compare(a, b)
    assert found["missing"] == ["operators: r1"]
    assert found["is_worse"]
    assert compare(b, a)["new"] == ["operators: r1"]
    assert not compare(b, a)["is_worse"]


def test_the_command_compares_and_says_so_by_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    write_report(report(1, noise=0.05), tmp_path / "a" / "bench.json")
    write_report(report(2, noise=0.05), tmp_path / "b.json")
    slower = report(3, noise=0.05, factors={"r7": 2.0})
    write_report(slower, tmp_path / "c.json")
    a, b, c = (str(tmp_path / name) for name in ("a", "b.json", "c.json"))
    assert main(["bench", "compare", a, b]) == 0
    assert "0 faster, 20 the same, 0 slower" in capsys.readouterr().out
    out = tmp_path / "out"
    assert main(["bench", "compare", a, c, "--out", str(out)]) == 1
    told = capsys.readouterr().out
    assert "operators: r7" in told
    assert "1 slower" in told
    assert {path.name for path in out.iterdir()} == {"compare.json", "compare.png"}
    assert json.loads((out / "compare.json").read_text())["is_worse"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare"], "two runs, A and B; got 0"),
        (["compare", "{good}", "{none}"], "No such file"),
        (["compare", "{good}", "{bad}"], "is no report of contexture bench"),
        (["compare", "{good}", "{newer}"], "must be a report of version 1; got 2"),
        (["operators", "paint"], "no suite 'paint'"),
        (["knn", "--rounds", "2"], "--rounds must be at least 3"),
        (["--out", "{good}/deeper"], "is a file"),
        (["compare", "{good}", "{good}", "--out", "{good}"], "is a file"),
    ],
)
def test_bad_input_of_the_command_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    write_report(report(0), tmp_path / "good.json")
    write_report(report(0) | {"version": 2}, tmp_path / "newer.json")
    (tmp_path / "bad.json").write_text("[1, 2", encoding="utf-8")
    names = {n: str(tmp_path / f"{n}.json") for n in ("good", "bad", "none", "newer")}
    assert main(["bench", *(word.format(**names) for word in words)]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def damaged_reports(count: int, seed: int) -> Any:
    small = report(seed, num_rows=1, rounds=3)
    words = (
        *(b"null", b"[]", b"{}", b"-1", b"0", b"1e999", b"NaN", b'"x"', b"true", b"["),
        *(b'"seconds"', b'"rows"', b'"suites"', b'"accuracy"', b'"kind"', b'"ours"'),
        *(b'"name"', b'"device"', b'"versions"', b'"machine"', b'"operators"', b"9e9"),
    )
    return mutations([json.dumps(small).encode()], count, seed, words)


def check_damaged(path: Path, whole: dict[str, Any], content: bytes) -> bool:
    """A damaged report is refused, or all that comparing needs is there."""
    path.write_bytes(content)
    try:
        found = read_report(path)
    except ValueError:
        return False
    for pair in ((found, whole), (whole, found)):
        told = compare(*pair)
        assert all(math.isfinite(row["ratio"]) for row in told["rows"])
    return True


def test_damaged_reports_are_refused_or_compared(tmp_path: Path) -> None:
    whole = report(1, num_rows=1, rounds=3)
    taken = [
        check_damaged(tmp_path / "r.json", whole, content)
        for content in damaged_reports(300, 0)
    ]
    assert any(taken)
    assert not all(taken)


@pytest.mark.slow
def test_thousands_of_damaged_reports_are_refused_or_compared(tmp_path: Path) -> None:
    whole = report(1, num_rows=1, rounds=3)
    for content in damaged_reports(2000, 1):
        check_damaged(tmp_path / "r.json", whole, content)


def test_comparing_changes_nothing() -> None:
    a, b = report(0), report(1)
    before = copy.deepcopy((a, b))
    compare(a, b)
    assert (a, b) == before
