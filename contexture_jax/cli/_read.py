"""Reading DATA: a CSV, an `.npy`, an `.npz` or a built-in set, as named columns.

Nothing is interpreted here beyond what the format says; `_data` makes features of it.
Arrays are never unpickled.
"""

from pathlib import Path

import numpy as np

from contexture_jax.cli._arrays import read_npy, read_npz
from contexture_jax.cli._csv import read_csv
from contexture_jax.cli._messages import InputError, quoted_path
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
    readers = {".csv": read_csv, ".npy": read_npy, ".npz": read_npz}
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
