"""The option --devices: the same figures from several devices, and what it refuses."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.cli.helpers import run
from tests.tolerances import promised


@pytest.mark.slow
def test_three_devices_give_the_figures_of_one(tmp_path, capsys):
    """178 rows on 3 devices: padding. In a process where JAX has not started yet."""
    arguments = ["wine", "--rank", "5", "--target", "target", "--no-plots"]
    arguments += ["--dtype", "float64", "--method", "randomized", "--out"]
    assert run(capsys, *arguments, tmp_path / "one").status == 0
    command = [sys.executable, "-m", "contexture_jax.cli", "spectrum", *arguments]
    done = subprocess.run(
        [*command, str(tmp_path / "many"), "--devices", "3"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "devices" in done.stdout
    one, many = (
        json.loads((tmp_path / name / "spectrum.json").read_text())
        for name in ("one", "many")
    )
    assert (one["devices"], many["devices"]) == (1, 3)
    assert many["status"] == "converged"
    for name in ("singular_values", "compatibility", "total_energy", "tau"):
        np.testing.assert_allclose(many[name], one[name], rtol=1e3 * promised(float))
    with (
        np.load(tmp_path / "one" / "spectrum.npz") as one_arrays,
        np.load(tmp_path / "many" / "spectrum.npz") as many_arrays,
    ):
        for name, values in one_arrays.items():
            assert many_arrays[name].shape == values.shape


@pytest.mark.parametrize(
    ("count", "words"),
    [
        ("0", ("--devices", "at least 1", "got 0")),
        ("two", ("--devices", "integer", "'two'")),
        # JAX starts in this process, with eight devices.
        ("9", ("--devices 9", "8 CPU devices", "--devices 8 or less")),
    ],
)
def test_devices_that_are_not_there_are_refused(tmp_path, capsys, count, words):
    jax.devices()
    out = tmp_path / "out"
    ran = run(capsys, "wine", "--devices", count, "--out", out)
    lines = ran.err.splitlines()
    assert ran.status == 2
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]
    assert not out.exists()
