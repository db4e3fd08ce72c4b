"""Rows of padding of operators that are made of others, and where rows of parts lie."""

from __future__ import annotations

import dataclasses
import operator as py
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from contexture_jax._core.types import Array, unchecked
from contexture_jax.operators._base import AssociationOperator
from contexture_jax.operators.sharded._common import cut_of, pad_law

__all__ = ["as_long", "moved", "of_padded", "replaced", "with_rows"]


def as_long(law: Array, size: int, cut: tuple[Mesh, str] | None) -> Array:
    """A law, padded where an operator's is longer.

    Args:
        law: shape (n,).
        size: values of that.
        cut: mesh and axis that cut it.
    """
    return law if cut is None or law.shape[0] == size else pad_law(law, *cut)


def of_padded(
    whole: Any, parts: tuple[AssociationOperator, ...], p_a: Array, **fields: Any
) -> AssociationOperator:
    """A mixture of padded operators, with a P_X as long as theirs; itself of its own.

    Args:
        whole: the mixture.
        parts: its operators, padded.
        p_a: its law of A, padded.
        **fields: others that are new.
    """
    if p_a is whole.p_a and all(map(py.is_, parts, whole.operators)):
        return whole
    p_x = as_long(whole.p_x, parts[0].shape[0], cut_of(whole))
    return replaced(whole, operators=parts, p_x=p_x, p_a=p_a, **fields)


def replaced(op: Any, **new: Any) -> Any:
    """The operator with other fields; leaves may be shapes, as no constructor takes."""
    own = {each.name: getattr(op, each.name) for each in dataclasses.fields(op)}
    return unchecked(type(op), **{**own, **new})


def moved(block: Array, by: int, room: int, size: int) -> Array:
    """`room` rows, of zeros but for the first `size` of a block, moved by so many.

    Args:
        block: shape (k, r).
        by: how far; where it is negative the rows before those are left out.
        room: rows of the result.
        size: how many rows go, from `by` on, or from the first.
    """
    rows = block.shape[0]
    if by <= 0 and room == size:
        return block[-by : size - by]
    # At once: an array between, of rows that the devices do not divide, would be whole
    # on each of them.
    zero = jnp.zeros((), block.dtype)
    out = jax.lax.pad(block, zero, ((by, room - rows - by, 0), (0, 0, 0)))
    at = max(by, 0)
    others = rows if by >= 0 else rows + by
    if min(others, room - at) == size:
        return out
    place = jnp.arange(room)[:, None] - at
    return jnp.where((place >= 0) & (place < size), out, zero)


def with_rows(block: Array, size: int) -> Array:
    """A block with so many rows: others have no mass, come and go with padding.

    Between operators one of which has rows of padding there, where the other, whose
    functions are whole on every device, has none.
    """
    rows = block.shape[0]
    return block if rows == size else moved(block, 0, size, min(rows, size))
