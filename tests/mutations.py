"""Damage to files, drawn from a seed."""

from collections.abc import Iterator, Sequence

import numpy as np


def mutated(
    content: bytes, rng: np.random.Generator, words: Sequence[bytes] = ()
) -> bytes:
    """One to three changes: of bits and bytes, cuts, insertions, splices, words.

    Args:
        content: the file as it should be.
        rng: draws what changes and where.
        words: what a change may put in the place of one of them, as they mean something
            to the format.
    """
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        size = len(changed)
        if not size:
            break
        # Formats have most of their meaning at the beginning.
        at = int(rng.integers(size if rng.random() < 0.5 else min(size, 140)))
        length = int(rng.integers(1, 30))
        other = int(rng.integers(size))
        match rng.integers(8):
            case 0:
                changed[at] = int(rng.integers(256))
            case 1:
                changed[at] ^= 1 << int(rng.integers(8))
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = rng.bytes(length)
            case 4:
                changed[at:at] = changed[other : other + length]
            case 5:
                del changed[at : at + length]
            case 6:
                changed[at : at + length] = bytes(length)
            case _ if words:
                old, new = (words[int(i)] for i in rng.integers(len(words), size=2))
                start = changed.find(old)
                if start >= 0:
                    changed[start : start + len(old)] = new
    return bytes(changed)


def mutations(
    contents: Sequence[bytes], count: int, seed: int, words: Sequence[bytes] = ()
) -> Iterator[bytes]:
    """`count` files, each one of `contents` with some damage."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield mutated(contents[int(rng.integers(len(contents)))], rng, words)
