"""Products with exp(Q Kᵀ) in square tiles: no n × m array ever exists.

The exponent comes straight out of one matrix product of augmented factors (the row's
−logsumexp and the column's bias are two more coordinates), so a tile costs one product
of width e, one exponential and one product of width r.

Reverse-mode gradients recompute tiles as the products do: differentiating through the
scans would store every tile.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float, Static

__all__ = ["MASKED", "augment", "exp_matmul", "logsumexp_rows", "tile_size"]

# The log weight of a column that must not count: finite, so that 0 · MASKED is 0 and
# its exponential is exactly 0 beside any logit.
MASKED = -1e30


def tile_size(n: int, m: int, block_size: int) -> tuple[int, int]:
    """Rows and columns of a tile: `block_size`, cut evenly over n and over m."""

    def even(size: int) -> int:
        return math.ceil(size / math.ceil(size / block_size)) if size else 1

    return even(n), even(m)


def augment(
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    row_offset: Float[Array, " n"],
    column_offset: Float[Array, " m"],
) -> tuple[Float[Array, "n e2"], Float[Array, "m e2"]]:
    """Factors whose product is Q Kᵀ + row_offset ⊗ 1 + 1 ⊗ column_offset."""
    ones_n = jnp.ones((queries.shape[0], 1), queries.dtype)
    ones_m = jnp.ones((keys.shape[0], 1), keys.dtype)
    return (
        jnp.concatenate([queries, row_offset[:, None], ones_n], axis=1),
        jnp.concatenate([keys, ones_m, column_offset[:, None]], axis=1),
    )


def exp_matmul(
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    values: Float[Array, "m r"],
    *,
    block_size: int,
) -> Float[Array, "n r"]:
    """exp(Q Kᵀ) V by tiles; work space is one tile and one block of the result.

    Args:
        queries: Q, shape (n, e), floating.
        keys: K, shape (m, e), the same dtype.
        values: V, shape (m, r), the same dtype.
        block_size: the largest side of a tile.

    Returns:
        Shape (n, r). Logits should not be far above 0: nothing is subtracted.

    Gradients, in reverse mode only: with S = exp(Q Kᵀ) and a cotangent O of the result,
    V̄ = Sᵀ O, Q̄ = (S ∘ O Vᵀ) K and K̄ = (S ∘ O Vᵀ)ᵀ Q, in one sweep over the tiles.
    """
    return _exp_matmul(block_size, queries, keys, values)


def logsumexp_rows(
    queries: Float[Array, "n e"], keys: Float[Array, "m e"], *, block_size: int
) -> Float[Array, " n"]:
    """Log Σ_a exp(Q Kᵀ)_xa by tiles, with a running maximum.

    Gradients, in reverse mode only: with the weights P = exp(Q Kᵀ − result) and a
    cotangent o of the result, Q̄ = o ∘ P K and K̄ = Pᵀ (o ∘ Q).
    """
    return _logsumexp_rows(block_size, queries, keys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exp_matmul(block_size: int, queries: Array, keys: Array, values: Array) -> Array:
    return _exp_matmul_forward(queries, keys, values, block_size=block_size)


def _exp_matmul_saved(
    block_size: int, queries: Any, keys: Any, values: Any
) -> tuple[Array, Any]:
    arrays = queries.value, keys.value, values.value
    out = _exp_matmul_forward(*arrays, block_size=block_size)
    return out, (arrays, Static(values.perturbed))


def _exp_matmul_backward(
    block_size: int, saved: Any, out_bar: Any
) -> tuple[Array | None, ...]:
    """The three cotangents; work space is two tiles, and the results in blocks."""
    (queries, keys, values), wants_values = saved
    if isinstance(out_bar, SymbolicZero):
        return None, None, None
    (n, e), (m, r) = queries.shape, values.shape
    rows, columns = tile_size(n, m, block_size)
    key_blocks, value_blocks = _blocks(keys, columns), _blocks(values, columns)

    def one_block(carry: tuple[Array, Any], block: tuple[Array, Array]) -> tuple:
        query, bar = block

        def add_tile(query_bar: Array, tile: tuple) -> tuple:
            key, value, key_bar, value_bar = tile
            scores = jnp.exp(mm(query, key.T))
            # Padding rows have a cotangent of 0, padding columns a value of 0.
            weights = scores * mm(bar, value.T)
            return query_bar + mm(weights, key), (
                key_bar + mm(weights.T, query),
                value_bar + mm(scores.T, bar) if wants_values.value else None,
            )

        start = jnp.zeros((rows, e), queries.dtype)
        query_bar, carry = jax.lax.scan(
            add_tile, start, (key_blocks, value_blocks, *carry)
        )
        return carry, query_bar

    start = (
        jnp.zeros_like(key_blocks),
        jnp.zeros_like(value_blocks) if wants_values.value else None,
    )
    (keys_bar, values_bar), queries_bar = jax.lax.scan(
        one_block, start, (_blocks(queries, rows), _blocks(out_bar, rows))
    )
    return (
        queries_bar.reshape(-1, e)[:n],
        keys_bar.reshape(-1, e)[:m],
        None if values_bar is None else values_bar.reshape(-1, r)[:m],
    )


_exp_matmul.defvjp(_exp_matmul_saved, _exp_matmul_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logsumexp_rows(block_size: int, queries: Array, keys: Array) -> Array:
    return _logsumexp_rows_forward(queries, keys, block_size=block_size)


def _logsumexp_rows_saved(
    block_size: int, queries: Array, keys: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    out = _logsumexp_rows_forward(queries, keys, block_size=block_size)
    return out, (queries, keys, out)


def _logsumexp_rows_backward(
    block_size: int, saved: tuple[Array, Array, Array], out_bar: Array
) -> tuple[Array, Array]:
    queries, keys, out = saved
    zeros = jnp.zeros(keys.shape[:1], keys.dtype)
    # Weights in [0, 1], however large the logits are.
    normalised, other = augment(queries, keys, -out, zeros)
    forward = functools.partial(_exp_matmul_forward, block_size=block_size)
    return (
        out_bar[:, None] * forward(normalised, other, keys),
        forward(other, normalised, out_bar[:, None] * queries),
    )


_logsumexp_rows.defvjp(_logsumexp_rows_saved, _logsumexp_rows_backward)


def _exp_matmul_forward(
    queries: Array, keys: Array, values: Array, *, block_size: int
) -> Array:
    n, m, r = queries.shape[0], keys.shape[0], values.shape[1]
    rows, columns = tile_size(n, m, block_size)
    start = jnp.zeros((rows, r), values.dtype)
    number = jnp.arange(columns)[:, None]

    def one_block(i: Array, out: Array) -> Array:
        # The last block ends at the last row and does some rows a second time: padding
        # would copy whole arrays.
        row = jnp.minimum(i * rows, n - rows)
        query = jax.lax.dynamic_slice_in_dim(queries, row, rows)

        def add_tile(j: Array, total: Array) -> Array:
            column = jnp.minimum(j * columns, m - columns)
            key, value = (
                jax.lax.dynamic_slice_in_dim(x, column, columns) for x in (keys, values)
            )
            value = jnp.where(column + number >= j * columns, value, 0.0)
            return total + mm(jnp.exp(mm(query, key.T)), value)

        block = jax.lax.fori_loop(0, -(-m // columns), add_tile, start)
        return jax.lax.dynamic_update_slice_in_dim(out, block, row, 0)

    out = jnp.zeros((n, r), values.dtype)
    return jax.lax.fori_loop(0, -(-n // rows), one_block, out)


def _logsumexp_rows_forward(queries: Array, keys: Array, *, block_size: int) -> Array:
    n, m = queries.shape[0], keys.shape[0]
    rows, columns = tile_size(n, m, block_size)
    key_blocks = _blocks(keys, columns)
    counts = _blocks(jnp.ones((m, 1), keys.dtype), columns)

    def one_block(query: Array) -> Array:
        def add_tile(
            carry: tuple[Array, Array], tile: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array], None]:
            largest, total = carry
            key, count = tile
            logits = jnp.where(count[:, 0][None, :] > 0, mm(query, key.T), MASKED)
            new = jnp.maximum(largest, logits.max(axis=1))
            scaled = total * jnp.exp(largest - new)
            return (new, scaled + jnp.exp(logits - new[:, None]).sum(axis=1)), None

        start = (
            jnp.full((rows,), MASKED, keys.dtype),
            jnp.zeros((rows,), keys.dtype),
        )
        largest, total = jax.lax.scan(add_tile, start, (key_blocks, counts))[0]
        return largest + jnp.log(total)

    return jax.lax.map(one_block, _blocks(queries, rows)).reshape(-1)[:n]


def _blocks(x: Float[Array, "n e"], size: int) -> Float[Array, "b size e"]:
    """Rows in blocks of `size`, the last one padded with zeros."""
    padding = -x.shape[0] % size
    if padding:
        x = jnp.pad(x, ((0, padding), (0, 0)))
    return x.reshape(-1, size, x.shape[1])
