"""Laws that several benchmarks work on."""

from typing import Any

import numpy as np
import scipy.sparse

__all__ = ["conditional"]


def conditional(joint: Any) -> Any:
    """Rows of a sparse non-negative matrix scaled to sum to 1; CSR, float64."""
    matrix = scipy.sparse.csr_array(joint, dtype=np.float64)
    mass = matrix.sum(axis=1)
    scale = np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(scale) @ matrix)
