"""Products with exp(L) in square tiles, L the log weights of a law: no n × m array.

How a tile of L comes from blocks of two arrays is the affair of `exponents`. With a
plain product it costs one product of width e, one exponential and one product of
width r.

Reverse-mode gradients recompute tiles as the products do: differentiating through the
scans would store every tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from contexture_jax._core.numerics import Precision, mm
from contexture_jax._core.types import Array, Float, Size, Static
from contexture_jax.kernels._exponents import (
    LARGEST,
    MASKED,
    SAFE,
    Form,
    exponents,
    padded,
    pull_back,
    same_for_all,
    shifted,
    shrunk,
    two_sum,
)
from contexture_jax.kernels._fused import (
    Implementation,
    by_implementation,
    fits,
    fused_exp_matmul,
    fused_logsumexp_rows,
    fused_pull_back,
)

__all__ = ["exp_matmul", "logsumexp_rows", "normalise", "tile_shape"]

_ALIGNED = 16  # columns of a tile are a multiple: numbers in a vector of a CPU


class _How(NamedTuple):
    """What is static in a product with exp(power · L)."""

    form: Form
    tile_size: int
    power: float
    precision: Precision
    implementation: Implementation


def tile_shape(n: Size, m: Size, tile_size: int) -> tuple[Size, Size]:
    """Rows and columns of a tile: `tile_size`, cut evenly over n and over m.

    Numbers of rows that an export leaves open give expressions of them.
    """

    def even(size: Size) -> Size:
        return _ceil_divide(size, _ceil_divide(size, tile_size)) if size else 1

    columns = even(m)
    if isinstance(columns, int) and isinstance(tile_size, int):
        # Rows of a tile then begin where vectors do.
        columns = min(_ceil_divide(columns, _ALIGNED) * _ALIGNED, tile_size, max(m, 1))
    return even(n), columns


def exp_matmul(
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    values: Float[Array, "m r"],
    *,
    form: Form,
    tile_size: int,
    power: float = 1.0,
    precision: Precision = "exact",
    implementation: Implementation = "xla",
) -> Float[Array, "n r"]:
    """exp(power · L) V by tiles; work space is some tiles and a block of the result.

    Args:
        queries: shape (n, e), floating.
        keys: shape (m, e), the same dtype.
        values: V, shape (m, r), the same dtype.
        form: of the two.
        tile_size: the largest side of a tile.
        power: of the weights.
        precision: the level of the product with V, of float32; L and gradients are
            exact.
        implementation: "xla"; "pallas", a fused kernel where the program is for a TPU,
            of plain forms in float32; "interpret", the same step by step anywhere.

    Returns:
        Shape (n, r). L should not be far above 0: nothing is subtracted.

    Gradients, in reverse mode only: with S = exp(L) and a cotangent O of the result,
    V̄ = Sᵀ O, and S ∘ O Vᵀ is the cotangent of L, in one sweep over the tiles.
    """
    how = _How(form, tile_size, power, precision, implementation)
    return _exp_matmul(how, queries, keys, values)


def logsumexp_rows(
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    *,
    form: Form,
    tile_size: int,
    implementation: Implementation = "xla",
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Log Σ_a exp(L_xa) by tiles, in two parts whose sum it is.

    Returns:
        The largest entry of each row, taken as a constant, and the rest, which is
        between 0 and log m and has the gradient of the sum. Two parts, since a large
        first one would round the second away.

    Gradients, in reverse mode only: with the weights P = exp(L − result) and a
    cotangent o of the result, o ∘ P is the cotangent of L.
    """
    how = _How(form, tile_size, 1.0, "exact", implementation)
    return _logsumexp_rows(how, queries, keys)


def normalise(
    form: Form,
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    logsumexp: Callable[[Array, Array], tuple[Array, Array]],
) -> tuple[Float[Array, "n e"], Float[Array, " n"], Float[Array, " n"]]:
    """Rows less their log-sum-exp, and that in two parts.

    Where entries are large a first pass has rounded them one by one, and does not know
    yet which rows are far from all context values: with its maxima taken off first, a
    second one is exact.

    Args:
        form: of the two.
        queries: their rows.
        keys: the other array.
        logsumexp: `logsumexp_rows` or the like, of the two.
    """
    high, low = logsumexp(queries, keys)
    if form.exact:
        tables = SAFE, LARGEST[form.kind]
        safe, most = (table[str(high.dtype)] for table in tables)

        def again(queries: Array, high: Array, low: Array) -> tuple[Array, ...]:
            # What is not finite is not taken off: the second pass finds it again.
            about = jax.lax.stop_gradient(jnp.where(jnp.isfinite(high), high, 0.0))
            # 0 for rows up to `most`, else the power of two that brings a row below it.
            _, excess = jnp.frexp(jnp.maximum(jnp.abs(about) / most, 0.5))
            by = jnp.ldexp(jnp.ones_like(about), -excess)
            about, queries = by * about, shrunk(form, queries, by)
            # 0 · low and not 0, so that NaN of the first pass stays NaN.
            more, low = logsumexp(shifted(form, queries, about, 0.0 * low), keys)
            high, rest = two_sum(about, more)
            return queries, high, rest + low

        # One answer for all rows: with a `where` both passes would always run.
        large = (jnp.abs(high) > safe).any()
        queries, high, low = jax.lax.cond(
            same_for_all(large), again, lambda *same: same, queries, high, low
        )
    high = jax.lax.stop_gradient(high)
    return shifted(form, queries, high, low), high, low


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exp_matmul(how: _How, queries: Array, keys: Array, values: Array) -> Array:
    return _exp_matmul_forward(how, queries, keys, values)


def _exp_matmul_saved(
    how: _How, queries: Any, keys: Any, values: Any
) -> tuple[Array, Any]:
    arrays = queries.value, keys.value, values.value
    # V̄ is one more product a tile: not where V is no variable.
    return _exp_matmul_forward(how, *arrays), (arrays, Static(values.perturbed))


def _exp_matmul_backward(
    how: _How, saved: Any, out_bar: Any
) -> tuple[Array | None, ...]:
    """The three cotangents; work space is some tiles, and the results in blocks."""
    arrays, wants_values = saved
    if isinstance(out_bar, SymbolicZero):
        return None, None, None
    return _pull_back(how, arrays, out_bar, wants_values.value)


def _pull_back(
    how: _How,
    arrays: tuple[Array, Array, Array],
    out_bar: Array,
    wants_values: bool,
) -> tuple[Array, Array, Array | None]:
    return by_implementation(
        how.implementation,
        fits(how.form, *arrays, out_bar),
        lambda *given: _pull_back_by_tiles(how, given[:3], given[3], wants_values),
        functools.partial(fused_pull_back, power=how.power, wants_values=wants_values),
        *arrays,
        out_bar,
    )


def _pull_back_by_tiles(
    how: _How,
    arrays: tuple[Array, Array, Array],
    out_bar: Array,
    wants_values: bool,
) -> tuple[Array, Array, Array | None]:
    form, tile_size, power = how.form, how.tile_size, how.power
    queries, keys, values = arrays
    (n, e), (m, r) = queries.shape, values.shape
    # Blocks of shapes (b, columns, e) and (b, columns, r). Cotangents of the keys stay
    # in such blocks, carried from one block of queries to the next.
    rows, columns = tile_shape(n, m, tile_size)
    key_blocks, value_blocks = _blocks(keys, columns, form), _blocks(values, columns)

    def one_block(carry: tuple[Array, Any], block: tuple[Array, Array]) -> tuple:
        query, bar = block

        def add_tile(query_bar: Array, tile: tuple) -> tuple:
            key, value, key_bar, value_bar = tile
            # S and S ∘ O Vᵀ, both (rows, columns).
            scores = jnp.exp(_powered(exponents(form, query, key), power))
            # Padding rows have a cotangent of 0, padding columns a value of 0.
            weights = _powered(scores * mm(bar, value.T), power)
            for_query, for_key = pull_back(form, query, key, weights)
            return query_bar + for_query, (
                key_bar + for_key,
                value_bar + mm(scores.T, bar) if wants_values else None,
            )

        start = jnp.zeros((rows, e), queries.dtype)
        query_bar, carry = jax.lax.scan(
            add_tile, start, (key_blocks, value_blocks, *carry)
        )
        return carry, query_bar

    start = (
        jnp.zeros_like(key_blocks),
        jnp.zeros_like(value_blocks) if wants_values else None,
    )
    (keys_bar, values_bar), queries_bar = jax.lax.scan(
        one_block, start, (_blocks(queries, rows, form), _blocks(out_bar, rows))
    )
    return (
        queries_bar.reshape(-1, e)[:n],
        keys_bar.reshape(-1, e)[:m],
        None if values_bar is None else values_bar.reshape(-1, r)[:m],
    )


_exp_matmul.defvjp(_exp_matmul_saved, _exp_matmul_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logsumexp_rows(how: _How, queries: Array, keys: Array) -> tuple[Array, Array]:
    return _logsumexp_rows_forward(how, queries, keys)


def _logsumexp_rows_saved(
    how: _How, queries: Array, keys: Array
) -> tuple[tuple[Array, Array], Any]:
    out = _logsumexp_rows_forward(how, queries, keys)
    return out, (queries, keys, out)


def _logsumexp_rows_backward(
    how: _How, saved: Any, out_bar: tuple[Array, Array]
) -> tuple[Array, Array]:
    form = how.form
    queries, keys, out = saved
    # Weights in [0, 1], however large the logits are.
    arrays = (
        shifted(form, queries, *out),
        keys,
        jnp.ones((keys.shape[0], 1), keys.dtype),
    )
    # Of both parts the first is a constant; the second has the whole gradient.
    return _pull_back(how, arrays, out_bar[1][:, None], False)[:2]


_logsumexp_rows.defvjp(_logsumexp_rows_saved, _logsumexp_rows_backward)


def _exp_matmul_forward(how: _How, queries: Array, keys: Array, values: Array) -> Array:
    return by_implementation(
        how.implementation,
        fits(how.form, queries, keys, values),
        functools.partial(_exp_matmul_by_tiles, how),
        functools.partial(fused_exp_matmul, power=how.power, precision=how.precision),
        queries,
        keys,
        values,
    )


def _exp_matmul_by_tiles(
    how: _How, queries: Array, keys: Array, values: Array
) -> Array:
    form, tile_size, power, precision, _ = how
    n, m, r = queries.shape[0], keys.shape[0], values.shape[1]
    rows, columns = tile_shape(n, m, tile_size)
    start = jnp.zeros((rows, r), values.dtype)
    number = jnp.arange(columns)[:, None]
    # The last block ends at the last row and does some rows a second time: padding
    # would copy whole arrays.
    last_row, last_column = n - rows, m - columns
    out = jnp.zeros((n, r), values.dtype)
    if not isinstance(n, int):
        # Of sizes that an export leaves open JAX must know that a tile fits in.
        last_row = n - 1
        queries, out = (jnp.pad(x, ((0, rows - 1), (0, 0))) for x in (queries, out))
    if not isinstance(m, int):
        last_column = m - 1
        keys = padded(form, keys, m + columns - 1)
        values = jnp.pad(values, ((0, columns - 1), (0, 0)))

    def one_block(i: Array, out: Array) -> Array:
        row = jnp.minimum(i * rows, last_row)
        query = jax.lax.dynamic_slice_in_dim(queries, row, rows)

        def add_tile(j: Array, total: Array) -> Array:
            column = jnp.minimum(j * columns, last_column)
            key, value = (
                jax.lax.dynamic_slice_in_dim(x, column, columns) for x in (keys, values)
            )
            # The last tile begins before its place, to end with the last column: what
            # the one before has counted is 0 here.
            value = jnp.where(column + number >= j * columns, value, 0.0)
            scores = jnp.exp(_powered(exponents(form, query, key), power))
            return total + mm(scores, value, precision)

        block = jax.lax.fori_loop(0, _ceil_divide(m, columns), add_tile, start)
        return jax.lax.dynamic_update_slice_in_dim(out, block, row, 0)

    return jax.lax.fori_loop(0, _ceil_divide(n, rows), one_block, out)[:n]


def _logsumexp_rows_forward(
    how: _How, queries: Array, keys: Array
) -> tuple[Array, Array]:
    return by_implementation(
        how.implementation,
        fits(how.form, queries, keys),
        functools.partial(_logsumexp_by_tiles, how),
        fused_logsumexp_rows,
        queries,
        keys,
    )


def _logsumexp_by_tiles(how: _How, queries: Array, keys: Array) -> tuple[Array, Array]:
    form, tile_size = how.form, how.tile_size
    n, m = queries.shape[0], keys.shape[0]
    rows, columns = tile_shape(n, m, tile_size)
    key_blocks = _blocks(keys, columns, form)
    counts = _blocks(jnp.ones((m, 1), keys.dtype), columns)

    def one_block(query: Array) -> tuple[Array, Array]:
        def add_tile(
            carry: tuple[Array, Array], tile: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array], None]:
            largest, total = carry
            key, count = tile
            logits = exponents(form, query, key)
            # Zeros of the padding would have the logit 0.
            logits = jnp.where(count[:, 0][None, :] > 0, logits, MASKED)
            # Invariant: total = Σ exp(logit − largest) over the tiles so far, none of
            # whose terms is above 1.
            new = jnp.maximum(largest, logits.max(axis=1))
            scaled = total * jnp.exp(largest - new)
            return (new, scaled + jnp.exp(logits - new[:, None]).sum(axis=1)), None

        # MASKED and not −∞, which less itself is NaN.
        start = (
            jnp.full((rows,), MASKED, keys.dtype),
            jnp.zeros((rows,), keys.dtype),
        )
        largest, total = jax.lax.scan(add_tile, start, (key_blocks, counts))[0]
        return largest, jnp.log(total)

    parts = jax.lax.map(one_block, _blocks(queries, rows, form))
    largest, rest = (part.reshape(-1)[:n] for part in parts)
    return largest, rest


def _powered(x: Array, power: float) -> Array:
    return x if power == 1.0 else power * x


def _blocks(
    x: Float[Array, "n e"], size: Size, form: Form | None = None
) -> Float[Array, "b size e"]:
    """Rows in blocks of `size`, the last one padded: with zeros, or out of the law."""
    number = _ceil_divide(x.shape[0], size)
    n = number * size
    if form is not None:
        x = padded(form, x, n)
    elif n != x.shape[0]:
        x = jnp.pad(x, ((0, n - x.shape[0]), (0, 0)))
    return x.reshape(number, size, x.shape[1])


def _ceil_divide(a: Size, b: Size) -> Size:
    return -(-a // b)
