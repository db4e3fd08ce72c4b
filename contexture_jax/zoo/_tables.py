"""Finite contexts given by their table: graphs, chains and published data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer
from contexture_jax._core.symmetrised import marginal_roots, symmetrised
from contexture_jax._core.types import Array, ArrayLike, PRNGKeyArray, pytree_dataclass
from contexture_jax.zoo._base import (
    AnalyticContext,
    Clusters,
    check_table_size,
    collect,
    host,
)
from contexture_jax.zoo._checks import as_integers, check_law

__all__ = [
    "complete_bipartite",
    "independent",
    "staff_smoking",
    "three_state_chain",
]

# Greenacre 1984, table 3.1: staff groups by smoking none, light, medium, heavy.
_STAFF_SMOKING = (
    (4, 2, 3, 2),
    (4, 3, 7, 4),
    (25, 10, 12, 4),
    (18, 24, 33, 13),
    (10, 6, 7, 2),
)
_THREE_STATES = ((0.7, 0.2, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8))


@pytree_dataclass
class _Tabled(AnalyticContext):
    """A joint law (n, m) and its positive non-trivial singular values, descending."""

    joint: ArrayLike
    singular_values: ArrayLike

    def _leading(self, k: int) -> Clusters:  # noqa: ARG002 - always all
        values = host(self.singular_values)
        return collect(values, (1,) * values.size)

    def total_energy(self) -> float:
        """Σ s_i² of the stored values."""
        return float((host(self.singular_values) ** 2).sum())

    def _joint(self) -> np.ndarray:
        return host(self.joint)

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        num_rows, num_columns = np.shape(self.joint)
        return np.arange(num_rows), np.arange(num_columns)

    def _draw(self, key: PRNGKeyArray, x: Array) -> Array:
        """Draw a column number of the table for each row number of `x`."""
        x, logits = as_integers(x, "x"), jnp.log(jnp.asarray(self.joint))
        return jax.random.categorical(key, logits[x], axis=-1).astype(x.dtype)

    def log_density(self, a: ArrayLike, x: ArrayLike) -> Array:
        """Log P(a|x) for column and row numbers of the table, of one shape."""
        joint = jnp.asarray(self.joint)
        a, x = as_integers(a, "a"), as_integers(x, "x")
        return jnp.log(joint[x, a]) - jnp.log(joint.sum(axis=1))[x]


def _computed(joint: np.ndarray) -> AnalyticContext:
    """With the spectrum of the table itself, computed in float64."""
    p_x = joint.sum(axis=1)
    roots = marginal_roots(p_x, joint.sum(axis=0))
    matrix = symmetrised(joint / p_x[:, None], roots)
    # The first value is the trivial one.
    values = np.linalg.svd(matrix, compute_uv=False)
    return _Tabled(joint, values[1:])


def independent(marginal_x: ArrayLike, marginal_a: ArrayLike) -> AnalyticContext:
    """Independent X and A: the context that tells nothing; all s_i = 0.

    X and A are row and column numbers (theory.md §5).

    Args:
        marginal_x: law of X, shape (n,), positive.
        marginal_a: law of A, shape (m,), positive.
    """
    p_x = check_law(marginal_x, "marginal_x", positive=True)
    p_a = check_law(marginal_a, "marginal_a", positive=True)
    return _Tabled(np.outer(p_x, p_a), np.zeros(0))


def complete_bipartite(first: int, second: int) -> AnalyticContext:
    """One step of the walk on the complete bipartite graph K_{a,b}.

    Eigenvalue -1 of T on the indicator of the side, so s = 1 once, and 0 otherwise; the
    objective of graph embeddings ranks that function last (theory.md §5, and E2 of §0).
    X, stationary, and A are vertex numbers: the first side first.

    Args:
        first: a ≥ 1, number of vertices on one side.
        second: b ≥ 1, number on the other.
    """
    a = check_integer(first, "first", low=1)
    b = check_integer(second, "second", low=1)
    check_table_size(a + b, a + b)
    is_first = np.arange(a + b) < a
    joint = (is_first[:, None] != is_first[None, :]) / (2.0 * a * b)
    return _Tabled(joint, np.ones(1))


def three_state_chain() -> AnalyticContext:
    """One step of a three-state Markov chain from its stationary law.

    Transition matrix [[.7, .2, .1], [.1, .8, .1], [.1, .1, .8]]; singular values
    0.7051567574 and 0.5956122459, computed in float64 from the table. The chain is not
    reversible, so they are not its eigenvalues. X and A are states 0, 1, 2.
    """
    transition = np.array(_THREE_STATES)
    # π (P - I) = 0 and Σ π = 1, as one consistent least-squares system.
    system = np.vstack([transition.T - np.eye(3), np.ones(3)])
    stationary = np.linalg.lstsq(system, np.array([0.0, 0.0, 0.0, 1.0]))[0]
    return _computed(stationary[:, None] * transition)


def staff_smoking() -> AnalyticContext:
    """Greenacre's table of 193 staff by rank and smoking: correspondence analysis.

    Rows: senior managers, junior managers, senior employees, junior employees,
    secretaries; columns: none, light, medium, heavy. Principal inertias s² =
    0.0747591059, 0.0100171805, 0.0004135741 (Greenacre 1984, *Theory and Applications
    of Correspondence Analysis*), computed in float64 from the table. X and A are row
    and column numbers.
    """
    counts = np.array(_STAFF_SMOKING, dtype=np.float64)
    return _computed(counts / counts.sum())
