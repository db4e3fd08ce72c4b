"""Laws and files that several benchmarks work on."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

__all__ = ["conditional", "read_idx"]


def conditional(joint: Any) -> Any:
    """Rows of a sparse non-negative matrix scaled to sum to 1; CSR, float64."""
    matrix = scipy.sparse.csr_array(joint, dtype=np.float64)
    mass = matrix.sum(axis=1)
    scale = np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(scale) @ matrix)


def read_idx(path: Path, header: int) -> np.ndarray:
    """The bytes of an IDX file, without the header of so many."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)
