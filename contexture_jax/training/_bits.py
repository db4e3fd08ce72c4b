"""The arrays of a state by name: whether all are finite, and sums over their bits."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array

__all__ = ["examined", "named"]


def named(tree: Any) -> dict[str, Any]:
    """Leaves by path: Orbax then need not know of our classes or Optax's."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path(path): leaf for path, leaf in leaves}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path).replace("/", "|")


@jax.jit
def _examined(leaves: list[Array]) -> tuple[Array, list[Array]]:
    """Whether all are finite, shape (); of each the sum over its bits, shape ()."""
    finite = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack([jnp.array(True), *finite])), [*map(_sum, leaves)]


def examined(state: Any) -> tuple[bool, dict[str, int]]:
    """Whether all of a state is finite, and a sum over the bits of each of its arrays.

    The sums are Σ_i w_i b_i modulo 2³² over the 32-bit words b_i of an array, with odd
    weights w_i that differ: any change of one word changes them, however the array is
    shared among devices.

    Args:
        state: a pytree of arrays.

    Returns:
        (is_finite, sums): the sums by the name of the array.
    """
    arrays = named(state)
    is_finite, sums = jax.device_get(_examined(list(arrays.values())))
    return bool(is_finite), dict(zip(arrays, map(int, sums), strict=True))


def _sum(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag])
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    elif leaf.dtype.itemsize >= 4:
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    else:
        size = jnp.uint16 if leaf.dtype.itemsize == 2 else jnp.uint8
        words = jax.lax.bitcast_convert_type(leaf, size).astype(jnp.uint32)
    weights = jnp.ones(words.shape, jnp.uint32)
    for axis, stride in enumerate(_strides(words.shape)):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weights += place * jnp.uint32(2 * stride * _SPREAD % 2**32)
    return jnp.sum(words * weights, dtype=jnp.uint32)


# Makes the weights differ in more than their low bits; odd.
_SPREAD = 0x9E3779B1


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
