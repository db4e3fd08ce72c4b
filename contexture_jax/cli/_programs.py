"""Compiled programs, kept for the next run: compiling is most of the first one."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["kept_programs"]

_WORTH_KEEPING = 0.1  # seconds of compiling


@contextmanager
def kept_programs() -> Iterator[None]:
    """JAX's persistent compilation cache, in the user's cache directory.

    Left alone where a caller or the environment (`JAX_COMPILATION_CACHE_DIR`) chose a
    directory, or switched the cache off (`JAX_ENABLE_COMPILATION_CACHE=0`), and where
    that directory cannot be written. One directory for each kind of processor: a home
    may be shared between machines, and programs are compiled for the one at hand.
    """
    import jax

    settings = {
        "jax_compilation_cache_dir": str(_directory()),
        "jax_persistent_cache_min_compile_time_secs": _WORTH_KEEPING,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    chosen = before["jax_compilation_cache_dir"] is not None
    if chosen or not _is_enabled() or not _made():
        yield
        return
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _is_enabled() -> bool:
    import jax

    config: Any = jax.config
    return config.jax_enable_compilation_cache


def _directory() -> Path:
    import platformdirs

    kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    cache = platformdirs.user_cache_path("contexture_jax", appauthor=False)
    return cache / "programs" / f"{platform.machine()}-{kind}"


def _made() -> bool:
    try:
        _directory().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _processor() -> str:
    """What tells one kind of processor from another: its instruction sets, on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line for line in lines if line.startswith(("flags", "Features"))),
        platform.processor(),
    )
