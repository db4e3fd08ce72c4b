"""The Gaussian kernel of features that are read block by block."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_number
from contexture_jax._core.fingerprint import fingerprint
from contexture_jax._core.streams import Reader, as_source, reader_of
from contexture_jax._core.types import Array, Float, pytree_dataclass, static_field
from contexture_jax.contexts import Rbf
from contexture_jax.kernels import Form, exp_matmul
from contexture_jax.operators._base import Cost
from contexture_jax.operators._kernel import TILE_SIZE
from contexture_jax.operators.streamed._products import Kind
from contexture_jax.operators.streamed._read import ReadOperator

__all__ = ["StreamedKernelOperator", "streamed_rbf"]


@pytree_dataclass
class StreamedKernelOperator(ReadOperator):
    """T of P⁺(a|x) = exp(−γ|x − a|²) / Z(x), a among x, features read block by block.

    With the symmetric kernel K, T g = Z⁻¹ K g and T* f = D_A⁻¹ K (p_x Z⁻¹ f). Features
    are read once for each part of the rows that `query_bytes` holds.

    Attributes:
        p_x: 1 / n each, shape (n,).
        p_a: shape (n,).
        inverse_z: 1 / Z(x), shape (n,).
        norm2: ‖T‖²_HS, shape ().
        gamma: γ. Static.
        query_bytes: of the rows that are multiplied in one pass. Static.
        reader: of the features. Static.
    """

    p_x: Float[Array, " n"]
    p_a: Float[Array, " n"]
    inverse_z: Float[Array, " n"]
    norm2: Float[Array, ""]
    gamma: float = static_field()
    query_bytes: int = static_field()
    reader: Reader = static_field()
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def squared_norm(self) -> Float[Array, ""]:
        """Σ_x p_x Σ_a P⁺(a|x)² / p_a."""
        return self.norm2

    def cost(self, r: int) -> Cost:
        """Per pair (x, a): a distance, an exponential, a product of width r."""
        check_integer(r, "r", low=0)
        n, width = self.shape[0], int(self.reader.source.shape[1] or 0)
        size = self.dtype.itemsize
        held = self.query_bytes + (self.reader.depth + 1) * (
            self.reader.num_rows * width * size
        )
        return Cost(
            flops=n * n * (2 * width + 1 + 2 * r),
            argument_bytes=held + size * (3 * n + n * r),
            output_bytes=size * n * r,
            temporary_bytes=size * TILE_SIZE * TILE_SIZE,
        )

    def _multiply(self, kind: Kind, given: np.ndarray) -> Any:
        inverse = np.asarray(self.inverse_z)[:, None]
        self.reader.tally[kind, given.shape[1]] += 1
        multiply = functools.partial(
            _kernel_product, self.reader, self.gamma, self.query_bytes
        )
        if kind == "forward":
            return inverse * multiply(given)
        law = np.asarray(self.p_x)[:, None] * inverse
        return multiply(law * given) / np.asarray(self.p_a)[:, None]


def _kernel_product(
    reader: Reader, gamma: float, query_bytes: int, values: np.ndarray
) -> np.ndarray:
    """Σ_a exp(−γ|x − a|²) v(a) for all x."""
    reader.source.check()
    out = np.empty_like(values)
    for part in reader.source.blocks(query_bytes):
        queries = np.array(reader.source.read(part), reader.dtype)
        total = np.zeros((len(queries), values.shape[1]), values.dtype)
        for number, block in reader.ahead():
            place = reader.blocks[number]
            size = place.stop - place.start
            # What fills up the last block has no weight.
            weights = np.zeros((len(block), values.shape[1]), values.dtype)
            weights[:size] = values[place.row : place.row + size]
            # Zeros behind would be points: the first one stands for them.
            block[size:] = block[0]
            total += np.asarray(_pair(queries, block, gamma, weights))
        out[part.row : part.row + len(queries)] = total
    return out


def _pair(
    queries: np.ndarray, points: np.ndarray, gamma: float, weights: np.ndarray
) -> Array:
    dtype = queries.dtype
    context = Rbf(
        jnp.asarray(queries),
        jnp.asarray(points),
        jnp.asarray(gamma, dtype),
        jnp.zeros(len(points), dtype),
        jnp.full(len(queries), 1.0 / len(queries), dtype),
    )
    return jax.block_until_ready(_product(context, weights, form=context.form()))


@functools.partial(jax.jit, static_argnames="form")
def _product(context: Rbf, weights: Array, *, form: Form) -> Array:
    # Without −log Z: the kernel is at most 1, and 1 at the point itself.
    found = context.scores(form)
    return exp_matmul(
        found.queries, found.keys, weights, form=form, tile_size=TILE_SIZE
    )


def streamed_rbf(
    source: Any,
    gamma: float = 1.0,
    *,
    block_bytes: int = 2**25,
    query_bytes: int = 2**28,
    depth: int = 2,
) -> StreamedKernelOperator:
    """T of the context `rbf`, of features that are read block by block.

    Nothing of n × n is stored, and of the features one part of the rows and a few
    blocks are in memory. Time grows with n², as that of `rbf` in memory: three products
    here, for Z, P_A and the norm, and two a pass of `svd`.

    Args:
        source: features of dense rows, as from `cx.data.open_shards`, or an array, as
            of `np.load(path, mmap_mode="r")`: shape (n, d).
        gamma: γ > 0 in units of 1 / x², of a size that float32 holds.
        block_bytes: of the features that are read at once.
        query_bytes: of the rows that are multiplied in one pass over them.
        depth: blocks that are read ahead.

    Raises:
        TypeError: if `source` is neither.
        ValueError: if γ is not positive, features are not finite, or files are gone,
            have changed or are damaged.

    Example:
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
        >>> op = cx.operators.streamed_rbf(x, 0.5, block_bytes=200)
        >>> near = cx.association_operator(cx.contexts.rbf(x, 0.5))
        >>> bool(abs(op.p_a - near.p_a).max() < 1e-6)
        True
    """
    source = as_source(source)
    if not source.is_dense:
        msg = f"source must hold rows of features; {source.title} holds entries"
        raise TypeError(msg)
    gamma = check_number(gamma, "gamma")
    if not 0 < gamma < np.inf:
        raise ValueError(f"gamma must be positive; got {gamma}")
    is_wide = np.dtype(source.dtype) == np.float64
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if is_wide else np.float32)
    size = check_integer(query_bytes, "query_bytes", low=1)
    reader = reader_of(source, block_bytes, dtype, depth=depth)
    n = int(source.shape[0] or 0)
    for _, block in reader.ahead():
        if not np.isfinite(block).all():
            raise ValueError(f"{source.title} holds what is no finite number")
    multiply = functools.partial(_kernel_product, reader)
    z = multiply(gamma, size, np.ones((n, 1), dtype))
    p_x = np.full((n, 1), 1.0 / n, dtype)
    p_a = multiply(gamma, size, p_x / z)
    # Squares of the kernel are those of 2 γ.
    norm2 = (p_x / z**2 * multiply(2.0 * gamma, size, 1.0 / p_a)).sum()
    laws = [x[:, 0] for x in (p_x, p_a, 1.0 / z)]
    one, other, inverse_z = map(jnp.asarray, laws)
    return StreamedKernelOperator(
        one,
        other,
        inverse_z,
        jnp.asarray(norm2, dtype),
        gamma,
        size,
        reader,
        fingerprint=fingerprint(laws),
    )
