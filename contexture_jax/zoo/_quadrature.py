"""Orthonormal polynomials, Gauss rules, binomial masses, on the host in float64."""

from __future__ import annotations

import numpy as np

__all__ = [
    "binomial_masses",
    "gauss_rule",
    "log_factorials",
    "orthonormal_polynomials",
]


def orthonormal_polynomials(
    x: np.ndarray, diagonal: np.ndarray, squares: np.ndarray
) -> np.ndarray:
    """Values p_0..p_{r-1} at `x`, shape (n, r), by the three-term recurrence.

        √b_{j+1} p_{j+1}(x) = (x - a_j) p_j(x) - √b_j p_{j-1}(x),   p_0 = 1.

    Args:
        x: points, shape (n,).
        diagonal: a_0..a_{r-1}, shape (r,).
        squares: b_1..b_{r-1} (and more, unused), b_j > 0.
    """
    values = np.ones((x.size, diagonal.size))
    before, root_before = np.zeros(x.size), 0.0
    for j in range(diagonal.size - 1):
        # p_{j+1} from p_j and p_{j−1}; of unit norm at once, so that none overflows.
        root = np.sqrt(squares[j])
        ahead = ((x - diagonal[j]) * values[:, j] - root_before * before) / root
        before, root_before, values[:, j + 1] = values[:, j], root, ahead
    return values


def gauss_rule(
    diagonal: np.ndarray, squares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, of sum 1, exact for polynomials of degree 2r - 1.

    The nodes are the eigenvalues of the Jacobi matrix (Golub & Welsch 1969); the
    weights 1 / Σ_{j<r} p_j(node)², which keeps small ones accurate relatively.

    Args:
        diagonal: a_0..a_{r-1}, shape (r,).
        squares: b_1..b_{r-1}, shape (r - 1,).
    """
    off = np.sqrt(squares[: diagonal.size - 1])
    # Dense: rules here have a few hundred nodes.
    nodes = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    values = orthonormal_polynomials(nodes, diagonal, squares)
    weights = 1.0 / (values**2).sum(axis=1)
    # Of sum 1: the law is a probability.
    return nodes, weights / weights.sum()


def log_factorials(num: int) -> np.ndarray:
    """Log 0!, log 1!, …, log num!, shape (num + 1,)."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, num + 1)))])


def binomial_masses(
    trials: np.ndarray, atoms: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    """P(Bin(trials_i, keep_i) = atoms_j), shape (len(trials), len(atoms))."""
    logs = log_factorials(int(max(trials.max(), atoms.max())))
    n, a = trials[:, None], atoms[None, :]
    possible = a <= n
    # 0 where impossible, for an index that exists.
    rest = np.where(possible, n - a, 0)
    choose = logs[n] - logs[a] - logs[rest]
    # Powers and not logarithms: 0⁰ = 1, as for a rate of 0 or 1.
    powers = keep[:, None] ** a * (1.0 - keep[:, None]) ** rest
    return np.where(possible, np.exp(choose) * powers, 0.0)
