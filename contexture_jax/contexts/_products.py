"""Contexts side by side, each of an input of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from contexture_jax._core.forms import of_a_list
from contexture_jax._core.types import Array, ArrayLike, Float, Int, pytree_dataclass
from contexture_jax.contexts._base import CapabilityError, Context, as_numbers
from contexture_jax.contexts._mixed import MixedContext, turned
from contexture_jax.contexts._parts import (
    as_parts,
    is_numbered,
    law_of_a,
    law_of_x,
    rows_of,
    size_of,
)
from contexture_jax.contexts._sampling import row_keys

__all__ = ["TensorProduct", "tensor_product"]


@pytree_dataclass
class TensorProduct(MixedContext):
    """X = (X₁, …, X_r) and A = (A₁, …, A_r), pairs (X_j, A_j) independent: ⊗ T_j.

    Numbers of X and of A are those of the parts, the last running fastest.

    Attributes:
        contexts: the parts, finite.
    """

    contexts: tuple[Any, ...]

    def _gives(self, name: str) -> bool:
        if name in ("table", "reverse"):
            return self._all("table")
        return name != "spectrum" and self._all(name) and is_numbered(self)

    def _sizes_of_parts(self, side: int) -> tuple[int, ...]:
        return tuple((size_of(part) or (0, 0))[side] for part in self.contexts)

    @property
    def shape(self) -> tuple[int, int]:
        """(∏ n_j, ∏ m_j)."""
        return math.prod(self._sizes_of_parts(0)), math.prod(self._sizes_of_parts(1))

    def _split(self, numbers: Array, side: int) -> tuple[Array, ...]:
        """The number of each part's X, or A."""
        return jnp.unravel_index(numbers, self._sizes_of_parts(side))

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        rows = map(rows_of, self.contexts, self._split(x, 0))
        return functools.reduce(_side_by_side, rows)

    def _law_of_x(self) -> Float[Array, " n"]:
        return functools.reduce(jnp.kron, map(law_of_x, self.contexts))

    def _law_of_a(self) -> Float[Array, " m"]:
        return functools.reduce(jnp.kron, map(law_of_a, self.contexts))

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Array:
        """Draw for each part of each x by itself, and give the number of the tuple."""
        self._check_has("sample")
        keys = row_keys(key, len(self.contexts))
        numbers = self._split(as_numbers(x, "x", self.shape[0]), 0)
        drawn = tuple(
            part.sample(k, own, row_offset=row_offset)
            for part, k, own in zip(self.contexts, keys, numbers, strict=True)
        )
        sizes = self._sizes_of_parts(1)
        return jnp.ravel_multi_index(drawn, sizes, mode="clip").astype(jnp.int32)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Σ_j log P_j(a_j|x_j)."""
        self._check_has("log_density")
        n, m = self.shape
        of_a = self._split(as_numbers(a, "a", m), 1)
        of_x = self._split(as_numbers(x, "x", n), 0)
        parts = zip(self.contexts, of_a, of_x, strict=True)
        return functools.reduce(jnp.add, (c.log_density(a, x) for c, a, x in parts))

    def kernel(self, x: ArrayLike, x2: ArrayLike) -> Float[Array, "k l"]:
        """∏_j k_j(x_j, x2_j), between the rows numbered `x` and `x2`."""
        self._check_has("kernel")
        n, _ = self.shape
        sides = (self._split(as_numbers(v, "x", n), 0) for v in (x, x2))
        parts = zip(self.contexts, *sides, strict=True)
        kernels = (c.kernel(one, two) for c, one, two in parts)
        return functools.reduce(jnp.multiply, kernels)

    def at(self, x_new: Any) -> TensorProduct:
        """All combinations of new inputs of the parts: a tuple of one for each."""
        self._check_has("at")
        num = len(self.contexts)
        if not isinstance(x_new, tuple) or len(x_new) != num:
            msg = f"x_new must be a tuple of new inputs for each of the {num} parts"
            raise TypeError(msg)
        pairs = zip(self.contexts, x_new, strict=True)
        return TensorProduct(tuple(part.at(x) for part, x in pairs))

    def reverse(self) -> TensorProduct:
        """The reversed parts side by side."""
        self._check_has("reverse")
        return TensorProduct(tuple(map(turned, self.contexts)))


def _side_by_side(one: Array, two: Array) -> Array:
    """Products of rows, (k, m₁ m₂)."""
    return (one[:, :, None] * two[:, None, :]).reshape(len(one), -1)


@of_a_list
def tensor_product(contexts: Sequence[Context | Any]) -> TensorProduct:
    """Contexts side by side: X = (X₁, …, X_r), A = (A₁, …, A_r), T = T₁ ⊗ T₂ ⊗ ….

    Each has an input of its own, and the pairs are independent. Singular values are all
    products of one value of each part, trivial ones included (theory.md §4.6). Of
    contexts that see one X, `join`.

    Args:
        contexts: at least one, all finite; the number of (x₁, …, x_r) counts the last
            fastest.

    Raises:
        TypeError: if there is none, or one is no context.
        CapabilityError: if one has no `table`.

    Example:
        >>> import contexture_jax as cx
        >>> parts = [cx.contexts.labels([0, 0, 1]), cx.contexts.joint([[2, 1], [1, 2]])]
        >>> cx.contexts.tensor_product(parts).shape
        (6, 4)
    """
    parts = as_parts(contexts, "tensor_product")
    for part in parts:
        if size_of(part) is None:
            msg = f"{part._lacks('table')}: tensor_product takes finite contexts"
            raise CapabilityError(msg)
    return TensorProduct(parts)
