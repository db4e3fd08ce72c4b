"""Settings of the whole suite: x64 on, strict promotion, no silent broadcasting."""

import gc
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

X64 = os.environ.get("CONTEXTURE_TEST_X64", "1") == "1"
# Each precision compiles anew: where float64 is tested, float32 may be a slow test.
SOME_DTYPES = [
    pytest.param(np.float32, marks=[pytest.mark.slow] if X64 else []),
    *([pytest.param(np.float64)] if X64 else []),
]

# The layers below the front doors compile inside tests; strictness there costs nothing.
jax.config.update("jax_enable_x64", X64)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the suite's time is compiling; the programs run for milliseconds.
jax.config.update("jax_disable_most_optimizations", True)

# A shell starts what runs in its background with Ctrl-C ignored, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A process may have so many mappings of memory (Linux, by default); each compiled
# program takes some, and a process that runs out of them in compiling dies.
MOST_MAPPINGS = 65_530
MAPPINGS = Path("/proc/self/maps")
TESTS = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    if not X64:
        # The tests' own arrays are float64: the one warning that says so is no error.
        config.addinivalue_line(
            "filterwarnings", "ignore:.*64-bit types are off in JAX"
        )


@pytest.fixture(autouse=True, scope="module")
def leave_programs_to_no_collector() -> Iterator[None]:
    yield
    # Traces are millions of objects that stay: looked through again and again.
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drop programs before there are too many: looked at every twenty tests."""
    del item, nextitem
    if next(TESTS) % 20 or not MAPPINGS.exists():
        return
    if MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS // 4 * 3:
        gc.unfreeze()
        jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make slow tests of the cases that a mark of their function says.

    `@pytest.mark.fast("id", ...)` names the cases that are not, `slow_cases` those that
    are: without their brackets.
    """
    named: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for item in items:
        test, _, case = item.nodeid.partition("[")
        case = case.removesuffix("]")
        for kind in ("fast", "slow_cases"):
            mark = item.get_closest_marker(kind)
            if mark is None:
                continue
            named.setdefault(test, set()).update(mark.args)
            found.setdefault(test, set()).add(case)
            if (case in mark.args) == (kind == "slow_cases"):
                item.add_marker(pytest.mark.slow)
    for test, cases in named.items():
        # One case alone may have been asked for: then nothing can be said. In the other
        # precision a function has other cases.
        absent = cases - found[test] if X64 and len(found[test]) > 1 else set()
        if absent:
            msg = f"{test} has no cases {sorted(absent)}, which its mark names"
            raise pytest.UsageError(msg)


@pytest.fixture
def key() -> jax.Array:
    """One fixed key; tests split it."""
    return jax.random.key(20250725)
