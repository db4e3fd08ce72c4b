"""Fingerprints of laws: eight small numbers that tell one tree of arrays from another.

They are checksums, not cryptography: what differs by mistake has another fingerprint
but for one chance in 2⁶⁴, and the same values have the same one, wherever they lie and
whatever made them.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.checks import is_traced
from contexture_jax._core.types import Array, Bool

__all__ = [
    "fingerprint",
    "forgotten",
    "is_known",
    "is_mirrored",
    "mirrored",
    "of_one_law",
    "words",
]

_WORD = 2**32
# The golden ratio, both multipliers of MurmurHash3, a prime of xxHash: all odd, so that
# products modulo 2³² lose nothing.
_STEP, _FIRST, _SECOND, _THIRD = 0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F
_SMALL = 2**23  # words that NumPy sums sooner than a program would be compiled
_MIRROR = np.float32(2**16)  # added to the first number of a mirrored fingerprint


def fingerprint(tree: Any) -> Any:
    """The fingerprint of a pytree, by value: shape (8,), float32, numbers below 2¹⁶.

    The first four are of the structure: kinds, static fields, shapes and dtypes. The
    others are of the values, two sums over the bits of all arrays that see the order.
    Floating, so that gradients may be taken with respect to what carries it; 16 bits
    are exact there. O(size): nothing is sorted, and no product is taken.

    Args:
        tree: arrays and numbers in any tree, concrete or traced, on any devices.

    Returns:
        An array of NumPy outside a trace, and in one if all of `tree` is concrete; None
        if leaves are no numbers, such as shapes alone.
    """
    leaves, structure = jax.tree.flatten(tree)
    leaves = [_as_words(leaf) for leaf in leaves]
    if any(leaf is None for leaf in leaves):
        return None
    named = [structure, *((leaf.shape, str(leaf.dtype)) for leaf in leaves)]
    # Functions among static fields print with an address, which says nothing.
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(named))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # Four numbers of 16 bits, in one order of bytes on every machine.
    head = np.frombuffer(digest, "<u2").astype(np.float32)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return jnp.concatenate([jnp.asarray(head), _sums(leaves)])
    near = all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves)
    if near and sum(leaf.nbytes for leaf in leaves) <= 4 * _SMALL:
        return np.concatenate([head, _sums([np.asarray(leaf) for leaf in leaves])])
    if not isinstance(jnp.zeros((), np.uint32), Tracer):
        return np.concatenate([head, np.asarray(_compiled_sums(leaves))])
    # In the middle of a trace, too: what is given has values. Not outside, as the
    # numbers of all words would become a constant of the program, which stays.
    with jax.ensure_compile_time_eval():
        return np.concatenate([head, np.asarray(_compiled_sums(leaves))])


def _difference(one: Any, two: Any) -> str | None:
    """What tells two concrete fingerprints apart, in words; None if they agree."""
    one, two = np.asarray(one), np.asarray(two)
    if one.shape == two.shape and (mirrored(one) == two).all():
        return "with X and A in each other's place"
    if (one[..., :4] != two[..., :4]).any():
        return "of another kind, shape, dtype or option"
    if (one != two).any():
        return "of the same kind with other values"
    return None


def is_known(mark: Any) -> bool:
    """Whether it is the fingerprint of a law, as far as a trace can tell."""
    if mark is None or is_traced(mark):
        return mark is not None
    return bool((np.asarray(mark) >= 0).all())


def forgotten(mark: Any) -> Any:
    """In place of a fingerprint one of no law, so that a tree keeps its structure."""
    if isinstance(mark, jax.Array):
        return jnp.full_like(mark, -1)
    return np.full_like(mark, -1) if isinstance(mark, np.ndarray) else mark


def mirrored(mark: Any) -> Any:
    """The fingerprint with X and A in each other's place; twice is the first again.

    Args:
        mark: of a law, shape (…, 8); what is no fingerprint stays as it is.
    """
    if not isinstance(mark, (jax.Array, np.ndarray)):
        return mark
    xp: Any = jnp if isinstance(mark, jax.Array) else np
    # The first number is below 2¹⁶, or if it is mirrored as much above.
    step = np.broadcast_to(_MIRROR * (np.arange(8) == 0), mark.shape)
    turned = xp.where(mark < _MIRROR, mark + step, mark - step)
    return xp.where(mark < 0, mark, turned)


def is_mirrored(mark: Any) -> bool:
    """Whether it is concrete, and that of a law with X and A in each other's place."""
    if mark is None or is_traced(mark):
        return False
    return bool((np.asarray(mark)[..., 0] >= _MIRROR).all())


def of_one_law(one: Any, two: Any, expected: str) -> Bool[Array, ""] | bool:
    """Whether two fingerprints agree, or one is not known; shape () inside a trace.

    Args:
        one: of the result, shape (8,), or None or what is `forgotten`.
        two: of what it is used with.
        expected: what to say if they differ: what should have come.

    Raises:
        ValueError: if both are concrete and differ.
    """
    if not is_known(one) or not is_known(two):
        return True
    if is_traced(one, two):
        one, two = jnp.asarray(one), jnp.asarray(two)
        # What is `forgotten` is −1, and agrees with anything.
        return (one == two).all() | (one < 0).any() | (two < 0).any()
    found = _difference(one, two)
    if found is not None:
        msg = f"{expected}; got one {found}"
        raise ValueError(msg)
    return True


def _as_words(leaf: Any) -> Any:
    """A leaf as an array whose bits can be read."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    if isinstance(leaf, Tracer):
        # Bits have no derivative.
        return jax.lax.stop_gradient(leaf)
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex)):
        return None
    leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    # bfloat16 and narrower floats are of no kind that NumPy has.
    return leaf if leaf.dtype.kind in "biufc" or leaf.dtype.itemsize < 4 else None


def _sums(leaves: list[Any]) -> Any:
    """Two sums modulo 2³² over all words, as four numbers of 16 bits.

    Each word is mixed with its place before it is added, so that the sums depend on the
    order of words but not on that of the additions: over devices too.
    """
    xp: Any = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
    total = xp.zeros((2,), np.uint32)
    for number, leaf in enumerate(leaves):
        bits = words(leaf, xp)
        # Another one a leaf: two that change places change the sums.
        start = np.uint32((number + 1) * _THIRD % _WORD)
        h = bits ^ (xp.arange(bits.shape[0], dtype=np.uint32) * np.uint32(_STEP))
        h = (h + start) * np.uint32(_FIRST)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(_SECOND)
        h = h ^ (h >> np.uint32(13))
        other = (h * np.uint32(_THIRD)) ^ (h >> np.uint32(16))
        total = total + _both_sums(h, other)
    halves = xp.concatenate([total >> np.uint32(16), total & np.uint32(0xFFFF)])
    return halves.astype(np.float32)


def _both_sums(x: Any, y: Any) -> Any:
    if isinstance(x, np.ndarray):
        return np.stack([z.sum(dtype=np.uint32) for z in (x, y)])
    zero = np.uint32(0)
    # One reduction of pairs: of two, XLA on CPU makes two passes, each far slower.
    return jnp.stack(
        jax.lax.reduce(
            (x, y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,)
        )
    )


# One pass over arrays that are large.
_compiled_sums = jax.jit(_sums)


def words(leaf: Any, xp: Any) -> Any:
    """The bits of an array as a vector of uint32, low words first.

    Args:
        leaf: of any shape; numbers of fewer than 32 bits take a word each.
        xp: NumPy for an array of it, else jax.numpy.
    """
    if leaf.dtype == bool:
        return leaf.reshape(-1).astype(np.uint32)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = xp.stack([leaf.real, leaf.imag])
    size = leaf.dtype.itemsize
    word = np.dtype(f"uint{8 * min(size, 4)}")
    if isinstance(leaf, np.ndarray):
        bits = np.ascontiguousarray(leaf).reshape(-1).view(word)
    else:
        bits = jax.lax.bitcast_convert_type(leaf, word)
    return bits.reshape(-1).astype(np.uint32)
