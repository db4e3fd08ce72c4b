"""One of several processes that train for a while, to be killed in the middle.

Run as `python -m tests.training.lasting INDEX PORT DIRECTORY COUNT`.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests import processes

NUM_STEPS = 30
SECONDS_A_STEP = 0.1


def main() -> None:
    index, port, directory = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    count = int(sys.argv[4])
    processes.join(index, port, count)
    import contexture_jax as cx
    from tests.training.helpers import data, initial_state, make_step

    def slowly() -> Iterator[Any]:
        for batch in cx.training.batches(data(), 64, seed=0, shard=(index, count)):
            time.sleep(SECONDS_A_STEP)
            yield batch

    result = cx.training.fit(
        make_step(),
        initial_state(),
        slowly(),
        num_steps=NUM_STEPS,
        key=jax.random.key(9),
        directory=directory / "run",
        checkpoints=cx.training.Checkpoints(save_every=2),
        logging=cx.training.Logging(log_every=1),
        devices=cx.training.Devices(prefetch_size=0),
    )
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(result.state))
    np.savez(directory / f"{index}.npz", *leaves, history=result.history["loss"])
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
