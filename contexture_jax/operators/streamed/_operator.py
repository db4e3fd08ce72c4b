"""Streamed storage: a table that is read block by block, in each product anew."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_number
from contexture_jax._core.fingerprint import fingerprint
from contexture_jax._core.journal import Entry, Journal
from contexture_jax._core.streams import (
    Reader,
    as_source,
    reader_of,
)
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax._core.types import static_field as _static
from contexture_jax.operators._base import Cost
from contexture_jax.operators.streamed._products import (
    Kind,
    Product,
    by_entries,
    by_rows,
)
from contexture_jax.operators.streamed._read import ReadOperator
from contexture_jax.operators.streamed._sums import sums_of

__all__ = ["StreamedOperator", "streamed_operator"]


@pytree_dataclass
class StreamedOperator(ReadOperator):
    """T of a joint table that is read from a source, block by block, in each product.

    T g = D_X⁻¹ P g and T* f = D_A⁻¹ Pᵀ f, as of a dense table. What is held is the
    marginals, blocks of functions and `depth + 1` blocks of the table, one of which is
    multiplied while a thread reads the next. Python drives the products: they are no
    part of a program, and have no derivative.

    Attributes:
        p_x: shape (n,).
        p_a: shape (m,).
        inverse_x: 1 / Σ_a P(x, a) of the table as stored, 0 without mass, shape (n,).
        inverse_a: likewise of its columns, shape (m,).
        norm2: ‖T‖²_HS, shape (); None where rows are spread over several blocks.
        num_entries: that a product reads. Static.
        reader: of the source. Static.
        has_whole_rows: whether no row is in two blocks. Static.
    """

    p_x: Float[Array, " n"]
    p_a: Float[Array, " m"]
    inverse_x: Float[Array, " n"]
    inverse_a: Float[Array, " m"]
    norm2: Float[Array, ""] | None
    num_entries: int = _static()
    reader: Reader = _static()
    has_whole_rows: bool = _static()
    fingerprint: Any = dataclasses.field(default=None, kw_only=True)

    def gram(self, g: ArrayLike) -> Float[Array, "m r"]:
        """T* T g, shape (m, r): one pass where no row is in two blocks, else two."""
        if self.has_whole_rows:
            return self._product("gram", g, "g")
        return self.rmatmat(self.matmat(g))

    def squared_norm(self) -> Float[Array, ""] | None:
        """Σ P(x,a)² / (p_x p_a), from the first pass."""
        return self.norm2

    def cost(self, r: int) -> Cost:
        """Of one pass; the bytes of arguments are those in memory at once."""
        check_integer(r, "r", low=0)
        n, m = self.shape
        size, reader = self.dtype.itemsize, self.reader
        width = m * size if reader.source.is_dense else size + 8
        held = (reader.depth + 1) * reader.num_rows * width
        return Cost(
            flops=2 * self.num_entries * r + n * r,
            argument_bytes=held + size * (2 * n + 2 * m + m * r),
            output_bytes=size * n * r,
            temporary_bytes=size * min(reader.num_rows, n) * r,
        )

    def fold(self, kind: Kind, given: np.ndarray) -> Product:
        """A product as a fold over the blocks of `reader.ahead()`.

        Args:
            kind: "forward" is T g, "backward" and "gram" are D_A T* f and D_A T* T g
                with D_A the sums of columns of the table as stored.
            given: the block of functions, of NumPy, the dtype of the operator.
        """
        made = by_rows if self.reader.source.is_dense else by_entries
        return made(kind, given, np.asarray(self.inverse_x), self.shape)

    def _multiply(self, kind: Kind, given: np.ndarray) -> Any:
        product, entry = self.fold(kind, given), Entry(None, 0.0)
        if self.reader.journal is not None:
            # Where blocks begin is part of it: a cursor counts them.
            starts = [(block.start, block.stop) for block in self.reader.blocks]
            entry = self.reader.journal.opened(kind, starts, self.reader.mark, given)
        self.reader.tally[kind, given.shape[1]] += 1
        out = jnp.asarray(_streamed(self.reader, product, entry))
        return out if kind == "forward" else self.inverse_a[:, None] * out


def _streamed(reader: Reader, product: Product, entry: Entry) -> Any:
    """All blocks into one product, from where it was left."""
    reader.source.check()
    out = product.empty if entry.carry is None else product.restored(entry.carry)
    for number, block in reader.ahead(entry.next_block):
        out = product.add(out, reader.blocks[number], block)
        last = number + 1 == len(reader.blocks)
        entry.note(number + 1, product.parts(out), last=last)
    return product.result(out)


def streamed_operator(
    source: Any,
    *,
    block_bytes: int = 2**25,
    depth: int = 2,
    dtype: Any = None,
    journal: str | os.PathLike[str] | None = None,
    journal_seconds: float = 30.0,
) -> StreamedOperator:
    """T of a joint table that need not fit into memory; one pass for its marginals.

    `svd` solves it in passes over the source. Where no row is in two blocks the normal
    products T* T of its filter read the table once and not twice.

    Args:
        source: as from `cx.data.open_shards`, or an array, which is then cut and summed
            in the same order. Numbers as for `contexts.joint`: none below 0, of any
            scale.
        block_bytes: of the table that are read at once. Sums are rounded block by
            block: another number gives the same to rounding.
        depth: blocks that are read ahead.
        dtype: of the work; None: float64 for a table of it where 64-bit types are on,
            else float32.
        journal: a folder for parts of products and of the first pass, so that a pass
            that was cut off goes on where it was, to the same bits; None: none. With
            `svd(state=...)` a solve goes on from within a pass.
        journal_seconds: between two writings; products that take less are not kept.

    Returns:
        A `StreamedOperator`, whose `reader` counts what was read.

    Raises:
        TypeError: if `source` is neither.
        ValueError: if the table is empty, holds what is no finite number of 0 or more,
            or an entry lies outside its shape; if files changed or are damaged.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> table = np.random.default_rng(0).random((50, 8), np.float32)
        >>> op = cx.operators.streamed_operator(table, block_bytes=512)
        >>> len(op.reader.blocks)
        4
        >>> result, info = cx.svd(op, 3, key=jax.random.key(0))
        >>> info.status == "converged"
        True
    """
    source = as_source(source)
    if dtype is None:
        is_wide = np.dtype(source.dtype) == np.float64
        dtype = np.float64 if is_wide else np.float32
    work = jax.dtypes.canonicalize_dtype(dtype)
    if work not in (np.float32, np.float64):
        msg = f"dtype must be float32 or float64; got {work}"
        raise ValueError(msg)
    seconds = check_number(journal_seconds, "journal_seconds")
    kept = None if journal is None else Journal(Path(journal), seconds)
    reader = reader_of(source, block_bytes, work, depth=depth, journal=kept)
    sums = sums_of(reader)
    p_x, p_a = ((part / part.sum()).astype(work) for part in (sums.rows, sums.columns))
    inverse_x, inverse_a = (
        np.divide(1.0, part, out=np.zeros_like(part), where=part > 0).astype(work)
        for part in (sums.rows, sums.columns)
    )
    known = (p_x, p_a, sums.energies)[: 2 if sums.energies is None else 3]
    mark = fingerprint(known)
    # Solvers take that of an operator away.
    reader.mark = str(mark)
    return StreamedOperator(
        jnp.asarray(p_x),
        jnp.asarray(p_a),
        jnp.asarray(inverse_x),
        jnp.asarray(inverse_a),
        None if sums.energies is None else _norm2(sums, work),
        sums.num_entries,
        reader,
        sums.has_whole_rows,
        fingerprint=mark,
    )


def _norm2(sums: Any, dtype: Any) -> Array:
    # Σ_a (1 / p_a) Σ_x P² / p_x, where the table as stored sums to S: its S² cancels.
    there = sums.columns > 0
    return jnp.asarray((sums.energies[there] / sums.columns[there]).sum(), dtype)
