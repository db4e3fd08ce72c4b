"""Finite contexts with their exact singular triples from NumPy: the oracle."""

from typing import NamedTuple

import jax
import numpy as np

import contexture_jax as cx
from tests import oracle

# Exact worst-case errors of many encoders, spectra and ε at once: compiled once.
error_of_many = jax.jit(jax.vmap(cx.evaluation.worst_case_error_of_coefficients))


class Finite(NamedTuple):
    """A joint table, its operator, and the full centred SVD."""

    op: cx.AssociationOperator
    table: np.ndarray  # (n, m), sums to 1
    p_x: np.ndarray  # (n,)
    p_a: np.ndarray  # (m,)
    values: np.ndarray  # (n - 1,), padded with zeros: all there are
    left: np.ndarray  # (n, n - 1), orthonormal in L²(P_X), mean 0


def finite(table: np.ndarray) -> Finite:
    table = np.asarray(table, dtype=float)
    table = table / table.sum()
    p_x, p_a = oracle.marginals(table)
    root_x = np.sqrt(p_x)
    u, s, _ = np.linalg.svd(oracle.symmetrised(table, deflated=True))
    # The constant direction, with value 0, lies among the last ones: sort it out.
    u = u[:, : (s > 1e-12).sum()]
    rest = np.linalg.svd(np.column_stack([root_x, u]))[0][:, u.shape[1] + 1 :]
    left = np.column_stack([u, rest]) / root_x[:, None]
    values = np.pad(s[: u.shape[1]], (0, len(p_x) - 1 - u.shape[1]))
    op = cx.association_operator(cx.contexts.joint(table))
    return Finite(op, table, p_x, p_a, values, left)


def random_context(seed: int, n: int = 9, m: int = 7) -> Finite:
    """A table with widely different marginals and no symmetry."""
    rng = np.random.default_rng(seed)
    return finite(rng.gamma(0.4, size=(n, m)) + 1e-3)


def with_an_empty_row(seed: int) -> tuple[Finite, cx.AssociationOperator]:
    """A context with 8 rows, and its operator behind a ninth row of zero mass."""
    context = random_context(seed, n=8)
    table = np.vstack([np.zeros((1, 7)), context.table])
    return context, cx.association_operator(cx.contexts.joint(table))


def flip(p: float) -> np.ndarray:
    """One fair bit seen through a binary symmetric channel: singular value 1 - 2p."""
    return np.array([[1 - p, p], [p, 1 - p]]) / 2
