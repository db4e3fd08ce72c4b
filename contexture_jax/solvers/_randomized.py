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

import numpy as np

from contexture_jax._core.either import Either, compiled_unless_numpy, namespace
from contexture_jax._core.types import Bool, Float, Inexact, Int
from contexture_jax.solvers._linear_map import MAX_DEGREE, LinearMap, rounding_of
from contexture_jax.solvers._pieces import gaps, orthonormal, random_columns, ritz
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._steps import Solver, choose, read, zeros
from contexture_jax.solvers._triples import Triples

__all__ = ["RANDOMIZED", "RandomizedState"]

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
        edge: the end of what the filter damps, shape ().
        top: s_1² where the filter has moved [0, edge] to [−1, 1], shape ().
        sigma: scale of the recurrence, shape ().
        u: left Ritz vectors of the last Ritz step, shape (n, b); scratch after others.
        s: Ritz values of that step, shape (b,).
        v: its right Ritz vectors, shape (m, b).
        residuals: ‖Mᴴ u_i − s_i v_i‖ of that step, shape (b,); infinite before it.
    """

    seed: Seed
    passes: Int[Either, ""]
    is_open: Bool[Either, ""]
    has_triples: Bool[Either, ""]
    left: Int[Either, ""]
    before: Inexact[Either, "k b"]
    block: Inexact[Either, "m b"]
    edge: Float[Either, ""]
    top: Float[Either, ""]
    sigma: Float[Either, ""]
    u: Inexact[Either, "n b"]
    s: Float[Either, " b"]
    v: Inexact[Either, "m b"]
    residuals: Float[Either, " b"]


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
        edge=np.zeros((), real)[()],
        top=np.zeros((), real)[()],
        sigma=np.zeros((), real)[()],
        u=zeros((n, width), dtype, seed),
        s=zeros((width,), real, seed),
        v=zeros((m, width), dtype, seed),
        residuals=zeros((width,), real, seed) + np.asarray(np.inf, real),
    )


def _step(
    a: LinearMap, plan: Plan, state: RandomizedState, *, in_place: bool = False
) -> RandomizedState:
    """A product with M and one with Mᴴ: a Ritz step, or one degree of the filter."""
    if a.filtered is not None and state.left > 0:
        # Who looks at each pass sees one.
        return _next_degrees(a, state, int(state.left) if in_place else 1)
    first = state.passes < 0
    # A fixed number of passes needs triples in the last one alone.
    is_last = state.passes == plan.max_passes - 1
    is_whole = is_last | (plan.tol > 0)
    is_ritz = ~first & (state.left == 0)
    # The random block has the seed itself, bases those numbered from 1.
    seed, fresh = state.seed, state.passes + 2

    # A pass that no triples are read off needs a well-conditioned basis and no more;
    # the product that follows projects by itself.
    def basis(block: Any, unit: Any) -> Any:
        return choose(
            is_whole,
            lambda: orthonormal(block, seed, fresh, unit),
            lambda: orthonormal(block, seed, fresh, None, loose=True),
        )

    # (m, b). Within a filter as it is: its recurrence is between blocks in one basis.
    q = choose(is_ritz, lambda: basis(state.block, a.right_unit), lambda: state.block)
    size, dtype = a.shape[0], a.dtype

    # The image itself, as large as u, is gone before the product that follows.
    def left_block() -> tuple[Any, Any, Any]:
        # (n, b): Ω in the half pass, M q later.
        y = choose(
            first,
            lambda: random_columns(
                seed,
                a.left_unit,
                size=size,
                width=plan.width,
                dtype=dtype,
                near=a.is_near,
            ),
            lambda: a.matmat(q),
        )
        u = choose(is_ritz, lambda: basis(y, a.left_unit), lambda: y)
        return choose(
            is_ritz & is_whole, lambda: ritz(y, u, q), lambda: (state.s, u, state.v)
        )

    s, u, v = left_block()
    # (m, b): V S and what is off, or Mᴴ M of a filter's block, or the next subspace.
    z = a.rmatmat(u)
    has_triples = is_ritz & is_whole
    # A fixed number of passes keeps none but the last.
    u = u if plan.tol > 0 else choose(is_whole, lambda: u, lambda: state.u)
    state = state._replace(
        passes=state.passes + 1, has_triples=has_triples, u=u, s=s, v=v
    )

    def follow() -> RandomizedState:
        if plan.tol == 0:
            return state._replace(block=z)
        return choose(
            state.left > 0,
            lambda: _next_degree(state, q, z),
            lambda: state._replace(block=z),
        )

    return choose(has_triples, lambda: _after_ritz(a, plan, state, z), follow)


def _after_ritz(
    a: LinearMap, plan: Plan, state: RandomizedState, z: Either
) -> RandomizedState:
    """Residuals of new triples, and the degree of the filter that follows."""
    s, v, passes = state.s, state.v, state.passes
    # The last pass is a Ritz step; of a fixed number of passes it was this one.
    budget = plan.max_passes if plan.tol > 0 else passes
    residuals = gaps(z, v, s)
    # 2 b numbers, and all decisions of a pass from them.
    on_host = read(s, residuals, state.residuals)
    # What is not finite goes on, for the status to name.
    with np.errstate(all="ignore"):
        is_open, degree, edge, top = _judged(
            on_host[0], on_host[1], passes, plan.rank, budget, plan.tol, a.goal_floor
        )
        is_open &= ~_is_rounding(a, plan.rank, on_host[0], *on_host[1:])
    # Degree 1 of the scaled polynomial, from Mᴴ M V = Z S; plain Z if that is all.
    block = choose(
        degree > 1,
        lambda: _combined(z, s, v, v, 2.0 / (edge * top), -1.0 / top, 0.0 * top),
        lambda: z,
    )
    return state._replace(
        is_open=is_open & (passes < plan.max_passes),
        # Degree 1 is done: each further one is a pass.
        left=degree - np.int32(1),
        before=v if plan.tol > 0 else state.before,
        block=block,
        edge=edge,
        top=top,
        sigma=1.0 / top,
        residuals=residuals,
    )


def _is_rounding(
    a: LinearMap, rank: int, s: Either, residuals: Either, before: Either
) -> Any:
    """Whether residuals are what rounding leaves: small, and no longer falling."""
    xp = namespace(s)
    largest = residuals[:rank].max()
    # No more than is asked for by default: a filter for less may fall as slowly.
    rounding = min(rounding_of(a.shape, a.dtype), 100 * float(np.finfo(s.dtype).eps))
    small = largest <= rounding * xp.maximum(s[0], a.scale)
    return small & (largest > 0.9 * before[:rank].max())


def _judged(
    s: Either, residuals: Either, passes: Any, rank: int, budget: Any, tol: float,
    floor: float,
) -> tuple[Any, ...]:  # fmt: skip
    """Whether residuals are above the goal, and the filter that brings them there.

    Of the filter T_k(2 Mᴴ M / edge − 1) its degree, its edge, and where it has s_1².
    """
    xp = namespace(s)
    largest = residuals[:rank].max()
    goal = xp.maximum(tol * s.max(), floor)
    # What is damped is [0, s_width²], but off s_rank² where values tie.
    # A filter whose edge is s_rank² itself would gain nothing on the last triple.
    edge = xp.minimum(s[-1] ** 2, (1.0 - _MARGIN) * s[rank - 1] ** 2).astype(s.dtype)
    degree = _degree(s, edge, largest / goal, rank)
    # Little is known of the spectrum at first.
    limit = xp.minimum(2 ** xp.minimum(passes - 1, 5), budget - passes)
    degree = xp.clip(degree, 1, xp.maximum(limit, 1)).astype(np.int32)
    top = (2.0 * s[0] ** 2 / edge - 1.0).astype(s.dtype)
    # NaN compares false and ends it.
    return largest > goal, degree, edge, top


def _degree(s: Either, edge: Either, ratio: Either, rank: int) -> Either:
    """The degree that brings the residual down by `ratio`, if rounding allows it.

    T_k(x) ≈ exp(k arccosh x) / 2. Columns of the filtered block differ in size by
    T_k(x_1); beyond 0.1 / eps the small ones are nothing but rounding of the large.
    """
    xp = namespace(s)

    def growth(value: Either) -> Either:
        # x_i of theory.md §6.3, kept above 1: arccosh 1 is 0, and divides.
        x = 2.0 * value**2 / edge - 1.0
        return xp.arccosh(xp.maximum(x, 1.0 + 1e-6))

    # T_k(x_1) ≤ 1 / (10 eps), and T_k(x_r) ≥ ratio, solved for k.
    allowed = (np.log(0.2) - np.log(np.finfo(s.dtype).eps)) / growth(s[0])
    needed = xp.log(2.0 * ratio) / growth(s[rank - 1]) + 1.0
    degree = xp.minimum(xp.minimum(allowed, xp.ceil(needed)), float(MAX_DEGREE))
    # With s_width = 0 the block holds the whole range: there is nothing to filter.
    return xp.where((edge > 0) & (degree > 1), degree, 1.0).astype(np.int32)


def _next_degree(state: RandomizedState, now: Any, image: Either) -> RandomizedState:
    """One degree more, from the image Mᴴ M of the block.

    Over the value of the polynomial at s_1 (Zhou & Saad 2007, Algorithm 3.1), so that
    nothing overflows.
    """
    # T_{k−1} / T_k at s_1: from T_{k+1} = 2 x T_k − T_{k−1}.
    sigma = 1 / (2 * state.top - state.sigma)
    block = _combined(
        image,
        # The program that also begins a filter, where columns are scaled by S.
        np.ones(state.s.shape, state.s.dtype),
        now,
        state.before,
        4 * sigma / state.edge,
        -2 * sigma,
        -sigma * state.sigma,
    )
    return state._replace(
        left=state.left - np.int32(1), before=now, block=block, sigma=sigma
    )


def _next_degrees(a: LinearMap, state: RandomizedState, num: int) -> RandomizedState:
    """Some degrees more by one call: `_next_degree` after as many passes."""
    filtered: Any = a.filtered
    sigma, factors = state.sigma, []
    for _ in range(num):
        after = 1 / (2 * state.top - sigma)
        factors.append((4 * after / state.edge, -2 * after, -after * sigma))
        sigma = after
    before, block = filtered(state.before, state.block, factors)
    return state._replace(
        passes=state.passes + np.int32(num),
        has_triples=np.asarray(False)[()],
        left=state.left - np.int32(num),
        before=before,
        block=block,
        sigma=sigma,
    )


@compiled_unless_numpy
def _combined(
    x: Either, columns: Either, y: Either, z: Either, a: Any, b: Any, c: Any
) -> Either:
    """A · x · diag(columns) + b · y + c · z."""
    # In the dtype of the values: a float64 number would widen a float32 block.
    a, b, c = (namespace(x).asarray(factor, columns.dtype) for factor in (a, b, c))
    out = x * (a * columns)[None, :]
    out += b * y
    out += c * z
    return out


def _complete(a: LinearMap, plan: Plan, state: RandomizedState) -> RandomizedState:
    """With a Ritz step for what was filtered since the last one."""
    while not state.has_triples:
        # What the filter lacks is given up, and this pass is the last: a Ritz step.
        last = plan._replace(max_passes=int(state.passes) + 1)
        state = _step(a, last, state._replace(left=np.int32(0)))
    return state


def _extract(state: RandomizedState) -> Triples:
    """All of the block; by construction the left residuals are rounding."""
    nothing = zeros(state.s.shape, state.s.dtype, state.s)
    passes = state.passes + 0.5
    return Triples(state.s, state.u, state.v, nothing, state.residuals, passes)


RANDOMIZED = Solver(RandomizedState, _init, _step, _complete, _extract)
