"""Randomized subspace iteration, accelerated by Chebyshev polynomials."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, Float, Inexact, Int
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._orthonormal import orthonormalize, ritz_svd
from contexture_jax.solvers._random import Seed, fold, random_block
from contexture_jax.solvers._triples import Triples

__all__ = ["randomized"]

_MAX_DEGREE = 16
_MARGIN = 0.05  # of s_rank²: the filter ends at least that far below it


def randomized(
    a: LinearMap,
    rank: int,
    seed: Seed,
    *,
    width: int,
    max_passes: int,
    tol: Float[Array, ""],
    accelerated: bool,
    start: Inexact[Array, "m b"] | None = None,
    num_kept: int | None = None,
) -> Triples:
    """Leading singular triples by randomized subspace iteration (theory.md §6).

    From Q = orth(Mᴴ Ω), Ω random (n × width), a step takes Y = M Q, the SVD of Y on
    that subspace (so M V = U S to rounding), and Z = Mᴴ U, whose distance from V S is
    the residual of the triples. The next Q spans Z, or, accelerated, p(Mᴴ M) V with the
    Chebyshev polynomial p of the interval [0, s_width²], which is what the block must
    lose (Zhou, Saad, Tiago & Chelikowsky 2006). Its first term is known from Z; each
    further degree takes one pass and no factorisation. The error of triple i falls by
    (s_{width+1} / s_i)² a pass without, and by about exp(−arccosh(2 s_i² / s_width² −
    1)) with acceleration: the square root of the number of passes where that is large.

    Not accelerated, the subspace after q + 1 passes is that of Halko, Martinsson &
    Tropp 2011, Algorithm 4.4 for Mᴴ with q power iterations.

    Args:
        a: the matrix.
        rank: number of triples.
        seed: for Ω.
        width: columns of the iterated block, rank ≤ width ≤ min(n, m) less what is
            deflated.
        max_passes: stop after that many.
        tol: stop when every ‖Mᴴ u_i − s_i v_i‖ ≤ tol · s_1, i ≤ rank; 0: never.
        accelerated: whether to use polynomials of degree above 1; needs a `tol`.
        start: columns to begin with in place of Mᴴ Ω, shape (m, width).
        num_kept: how many triples to return, at most width; None: `rank`.

    Returns:
        Triples; `left_residuals` are rounding, by construction, and are returned as 0.
    """
    run = _Iteration(a, rank, seed, width, max_passes, tol, accelerated, start is None)

    def not_done(state: _State) -> Array:
        # Residuals change in Ritz steps alone; NaN compares false and ends it too.
        gap = state.residuals[:rank].max()
        is_open = (state.passes <= 0) | (gap > a.goal(state.s, tol))
        return (state.passes < max_passes) & is_open

    one_pass = functools.partial(_one_pass, run)
    end = jax.lax.while_loop(not_done, one_pass, _begin(run, start))
    kept = rank if num_kept is None else num_kept
    s = end.s[:kept]
    return Triples(
        s,
        end.u[:, :kept],
        end.v[:, :kept],
        jnp.zeros_like(s),
        end.residuals[:kept],
        end.passes.astype(s.dtype) + (0.5 if start is None else 0.0),
    )


class _Iteration(NamedTuple):
    """What stays the same: arguments of `randomized`, and how it begins.

    Attributes:
        is_random: whether it begins with a half pass that makes Mᴴ Ω.
    """

    a: LinearMap
    rank: int
    seed: Seed
    width: int
    max_passes: int
    tol: Float[Array, ""]
    accelerated: bool
    is_random: bool


class _State(NamedTuple):
    """Between two passes; one loop runs them all, so the products compile once.

    Attributes:
        passes: how many are done; −1 before the half pass that makes Mᴴ Ω.
        left: degrees that the filter still lacks; 0: the next pass is a Ritz step.
        before: the filtered block of one degree less; empty if none is filtered.
        block: what the next pass multiplies.
        sigma: scale of the recurrence.
        u: left Ritz vectors of the last Ritz step (between steps: scratch).
        s: Ritz values of that step.
        v: its right Ritz vectors.
        residuals: ‖Mᴴ u_i − s_i v_i‖ of that step.
    """

    passes: Int[Array, ""]
    left: Int[Array, ""]
    before: Inexact[Array, "k b"]
    block: Inexact[Array, "m b"]
    sigma: Float[Array, ""]
    u: Inexact[Array, "n b"]
    s: Float[Array, " b"]
    v: Inexact[Array, "m b"]
    residuals: Float[Array, " b"]


def _begin(run: _Iteration, start: Inexact[Array, "m b"] | None) -> _State:
    (n, m), width, dtype = run.a.shape, run.width, run.a.dtype
    ritz = jnp.zeros((width,), jnp.zeros((), dtype).real.dtype)
    return _State(
        passes=jnp.full((), -1 if run.is_random else 0, jnp.int32),
        left=jnp.zeros((), jnp.int32),
        before=jnp.zeros((m if run.accelerated else 0, width), dtype),
        block=jnp.zeros((m, width), dtype) if start is None else start,
        sigma=jnp.zeros((), ritz.dtype),
        u=jnp.zeros((n, width), dtype),
        s=ritz,
        v=jnp.zeros((m, width), dtype),
        residuals=ritz,
    )


def _one_pass(run: _Iteration, state: _State) -> _State:
    """A product with M and one with Mᴴ: a Ritz step, or one degree of the filter."""
    a = run.a
    first = (state.passes < 0) if run.is_random else jnp.zeros((), bool)
    is_ritz = state.left == 0
    q = jax.lax.cond(is_ritz & ~first, lambda: _basis(run, state), lambda: state.block)
    y = jax.lax.cond(
        first,
        lambda: a.project_left(random_block(run.seed, a.shape[0], run.width, a.dtype)),
        lambda: a.matmat(q),
    )
    s, u, v = jax.lax.cond(
        is_ritz & ~first,
        lambda: _rayleigh_ritz(run, state, y, q),
        lambda: (state.s, y, state.v),
    )
    z = a.rmatmat(u)
    new = state._replace(passes=state.passes + 1, u=u, s=s, v=v)

    def follow() -> _State:
        if not run.accelerated:
            return _after_ritz(run, new, z)
        return jax.lax.cond(
            is_ritz,
            lambda: _after_ritz(run, new, z),
            lambda: _next_degree(new, q, z, run.rank),
        )

    return jax.lax.cond(first, lambda: new._replace(block=z), follow)


def _basis(run: _Iteration, state: _State) -> Inexact[Array, "m b"]:
    """Q = orth(block)."""
    fresh = fold(run.seed, state.passes + 2)
    return _last_or_loose(
        run,
        state,
        lambda: orthonormalize(state.block, fresh, project=run.a.project_right),
        lambda: orthonormalize(state.block, fresh, loose=True),
    )


def _rayleigh_ritz(
    run: _Iteration, state: _State, y: Array, q: Array
) -> tuple[Array, Array, Array]:
    """The triples of M on the span of Q, from Y = M Q."""
    fresh = fold(run.seed, state.passes + 2)
    return _last_or_loose(
        run,
        state,
        lambda: ritz_svd(y, q, fresh, num=run.width, project=run.a.project_left),
        lambda: (state.s, orthonormalize(y, fresh, loose=True), state.v),
    )


def _last_or_loose(
    run: _Iteration,
    state: _State,
    whole: Callable[[], Any],
    loose: Callable[[], Any],
) -> Any:
    """Of a fixed number of passes, the last alone needs triples."""
    if run.accelerated:
        return whole()
    return jax.lax.cond(state.passes == run.max_passes - 1, whole, loose)


def _after_ritz(run: _Iteration, state: _State, z: Array) -> _State:
    """Residuals of new triples, and the degree of the filter that follows."""
    s, v, passes = state.s, state.v, state.passes
    residuals = jnp.linalg.norm(z - v * s[None, :], axis=0)
    state = state._replace(residuals=residuals, block=z)
    if not run.accelerated:
        return state
    ratio = residuals[: run.rank].max() / run.a.goal(s, run.tol)
    degree = _degree(s, ratio, run.rank)
    # Little is known of the spectrum at first; the last pass is a Ritz step.
    limit = jnp.minimum(2 ** jnp.minimum(passes - 1, 5), run.max_passes - passes)
    degree = jnp.clip(degree, 1, jnp.maximum(limit, 1))
    return _start_filter(state, z, degree, run.rank)


def _degree(
    s: Float[Array, " b"], ratio: Float[Array, ""], rank: int
) -> Int[Array, ""]:
    """The degree that brings the residual down by `ratio`, if rounding allows it.

    T_k(x) ≈ exp(k arccosh x) / 2. Columns of the filtered block differ in size by
    T_k(x_1); beyond 0.1 / eps the small ones are nothing but rounding of the large.
    """
    edge = _edge(s, rank)

    def growth(value: Array) -> Array:
        x = 2.0 * safe_divide(value**2, edge) - 1.0
        return jnp.arccosh(jnp.maximum(x, 1.0 + 1e-6))

    allowed = (np.log(0.2) - np.log(np.finfo(s.dtype).eps)) / growth(s[0])
    needed = jnp.log(2.0 * ratio) / growth(s[rank - 1]) + 1.0
    degree = jnp.minimum(jnp.minimum(allowed, jnp.ceil(needed)), float(_MAX_DEGREE))
    # With s_width = 0 the block holds the whole range: there is nothing to filter.
    return jnp.where(edge > 0, degree, 1.0).astype(jnp.int32)


def _edge(s: Float[Array, " b"], rank: int) -> Float[Array, ""]:
    """The end of what is damped, [0, s_width²], but off s_rank² where values tie."""
    return jnp.minimum(s[-1] ** 2, (1.0 - _MARGIN) * s[rank - 1] ** 2)


def _start_filter(state: _State, z: Array, degree: Int[Array, ""], rank: int) -> _State:
    """Degree 1 of the scaled polynomial, from Mᴴ M V = Z S; plain Z if that is all.

    T_k(2 Mᴴ M / edge − 1) V over its value at s_1 (Zhou & Saad 2007, Algorithm
    3.1), so that nothing overflows.
    """
    filtered = degree > 1
    edge, top = _interval(state.s, rank, filtered)
    first = ((2.0 / edge) * (z * state.s[None, :]) - state.v) / top
    return state._replace(
        left=degree - 1,
        before=state.v,
        block=jnp.where(filtered, first, z),
        sigma=1.0 / top,
    )


def _next_degree(state: _State, now: Array, image: Array, rank: int) -> _State:
    """One degree more, from the image Mᴴ M of the block."""
    edge, top = _interval(state.s, rank, jnp.ones((), bool))
    sigma = 1.0 / (2.0 * top - state.sigma)
    shifted = (2.0 / edge) * image - now
    new = 2.0 * sigma * shifted - (sigma * state.sigma) * state.before
    return state._replace(left=state.left - 1, before=now, block=new, sigma=sigma)


def _interval(
    s: Float[Array, " b"], rank: int, is_used: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The end of what is damped, and s_1² where that is moved to [−1, 1]."""
    edge = jnp.where(is_used, _edge(s, rank), 1.0)
    return edge, jnp.where(is_used, 2.0 * s[0] ** 2 / edge - 1.0, 1.0)
