"""What all operators that Python reads share: the door of their products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_floating, is_traced
from contexture_jax._core.numerics import Precision
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.operators._base import AssociationOperator
from contexture_jax.operators.streamed._products import Kind

__all__ = ["ReadOperator", "is_streamed"]


class ReadOperator(AssociationOperator):
    """T of a source that is read in each product anew.

    Python drives the products: they are no part of a program, and have no derivative.
    A storage implements `_multiply`.
    """

    def matmat(self, g: ArrayLike) -> Float[Array, "n r"]:
        """T g, shape (n, r), in one pass over the source."""
        return self._product("forward", g, "g")

    def rmatmat(self, f: ArrayLike) -> Float[Array, "m r"]:
        """T* f, shape (m, r), in one pass over the source."""
        return self._product("backward", f, "f")

    def with_precision(self, precision: Precision) -> AssociationOperator:
        """The same operator: its products are exact to the rounding of the dtype."""
        super().with_precision(precision)
        return self

    def narrowed(self, dtype: Any) -> AssociationOperator:
        """Refused: what is read takes as long in any dtype.

        Raises:
            ValueError: always.
        """
        msg = f"a streamed operator has no coarse products; got dtype {dtype}"
        raise ValueError(msg)

    def _multiply(self, kind: Kind, given: np.ndarray) -> Any:
        """A product of a checked block of NumPy's."""
        raise NotImplementedError

    def _product(self, kind: Kind, block: Any, name: str) -> Array:
        if is_traced(self, block):
            msg = (
                "a streamed operator reads its table from Python: its products cannot"
                f" be part of jit, grad or vmap; got a traced {name}"
            )
            raise TypeError(msg)
        num_rows = self.shape[0] if kind == "backward" else self.shape[1]
        given = as_floating(block, name).astype(self.dtype)
        if given.ndim != 2 or given.shape[0] != num_rows:
            msg = f"{name} must have shape ({num_rows}, r); got {tuple(given.shape)}"
            raise ValueError(msg)
        return jnp.asarray(self._multiply(kind, np.asarray(given)))


def is_streamed(op: Any) -> bool:
    """Whether an operator, or a part of it, is read block by block."""

    def is_one(node: Any) -> bool:
        return isinstance(node, ReadOperator)

    return any(map(is_one, jax.tree.leaves(op, is_leaf=is_one)))
