"""One compiled program from an operator to triples, energies and a status."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float
from contexture_jax.solvers._exact import exact
from contexture_jax.solvers._krylov import krylov
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._nystrom import nystrom
from contexture_jax.solvers._orthonormal import fix_signs
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed, fold, make_seed, random_block
from contexture_jax.solvers._randomized import randomized
from contexture_jax.solvers._results import SolveInfo, Status, SVDResult
from contexture_jax.solvers._triples import Triples

__all__ = ["finish", "rounding_of", "solve", "total_energy"]

_NUM_PROBES = 16


def solve(
    a: LinearMap,
    plan: Plan,
    key: Array,
    squared_norm: Float[Array, ""] | None,
    coarse: LinearMap | None = None,
) -> tuple[SVDResult, SolveInfo]:
    """Run a plan on a matrix; everything traced, `status` an integer code.

    Args:
        a: the matrix, its trivial triple already deflated.
        plan: method and widths.
        key: for all randomness.
        squared_norm: ‖M‖_F²; None: estimated from random probes, with its error.
        coarse: the same matrix in `plan.range_dtype`, solved first.
    """
    seed = make_seed(key)
    tol = jnp.asarray(plan.tol, jnp.zeros((), a.dtype).real.dtype)
    start, coarse_passes = None, 0.0
    if coarse is not None:
        rough = _coarse_triples(coarse, plan, seed, tol)
        start, coarse_passes = rough.right, rough.num_passes
    triples = _triples(a, plan, seed, tol, start)
    left, right = fix_signs(triples.left, triples.right)
    triples = _within_norm(a, triples)
    s = triples.singular_values
    head = (s * s).sum()
    if squared_norm is None:
        tail, error = _estimate_tail(a, right, fold(seed, -1))
        total = head + tail
    else:
        total, error = squared_norm.astype(s.dtype), jnp.zeros((), s.dtype)
    # Rounding must not make the whole smaller than its part.
    total = jnp.maximum(total, head)
    residuals = jnp.maximum(triples.left_residuals, triples.right_residuals)
    info = SolveInfo(
        residuals,
        triples.left_residuals,
        triples.right_residuals,
        triples.num_passes + coarse_passes,
        total,
        total - head,
        error,
        _status(a, plan, s, residuals, left, right),
        scale=jnp.full((), a.scale, s.dtype),
    )
    return SVDResult(s, left, right), info


def _coarse_triples(
    coarse: LinearMap, plan: Plan, seed: Seed, tol: Float[Array, ""]
) -> Triples:
    """A whole block of triples, as exact as the coarse dtype makes them."""
    reachable = 50.0 * float(jnp.finfo(plan.range_dtype).eps)
    return randomized(
        coarse,
        plan.rank,
        seed,
        width=plan.width,
        max_passes=plan.max_passes,
        tol=jnp.maximum(tol, min(reachable, 0.5)),
        accelerated=True,
        num_kept=plan.width,
    )


def _triples(
    a: LinearMap, plan: Plan, seed: Seed, tol: Float[Array, ""], start: Array | None
) -> Triples:
    """By the method of the plan."""
    rank, width = plan.rank, plan.width
    if plan.method == "exact":
        return exact(a, rank, seed)
    if plan.method == "nystrom":
        return nystrom(a, rank, seed, width=width)
    if plan.method == "randomized":
        return randomized(
            a,
            rank,
            seed,
            width=width,
            max_passes=plan.max_passes,
            tol=tol,
            accelerated=plan.tol > 0,
            start=start,
        )
    return krylov(
        a,
        rank,
        seed,
        block_size=plan.block_size,
        depth=plan.depth,
        num_kept=min(plan.depth, -(-width // plan.block_size)),
        max_passes=plan.max_passes,
        tol=tol,
    )


def finish(plan: Plan, info: SolveInfo) -> SolveInfo:
    """What no program returns: which method ran, and why."""
    return dataclasses.replace(info, method=plan.method, reason=plan.reason)


def total_energy(
    a: LinearMap, key: Array, squared_norm: Float[Array, ""] | None
) -> Float[Array, ""]:
    """‖M‖_F² as a function to differentiate: as given, or from random probes.

    The probes are those of the tail, unprojected: of the same mean as the head plus the
    estimated tail, whose gradient would need that of the singular vectors.
    """
    if squared_norm is None:
        return _energies(a, _probes(a, fold(make_seed(key), -1))).mean()
    return squared_norm.astype(jnp.zeros((), a.dtype).real.dtype)


def _within_norm(a: LinearMap, triples: Triples) -> Triples:
    """Values above the norm that M has at most, by no more than rounding, are that.

    Residuals grow by as much as a value moves.
    """
    if a.scale == 0:
        return triples
    s = triples.singular_values
    over = jnp.clip(s - a.scale, 0.0)
    over = jnp.where(over <= rounding_of(a.shape, s.dtype) * a.scale, over, 0.0)
    return triples._replace(
        # Not s − over, which rounds.
        singular_values=jnp.where(over > 0, jnp.asarray(a.scale, s.dtype), s),
        left_residuals=triples.left_residuals + over,
        right_residuals=triples.right_residuals + over,
    )


def rounding_of(shape: tuple[int, int], dtype: Any) -> float:
    """(10 + √max(n, m)) · eps: what rounding in products of that length may add up to.

    Relative to the norm of the matrix before deflation.
    """
    return (10.0 + max(shape) ** 0.5) * float(jnp.finfo(dtype).eps)


def _estimate_tail(
    a: LinearMap, right: Array, seed: Seed
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """‖M (I − V Vᴴ)‖_F² from random probes: mean and standard error.

    E‖W ω‖² = ‖W‖_F² over random ω of variance 1 (Hutchinson 1989). What V holds is
    known and taken out first, so that the error is one of the tail and not of the whole
    (as in Hutch++: Meyer, Musco, Musco & Woodruff 2021).
    """
    probes = _probes(a, seed)
    samples = _energies(a, probes - mm(right, mm(right.conj().T, probes)))
    return samples.mean(), samples.std(ddof=1) / _NUM_PROBES**0.5


def _probes(a: LinearMap, seed: Seed) -> Array:
    return a.project_right(random_block(seed, a.shape[1], _NUM_PROBES, a.dtype))


def _energies(a: LinearMap, probes: Array) -> Float[Array, " p"]:
    return (jnp.abs(a.matmat(probes)) ** 2).sum(axis=0)


def _status(
    a: LinearMap, plan: Plan, s: Array, residuals: Array, left: Array, right: Array
) -> Array:
    """The code of the status: the gravest of what holds."""
    finite = (
        jnp.isfinite(s).all() & jnp.isfinite(left).all() & jnp.isfinite(right).all()
    )
    deficient = ~(s[-1] > a.cutoff(s))
    tol = plan.tol if plan.tol > 0 else _default_goal(a.dtype)
    # Iterations may stop on a recurrence for the residual; the residuals returned are
    # computed anew and differ by rounding, as do those of a dense factorisation.
    rounding = 2.0 * rounding_of(a.shape, a.dtype) * jnp.maximum(s[0], a.scale)
    close = residuals.max() <= a.goal(s, tol) + rounding
    above = (a.scale > 0) & (s[0] > a.scale + a.goal(s, tol) + rounding)
    code = jnp.asarray(Status.CONVERGED.code, jnp.int32)
    for holds, status in (
        (deficient, Status.RANK_DEFICIENT),
        (~close, Status.MAX_PASSES),
        (above, Status.ABOVE_ONE),
        (~finite, Status.NON_FINITE),
    ):
        code = jnp.where(holds, status.code, code)
    return code


def _default_goal(dtype: Any) -> float:
    """The residual that a run of a fixed number of passes is judged by."""
    return max(1e-10, 100 * float(jnp.finfo(dtype).eps))
