"""Settings of the whole suite: x64 on, strict promotion, no silent broadcasting."""

import os

import jax
import pytest

X64 = os.environ.get("CONTEXTURE_TEST_X64", "1") == "1"

# The layers below the front doors compile inside tests; strictness there costs nothing.
jax.config.update("jax_enable_x64", X64)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the suite's time is compiling; the programs run for milliseconds.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def key() -> jax.Array:
    """One fixed key; tests split it."""
    return jax.random.key(20250725)
