"""DATA that need not fit into memory: a folder of shards, or one large array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.cli._arguments import Options
from contexture_jax.cli._contexts import Recipe
from contexture_jax.data import (
    InputError,
    Message,
    Shards,
    Table,
    counted,
    is_sharded,
    open_shards,
)

__all__ = ["check_streamed", "opened", "placeholder", "recipe_of", "streamed_context"]


def opened(options: Options) -> Shards | None:
    """DATA as shards, where it is a folder or an array that does not fit into memory.

    Raises:
        InputError: if it is, and something is asked for that takes all of it at once.
    """
    if not is_sharded(options.data):
        return None
    shards = open_shards(options.data)
    if options.context != "joint":
        raise InputError(
            f"{shards.title} is read in parts, as a table of weights; expected"
            f" --context joint, here it is --context {options.context}"
        )
    for option, value in (
        ("--target", options.target),
        ("--drop", list(options.drop)),
        ("--categorical", list(options.categorical)),
    ):
        if value:
            raise InputError(
                f"{option} names a column, and the numbers of {shards.title} have no"
                " names: it is read in parts"
            )
    if options.devices > 1:
        raise InputError(f"--devices: {shards.title} is read in parts, by one device")
    return shards


def check_streamed(option: str, value: Any, shards: Shards) -> None:
    """Refuse an option that takes a table that is read whole."""
    if value:
        raise InputError(
            f"{option} takes all of a table; {shards.title} is read in parts"
        )


def placeholder(shards: Shards, shape: tuple[int, int]) -> Table:
    """What reports tell of a table, without its numbers."""
    n, m = shape
    kind = "rows" if shards.is_dense else "entries"
    note = f"read in parts from {counted(len(shards.files), 'file')} of {kind}"
    # One zero for all: no memory.
    features = np.broadcast_to(np.zeros((), np.float32), (n, m))
    return Table(shards.title, features, [], None, m, np.arange(n), [Message(note)])


def recipe_of(shards: Shards) -> Recipe:
    """The context, as far as it is known before anything is read."""
    sizes = [size for size in shards.shape if size is not None]
    return Recipe("joint", {}, min(sizes, default=2**31) - 1, [])


def streamed_context(shards: Shards, options: Options, folder: Path) -> Any:
    """The operator, after a pass over all shards.

    Args:
        shards: DATA.
        options: what was asked for.
        folder: for parts of products, so that a pass that was cut off goes on.

    Raises:
        InputError: if they hold no table of weights.
    """
    import contexture_jax as cx

    try:
        return cx.operators.streamed_operator(
            shards, dtype=options.dtype, journal=folder
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
