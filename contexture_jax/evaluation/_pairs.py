"""Observed pairs, and the spectrum of their table."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_integers,
    as_real,
    check_integer,
    check_ndim,
    check_values,
    is_concrete,
)
from contexture_jax._core.factorizations import singular_values
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.evaluation._common import map_blocks
from contexture_jax.evaluation._spectra import usefulness
from contexture_jax.operators import dense_operator, symmetrised_matrix

__all__ = [
    "PairSample",
    "check_rank",
    "count_cells",
    "counted_sample",
    "map_keys",
    "observe",
    "pair_sample",
    "plug_in_tau",
    "spectrum_of",
    "symmetrised",
]

# A pair takes 4 bytes, and each of a thousand resamples draws all of them.
_MAX_PAIRS = 2**26
# Tables are dense here, and each resample's is decomposed by an SVD.
_MAX_ENTRIES = 2**24


@pytree_dataclass
class PairSample:
    """N observed pairs (x, a), drawn independently from one law.

    Attributes:
        cells: x · m + a for each pair, shape (N,), int32.
        shape: (n, m). Static.
    """

    cells: Int[Array, " pairs"]
    shape: tuple[int, int] = static_field()

    @property
    def num_pairs(self) -> int:
        """N."""
        return self.cells.shape[0]


def pair_sample(
    x_index: ArrayLike, a_index: ArrayLike, shape: tuple[int, int] | None = None
) -> PairSample:
    """A sample from observed pairs; runs on the host.

    Args:
        x_index: number of the input in each pair, shape (N,), integer, from 0.
        a_index: number of the context value in each pair, shape (N,), integer.
        shape: (n, m); None: one more than the largest numbers seen.

    Raises:
        TypeError: if the numbers are not integers.
        ValueError: if lengths differ, there are fewer than 2 pairs, or a number is
            outside `shape`.
    """
    index = [as_integers(x_index, "x_index"), as_integers(a_index, "a_index")]
    for values, name in zip(index, ("x_index", "a_index"), strict=True):
        check_ndim(values, 1, name)
    if index[0].shape != index[1].shape or index[0].size < 2:
        msg = (
            "x_index and a_index must have one length, at least 2; got"
            f" {index[0].size} and {index[1].size}"
        )
        raise ValueError(msg)
    if shape is None:
        # A value that could occur and did not is unknown unless `shape` tells: it would
        # be masked, and counts in n and m.
        shape = (int(index[0].max()) + 1, int(index[1].max()) + 1)
    for values, name, size in zip(index, ("x_index", "a_index"), shape, strict=True):
        check_values(
            values,
            name,
            lambda v, size=size: (v >= 0) & (v < size),
            f"between 0 and {size - 1}",
        )
    # Before x · m + a is formed, so that it fits into int32.
    _check_size(float(index[0].size), shape)
    cells = index[0].astype(np.int64) * shape[1] + index[1]
    return PairSample(jnp.asarray(cells, jnp.int32), (int(shape[0]), int(shape[1])))


def counted_sample(counts: ArrayLike) -> PairSample:
    """A sample from its table of counts; runs on the host.

    Args:
        counts: how often each pair was seen, shape (n, m), whole numbers ≥ 0.

    Raises:
        ValueError: if an entry is no whole number, or there are fewer than 2 pairs.
    """
    table = np.asarray(as_real(counts, "counts"))
    check_ndim(table, 2, "counts")
    check_values(
        table,
        "counts",
        lambda v: np.isfinite(v) & (v >= 0) & (v == np.floor(v)),
        "whole numbers of pairs",
    )
    # Checked before pairs are written out one by one.
    total = float(table.sum())
    if total < 2:
        msg = f"counts must hold at least 2 pairs; got {total:g}"
        raise ValueError(msg)
    _check_size(total, table.shape)
    cells = np.repeat(np.arange(table.size), table.reshape(-1).astype(np.int64))
    return PairSample(jnp.asarray(cells, jnp.int32), (table.shape[0], table.shape[1]))


def _check_size(num_pairs: float, shape: Any) -> None:
    if num_pairs > _MAX_PAIRS or shape[0] * shape[1] > _MAX_ENTRIES:
        msg = (
            f"a sample must have at most {_MAX_PAIRS} pairs and a table of at most"
            f" {_MAX_ENTRIES} entries; got {num_pairs:.0f} and {shape[0]} × {shape[1]}"
        )
        raise ValueError(msg)


def check_rank(sample: PairSample, rank: int) -> int:
    """A number of singular values that the table has."""
    # One of min(n, m) values is the trivial one.
    high = min(sample.shape) - 1
    if high < 1:
        msg = f"sample must have at least 2 rows and 2 columns; got {sample.shape}"
        raise ValueError(msg)
    return check_integer(rank, "rank", low=1, high=high)


def map_keys(one: Any, keys: Array, sample: PairSample) -> Array:
    """Replicates in blocks that fit into work space."""
    # The draws, and some four matrices beside the table for an SVD.
    entries = sample.num_pairs + 4 * sample.shape[0] * sample.shape[1]
    index = jnp.arange(keys.shape[0])
    return map_blocks(lambda i: jax.vmap(one)(keys[i]), index, row_entries=entries)


def count_cells(
    cells: Int[Array, " pairs"], shape: tuple[int, int], dtype: Any
) -> Float[Array, "n m"]:
    """The table of counts."""
    # Whole numbers: adding 1 in float32 ends at 2²⁴, and there may be 2²⁶ pairs.
    zeros = jnp.zeros((shape[0] * shape[1],), jnp.int32)
    return zeros.at[cells].add(1).reshape(shape).astype(dtype)


def symmetrised(counts: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """D_X^{-1/2} P D_A^{-1/2} − √p_x √p_aᵀ; 0 in empty rows and columns."""
    return symmetrised_matrix(dense_operator(counts / counts.sum()), deflated=True)


def spectrum_of(matrix: Float[Array, "n m"]) -> Float[Array, " k"]:
    """All of them but the trivial one, which is 0 here and comes last."""
    # Deflated, the trivial value is 0, and no value is below it.
    return jnp.clip(singular_values(matrix)[:-1], 0.0, 1.0)


def observe(sample: PairSample) -> tuple[Float[Array, "n m"], Float[Array, " k"]]:
    """The matrix of the sample itself, and its whole spectrum."""
    matrix = symmetrised(count_cells(sample.cells, sample.shape, jnp.zeros(()).dtype))
    return matrix, spectrum_of(matrix)


def plug_in_tau(values: Float[Array, " k"]) -> Float[Array, ""]:
    """τ of a whole spectrum; NaN where all of it is 0."""
    # `usefulness` raises there; a sample without any association is an answer here.
    if is_concrete(values) and not float(values[0]) > 0:
        return jnp.full((), jnp.nan, values.dtype)
    return usefulness(values, complete=True).tau
