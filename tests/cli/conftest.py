"""Runs of the command in this process leave the user's cache alone."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def no_kept_programs():
    before = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)
