"""One of two processes that train, one of which ends itself at a step.

Run as `python -m tests.training.ended INDEX PORT DIRECTORY WHO SIGNAL STEP`. After
SIGTERM the run is gone on with, and compared with one that nothing ended.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests import processes

NUM_STEPS, SAVE_EVERY = 16, 4


def main() -> None:
    index, port, directory = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    who, number, step = int(sys.argv[4]), signal.Signals[sys.argv[5]], int(sys.argv[6])
    processes.join(index, port)
    import contexture_jax as cx
    from tests.training.helpers import data, initial_state, make_step

    rows = cx.training.batches(data(), 64, seed=0, shard=(index, 2))
    compiled = cx.training.compile_step(make_step())

    def until() -> Iterator[Any]:
        for at, batch in enumerate(rows, start=1):
            if at == step and index == who:
                if number == signal.SIGKILL:  # once a checkpoint is whole
                    saved = directory / "run" / "checkpoints" / str(SAVE_EVERY)
                    while not saved.exists():
                        time.sleep(0.1)
                os.kill(os.getpid(), number)
            yield batch

    def train(batches: Any, where: Path | None) -> cx.training.FitResult:
        return cx.training.fit(
            compiled,
            initial_state(),
            batches,
            num_steps=NUM_STEPS,
            key=jax.random.key(9),
            directory=where,
            checkpoints=cx.training.Checkpoints(save_every=SAVE_EVERY),
            logging=cx.training.Logging(log_every=SAVE_EVERY // 2),
            # The batch of a step is read when the last one is done.
            devices=cx.training.Devices(prefetch_size=0),
        )

    ended = train(until(), directory / "run")
    again = train(rows, directory / "run")
    whole = train(rows, None)
    leaves = [
        np.asarray(leaf)
        for result in (again, whole)
        for leaf in jax.tree.leaves(result.state)
    ]
    np.savez(
        directory / f"{index}.npz",
        *leaves,
        status=[result.status for result in (ended, again, whole)],
        steps=[int(result.state.step) for result in (ended, again, whole)],
        message=ended.message,
        history=[again.history["loss"], whole.history["loss"]],
    )
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
