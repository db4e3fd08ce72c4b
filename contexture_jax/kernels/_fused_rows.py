"""Sums of gathered rows in one fused kernel for a TPU: the twin of `sum_slots`.

Rows of the block stay in the main memory of the device. Those that a slot reads are
copied to the core one by one, while the rows of the slot before are added: no gathered
array is written. Of float32 alone; gradients are those of the form for XLA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array, Float, Int
from contexture_jax.kernels._fused import Implementation, by_implementation

__all__ = ["fused_sum_rows", "sum_rows"]

_ROWS = 128  # that a core sums at a time: copies under way at once are twice as many


def sum_rows(
    by_steps: Callable[[Any, Array], Array],
    bucket: Any,
    x: Float[Array, "m r"],
    implementation: Implementation,
) -> Float[Array, "n r"]:
    """Sums of the rows that a bucket names, one way or the other.

    Args:
        by_steps: the form for XLA, of the bucket and the block.
        bucket: places and weights, shape (k, n); None: all 1.
        x: the block.
        implementation: as of `by_implementation`.
    """
    indices, weights = bucket[:2]
    floating = [x] if weights is None else [x, weights]
    fits = all(a.dtype == jnp.float32 for a in floating) and all(
        isinstance(s, int) and s for s in (*indices.shape, *x.shape)
    )

    def fused(bucket: Any, x: Array, interpret: bool) -> Array:
        indices, weights = bucket[:2]
        return fused_sum_rows(indices, weights, x, interpret=interpret)

    return by_implementation(implementation, fits, by_steps, fused, bucket, x)


def fused_sum_rows(
    indices: Int[Array, "k n"],
    weights: Float[Array, "k n"] | None,
    x: Float[Array, "m r"],
    *,
    interpret: bool,
) -> Float[Array, "n r"]:
    """Σ_j weights[j] · x[indices[j]]; without weights they are 1.

    Args:
        indices: rows of the block, slot-major, int32.
        weights: of each, the same shape.
        x: the block.
        interpret: step by step, on any device.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    (num_slots, n), r = indices.shape, x.shape[1]
    # A place past the end is no row, and would be copied from anywhere.
    past = ((0, 0), (0, -n % _ROWS))
    given = [jnp.pad(indices, past)]
    if weights is not None:
        given.append(jnp.pad(weights, past).T)

    in_specs = [
        pl.BlockSpec((num_slots, _ROWS), lambda i: (0, i), memory_space=pltpu.SMEM),
        pl.BlockSpec(memory_space=pl.ANY),
    ]
    if weights is not None:
        in_specs.insert(1, pl.BlockSpec((_ROWS, num_slots), lambda i: (i, 0)))
    blocks = given[0].shape[1] // _ROWS
    total = pl.pallas_call(
        _add_slots,
        grid=(blocks,),
        in_specs=in_specs,
        # A row is a table of one row: as such it may be copied alone.
        out_specs=pl.BlockSpec((_ROWS, 1, r), lambda i: (i, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((blocks * _ROWS, 1, r), jnp.float32),
        scratch_shapes=[
            pltpu.VMEM((2, _ROWS, 1, r), jnp.float32),
            pltpu.SemaphoreType.DMA((2,)),
        ],
        interpret=interpret,
    )(*given, x[:, None, :])
    return total[:n, 0]


def _add_slots(index: Any, *refs: Any) -> None:
    """The sums of some rows, slot by slot.

    Args:
        index: places in the block, shape (k, rows), of numbers.
        *refs: weights, shape (rows, k), if there are any; the block; the result, shape
            (rows, 1, r); room for the rows of two slots, and what tells that they came.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    num_slots = index.shape[0]
    *weight, table, out, rows, done = refs

    def copy(slot: Any, row: Any) -> Any:
        half = slot % 2
        return pltpu.make_async_copy(
            table.at[index[slot, row]], rows.at[half, row], done.at[half]
        )

    def start(slot: Any) -> None:
        @pl.loop(0, _ROWS)
        def _(row: Any) -> None:
            copy(slot, row).start()

    start(0)
    out[...] = jnp.zeros_like(out)

    @pl.loop(0, num_slots)
    def _(slot: Any) -> None:
        # The next slot is on its way while this one is added.
        @pl.when(slot + 1 < num_slots)
        def _() -> None:
            start(slot + 1)

        @pl.loop(0, _ROWS)
        def _(row: Any) -> None:
            copy(slot, row).wait()

        term = rows[slot % 2]
        if weight:
            # Its column of the weights, by a sum: a core takes no column by number.
            number = jax.lax.broadcasted_iota(jnp.int32, weight[0].shape, 1)
            own = jnp.where(number == slot, weight[0][...], 0.0)
            term = own.sum(axis=1, keepdims=True)[:, :, None] * term
        out[...] += term
