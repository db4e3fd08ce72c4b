"""Spectra in two processes, each with its own rows: those of NumPy on all rows."""

import functools
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from tests import oracle, processes
from tests.solvers.worker import GAMMA, NUM_NEIGHBORS, NUM_PAIRED, RANK, inputs
from tests.tolerances import promised, tol

EXACT = promised(np.float64)


def tables() -> dict[str, np.ndarray]:
    """The joint laws of the worker's contexts, by NumPy."""
    given = inputs()
    gaps = np.abs(given["knn"] - given["knn"].T)
    near = gaps <= np.sort(gaps, axis=1)[:, [NUM_NEIGHBORS - 1]]
    kernel = np.exp(-GAMMA * gaps**2)
    z = given["teacher"] - given["teacher"].mean(axis=0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    n = len(z)
    pairs = np.zeros((NUM_PAIRED, 7))
    np.add.at(pairs, tuple(given["pairs"]), 1.0)
    found = {
        "joint": given["joint"],
        "knn": near,
        "rbf": kernel / kernel.sum(axis=1, keepdims=True),
        "labels": given["labels"][:, None] == np.unique(given["labels"]),
        "teacher": 1 + n * (u * (s / s[0])) @ u.T,
        "pairs": pairs,
    }
    return {name: table / table.sum() for name, table in found.items()}


# What one pair of processes does: each name compiles for seconds.
FEW = ("joint", "errors")
OTHERS = ("knn", "rbf", "labels", "teacher", "pairs")
GROUPS = [FEW, pytest.param(OTHERS, marks=pytest.mark.slow)]
NAMES = [
    pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow])
    for name in tables()
]


@functools.cache
def found(names: tuple[str, ...]) -> list[dict[str, np.ndarray]]:
    """What each process found."""
    with tempfile.TemporaryDirectory() as directory:
        workers = processes.start("tests.solvers.worker", directory, *names)
        errors = processes.finish(workers, timeout=600)
        assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
        return [dict(np.load(Path(directory) / f"{i}.npz")) for i in range(2)]


@pytest.mark.parametrize("names", GROUPS)
def test_both_processes_have_the_same(names: tuple[str, ...]) -> None:
    one, two = found(names)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_spectrum_and_its_bounds_are_right(name: str) -> None:
    one = found(FEW if name in FEW else OTHERS)[0]
    table = tables()[name]
    values, left, right = oracle.triples(table)
    got = {key: one[f"{name} {key}"] for key in ("values", "left", "right")}
    np.testing.assert_allclose(got["values"], values[:RANK], atol=EXACT)
    if f"{name} lower" in one:
        assert (one[f"{name} lower"] <= values[:RANK]).all()
        assert (values[:RANK] <= one[f"{name} upper"]).all()
    if values[RANK - 1] - values[RANK] > 1e-3:  # all but labels, whose values agree
        for functions, truth, law in (
            (got["left"], left, table.sum(axis=1)),
            (got["right"], right, table.sum(axis=0)),
        ):
            np.testing.assert_allclose(
                oracle.projector(functions, law),
                oracle.projector(truth[:, :RANK], law),
                atol=EXACT / (values[RANK - 1] - values[RANK]),
            )
    np.testing.assert_allclose(
        one[f"{name} extended"], got["left"][:8], atol=1e3 * EXACT
    )


@pytest.mark.slow
def test_judges_are_right() -> None:
    one = found(OTHERS)[0]
    context = cx.contexts.rbf(inputs()["rbf"], GAMMA)
    op = cx.association_operator(context, storage="dense")
    phi = jnp.asarray(inputs()["embedding"])
    judge = cx.evaluation
    expected = {
        "ritz": judge.rayleigh_ritz(phi, op, rank=2).singular_values,
        "tau": judge.usefulness(one["rbf values"]).tau,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            one[name], value, atol=tol(np.float64, size=100), err_msg=name
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("infinite", r"x must be finite; got nan at x\[40, 0\] \(1 bad value\)"),
        ("infinite too", r"x must be finite; got nan at x\[40, 0\] \(1 bad value\)"),
        ("negative", r"got -2.0 at table\[3, 2\] \(2 bad values\)"),
        ("no mass", "table must have positive total mass"),
        ("row without mass", r"positive mass in every row; got 0.0 at matrix\[5\]"),
        ("asymmetric", "adjacency must be symmetric; the largest difference is"),
        ("law without mass", "p_x must have positive total mass"),
        ("rank", "rank must be at most 8, the number of singular values"),
        ("key", "processes differ: values of the operator is .* in process 0 and"),
        ("values", "processes differ: values of the context is .* in process 0 and"),
        ("tol", "processes differ: tol is 0.001 in process 0 and 0.0001 in process 1"),
    ],
)
def test_what_one_process_holds_is_an_error_in_both(name: str, message: str) -> None:
    for one in found(FEW):
        with pytest.raises(ValueError, match=message):
            raise ValueError(one[f"error: {name}"])
