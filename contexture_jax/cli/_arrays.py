"""Reading an `.npy` or an `.npz` as named columns. Arrays are never unpickled."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.cli._messages import InputError, enumerated, quoted
from contexture_jax.cli._source import Source

__all__ = ["read_npy", "read_npz"]


def read_npy(path: Path) -> Source:
    """Read one array of rows × columns."""
    x = _load(path)
    if isinstance(x, dict):
        raise InputError(f"{path.name} is an archive of arrays: call it .npz")
    return _from_matrix(x, path.name, path.name, {})


def read_npz(path: Path) -> Source:
    """Read an archive: features in `x`, or in its only 2-D array."""
    arrays = _load(path)
    if not isinstance(arrays, dict):
        raise InputError(f"{path.name} is one array: call it .npy")
    for name in ("x", "y", "target"):
        if name in arrays and arrays[name].dtype.kind == "O":
            raise InputError(
                f"array {quoted(name)} of {path.name} holds Python objects; expected"
                " numbers or text"
            )
    matrices = [name for name, a in arrays.items() if a.ndim == 2]
    name = "x" if "x" in arrays else matrices[0] if len(matrices) == 1 else None
    if name is None:
        raise InputError(
            f"{path.name} holds {len(matrices)} 2-D arrays and none called x; expected"
            f" features in x (arrays: {enumerated(arrays) or 'none'})"
        )
    x = arrays.pop(name)
    vectors = {
        key: a.reshape(-1)
        for key, a in arrays.items()
        if x.ndim == 2 and a.shape in ((x.shape[0],), (x.shape[0], 1))
    }
    for key in ("y", "target"):
        if key in arrays and key not in vectors and x.ndim == 2:
            raise InputError(
                f"array {quoted(key)} of {path.name} has shape {arrays[key].shape};"
                f" expected ({x.shape[0]},), as array {quoted(name)} has"
                f" {x.shape[0]} rows"
            )
    return _from_matrix(x, f"array {quoted(name)} of {path.name}", path.name, vectors)


def _load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array or the arrays of a file; one of Python objects comes back empty."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            return {name: _member(loaded, name) for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        hint = (
            "it holds Python objects"
            if "Object arrays" in str(error)
            else "it is damaged, pickled or of another format"
        )
        raise InputError(
            f"cannot read {path.name}: {hint}; expected what numpy.save or numpy.savez"
            " writes from arrays of numbers"
        ) from error


def _member(archive: Any, name: str) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        return np.empty(0, dtype=object)


def _from_matrix(
    x: np.ndarray, what: str, title: str, vectors: dict[str, np.ndarray]
) -> Source:
    if x.dtype.kind not in "biuf":
        raise InputError(f"{what} has dtype {x.dtype}; expected real numbers")
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(
            f"{what} has shape {x.shape}; expected (rows, columns), at least 1 of each"
        )
    x = x.astype(np.float64)
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{what} holds {x[row, column]} at [{row}, {column}] ({bad.sum()} such"
            " values); expected finite numbers: fill or remove them"
        )
    names = [f"x{i}" for i in range(x.shape[1])]
    return Source(title, names, list(x.T), vectors, None)
