"""A joint table or counts as a context, dense or sparse."""

from __future__ import annotations

from typing import Any

from contexture_jax._core.numerics import normalised, weights_or_nan
from contexture_jax.contexts._dense_joint import DenseJoint, as_table
from contexture_jax.contexts._sparse_joint import SparseJoint, from_sparse

__all__ = ["joint"]


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
