"""`contexture predict`: what it writes, and what it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from contexture_jax.cli import main
from contexture_jax.cli._predict_report import FIT_ENDS
from contexture_jax.data import load_features
from contexture_jax.prediction import FitStatus
from tests.data.helpers import write

ROWS = "".join(f"{i % 7},{i % 5},{'uv'[i % 2]},{i * 1.5}\n" for i in range(20))
GOOD = "a,b,y,z\n" + ROWS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ("--target", "column to predict")),
        (["--target", "y", "--labelled", "1.5"], ("--labelled", "below 1", "'1.5'")),
        (["--target", "y", "--labelled", "0"], ("--labelled", "above 0", "'0'")),
        (["--target", "y", "--labelled", "0.02"], ("is 0 rows", "2 classes", "0.1 or")),
        (["--target", "z", "--labelled", "0.06"], ("is 1 row", "2 rows", "0.1 or")),
        (["--target", "y", "--labelled", "0.99"], ("is all of them",)),
        (["--target", "y", "--context", "labels"], ("--context", "'knn'")),
        (["--target", "y", "--context", "cnn"], ("--context", "'cnn'")),
        (["--target", "y", "--splits", "0"], ("--splits", "at least 1")),
        (["--target", "y", "--rank", "20"], ("--rank 20", "19 singular values")),
        (["--target", "q"], ('no column "q"',)),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, capsys, options, words) -> None:
    path = write(tmp_path, GOOD)
    refused(tmp_path, capsys, [path, *options], words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,y\n" + "1,u\n2,\n" * 5, ('"y"', "same value in all 5 rows")),
        ("a,y\n" + "1,nan\n2,\n" * 5, ('"y"', "every cell is missing")),
        ("a,y\n1,u\n2,v\n3,\n", ("2 rows", "one more to measure")),
    ],
)
def test_targets_that_do_not_fit_are_refused(tmp_path, capsys, text, words) -> None:
    refused(tmp_path, capsys, [write(tmp_path, text), "--target", "y"], words)


def refused(tmp_path: Path, capsys, arguments, words) -> None:
    out = tmp_path / "out"
    assert main(["predict", *map(str, arguments), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("contexture: error: ")
    assert printed.err.count("\n") == 1, printed.err
    for word in words:
        assert word in printed.err
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_rows_without_a_target_are_kept_where_they_are_asked_for(tmp_path) -> None:
    path = write(tmp_path, "a,y,z\n1,u,2.5\n2,,\n3,v,3.5\n4,u,4\n")
    table = load_features(path, target="y", drop=["z"], unlabelled=True)
    assert table.target is not None
    assert table.target.values.tolist() == [0, -1, 1, 0]
    assert table.rows.tolist() == [0, 1, 2, 3]
    assert any('1 row without a value of "y" to predict' in n for n in table.notes)
    numbers = load_features(path, target="z", drop=["y"], unlabelled=True).target
    assert numbers is not None
    np.testing.assert_array_equal(numbers.values, [2.5, np.nan, 3.5, 4.0])
    assert len(load_features(path, target="y", drop=["z"]).rows) == 3


def test_every_end_of_a_fit_is_told_in_words_of_the_command() -> None:
    assert FIT_ENDS.keys() | {"converged"} == {str(status) for status in FitStatus}
    # Parameters of the library are none of its own.
    assert not any(
        "max_iterations" in told or "tol" in told for told in FIT_ENDS.values()
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_empty_cells_of_a_graph_are_predicted_by_all_labels(tmp_path) -> None:
    rng, team = np.random.default_rng(0), np.arange(40) % 2
    edges = rng.random((40, 40)) < np.where(team[:, None] == team, 0.4, 0.04)
    weights = np.triu(edges, 1) + np.triu(edges, 1).T
    lines = [
        ",".join([*map(str, row.astype(int)), "" if i % 8 == 0 else "rb"[team[i]]])
        for i, row in enumerate(weights)
    ]
    names = ",".join([f"v{i}" for i in range(40)] + ["team"])
    path = write(tmp_path, "\n".join([names, *lines]) + "\n")
    out = tmp_path / "out"
    options = ["--target", "team", "--context", "graph", "--rank", "4", "--quiet"]
    options += ["--labelled", "0.8", "--splits", "1", "--out", str(out)]
    assert main(["predict", str(path), *options]) == 0
    told = json.loads((out / "predict.json").read_text(encoding="utf-8"))
    assert (told["num_known"], told["num_labelled"]) == (35, 28)
    assert {"STKR", "ridge", "logistic", "Zhou", "Zhu"} < set(told["predictors"])
    best = told["predictors"][told["best"]]
    assert best["error"] == np.mean(best["errors"]) < 0.1
    forecast = told["forecast"]
    assert forecast["num_samples"] == [28]
    assert len(forecast["forecast"]) == len(forecast["measured"])
    rows = rows_of(out / "predictions.csv")
    assert [int(row["row"]) for row in rows] == list(range(0, 40, 8))
    assert [row["prediction"] for row in rows] == ["r"] * 5
    assert all(row["prediction"] == row[told["best"]] for row in rows)
    assert (out / "learning_curve.png").stat().st_size > 10_000


def test_numbers_far_from_0_keep_their_digits(tmp_path) -> None:
    x = np.linspace(0, 1, 60)
    lines = [f"{v},{v * v},{float(2460000.5 + 1e-3 * v)!r}" for v in x]
    path = write(tmp_path, "\n".join(["a,b,day", *lines]) + "\n")
    options = ["--target", "day", "--rank", "6", "--quiet", "--no-plots"]
    options += ["--labelled", "0.8", "--splits", "1", "--dtype", "float64"]
    assert main(["predict", str(path), *options, "--out", str(tmp_path / "o")]) == 0
    rows = rows_of(tmp_path / "o" / "predictions.csv")
    numbers = np.array([int(row["row"]) for row in rows])
    truth = np.array([float(row["truth"]) for row in rows])
    guess = np.array([float(row["prediction"]) for row in rows])
    np.testing.assert_allclose(truth - 2460000.5, 1e-3 * x[numbers], atol=2e-9)
    assert np.abs(guess - truth).max() < 5e-4
    assert np.ptp(guess) > 5e-4


@pytest.mark.slow
def test_of_numbers_the_rows_of_the_first_split_are_told_in_their_unit(
    tmp_path,
) -> None:
    x = np.linspace(0, 1, 60)
    lines = [f"{v},{v * v},{1e6 + 1e3 * v}" for v in x]
    path = write(tmp_path, "\n".join(["a,b,price", *lines]) + "\n")
    out = tmp_path / "out"
    options = ["--target", "price", "--rank", "6", "--quiet", "--no-plots"]
    options += ["--labelled", "0.8", "--splits", "1", "--out", str(out)]
    assert main(["predict", str(path), *options]) == 0
    told = json.loads((out / "predict.json").read_text(encoding="utf-8"))
    assert told["predictions"]["num_rows"] == 60 - 48
    rows = rows_of(out / "predictions.csv")
    truth = np.array([float(row["truth"]) for row in rows])
    guess = np.array([float(row["prediction"]) for row in rows])
    numbers = [int(row["row"]) for row in rows]
    np.testing.assert_allclose(truth, 1e6 + 1e3 * x[numbers], atol=1e-2)
    spread = np.var(1e6 + 1e3 * x)
    error = np.mean((guess - truth) ** 2) / spread
    assert error == pytest.approx(told["predictors"][told["best"]]["error"], rel=1e-2)
    assert error < 0.2
