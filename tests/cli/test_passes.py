"""A solve is shown, kept, ended and gone on with between two passes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contexture_jax import solvers
from contexture_jax.cli import main
from contexture_jax.cli.session import Ending, WatchedSolve, _solve
from contexture_jax.data import InputError
from tests.data.helpers import write

RNG = np.random.default_rng(5)
TABLE = "a,b\n" + "".join(f"{a:.4f},{b:.4f}\n" for a, b in RNG.normal(size=(40, 2)))
GIVEN = ["--num-neighbors", "8", "--rank", "2", "--method", "randomized"]
GIVEN += ["--tol", "1e-5", "--no-plots", "--quiet"]


def spectrum(table: Path, out: Path, *more: str) -> int:
    return main(["spectrum", str(table), *GIVEN, "--out", str(out), *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table, and the results of a run that nothing ended."""
    folder = tmp_path_factory.mktemp("whole")
    table = write(folder, TABLE)
    assert spectrum(table, folder / "out") == 0
    return table, folder / "out"


def ended_after(passes: float, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    on_step = WatchedSolve.on_step

    def told(self: WatchedSolve, progress: Any) -> bool:
        if progress.num_passes > passes:
            os.kill(os.getpid(), number)
        return on_step(self, progress)

    monkeypatch.setattr(WatchedSolve, "on_step", told)


def assert_same_results(out: Path, whole: Path, atol: float = 0.0) -> None:
    assert sorted(p.name for p in out.iterdir()) == ["spectrum.json", "spectrum.npz"]
    with np.load(out / "spectrum.npz") as found:
        expected = np.load(whole / "spectrum.npz")
        for name in ("singular_values", "left", "right"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=atol)


@pytest.mark.slow_cases("143")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["130", "143"],
)
def test_a_solve_that_is_ended_leaves_what_it_found_and_goes_on_to_the_bit(
    whole: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
    status: int,
) -> None:
    table, out = whole[0], tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        ended_after(2, number, patched)
        assert spectrum(table, out) == status
    found = json.loads((out / "spectrum.json").read_text(encoding="utf-8"))
    assert found["status"] == "stopped"
    assert 1e-5 < max(found["residuals"]) < 1
    bounds, values = found["certificate"], np.array(found["singular_values"])
    exact = np.load(whole[1] / "spectrum.npz")["singular_values"]
    assert (np.array(bounds["lower"]) - 1e-5 <= exact).all()
    assert (exact <= np.array(bounds["upper"]) + 1e-5).all()
    assert (values <= exact + 1e-5).all()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"; the results of {found['num_passes']:g} passes are in " in err
    assert not list(out.glob(".*"))
    for more, message in (
        (["--seed", "1"], "holds another run: seed is 0 there and 1 here"),
        (["--rank", "3"], "holds another run: rank is 2 there and 3 here"),
    ):
        assert spectrum(table, out, *more, "--resume") == 2
        assert message in capsys.readouterr().err
    other = write(tmp_path, TABLE.replace("a,b\n", "a,b\n0.5,0.25\n"))
    assert spectrum(other, out, "--resume") == 2
    assert "holds a solve of other data: state must be" in capsys.readouterr().err
    command = err.partition("go on with: contexture ")[2].split()
    assert command == ["spectrum", str(table), *GIVEN, "--out", str(out), "--resume"]
    assert main(command) == 0
    assert_same_results(out, whole[1])


KILLED = """
import os, signal, sys
from contexture_jax.cli import main
from contexture_jax.cli.session import WatchedSolve, _solve

_solve._BETWEEN = 0.0
on_step = WatchedSolve.on_step

def killed(self, progress):
    on_step(self, progress)
    if progress.num_passes > 2:
        os.kill(os.getpid(), signal.SIGKILL)

WatchedSolve.on_step = killed
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_solve_that_is_killed_goes_on_to_the_bit_and_on_devices_to_rounding(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = whole[0]
    flags = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    for name, more, atol in (("one", [], 0.0), ("two", ["--devices", "2"], 2e-5)):
        out = tmp_path / name
        command = ["spectrum", str(table), *GIVEN, "--out", str(out)]
        done = subprocess.run(
            [sys.executable, "-c", KILLED, *command],
            env=os.environ | flags,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        assert not (out / "spectrum.json").exists()
        assert (out / "solve" / "state.npz").exists()
        assert main([*command, *more, "--resume"]) == 0, capsys.readouterr().err
        assert_same_results(out, whole[1], atol)


def passes(num_passes: float, residual: float = np.inf) -> Any:
    """What `on_step` is told."""
    state: Any = SimpleNamespace(plan=SimpleNamespace(tol=1e-5))
    return solvers.Progress(
        num_passes, np.ones(2), np.array([residual / 2, residual]), state
    )


@pytest.fixture
def watched(tmp_path: Path) -> Any:
    """A solve of nothing, whose bar is a list."""
    shown: list[Any] = []
    with WatchedSolve(tmp_path / "out", Ending()) as solve:
        state = solve.begin({}, lambda *bar: shown.append(bar), resume=True)
        assert state is None
        yield solve, shown


def test_the_bar_is_the_way_to_the_tolerance(watched: Any) -> None:
    solve, shown = watched
    for progress in (passes(0.5), passes(1.5, 1e-1), passes(2.5, 1e-3), passes(3, 0)):
        assert not solve.on_step(progress)
    words = [bar[2] for bar in shown]
    assert words[0] == "0.5 passes"
    assert words[2] == "2.5 passes, residual 1.0e-03 of 1.0e-05"
    shares = [bar[0] / bar[1] for bar in shown]
    np.testing.assert_allclose(shares, [0, 0, 0.5, 1])


def test_a_state_is_kept_now_and_then_and_a_full_disk_is_said_once(
    watched: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solve, saved = watched[0], []
    monkeypatch.setattr(solvers, "save_state", lambda path, _: saved.append(path))
    solve.on_step(passes(1))
    assert (saved, list(tmp_path.iterdir())) == ([], [])
    monkeypatch.setattr(_solve, "_BETWEEN", 0.0)
    solve.on_step(passes(2))
    assert saved == [tmp_path / "out" / "solve" / "state.npz"]
    assert "the state after 2 passes is kept in" in solve._ending.kept()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(solvers, "save_state", full)
    monkeypatch.setattr(_solve, "_SHARE", np.inf)
    for number in (3, 4):
        assert not solve.on_step(passes(number))
    err = capsys.readouterr().err
    assert err.count("cannot be kept: [Errno 28] No space left") == 1


def test_a_state_that_is_damaged_is_refused(tmp_path: Path, watched: Any) -> None:
    folder = tmp_path / "out" / "solve"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text("{}", encoding="utf-8")
    (folder / "state.npz").write_bytes(b"half")
    with pytest.raises(InputError, match="it is damaged or another's; expected"):
        watched[0].begin({}, print, resume=True)
