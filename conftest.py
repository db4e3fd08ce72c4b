"""What has to be set before JAX computes: a compiler for programs that run once.

Most of the time of tests and doctests is compiling. On CPU the older of XLA's two ways
to write loops compiles them in two thirds of the time; the results are the same to
rounding. Slow tests take the newer way, which users have, as do the lowest and the
newest libraries.
"""

import os

import pytest

from tests.processes import with_faster


def pytest_configure(config: pytest.Config) -> None:
    """Choose the compiler, before anything is compiled."""
    # Processes that tests start inherit it.
    if config.getoption("markexpr") != "slow":
        os.environ["XLA_FLAGS"] = with_faster()
