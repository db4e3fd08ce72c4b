"""One of several processes that train for a while, to be killed in the middle.

Run as `python -m tests.training.lasting INDEX PORT DIRECTORY COUNT STEPS [WHOLE]`. With
WHOLE, a run that nothing ended comes after, and the states of both are saved.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests import processes

SECONDS_A_STEP = 0.1


def main() -> None:
    index, port, directory = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    count, num_steps = int(sys.argv[4]), int(sys.argv[5])
    processes.join(index, port, count)
    import contexture_jax as cx
    from tests.training.helpers import data, initial_state, make_step

    rows = cx.training.batches(data(), 64, seed=0, shard=(index, count))
    compiled = cx.training.compile_step(make_step())

    def slowly() -> Iterator[Any]:
        for batch in rows:
            time.sleep(SECONDS_A_STEP)
            yield batch

    def train(batches: Any, where: Path | None) -> cx.training.FitResult:
        return cx.training.fit(
            compiled,
            initial_state(),
            batches,
            num_steps=num_steps,
            key=jax.random.key(9),
            directory=where,
            checkpoints=cx.training.Checkpoints(save_every=4),
            logging=cx.training.Logging(log_every=1),
            devices=cx.training.Devices(prefetch_size=0),
        )

    ended = train(slowly(), directory / "run")
    if sys.argv[6:]:
        whole = train(rows, None)
        for name, result in (("ended", ended), ("whole", whole)):
            leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(result.state))
            history = result.history["loss"]
            np.savez(directory / f"{name}{index}.npz", *leaves, history=history)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
