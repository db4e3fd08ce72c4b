"""The worst error of an encoder over all targets that are compatible with a context."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer
from contexture_jax._core.numerics import mm
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Bool, Float, short_repr
from contexture_jax.evaluation._common import (
    as_columns,
    as_epsilon,
    as_functions,
    as_singular_values,
    as_spectrum,
    require_leading,
    singular_value_slack,
    weighted_basis,
)
from contexture_jax.operators import AssociationOperator, symmetrised_matrix

__all__ = [
    "WorstCaseError",
    "worst_case_curve",
    "worst_case_error",
    "worst_case_error_of",
    "worst_case_error_of_coefficients",
]

# So many halvings leave no digit of t open in either dtype.
_BISECTIONS = 64


@short_repr
class WorstCaseError(NamedTuple):
    """The least worst-case error that any encoder of a given size can have.

    Attributes:
        value: shape (), between 0 and 1.
        inside_range: whether 1 − s_1 ≤ ε ≤ 1 − √((s_1² + s_2²) / 2), where the value is
            proved, shape (). Outside it is what the contexture attains as far as
            numerical search tells, not a theorem.
    """

    value: Float[Array, ""]
    inside_range: Bool[Array, ""]


def worst_case_error(
    singular_values: ArrayLike,
    dim: int,
    epsilon: ArrayLike,
    *,
    complete: bool = False,
) -> WorstCaseError:
    """The worst-case error of the best encoder with `dim` dimensions: the contexture.

        min_Φ err(Φ; F_ε) = min(1, (s_1² − (1 − ε)²) / (s_1² − s_{d+1}²))

    where F_ε holds the centred f with compatibility ρ(f) ≥ 1 − ε and err is the largest
    least-squares error over f ∈ F_ε, ‖f‖ = 1, of a linear probe with bias (Zhai et al.
    2025 (CTX), Thm 16; theory.md §2). Deviations (§0 E5): the paper's range of ε is
    reported in `inside_range`; beyond it the formula exceeds 1 and is cut there; and
    where s_1 = s_{d+1}, which the formula leaves as 0 / 0, no d functions hold the
    leading ones and the value is 1.

    Args:
        singular_values: s_1, s_2, … shape (k,), in any order, floating.
        dim: d, at least 0; d + 1 values are needed unless `complete`.
        epsilon: ε, shape (), with 1 − s_1 ≤ ε ≤ 1.
        complete: whether all values that are not given are 0.

    Raises:
        ValueError: if ε < 1 − s_1 (no function is that compatible; a trace gives NaN),
            or there are too few values.
    """
    s = as_spectrum(singular_values)
    dim = check_integer(dim, "dim", low=0)
    # s_2 too, for the range that the paper proves.
    s = require_leading(s, max(dim + 1, 2), complete)
    eps = as_epsilon(epsilon, s[0])
    least = (1 - eps) ** 2
    slack = singular_value_slack(s.dtype)
    value = _least_error(s[0], s[dim], eps)
    mean_energy = (s[0] ** 2 + s[1] ** 2) / 2
    inside = (1 - eps <= s[0] + slack) & (least >= mean_energy - slack)
    return WorstCaseError(value, inside)


def worst_case_curve(
    singular_values: ArrayLike, epsilon: ArrayLike, *, complete: bool = False
) -> Float[Array, " d0"]:
    """`worst_case_error` of d = 1, 2, …, as far as the values go.

    d = 1, …, k − 1 of the head of a longer spectrum, and 1, …, k of a complete one.
    It is the approximation error, for a target of variance 1 of which no more is known
    than ρ ≥ 1 − ε, in `probe_tradeoff`.

    Args:
        singular_values: s_1, s_2, … shape (k,), in any order, floating.
        epsilon: ε, shape (), with 1 − s_1 ≤ ε ≤ 1.
        complete: whether all values that are not given are 0.

    Raises:
        ValueError: as `worst_case_error`.
    """
    s = as_spectrum(singular_values)
    num_dims = s.shape[0] if complete else max(1, s.shape[0] - 1)
    s = require_leading(s, num_dims + 1, complete)
    return _least_error(s[0], s[1:], as_epsilon(epsilon, s[0]))


def _least_error(
    largest: Float[Array, ""], after: Float[Array, "*s"], eps: Float[Array, ""]
) -> Float[Array, "*s"]:
    """The value of `worst_case_error` from s_1, s_{d+1} and ε."""
    slack = singular_value_slack(largest.dtype)
    gap = largest**2 - after**2
    # Where s_1 = s_{d+1} to rounding, 0 / 0: no d functions hold all that tie (E5).
    open_ = gap > slack
    # v of theory.md §2.3, cut at 1: no error of a unit target is larger.
    value = jnp.maximum(largest**2 - (1 - eps) ** 2, 0) / jnp.where(open_, gap, 1)
    value = jnp.where(gap <= slack, 1, jnp.minimum(value, 1))
    # No function is that compatible: F_ε is {0}, and a maximum over it means nothing.
    return jnp.where(1 - eps > largest + slack, jnp.nan, value)


def worst_case_error_of(
    phi: ArrayLike, op: AssociationOperator, epsilon: ArrayLike
) -> Float[Array, ""]:
    """The exact worst-case error over F_ε of an encoder, for small operators.

    err(Φ; F_ε) = min_{t≥0} λ_max(Q + t (T T* − (1 − ε)²)) on the centred functions of
    L²(P_X), Q the projector off the centred span of Φ (theory.md §2). By the S-lemma
    the dual is exact. It takes 64 eigendecompositions of an n × n matrix.

    Args:
        phi: embeddings of the rows of `op`, shape (n, d), cast to the dtype of `op`.
        op: the expectation operator, shape (n, m); its matrix is formed.
        epsilon: ε, shape (), with 1 − s_1 ≤ ε ≤ 1.

    Returns:
        The error, shape (), between 0 and 1 up to rounding; NaN inside a trace if
        ε < 1 − s_1. Differentiable where λ_max is simple, by the envelope theorem.

    Raises:
        ValueError: if ε < 1 − s_1: no function is that compatible.
    """
    phi = as_functions(phi, "phi", op)
    # In the coordinates √p_x · f, where L²(P_X) is Euclidean.
    root = jnp.sqrt(op.p_x)
    matrix = symmetrised_matrix(op, deflated=True)
    # Constants and rows of zero mass get Q = 0 and T T* = 0: their eigenvalue
    # −t (1 − ε)² is never the largest, as λ_max ≥ 0 on the centred functions.
    basis, _ = weighted_basis(phi, op.p_x, centre=True)
    # Q of theory.md §2.4: off the constants and off the span.
    off = jnp.diag((op.p_x > 0).astype(op.dtype))
    off = off - root[:, None] * root[None, :] - mm(basis, basis.T)
    energy = mm(matrix, matrix.T)
    # s_1 from the same matrix, so that the bracket below fits it.
    largest = jnp.sqrt(jnp.clip(jnp.linalg.eigvalsh(energy)[-1], 0, 1))
    return _dual_value(off, energy, largest, as_epsilon(epsilon, largest))


def worst_case_error_of_coefficients(
    coefficients: ArrayLike, singular_values: ArrayLike, epsilon: ArrayLike
) -> Float[Array, ""]:
    """The same for an encoder given by its coefficients in the singular functions.

    φ_j = Σ_i coefficients_ij μ_i, and functions outside the span of these μ_i are left
    out: to allow for a null space of T*, add rows with singular value 0.

    Args:
        coefficients: shape (k, d), floating.
        singular_values: s_i of row i, shape (k,), in the order of the rows.
        epsilon: ε, shape (), with 1 − s_1 ≤ ε ≤ 1.

    Raises:
        ValueError: if ε < 1 − s_1: no function is that compatible.
    """
    s = as_singular_values(singular_values)
    eps = as_epsilon(epsilon, jnp.max(s))
    phi = as_columns(coefficients, "coefficients", s.shape[0])
    phi = rescaled(phi, axis=0)[0].astype(s.dtype)
    # Coefficients are in an orthonormal basis already, and the constant is not in it:
    # neither weights nor a mean.
    basis, _ = weighted_basis(phi, jnp.ones_like(s), centre=False)
    off = jnp.eye(s.shape[0], dtype=s.dtype) - mm(basis, basis.T)
    return _dual_value(off, jnp.diag(s**2), jnp.max(s), eps)


def _dual_value(
    off: Float[Array, "k k"],
    energy: Float[Array, "k k"],
    largest: Float[Array, ""],
    eps: Float[Array, ""],
) -> Float[Array, ""]:
    """min_{t≥0} g(t), g(t) = λ_max(Q + t (D − (1 − ε)²)), convex in t.

    Bisection on the sign of the subgradient vᵀ (D − (1 − ε)²) v, v a leading
    eigenvector. The bracket is certain: g(0) ≤ 1 and g(t) ≥ t δ with
    δ = s_1² − (1 − ε)², so the minimiser is at most 1 / δ. As δ → 0 it runs off to
    infinity; t is held below eps^(−1/2), where the rounding of t D and what g still
    has to fall are both of order eps^(1/2).
    """
    # D − (1 − ε)² I: its form is non-negative exactly on F_ε.
    tilt = energy - (1 - eps) ** 2 * jnp.eye(off.shape[0], dtype=off.dtype)
    floor = float(np.sqrt(np.finfo(off.dtype).eps))
    high = 1 / jnp.maximum(largest**2 - (1 - eps) ** 2, floor)
    state = jax.lax.stop_gradient((jnp.zeros_like(high), high, off, tilt))
    low, high, _, _ = jax.lax.fori_loop(0, _BISECTIONS, _bisect, state)
    # t is held, so that the derivative is that of λ_max at the minimiser: the envelope
    # theorem.
    value = jnp.linalg.eigvalsh(off + (low + high) / 2 * tilt)[-1]
    possible = 1 - eps <= largest + singular_value_slack(off.dtype)
    return jnp.where(possible, value, jnp.nan)


# The data ride in the carry: a body without closure is compiled once for each shape.
def _bisect(
    _: Array, state: tuple[Array, Array, Array, Array]
) -> tuple[Array, Array, Array, Array]:
    low, high, off, tilt = state
    middle = (low + high) / 2
    # (k,): of a repeated λ_max any leading vector gives a subgradient, which is enough
    # to know the side.
    v = jnp.linalg.eigh(off + middle * tilt)[1][:, -1]
    rising = jnp.sum(v * mm(tilt, v)) > 0
    return jnp.where(rising, low, middle), jnp.where(rising, middle, high), off, tilt
