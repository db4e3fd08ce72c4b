"""Processes of this machine as one program of JAX, mostly two of two CPU devices."""

import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NUM_PROCESSES, NUM_DEVICES = 2, 4
_SECONDS = 100  # that one waits for another to come, or to live
# Each process would compile a hundred small programs anew. What another is writing, or
# was killed in writing, is compiled, and nothing is said of it.
KEEPING = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONWARNINGS": ",".join(
        f"ignore:Error {doing} persistent compilation cache"
        for doing in ("reading", "writing")
    ),
}

# On CPU the older of XLA's two ways to write loops compiles them in two thirds of the
# time, and each process compiles for itself. Named where it was tried: XLA ends a
# process that names a flag which it does not have.
FASTER = (
    "--xla_cpu_use_fusion_emitters=false"
    if version("jaxlib").startswith(("0.9.", "0.10."))
    else ""
)


def with_faster() -> str:
    """`XLA_FLAGS` of this process, and that."""
    return f"{os.environ.get('XLA_FLAGS', '')} {FASTER}".strip()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(*arguments: Any, **environment: Any) -> subprocess.Popen[str]:
    """Begin `python ARGUMENTS`, whose stdout nobody reads, in such an environment."""
    return subprocess.Popen(
        [sys.executable, *(str(argument) for argument in arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": with_faster(),
            **KEEPING,
            **{name: str(value) for name, value in environment.items()},
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(
    module: str, *arguments: Any, count: int = NUM_PROCESSES
) -> list[subprocess.Popen[str]]:
    """Begin `python -m module INDEX PORT ARGUMENTS` for each index."""
    port = free_port()
    return [begin("-m", module, index, port, *arguments) for index in range(count)]


def finish(workers: list[subprocess.Popen[str]], timeout: float) -> list[str]:
    """What each wrote to stderr; those that are not done in time are killed.

    One that waits for the other does not go by SIGTERM.
    """
    try:
        return [worker.communicate(timeout=timeout)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def wait_for(
    paths: list[Path], workers: list[subprocess.Popen[str]], since: float = 0.0
) -> None:
    """Until all files are there, and younger than a time; else nobody is left."""
    end = time.monotonic() + 300
    while not all(p.exists() and p.stat().st_mtime >= since for p in paths):
        if time.monotonic() > end or any(w.poll() is not None for w in workers):
            for worker in workers:
                worker.kill()
            raise AssertionError("\n".join(finish(workers, timeout=60)))
        time.sleep(0.02)


def join(index: int, port: str, count: int = NUM_PROCESSES) -> None:
    """In a worker, before anything else of JAX: become one of the processes."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES // count)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_disable_most_optimizations", True)
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        count,
        index,
        initialization_timeout=_SECONDS,
        heartbeat_timeout_seconds=_SECONDS,
    )
    assert jax.device_count() == NUM_DEVICES
