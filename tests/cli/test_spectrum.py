"""The command from data to files: figures, contents, strictness, exit statuses."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.cli import _report, _spectrum, main
from contexture_jax.cli.session import kept_programs, precision
from contexture_jax.data._features import load_features
from contexture_jax.evaluation import _judgement
from tests import oracle
from tests.cli.helpers import run
from tests.data.helpers import write
from tests.tolerances import promised, tol

F32, F64 = np.float32, np.float64
PICTURES = {"spectrum.png", "tau.png", "functions.png", "energy.png"}
PNG = b"\x89PNG\r\n\x1a\n"


def mixed_csv(num_rows=24):
    """Numbers and categories, two missing cells each, and a target of numbers."""
    rng = np.random.default_rng(7)
    size = rng.normal(size=num_rows)
    lines = ["size,colour,weight,price"]
    for i, s in enumerate(size):
        colour = ["red", "green", "blue"][i % 3] if i not in (4, 9) else "?"
        weight = f"{s + 0.1 * rng.normal():.4f}" if i not in (2, 3) else ""
        lines.append(f"{s:.4f},{colour},{weight},{10 * s + 0.25:.3f}")
    return "\n".join(lines) + "\n"


def strict(path):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def user_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def wine(tmp_path_factory, user_cache):
    out = tmp_path_factory.mktemp("wine") / "out"
    arguments = ["spectrum", "wine", "--context", "knn", "--num-neighbors", "30"]
    arguments += ["--rank", "8", "--target", "target", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "contexture_jax.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("JAX_COMP")},
            "XDG_CACHE_HOME": str(user_cache),
            "JAX_ENABLE_COMPILATION_CACHE": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_compiled_programs_are_kept_for_the_next_run(wine, user_cache):
    del wine
    kept = list(user_cache.glob("contexture_jax/programs/*/*"))
    assert any(path.stat().st_size for path in kept)


@pytest.mark.parametrize(
    ("chosen", "enabled", "changes"),
    [(None, True, True), ("elsewhere", True, False), (None, False, False)],
)
def test_a_cache_of_the_callers_choice_stays(
    chosen, enabled, changes, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = "jax_compilation_cache_dir"
    wanted = {
        cache: chosen,
        "jax_enable_compilation_cache": enabled,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    try:
        with kept_programs():
            inside = getattr(jax.config, cache)
        assert (inside != chosen) == changes
        assert getattr(jax.config, cache) == chosen
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    path = write(folder, mixed_csv())
    options = ["--num-neighbors", "5", "--rank", "4", "--target", "price", "--quiet"]
    out = folder / "out"
    assert main(["spectrum", str(path), *options, "--out", str(out)]) == 0
    return out


def test_wine_writes_all_files_and_nothing_else(wine):
    out, _ = wine
    names = {path.name for path in out.iterdir()}
    assert names == PICTURES | {"spectrum.json", "spectrum.npz"}
    assert all((out / name).read_bytes().startswith(PNG) for name in PICTURES)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_wine_has_the_spectrum_of_its_neighbour_graph(wine):
    x = load_features("wine").features
    distances = ((x[:, None, :] - x[None, :, :]) ** 2).sum(axis=2)
    table = np.zeros((178, 178))
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :30]
    np.put_along_axis(table, nearest, 1.0, axis=1)
    values = strict(wine[0] / "spectrum.json")["singular_values"]
    np.testing.assert_allclose(
        values, oracle.singular_values(table)[:8], atol=promised(F32), rtol=0
    )


def test_wine_is_described(wine):
    description = strict(wine[0] / "spectrum.json")
    assert description["status"] == "converged"
    assert description["num_rows"] == 178
    assert description["num_features"] == 13
    assert description["context"] == "knn"
    assert description["params"] == {"num_neighbors": 30}
    assert description["dtype"] == "float32"
    assert description["version"] == cx.__version__
    assert description["verdict"] == "moderate"
    assert description["reason"]
    stages = {"read", "context", "spectrum", "judge", "pictures", "total"}
    assert set(description["seconds"]) == stages
    values = np.array(description["singular_values"])
    energy, slack = values**2, tol(F32, factor=100)
    curve = 1 / (1 - energy[1:]) + np.cumsum(energy[:-1]) / energy[:-1].sum()
    assert abs(description["tau"] - curve.min()) < slack
    assert description["best_dim"] == np.argmin(curve) + 1
    share = np.cumsum(energy) / description["total_energy"]
    kept = int((share < 0.9).sum()) + 1
    assert description["energy_dim"] == (kept if kept <= len(share) else None)
    # A small table: all of its values are known to the judge.
    assert description["tau_lower"] == description["tau_upper"] < description["tau"]
    rates = description["decay_rate"] + np.array([-0.01, 0, 0.01])
    fits = np.exp(-rates[:, None] * np.arange(1, 9))
    assert np.argmin(((fits - energy) ** 2).sum(axis=1)) == 1
    head = float(energy.sum())
    assert abs(head + description["tail_energy"] - description["total_energy"]) < slack
    assert 0 <= description["compatibility"] <= values[0] + slack
    assert set(description["class_compatibility"]) == {"class_0", "class_1", "class_2"}
    assert 0.8 < sum(description["target_energy"]) <= 1


def test_wine_has_a_numerical_certificate_and_no_sampling(wine):
    description = strict(wine[0] / "spectrum.json")
    values, certificate = description["singular_values"], description["certificate"]
    for ends in ("lower", "upper", "upper_if_none_missed", "leading_sines"):
        assert len(certificate[ends]) == 8
    slack = tol(F32, factor=100)
    for low, value, high in zip(
        certificate["lower"], values, certificate["upper"], strict=True
    ):
        assert low <= value <= high
    assert certificate["next_upper"] <= 1.1 * values[-1]
    assert certificate["clusters"][0]["first"] == 1
    assert certificate["clusters"][-1]["last"] == 8
    assert sum(c["multiplicity"] for c in certificate["clusters"]) == 8
    assert 0 < certificate["rounding"] < slack
    assert description["sampling"] is None
    assert "numerical bounds" in wine[1].stdout


@pytest.mark.slow
def test_bootstrap_of_a_table_of_counts(tmp_path, capsys):
    """Greenacre's staff and smoking: 193 pairs whose χ² of 16.4 has p = 0.17."""
    rows = ["4,2,3,2", "4,3,7,4", "25,10,12,4", "18,24,33,13", "10,6,7,2", "0,0,0,0"]
    path = write(tmp_path, "\n".join(["none,light,medium,heavy", *rows]) + "\n")
    options = ["--context", "joint", "--bootstrap", "60", "--out", tmp_path / "out"]
    ran = run(capsys, path, *options)
    assert ran.status == 0, ran.err
    sampling = strict(tmp_path / "out" / "spectrum.json")["sampling"]
    assert sampling["num_pairs"] == 193
    assert sampling["num_replicates"] == 60
    np.testing.assert_allclose(sampling["independence_bias"], 12 / 192)
    assert sampling["lower"][0] <= sampling["estimate"][0] <= sampling["upper"][0]
    assert sampling["band_lower"][0] < 0.2734 < sampling["band_upper"][0]
    assert 0.02 < sampling["total_p_value"] < 0.45
    assert len(sampling["p_values"]) == 3
    assert sampling["tau_lower"] < sampling["tau_upper"]
    assert "90% intervals" in ran.out
    assert "193 pairs" in ran.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("a,b\n1,2\n0.5,3\n", ["--context", "joint"], "takes a table that counts"),
        ("a,b\n1,2\n4,3\n", [], "--bootstrap goes with --context joint"),
        ("a,b\n1,2\n4,3\n", ["--context", "joint", "--bootstrap", "1"], "at least 2"),
    ],
)
def test_a_table_that_is_no_sample_is_refused(
    tmp_path, capsys, table, options, message
):
    path = write(tmp_path, table)
    ran = run(capsys, path, "--bootstrap", "9", *options, "--out", tmp_path / "out")
    assert ran.status == 2
    assert message in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_wine_functions_are_orthonormal(wine):
    arrays = np.load(wine[0] / "spectrum.npz", allow_pickle=False)
    assert arrays["singular_values"].shape == (8,)
    slack = tol(F32, factor=100)
    for side, law in (("left", "p_x"), ("right", "p_a")):
        functions, weights = arrays[side], arrays[law]
        assert functions.shape == (178, 8)
        assert functions.dtype == F32
        gram = functions.T @ (weights[:, None] * functions)
        np.testing.assert_allclose(gram, np.eye(8), atol=slack)
        np.testing.assert_allclose(weights @ functions, 0, atol=slack)
    np.testing.assert_array_equal(arrays["rows"], np.arange(178))


def test_wine_prints_a_table_and_a_line_a_stage(wine):
    out, done = wine
    for word in ("178 rows", "knn", "converged", "τ", "χ²", "verdict", "target"):
        assert word in done.stdout
    for path in out.iterdir():
        assert str(path) in done.stdout
    stages = [line.split()[0] for line in done.stderr.splitlines()]
    assert stages == ["read", "context", "spectrum", "judge", "pictures"]


@pytest.mark.slow
def test_categories_and_missing_cells_are_taken(mixed):
    description = strict(mixed / "spectrum.json")
    assert description["num_rows"] == 24
    assert description["num_columns"] == 3
    assert description["num_features"] == 6  # two numbers, three colours, missing
    assert description["target_kind"] == "numbers"
    assert len(description["target_energy"]) == 4
    notes = " ".join(description["notes"])
    assert "2 missing numbers" in notes
    assert "weight" in notes
    assert "2 missing texts" in notes
    assert "colour" in notes


def test_a_target_of_numbers_is_judged_as_the_library_does(mixed, tmp_path):
    description = strict(mixed / "spectrum.json")
    arrays = np.load(mixed / "spectrum.npz")
    price = np.array([float(row.split(",")[-1]) for row in mixed_csv().split()[1:]])
    centred = price - price.mean()
    shares = (arrays["left"].T @ centred / 24) ** 2 / np.mean(centred**2)
    np.testing.assert_allclose(
        description["target_energy"], shares, atol=tol(F32, factor=100)
    )


def test_quiet_prints_nothing(tmp_path, capsys):
    path = write(tmp_path, mixed_csv())
    options = ["--num-neighbors", "5", "--rank", "4", "--target", "price", "--no-plots"]
    ran = run(capsys, path, *options, "--quiet", "--out", tmp_path / "out")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_a_second_run_replaces_the_first_and_keeps_other_files(
    tmp_path, capsys, monkeypatch
):
    path, out = write(tmp_path, mixed_csv()), tmp_path / "out"
    options = ["--num-neighbors", "5", "--rank", "4"]
    assert run(capsys, path, *options, "--target", "price", "--out", out).status == 0
    assert (out / "energy.png").exists()
    (out / "notes.txt").write_text("mine")
    monkeypatch.chdir(out)
    options += ["--drop", "price", "--no-plots"]
    assert run(capsys, path, *options, "--out", ".").status == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"spectrum.json", "spectrum.npz", "notes.txt"}
    assert strict(out / "spectrum.json")["compatibility"] is None


def test_the_precision_of_the_process_is_put_back():
    before = jax.config.read("jax_enable_x64")
    for dtype in ("float32", "float64"):
        with precision(dtype):
            assert jax.numpy.asarray(np.zeros(1)).dtype == dtype
        assert jax.config.read("jax_enable_x64") == before


@pytest.mark.slow
def test_labels_in_float64_have_singular_values_1(tmp_path, capsys):
    path = write(tmp_path, "a,y\n" + "".join(f"{i},{'uvw'[i % 3]}\n" for i in range(9)))
    options = ["--context", "labels", "--target", "y", "--dtype", "float64"]
    ran = run(capsys, path, *options, "--no-plots", "--out", tmp_path / "out")
    assert ran.status == 0, ran.err
    arrays = np.load(tmp_path / "out" / "spectrum.npz")
    assert arrays["left"].dtype == F64
    slack = promised(F64)
    np.testing.assert_allclose(arrays["singular_values"], [1, 1], atol=slack)
    description = strict(tmp_path / "out" / "spectrum.json")
    assert description["params"] == {"num_classes": 3}
    np.testing.assert_allclose(description["compatibility"], 1, atol=slack)
    # Beyond the two functions nothing is left: τ is 1 + 1 there.
    assert description["best_dim"] == 2
    np.testing.assert_allclose(description["tau"], 2, atol=slack)


@pytest.mark.slow
def test_a_bracket_of_tau_holds_what_all_values_say(tmp_path, capsys, monkeypatch):
    path, found = write(tmp_path, mixed_csv()), []
    options = ["--num-neighbors", "5", "--rank", "4", "--no-plots"]
    for size in (_judgement._SMALL_TABLE, 0):
        monkeypatch.setattr(_judgement, "_SMALL_TABLE", size)
        ran = run(capsys, path, *options, "--out", tmp_path / str(size))
        assert ran.status == 0, ran.err
        found.append(strict(tmp_path / str(size) / "spectrum.json"))
        assert "τ, 512 dimensions" in ran.out
    exact, bracket = found
    assert exact["tau_lower"] == exact["tau_upper"]
    slack = tol(F32, factor=1000)
    assert bracket["tau_lower"] - slack <= exact["tau_lower"]
    assert exact["tau_upper"] <= bracket["tau_upper"] + slack
    assert bracket["tau_lower"] < bracket["tau_upper"] <= bracket["tau"] + slack
    assert bracket["tau"] == exact["tau"]
    assert bracket["verdict"] in (exact["verdict"], "undecided")
    undecided = bracket["verdict"] == "undecided"
    assert undecided == ("--rank 23 will tell" in bracket["verdict_reason"])


@pytest.mark.slow
def test_a_projection_is_said_to_be_one_whatever_the_rank(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(24, 5)))
    options = ["--context", "teacher", "--rank", "3", "--out", tmp_path / "out"]
    ran = run(capsys, tmp_path / "x.npy", *options)
    assert ran.status == 0, ran.err
    description = strict(tmp_path / "out" / "spectrum.json")
    assert description["tau"] is None
    assert description["tau_upper_dim"] == 5
    assert description["verdict"] == "too strong"
    assert "all 5 singular values are 1" in description["verdict_reason"]
    assert "more rank tells no more" in " ".join(description["notes"])


@pytest.mark.slow
def test_an_independent_context_is_described_without_infinities(tmp_path, capsys):
    path, out = write(tmp_path, "a,b,c\n1,2,3\n2,4,6\n3,6,9\n"), tmp_path / "out"
    ran = run(capsys, path, "--context", "joint", "--out", out)
    assert ran.status == 0, ran.err
    description = strict(out / "spectrum.json")
    np.testing.assert_allclose(description["singular_values"], 0, atol=promised(F32))
    assert description["status"] == "rank deficient"
    assert description["verdict"] == "too weak"
    assert description["tau"] is description["best_dim"] is None
    assert description["decay_rate"] is None
    notes = " ".join(description["notes"])
    assert "tau is undefined" in notes
    assert "decay_rate is infinite" in notes


def run_altered(monkeypatch, capsys, tmp_path, alter=lambda solved: solved):
    """A run on a 3 × 3 table whose solver's result is altered."""
    solve = _spectrum._solved
    monkeypatch.setattr(_spectrum, "_solved", lambda *a: alter(solve(*a)))
    path = write(tmp_path, "a,b,c\n1,2,3\n2,4,5\n3,7,9\n")
    return run(capsys, path, "--context", "joint", "--out", tmp_path / "out")


@pytest.mark.slow
def test_rank_1_says_what_it_cannot_judge(tmp_path, capsys, monkeypatch):
    def first(solved):
        values, left, right = solved.result
        return solved._replace(
            result=cx.SVDResult(values[:1], left[:, :1], right[:, :1]),
            certificate=first_of(solved.certificate),
        )

    ran = run_altered(monkeypatch, capsys, tmp_path, first)
    assert ran.status == 0, ran.err
    out = tmp_path / "out"
    description = strict(out / "spectrum.json")
    assert description["tau"] is None
    assert description["best_dim"] is None
    assert any("tau" in note for note in description["notes"])
    names = {path.name for path in out.iterdir()}
    assert "tau.png" not in names
    assert {"spectrum.png", "functions.png"} <= names


def first_of(certificate):
    """The certificate of the first value alone: vectors cut, numbers kept."""
    return jax.tree.map(lambda x: x[:1] if x.ndim else x, certificate)


def with_status(status):
    def altered(solved):
        info = jax.tree.map(jax.numpy.asarray, solved.info)
        code = jax.numpy.asarray(status.code)
        return solved._replace(info=dataclasses.replace(info, code=code))

    return altered


def test_a_spectrum_that_is_not_finite_is_not_written(tmp_path, capsys, monkeypatch):
    ran = run_altered(monkeypatch, capsys, tmp_path, with_status(cx.Status.NON_FINITE))
    assert ran.status == 2
    last = ran.err.splitlines()[-1]
    assert last.startswith("contexture: error: the spectrum is not finite")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_too_few_passes_warn_loudly(tmp_path, capsys, monkeypatch):
    ran = run_altered(monkeypatch, capsys, tmp_path, with_status(cx.Status.MAX_PASSES))
    assert ran.status == 0
    assert "contexture: warning: not converged" in ran.err
    assert "max passes" in ran.out
    assert strict(tmp_path / "out" / "spectrum.json")["status"] == "max passes"


def test_an_interrupted_run_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_report, "write_json", interrupt)
    ran = run_altered(monkeypatch, capsys, tmp_path)
    assert ran.status == 130
    assert ran.err.splitlines()[-1] == (
        "contexture: interrupted; no results were written"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_an_output_that_is_full_is_told_with_where_the_results_are(
    tmp_path, capsys, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_report, "print_table", full)
    ran = run_altered(monkeypatch, capsys, tmp_path)
    assert ran.status == 2
    line = ran.err.splitlines()[-1]
    assert "No space left on device: the output; the results are in " in line
    assert f'"{tmp_path / "out"}", whole' in line


def test_a_full_disk_is_one_line_and_leaves_the_old_results(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "spectrum.json").write_text("old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_report, "write_arrays", full)
    ran = run_altered(monkeypatch, capsys, tmp_path)
    assert ran.status == 2
    assert "No space left on device" in ran.err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["spectrum.json"]
    assert (tmp_path / "out" / "spectrum.json").read_text() == "old"


def test_brackets_in_names_are_printed_as_they_are(tmp_path, capsys):
    path = write(tmp_path, "a,b,c\n1,2,3\n2,4,5\n3,7,9\n", "[red]t[b].csv")
    ran = run(capsys, path, "--context", "joint", "--out", tmp_path / "[o]")
    assert ran.status == 0
    assert "[red]t[b].csv" in ran.out
    assert str(tmp_path / "[o]" / "spectrum.json") in ran.out
