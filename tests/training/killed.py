"""A run that kills its own process: `python -m tests.training.killed DIR WHERE STEP`.

WHERE is "run", at the batch of that step; "begin", as the save of that step begins; or
"save", when all of it is written and its name alone is not final yet.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests import conftest  # noqa: F401 - the settings of the suite
from tests.training.runs import rows, train

EVENTS = {"begin": "os.mkdir", "save": "os.rename"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(event: str, step: int) -> None:
    """Kill as Python makes or renames a directory of the unfinished checkpoint."""
    unfinished = f"{os.sep}checkpoints{os.sep}{step}."

    def hook(name: str, arguments: Any) -> None:
        if name == event and unfinished in os.fsdecode(arguments[0]):
            die()

    sys.addaudithook(hook)


def until(step: int) -> Any:
    for number, batch in enumerate(rows(), start=1):
        if number == step:
            die()
        yield batch


def main() -> None:
    directory, where, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if where != "run":
        die_at(EVENTS[where], step)
    # Without looking ahead the batch of a step is read when the last one is done.
    train(directory, data=until(step) if where == "run" else rows(), prefetch_size=0)


if __name__ == "__main__":
    main()
