"""Randomized subspace iteration, accelerated by Chebyshev polynomials.

From Q = orth(Mᴴ Ω), Ω random (n × width), a Ritz step takes Y = M Q, the SVD of Y on
that subspace (so M V = U S to rounding), and Z = Mᴴ U, whose distance from V S is the
residual of the triples. The next Q spans Z, or, accelerated, p(Mᴴ M) V with the
Chebyshev polynomial p of the interval [0, s_width²], which is what the block must lose
(Zhou, Saad, Tiago & Chelikowsky 2006). Its first term is known from Z; each further
degree takes one pass and no factorisation. The error of triple i falls by
(s_{width+1} / s_i)² a pass without, and by about exp(−arccosh(2 s_i² / s_width² − 1))
with acceleration: the square root of the number of passes where that is large
(theory.md §6).

Not accelerated (no tolerance to reach), the subspace after q + 1 passes is that of
Halko, Martinsson & Tropp 2011, Algorithm 4.4 for Mᴴ with q power iterations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, Bool, Float, Inexact, Int
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._pieces import gaps, orthonormal, random_columns, ritz
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._steps import Solver, choose, read, zeros
from contexture_jax.solvers._triples import Triples

__all__ = ["RANDOMIZED", "RandomizedState"]

_MAX_DEGREE = 16
_MARGIN = 0.05  # of s_rank²: the filter ends at least that far below it


class RandomizedState(NamedTuple):
    """Between two passes.

    Attributes:
        seed: of all randomness, uint32, shape ().
        passes: how many are done; −1 before the half pass that makes Mᴴ Ω.
        is_open: whether residuals are above the goal and passes are left, shape ().
        has_triples: whether the last pass was a Ritz step, shape ().
        left: degrees that the filter still lacks; 0: the next pass is a Ritz step.
        before: the filtered block of one degree less, shape (m, b); of no rows if none
            is filtered.
        block: what the next pass multiplies, shape (m, b).
        sigma: scale of the recurrence, shape ().
        u: left Ritz vectors of the last Ritz step, shape (n, b); scratch after others.
        s: Ritz values of that step, shape (b,).
        v: its right Ritz vectors, shape (m, b).
        residuals: ‖Mᴴ u_i − s_i v_i‖ of that step, shape (b,); infinite before it.
    """

    seed: Seed
    passes: Int[Array, ""]
    is_open: Bool[Array, ""]
    has_triples: Bool[Array, ""]
    left: Int[Array, ""]
    before: Inexact[Array, "k b"]
    block: Inexact[Array, "m b"]
    sigma: Float[Array, ""]
    u: Inexact[Array, "n b"]
    s: Float[Array, " b"]
    v: Inexact[Array, "m b"]
    residuals: Float[Array, " b"]


def _init(a: LinearMap, plan: Plan, seed: Seed, start: Any) -> RandomizedState:
    """Before the half pass that makes Mᴴ Ω, or with columns to begin with."""
    (n, m), width, dtype = a.shape, plan.width, a.dtype
    real = np.zeros((), dtype).real.dtype
    return RandomizedState(
        seed=seed,
        passes=np.int32(-1 if start is None else 0),
        is_open=np.asarray(True)[()],
        has_triples=np.asarray(False)[()],
        left=np.int32(0),
        before=zeros((m if plan.tol > 0 else 0, width), dtype, seed),
        block=zeros((m, width), dtype, seed) if start is None else start,
        sigma=np.zeros((), real),
        u=zeros((n, width), dtype, seed),
        s=zeros((width,), real, seed),
        v=zeros((m, width), dtype, seed),
        residuals=zeros((width,), real, seed) + np.asarray(np.inf, real),
    )


def _step(a: LinearMap, plan: Plan, state: RandomizedState) -> RandomizedState:
    """A product with M and one with Mᴴ: a Ritz step, or one degree of the filter."""
    first = state.passes < 0
    # A fixed number of passes needs triples in the last one alone.
    is_last = state.passes == plan.max_passes - 1
    is_whole = is_last | (plan.tol > 0)
    is_ritz = ~first & (state.left == 0)
    seed, fresh = state.seed, state.passes + 2

    def basis(block: Any, law: Any) -> Any:
        return choose(
            is_whole,
            lambda: orthonormal(block, seed, fresh, law),
            lambda: orthonormal(block, seed, fresh, None, loose=True),
        )

    q = choose(is_ritz, lambda: basis(state.block, a.right_law), lambda: state.block)
    size, dtype = a.shape[0], a.dtype
    y = choose(
        first,
        lambda: random_columns(
            seed, a.left_law, size=size, width=plan.width, dtype=dtype
        ),
        lambda: a.matmat(q),
    )
    u = choose(is_ritz, lambda: basis(y, a.left_law), lambda: y)
    s, u, v = choose(
        is_ritz & is_whole, lambda: ritz(y, u, q), lambda: (state.s, u, state.v)
    )
    z = a.rmatmat(u)
    has_triples = is_ritz & is_whole
    state = state._replace(
        passes=state.passes + 1, has_triples=has_triples, u=u, s=s, v=v
    )

    def follow() -> RandomizedState:
        if plan.tol == 0:
            return state._replace(block=z)
        return choose(
            state.left > 0,
            lambda: _next_degree(plan, state, q, z),
            lambda: state._replace(block=z),
        )

    return choose(has_triples, lambda: _after_ritz(a, plan, state, z), follow)


def _after_ritz(
    a: LinearMap, plan: Plan, state: RandomizedState, z: Array
) -> RandomizedState:
    """Residuals of new triples, and the degree of the filter that follows."""
    s, v, passes = state.s, state.v, state.passes
    residuals = gaps(z, v, s)
    # The last pass is a Ritz step; of a fixed number of passes it was this one.
    budget = plan.max_passes if plan.tol > 0 else passes
    is_open, degree = _plan_filter(
        s, residuals, passes, plan.rank, budget, plan.tol, a.goal_floor
    )
    is_open, degree = read(is_open, degree)
    block, sigma = _start_filter(z, s, v, degree, plan.rank)
    return state._replace(
        is_open=is_open & (passes < plan.max_passes),
        left=degree - np.int32(1),
        before=v if plan.tol > 0 else state.before,
        block=block,
        sigma=sigma,
        residuals=residuals,
    )


@jax.jit
def _plan_filter(
    s: Array,
    residuals: Array,
    passes: Any,
    rank: Any,
    budget: Any,
    tol: Any,
    floor: Any,
) -> tuple[Bool[Array, ""], Int[Array, ""]]:
    """Whether residuals are above the goal; the degree that brings them there."""
    largest = jnp.where(jnp.arange(len(s)) < rank, residuals, 0.0).max()
    goal = jnp.maximum(tol * s.max(), floor).astype(s.dtype)
    degree = _degree(s, largest / goal, rank)
    # Little is known of the spectrum at first.
    limit = jnp.minimum(2 ** jnp.minimum(passes - 1, 5), budget - passes)
    # NaN compares false and ends it.
    return largest > goal, jnp.clip(degree, 1, jnp.maximum(limit, 1)).astype(jnp.int32)


def _degree(
    s: Float[Array, " b"], ratio: Float[Array, ""], rank: Any
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


def _edge(s: Float[Array, " b"], rank: Any) -> Float[Array, ""]:
    """The end of what is damped, [0, s_width²], but off s_rank² where values tie."""
    return jnp.minimum(s[-1] ** 2, (1.0 - _MARGIN) * s[rank - 1] ** 2)


@jax.jit
def _start_filter(
    z: Array, s: Array, v: Array, degree: Any, rank: Any
) -> tuple[Array, Array]:
    """Degree 1 of the scaled polynomial, from Mᴴ M V = Z S; plain Z if that is all.

    T_k(2 Mᴴ M / edge − 1) V over its value at s_1 (Zhou & Saad 2007, Algorithm
    3.1), so that nothing overflows.
    """
    filtered = degree > 1
    edge, top = _interval(s, rank, filtered)
    first = ((2.0 / edge) * (z * s[None, :]) - v) / top
    return jnp.where(filtered, first, z), 1.0 / top


def _next_degree(
    plan: Plan, state: RandomizedState, now: Any, image: Array
) -> RandomizedState:
    """One degree more, from the image Mᴴ M of the block."""
    block, sigma = _recurrence(
        now, image, state.before, state.s, state.sigma, plan.rank
    )
    return state._replace(
        left=state.left - np.int32(1), before=now, block=block, sigma=sigma
    )


@jax.jit
def _recurrence(
    now: Array, image: Array, before: Array, s: Array, last: Array, rank: Any
) -> tuple[Array, Array]:
    edge, top = _interval(s, rank, jnp.ones((), bool))
    sigma = 1.0 / (2.0 * top - last)
    shifted = (2.0 / edge) * image - now
    return 2.0 * sigma * shifted - (sigma * last) * before, sigma


def _interval(
    s: Float[Array, " b"], rank: Any, is_used: Array
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The end of what is damped, and s_1² where that is moved to [−1, 1]."""
    edge = jnp.where(is_used, _edge(s, rank), 1.0)
    return edge, jnp.where(is_used, 2.0 * s[0] ** 2 / edge - 1.0, 1.0)


def _complete(a: LinearMap, plan: Plan, state: RandomizedState) -> RandomizedState:
    """With a Ritz step for what was filtered since the last one."""
    while not state.has_triples:
        last = plan._replace(max_passes=int(state.passes) + 1)
        state = _step(a, last, state._replace(left=np.int32(0)))
    return state


def _extract(state: RandomizedState) -> Triples:
    """All of the block; by construction the left residuals are rounding."""
    nothing = zeros(state.s.shape, state.s.dtype, state.s)
    passes = state.passes + 0.5
    return Triples(state.s, state.u, state.v, nothing, state.residuals, passes)


RANDOMIZED = Solver(RandomizedState, _init, _step, _complete, _extract)
