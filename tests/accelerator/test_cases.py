"""A device's float32 answers beside a CPU's in float64; on a CPU, that the cases work.

On a machine with a GPU or TPU: `JAX_PLATFORMS= python -m pytest -m accelerator`. In the
default suite a few of them run; `benchmarks/accelerator.py` runs them without pytest.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.accelerator import cases
from tests.conftest import X64

CASES = cases.cases()
ON_CPU = X64 and jax.default_backend() == "cpu"
FAST = ("product: exact", "operator: dense", "loss: clip")
# On a CPU all levels are one, and other tests have the operators, their spectra and the
# objectives: of these a few.
SHOWN = ("operator: rbf", "operator: gradients", "operator: Monte Carlo")
SHOWN += ("svd: randomized", "svd: dense, sharded", "svd: gradient")
OF_OTHERS = ("operator: ", "svd: ", "loss: ")
NAMES = [
    name
    for name in CASES
    if not ON_CPU
    or name in (*FAST, *SHOWN)
    or not (" at " in name or name.startswith(OF_OTHERS))
]
assert set(NAMES) >= {*FAST, *SHOWN}
pytestmark = pytest.mark.accelerator


@pytest.fixture(scope="session")
def answer(tmp_path_factory: Any) -> Any:
    """From a name to the CPU's answer: here, or by one process for all."""
    if ON_CPU:
        return functools.cache(lambda name: dict(cases.answers([name]))[name])
    folder = Path(tmp_path_factory.mktemp("answers"))
    for process in cases.start_answers(folder, NAMES, 4):
        assert process.wait() == 0
    return cases.read_answers(folder).__getitem__


@pytest.mark.fast(*FAST)
@pytest.mark.parametrize("name", NAMES)
def test_the_device_computes_what_a_cpu_does_in_float64(name: str, answer: Any) -> None:
    case, truth = CASES[name], answer(name)
    assert not isinstance(truth, str), truth
    found = cases.errors(case.run(np.float32), truth)
    for key, error in found.items():
        allowed = case.of.get(key, case.factor) * cases.EPS
        assert error <= allowed, (key, error / cases.EPS, "eps")


def test_products_in_bfloat16_are_seen() -> None:
    truth = CASES["operator: dense"].run(np.float32)
    coarse = {key: np.asarray(value) * (1 + 2.0**-12) for key, value in truth.items()}
    found = cases.errors(coarse, truth)
    assert min(found.values()) > CASES["operator: dense"].factor * cases.EPS


def test_answers_by_another_process_and_an_error_of_a_case(
    tmp_path: Path, monkeypatch: Any
) -> None:
    (process,) = cases.start_answers(tmp_path, ["product: exact"], 3)
    assert process.wait() == 0
    ((name, answer),) = cases.read_answers(tmp_path).items()
    assert not isinstance(answer, str)
    assert (name, answer["a b"].dtype) == ("product: exact", np.float64)
    case: Any = cases.Case(lambda _: {}[0], 1)
    monkeypatch.setattr(cases, "cases", lambda: {"bad": case})
    assert dict(cases.answers(["bad"])) == {"bad": "KeyError: 0"}
