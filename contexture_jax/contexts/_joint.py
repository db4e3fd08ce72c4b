"""A joint table or counts as a context, dense or sparse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contexture_jax._core.numerics import normalised, weights_or_nan
from contexture_jax.contexts._base import Context, as_context
from contexture_jax.contexts._dense_joint import DenseJoint, as_table
from contexture_jax.contexts._mixed import laid_out
from contexture_jax.contexts._sparse_joint import SparseJoint, from_sparse

__all__ = ["drawable", "joint"]


def joint(table: Any) -> DenseJoint | SparseJoint:
    """A context from a joint table; counts are normalised (theory.md §1).

    Args:
        table: P⁺(x, a) up to scale, shape (n, m), non-negative: an array, a
            `jax.experimental.sparse.BCOO` or a `scipy.sparse` matrix or array.
            Integers and half precision become float32 (float64 for integers under
            x64); float32 and float64 are kept.

    Returns:
        A dense or a sparse context, as `table` is. Rows and columns without mass are
        kept and masked: they get the value 0 in every function.

    Raises:
        TypeError: if the entries are not real numbers.
        ValueError: if `table` is not a matrix, is empty, has a negative or non-finite
            entry, or no mass at all; inside a trace the law is NaN then.
    """
    law = from_sparse(table, "table")
    if law is not None:
        return law
    return DenseJoint(normalised(weights_or_nan(as_table(table, "table"))))


def drawable(context: Context | Any, *, needs: Sequence[str] = ()) -> Context:
    """A context to draw pairs from: itself, or the `joint` of a table and no more.

    Reversed neighbours, and chains of them, are laid out for it.

    Args:
        context: a context, or any object with methods of one.
        needs: the methods that it must have then.

    Raises:
        CapabilityError: if it lacks one that is needed.
        TypeError: if it is no context.
        ValueError: if its table is none, as `joint` says.
    """
    context = laid_out(as_context(context))
    # One that has inputs of its own draws for those and not for numbers.
    others = {"sample", "kernel", "inputs"}.intersection(context.capabilities)
    if "table" in context.capabilities and not others:
        context = joint(context.table())
    return as_context(context, needs=needs)
