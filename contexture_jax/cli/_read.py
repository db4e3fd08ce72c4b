"""Reading DATA: a CSV, an `.npy`, an `.npz` or a built-in set, as named columns.

Nothing is interpreted here beyond what the format says; `_data` makes features of it.
Arrays are never unpickled.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from contexture_jax.cli._csv import read_csv
from contexture_jax.cli._messages import InputError, enumerated, quoted, quoted_path
from contexture_jax.cli._source import Source

__all__ = ["BUILT_INS", "read"]

BUILT_INS = ("breast_cancer", "digits", "wine")
_ACCEPTED = f"a .csv, an .npy, an .npz or one of {', '.join(BUILT_INS)}"


def read(data: str) -> Source:
    """Read DATA, whose kind its name tells.

    Raises:
        InputError: if it is absent, unreadable, of no known kind, or malformed.
    """
    if data in BUILT_INS:
        return _read_built_in(data)
    path = Path(data)
    readers = {".csv": read_csv, ".npy": _read_npy, ".npz": _read_npz}
    reader = readers.get(path.suffix.lower())
    name = quoted_path(data)
    try:
        if not data or not path.exists():
            raise InputError(f"no such file: {name}; DATA is {_ACCEPTED}")
        if path.is_dir():
            raise InputError(f"{name} is a directory; DATA is {_ACCEPTED}")
        if reader is None:
            raise InputError(f"cannot tell what {name} is; DATA is {_ACCEPTED}")
        return reader(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {name}: {reason}") from error


def _read_npy(path: Path) -> Source:
    x = _load(path)
    if isinstance(x, dict):
        raise InputError(f"{path.name} is an archive of arrays: call it .npz")
    return _from_matrix(x, path.name, path.name, {})


def _read_npz(path: Path) -> Source:
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


def _read_built_in(name: str) -> Source:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InputError(
            f"the built-in set {name} needs scikit-learn:"
            " pip install 'contexture_jax[cli]'"
        ) from error
    bunch = getattr(datasets, f"load_{name}")()
    classes = np.array([str(c) for c in bunch.target_names])[bunch.target]
    names = [str(c) for c in bunch.feature_names]
    columns = list(np.asarray(bunch.data, dtype=np.float64).T)
    return Source(name, names, columns, {"target": classes}, None)
