"""Tolerances by dtype: a test names a factor and a size, never a bare number."""

from typing import Any

import numpy as np

MONTE_CARLO_SIGMAS = 5.0


def tol(dtype: Any, *, factor: float = 10.0, size: int = 1) -> float:
    """factor · size · eps(dtype): the rounding that `size` operations may pile up."""
    return factor * size * float(np.finfo(dtype).eps)


def promised(dtype: Any) -> float:
    """What the package promises of spectra: 1e-10 in float64, 1e-5 in float32."""
    return 1e-10 if np.dtype(dtype).itemsize == 8 else 1e-5


def monte_carlo(sem: float) -> float:
    """Five standard errors of a mean."""
    return MONTE_CARLO_SIGMAS * sem
