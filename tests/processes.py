"""Two processes of this machine as one program of JAX, with two CPU devices each."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NUM_PROCESSES, NUM_DEVICES = 2, 4


def start(module: str, *arguments: Any) -> list[subprocess.Popen]:
    """Begin `python -m module INDEX PORT ARGUMENTS` for each index."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, str(index), str(port)]
            + [str(argument) for argument in arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(NUM_PROCESSES)
    ]


def finish(workers: list[subprocess.Popen], timeout: float) -> list[str]:
    """What each wrote to stderr; those that are not done in time are killed.

    One that waits for the other does not go by SIGTERM.
    """
    try:
        return [worker.communicate(timeout=timeout)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def join(index: int, port: str) -> None:
    """In a worker, before anything else of JAX: become one of the processes."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES // NUM_PROCESSES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_disable_most_optimizations", True)
    jax.distributed.initialize(f"127.0.0.1:{port}", NUM_PROCESSES, index)
    assert jax.device_count() == NUM_DEVICES
