"""What a block adds to a product: rows by programs, entries by SciPy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import mm
from contexture_jax._core.sparse_rows import Rows
from contexture_jax._core.types import Array, Float

__all__ = ["Kind", "Product", "by_entries", "by_rows"]

Kind = Literal["forward", "backward", "gram"]
"""D⁻¹ P g, whose rows are those of X; Pᵀ f and Pᵀ D⁻¹ P g, which are sums over blocks,
with D the diagonal matrix of sums of rows."""


class Product(NamedTuple):
    """A product as a fold over blocks.

    Attributes:
        empty: before the first block.
        add: (what is there, the place of a block, its numbers) to what is there then;
            it has been computed when this returns.
        parts: what is there as a list of arrays.
        restored: back from such a list.
        result: what is there after the last block as one array.
    """

    empty: Any
    add: Callable[[Any, Any, Any], Any]
    parts: Callable[[Any], list[Any]] = lambda out: [out]
    restored: Callable[[list[Any]], Any] = lambda parts: parts[0]
    result: Callable[[Any], Any] = np.asarray


def by_rows(
    kind: Kind, given: np.ndarray, inverse_x: np.ndarray, shape: tuple[int, int]
) -> Product:
    """Of dense blocks, each with zeros behind its last row."""
    (n, m), r = shape, given.shape[1]

    def rows_of(array: np.ndarray, place: Any, size: int) -> np.ndarray:
        """The rows of a block, and zeros behind them."""
        stop = place.row + place.stop - place.start
        part = array[place.row : stop]
        if len(part) == size:
            return part
        whole = np.zeros((size, *array.shape[1:]), array.dtype)
        whole[: len(part)] = part
        return whole

    if kind == "forward":
        on_device = jnp.asarray(given)

        def forward(out: np.ndarray, place: Any, block: np.ndarray) -> np.ndarray:
            scale = rows_of(inverse_x, place, len(block))
            made = _forward(block, on_device, scale)
            size = place.stop - place.start
            out[place.row : place.row + size] = np.asarray(made)[:size]
            return out

        return Product(np.empty((n, r), given.dtype), forward)
    nothing = jnp.zeros((m, r), given.dtype)
    if kind == "backward":

        def backward(total: Array, place: Any, block: np.ndarray) -> Array:
            return _backward(block, rows_of(given, place, len(block)), total)

        return Product(nothing, _waiting(backward), restored=_on_device)
    on_device = jnp.asarray(given)

    def gram(total: Array, place: Any, block: np.ndarray) -> Array:
        scale = rows_of(inverse_x, place, len(block))
        return _gram(block, on_device, scale, total)

    return Product(nothing, _waiting(gram), restored=_on_device)


def _on_device(parts: list[Any]) -> Array:
    return jnp.asarray(parts[0])


def _waiting(add: Callable[..., Array]) -> Callable[..., Array]:
    # The memory of the block is written over next.
    return lambda *args: jax.block_until_ready(add(*args))


@jax.jit
def _forward(
    block: Float[Array, "b m"], g: Float[Array, "m r"], scale: Float[Array, " b"]
) -> Float[Array, "b r"]:
    return mm(block, g) * scale[:, None]


@functools.partial(jax.jit, donate_argnums=2)
def _backward(
    block: Float[Array, "b m"], f: Float[Array, "b r"], total: Float[Array, "m r"]
) -> Float[Array, "m r"]:
    return total + mm(block.T, f)


@functools.partial(jax.jit, donate_argnums=3)
def _gram(
    block: Float[Array, "b m"],
    g: Float[Array, "m r"],
    scale: Float[Array, " b"],
    total: Float[Array, "m r"],
) -> Float[Array, "m r"]:
    image = mm(block, g) * scale[:, None]
    return total + mm(block.T, image)


def by_entries(
    kind: Kind, given: np.ndarray, inverse_x: np.ndarray, shape: tuple[int, int]
) -> Product:
    """Of blocks of entries: by SciPy, half of the columns a core."""
    (n, m), dtype = shape, given.dtype
    # Two halves, as SciPy takes one core: each reads all entries, and rows of a half.
    parts = [np.ascontiguousarray(x) for x in np.array_split(given, 2, axis=1)]
    parts = [part for part in parts if part.shape[1]]
    pool = ThreadPoolExecutor(len(parts), thread_name_prefix="columns")
    rows = n if kind == "forward" else m
    empty = [np.zeros((rows, part.shape[1]), dtype) for part in parts]

    def of_half(out: np.ndarray, part: np.ndarray, block: Rows) -> None:
        first, matrix = block
        stop, width = first + matrix.shape[0], matrix.shape[1]
        if kind == "backward":
            out[:width] += matrix.T @ part[first:stop]
            return
        image = matrix @ part[:width]
        image *= inverse_x[first:stop, None]
        if kind == "forward":
            out[first:stop] += image
        else:
            out[:width] += matrix.T @ image

    def add(out: list[np.ndarray], place: Any, block: Rows) -> list[np.ndarray]:
        del place
        list(pool.map(of_half, out, parts, [block] * len(parts)))
        return out

    def result(out: list[np.ndarray]) -> np.ndarray:
        pool.shutdown()
        return np.concatenate(out, axis=1)

    return Product(empty, add, list, list, result)
