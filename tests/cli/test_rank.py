"""`contexture rank`: the report, runs that end early, and what is refused."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax.cli import _main, main
from contexture_jax.cli._rank import RankOptions
from contexture_jax.cli._rank_advice import Commands, advice
from contexture_jax.cli._rank_data import Beside
from contexture_jax.data import Table
from contexture_jax.ranking import (
    ContextSpec,
    NamedContext,
    ProbeErrors,
    RankedContext,
    _rank,
)

SAME = "a,y\n" + "1,0\n2,0\n" * 9
BOTH = "a,y\n" + "1,0\n2,1\n" * 9
FEW = ["--settings", "2", "--masks", "2", "--splits", "2", "--max-dim", "8"]
SMALL = [*FEW, "--preset", "published"]


def rank(out: Path, *arguments: str | int | Path, data: str = "wine") -> dict[str, Any]:
    wanted = ["rank", data, *SMALL, "--quiet", "--out", str(out), *map(str, arguments)]
    assert main(wanted) == 0
    return json.loads((out / "rank.json").read_text())


def without_times(description: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in description.items() if k != "seconds"}


def ended_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Ctrl-C as the solve of that number begins; gives how many there were."""
    calls, solved = [], _rank.solved

    def told(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return solved(*args, **kwargs)

    monkeypatch.setattr(_rank, "solved", told)
    return lambda: len(calls)


def test_a_target_gives_errors_correlations_and_pictures(
    tmp_path: Path, capsys
) -> None:
    wanted = [
        "rank",
        "wine",
        "--target",
        "target",
        *SMALL,
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(wanted) == 0
    found = json.loads((tmp_path / "o" / "rank.json").read_text())
    assert (found["status"], len(found["contexts"])) == ("complete", 8)
    assert {"name", "params", "tau", "best_dim", "error"} <= set(found["contexts"][0])
    assert 0 <= found["contexts"][0]["validated_error"] < 0.4
    taus, errors = np.array(
        [(c["tau"], c["error"]) for c in found["contexts"] if c["tau"] is not None]
    ).T
    assert found["pearson"] == pytest.approx(np.corrcoef(taus, errors)[0, 1])
    assert 0 <= found["distance_correlation"] <= 1
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"rank.json", "tau_error.png", "association_error.png"}
    out = capsys.readouterr().out
    assert "advice" in out
    assert "contexture spectrum wine --context" in out


KINDS = """\
class,group,height,weight,p,q
""" + "".join(
    f"{i % 2},{'abc'[i % 3]},{i * i % 47},{i % 7 + i / 50},{i % 5},{i // 9}\n"
    for i in range(44)
)


def of_kinds(out: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Every kind of context on a small table, with a teacher beside it."""
    data, teacher = out.parent / "data.csv", out.parent / "teacher.npy"
    data.write_text(KINDS)
    np.save(teacher, np.random.default_rng(0).normal(size=(44, 3)))
    told = ["rank", str(data), *FEW, "--quiet", "--no-plots", "--out", str(out)]
    told += ["--context-column", "group", "--context-column", "height"]
    told += ["--teacher", str(teacher), "--teacher-column", "p"]
    told += ["--teacher-column", "q", "--target", "class", *arguments]
    assert main(told) == status
    return json.loads((out / "rank.json").read_text())


def ended_at_kind(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ctrl-C as the first context of that kind is solved; gives what is solved."""
    solved, made = [], NamedContext.made

    def told(self: NamedContext) -> Any:
        solved.append(self.name)
        if self.type == kind:
            os.kill(os.getpid(), signal.SIGINT)
        return made(self)

    monkeypatch.setattr(NamedContext, "made", told)
    return solved


@pytest.mark.slow
def test_kinds_are_mixed_and_each_has_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Labels and k-NN alone: each kind of mixture once.
    chosen = ["--contexts", "knn,mix"]
    ended_at_kind("convolve", monkeypatch)
    stopped = of_kinds(tmp_path / "o", *chosen, status=130)
    assert (stopped["status"], len(stopped["contexts"])) == ("stopped", 11)
    monkeypatch.undo()
    solved = ended_at_kind("none", monkeypatch)
    found = of_kinds(tmp_path / "o", *chosen, "--resume")
    assert found["status"] == "complete"
    names, before = ({row["name"] for row in d["contexts"]} for d in (found, stopped))
    # Beside these only parts of theirs are made again.
    assert {name for name in solved if "+" in name} == names - before
    types = [row["type"] for row in found["contexts"]]
    assert {kind: types.count(kind) for kind in types} == {
        "knn": 2,
        "labels": 1,
        "near": 2,
        "teacher": 2,
        "convex": 3,
        "convolve": 2,
        "join": 1,
    }
    parser = _main._parser()
    for row in found["contexts"]:
        words = shlex.split(row["command"])
        assert words[0] == "contexture"
        parser.parse_args(words[1:])
        assert row["status"] != "failed"


def advised(
    *known: tuple[Any, str, float, float],
    guess: tuple[float, float] | None = None,
    errors: tuple[float, float] | None = None,
) -> list[str]:
    """On contexts with their association, Σ s_i² and error on the columns.

    `errors`: of all on a target, and their deviation over the splits.
    """
    probe = None
    if errors is not None:
        error, std = errors
        probe = ProbeErrors(error, std, error, 6, error, std, error)
    rows = [
        RankedContext(
            spec,
            association=word,
            chi_squared=strength,
            least_column_error=error,
            tau=1.5,
            best_dim=1,
            energy_dim=6,
            abstains=word != "moderate",
            status="converged",
            probe=probe,
        )
        for spec, word, strength, error in known
    ]
    specs = {row.spec.name: row.spec for row in rows}
    commands = Commands(RankOptions("d.csv"), Beside({}, {}, []), None, specs)
    table = Table("d.csv", np.zeros((3, 1)), ["a"], None, 1, np.arange(3), [])
    return advice(commands, table, rows, guess)


def test_advice_goes_by_strength_and_tells_no_number_by_tau() -> None:
    knn, rbf = ContextSpec("knn", 7), ContextSpec("rbf", 0.5)
    scarf = NamedContext("scarf-0.3", lambda: knn, "scarf", {"rate": 0.3})  # pyright: ignore
    mix, best, _ = advised((knn, "too weak", 0.2, 0.9), (rbf, "too weak", 0.3, 0.8))
    joined = "--context rbf+knn --mix join --loss svme --gamma 0.5 --num-neighbors 7"
    assert f"join the strongest of these: contexture train d.csv {joined}" in mix
    assert best.endswith("contexture spectrum d.csv --context rbf --gamma 0.5 --rank 6")
    strong = advised(
        (scarf, "too strong", 20.0, 0.4),
        (knn, "too strong", 30.0, 0.5),
        (rbf, "moderate", 2.0, 0.6),
    )
    # A step of SCARF is the last.
    assert "--mix convolve --num-neighbors 7 --scarf-rate 0.3" in strong[0]
    between = advised((knn, "moderate", 3.0, 0.4), (rbf, "too weak", 0.1, 0.3))
    assert "--context rbf+knn --mix convex:0.5,0.5" in between[0]
    (alone, _) = advised((knn, "too strong", 30.0, 0.5))
    assert "--rank 6" in alone


def test_errors_no_better_than_a_guess_advise_no_context() -> None:
    knn, masked = ContextSpec("knn", 7), ContextSpec("knn", 7, 0.2, 2)
    known = (knn, "moderate", 3.0, 0.4)
    chance = advised(known, guess=(0.445, 0.01), errors=(0.407, 0.11))
    assert len(chance) == 1
    assert "0.407 ± 0.11 over the splits, that of a guess 0.445" in chance[0]
    assert "--context knn" in advised(known, guess=(0.445, 0.1), errors=(0.2, 0.05))[-1]
    assert len(advised(known, guess=(0.445, 0.1), errors=(0.3, 0.0))) == 1
    # What is best may have no words on the command line.
    unnamed = advised((masked, "moderate", 3.0, 0.3), known)[-1]
    assert "knn-mask-7-0.2x2 (error 0.3), has no command" in unnamed
    assert "--context knn" in unnamed


def test_without_a_target_contexts_are_in_order_of_tau(tmp_path: Path) -> None:
    found = rank(tmp_path / "o", "--settings", 4)
    told = [c for c in found["contexts"] if not c["abstains"]]
    others = found["contexts"][len(told) :]
    assert [c["tau"] for c in told] == sorted(c["tau"] for c in told)
    assert all(c["abstains"] and c["place"] is None for c in others)
    assert (told[0]["place"], found["pearson"], told[0]["error"]) == (1, None, None)


def test_a_run_that_is_ended_gives_what_it_has_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    whole = rank(tmp_path / "whole", "--target", "target", "--no-plots")
    arguments = ["--target", "target", "--no-plots"]
    out = tmp_path / "o"
    ended_at(3, monkeypatch)
    told = ["rank", "wine", *SMALL, "--quiet", "--out", str(out), *arguments]
    assert main(told) == 130
    words = capsys.readouterr().err
    assert "3 of 8 contexts" in words
    assert "--resume" in words
    found = json.loads((out / "rank.json").read_text())
    assert (found["status"], len(found["contexts"])) == ("stopped", 3)
    again = ended_at(0, monkeypatch)
    assert without_times(rank(out, *arguments, "--resume")) == without_times(whole)
    assert again() == 5
    assert not (out / "rank").exists()


def test_a_run_of_other_options_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    ended_at(1, monkeypatch)
    told = ["rank", "wine", *SMALL, "--quiet", "--no-plots", "--out", str(tmp_path)]
    assert main(told) == 130
    assert main(told) == 2
    assert "holds a run already; expected --resume" in capsys.readouterr().err
    assert main([*told, "--resume", "--seed", "1"]) == 2
    assert "holds another run: seed is 0 there and 1 here" in capsys.readouterr().err
    (row,) = tmp_path.glob("rank/*-*.json")
    row.write_text('{"probe": 3}')
    assert main([*told, "--resume"]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_a_large_table_is_drawn_from(tmp_path: Path) -> None:
    found = rank(tmp_path, "--max-rows", 40, "--no-plots")
    assert found["num_rows"] == 40
    assert any("40 of 178 rows drawn" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("a,y\n1,0\n2,0\n3,1\n", [], "must have at least 4 rows"),
        (SAME, ["--target", "y"], "same value"),
        (SAME, ["--target", "z"], "z"),
        (SAME, ["--preset", "none"], "published"),
        (SAME, ["--contexts", "knn,tea"], "'tea'"),
        (SAME, ["--context-column", "z"], "--context-column z: d.csv has no such"),
        (BOTH, ["--target", "a", "--context-column", "a"], "is the target"),
        (BOTH, ["--teacher-column", "a", "--context-column", "y"], "no column left"),
        (SAME, ["--teacher", "wine"], "has 178 rows and d.csv 18"),
        (SAME, ["--max-dim", "0"], "--max-dim"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys, text: str, arguments: list[str], words: str
) -> None:
    (tmp_path / "d.csv").write_text(text)
    told = ["rank", str(tmp_path / "d.csv"), "--out", str(tmp_path / "o"), "--quiet"]
    assert main([*told, *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "o"
    arguments = ["--target", "target", "--no-plots", "--settings", "9"]
    told = ["rank", "wine", *SMALL, "--quiet", "--out", str(out), *arguments]
    process = subprocess.Popen([sys.executable, "-m", "contexture_jax.cli", *told])
    deadline = time.monotonic() + 120
    while len(list(out.glob("rank/*-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = len(list(out.glob("rank/*-*.json")))
    assert 3 <= kept < 36
    assert not (out / "rank.json").exists()
    found = rank(out, *arguments, "--resume")
    whole = rank(tmp_path / "whole", *arguments)
    assert without_times(found) == without_times(whole)
