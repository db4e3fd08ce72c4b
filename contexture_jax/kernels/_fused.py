"""Products with exp(L) in one fused kernel for a TPU: twins of the forms for XLA.

A tile of L is made, exponentiated and multiplied without leaving the memory of the core
(the schedule of flash attention: Dao, Fu, Ermon, Rudra & Ré 2022), where XLA may write
tiles out between the two products. Of plain forms in float32 only, whose tile is one
product of factors; L is not above 0 in a law, so that a product needs no running
maximum, and a log-sum-exp alone keeps one.

Gradients sweep the tiles twice, by rows for the queries and by columns for keys and
values, so that each sum stays where it is.

The XLA forms are the reference and the default: no fused kernel has been timed on a
TPU by this project.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import Precision
from contexture_jax._core.types import Array, Float, summary
from contexture_jax.kernels._exponents import MASKED, Form

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "by_implementation",
    "check_implementation",
    "fits",
    "fused_exp_matmul",
    "fused_logsumexp_rows",
    "fused_pull_back",
]

Implementation = Literal["xla", "pallas", "interpret"]
IMPLEMENTATIONS = ("xla", "pallas", "interpret")

# Sides of a tile: of 512 by 512 the weights take 1 MB of the 16 that a kernel has,
# blocks of 512 functions in float32 another 1 MB each.
_ROWS, _COLUMNS = 512, 512
_SUBLANES = 8  # rows of a block are a multiple of it


def check_implementation(implementation: Any) -> Implementation:
    """Raise a `ValueError` unless it names a way to compute products."""
    if implementation not in IMPLEMENTATIONS:
        msg = (
            f"implementation must be one of {IMPLEMENTATIONS};"
            f" got {summary(implementation)}"
        )
        raise ValueError(msg)
    return implementation


def by_implementation(
    implementation: Implementation,
    fits: bool,
    xla: Callable[..., Any],
    fused: Callable[..., Any],
    *arrays: Any,
) -> Any:
    """The one place that chooses between a form for XLA and its fused twin.

    Args:
        implementation: "xla"; "pallas", the twin where the program is lowered for a TPU
            and the form for XLA elsewhere; "interpret", the twin step by step on any
            device, slowly, as tests have it.
        fits: whether the twin takes such arrays at all; if not it is the form for XLA.
        xla: a function of the arrays.
        fused: the same, and of `interpret`.
        *arrays: what the two take.
    """
    if implementation == "xla" or not fits:
        return xla(*arrays)

    def kernel(*arrays: Any) -> Any:
        # A TPU has no 64 bits, and kernels may not name them.
        with jax.enable_x64(False):
            return fused(*arrays, interpret=implementation == "interpret")

    if implementation == "interpret":
        return kernel(*arrays)
    return jax.lax.platform_dependent(*arrays, tpu=kernel, default=xla)


def fits(form: Form, *arrays: Array) -> bool:
    """Whether the fused kernels take such arrays: plain, float32, of known sizes."""
    return not form.exact and all(
        x.dtype == jnp.float32 and all(isinstance(s, int) and s for s in x.shape)
        for x in arrays
    )


def fused_exp_matmul(
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    values: Float[Array, "m r"],
    *,
    power: float,
    precision: Precision,
    interpret: bool,
) -> Float[Array, "n r"]:
    """exp(power · Q Kᵀ) V, as `exp_matmul` of a plain form."""
    from jax.experimental import pallas as pl

    m, r = values.shape

    def kernel(query: Any, key: Any, value: Any, out: Any) -> None:
        j = pl.program_id(1)

        @pl.when(j == 0)
        def _() -> None:
            out[...] = jnp.zeros_like(out)

        scores = _weights(query[...], _cut(key, j, m), j, m, power)
        out[...] += _dot(scores, _cut(value, j, m), 1, 0, precision)

    return _by_rows(kernel, (queries,), (keys, values), [r], interpret=interpret)[0]


def fused_logsumexp_rows(
    queries: Float[Array, "n e"], keys: Float[Array, "m e"], *, interpret: bool
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Log Σ_a exp(⟨q_x, k_a⟩) in two parts, as `logsumexp_rows` of a plain form."""
    from jax.experimental import pallas as pl

    m = keys.shape[0]

    def kernel(query: Any, key: Any, largest: Any, total: Any) -> None:
        j = pl.program_id(1)

        @pl.when(j == 0)
        def _() -> None:
            # MASKED and not −∞, which less itself is NaN.
            largest[...] = jnp.full_like(largest, MASKED)
            total[...] = jnp.zeros_like(total)

        logits = _dot(query[...], _cut(key, j, m), 1, 1)
        there = _inside(j, logits.shape, m, axis=1)
        logits = jnp.where(there, logits, MASKED)
        # Invariant: total = Σ exp(logit − largest) over the tiles so far.
        before = largest[...]
        new = jnp.maximum(before, logits.max(axis=1, keepdims=True))
        terms = jnp.where(there, jnp.exp(logits - new), 0.0)
        total[...] = total[...] * jnp.exp(before - new) + terms.sum(
            axis=1, keepdims=True
        )
        largest[...] = new

    largest, total = _by_rows(kernel, (queries,), (keys,), [1, 1], interpret=interpret)
    return largest[:, 0], jnp.log(total[:, 0])


def fused_pull_back(
    queries: Float[Array, "n e"],
    keys: Float[Array, "m e"],
    values: Float[Array, "m r"],
    out_bar: Float[Array, "n r"],
    *,
    power: float,
    wants_values: bool,
    interpret: bool,
) -> tuple[Float[Array, "n e"], Float[Array, "m e"], Float[Array, "m r"] | None]:
    """Cotangents of all three for that of `fused_exp_matmul`.

    With S = exp(power · Q Kᵀ) and W = power · S ∘ O Vᵀ they are W K, Wᵀ Q and Sᵀ O.
    """
    from jax.experimental import pallas as pl

    (n, e), (m, r) = queries.shape, values.shape

    def for_queries(query: Any, bar: Any, key: Any, value: Any, out: Any) -> None:
        j = pl.program_id(1)

        @pl.when(j == 0)
        def _() -> None:
            out[...] = jnp.zeros_like(out)

        key, value = _cut(key, j, m), _cut(value, j, m)
        scores = _weights(query[...], key, j, m, power)
        weights = power * scores * _dot(bar[...], value, 1, 1)
        out[...] += _dot(weights, key, 1, 0)

    def for_keys(key: Any, value: Any, query: Any, bar: Any, *outs: Any) -> None:
        j = pl.program_id(1)

        @pl.when(j == 0)
        def _() -> None:
            for out in outs:
                out[...] = jnp.zeros_like(out)

        query, bar = _cut(query, j, n), _cut(bar, j, n)
        # Transposed, (keys, queries): rows of the tile are keys here.
        scores = _weights(key[...], query, j, n, power)
        weights = power * scores * _dot(value[...], bar, 1, 1)
        outs[0][...] += _dot(weights, query, 1, 0)
        if wants_values:
            outs[1][...] += _dot(scores, bar, 1, 0)

    queries_bar = _by_rows(
        for_queries, (queries, out_bar), (keys, values), [e], interpret=interpret
    )[0]
    keys_bar, *values_bar = _by_rows(
        for_keys,
        (keys, values),
        (queries, out_bar),
        [e, r] if wants_values else [e],
        interpret=interpret,
    )
    return queries_bar, keys_bar, values_bar[0] if wants_values else None


def _by_rows(
    kernel: Callable[..., None],
    of_rows: tuple[Array, ...],
    of_columns: tuple[Array, ...],
    widths: list[int],
    *,
    interpret: bool,
) -> tuple[Array, ...]:
    """Run a kernel on each pair of blocks; columns go fastest, and sum where they are.

    Args:
        kernel: of references to a block of each array, then of each result.
        of_rows: arrays with a row for each row of a tile.
        of_columns: arrays with a row for each column of a tile.
        widths: of the results, which have a row for each row of a tile.
        interpret: step by step, on any device.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    n, m = of_rows[0].shape[0], of_columns[0].shape[0]
    rows, columns = _side(n, _ROWS), _side(m, _COLUMNS)

    def along_rows(width: int) -> Any:
        return pl.BlockSpec((rows, width), lambda i, _: (i, 0))

    def along_columns(width: int) -> Any:
        return pl.BlockSpec((columns, width), lambda _, j: (j, 0))

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(n, rows), pl.cdiv(m, columns)),
        in_specs=[
            *(along_rows(x.shape[1]) for x in of_rows),
            *(along_columns(x.shape[1]) for x in of_columns),
        ],
        out_specs=[along_rows(width) for width in widths],
        # Inside `shard_map` a shape says on which devices it is, too.
        out_shape=jax.eval_shape(
            functools.partial(_results, widths=widths), (*of_rows, *of_columns)
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary")
        ),
        interpret=interpret,
    )(*of_rows, *of_columns)


def _results(arrays: tuple[Array, ...], widths: list[int]) -> list[Array]:
    """Arrays of the shapes of the results, that depend on all that these do."""
    none = sum(0.0 * x[0, 0] for x in arrays)
    return [jnp.zeros((len(arrays[0]), width), jnp.float32) + none for width in widths]


def _side(size: int, most: int) -> int:
    """Rows of a block: a multiple of eight; the last block may reach over the end."""
    return min(most, -(-size // _SUBLANES) * _SUBLANES)


def _inside(j: Array, shape: tuple[int, ...], size: int, axis: int) -> Array:
    """Which entries of block j along an axis are among the first `size` of all."""
    number = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return j * shape[axis] + number < size


def _cut(block: Any, j: Array, size: int) -> Array:
    """Block j with 0 past the end, where anything may be, NaN too."""
    return jnp.where(_inside(j, block.shape, size, axis=0), block[...], 0.0)


def _weights(query: Array, key: Array, j: Array, size: int, power: float) -> Array:
    """exp(power · L) of a tile, 0 past the end."""
    logits = _dot(query, key, 1, 1)
    scores = jnp.exp(logits if power == 1.0 else power * logits)
    return jnp.where(_inside(j, scores.shape, size, axis=1), scores, 0.0)


def _dot(a: Array, b: Array, i: int, j: int, precision: Precision = "exact") -> Array:
    """The product over axis i of one and j of the other, with sums in float32.

    A kernel knows float32 and bfloat16: all levels but the coarse one are exact.
    """
    if precision == "coarse":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jax.lax.dot_general(
        a,
        b,
        (((i,), (j,)), ((), ())),
        precision=None if precision == "coarse" else jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
