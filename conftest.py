"""What has to be set before JAX computes: a compiler for programs that run once.

Most of the time of tests and doctests is compiling. On CPU the older of XLA's two ways
to write loops compiles them in two thirds of the time; the results are the same to
rounding. Slow tests take the newer way, which users have, as do the lowest and the
newest libraries: XLA ends a process that names a flag which it does not have.
"""

import os
from importlib.metadata import version

import pytest

_FLAG = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config: pytest.Config) -> None:
    """Choose the compiler, before anything is compiled."""
    # The releases where it was tried; processes that tests start inherit it.
    known = version("jaxlib").startswith(("0.9.", "0.10."))
    if known and config.getoption("markexpr") != "slow":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
