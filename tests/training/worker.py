"""One of two processes that train together.

Run as `python -m tests.training.worker INDEX PORT DIRECTORY`.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from tests import processes

NUM_STEPS = 5


def main() -> None:
    index, port, directory = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    processes.join(index, port)
    import contexture_jax as cx
    from tests.training.helpers import data, initial_state, make_step

    rows = cx.training.batches(data(), 64, seed=0, shard=(index, 2))
    for num_steps in (3, NUM_STEPS):  # the second call goes on with the first
        result = cx.training.fit(
            make_step(num_micro_batches=2),
            initial_state(),
            rows,
            num_steps=num_steps,
            key=jax.random.key(9),
            directory=directory / "run",
            logging=cx.training.Logging(log_every=1),
        )
    compiled = cx.training.compile_step(make_step(), "shard_map")
    mapped, metrics = compiled(
        compiled.place_state(initial_state()),
        rows.at(0),
        compiled.place_state(jax.random.key(9)),
    )
    np.savez(
        directory / f"{index}.npz",
        *(np.asarray(leaf) for leaf in jax.tree.leaves((result.state, mapped))),
        loss=np.asarray(metrics["loss"]),
        history=result.history["loss"],
    )
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
