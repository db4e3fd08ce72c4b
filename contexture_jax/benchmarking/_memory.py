"""Resident memory of the process at the peak of a call."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

__all__ = ["peak_memory"]

_MEGA = 1e6


def peak_memory(run: Callable[[], Any]) -> tuple[float | None, Any]:
    """Megabytes of resident memory at the peak of a call, above its start.

    The kernel's high-water mark is reset before the call, after what was freed has been
    given back.

    Args:
        run: what to call; what it returns is waited for.

    Returns:
        The megabytes, None where the system has no such mark; and what `run` returned.
    """
    gc.collect()
    _give_back()
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")
        before = _high_water()
    except (OSError, TypeError):
        return None, jax.block_until_ready(run())
    result = jax.block_until_ready(run())
    return (_high_water() - before) / _MEGA, result


def _give_back() -> None:
    """Ask the C library to return freed memory, where it knows how to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _high_water() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise TypeError("no high-water mark in /proc/self/status")
    return 1024.0 * int(found[1])
