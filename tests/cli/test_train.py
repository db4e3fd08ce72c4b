"""The command that learns: results, resuming, refusals."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
import types
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from contexture_jax import plotting
from contexture_jax.cli import _train_report, main
from contexture_jax.cli._arguments import Options
from contexture_jax.cli._train_report import probed
from contexture_jax.data._table import Table, Target
from contexture_jax.training import PairBatches
from tests.cli.helpers import told_at
from tests.tolerances import tol

COMMON = ["wine", "--num-neighbors", "20", "--rank", "4", "--target", "target"]
SMALL = ["--hidden", "32", "--batch-size", "64", "--output", "16", "--quiet"]
FILES = {"model.npz", "train.npz", "train.json", "learned.png", "loss.png", "run"}


def arguments(out, *more):
    return ["train", *COMMON, *SMALL, "--out", str(out), *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "out"
    assert main(arguments(out, "--steps", "100", "--learning-rate", "0.01")) == 0
    return out


@pytest.mark.slow
def test_it_writes_what_it_learned_beside_what_is_exact(trained):
    assert {path.name for path in trained.iterdir()} == FILES
    report = json.loads((trained / "train.json").read_text(encoding="utf-8"))
    learned = np.array(report["learned_singular_values"])
    exact = np.array(report["exact_singular_values"])
    assert learned.shape == exact.shape == (4,)
    assert (learned <= exact + tol(np.float32)).all()
    assert (learned**2).sum() > 0.9 * (exact**2).sum()
    assert report["status"] == "finished"
    assert report["cca"] > 0.7 > report["nulls"]["cca"]
    assert report["probe"]["learned"] < 0.2
    assert report["seconds"]["train"] > 0
    with np.load(trained / "train.npz") as arrays:
        assert arrays["learned_left"].shape == arrays["exact_left"].shape == (178, 4)


@pytest.mark.slow
def test_a_run_that_is_there_is_not_overwritten(trained, capsys):
    before = (trained / "train.json").read_bytes()
    assert main(arguments(trained, "--steps", "100", "--learning-rate", "0.01")) == 2
    assert "holds a run already; expected --resume" in capsys.readouterr().err
    assert main(arguments(trained, "--steps", "200", "--resume")) == 2
    assert "holds another run: steps is 100 there and 200" in capsys.readouterr().err
    assert (trained / "train.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "3"], "--output 3 is less than the 4 functions to learn"),
        (["--devices", "3"], "--batch-size 64 cannot be shared by --devices 3"),
        (["--context", "teacher", "--loss", "svme"], "expected --loss kise"),
        (["--steps", "0"], "expected an integer of at least 1"),
        (["--hidden", "8,x"], "expected an integer of at least 1"),
        (["--encoder", "transformer"], "--hidden is of --encoder mlp"),
    ],
)
def test_bad_options_are_refused_in_one_line(tmp_path, capsys, more, message):
    given = arguments(tmp_path / "out", *more)
    if "teacher" in more:
        given.remove("--num-neighbors")
        given.remove("20")
    assert main(given) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_numbered_rows_have_no_features_to_embed(tmp_path, capsys):
    np.save(tmp_path / "counts.npy", np.arange(12).reshape(4, 3))
    given = ["train", str(tmp_path / "counts.npy"), "--context", "joint", "--rank", "2"]
    assert main([*given, "--hidden", "8", "--out", str(tmp_path / "out")]) == 2
    assert "expected neither --encoder nor --hidden" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_is_not_resumed_with_another_target(tmp_path, capsys):
    path, out = tmp_path / "two.csv", tmp_path / "out"
    rows = [f"{i % 7},{i % 5},{i % 2},{i % 3}" for i in range(60)]
    path.write_text("\n".join(["u,v,first,second", *rows]), encoding="utf-8")
    given = ["train", str(path), "--context", "labels", "--rank", "1", "--steps", "5"]
    given += ["--batch-size", "16", "--quiet", "--no-plots", "--out", str(out)]
    assert main([*given, "--target", "first", "--drop", "second"]) == 0
    other = ["--target", "second", "--drop", "first", "--resume"]
    assert main([*given, *other]) == 2
    assert "holds another run: fingerprint is" in capsys.readouterr().err


@pytest.mark.slow
def test_damaged_runs_are_refused_in_one_line(trained, tmp_path, capsys):
    given = ["--steps", "100", "--learning-rate", "0.01"]
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    settings = out / "run" / "settings.json"
    settings.write_text("{", encoding="utf-8")
    assert main(arguments(out, *given, "--resume")) == 2
    err = capsys.readouterr().err
    assert "settings.json' is damaged" in err.replace('"', "'")
    assert err.count("\n") == 1
    settings.unlink()
    assert main(arguments(out, *given)) == 2
    assert 'holds "checkpoints" but no settings.json' in capsys.readouterr().err
    shutil.copy(trained / "run" / "settings.json", settings)
    for path in (out / "run" / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert main(arguments(out, *given, "--resume")) == 2
    err = capsys.readouterr().err
    assert "cannot be read" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_run_that_is_ended_says_what_is_kept_and_goes_on_to_the_bit(
    trained, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    given = arguments(out, "--steps", "100", "--learning-rate", "0.01")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patched:
        told_at(20, patched, signal.SIGTERM)
        assert main(given) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("contexture: interrupted by SIGTERM; step ")
    kept = [int(path.name) for path in (out / "run" / "checkpoints").iterdir()]
    assert f"step {max(kept)} of 100 is kept in " in err
    command = err.partition("go on from it with: contexture ")[2].split()
    assert command == [*given, "--resume"]

    def probe(*_):
        # By now all else is written.
        report = json.loads((out / "train.json").read_text(encoding="utf-8"))
        assert (report["probe"], report["status"]) == (None, "finished")
        return None, ["no probe"]

    monkeypatch.setattr(_train_report, "probed", probe)
    assert main(command) == 0
    report = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert (report["probe"], report["notes"][-1]) == (None, "no probe")
    with np.load(out / "train.npz") as found, np.load(trained / "train.npz") as whole:
        for name in whole.files:
            np.testing.assert_array_equal(found[name], whole[name])
    rows = [(run / "run" / "metrics.csv").read_bytes() for run in (out, trained)]
    assert rows[0] == rows[1]
    assert {path.name for path in out.iterdir()} == FILES


def test_a_full_disk_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    for owner, name in (
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
    ):
        # The last for whoever looks at hooks; put back after the test.
        monkeypatch.setattr(owner, name, getattr(owner, "__" + name + "__"))
    assert main(arguments(tmp_path / "out", "--steps", "100")) == 2
    late = RuntimeError("Event loop is closed")
    sys.excepthook(RuntimeError, late, None)
    told: Any = types.SimpleNamespace(
        exc_type=RuntimeError, exc_value=late, exc_traceback=None, thread=None
    )
    threading.excepthook(told)
    told.err_msg = told.object = None
    sys.unraisablehook(told)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    sys.excepthook(RuntimeError, RuntimeError("another"), None)
    assert "RuntimeError: another" in capsys.readouterr().err
    assert "step 50 cannot be written (No space left on device); there is no" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run"}


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_directory_is_removed_promises_nothing(
    tmp_path, capsys, monkeypatch, replaced
):
    out, at = tmp_path / "out", PairBatches.at

    def removing(self, which):
        if which == 60:
            deadline = time.monotonic() + 30
            while not (out / "run" / "checkpoints" / "50").exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if replaced:  # all but what is on the way
                (out / "run" / "settings.json").unlink()
            else:
                shutil.rmtree(out)
            os.kill(os.getpid(), signal.SIGTERM)
        return at(self, which)

    monkeypatch.setattr(PairBatches, "at", removing)
    assert main(arguments(out, "--steps", "100")) == (143 if replaced else 2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "nothing of the run is kept" in err
    assert "--resume" not in err
    assert out.exists() == replaced


def target(kind, values):
    return Target("y", np.asarray(values), kind, tuple("uvw"))


def table_of(judged):
    n = len(judged.values)
    x = np.random.default_rng(0).normal(size=(n, 2))
    return Table("t", x, ["a", "b"], judged, 2, np.arange(n), [])


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        (target("classes", [0, 1, 2, 0, 1, 2, 0, 1, 2]), ""),
        (target("classes", [0, 0, 0, 0, 1]), "too few rows for each of its values"),
        (target("numbers", np.arange(12.0)), ""),
    ],
)
def test_a_probe_that_cannot_be_is_told_and_none(judged, why):
    table = table_of(judged)
    probe, notes = probed(table.features, table.features, table, Options(data="t"))
    if why:
        assert probe is None
        assert notes[0].startswith(f'no probe of the target "y": {why}')
    else:
        assert notes == []
        assert probe is not None
        assert probe["learned"] == probe["exact"] == probe["features"] >= 0


@pytest.mark.slow
def test_a_rank_that_cuts_a_cluster_is_told(tmp_path):
    table, out = tmp_path / "table.npy", tmp_path / "out"
    np.save(table, np.kron(np.eye(4), np.ones((3, 1))))  # three values of 1
    given = ["train", str(table), "--context", "joint", "--steps", "5"]
    given += ["--batch-size", "16", "--quiet", "--no-plots", "--out", str(out)]
    for rank, told in (("2", True), ("3", False)):
        assert main([*given, "--rank", rank]) == 0
        report = json.loads((out / "train.json").read_text(encoding="utf-8"))
        notes = [n for n in report["notes"] if "have the same singular value" in n]
        assert bool(notes) is told
        assert len(report["exact_singular_values"]) == int(rank)
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "more"),
    [
        ("wine", ["--context", "labels", "--rank", "2", "--loss", "svme"]),
        ("wine", ["--context", "rbf", "--loss", "spectral_contrastive"]),
        ("wine", ["--context", "teacher"]),
        ("wine", ["--encoder", "transformer", "--loss", "lora_svd"]),
    ],
)
def test_contexts_losses_and_encoders_go_together(tmp_path, data, more):
    out = tmp_path / "out"
    given = ["train", data, "--target", "target", "--rank", "4", "--steps", "30"]
    given += ["--batch-size", "64", "--quiet", "--no-plots", "--out", str(out), *more]
    assert main(given) == 0
    report = json.loads((out / "train.json").read_text(encoding="utf-8"))
    learned = np.array(report["learned_singular_values"])
    assert (
        learned <= np.array(report["exact_singular_values"]) + tol(np.float32)
    ).all()
    assert report["ratio_trace"] > report["nulls"]["ratio_trace"]
    assert main([*given, "--seed", "1", "--resume"]) == 2


@pytest.mark.slow
def test_a_run_that_diverges_says_so_and_writes_no_results(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(out, "--steps", "20", "--learning-rate", "1e30")) == 2
    err = capsys.readouterr().err
    assert "no results were written: expected a smaller --learning-rate" in err
    assert err.count("\n") == 1
    assert {path.name for path in out.iterdir()} == {"run"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--context", "knn+scarves"], "joined by +, as knn+scarf; got 'scarves'"),
        (["--context", "knn+rbf", "--mix", "blend"], "expected one of convex, mixture"),
        (["--context", "knn", "--mix", "convex"], "--mix is of two contexts or more"),
        (["--context", "knn+knn", "--mix", "convex"], "knn twice"),
        (["--context", "knn+rbf", "--mix", "convex:1,1"], "got '1,1', with a sum of 2"),
        (["--context", "knn+rbf", "--mix", "convex:-1,2"], "at least 0; got '-1'"),
        (["--context", "knn+rbf", "--mix", "convex:half"], "at least 0; got 'half'"),
        (["--context", "knn+rbf", "--mix", "join:1,0"], "join takes no weights"),
        (
            ["--context", "knn+rbf+scarf", "--mix", "convex:0.5,0.5"],
            "convex has 2 weights for the 3 contexts of --context knn+rbf+scarf",
        ),
        (["--context", "knn+joint"], "--context joint reads DATA as counts"),
        (["--context", "knn+scarf", "--loss", "vicreg"], "by --loss kise or svme"),
        (["--context", "knn+rbf", "--mix", "join"], "expected --loss svme or lora_svd"),
        (["--context", "knn+teacher", "--mix", "convex:minmax"], "teacher is a kernel"),
        (["--context", "knn+rbf", "--scarf-rate", "0.2"], "goes with --context scarf"),
        (
            ["--context", "scarf+knn", "--mix", "convolve"],
            "expected scarf at the end, as knn+scarf; got scarf+knn",
        ),
        (["--context", "teacher+knn", "--mix", "join"], "kernel; expected --mix con"),
        (["--context", "scarf+knn", "--mix", "compose"], "of scarf are no rows; exp"),
        (["--context", "knn+scarf", "--mix", "mixture"], "contexts with one A, and"),
        pytest.param(
            ["--context", "knn+labels", "--mix", "compose"],
            "are not mixed so: the law of A",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_contexts_that_are_no_mixture_are_refused_in_one_line(
    tmp_path, capsys, more, message
):
    given = ["train", "wine", "--target", "target", "--quiet", "--steps", "5", *more]
    assert main([*given, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["--context", "knn+scarf+labels", "--mix", "convex:minmax", "--loss", "svme"],
        ["--context", "teacher+knn", "--mix", "convolve", "--loss", "svme"],
    ],
)
def test_contexts_are_mixed_and_compared_with_their_operator(
    tmp_path, capsys, monkeypatch, more
):
    titles = []

    def told(axes, _):
        titles.append(axes.get_title(loc="left").replace("\n", " "))

    monkeypatch.setattr(plotting, "save", told)
    out = tmp_path / "out"
    given = ["train", "wine", "--target", "target", "--rank", "2", "--steps", "30"]
    given += [*SMALL, "--out", str(out), *more]
    assert main(given) == 0
    report = json.loads((out / "train.json").read_text(encoding="utf-8"))
    learned = np.array(report["learned_singular_values"])
    known = np.array(report["exact_singular_values"])
    assert (learned <= known + tol(np.float32)).all()
    assert report["ratio_trace"] > report["nulls"]["ratio_trace"]
    assert report["context"] == more[1]
    is_drawn = "scarf" in more[1]
    assert (report["exact_num_draws"] > 178) == is_drawn
    assert ("estimated energy" in titles[0]) == is_drawn
    if is_drawn:
        gaps = np.array(report["exact_between_draws"])
        assert ((gaps > 0) & (gaps < 0.1)).all()
    if "convex" in more[3]:
        weights = np.array(report["weights"])
        assert abs(weights.sum() - 1) < 1e-6
        assert (abs(weights - 1 / 3) > 1e-3).all()
    embedded = tmp_path / "rows.npy"
    given = ["embed", str(out / "model.npz"), "wine", "--out", str(embedded), "--quiet"]
    assert main(given) == 0
    assert np.load(embedded).shape == (178, 2)
    assert main(["train", "wine", "--out", str(out), "--resume"]) == 2
    assert "holds another run" in capsys.readouterr().err
