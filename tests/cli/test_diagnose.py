"""`contexture diagnose`: its files, its answers, and what it refuses."""

import json

import numpy as np
import pytest

from contexture_jax.cli import main
from contexture_jax.cli._diagnose import KNOWN
from contexture_jax.evaluation import MEASURES

RNG = np.random.default_rng(0)
N = 60
DATA = RNG.normal(size=(N, 3))
CLASSES = (DATA[:, 0] > 0).astype(int)


def written(tmp_path, **arrays):
    for name, x in arrays.items():
        np.save(tmp_path / f"{name}.npy", x)
    lines = [
        "a,b,c,y",
        *(f"{a},{b},{c},k{k}" for (a, b, c), k in zip(DATA, CLASSES, strict=True)),
    ]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")


def refused(capsys, tmp_path, *arguments):
    status = main(["diagnose", *map(str, arguments), "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(lines) == 1, lines
    assert not (tmp_path / "out").exists()
    return lines[0]


@pytest.mark.slow
def test_copies_stand_together_and_the_context_of_an_embedding_comes_first(
    tmp_path, capsys
):
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    codes = np.eye(2)[CLASSES] + 1e-3 * RNG.normal(size=(N, 2))
    noise = RNG.normal(size=(N, 3))
    written(tmp_path, raw=DATA, noise=noise, turned=5 * DATA @ turn + 1, codes=codes)
    names = ("raw", "noise", "turned", "codes")
    files = [str(tmp_path / f"{name}.npy") for name in names]
    options = ["--context-of", str(tmp_path / "data.csv"), "--target", "y"]
    options += ["--permutations", "19", "--measures", "cca,mutual_knn"]
    out = tmp_path / "out"
    assert main(["diagnose", *files, *options, "--out", str(out)]) == 0
    found = json.loads((out / "diagnose.json").read_text())
    cca = found["measures"]["cca"]
    assert cca["value"][0][2] == pytest.approx(1, abs=1e-4)
    assert cca["p_value"][0][2] == pytest.approx(0.05)
    assert abs(found["order"].index(0) - found["order"].index(2)) == 1
    best = {name: rows[0]["context"] for name, rows in found["contexts"].items()}
    assert best["codes"] == "labels"
    assert best["raw"] == best["turned"] == "teacher"
    told = found["target_told"]
    assert told["codes"]["probe"]["value"] > 0.95 > told["noise"]["probe"]["value"]
    assert told["codes"]["neighbor_purity"]["p_value"] == pytest.approx(0.05)
    assert (out / "models.png").stat().st_size > 1000
    assert "raw | turned" in capsys.readouterr().out


@pytest.mark.slow
def test_contexts_of_the_user_are_ranked_by_what_made_the_embedding(tmp_path, capsys):
    ring = np.arange(N)
    edges = (abs(ring[:, None] - ring[None, :]) % (N - 2) <= 2).astype(float)
    waves = [f(2 * np.pi * k * ring / N) for k in (1, 2) for f in (np.sin, np.cos)]
    around = np.column_stack(waves) + 0.01 * RNG.normal(size=(N, 4))
    counts = RNG.poisson(3 * np.eye(4)[ring % 4] + 0.1)
    written(tmp_path, around=around, counts=counts, edges=edges, z=DATA[:, :2])
    files = {k: tmp_path / f"{k}.npy" for k in ("around", "counts", "edges", "z")}
    # Each is a program of its own to compile, for each width of embeddings.
    told = [f"graph={files['edges']}", f"joint={files['counts']}", "column=a"]
    options = ["--permutations", "19", "--measures", "cca", "--no-plots"]
    options += [word for one in told for word in ("--against", one)]
    data = ["--context-of", str(tmp_path / "data.csv"), "--target", "y"]
    out = tmp_path / "out"
    embeddings = [str(files["around"]), str(files["counts"])]
    assert main(["diagnose", *embeddings, *options, *data, "--out", str(out)]) == 0
    found = json.loads((out / "diagnose.json").read_text())["contexts"]
    assert {row["context"] for row in found["around"]} == set(told)
    best = [found[name][0]["context"] for name in ("around", "counts")]
    assert best == told[:2]
    # Files alone need no table.
    out = tmp_path / "alone"
    options = options[:7]
    assert main(["diagnose", *embeddings[:1], *options, "--out", str(out)]) == 0
    assert "knows" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path, capsys):
    nan = DATA.copy()
    nan[4, 1] = np.nan
    written(tmp_path, a=DATA, short=DATA[1:], nan=nan, one=np.ones((N, 2)))
    assert set(KNOWN) == set(MEASURES)
    a, data = tmp_path / "a.npy", tmp_path / "data.csv"
    assert "59 rows" in refused(capsys, tmp_path, a, tmp_path / "short.npy")
    assert "expected finite numbers" in refused(capsys, tmp_path, tmp_path / "nan.npy")
    assert "again and again" in refused(capsys, tmp_path, a, tmp_path / "one.npy")
    short = tmp_path / "short.npy"
    assert "same order" in refused(capsys, tmp_path, short, "--context-of", data)
    assert "--context-of" in refused(capsys, tmp_path, a, "--target", "y")
    assert "no such file" in refused(capsys, tmp_path, tmp_path / "none.npy")
    assert "expected some of" in refused(capsys, tmp_path, a, "--measures", "cosine")
    assert "at least 20" in refused(capsys, tmp_path, a, "--max-rows", "19")
    one = "--against", "knn:4"
    assert "--context-of" in refused(capsys, tmp_path, a, *one)
    for word in ("tree", "knn:0", "rbf:x", "graph=", "none.json"):
        assert "--against" in refused(capsys, tmp_path, a, "--against", word)
    options = "--context-of", data, "--against", "column=d"
    assert "expected one of" in refused(capsys, tmp_path, a, *options)
    # --drop is of DATA.
    options = "--against", f"joint={data}"
    assert "a copy of the file" in refused(capsys, tmp_path, a, *options)
    lines = data.read_text().replace("k0", "k1")
    data.write_text(lines)
    options = "--context-of", data, "--target", "y"
    assert "y" in refused(capsys, tmp_path, a, *options)
    assert "text" in refused(capsys, tmp_path, data)
