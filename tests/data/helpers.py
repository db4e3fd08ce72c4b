"""Files to read, and what was read of them."""

from pathlib import Path

import numpy as np

from contexture_jax.data._source import Source


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def matrix(source: Source) -> np.ndarray:
    """The columns that are arrays, side by side."""
    columns = [c for c in source.columns if isinstance(c, np.ndarray)]
    return np.stack(columns, axis=1)
