"""The arrays of a state by name: whether all are finite, and sums over their bits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.fingerprint import words
from contexture_jax._core.types import Array

__all__ = ["examined", "named"]


def named(tree: Any) -> dict[str, Any]:
    """Leaves by path: Orbax then need not know of our classes or Optax's."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path(path): leaf for path, leaf in leaves}


def _path(path: Any) -> str:
    # A name may become a path of Orbax's, where a slash would start a folder.
    return jax.tree_util.keystr(path).replace("/", "|")


@jax.jit
def _examined(leaves: list[Array]) -> tuple[Array, list[Array]]:
    """Whether all are finite, shape (); of each the sum over its bits, shape ()."""
    # Counters and keys are whole numbers, which are always finite.
    finite = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    # One flag from the device, however many arrays; the first is for a state without
    # floats.
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
    # The only wait for the device, for all of it together.
    is_finite, sums = jax.device_get(_examined(list(arrays.values())))
    return bool(is_finite), dict(zip(arrays, map(int, sums), strict=True))


def _sum(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # Typed keys have no bits to add up; their words have.
        leaf = jax.random.key_data(leaf)
    bits = words(leaf, jnp)
    places = jnp.arange(bits.shape[0], dtype=jnp.uint32)
    # Odd for every place, hence invertible modulo 2³²: no change of one word is
    # multiplied by 0.
    weights = jnp.uint32(1) + places * jnp.uint32(2 * _SPREAD % 2**32)
    return jnp.sum(bits * weights, dtype=jnp.uint32)


# Makes the weights differ in more than their low bits; odd.
_SPREAD = 0x9E3779B1
