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
from contexture_jax.cli._rank_report import describe, print_ranking
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


def assert_same(found: Any, whole: Any) -> None:
    """But for times, and the last bits: sums of NumPy go by where arrays lie."""
    if isinstance(whole, dict):
        assert set(found) == set(whole)
        for name in set(whole) - {"seconds"}:
            assert_same(found[name], whole[name])
    elif isinstance(whole, list):
        assert len(found) == len(whole)
        for one, other in zip(found, whole, strict=True):
            assert_same(one, other)
    elif isinstance(whole, float):
        assert found == pytest.approx(whole, rel=1e-12, abs=1e-12)
    else:
        assert found == whole


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


# Words of `rank.json` that need no explanation, or are options of the command.
PLAIN = {"version", "data", "num_rows", "num_columns", "target", "preset", "kinds"}
PLAIN |= {"context_columns", "teachers", "splits", "seed", "status", "num_contexts"}
PLAIN |= {"contexts", "protocol", "advice", "seconds", "notes", "subsets", "command"}
PLAIN |= {"name", "type", "params", "reason", "gamma", "num_neighbors", "energy_share"}


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
    # What a word alone does not tell is explained.
    types = {context["type"] for context in found["contexts"]}
    keys = {*found, *found["contexts"][0], *found["correlations"]} - types
    keys.update(*(context["params"] for context in found["contexts"]))
    assert [key for key in keys - PLAIN if key not in found["protocol"]] == []
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


def row(
    spec: Any,
    word: str,
    strength: float,
    error: float,
    *,
    std: float | None = None,
    **known: Any,
) -> RankedContext:
    """A context with its association, Σ s_i² and error.

    On the columns; on a target, with its deviation over the splits, where that is
    given.
    """
    probe = None
    if std is not None:
        probe = ProbeErrors(error, std, error, 6, error, std, error)
    told: dict[str, Any] = {"tau": 1.5, "best_dim": 1, "energy_dim": 9, "column_dim": 6}
    return RankedContext(
        spec,
        association=word,
        chi_squared=strength,
        least_column_error=error,
        abstains=word != "moderate",
        probe=probe,
        status="converged",
        **told | known,
    )


def commands_of(rows: list[RankedContext], target: str | None = None) -> Commands:
    specs = {row.spec.name: row.spec for row in rows}
    return Commands(RankOptions("d.csv"), Beside({}, {}, []), target, specs)


TABLE = Table("d.csv", np.zeros((3, 1)), ["a"], None, 1, np.arange(3), [])


def advised(
    *known: tuple[Any, str, float, float],
    guess: tuple[float, float] | None = None,
    errors: tuple[float, float] | None = None,
) -> list[str]:
    """On contexts as `row` has them; `errors`: of all on a target, and their std."""
    told = [(k[:3], k[3] if errors is None else errors[0]) for k in known]
    std = None if errors is None else errors[1]
    rows = [row(*one, error, std=std) for one, error in told]
    return advice(commands_of(rows), TABLE, rows, guess)


def mixed(kind: str, *parts: Any) -> NamedContext:
    names = [part.name for part in parts]
    return NamedContext(f"{kind}-{'+'.join(names)}", made, kind, {"parts": names})


def made() -> Any:
    raise AssertionError("nothing is solved")


LABELS = NamedContext("labels-site", made, "labels", {"column": "site"})


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


CONTEXTS: list[tuple[Any, Any]] = [("knn", 7), ("knn", 3), ("rbf", 0.5)]


def test_advice_goes_by_errors_and_by_what_the_run_has_tried() -> None:
    knn, other, rbf = (ContextSpec(*c) for c in CONTEXTS)
    guess = (0.4, 0.01)
    strong = [
        row(LABELS, "too strong", 3.0, 0.41, std=0.0),
        row(rbf, "too strong", 30.0, 0.2, std=0.01),
        row(knn, "too strong", 40.0, 0.1, std=0.01),
    ]
    first, best, _ = advice(commands_of(strong), TABLE, strong, guess)
    # The weakest tells nothing of the target, and one alone is no pair.
    assert len(advice(commands_of(strong), TABLE, strong[:2], guess)) == 2
    assert "labels" not in " ".join(advice(commands_of(strong), TABLE, strong, guess))
    words = "convolve the best of these: contexture train d.csv --context knn+rbf"
    assert words in first
    assert "--context knn" in best
    tried = row(mixed("convolve", rbf, other), "too weak", 0.1, 0.3, std=0.01)
    rows = [*strong, row(other, "moderate", 4.0, 0.3, std=0.01), tried]
    first, second, _ = advice(commands_of(rows), TABLE, rows, guess)
    assert first.startswith("most contexts are too strong, but this run has tried conv")
    assert second == "no mixture is better than the best context alone"
    # A mixture that gained is no reason to stop.
    gained = row(mixed("convolve", rbf, other), "too weak", 0.1, 0.05, std=0.01)
    rows[-1] = gained
    first, second, _ = advice(commands_of(rows), TABLE, rows, guess)
    assert "--context knn+rbf --mix convolve" in first
    assert second.startswith("the best mixture has the error 0.05")


def test_a_command_says_when_its_target_is_another() -> None:
    knn = ContextSpec("knn", 7)
    both = mixed("convolve", knn, LABELS)
    commands = commands_of([row(s, "moderate", 1.0, 0.1) for s in (knn, LABELS)], "y")
    for spec in (LABELS, both):
        note = commands.note(spec)
        assert note is not None
        assert 'is the column "site"' in note
        assert note.endswith('not of "y"')
    assert commands.note(knn) is None
    assert commands._replace(target=None).note(both) is None
    # A command corrupts numbers, where the run has quantiles of them.
    drawn = NamedContext("scarf-0.3", lambda: knn, "scarf", {"rate": 0.3})  # pyright: ignore
    told = commands.note(drawn)
    assert told is not None
    assert "four quantiles" in told
    rows = [
        row(knn, "moderate", 3.0, 0.2, std=0.01),
        row(LABELS, "moderate", 2.0, 0.1, std=0.01),
    ]
    for words in advice(commands_of(rows, "y"), TABLE, rows, (0.4, 0.01)):
        assert "(its --target is the column" in words


def test_what_tau_cannot_tell_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    knn = [ContextSpec("knn", k) for k in range(2, 30)]
    bounds = {"tau_lower": 1.4, "tau_upper": 1.6}
    exact = {"tau_lower": 1.5, "tau_upper": 1.5}
    rows = [row(s, "moderate", 2.0, 0.3, **exact) for s in knn[:18]]
    rows[0] = row(knn[0], "moderate", 2.0, 0.3, **bounds)
    rows[1] = rows[1]._replace(tau=1.9, tau_lower=1.9, tau_upper=1.9, energy_dim=None)
    infinite = dict.fromkeys(("tau", "tau_lower", "tau_upper"), np.inf)
    rows += [row(s, "too strong", 9.0, 0.5, **infinite) for s in knn[18:]]
    rows.append(row(ContextSpec("rbf", 1.0), "too weak", 0.1, 0.01, **bounds))
    rows.append(row(mixed("join", *knn[:2]), "too weak", 0.1, 0.9, **exact))
    params: Any = rows[-1].spec.params
    params["num_draws"] = 400
    options = RankOptions("d.csv", max_dim=64)
    specs = [one.spec for one in rows]
    d = describe(options, TABLE, Beside({}, {}, []), specs, rows, {}, {})
    json.dumps(d, allow_nan=False)
    told = {one["name"]: one for one in d["contexts"]}
    assert told["knn-20"]["infinite"] == ["tau", "tau_lower", "tau_upper"]
    assert told["knn-20"]["tau"] is None
    assert (told["knn-2"]["ties"], told["knn-3"]["ties"]) == (16, 0)
    assert told["knn-20"]["ties"] is None
    assert d["associations"] == {"moderate": 18, "too strong": 10, "too weak": 1}
    assert d["mixed_associations"] == {"too weak": 1}
    print_ranking(d, [])
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    shown = [w for w in lines if len(w) > 8 and w[1][:4] in ("knn-", "rbf-")]
    assert len(shown) == 15
    assert [words[0] for words in shown] == 10 * ["1="] + 5 * ["abstains"]
    assert (shown[10][1], shown[11][2:4]) == ("rbf-1", ["inf", "inf–inf"])
    text = " ".join(out.split())
    assert "abstains 12 of 30 contexts" in text
    assert "ties 17 of 18 places" in text
    assert "1 too weak; of mixtures 1 too weak; complete" in text
    few = [told["knn-3"], told["knn-20"]]
    assert "drawn" not in text
    print_ranking(d | {"contexts": [*few, told[rows[-1].spec.name]]}, [])
    text = " ".join(capsys.readouterr().out.split())
    assert " 1 >64 2 " in text
    assert "1.5–1.5*" in text
    assert "d of energy >64: of more functions than --max-dim 64 is 90% of χ²" in text


def test_without_a_target_contexts_are_in_order_of_tau(tmp_path: Path) -> None:
    found = rank(tmp_path / "o", "--settings", 4)
    told = [c for c in found["contexts"] if not c["abstains"]]
    others = found["contexts"][len(told) :]
    assert [c["tau"] for c in told] == sorted(c["tau"] for c in told)
    assert all(c["abstains"] and c["place"] is None for c in others)
    assert (told[0]["place"], found["pearson"], told[0]["error"]) == (1, None, None)
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"rank.json", "tau_columns.png", "association_columns.png"}


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
    assert_same(rank(out, *arguments, "--resume"), whole)
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
    assert_same(found, whole)
