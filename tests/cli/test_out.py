"""`--out` that cannot be used: refused by each command before any work."""

import json
from pathlib import Path

import pytest

from contexture_jax.cli import _train, main

KEPT = {"spectrum": "solve", "rank": "rank", "train": "run"}


@pytest.mark.parametrize("command", KEPT)
def test_out_that_cannot_be_used_is_refused_before_data_are_read(
    tmp_path: Path, capsys, command: str
) -> None:
    (tmp_path / "json" / f"{command}.json").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / KEPT[command]).write_text("")
    (tmp_path / "own" / KEPT[command]).mkdir(parents=True)
    (tmp_path / "own" / KEPT[command] / "a.txt").write_text("")
    (tmp_path / "file").write_text("")
    for out, words in (
        ("", "--out is empty; expected the name of a directory"),
        ("json", f'json" holds a directory {command}.json, where a file'),
        ("kept", f'kept/{KEPT[command]}" is a file; expected the name of a directory'),
        ("own", f'own/{KEPT[command]}" holds "a.txt" but no settings.json that'),
        ("file", 'file" is a file; expected the name of a directory'),
        ("file/deeper", 'file/deeper" cannot be made: "'),
    ):
        path = str(tmp_path / out) if out else out
        told = [command, str(tmp_path / "none.csv"), "--out", path]
        assert main(told) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_a_run_that_is_there_is_told_before_contexts_are_made(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(_train, "build")
    run = tmp_path / "run"
    (run / "checkpoints" / "50").mkdir(parents=True)
    (run / "settings.json").write_text(json.dumps({"loss": "svme"}))
    told = ["train", "wine", "--target", "target", "--quiet", "--out", str(tmp_path)]
    assert main(told) == 2
    assert "holds a run already; expected --resume" in capsys.readouterr().err
    assert main([*told, "--resume"]) == 2
    assert "holds another run: " in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
