"""A run in several processes: they end together, and one that dies is missed.

Nothing here does anything in a program of one process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from contexture_jax._core.watch import UnsharedError, watched
from contexture_jax.training._checkpoint import newest_in
from contexture_jax.training._errors import CheckpointError

__all__ = ["agreement", "watching"]

# Steps between asking and knowing: no step waits for what its devices have not done.
_LAG = 4


def agreement(mesh: Mesh) -> Callable[[int], int] | None:
    """How the processes of a mesh come to one signal number; None where there is one.

    The function that is returned is called in all processes, once a step. It gives to
    all of them, in the same call, the largest number that one of them was given four
    calls before; 0 counts as none. Each call adds one number to what devices tell.
    """
    if not mesh.is_multi_process:
        return None
    # One number a device: the collective is of the kind that steps have anyway.
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    under_way: deque[jax.Array] = deque()
    # The arrays that say "nothing", or one signal, are made once, not at every step.
    told: dict[int, jax.Array] = {}

    def agree(received: int) -> int:
        if received not in told:
            local = np.full(len(mesh.local_devices), received, np.int32)
            told[received] = jax.make_array_from_process_local_data(rows, local)
        # Begun by all in the same order; JAX runs behind the program, so nothing waits
        # yet.
        under_way.append(jnp.max(told[received]))
        # All processes read the result of the same call: they stop at the same step, or
        # one would wait in a collective that the others do not enter.
        return int(under_way.popleft()) if len(under_way) > _LAG else 0

    return agree


def watching(checkpoints: Path, mesh: Mesh) -> AbstractContextManager[Any]:
    """End this process, with a line that says so, when another one of the run is gone.

    Nothing where the devices of the mesh are not those of all processes.

    Args:
        checkpoints: where those of the run go, shared by all processes.
        mesh: of the run.
    """
    members = {device.process_index for device in mesh.devices.flat}
    # All of them, as they all meet to begin.
    if not mesh.is_multi_process or len(members) < jax.process_count():
        return nullcontext()

    def told() -> str:
        step = newest_in(checkpoints)
        if step is None:
            return f"there is no checkpoint in {checkpoints}: the same call begins anew"
        return (
            f"the checkpoint of step {step} in {checkpoints} is whole: start all"
            " processes again, and the same call goes on from it"
        )

    return _watched(checkpoints.parent / "processes", told)


@contextmanager
def _watched(folder: Path, told: Callable[[], str]) -> Iterator[None]:
    try:
        with watched(folder, told):
            yield
    except UnsharedError as error:
        raise CheckpointError(str(error)) from error
