"""A run that kills its own process: `python -m tests.training.killed DIR WHERE STEP`.

WHERE is "run", at the batch of that step, or "save", inside the save of that step.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax

from tests import conftest  # noqa: F401 - the settings of the suite


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_inside_save(directory: Path, step: int) -> None:
    """Wait until Orbax writes that checkpoint, and kill."""
    while True:
        if any(directory.glob(f"checkpoints/{step}.*tmp*")):
            die()
        time.sleep(0)


def until(step: int) -> Any:
    from tests.training.test_fit import rows

    for number, batch in enumerate(rows(), start=1):
        if number == step:
            die()
        yield batch


def main() -> None:
    from tests.training.test_fit import rows, train

    directory, where, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if where == "save":
        threading.Thread(
            target=die_inside_save, args=(directory, step), daemon=True
        ).start()
    # Without looking ahead the batch of a step is read when the last one is done.
    jax.block_until_ready(
        train(
            directory,
            data=until(step) if where == "run" else rows(),
            prefetch_size=0,
        ).state
    )


if __name__ == "__main__":
    main()
