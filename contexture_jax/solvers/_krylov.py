"""Randomized block Krylov iteration with thick restart."""

from __future__ import annotations

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
    n, m = a.shape
    size, kept = block_size * depth, block_size * num_kept
    real = jnp.zeros((), a.dtype).real.dtype
    zero = jnp.zeros((), jnp.int32)

    def extend(number: Array, state: _State) -> _State:
        """Add the next block to each basis and find the one after it.

        Before the first pass there is a half one, which adds nothing.
        """
        is_half = number < 0
        at = jnp.maximum(number, 0).astype(jnp.int32) * block_size
        image = jax.lax.cond(
            is_half,
            lambda: a.project_left(random_block(seed, n, block_size, a.dtype)),
            lambda: a.matmat(state.block),
        )
        u = jax.lax.cond(
            is_half,
            lambda: image,
            lambda: orthonormalize(
                image,
                fold(seed, 2 * state.passes + 2),
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
        block = orthonormalize(
            back, fold(seed, 2 * state.passes + 3), project=a.project_right, basis=right
        )
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

    def is_open(state: _State) -> Array:
        return state.residuals[:rank].max() > a.goal(state.s, tol)

    def not_done(state: _State) -> Array:
        return (state.passes < max_passes) & ((state.passes < 0) | is_open(state))

    def cycle(state: _State) -> _State:
        begin = jnp.where(state.passes < 0, -1, num_kept)
        # Full bases need random directions at most once the operator's rank is
        # exhausted; they cost passes, not correctness.
        state = jax.lax.fori_loop(begin, depth, extend, state)
        w, s, xh = jnp.linalg.svd(state.small, full_matrices=False)
        # Mᴴ U = V Rᴴ + V_next [0, …, 0, link].
        out = mm(state.link, w[size - block_size :, :kept])
        return state._replace(
            left=_rotate(state.left, w[:, :kept]),
            right=_rotate(state.right, xh[:kept].conj().T),
            small=jnp.zeros_like(state.small)
            .at[:kept, :kept]
            .set(jnp.diag(s[:kept]).astype(a.dtype)),
            coupling=jnp.zeros_like(state.coupling).at[:kept].set(out.conj().T),
            s=s[:kept],
            residuals=jnp.linalg.norm(out, axis=0),
        )

    start = _State(
        passes=zero - 1,
        left=jnp.zeros((n, size), a.dtype),
        right=jnp.zeros((m, size), a.dtype),
        small=jnp.zeros((size, size), a.dtype),
        block=jnp.zeros((m, block_size), a.dtype),
        link=jnp.zeros((block_size, block_size), a.dtype),
        coupling=jnp.zeros((size, block_size), a.dtype),
        s=jnp.zeros((kept,), real),
        residuals=jnp.zeros((kept,), real),
    )
    end = jax.lax.while_loop(not_done, cycle, start)
    u, s, v = end.left[:, :rank], end.s[:rank], end.right[:, :rank]
    # What rounding adds to the recurrence.
    rounding = 10.0 * float(jnp.finfo(a.dtype).eps) * jnp.maximum(s[0], a.scale)
    return Triples(
        u,
        s,
        v,
        jnp.zeros((rank,), real),
        jnp.hypot(end.residuals[:rank], rounding),
        end.passes.astype(real) + 0.5,
    )


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


def _rotate(
    basis: Inexact[Array, "n k"], w: Inexact[Array, "k c"]
) -> Inexact[Array, "n k"]:
    """The first columns of a rotated basis, and zeros in place of the others."""
    return jnp.zeros_like(basis).at[:, : w.shape[1]].set(mm(basis, w))
