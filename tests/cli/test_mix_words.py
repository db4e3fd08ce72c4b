"""Mixtures that a file says: what they are, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax.cli import _main, main
from contexture_jax.cli._contexts import load
from contexture_jax.cli._mixes import build, plan
from contexture_jax.cli._train_options import TrainOptions
from tests.tolerances import tol

TWO = '"contexts": ["knn", "rbf"]'
NESTED = {
    "weights": [0.25, 0.5, 0.25],
    "contexts": [
        {"context": "knn", "num_neighbors": 5},
        {"context": "knn", "num_neighbors": 40},
        {
            "mix": "convolve",
            "contexts": [{"context": "rbf", "gamma": "auto"}, "labels"],
        },
    ],
}


def given(tmp_path: Path, held: Any, *more: str) -> list[str]:
    path = tmp_path / "mix.json"
    path.write_text(held if isinstance(held, str) else json.dumps(held))
    told = ["train", "wine", "--target", "target", "--mix", str(path), "--quiet"]
    return [*told, "--out", str(tmp_path / "out"), *more]


def said(tmp_path: Path, held: Any) -> TrainOptions:
    arguments = vars(_main._parser().parse_args(given(tmp_path, held)))
    del arguments["command"]
    return TrainOptions(**arguments)


def test_each_context_of_a_file_has_its_own_options(tmp_path: Path) -> None:
    options = said(tmp_path, NESTED)
    recipe = plan(options, load(options))
    assert recipe.name == "knn+knn+(rbf+labels)"
    assert recipe.params == {
        "mix": "convex",
        "weights": (0.25, 0.5, 0.25),
        "contexts": [
            {"context": "knn", "num_neighbors": 5},
            {"context": "knn", "num_neighbors": 40},
            {
                "mix": "convolve",
                "contexts": [
                    {"context": "rbf", "gamma": pytest.approx(1 / 13)},
                    {"context": "labels", "num_classes": 3},
                ],
            },
        ],
    }


def test_the_operator_has_the_weights_that_were_said_or_found(tmp_path: Path) -> None:
    parts = [{"context": "knn", "num_neighbors": k} for k in (5, 40)]
    options = said(tmp_path, {"weights": [0.25, 0.75], "contexts": parts})
    table = load(options)
    built = build(options, plan(options, table), table)
    np.testing.assert_array_equal(built.context.weights, [0.25, 0.75])
    assert built.a is None  # any loss knows it
    for weights in (None, [0.5, 0.5]):
        op = built.operator_at(weights)
        np.testing.assert_array_equal(op.weights, weights or [0.25, 0.75])


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ('{"mix": "blend", ' + TWO + "}", 'convolve, compose, join; got "blend"'),
        ('{"contexts": ["knn"]}', 'expected a list of two or more; got ["knn"]'),
        ('{"contexts": ["knn", "tea"]}', "contexts[1]: context: expected one of knn,"),
        ('{"contexts": ["knn", {"gamma": 1}]}', "teacher, scarf; got null"),
        (
            '{"contexts": ["knn", {"context": "rbf", "num_neighbors": 3}]}',
            "contexts[1]: 'num_neighbors' is no key here; expected context, gamma",
        ),
        (
            '{"contexts": [{"context": "knn", "num_neighbors": "7"}, "rbf"]}',
            "contexts[0]: num_neighbors: expected an integer of at least 1; got",
        ),
        ('{"weigths": [1, 0], ' + TWO + "}", "expected mix, weights, contexts"),
        ('{"weights": [0.5, 0.6], ' + TWO + "}", "weights: expected weights that sum"),
        ('{"weights": [1], ' + TWO + "}", "1 weight for 2 contexts; expected one for"),
        ('{"weights": [2, -1], ' + TWO + "}", "at least 0; got '-1'"),
        ('{"weights": 0.5, ' + TWO + "}", 'list of numbers, or "minmax" of convex'),
        ('{"mix": "join", "weights": [1, 0], ' + TWO + "}", "join takes no weights"),
        ('{"mix": "mixture", "weights": "minmax", ' + TWO + "}", "minmax is of convex"),
        (
            '{"contexts": ["knn", {"mix": "join", ' + TWO + "}]}",
            "contexts[1]: mix: expected one of convex, mixture, convolve, compose; got",
        ),
        (
            '{"contexts": ["knn", {"contexts": ["teacher", "knn"]}]}',
            "contexts[1]: contexts[0]: context: expected one of knn, rbf, labels; got",
        ),
        (
            '{"contexts": ["knn", {"weights": "minmax", ' + TWO + "}]}",
            "contexts[1]: weights: minmax is of the outermost mixture",
        ),
        ("{" + TWO, "cannot be read: no JSON: Expecting"),
        ('{"mix": "convex", "mix": "join", ' + TWO + "}", "a key stands twice among"),
        ("[]", "expected an object with mix, weights, contexts; got []"),
    ],
)
def test_files_that_say_no_mixture_are_refused_in_one_line(
    tmp_path: Path, capsys, held: str, words: str
) -> None:
    assert main(given(tmp_path, held)) == 2
    err = capsys.readouterr().err
    assert 'mix.json": ' in err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--gamma", "2"], "--gamma 2.0 beside --mix FILE, which says"),
        (["--context", "rbf"], "--context rbf beside --mix FILE, which says"),
        (["--loss", "vicreg", "--mix", "none.json"], '"none.json": cannot be read: No'),
    ],
)
def test_options_do_not_stand_beside_a_file(
    tmp_path: Path, capsys, more: list[str], words: str
) -> None:
    assert main(given(tmp_path, NESTED, *more)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_of_mixtures_is_learned_beside_its_exact_spectrum(
    tmp_path: Path,
) -> None:
    nested = NESTED | {"weights": "minmax", "contexts": NESTED["contexts"][1:]}
    small = ["--hidden", "32", "--batch-size", "64", "--output", "16", "--no-plots"]
    more = ["--rank", "2", "--steps", "40", *small]
    assert main(given(tmp_path, nested, *more)) == 0
    report = json.loads((tmp_path / "out" / "train.json").read_text(encoding="utf-8"))
    learned = np.array(report["learned_singular_values"])
    known = np.array(report["exact_singular_values"])
    assert (learned <= known + tol(np.float32)).all()
    assert report["ratio_trace"] > report["nulls"]["ratio_trace"]
    assert len(report["weights"]) == 2
