"""Random blocks from a counter: cheap to compile, the same on any number of devices.

A block of `jax.random.normal` takes more than a second to compile on CPU at each new
shape, and a solver needs half a dozen. Here each entry is a hash of its own indices and
a seed drawn from the key, so rows that live on other devices need no communication.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.either import Either, namespace
from contexture_jax._core.types import Array, Inexact, Shaped

__all__ = ["Seed", "fold", "make_seed", "random_block", "seed_at_hand"]

Seed = Shaped[Either, ""]


def make_seed(key: Array) -> Seed:
    """A seed (uint32) from a random key."""
    return jax.random.bits(key, (), jnp.uint32)


def seed_at_hand(key: Array) -> Seed | None:
    """The same of NumPy, for a key of the usual kind; None for others."""
    is_usual = str(jax.random.key_impl(key)) == "threefry2x32"
    if not is_usual or not getattr(jax.config, "jax_threefry_partitionable", True):
        return None
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = np.asarray(jax.random.key_data(key) if typed else key)
    return np.uint32(_threefry(*words.tolist()))


def _threefry(one: int, other: int) -> int:
    """The block cipher of zeros, 20 rounds (Salmon, Moraes, Dror & Shaw 2011)."""
    keys, whole = (one, other, one ^ other ^ 0x1BD11BDA), 2**32 - 1
    x, y = one, other
    for block in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            x = (x + y) & whole
            y = ((y << turn | y >> (32 - turn)) & whole) ^ x
        x = (x + keys[(block + 1) % 3]) & whole
        y = (y + keys[(block + 2) % 3] + block + 1) & whole
    return x ^ y


def fold(seed: Seed, number: Either) -> Seed:
    """Another seed for each number; of NumPy if both are."""
    host = (np.ndarray, np.generic)
    xp = np if isinstance(seed, host) and isinstance(number, (int, *host)) else jnp
    # NumPy warns where scalars wrap around, which is meant here.
    with np.errstate(over="ignore"):
        # 2³² over the golden ratio, whose multiples spread evenly; 1 is added because
        # `_mix` takes 0 to 0.
        offset = xp.asarray(number).astype(np.uint32) * np.uint32(0x9E3779B9)
        return _mix(seed ^ _mix(offset + np.uint32(1)))


def random_block(
    seed: Seed, size: int, width: int, dtype: Any
) -> Inexact[Either, "size width"]:
    """Independent uniform numbers of mean 0 and variance 1, complex ones on both axes.

    Sub-Gaussian entries serve the randomized range finder as normal ones do (Halko,
    Martinsson & Tropp 2011, §4.6). A seed of NumPy gives an array of NumPy.
    """
    if namespace(seed) is np:
        # (size, 1) and (1, width).
        rows, columns = (x.astype(np.uint32) for x in np.ogrid[:size, :width])
    else:
        # Cut over devices each makes the numbers of its own rows.
        rows, columns = (
            jax.lax.broadcasted_iota(jnp.uint32, (size, width), axis) for axis in (0, 1)
        )

    def uniform(stream: int, real: Any) -> Either:
        # One after the other and each with a seed of its own: (i, j) and (j, i) differ.
        bits = _mix(rows ^ fold(seed, 2 * stream))
        bits = _mix(bits + _mix(columns ^ fold(seed, 2 * stream + 1)))
        # 24 bits are exact in float32; centred, so that the mean is 0.
        unit = ((bits >> 8).astype(real) + 0.5) * 2.0**-23 - 1.0
        # Uniform on (−√3, √3), of variance 1.
        return unit * 3.0**0.5

    if jnp.issubdtype(dtype, jnp.complexfloating):
        real = np.finfo(dtype).dtype
        parts = uniform(0, real), uniform(1, real)
        if namespace(parts[0]) is np:
            both = parts[0] + np.asarray(1j, dtype) * parts[1]
        else:
            both = jax.lax.complex(*parts)
        # Half of the variance on each axis.
        return both * np.asarray(0.5**0.5, dtype)
    return uniform(0, dtype)


def _mix(x: Either) -> Either:
    """A permutation of 32-bit integers that scrambles them well (two rounds)."""
    # Those of Wellons' lowbias32; odd, so that products mod 2³² lose nothing.
    for multiplier in (0x7FEB352D, 0x846CA68B):
        x = (x ^ (x >> 16)) * np.uint32(multiplier)
    return x ^ (x >> 16)
