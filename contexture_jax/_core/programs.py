"""Programs of trees, whose caches keep nothing of a caller's alive."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from contexture_jax._core.checks import holds_callers

__all__ = ["program_of"]


def program_of(program: Any, tree: Any, **static: Any) -> Callable[..., Any]:
    """A program at a tree, as a function of its further arguments.

    A program that is kept for all trees of one structure keeps what is static in that
    alive. Where it is the caller's own, as a function, the tree gets a program of its
    own, which ends with what is returned.

    Args:
        program: `jax.jit` of a function whose first argument is such a tree.
        tree: a pytree.
        **static: arguments that are static in the program.
    """
    if not holds_callers(tree):
        return functools.partial(program, tree, **static)
    leaves, structure = jax.tree.flatten(tree)

    def apart(leaves: Any, *arguments: Any) -> Any:
        whole = jax.tree.unflatten(structure, leaves)
        # Not by `program` within this one, which would keep the tree as well.
        return program.__wrapped__(whole, *arguments, **static)

    return functools.partial(jax.jit(apart), leaves)
