"""Randomized block Krylov iteration with thick restart."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float, Inexact, Int
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._orthonormal import orthonormalize
from contexture_jax.solvers._random import Seed, fold, random_block
from contexture_jax.solvers._triples import Triples

__all__ = ["krylov"]


def krylov(
    a: LinearMap,
    rank: int,
    seed: Seed,
    *,
    block_size: int,
    depth: int,
    num_kept: int,
    max_passes: int,
    tol: Float[Array, ""],
) -> Triples:
    """Leading singular triples by restarted block Krylov iteration (theory.md §6).

    Two bases grow block by block, U_j = orth(M V_j) and V_{j+1} = orth(Mᴴ U_j), each
    off all before it (Golub & Kahan's bidiagonalisation for blocks, with full
    reorthogonalisation), beside the small R = Uᴴ M V, so that M V = U R. When they are
    full, the SVD of R gives Ritz triples. The residual Mᴴ u_i − s_i v_i lies in the
    block that comes next and costs nothing. The leading Ritz vectors then become the
    first blocks and the iteration goes on with that next block: the thick restart of
    Baglama & Reichel 2005 ("Augmented implicitly restarted Lanczos bidiagonalization
    methods").

    A block narrower than `rank` searches a space of higher degree at equal cost (Musco
    & Musco 2015). A block wider than a cluster finds all of it; of a narrower one, the
    copies beyond its width are found late, through rounding.

    Args:
        a: the matrix.
        rank: number of triples.
        seed: for the first block.
        block_size: columns of a block, b.
        depth: blocks in a basis; rank ≤ b · depth, b · (depth + 1) ≤ min(n, m) less
            what is deflated.
        num_kept: blocks that a restart keeps, rank ≤ b · num_kept; below `depth` if
            `max_passes` is above it.
        max_passes: stop after the cycle that reaches it.
        tol: stop when every ‖Mᴴ u_i − s_i v_i‖ ≤ tol · s_1, i ≤ rank.

    Returns:
        Triples. `right_residuals` are those of the recurrence, with what rounding adds.
    """
    run = _Iteration(a, seed, block_size, depth, num_kept)

    def not_done(state: _State) -> Array:
        is_open = state.residuals[:rank].max() > a.goal(state.s, tol)
        return (state.passes < max_passes) & ((state.passes < 0) | is_open)

    def cycle(state: _State) -> _State:
        begin = jnp.where(state.passes < 0, -1, num_kept)
        step = functools.partial(_golub_kahan_step, run)
        # Full bases need random directions at most once the operator's rank is
        # exhausted; they cost passes, not correctness.
        return _thick_restart(run, jax.lax.fori_loop(begin, depth, step, state))

    end = jax.lax.while_loop(not_done, cycle, _start(run))
    u, s, v = end.left[:, :rank], end.s[:rank], end.right[:, :rank]
    # What rounding adds to the recurrence.
    rounding = 10.0 * float(jnp.finfo(a.dtype).eps) * jnp.maximum(s[0], a.scale)
    return Triples(
        s,
        u,
        v,
        jnp.zeros_like(s),
        jnp.hypot(end.residuals[:rank], rounding),
        end.passes.astype(s.dtype) + 0.5,
    )


class _Iteration(NamedTuple):
    """What stays the same: the arguments of `krylov`."""

    a: LinearMap
    seed: Seed
    block_size: int
    depth: int
    num_kept: int


class _State(NamedTuple):
    """Between two blocks.

    Attributes:
        passes: how many are done, each a product with M and one with Mᴴ; −1 before the
            half one that begins.
        left: U, orthonormal, and zeros where it is not yet filled.
        right: V, likewise.
        small: R = Uᴴ M V.
        block: the block that V gets next.
        link: its coefficients in Mᴴ times the last block of U.
        coupling: Uᴴ M times it, (Mᴴ U)ᴴ times it, known before the product.
        s: Ritz values that the last restart kept.
        residuals: of their triples.
    """

    passes: Int[Array, ""]
    left: Inexact[Array, "n k"]
    right: Inexact[Array, "m k"]
    small: Inexact[Array, "k k"]
    block: Inexact[Array, "m b"]
    link: Inexact[Array, "b b"]
    coupling: Inexact[Array, "k b"]
    s: Float[Array, " c"]
    residuals: Float[Array, " c"]


def _start(run: _Iteration) -> _State:
    """Empty bases, before the half pass that begins."""
    (n, m), dtype, width = run.a.shape, run.a.dtype, run.block_size
    size = width * run.depth
    ritz = jnp.zeros((width * run.num_kept,), jnp.zeros((), dtype).real.dtype)
    return _State(
        passes=jnp.full((), -1, jnp.int32),
        left=jnp.zeros((n, size), dtype),
        right=jnp.zeros((m, size), dtype),
        small=jnp.zeros((size, size), dtype),
        block=jnp.zeros((m, width), dtype),
        link=jnp.zeros((width, width), dtype),
        coupling=jnp.zeros((size, width), dtype),
        s=ritz,
        residuals=ritz,
    )


def _golub_kahan_step(run: _Iteration, number: Array, state: _State) -> _State:
    """Add the next block to each basis and find the one after it.

    Before the first pass there is a half one, which adds nothing.
    """
    a, width, zero = run.a, run.block_size, jnp.zeros((), jnp.int32)
    is_half = number < 0
    at = jnp.maximum(number, 0).astype(jnp.int32) * width
    image = jax.lax.cond(
        is_half,
        lambda: a.project_left(random_block(run.seed, a.shape[0], width, a.dtype)),
        lambda: a.matmat(state.block),
    )
    u = jax.lax.cond(
        is_half,
        lambda: image,
        lambda: orthonormalize(
            image,
            fold(run.seed, 2 * state.passes + 2),
            project=a.project_left,
            basis=state.left,
        ),
    )
    new = jnp.where(is_half, 0.0, u).astype(a.dtype)
    left = jax.lax.dynamic_update_slice(state.left, new, (zero, at))
    right = jax.lax.dynamic_update_slice(state.right, state.block, (zero, at))
    own = mm(u.conj().T, image)
    column = jax.lax.dynamic_update_slice(state.coupling, own, (at, zero))
    back = a.rmatmat(u)
    seed = fold(run.seed, 2 * state.passes + 3)
    block = orthonormalize(back, seed, project=a.project_right, basis=right)
    # What the half pass writes, the next one writes over.
    link = jnp.where(is_half, 0.0, mm(block.conj().T, back)).astype(a.dtype)
    nothing = jnp.zeros_like(state.coupling)
    return state._replace(
        passes=state.passes + 1,
        left=left,
        right=right,
        small=jax.lax.dynamic_update_slice(state.small, column, (zero, at)),
        block=block,
        link=link,
        coupling=jax.lax.dynamic_update_slice(nothing, link.conj().T, (at, zero)),
    )


def _thick_restart(run: _Iteration, state: _State) -> _State:
    """Ritz triples of full bases, whose leading vectors become the first blocks."""
    kept = run.block_size * run.num_kept
    w, s, xh = jnp.linalg.svd(state.small, full_matrices=False)
    # Mᴴ U = V Rᴴ + V_next [0, …, 0, link].
    out = mm(state.link, w[-run.block_size :, :kept])
    ritz = jnp.diag(s[:kept]).astype(run.a.dtype)
    return state._replace(
        left=_rotate(state.left, w[:, :kept]),
        right=_rotate(state.right, xh[:kept].conj().T),
        small=jnp.zeros_like(state.small).at[:kept, :kept].set(ritz),
        coupling=jnp.zeros_like(state.coupling).at[:kept].set(out.conj().T),
        s=s[:kept],
        residuals=jnp.linalg.norm(out, axis=0),
    )


def _rotate(
    basis: Inexact[Array, "n k"], w: Inexact[Array, "k c"]
) -> Inexact[Array, "n k"]:
    """The first columns of a rotated basis, and zeros in place of the others."""
    return jnp.zeros_like(basis).at[:, : w.shape[1]].set(mm(basis, w))
