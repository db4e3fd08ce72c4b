"""The dense reference: every entry, one LAPACK factorisation."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.checks import gathered, is_traced
from contexture_jax._core.either import Either, at_hand, leading_by_gram, product
from contexture_jax._core.factorizations import singular_values, thin_svd
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.types import Array, Bool, Float, Inexact, Int
from contexture_jax.operators import (
    AssociationOperator,
    check_operator,
    is_streamed,
    symmetrised_matrix,
)
from contexture_jax.solvers._linear_map import LinearMap, identity
from contexture_jax.solvers._orthonormal import complete
from contexture_jax.solvers._pieces import gaps
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._steps import Solver, zeros
from contexture_jax.solvers._triples import Triples

__all__ = ["EXACT", "ExactState", "all_singular_values"]


@beside_context
def all_singular_values(op: AssociationOperator) -> Float[Array, " k"]:
    """Every singular value of a small operator but the trivial one, s_1 ≥ s_2 ≥ ….

    Those of the symmetrised matrix, deflated: n × m numbers are stored, O(n m min(n,
    m)) operations follow. Outside a trace NumPy does them in float64, whatever the
    dtype, since sums of many squares of them are looked at: for float32 as roots of the
    eigenvalues of the smaller Gram matrix, whose rounding, 1e-7 of s_0 = 1, is that of
    the entries; for float64 by a singular value decomposition.

    Args:
        op: T, as from `association_operator`, shape (n, m).

    Returns:
        Shape (min(n, m) − 1,), the dtype of `op`, between 0 and 1; NaN where an entry
        is.

    Raises:
        TypeError: if `op` is not an operator.

    Example:
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[0.4, 0.1], [0.1, 0.4]]))
        >>> bool(abs(cx.solvers.all_singular_values(op)[0] - 0.6) < 1e-6)
        True
    """
    check_operator(op, "op")
    op = tree_on_auto_axes(op)
    if is_traced(op):
        matrix = symmetrised_matrix(op, deflated=True)
        values = singular_values(matrix)
    else:
        # In each process the whole, wherever the rows of the operator lie.
        make = _by_products if is_streamed(op) else _deflated
        matrix = np.asarray(gathered(make(op)), np.float64)
        values = np.full(min(matrix.shape), np.nan)
        # NumPy raises at what is not finite.
        if np.isfinite(matrix).all():
            is_rough = op.dtype.itemsize < matrix.itemsize
            values = _by_gram(matrix) if is_rough else _by_svd(matrix)
    # The trivial value, 0 here, comes last.
    return jnp.clip(jnp.asarray(values[:-1], op.dtype), 0.0, 1.0)


def _by_svd(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)


def _by_gram(matrix: np.ndarray) -> np.ndarray:
    """Singular values, descending, to √eps of the largest: several times sooner."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares = np.linalg.eigvalsh(np.matmul(wide, wide.T))
    return np.sqrt(np.maximum(squares[::-1], 0.0))


def _by_products(op: AssociationOperator) -> Array:
    return symmetrised_matrix(op, deflated=True)


# Operation by operation each would be a program.
_deflated = jax.jit(_by_products)


class ExactState(NamedTuple):
    """Before the one pass, or after it.

    Attributes:
        seed: of vectors of singular values 0, uint32, shape ().
        passes: 0 or 1.
        is_open: whether it is to come.
        left: left vectors, shape (n, rank).
        s: singular values, shape (rank,).
        right: right vectors, shape (m, rank).
        left_residuals: ‖M v_i − s_i u_i‖, shape (rank,).
        residuals: ‖Mᴴ u_i − s_i v_i‖, shape (rank,); infinite before they are known.
    """

    seed: Seed
    passes: Int[Either, ""]
    is_open: Bool[Either, ""]
    left: Inexact[Either, "n r"]
    s: Float[Either, " r"]
    right: Inexact[Either, "m r"]
    left_residuals: Float[Either, " r"]
    residuals: Float[Either, " r"]


def _init(a: LinearMap, plan: Plan, seed: Seed, start: Any) -> ExactState:
    """Before the pass."""
    del start
    (n, m), rank, real = a.shape, plan.rank, np.zeros((), a.dtype).real.dtype
    return ExactState(
        seed=seed,
        passes=np.int32(0),
        is_open=np.asarray(True)[()],
        left=zeros((n, rank), a.dtype, seed),
        s=zeros((rank,), real, seed),
        right=zeros((m, rank), a.dtype, seed),
        left_residuals=zeros((rank,), real, seed) + np.asarray(np.inf, real),
        residuals=zeros((rank,), real, seed) + np.asarray(np.inf, real),
    )


def _step(
    a: LinearMap, plan: Plan, state: ExactState, *, in_place: bool = False
) -> ExactState:
    """A dense SVD of the n × m entries: O(n m min(n, m)) flops.

    In float32, on one CPU and outside a trace by the smaller Gram matrix in float64.
    """
    del in_place
    n, m = a.shape
    is_tall = m <= n
    forth, back = (a.matmat, a.rmatmat) if is_tall else (a.rmatmat, a.matmat)
    # (max(n, m), min(n, m)): M, or its adjoint.
    if a.entries is not None:
        stored = a.entries if is_tall else a.entries.conj().T
    else:
        # From NumPy: otherwise each size is a program more.
        eye: Any = jnp if isinstance(state.seed, Tracer) else np
        # Through the smaller of the two identity blocks.
        stored = at_hand(forth(eye.eye(min(n, m), dtype=a.dtype)))
    units = (a.left_unit, a.right_unit) if is_tall else (a.right_unit, a.left_unit)
    found = leading_by_gram(stored, plan.rank, least=0.0)
    if found is None:
        s, one, other, own = _factored(
            stored, units, state.seed, rank=plan.rank, scale=a.scale
        )
    else:
        s, one, other, own = _completed(
            stored, found, at_hand(units), state.seed, scale=a.scale
        )
    # The matrix came from one of the two maps: the other one is asked itself, so that
    # two that are not adjoint show.
    asked = gaps(at_hand(back(one)), other, s)
    return state._replace(
        passes=state.passes + 1,
        is_open=np.asarray(False)[()],
        left=one if is_tall else other,
        s=s,
        right=other if is_tall else one,
        left_residuals=own if is_tall else asked,
        residuals=asked if is_tall else own,
    )


@functools.partial(jax.jit, static_argnames=("rank", "scale"))
def _factored(
    stored: Array, units: tuple[Any, Any], seed: Seed, *, rank: int, scale: float
) -> tuple[Array, Array, Array, Array]:
    """`_completed` of the leading triples of a matrix that is not wide."""
    is_finite = jnp.isfinite(stored).all()
    # LAPACK would print lines of its own about what is not.
    u, s, vh = (
        x + jnp.where(is_finite, 0, jnp.nan).astype(x.dtype)
        for x in thin_svd(jnp.where(is_finite, stored, 0))
    )
    # Cut first: what nobody asked for need not be orthonormal.
    found = u[:, :rank], s[:rank], vh[:rank].conj().T
    return _completed(stored, found, units, seed, scale=scale)


def _completed(
    stored: Either,
    found: tuple[Either, Either, Either],
    units: tuple[Any, Any],
    seed: Seed,
    *,
    scale: float,
) -> tuple[Either, Either, Either, Either]:
    """Values and vectors of a matrix, on complete bases, and what its product is off.

    That is the error of the factorisation itself, which is more than rounding of s_1
    where entries span more than the dtype has.
    """
    u, s, v = found
    # For its units and its cutoff alone: there is nothing left to multiply.
    a = LinearMap(identity, identity, stored.shape, stored.dtype, *units, scale)
    u, v = complete(a, s, u, v, seed)
    return s, u, v, gaps(product(stored, v), u, s)


def _complete(a: LinearMap, plan: Plan, state: ExactState) -> ExactState:
    """There is one pass."""
    del a, plan
    return state


def _extract(state: ExactState) -> Triples:
    """With the residuals of what was found; one pass: two products."""
    return Triples(
        state.s,
        state.left,
        state.right,
        state.left_residuals,
        state.residuals,
        state.passes,
    )


# One pass whatever the values are: a trace needs no loop for it.
EXACT = Solver(ExactState, _init, _step, _complete, _extract, decides=False)
