"""What was learned, at rows of new data: by the encoding of the old ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.cli import main

RNG = np.random.default_rng(0)
HEADER = "size,colour,weight,kind"


def rows(count: int) -> list[list[str]]:
    x = RNG.normal(size=(count, 2))
    return [
        [f"{a:.3f}", "red" if a > 0 else "blue", f"{b:.3f}", "k" if b > 0 else ""]
        for a, b in x
    ]


def write(path: Path, table: list[list[str]], header: str = HEADER) -> Path:
    lines = [header, *(",".join(row) for row in table)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    folder = tmp_path_factory.mktemp("embed")
    table = rows(40)
    data = write(folder / "old.csv", table)
    options = "--num-neighbors 8 --rank 2 --steps 5 --batch-size 16 --hidden 8 --quiet"
    out = ["--no-plots", "--out", str(folder / "out")]
    assert main(["train", str(data), *options.split(), *out]) == 0
    return folder, table


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_model(tmp_path_factory.mktemp("untrained"), "features")


def a_model(folder: Path, takes: str | None) -> Path:
    """A model of the same columns whose functions nobody looks at."""
    (folder / "out").mkdir()
    table = cx.data.load_features(write(folder / "old.csv", rows(40)))
    x = table.features.astype(np.float32)
    no_function: Any = None
    nothing = cx.learning.Functions(
        "psi",
        cx.learning.Tower(None, no_function, None),
        np.zeros(2, np.float32),
        np.eye(2, dtype=np.float32),
        cx.contexts.knn(x, 3),
        x[:, :2],
    )
    columns = [encoding._asdict() for encoding in table.encodings]
    cx.learning.Learned(np.ones(2), x[:, :2], nothing).save(
        folder / "out" / "model.npz",
        preprocessing=takes and {"takes": takes, "columns": columns},
    )
    return folder


def embed(folder: Path, data: Path) -> int:
    model = str(folder / "out" / "model.npz")
    out = ["--out", str(folder / "new.npy"), "--quiet"]
    return main(["embed", model, str(data), *out])


@pytest.mark.slow
def test_rows_that_were_learned_from_get_their_functions(
    trained: tuple[Path, list[list[str]]],
) -> None:
    folder, table = trained
    # Two of them, in another order of columns and beside another one.
    some = [[row[3], "1", *row[2::-1]] for row in table[:2]]
    data = write(folder / "new.csv", some, "kind,extra,weight,colour,size")
    assert embed(folder, data) == 0
    with np.load(folder / "out" / "train.npz") as held:
        expected = held["learned_left"][:2]
    np.testing.assert_allclose(np.load(folder / "new.npy"), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (HEADER.replace("size", "sise"), "1,red,2,k", 'no column "size" (did you mean'),
        (
            HEADER,
            "1,green,2,k",
            'holds "green" on line 2; what was learned knows blue,',
        ),
        (HEADER, "big,red,2,k", 'column "size" of'),
    ],
)
def test_rows_of_another_kind_are_refused_in_one_line(
    untrained: Path,
    capsys: pytest.CaptureFixture[str],
    header: str,
    row: str,
    message: str,
) -> None:
    data = write(untrained / "bad.csv", [row.split(",")], header)
    assert embed(untrained, data) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_models_that_are_none_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    data = write(tmp_path / "new.csv", rows(2))
    assert embed(tmp_path, data) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "out" / "model.npz").write_bytes(b"none")
    assert embed(tmp_path, data) == 2
    err = capsys.readouterr().err
    assert "is no file that Learned.save wrote" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("takes", ["numbered rows", "classes"])
def test_a_model_without_features_says_which_models_have_functions_at_new_rows(
    takes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "new.csv", rows(2))
    assert embed(a_model(tmp_path, takes), data) == 2
    err = capsys.readouterr().err
    assert f"is not of features, but of {takes}" in err
    assert "expected one of contexture train --context knn, rbf or teacher" in err
    assert err.count("\n") == 1


def test_a_model_without_preprocessing_says_that_this_is_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "new.csv", rows(2))
    assert embed(a_model(tmp_path, None), data) == 2
    err = capsys.readouterr().err
    assert "does not say how columns become features" in err
    assert "transform(x) takes arrays" in err
    assert err.count("\n") == 1


def test_an_encoding_gives_the_features_of_its_own_table(tmp_path: Path) -> None:
    data = write(tmp_path / "old.csv", rows(30))
    table = cx.data.load_features(data)
    again = cx.data.load_like(data, table.encodings)
    np.testing.assert_array_equal(again.features, table.features)
    assert again.feature_names == table.feature_names
