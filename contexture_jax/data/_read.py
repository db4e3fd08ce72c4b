"""Reading data: a file of one of several kinds, or a built-in set, as named columns.

Nothing is interpreted here beyond what the format says; `_features` does that.
Arrays are never unpickled.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from contexture_jax.data._arrays import read_npy, read_npz
from contexture_jax.data._csv import read_csv
from contexture_jax.data._frames import read_feather, read_parquet
from contexture_jax.data._messages import InputError, parameter, quoted_path
from contexture_jax.data._source import DEFAULT_DIALECT, Dialect, Source

__all__ = ["BUILT_INS", "read"]

BUILT_INS = ("breast_cancer", "digits", "wine")
_ACCEPTED = (
    "a .csv (.tsv, .txt), .npy, .npz, .parquet or .feather file, or one of"
    f" {', '.join(BUILT_INS)}"
)


def read(data: str, dialect: Dialect = DEFAULT_DIALECT) -> Source:
    """Read data, whose kind their name tells.

    Args:
        data: a path or the name of a built-in set.
        dialect: how it is written, as far as the user says.

    Raises:
        InputError: if it is absent, unreadable, of no known kind, or malformed.
    """
    if data in BUILT_INS:
        return _read_built_in(data)
    path = Path(data)
    suffix = path.suffix.lower()
    separated = functools.partial(read_csv, dialect=dialect)
    # By the ending: a CSV cannot be told from other text by its bytes.
    readers = {
        **dict.fromkeys((".csv", ".tsv", ".txt"), separated),
        ".npy": read_npy,
        ".npz": read_npz,
        **dict.fromkeys((".parquet", ".pq"), read_parquet),
        **dict.fromkeys((".feather", ".arrow"), read_feather),
    }
    reader = readers.get(suffix)
    name = quoted_path(data)
    try:
        if not data or not path.exists():
            raise InputError(
                f"no such file: {name}; {parameter('path')} is {_ACCEPTED}"
            )
        if path.is_dir():
            raise InputError(
                f"{name} is a directory; {parameter('path')} is {_ACCEPTED}"
            )
        # What it holds may have no end, and a pipe that nobody writes to waits.
        if not path.is_file():
            raise InputError(f"{name} is a pipe or a device; expected a file")
        if reader is None:
            raise InputError(
                f"cannot tell what {name} is; {parameter('path')} is {_ACCEPTED}"
            )
        # An option without effect is a mistake.
        if dialect.separator is not None and suffix not in (".csv", ".tsv", ".txt"):
            raise InputError(
                f"{parameter('separator')} goes with a .csv; {parameter('path')} is"
                f" {name}"
            )
        return reader(path)
    except OSError as error:
        # Arrow's are of several lines.
        reason = " ".join((error.strerror or str(error)).split())
        raise InputError(f"cannot read {name}: {reason}") from error


def _read_built_in(name: str) -> Source:
    try:
        # Here and not above: scikit-learn is an extra, and slow to load.
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
