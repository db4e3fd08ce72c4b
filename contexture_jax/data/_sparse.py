"""A table in a file of `scipy.sparse.save_npz`."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from contexture_jax.data._memory import available, in_words
from contexture_jax.data._messages import InputError, enumerated, parameter
from contexture_jax.data._source import Source, repeated

__all__ = ["as_columns", "from_archive", "is_large", "is_sparse_archive"]

_PARTS = {
    "csr": ("data", "indices", "indptr"),
    "csc": ("data", "indices", "indptr"),
    "bsr": ("data", "indices", "indptr"),
    "coo": ("data", "row", "col"),
    "dia": ("data", "offsets"),
}
_LARGE = 2**22  # entries from which a table of counts stays sparse
_LARGEST_DENSE = 2**25  # entries, 256 MB


def is_sparse_archive(names: Collection[str]) -> bool:
    """Whether arrays of these names are those that `scipy.sparse.save_npz` writes."""
    # An archive with features in x is one of arrays, whatever else it holds.
    return "x" not in names and {"format", "shape", "data"}.issubset(names)


def from_archive(arrays: Mapping[str, np.ndarray], title: str) -> Source:
    """The sparse matrix of an archive, as float64 without repeated entries.

    Raises:
        InputError: if the arrays make no matrix, or it is no table of finite numbers.
    """
    kind, size = _checked_form(arrays, title)
    parts = _checked_parts(arrays, kind, title)
    try:
        weights = _as_rows(kind, parts, size)
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise InputError(f"the sparse matrix of {title} is damaged: {error}") from error
    bad = ~np.isfinite(weights.data)
    if bad.any():
        raise InputError(
            f"the sparse matrix of {title} holds {weights.data[bad][0]} ({bad.sum()}"
            " such values); expected finite numbers"
        )
    return Source(title, [], [], {}, None, weights=weights)


def _checked_form(
    arrays: Mapping[str, np.ndarray], title: str
) -> tuple[str, tuple[int, ...]]:
    """The format of a matrix whose arrays are all there, and its shape."""
    # Nothing is unpickled, so that such an array has not been read.
    lost = {"format", "shape", "data"} - arrays.keys()  # those of Python objects
    if lost:
        raise InputError(f"{title} holds Python objects in {enumerated(sorted(lost))}")
    form, shape = arrays["format"], arrays["shape"]
    kind = form.item() if form.ndim == 0 and form.dtype.kind in "SU" else ""
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else str(kind)
    absent = [name for name in _PARTS.get(kind, ()) if name not in arrays]
    if kind not in _PARTS or absent or shape.dtype.kind not in "iu":
        raise InputError(
            f"{title} is like a file of scipy.sparse.save_npz but damaged; expected a"
            f" format of {', '.join(_PARTS)} with all of its arrays"
        )
    size = tuple(int(s) for s in shape.reshape(-1))
    if len(size) != 2 or not all(0 < s < 2**31 for s in size):
        raise InputError(
            f"the sparse matrix of {title} has shape {size}; expected (rows, columns),"
            " each at least 1 and below 2³¹"
        )
    needed, room = 64 * sum(size) + 64 * arrays["data"].size, available()
    if room is not None and needed > room:
        raise InputError(
            f"the sparse matrix of {title} has {size[0]:,} × {size[1]:,} entries, which"
            f" take {in_words(needed)} of memory, and {in_words(room)} are free"
        )
    return kind, size


def _checked_parts(
    arrays: Mapping[str, np.ndarray], kind: str, title: str
) -> list[np.ndarray]:
    """The numbers, as float64, and what says where they are."""
    parts = [arrays[name] for name in _PARTS[kind]]
    if any(part.dtype.kind not in "iu" for part in parts[1:]):
        raise InputError(
            f"the sparse matrix of {title} is damaged: its indices are no integers"
        )
    if parts[0].dtype.kind not in "biuf":
        raise InputError(
            f"the sparse matrix of {title} has dtype {parts[0].dtype}; expected real"
            " numbers"
        )
    # Before entries are added up, which in their own dtype may overflow.
    return [parts[0].astype(np.float64), *parts[1:]]


def _as_rows(kind: str, parts: list[np.ndarray], size: tuple[int, ...]) -> Any:
    """The matrix in the format of rows; SciPy raises if its parts do not fit."""
    from scipy import sparse

    maker = getattr(sparse, f"{kind}_array")
    if kind == "coo":
        matrix = maker((parts[0], tuple(parts[1:])), shape=size)
    else:
        matrix = maker(tuple(parts), shape=size)
    if kind in ("csr", "csc"):
        # Before conversion, which runs over the indices as they are.
        matrix.check_format(full_check=True)
    weights = matrix.tocsr()
    # An entry given twice is one entry, as in a table of counts.
    weights.sum_duplicates()
    weights.check_format(full_check=True)
    return weights


def is_large(source: Source) -> bool:
    """Whether a table of counts is better left sparse."""
    n, m = source.weights.shape
    return n * m > _LARGE


def as_columns(source: Source) -> Source:
    """A source of columns: a sparse matrix, if that is what it holds, made dense.

    Raises:
        InputError: if that takes too much memory.
    """
    if source.weights is None:
        return source
    n, m = source.weights.shape
    if n * m > _LARGEST_DENSE:
        raise InputError(
            f"the sparse matrix of {source.title} has {n:,} × {m:,} entries, more than"
            f" the {_LARGEST_DENSE:,} that are made dense here;"
            f" {parameter('sparse', True)} takes it sparse"
        )
    # By columns, as a source is.
    weights = source.weights.tocsc()
    columns = []
    for start, stop in itertools.pairwise(weights.indptr.tolist()):
        # A column of zeros takes no memory.
        column = repeated(np.float64(0.0), n)
        if start < stop:
            column = np.zeros(n)
            column[weights.indices[start:stop]] = weights.data[start:stop]
        columns.append(column)
    names = [f"x{i}" for i in range(m)]
    return source._replace(names=names, columns=columns, weights=None)
