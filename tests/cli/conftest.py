"""Runs of the command in this process leave the user's cache alone."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def no_kept_programs():
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)
