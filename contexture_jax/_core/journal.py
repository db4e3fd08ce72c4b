"""Parts of products on disk: a pass that was cut off goes on where it was.

What a product is of tells it apart: its kind, its operator and every bit of the block.
A solve that goes on from its state asks for the same products, and is given what was
kept of them. Two are kept, as a pass may be two: what the first gave is asked for again
where the second was cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax._core.archives import read_archive, write_archive

__all__ = ["Entry", "Journal"]

_KEPT = 2


@dataclasses.dataclass(eq=False)
class Entry:
    """One product, or the first pass.

    Attributes:
        path: where it is kept; None: nowhere.
        every: seconds between two writings.
        next_block: the first block that is not yet in `carry`.
        carry: arrays; None: nothing was kept.
        noted: when it was last written, or begun.
        was_slow: whether it has been written.
    """

    path: Path | None
    every: float
    next_block: int = 0
    carry: list[np.ndarray] | None = None
    noted: float = dataclasses.field(default_factory=time.monotonic)
    was_slow: bool = False

    def note(self, next_block: int, carry: Iterable[Any], *, last: bool) -> None:
        """Write what is there, if it is time.

        Args:
            next_block: the first block that is not in it.
            carry: arrays.
            last: whether all blocks are.
        """
        if self.path is None:
            return
        # A product that took no time is sooner made again than read.
        due = time.monotonic() - self.noted >= self.every or (last and self.was_slow)
        if not due:
            return
        self.was_slow = True
        arrays = {f"carry {i}": np.asarray(x) for i, x in enumerate(carry)}
        # Now and not before: most products are over sooner.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_archive(self.path, {"next_block": np.asarray(next_block), **arrays})
        _forget(self.path)
        self.noted = time.monotonic()


@dataclasses.dataclass(eq=False)
class Journal:
    """Where parts of products are kept.

    Attributes:
        folder: it is made if it is not there.
        every: seconds between two writings.
    """

    folder: Path
    every: float = 30.0

    def opened(self, *parts: Any, name: str = "product") -> Entry:
        """The entry of a product, with what was kept of it.

        Args:
            parts: arrays and texts that say which product it is.
            name: what files of its kind begin with.
        """
        digest = hashlib.blake2b(digest_size=12)
        for part in parts:
            if isinstance(part, np.ndarray):
                digest.update(f"{part.dtype}{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).view(np.uint8).data)
            else:
                digest.update(str(part).encode())
        path = self.folder / f"{name}-{digest.hexdigest()}.npz"
        entry = Entry(path, self.every)
        # Damaged or cut off, it is as good as none: the pass is made from its start.
        with contextlib.suppress(OSError, KeyError, ValueError, TypeError):
            kept = read_archive(path)
            next_block = int(kept.pop("next_block"))
            carry = [kept[f"carry {i}"] for i in range(len(kept))]
            entry.next_block, entry.carry, entry.was_slow = next_block, carry, True
        return entry


def _forget(newest: Path) -> None:
    """Remove all but the newest entries of a kind."""
    kind = newest.name.partition("-")[0]
    found = sorted(
        (path for path in newest.parent.glob(f"{kind}-*.npz") if path != newest),
        key=lambda path: path.stat().st_mtime_ns,
    )
    for path in found[: max(0, len(found) - (_KEPT - 1))]:
        path.unlink(missing_ok=True)
