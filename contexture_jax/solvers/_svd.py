"""The front door: the singular functions of an operator, in weighted L²."""

import functools

import jax
import numpy as np

from contexture_jax._core.checks import check_key, is_concrete
from contexture_jax._core.numerics import safe_reciprocal
from contexture_jax._core.types import Array
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers._linear_map import symmetrised_map
from contexture_jax.solvers._plan import Method, Plan, make_plan
from contexture_jax.solvers._results import SolveInfo, SVDResult
from contexture_jax.solvers._run import finish, solve

__all__ = ["svd"]


def svd(
    op: AssociationOperator,
    rank: int,
    *,
    key: Array,
    method: Method = "auto",
    tol: float | None = None,
    max_passes: int | None = None,
    num_oversamples: int | None = None,
    num_power_iterations: int | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """The contexture: leading singular functions, T ν_i = s_i μ_i, T* μ_i = s_i ν_i.

    By Theorems 6 to 12 of Zhai et al. 2025 (CTX) the span of μ_1, …, μ_d is what a
    d-dimensional encoder learns from the context (theory.md §1). The trivial triple
    (s_0 = 1, constants) is deflated exactly and not part of the result. Compiles one
    program for each operator structure, rank and method; a second call with the same
    shapes does not compile again.

    Args:
        op: T, as from `association_operator`, shape (n, m).
        rank: number of triples; at most min(n, m) − 1, rows and columns of zero mass
            not counted.
        key: random key, for the randomized methods and for functions of singular value
            0.
        method: "exact" (dense SVD), "randomized" (subspace iteration, accelerated by
            Chebyshev polynomials), "krylov" (block Krylov, restarted), "nystrom" (one
            pass: exact for ranks below its block, rough for spectra that decay slowly,
            where it does not reach `tol` and says "max passes"), or "auto": exact for
            small operators, else randomized. `info.method` and `info.reason` say what
            ran and why.
        tol: stop when every ‖T* μ_i − s_i ν_i‖ ≤ tol · s_1; None: 1e-10 in float64 and
            100 eps in float32.
        max_passes: bound on passes (`matmat` + `rmatmat`); None: 300.
        num_oversamples: further columns of a block; None: max(10, rank // 4), and what
            makes the width a multiple of 16.
        num_power_iterations: run the randomized method with that many power iterations
            and no stopping test, unless `tol` is given.

    Returns:
        (result, info): an `SVDResult` with `left` orthonormal in L²(P_X), `right` in
        L²(P_A), of mean 0 and 0 where there is no mass; and a `SolveInfo` with
        residuals, passes, energies and a status. Singular functions inside a cluster of
        equal singular values are an arbitrary basis of their span.

    Raises:
        TypeError: if `op` is not an operator or `key` not a key.
        ValueError: if `rank`, `method` or a tolerance is out of range.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[4, 1, 0], [1, 3, 2]]))
        >>> result, info = cx.svd(op, 1, key=jax.random.key(0))
        >>> info.status == "converged"
        True
        >>> bool(abs(op.p_x @ result.left[:, 0] ** 2 - 1) < 1e-5)
        True
    """
    if not isinstance(op, AssociationOperator):
        msg = (
            "op must be an operator, as from cx.association_operator(context); got"
            f" {type(op).__name__}"
        )
        raise TypeError(msg)
    check_key(key)
    plan = make_plan(
        op.shape,
        op.dtype,
        rank,
        _num_nontrivial(op),
        method=method,
        tol=tol,
        max_passes=max_passes,
        num_oversamples=num_oversamples,
        num_power_iterations=num_power_iterations,
    )
    result, info = _compiled(op, key, plan=plan.program)
    return result, finish(plan, info)


@functools.partial(jax.jit, static_argnames="plan")
def _compiled(
    op: AssociationOperator, key: Array, *, plan: Plan
) -> tuple[SVDResult, SolveInfo]:
    squared_norm = op.squared_norm()
    deflated = None if squared_norm is None else squared_norm - 1.0
    result, info = solve(symmetrised_map(op), plan, key, deflated)
    back_x, back_a = (safe_reciprocal(p**0.5) for p in (op.p_x, op.p_a))
    weighted = result._replace(
        left=back_x[:, None] * result.left, right=back_a[:, None] * result.right
    )
    return weighted, info


def _num_nontrivial(op: AssociationOperator) -> int:
    """How many triples exist beside the trivial one."""
    if is_concrete(op.p_x, op.p_a):
        sizes = [int(np.count_nonzero(np.asarray(p))) for p in (op.p_x, op.p_a)]
    else:
        sizes = list(op.shape)
    return min(sizes) - 1
