"""From whatever is a matrix to arrays that are traced and functions that are not."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from contexture_jax._core.arrays import in_range
from contexture_jax._core.checks import (
    as_array,
    as_floating,
    check_concrete,
    check_ndim,
    floating_dtype,
)
from contexture_jax._core.meshes import on_auto_axes
from contexture_jax._core.types import Array
from contexture_jax.kernels import Slots, make_slots
from contexture_jax.operators import AssociationOperator

__all__ = ["Layouts", "take_apart"]

_EXPECTED = (
    "a must be an array of numbers, a sparse matrix of JAX or SciPy, a tuple (matmat,"
    " rmatmat, shape, dtype), or an object with shape, matmat and rmatmat, or with"
    " shape, @ and an adjoint"
)


class Layouts(NamedTuple):
    """A sparse matrix and its conjugate transpose."""

    forward: Slots
    backward: Slots


class Parts(NamedTuple):
    """What a matrix is made of.

    Attributes:
        arrays: to be traced: the matrix, its `Layouts`, or what the functions close
            over.
        functions: (matmat, rmatmat), static; None for arrays and layouts.
        shape: (n, m).
        dtype: floating or complex, that work is done in.
    """

    arrays: Any
    functions: Any
    shape: tuple[int, int]
    dtype: Any


def take_apart(a: Any) -> Parts:
    """Tell what kind of matrix `a` is; see `truncated_svd`.

    Raises:
        TypeError: if it is none, or its entries are not numbers.
        ValueError: if its shape is not that of a matrix with rows and columns.
    """
    if isinstance(a, tuple) and len(a) == 4 and callable(a[0]):
        return _map(*a)
    if isinstance(a, AssociationOperator):
        msg = (
            "a must be a plain matrix; got an operator between weighted spaces: use"
            " cx.svd(op, rank, key=key), or op.as_matrix() for its matrix of numbers"
        )
        raise TypeError(msg)
    if isinstance(a, sparse.JAXSparse):
        return _of_jax_sparse(a)
    matrix: Any = a
    if hasattr(a, "tocoo"):  # scipy.sparse, without importing it
        _check_shape(matrix.shape)
        coo = matrix.tocoo()
        return _sparse(coo.row, coo.col, coo.data, coo.shape)
    if _is_map(a):
        return _map(*_maps_of(a), matrix.shape, getattr(a, "dtype", None))
    return _dense(a)


def _dense(a: Any) -> Parts:
    array = on_auto_axes(a) if isinstance(a, jax.Array) else as_array(a, "a")
    is_complex = jnp.issubdtype(array.dtype, jnp.complexfloating)
    is_real = jnp.issubdtype(array.dtype, jnp.number) or array.dtype == np.dtype(bool)
    if not (is_complex or is_real):
        kind = type(a).__name__
        raise TypeError(f"{_EXPECTED}; got {kind} of dtype {array.dtype}")
    check_ndim(array, 2, "a")
    _check_shape(array.shape)
    if is_complex:
        dtype = _working_dtype(array.dtype)
        if isinstance(array, np.ndarray):
            array = in_range(array, dtype, "a")
        array = jnp.asarray(array, dtype)
    else:
        array = as_floating(a, "a")
    n, m = array.shape
    return Parts(array, None, (n, m), array.dtype)


def _of_jax_sparse(a: Any) -> Parts:
    kind = type(a).__name__
    check_concrete(a, f"a, a {kind},")
    if kind == "BCSR":
        a = a.to_bcoo()
    if kind in ("BCSR", "BCOO"):
        if a.n_batch or a.n_dense or a.ndim != 2:
            msg = (
                f"a must be a plain {kind} matrix (n_batch = n_dense = 0); got shape"
                f" {a.shape}, n_batch {a.n_batch}, n_dense {a.n_dense}"
            )
            raise ValueError(msg)
        rows, columns = np.asarray(a.indices).T
        data = a.data
    elif kind == "COO":
        rows, columns, data = a.row, a.col, a.data
    elif kind in ("CSR", "CSC"):
        starts = np.asarray(a.indptr)
        major = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        minor, data = a.indices[: starts[-1]], a.data[: starts[-1]]
        rows, columns = (major, minor) if kind == "CSR" else (minor, major)
    else:
        return _dense(a.todense())
    rows, columns = np.asarray(rows), np.asarray(columns)
    inside = (rows < a.shape[0]) & (columns < a.shape[1])  # JAX pads outside
    return _sparse(rows[inside], columns[inside], np.asarray(data)[inside], a.shape)


def _sparse(rows: Any, columns: Any, data: Any, shape: tuple[int, ...]) -> Parts:
    _check_shape(shape)
    n, m = int(shape[0]), int(shape[1])
    values = as_array(data, "the entries of a")
    if values.dtype.kind not in "biufc" and not jnp.issubdtype(
        values.dtype, jnp.floating
    ):
        raise TypeError(f"a must hold numbers; got dtype {values.dtype}")
    dtype = _working_dtype(values.dtype)
    flat = np.asarray(rows).astype(np.int64) * m + np.asarray(columns)
    unique, inverse = np.unique(flat, return_inverse=True)
    entries = np.zeros(len(unique), dtype)
    np.add.at(entries, inverse, in_range(values, dtype, "the entries of a"))
    row, column = unique // m, unique % m
    order = np.argsort(column, kind="stable")
    forward = make_slots(row, column, entries, n)
    backward = make_slots(column[order], row[order], entries[order].conj(), m)
    return Parts(Layouts(forward, backward), None, (n, m), dtype)


def _is_map(a: Any) -> bool:
    """Whether `a` is known by its products alone: it has a shape and is no array."""
    is_array = isinstance(a, (jax.Array, np.ndarray, np.generic)) or any(
        hasattr(a, name)
        for name in ("__array__", "__jax_array__", "__array_interface__")
    )
    has_product = any(hasattr(a, name) for name in ("matmat", "matvec", "__matmul__"))
    return hasattr(a, "shape") and has_product and not is_array


def _maps_of(a: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """(matmat, rmatmat) of an object; those of the same object are equal."""
    for name in ("rmatmat", "rmatvec"):
        if callable(getattr(a, name, None)):
            return _Bound(a, ""), _Bound(a, name)
    for name in ("H", "adjoint", "T"):
        if _attribute(a, name) is not None:
            return _Bound(a, ""), _Bound(a, name)
    raise TypeError(f"{_EXPECTED}; got {type(a).__name__} without an adjoint")


class _Bound:
    """The product with an object, or with its adjoint, as a function of a block.

    Attributes:
        a: the object.
        adjoint: the name of what gives its adjoint; "": the object itself.
    """

    def __init__(self, a: Any, adjoint: str) -> None:
        self.a, self.adjoint = a, adjoint

    def __call__(self, block: Any) -> Any:
        if self.adjoint in ("rmatmat", "rmatvec"):
            return _multiply(self.a, block, "rmatmat", "rmatvec")
        other = _attribute(self.a, self.adjoint) if self.adjoint else self.a
        if self.adjoint == "T":  # the adjoint of the conjugate
            return _multiply(other, block.conj()).conj()
        return _multiply(other, block)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Bound):
            return False
        return self.adjoint == other.adjoint and self.a is other.a

    def __hash__(self) -> int:
        return hash((id(self.a), self.adjoint))


def _multiply(
    a: Any, block: Any, of_blocks: str = "matmat", of_vectors: str = "matvec"
) -> Any:
    """A product by whatever the object has for it."""
    if callable(getattr(a, of_blocks, None)):
        return getattr(a, of_blocks)(block)
    multiply = getattr(a, of_vectors, None)
    if not callable(multiply):
        return a @ block
    if isinstance(block, np.ndarray):
        return np.stack([np.asarray(multiply(x)).ravel() for x in block.T], axis=1)
    return jax.vmap(multiply, in_axes=1, out_axes=1)(block)


def _attribute(a: Any, name: str) -> Any:
    """An attribute, or what it gives if it is a method without arguments."""
    value = getattr(a, name, None)
    return value() if inspect.ismethod(value) else value


def _map(matmat: Any, rmatmat: Any, shape: Any, dtype: Any) -> Parts:
    _check_shape(shape)
    n, m = (int(side) for side in shape)
    if not callable(rmatmat):
        raise TypeError(f"rmatmat must be a function; got {type(rmatmat).__name__}")
    if dtype is None:
        dtype = _apply(matmat, (m, 1), np.dtype(np.float32), "matmat")[0].dtype
    dtype = _working_dtype(dtype)
    maps = (
        _traceable(matmat, (m, 1), (n, 1), dtype, "matmat"),
        _traceable(rmatmat, (n, 1), (m, 1), dtype, "rmatmat"),
    )
    (matmat, one), (rmatmat, other) = (
        _hoist(function, size, dtype)
        for function, size in zip(maps, (m, n), strict=True)
    )
    return Parts((one, other), (matmat, rmatmat), (n, m), dtype)


def _hoist(function: Any, size: int, dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """The function with the traced values that it closes over as further arguments.

    Without any it stays the same object, which has its compiled program already.
    """
    column, values = jax.closure_convert(
        lambda g: function(g[:, None])[:, 0], jax.ShapeDtypeStruct((size,), dtype)
    )
    if not values:
        return function, ()

    def hoisted(block: Array, *values: Any) -> Array:
        return jax.vmap(lambda g: column(g, *values), in_axes=1, out_axes=1)(block)

    return hoisted, tuple(values)


@functools.lru_cache(maxsize=64)
def _traceable(
    function: Any, take: tuple[int, int], give: tuple[int, int], dtype: Any, name: str
) -> Any:
    """The function if JAX can trace it, else one that calls it on the host.

    Cached, so that the same function object is the same static argument of the compiled
    solver.
    """
    out, traced = _apply(function, take, dtype, name)
    if out.shape != give:
        msg = f"{name} must take {take} blocks to {give}; got shape {out.shape}"
        raise ValueError(msg)
    narrower = jnp.issubdtype(out.dtype, jnp.complexfloating) and dtype.kind == "f"
    if narrower:
        msg = f"{name} must give the dtype of a, {dtype}; got {out.dtype}"
        raise TypeError(msg)
    if traced:
        return lambda g: jnp.asarray(function(g), dtype)

    def on_host(g: Array) -> Array:
        result = jax.ShapeDtypeStruct((give[0], g.shape[1]), dtype)
        return jax.pure_callback(
            lambda block: np.asarray(function(np.asarray(block)), dtype), result, g
        )

    return on_host


def _apply(
    function: Any, take: tuple[int, int], dtype: Any, name: str
) -> tuple[jax.ShapeDtypeStruct, bool]:
    """What the function makes of a block, and whether JAX can trace it."""
    try:
        block = jax.ShapeDtypeStruct(take, dtype)
        return jax.eval_shape(lambda g: jnp.asarray(function(g)), block), True
    except Exception as error:  # whatever foreign code makes of a tracer
        failure = error
    try:
        out = jax.eval_shape(lambda: jnp.asarray(function(np.zeros(take, dtype))))
    except Exception as error:
        cause = failure if isinstance(error, jax.errors.JAXTypeError) else error
        msg = (
            f"{name} must take blocks such as those of shape {take}; it failed with"
            f" {type(cause).__name__}: {cause}"
        )
        raise ValueError(msg) from cause
    return out, False


def _working_dtype(dtype: Any) -> Any:
    """The dtype that work is done in; extended complex numbers become double ones."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        wide = np.complex64 if dtype.itemsize == 8 else np.complex128
        return np.dtype(jax.dtypes.canonicalize_dtype(wide))
    return floating_dtype(dtype.newbyteorder("=") if dtype.kind in "iuf" else dtype)


def _check_shape(shape: Any) -> None:
    if len(shape) != 2 or min(shape) < 1:
        msg = f"a must be a matrix that is not empty; got shape {tuple(shape)}"
        raise ValueError(msg)
