"""Randomized block Krylov iteration with thick restart.

Two bases grow block by block, U_j = orth(M V_j) and V_{j+1} = orth(Mᴴ U_j), each off
all before it (Golub & Kahan's bidiagonalisation for blocks, with full
reorthogonalisation), beside the small R = Uᴴ M V, so that M V = U R. When they are
full, the SVD of R gives Ritz triples. The residual Mᴴ u_i − s_i v_i lies in the block
that comes next and costs nothing. The leading Ritz vectors then become the first blocks
and the iteration goes on with that next block: the thick restart of Baglama & Reichel
2005 ("Augmented implicitly restarted Lanczos bidiagonalization methods"; theory.md §6).

A block narrower than `rank` searches a space of higher degree at equal cost (Musco &
Musco 2015). A block wider than a cluster finds all of it; of a narrower one, the copies
beyond its width are found late, through rounding.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.either import (
    Either,
    at_hand,
    compiled_unless_numpy,
    core_svd,
    leading_by_gram,
    namespace,
    product,
    written,
)
from contexture_jax._core.types import Bool, Float, Inexact, Int
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._pieces import orthonormal, random_columns
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._steps import Solver, choose, read, when, zeros
from contexture_jax.solvers._triples import Triples

__all__ = ["KRYLOV", "KrylovState", "decomposed", "judged", "look_ahead", "num_kept"]


_SHARE = 0.7  # of the passes that goals are estimated to take, before a look


class KrylovState(NamedTuple):
    """Between two blocks; k = b · depth columns in a basis, c = b · kept in a restart.

    Attributes:
        seed: of all randomness, uint32, shape ().
        passes: how many are done, each a product with M and one with Mᴴ; −1 before the
            half one that begins.
        is_open: whether residuals are above the goal and passes are left, shape ().
        number: blocks in the bases; −1 before the half pass.
        look_at: passes after which Python looks at values though bases are not full.
        left: U, orthonormal, and zeros where it is not yet filled, shape (n, k); (n, c)
            at the end.
        right: V, likewise, shape (m, k).
        small: R = Uᴴ M V, shape (k, k).
        block: the block that V gets next, shape (m, b).
        link: its coefficients in Mᴴ times the last block of U, shape (b, b).
        coupling: Uᴴ M times it, (Mᴴ U)ᴴ times it, known before the product, (k, b).
        s: Ritz values that the last restart kept, shape (c,).
        residuals: of their triples, with what rounding adds, shape (c,).
    """

    seed: Seed
    passes: Int[Either, ""]
    is_open: Bool[Either, ""]
    number: Int[Either, ""]
    look_at: Int[Either, ""]
    left: Inexact[Either, "n k"]
    right: Inexact[Either, "m k"]
    small: Inexact[Either, "k k"]
    block: Inexact[Either, "m b"]
    link: Inexact[Either, "b b"]
    coupling: Inexact[Either, "k b"]
    s: Float[Either, " c"]
    residuals: Float[Either, " c"]


def num_kept(plan: Plan) -> int:
    """Blocks that a restart keeps."""
    return min(plan.depth, -(-plan.width // plan.block_size))


def _init(a: LinearMap, plan: Plan, seed: Seed, start: Any) -> KrylovState:
    """Empty bases, before the half pass that begins."""
    del start
    (n, m), dtype, width = a.shape, a.dtype, plan.block_size
    # All at full size from the start: a pass changes no shape, and compiles once.
    size, real = width * plan.depth, np.zeros((), a.dtype).real.dtype
    ritz = zeros((width * num_kept(plan),), real, seed)
    return KrylovState(
        seed=seed,
        passes=np.int32(-1),
        is_open=np.asarray(True)[()],
        number=np.int32(-1),
        look_at=np.int32(num_kept(plan) + 1),
        left=zeros((n, size), dtype, seed),
        right=zeros((m, size), dtype, seed),
        small=zeros((size, size), dtype, seed),
        block=zeros((m, width), dtype, seed),
        link=zeros((width, width), dtype, seed),
        coupling=zeros((size, width), dtype, seed),
        s=ritz,
        residuals=ritz + np.asarray(np.inf, real),
    )


def _step(
    a: LinearMap, plan: Plan, state: KrylovState, *, in_place: bool = False
) -> KrylovState:
    """Add the next block to each basis and find the one after it; restart full bases.

    Before the first pass there is a half one, which adds nothing.
    """
    # Two blocks a pass are made orthonormal, with seeds numbered from 0.
    seed, width, twice = state.seed, plan.block_size, 2 * state.passes
    is_half = state.number < 0
    # (n, b): Ω in the half pass, M V_j later.
    image = choose(
        is_half,
        lambda: random_columns(
            seed,
            a.left_unit,
            size=a.shape[0],
            width=width,
            dtype=a.dtype,
            near=a.is_near,
        ),
        lambda: a.matmat(state.block),
    )
    # Off all blocks, not just the last: where a Ritz value has converged rounding would
    # bring its vector back (theory.md §6.4).
    u = choose(
        is_half,
        lambda: image,
        lambda: orthonormal(
            image,
            seed,
            twice + 2,
            a.left_unit,
            _filled(state.left, state.number, width),
        ),
    )
    # The bases are most of the memory; where nobody else holds them they are written
    # over.
    added = (state.block, state.coupling, image, u, state.number)
    bases = (state.left, state.right, state.small)
    if isinstance(state.left, np.ndarray) and not any(state.left.strides):
        left, right, small = _begun(*added, columns=width * plan.depth)
    else:
        extended = _extended_in_place if in_place else _extended
        left, right, small = extended(*bases, *added)
    back = a.rmatmat(u)
    # Full bases need random directions at most once the operator's rank is exhausted;
    # they cost passes, not correctness.
    seen = _filled(right, state.number + 1, width)
    block = orthonormal(back, seed, twice + 3, a.right_unit, seen)
    link, coupling = _linked(block, back, state.coupling, state.number)
    state = state._replace(
        passes=state.passes + 1,
        number=state.number + 1,
        left=left,
        right=right,
        small=small,
        block=block,
        link=link,
        coupling=coupling,
    )
    # By `when`, which copies no bases where there is no restart.
    is_full = state.number == plan.depth
    # Bases that were just written nobody else has.
    restart = functools.partial(_restart, a, plan, in_place=True)
    if isinstance(is_full, Tracer) or is_full or state.passes < state.look_at:
        return when(is_full, functools.partial(restart, filled=plan.depth), state)
    # Where a small decomposition is a call of LAPACK, and no program for each size.
    if namespace(at_hand(state.small)) is not np:
        return state
    return restart(state, filled=int(state.number), unless_open=True)


def _filled(basis: Either, number: Any, width: int) -> Either | None:
    """What a basis holds so far, where shapes may follow values: of NumPy."""
    if namespace(basis) is not np:
        return basis
    # Of a state from a file columns are not in order: for the same bits they must be.
    return np.asfortranarray(basis[:, : number * width]) if number > 0 else None


def _extend(
    left: Either, right: Either, small: Either, block: Either, coupling: Either,
    image: Either, u: Either, number: Any, *, in_place: bool = False,
) -> tuple[Either, Either, Either]:  # fmt: skip
    """Bases with a block more, and R; the half pass writes zeros."""
    # The half pass has number −1 and writes where the first block will be.
    at = _place(number, block)
    new = namespace(u).where(number < 0, 0, u).astype(u.dtype)
    # (b, b). In exact arithmetic all rows above it are `coupling`, and below are 0.
    column = written(coupling, product(u.conj().T, image), at, 0 * at)
    return (
        written(left, new, 0 * at, at, in_place=in_place),
        written(right, block, 0 * at, at, in_place=in_place),
        written(small, column, 0 * at, at, in_place=in_place),
    )


@functools.partial(compiled_unless_numpy, static_argnames="columns")
def _begun(
    block: Either, coupling: Either, image: Either, u: Either, number: Any,
    *, columns: int,
) -> tuple[Either, Either, Either]:  # fmt: skip
    """`_extend` of bases of zeros, which would be copied if they were arguments."""
    left, right, small = (
        zeros((rows, columns), u.dtype, u) for rows in (len(u), len(block), columns)
    )
    return _extend(left, right, small, block, coupling, image, u, number, in_place=True)


_extended = compiled_unless_numpy(_extend, static_argnames=("in_place",))
_extended_in_place = compiled_unless_numpy(
    functools.partial(_extend, in_place=True), donate_argnums=(0, 1, 2)
)


@compiled_unless_numpy
def _linked(
    block: Either, back: Either, coupling: Either, number: Any
) -> tuple[Either, Either]:
    """How the next block hangs on the bases; after the half pass, not at all."""
    xp = namespace(block)
    # (b, b): what of Mᴴ U_j lies along V_{j+1}.
    link = xp.where(number < 0, 0, product(block.conj().T, back)).astype(block.dtype)
    # Uᴴ M V_{j+1} has rows for U_j alone: Mᴴ of blocks before lies in V_1, …, V_j.
    at = _place(number, block)
    return link, written(xp.zeros_like(coupling), link.conj().T, at, 0 * at)


def _place(number: Any, block: Either) -> Any:
    """The first column of a block in its basis."""
    return namespace(number).maximum(number, 0).astype(np.int32) * block.shape[1]


def _restart(
    a: LinearMap,
    plan: Plan,
    state: KrylovState,
    *,
    filled: int,
    unless_open: bool = False,
    in_place: bool = False,
) -> KrylovState:
    """Ritz triples of bases, whose leading vectors become the first blocks.

    Bases that have room stay as they are, `unless_open`, if goals are missed; where
    `in_place`, they may be written over.
    """
    kept = min(num_kept(plan), filled)
    filled, kept = filled * plan.block_size, kept * plan.block_size
    w, s, x = decomposed(_leading(at_hand(state.small), filled=filled), kept)
    own, coupling, link = at_hand((state.small, state.coupling, state.link))
    small, coupling, s, residuals, largest, goal = _diagonal(
        own, coupling, link, w, s,
        plan.rank, plan.tol, a.goal_floor, a.scale, kept=kept,
    )  # fmt: skip
    # What decides comes to the host at restarts, not in each pass.
    largest, goal = read(largest, goal)
    is_open = (largest > goal) & (state.passes < plan.max_passes)
    if not isinstance(is_open, Tracer):
        ahead = look_ahead(state.passes, largest / goal, plan.tol) if is_open else 0
        state = state._replace(look_at=state.passes + np.int32(ahead))
        if unless_open and is_open:
            return state
    if namespace(state.left) is not np:
        # Of one shape whatever is filled: the rest of a basis is 0.
        w, x = (_padded(y[:, :kept], state.left.shape[1]) for y in (w, x))
    is_own = in_place and not isinstance(is_open, Tracer)
    rotated = _rotated_in_place if is_own else _rotated
    if is_own and not bool(is_open):
        # Nothing follows: of the bases, most of the memory, triples are left.
        rotated = _ended
    # The smaller one first, as a rule.
    right = rotated(state.right, x, kept=kept)
    left = rotated(state.left, w, kept=kept)
    return state._replace(
        is_open=is_open,
        # Traced where it was.
        number=state.number * 0 + kept // plan.block_size,
        left=left,
        right=right,
        small=small,
        coupling=coupling,
        s=s,
        residuals=residuals,
    )


def decomposed(small: Either, kept: int) -> tuple[Either, Either, Either]:
    """The leading triples of R, and perhaps others; of NumPy's in double precision.

    Vectors in single precision are orthonormal to some ten roundings, which add up from
    restart to restart: bases and residuals would follow.
    """
    if namespace(small) is not np:
        return core_svd(small)
    found = leading_by_gram(small, kept)
    if found is not None:
        return found
    double = small.astype(np.result_type(small.dtype, np.float64))
    w, s, x = core_svd(double)
    return w.astype(small.dtype), s.astype(small.real.dtype), x.astype(small.dtype)


def _padded(w: Either, rows: int) -> Either:
    """A matrix with rows of zeros below."""
    missing = rows - len(w)
    return namespace(w).pad(w, ((0, missing), (0, 0))) if missing else w


@functools.partial(compiled_unless_numpy, static_argnames=("filled",))
def _leading(small: Either, *, filled: int) -> Either:
    return small[:filled, :filled]


@functools.partial(compiled_unless_numpy, static_argnames=("kept",))
def _diagonal(
    small: Either, coupling: Either, link: Either, w: Either, s: Either,
    rank: Any, tol: Any, floor: Any, scale: Any, *, kept: int,
) -> tuple[Either, ...]:  # fmt: skip
    """R in Ritz vectors and what goes with it; the largest residual and its goal."""
    xp = namespace(small)
    out, s, *found = judged(link, w, s, rank, tol, floor, scale, kept=kept)
    diagonal = xp.diag(s).astype(small.dtype)
    zero = xp.zeros((), np.int32)
    return (
        # What comes next hangs on all of them.
        written(xp.zeros_like(small), diagonal, zero, zero),
        written(xp.zeros_like(coupling), out.conj().T, zero, zero),
        s,
        *found,
    )


def judged(
    link: Either, w: Either, s: Either, rank: Any, tol: Any, floor: Any, scale: Any,
    *, kept: int,
) -> tuple[Either, ...]:  # fmt: skip
    """C W, values, their residuals, the largest one that counts and its goal."""
    xp = namespace(s)
    out = product(link, w[-link.shape[0] :, :kept])
    residuals, s = xp.linalg.norm(out, axis=0), s[:kept]
    goal = xp.maximum(tol * s.max(), floor)
    # Triples beyond the rank are kept for the space that they span.
    largest = xp.where(xp.arange(kept) < rank, residuals, 0).max()
    # What rounding adds to the recurrence.
    rounding = 10.0 * float(jnp.finfo(s.dtype).eps) * xp.maximum(s[0], scale)
    return out, s, xp.hypot(residuals, rounding).astype(s.dtype), largest, goal


def look_ahead(passes: Any, ratio: Any, tol: float) -> int:
    """Passes to the next look, from the first residual over the goal.

    As many as it takes at the rate so far, and fewer: Krylov spaces become faster.
    """
    # At the start the residual is about s_1.
    whole = -math.log(tol)
    left = min(math.log(ratio), 0.9 * whole)
    return max(1, int(min(_SHARE * left / (whole - left), 0.5) * passes))


def _turn(
    basis: Inexact[Either, "n k"], w: Inexact[Either, "f l"], *, kept: int
) -> Inexact[Either, "n c"]:
    """The first columns of a rotated basis."""
    return product(basis[:, : w.shape[0]], w[:, :kept])


_turned = compiled_unless_numpy(_turn, static_argnames=("kept",))


def _ended(
    basis: Inexact[Either, "n k"], w: Inexact[Either, "f l"], *, kept: int
) -> Inexact[Either, "n c"]:
    """The same of a basis that is let go, before the next one is turned."""
    new = jax.block_until_ready(_turned(basis, w, kept=kept))
    if isinstance(basis, jax.Array):
        basis.delete()
    return new


def _rotate(
    basis: Inexact[Either, "n k"], w: Inexact[Either, "f c"], *, kept: int
) -> Inexact[Either, "n k"]:
    """The first columns of a rotated basis, and zeros in place of the others."""
    new = _turn(basis, w, kept=kept)
    zero = namespace(basis).zeros((), np.int32)
    return written(zeros(basis.shape, basis.dtype, basis), new, zero, zero)


_rotated = compiled_unless_numpy(_rotate, static_argnames=("kept",))
_rotated_in_place = compiled_unless_numpy(
    _rotate, static_argnames=("kept",), donate_argnums=0
)


def _complete(a: LinearMap, plan: Plan, state: KrylovState) -> KrylovState:
    """With the triples of bases that are not full, once they hold enough columns."""
    # Fresh from a restart: its triples are those of all passes.
    if state.number == num_kept(plan) and np.isfinite(np.asarray(state.residuals[0])):
        return state
    # Fewer columns than triples: who stops that early waits for some more passes.
    while state.number * plan.block_size < plan.rank:
        state = _step(a, plan, state)
    return _restart(a, plan, state, filled=int(state.number))


def _extract(state: KrylovState) -> Triples:
    """All that was kept, and columns of zeros."""
    # M V = U R by construction: left residuals are rounding.
    nothing = zeros(state.s.shape, state.s.dtype, state.s)
    # With the half one that began.
    passes = state.passes + 0.5
    return Triples(state.s, state.left, state.right, nothing, state.residuals, passes)


KRYLOV = Solver(KrylovState, _init, _step, _complete, _extract)
