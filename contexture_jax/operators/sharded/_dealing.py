"""Rows dealt out like cards, and taken back: one exchange between all devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array
from contexture_jax.operators.sharded._common import pad_rows
from contexture_jax.operators.sharded._layout import deals_to

__all__ = ["deal", "undeal"]


def deal(x: Array, axis: str, num_devices: int) -> Array:
    """The rows of each device, a few at a time, one to each device."""
    x = pad_rows(x, num_devices).reshape(-1, num_devices, x.shape[1])
    # (turns, k, r), each turn from another device on; rows of one device side by side.
    x = _turned(x, axis, num_devices, -1).swapaxes(0, 1)
    return _exchanged(x.reshape(-1, x.shape[2]), axis)


def undeal(x: Array, axis: str, num_devices: int) -> Array:
    """Back to the device that they came from."""
    x = _exchanged(x, axis).reshape(num_devices, -1, x.shape[1]).swapaxes(0, 1)
    return _turned(x, axis, num_devices, 1).reshape(-1, x.shape[2])


def _exchanged(x: Array, axis: str) -> Array:
    # JAX fails to transpose an exchange that moves an axis.
    return jax.lax.all_to_all(x, axis, 0, 0, tiled=True)


def _turned(x: Array, axis: str, num_devices: int, way: int) -> Array:
    """Row j of a turn in the place of the device that it goes to, or back."""
    turns = jnp.arange(x.shape[0], dtype=jnp.uint32)
    device = jax.lax.axis_index(axis).astype(jnp.uint32)
    first = deals_to(device, turns, num_devices)
    source = (jnp.arange(num_devices)[None, :] + way * first[:, None]) % num_devices
    return jnp.take_along_axis(x, source[:, :, None], axis=1)
