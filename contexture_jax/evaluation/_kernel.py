"""Judging a context by its dual kernel k_X⁺, computed from T T* block by block."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.intervals import (
    Interval,
    check_level,
    normal_interval,
)
from contexture_jax._core.scaling import rescaled, times_power_of_two
from contexture_jax._core.types import Array, ArrayLike, Float, Int
from contexture_jax.evaluation._common import (
    as_columns,
    kernel_deltas,
    map_blocks,
    singular_value_slack,
)
from contexture_jax.operators import AssociationOperator, check_operator

__all__ = [
    "diagonal_at",
    "estimate_kernel_deviation",
    "expected_kernel_deviation",
    "kappa_squared",
    "kernel_diagonal",
    "lipschitz",
]


def expected_kernel_deviation(op: AssociationOperator) -> Float[Array, ""]:
    """E |k_X⁺(X, X') − 1| for independent X, X' ~ P_X: 0 iff A tells nothing of X.

    Σ_ij P_X(x_i) P_X(x_j) |k_X⁺(x_i, x_j) − 1|, the diagonal included, which for
    uniform rows is the (1 / n²) Σ_ij of Zhai et al. 2025 (CTX), §5 (theory.md §3).
    Takes n products with T T*, in blocks, so nothing n × n is stored;
    `estimate_kernel_deviation` takes a sample of them.

    Args:
        op: the expectation operator, shape (n, m).
    """
    check_operator(op, "op")
    indices = jnp.arange(op.shape[0], dtype=jnp.int32)
    # The diagonal is part of it, as in the paper: without, a kernel near 1 off it could
    # hide a strong context (E7).
    return jnp.sum(op.p_x * _row_deviations(op, indices))


def estimate_kernel_deviation(
    op: AssociationOperator, num_points: int, *, key: Array, level: float = 0.9
) -> Interval:
    """The same from a sample of X', for large n: unbiased.

    Each draw X' ~ P_X, with replacement, gives the exact mean over X. The interval is
    that of the normal law, from the standard error of the mean over draws.

    Args:
        op: the expectation operator, shape (n, m).
        num_points: how many draws, at least 2.
        key: for the draws.
        level: the confidence.
    """
    check_key(key)
    level = check_level(level)
    num_points = check_integer(num_points, "num_points", low=2)
    # With replacement: draws are independent, so that their spread gives the error.
    draws = jax.random.choice(key, op.shape[0], (num_points,), p=op.p_x)
    values = _row_deviations(op, draws.astype(jnp.int32))
    error = jnp.std(values, ddof=1) / num_points**0.5
    return normal_interval(jnp.mean(values), error, level)


def kernel_diagonal(op: AssociationOperator) -> Float[Array, " n"]:
    """k_X⁺(x, x) = 1 + χ²(P⁺(·|x) ‖ P_A) for every row (theory.md §1).

    Its mean under P_X is Σ_{i≥0} s_i². Rows of zero mass give 0.

    Args:
        op: the expectation operator, shape (n, m).
    """
    return diagonal_at(op, jnp.arange(op.shape[0], dtype=jnp.int32))


def diagonal_at(op: AssociationOperator, rows: Int[Array, " b"]) -> Float[Array, " b"]:
    """k_X⁺(x, x) of some rows."""

    def diagonal(block: Int[Array, " block"]) -> Float[Array, " block"]:
        # k(x_j, x_j) = ‖T* δ_j‖² in L²(P_A): half a pass.
        return jnp.sum(op.p_a[:, None] * op.rmatmat(kernel_deltas(op, block)) ** 2, 0)

    n, m = op.shape
    return map_blocks(diagonal, rows, row_entries=n + m)


def kappa_squared(op: AssociationOperator) -> Float[Array, ""]:
    """The context complexity κ_X² = sup_x k_X⁺(x, x) (theory.md §3).

    κ_X² ≥ Σ_{i≥0} s_i², with equality where k_X⁺(x, x) is the same for all x, as for
    contexts with a group acting transitively; 1 / min_c p_c for deterministic labels.
    It bounds the leverage of a probe: Σ_{i≤d} μ_i(x)² ≤ (κ_X² − 1) / s_d².

    Args:
        op: the expectation operator, shape (n, m).

    Raises:
        TypeError: if `op` is no operator.
    """
    check_operator(op, "op")
    return jnp.max(kernel_diagonal(op))


def lipschitz(
    op: AssociationOperator, x: ArrayLike, *, key: Array, num_points: int = 1000
) -> Float[Array, ""]:
    """An estimate from below of the Lipschitz constant of the dual kernel.

    max_{i,j,k} |k_X⁺(x_k, x_i) − k_X⁺(x_k, x_j)| / ‖x_i − x_j‖ over a random sample of
    the rows, drawn without replacement (Zhai et al. 2025 (CTX), §5, with 1000 points;
    theory.md §3). At most c L_μ Σ_{i≥1} s_i² where every |μ_i| ≤ c and is L_μ-Lipschitz
    (Lemma 25). Two rows at the same place are skipped if their kernel rows agree to
    rounding, and give infinity if not. Work space num_points²; rows of zero mass play
    no part.

    Args:
        op: the expectation operator, shape (n, m).
        x: where the rows lie, shape (n, p), cast to the dtype of `op`.
        key: for the choice of rows; without effect if `num_points` ≥ n.
        num_points: how many rows to compare.
    """
    check_key(key)
    n = op.shape[0]
    x = as_columns(x, "x", n)
    num_points = min(check_integer(num_points, "num_points", low=2), n)
    # Without replacement: a maximum gains nothing from a point that comes twice.
    rows = jax.random.permutation(key, n)[:num_points].astype(jnp.int32)

    slope, exponent, is_finite = _steepest(op, x, rows)
    # Back to the unit of x, in which distances are 2^e times those of `places`.
    slope = times_power_of_two(slope, -exponent)
    return jnp.where(is_finite, slope, jnp.nan)


@jax.jit
def _steepest(
    op: AssociationOperator, x: Float[Array, "n d"], rows: Int[Array, " k"]
) -> tuple[Array, Array, Array]:
    """The slope between places in a unit of 2^e, e, and whether these are finite."""
    num_points = rows.shape[0]

    def columns(block: Int[Array, " block"]) -> Float[Array, "block num_points"]:
        return _kernel_columns(op, block)[rows].T

    # (num_points, num_points); symmetric, so that its rows are its columns.
    kernel = map_blocks(columns, rows, row_entries=sum(op.shape))
    alive = op.p_x[rows] > 0
    places, exponent = rescaled(jnp.where(alive[:, None], x[rows], 0))
    places = places.astype(op.dtype)
    # Two equal inputs have kernel rows that agree to rounding of the largest entry.
    noise = singular_value_slack(op.dtype) * jnp.max(kernel)

    def steepest(i: Int[Array, ""]) -> Float[Array, ""]:
        # (num_points,): for x_i and every x_j, the largest difference over x_k.
        rise = jnp.max(jnp.abs(kernel - kernel[i][None, :]), axis=1)
        run = jnp.linalg.norm(places - places[i][None, :], axis=1)
        apart = run > 0
        slope = jnp.where(apart, rise / jnp.where(apart, run, 1), jnp.inf)
        # At one place: infinite if the context tells the two apart, else no pair at
        # all.
        slope = jnp.where(apart | (rise > noise), slope, 0)
        return jnp.max(jnp.where(alive & alive[i], slope, 0))

    indices = jnp.arange(num_points, dtype=jnp.int32)
    # One row at a time: all at once would be num_points³ numbers.
    slope = jnp.max(jax.lax.map(steepest, indices))
    return slope, exponent[0, 0], jnp.isfinite(places).all()


def _kernel_columns(
    op: AssociationOperator, rows: Int[Array, " b"]
) -> Float[Array, "n b"]:
    # T T* δ_j = k(·, x_j), (n, b).
    return op.matmat(op.rmatmat(kernel_deltas(op, rows)))


def _row_deviations(
    op: AssociationOperator, rows: Int[Array, " b"]
) -> Float[Array, " b"]:
    """E_X |k_X⁺(X, x_j) − 1| for each row j."""

    def deviation(block: Int[Array, " block"]) -> Float[Array, " block"]:
        columns = _kernel_columns(op, block)
        return jnp.sum(op.p_x[:, None] * jnp.abs(columns - 1), axis=0)

    n, m = op.shape
    return map_blocks(deviation, rows, row_entries=n + m)
