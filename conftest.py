"""What has to be set before JAX computes: a compiler for programs that run once.

Most of the time of tests and doctests is compiling. On CPU the older of XLA's two ways
to write loops compiles them in two thirds of the time; the results are the same to
rounding, and what one target kept serves the next. The newer way, which users have, is
taken in their precision (`make test-x64-off`), by the lowest and the newest libraries,
the notebooks and the benchmarks.
"""

import os

from tests.processes import with_faster


def pytest_configure() -> None:
    """Choose the compiler, before anything is compiled."""
    # Processes that tests start inherit it.
    if os.environ.get("CONTEXTURE_TEST_X64", "1") == "1":
        os.environ["XLA_FLAGS"] = with_faster()
