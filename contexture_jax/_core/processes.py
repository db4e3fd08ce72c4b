"""Arrays of several processes: what each can read, and how all come to one answer.

In a program of several processes (`jax.distributed.initialize`) an array may be cut
over devices of all of them, and no process can then read it whole. The functions here
that take such an array communicate: every process calls them, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from contexture_jax._core.types import Array, Bool

__all__ = [
    "gathered",
    "held_here",
    "in_shares",
    "judged",
    "largest",
    "placed",
    "ready",
    "spans_processes",
    "summed",
]

# Numbers that are told in one go: those of all processes are in the memory of each.
_CHUNK = 1 << 20


def spans_processes(x: Any) -> bool:
    """Whether an array is cut over several processes, so that none can read it all."""
    return (
        isinstance(x, jax.Array)
        and not isinstance(x, Tracer)
        # A copy on every device can be read by every process.
        and not (x.is_fully_addressable or x.is_fully_replicated)
    )


def gathered(x: Any) -> np.ndarray:
    """The values of a concrete array, whole, in each process."""
    if spans_processes(x):
        # Tiled: the whole, and not a stack of parts.
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def held_here(x: Array) -> Array:
    """An array of this process alone, with all values, if other devices hold some."""
    if isinstance(x, Tracer) or x.is_fully_addressable:
        return x
    return jnp.asarray(gathered(x))


def in_shares(
    num_rows: int, rows: Callable[[int, int], np.ndarray], num_columns: int
) -> np.ndarray:
    """A table of which each process computes some rows, whole in each of them.

    Args:
        num_rows: n.
        rows: from the first of some rows, and the one after the last, to those rows, of
            shape (count, num_columns) and int32.
        num_columns: of the table.
    """
    count = jax.process_count()
    if count == 1:
        return rows(0, num_rows)
    share = -(-num_rows // count)
    start = min(share * jax.process_index(), num_rows)
    stop = min(start + share, num_rows)
    # The last ones have fewer: programs take one shape of all.
    own = np.zeros((share, num_columns), np.int32)
    if start < stop:
        own[: stop - start] = rows(start, stop)
    whole = multihost_utils.process_allgather(own, tiled=True)
    return np.asarray(whole)[:num_rows]


def summed(x: np.ndarray) -> np.ndarray:
    """The sum over all processes of an array of NumPy, shape (size,), in each."""
    return _reduced(x, lambda rows: rows.sum(axis=0))


def largest(x: np.ndarray) -> np.ndarray:
    """The largest of each number over all processes; as `summed`."""
    return _reduced(x, lambda rows: rows.max(axis=0))


def _reduced(x: np.ndarray, reduce: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    # In NumPy, whose float64 and int64 do not hang on a mode of JAX.
    out = np.empty_like(x)
    for start in range(0, len(x), _CHUNK):
        part = np.ascontiguousarray(x[start : start + _CHUNK])
        bits = multihost_utils.process_allgather(part.view(np.uint32), tiled=True)
        rows = np.ascontiguousarray(bits).view(x.dtype).reshape(-1, len(part))
        out[start : start + len(part)] = reduce(rows)
    return out


def judged(x: Array, ok: Callable[[np.ndarray], np.ndarray]) -> Bool[Array, "..."]:
    """`ok` of each entry, cut as `x` is; each process looks at the part that it holds.

    Args:
        x: an array of several processes.
        ok: from values to booleans of the same shape, entry by entry.
    """
    # Truth values are made where each part lies: no number is sent.
    parts = [
        jax.device_put(ok(np.asarray(shard.data)), shard.device)
        for shard in x.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)


def placed(x: Any, sharding: NamedSharding) -> Array:
    """An array where a sharding says.

    Values of the host must be the same in every process; each places what its devices
    are to hold, and no one compares, as `jax.device_put` would by sending all of it.
    """
    # What is traced or cut already JAX moves by itself.
    is_here = not isinstance(x, Tracer) and not spans_processes(x)
    if sharding.is_fully_addressable or not is_here:
        return jax.device_put(x, sharding)
    values = np.asarray(x)
    return jax.make_array_from_callback(
        values.shape, sharding, lambda index: values[index]
    )


def ready(arrays: Any) -> Any:
    """The same arrays; those of several processes are waited for.

    A process runs up to 32 programs ahead of itself on a CPU device and then blocks a
    thread, without which, if there are no more threads than devices, none of them ends.
    Chains of operations outside a program must be shorter than that.
    """
    leaves = jax.tree.leaves(arrays)
    # Within one process nobody waits for another, and programs may run ahead.
    if any(
        isinstance(leaf, jax.Array)
        and not isinstance(leaf, Tracer)
        and not leaf.is_fully_addressable
        for leaf in leaves
    ):
        jax.block_until_ready(arrays)
    return arrays
