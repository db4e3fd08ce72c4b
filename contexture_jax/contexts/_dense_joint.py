"""A finite joint law stored as a dense table."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.arrays import is_jax_sparse, warn_if_float64
from contexture_jax._core.checks import (
    as_array,
    as_integers,
    as_real,
    check_mass,
    check_ndim,
    check_nonnegative,
    check_rows_have_mass,
    check_values,
    floating_dtype,
    is_traced,
    spans_processes,
)
from contexture_jax._core.numerics import normalised, safe_divide, weights_or_nan
from contexture_jax._core.types import (
    Array,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._numbered import NumberedContext

__all__ = [
    "DenseJoint",
    "are_indices",
    "as_indices",
    "as_table",
    "check_profiles",
    "check_rows",
    "check_width",
]


@pytree_dataclass
class DenseJoint(NumberedContext):
    """A joint law stored as a dense table (theory.md §1).

    Attributes:
        probabilities: P⁺(x, a), shape (n, m), non-negative, summing to 1.
        has_profiles: whether rows of what the constructor took are rows of the table up
            to scale, so that `at` can take new ones. Static.
    """

    probabilities: Float[Array, "n m"]
    has_profiles: bool = static_field(default=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        n, m = self.probabilities.shape
        return n, m

    def table(self) -> Float[Array, "n m"]:
        """The joint law, shape (n, m)."""
        return self.probabilities

    def _has_law(self, x: Int[Array, " k"]) -> Array:
        return (self.probabilities[x] > 0).any(axis=1)

    def _draw(self, key: Array, x: Array) -> Array:
        # Unnormalised: `categorical` takes logits up to a constant. Cells of mass 0 are
        # −∞ there and never drawn.
        return jax.random.categorical(key, jnp.log(self.probabilities[x]))

    def _log_density(self, a: Array, x: Array) -> Array:
        row = self.probabilities[x]
        return jnp.log(safe_divide(row[a], row.sum()))

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        rows = self.probabilities[x]
        return safe_divide(rows, rows.sum(axis=1, keepdims=True))

    def at(self, x_new: Any) -> DenseJoint:
        """Row numbers, shape (k,), or new rows of the table, shape (k, m).

        Rows without mass are kept and masked if given by number; new ones are refused.
        """
        if are_indices(x_new):
            # Numbers on the host, checked: a gather would clip.
            rows = self.probabilities[as_indices(x_new, self.shape[0])]
        else:
            check_profiles(self.has_profiles)
            rows = as_table(x_new, "x_new")
            check_width(rows, self.shape[1])
            check_rows(rows, "x_new")
            # Each new row is a law of its own, whatever its scale.
            rows = weights_or_nan(rows, axis=1)
            rows = normalised(rows, axis=1, dtype=self.probabilities.dtype)
        # First each row, then all: P_X of the new rows is uniform on those with mass.
        shares = normalised(normalised(rows, axis=1))
        return DenseJoint(shares, has_profiles=self.has_profiles)

    def reverse(self) -> DenseJoint:
        """The transposed table."""
        return DenseJoint(self.probabilities.T, has_profiles=self.has_profiles)


def as_table(table: Any, name: str) -> Array | np.ndarray:
    """A table of weights, checked; as NumPy has it, whose range may be wider."""
    values = as_real(table, name)
    warn_if_float64(table, values, name)
    # Arrays of NumPy stay in their dtype here, and are normalised in float64.
    if isinstance(values, jax.Array):
        values = values.astype(floating_dtype(values.dtype))
    check_ndim(values, 2, name)
    if values.size == 0:
        msg = f"{name} must not be empty; got shape {values.shape}"
        raise ValueError(msg)
    check_nonnegative(values, name)
    check_mass(values, name)
    return values


def check_rows(rows: Array | np.ndarray, name: str) -> None:
    """Raise if a concrete table has a row without mass."""
    if not is_traced(rows):
        # On the host: devices take subnormal numbers for 0.
        largest = rows if spans_processes(rows) else np.asarray(rows)
        check_rows_have_mass(largest.max(axis=1), name)


def are_indices(x_new: Any) -> bool:
    """Whether new rows are given by their numbers."""
    # Before `as_array`, which would write a sparse matrix out.
    if hasattr(x_new, "tocoo") or is_jax_sparse(x_new, "BCOO", "BCSR"):
        return False
    array = x_new if isinstance(x_new, jax.Array) else as_array(x_new, "x_new")
    return array.ndim == 1 and jnp.issubdtype(array.dtype, jnp.integer)


def as_indices(x_new: Any, size: int) -> np.ndarray:
    """Numbers of rows on the host, checked."""
    index = as_integers(x_new, "x_new")
    check_values(
        index, "x_new", lambda v: (v >= 0) & (v < size), f"between 0 and {size - 1}"
    )
    return index


def check_profiles(has_profiles: bool) -> None:
    """Raise unless new rows can be rows of the table."""
    if not has_profiles:
        raise ValueError(
            "x_new must be row numbers here: a new row of a lazy walk would hold a step"
            " to itself, and has no column for it"
        )


def check_width(rows: Any, num_columns: int) -> None:
    """Raise unless new rows have the columns of the table."""
    if rows.shape[1] != num_columns:
        msg = f"x_new must have {num_columns} columns; got {rows.shape[1]}"
        raise ValueError(msg)
