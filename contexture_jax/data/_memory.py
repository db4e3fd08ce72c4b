"""How much memory is left, so that what would not fit is refused and not tried."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["available", "in_words"]

_CGROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that this process can still take; None where the system does not tell."""
    # The least of them: any one ends the process.
    known = [_of_machine(), _of_cgroup(), _of_process()]
    return min((room for room in known if room is not None), default=None)


def in_words(num_bytes: int) -> str:
    """`4.8 GB`, `12 kB`."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if size < 1e6 else f"{size:.1e} {unit}"


def _of_machine() -> int | None:
    for line in _text(Path("/proc/meminfo")).splitlines():
        name, _, rest = line.partition(":")
        # And not MemFree, which leaves out caches that the system gives up.
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _of_cgroup() -> int | None:
    """What the container has left; cached pages of files it can give up."""
    limit = _text(_CGROUP / "memory.max").strip()
    used = _text(_CGROUP / "memory.current").strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    fields = [line.split() for line in _text(_CGROUP / "memory.stat").splitlines()]
    # Without this, reading a large file would seem to fill the memory.
    cached = [int(field[1]) for field in fields if field[0] == "inactive_file"]
    return int(limit) - int(used) + sum(cached)


def _of_process() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(Path("/proc/self/statm")).split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    # Address space: what `ulimit -v` limits.
    return limit - int(pages[0]) * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
