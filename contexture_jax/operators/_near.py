"""Products with T and T* by SciPy, where their entries are stored and at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from contexture_jax._core.either import at_hand
from contexture_jax.kernels import Bucket, Slots, near_matmat
from contexture_jax.operators._base import AssociationOperator
from contexture_jax.operators._fixed_degree import FixedDegreeOperator
from contexture_jax.operators._sparse import SparseOperator

__all__ = ["NearProducts", "near_products"]

_MOST = 2**22  # entries: a copy of them is made, and one core multiplies

_Product = Callable[[np.ndarray], np.ndarray]


class NearProducts(NamedTuple):
    """Products of T and T* with blocks of NumPy.

    Attributes:
        num_entries: how many numbers each of them reads, used or not.
        lay_out: copies the entries; gives the two.
    """

    num_entries: int
    lay_out: Callable[[], tuple[_Product, _Product]]


def near_products(op: AssociationOperator) -> NearProducts | None:
    """What lays out products of T and T* with blocks of NumPy, which compile nothing.

    For few columns and few products: a program adds up rows on all cores, from slots
    that it need not copy.

    Args:
        op: T, shape (n, m).

    Returns:
        Both products, not yet laid out; None for storages of other kinds, for arrays
        that are traced or lie elsewhere than on the one CPU, and for more than 2²²
        entries.
    """
    found = _layouts(op)
    if found is None:
        return None
    # Without a copy; as they are where they are not at hand.
    forward, backward = at_hand(found[0]), at_hand(found[1])
    near = isinstance(forward.indices, np.ndarray) and isinstance(
        backward.indices, np.ndarray
    )
    num_entries = max(forward.indices.size, backward.indices.size)
    if not near or num_entries > _MOST:
        return None
    (n, m), dtype, share = op.shape, op.dtype, found[2]

    def lay_out() -> tuple[_Product, _Product]:
        one = near_matmat(forward, (n, m), dtype)
        other = near_matmat(backward, (m, n), dtype)
        return (lambda g: share * one(g)), other

    return NearProducts(num_entries, lay_out)


def _layouts(op: AssociationOperator) -> tuple[Any, Slots, Any] | None:
    """Of T and T*, and what sums of the first are to be multiplied by."""
    # Not of subclasses, which may multiply otherwise.
    if type(op) is SparseOperator:
        return op.forward, op.backward, 1
    if type(op) is FixedDegreeOperator:
        share = 1 if op.weights is not None else 1 / op.indices.shape[0]
        return Bucket(op.indices, op.weights), op.backward, share
    return None
