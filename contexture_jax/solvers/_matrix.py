"""From whatever is a matrix to arrays that are traced and functions that are not."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.arrays import in_range, is_jax_sparse
from contexture_jax._core.checks import (
    as_array,
    as_floating,
    check_concrete,
    check_ndim,
    floating_dtype,
)
from contexture_jax._core.meshes import on_auto_axes
from contexture_jax.kernels import Slots, make_slots
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers._maps import (
    Products,
    Source,
    is_map,
    output_dtype,
    products_of,
    sources_of,
)

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
        products: of a map; None for arrays and layouts.
        shape: (n, m).
        dtype: floating or complex, that work is done in.
    """

    arrays: Any
    products: Products | None
    shape: tuple[int, int]
    dtype: Any


def take_apart(a: Any, *, kept: bool = True) -> Parts:
    """Tell what kind of matrix `a` is; see `truncated_svd`.

    Args:
        a: whatever is a matrix.
        kept: whether programs of a map may be kept for other calls.

    Raises:
        TypeError: if it is none, or its entries are not numbers.
        ValueError: if its shape is not that of a matrix with rows and columns.
    """
    # Nested tuples of numbers are matrices, too, but none begins with a function.
    if isinstance(a, tuple) and len(a) == 4 and callable(a[0]):
        matmat, rmatmat, shape, dtype = a
        return _map((Source(matmat), Source(rmatmat)), shape, dtype, kept=kept)
    # It has a shape and both products, and would pass for a map.
    if isinstance(a, AssociationOperator):
        msg = (
            "a must be a plain matrix; got an operator between weighted spaces: use"
            " cx.svd(op, rank, key=key), or op.as_matrix() for its matrix of numbers"
        )
        raise TypeError(msg)
    if is_jax_sparse(a, "JAXSparse"):
        return _of_jax_sparse(a)
    matrix: Any = a
    if hasattr(a, "tocoo"):  # scipy.sparse, without importing it
        _check_shape(matrix.shape)
        coo = matrix.tocoo()
        return _sparse(coo.row, coo.col, coo.data, coo.shape)
    if is_map(a):
        sources, dtype = sources_of(a, _EXPECTED), getattr(a, "dtype", None)
        return _map(sources, matrix.shape, dtype, kept=kept)
    return _dense(a)


def _dense(a: Any) -> Parts:
    # What is on a device stays there.
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
        # Numbers in double precision may be beyond what work is done in.
        if isinstance(array, np.ndarray):
            array = in_range(array, dtype, "a")
        array = jnp.asarray(array, dtype)
    else:
        array = as_floating(a, "a")
    n, m = array.shape
    return Parts(array, None, (n, m), array.dtype)


def _of_jax_sparse(a: Any) -> Parts:
    kind = type(a).__name__
    # Its layout is made on the host, by where entries stand.
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
        # Behind the last row there may be padding.
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
    # bfloat16 is of no kind of NumPy's own.
    if values.dtype.kind not in "biufc" and not jnp.issubdtype(
        values.dtype, jnp.floating
    ):
        raise TypeError(f"a must hold numbers; got dtype {values.dtype}")
    dtype = _working_dtype(values.dtype)
    # Indices of 32 bits hold a row or a column, and not n · m.
    flat = np.asarray(rows).astype(np.int64) * m + np.asarray(columns)
    # By row and then by column, one entry a place.
    unique, inverse = np.unique(flat, return_inverse=True)
    entries = np.zeros(len(unique), dtype)
    # Repeated places add up, as in SciPy; `entries[inverse] += …` would keep one.
    np.add.at(entries, inverse, in_range(values, dtype, "the entries of a"))
    row, column = unique // m, unique % m
    # Rows stay in order within a column: sorted as a transpose is.
    order = np.argsort(column, kind="stable")
    forward = make_slots(row, column, entries, n)
    backward = make_slots(column[order], row[order], entries[order].conj(), m)
    return Parts(Layouts(forward, backward), None, (n, m), dtype)


def _map(sources: Any, shape: Any, dtype: Any, *, kept: bool) -> Parts:
    _check_shape(shape)
    n, m = (int(side) for side in shape)
    for name, source in zip(("matmat", "rmatmat"), sources, strict=True):
        if source.way is None and not callable(source.owner):
            kind = type(source.owner).__name__
            raise TypeError(f"{name} must be a function; got {kind}")
    if dtype is None:
        # An object that does not say is asked with a block.
        dtype = output_dtype(sources[0], m)
    dtype = _working_dtype(dtype)
    values, products = products_of(sources, (n, m), dtype, kept=kept)
    return Parts(values, products, (n, m), dtype)


def _working_dtype(dtype: Any) -> Any:
    """The dtype that work is done in; extended complex numbers become double ones."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        wide = np.complex64 if dtype.itemsize == 8 else np.complex128
        return np.dtype(jax.dtypes.canonicalize_dtype(wide))
    # JAX takes numbers in the byte order of the machine only.
    return floating_dtype(dtype.newbyteorder("=") if dtype.kind in "iuf" else dtype)


def _check_shape(shape: Any) -> None:
    if len(shape) != 2 or min(shape) < 1:
        msg = f"a must be a matrix that is not empty; got shape {tuple(shape)}"
        raise ValueError(msg)
