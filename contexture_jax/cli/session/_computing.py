"""What a run computes with: libraries, devices, a precision, programs that are kept."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contexture_jax.data import InputError, counted

__all__ = [
    "check_installed",
    "computing",
    "kept_programs",
    "make_mesh",
    "meanwhile",
    "precision",
]

_NEEDED = ("platformdirs", "pyarrow", "rich")
# Compiling is most of a first run.
_WORTH_KEEPING = 0.1  # seconds of it
_CORES = 2


def check_installed(*more: str, plots: bool) -> None:
    """Refuse to begin without the libraries that all commands need, or `more`.

    Args:
        more: names of others.
        plots: whether there will be pictures.

    Raises:
        InputError: if one is absent.
    """
    needed = (*_NEEDED, *more, *(["matplotlib"] if plots else []))
    absent = [name for name in needed if not _is_installed(name)]
    if absent:
        raise InputError(
            f"the command needs {', '.join(absent)}: pip install 'contexture_jax[cli]'"
        )


def _is_installed(name: str) -> bool:
    try:
        # Looked for and not imported, which takes seconds.
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent of it
        return False


def make_mesh(num_devices: int) -> Any:
    """A mesh of that many local devices with one axis, "x"; None for one device.

    A CPU is cut into as many devices as are asked for, which JAX does only before it
    first uses one.

    Raises:
        InputError: if there are fewer.
    """
    if num_devices == 1:
        return None
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Refused where a caller in this process has used JAX: what there is must do.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", num_devices)
    found = jax.local_devices()
    if len(found) < num_devices:
        kind = found[0].platform.upper()
        raise InputError(
            f"--devices {num_devices} is more than the"
            f" {counted(len(found), f'{kind} device')} of this machine; expected"
            f" --devices {len(found)} or less"
        )
    return jax.make_mesh(
        (num_devices,),
        ("x",),
        # Explicit, the default of newer JAX, refuses products over a sharded axis.
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=found[:num_devices],
    )


def meanwhile(function: Callable[[], object]) -> Callable[[], None]:
    """Run a function in a thread beside what follows, if there is a core for it.

    For what only saves time, as imports and compiling ahead: what it raises is dropped,
    since whoever needs it meets the same.

    Returns:
        A function that waits for its end.
    """
    # Of this process: a container or a queue may grant fewer than there are.
    if len(os.sched_getaffinity(0)) < _CORES:
        return lambda: None

    def run() -> None:
        with contextlib.suppress(Exception):
            function()

    thread = threading.Thread(target=run)
    thread.start()
    return thread.join


@contextmanager
def computing(dtype: str) -> Iterator[None]:
    """What all computing of a command is inside of."""
    from contexture_jax._core.threads import single_threaded_lapack

    with kept_programs(), precision(dtype), single_threaded_lapack():
        yield


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Set JAX's x64 mode, and put it back for a caller in the same process."""
    import jax

    # Before the first array: what was made in another precision stays in it.
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


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
    # A caller's choice, or that of the environment, which JAX has read by now.
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

    # A short name for a long list of instruction sets.
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
    # A program with instructions that a processor lacks would be killed there.
    return next(
        (line for line in lines if line.startswith(("flags", "Features"))),
        platform.processor(),
    )
