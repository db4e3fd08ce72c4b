"""What tests compare with: spectra of small joint tables, by NumPy in float64."""

from typing import Any, NamedTuple

import numpy as np


class Triples(NamedTuple):
    """Non-trivial singular triples of a joint table.

    Functions are orthonormal in L²(P_X) and L²(P_A), and 0 where there is no mass.
    """

    values: np.ndarray  # (k,), descending
    left: np.ndarray  # (n, k)
    right: np.ndarray  # (m, k)


def marginals(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """P_X and P_A."""
    table = _normalised(table)
    return table.sum(axis=1), table.sum(axis=0)


def symmetrised(table: Any, *, deflated: bool = False) -> np.ndarray:
    """D_X^{-1/2} P D_A^{-1/2}, 0 without mass; `deflated`: less √p_x √p_aᵀ."""
    table = _normalised(table)
    roots = np.sqrt(np.outer(*marginals(table)))
    matrix = np.divide(table, roots, out=np.zeros_like(table), where=roots > 0)
    return matrix - roots if deflated else matrix


def singular_values(table: Any) -> np.ndarray:
    """All but the trivial one, descending; as many as rows or columns have mass."""
    matrix = _with_mass(table)[0]
    return np.linalg.svd(matrix, compute_uv=False)[: min(matrix.shape) - 1]


def triples(table: Any) -> Triples:
    """All of them; only rows and columns with mass count."""
    matrix, rows, columns = _with_mass(table)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    k, (p_x, p_a) = min(matrix.shape) - 1, marginals(table)
    left, right = np.zeros((len(p_x), k)), np.zeros((len(p_a), k))
    left[rows] = u[:, :k] / np.sqrt(p_x[rows])[:, None]
    right[columns] = vh[:k].T / np.sqrt(p_a[columns])[:, None]
    return Triples(s[:k], left, right)


def projector(functions: Any, law: Any) -> np.ndarray:
    """The orthogonal projector, in L²(law), onto a span of orthonormal functions."""
    weighted = np.sqrt(np.asarray(law))[:, None] * np.asarray(functions)
    return weighted @ weighted.T


def _normalised(table: Any) -> np.ndarray:
    table = np.asarray(table, np.float64)
    return table / table.sum()


def _with_mass(table: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The deflated matrix of rows and columns that have mass, and which those are."""
    rows, columns = (p > 0 for p in marginals(table))
    return symmetrised(table, deflated=True)[rows][:, columns], rows, columns
