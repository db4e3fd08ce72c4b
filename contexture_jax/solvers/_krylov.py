"""Randomized block Krylov iteration with thick restart."""

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.types import Array, Float
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._orthonormal import orthonormalize, ritz_svd
from contexture_jax.solvers._random import Seed, fold, random_block
from contexture_jax.solvers._triples import Triples

__all__ = ["krylov"]


def krylov(
    a: LinearMap,
    rank: int,
    seed: Seed,
    *,
    width: int,
    depth: int,
    max_passes: int,
    tol: Float[Array, ""],
) -> Triples:
    """Leading singular triples by restarted block Krylov iteration (theory.md §6).

    A basis V = [V_0, …, V_{depth−1}] of blocks grows by V_{j+1} = orth(Mᴴ M V_j) off
    all blocks before it, beside Y = M V. When it is full, the SVD of Y gives Ritz
    triples with M V X = U S. The residual Mᴴ u_i − s_i v_i lies in the block that comes
    next and costs nothing. The leading `width` Ritz vectors then become V_0 and the
    iteration goes on with that next block: the thick restart of Baglama & Reichel 2005
    ("Augmented implicitly restarted Lanczos bidiagonalization methods"), for blocks and
    with full reorthogonalisation. Blocks wider than a cluster find all of it, and a
    block that runs out of new directions goes on with random ones.

    Args:
        a: the matrix.
        rank: number of triples.
        seed: for the first block.
        width: columns of a block, at least `rank`.
        depth: blocks in the basis, at least 2; width · (depth + 1) ≤ min(n, m) less
            what is deflated.
        max_passes: stop after the cycle that reaches it.
        tol: stop when every ‖Mᴴ u_i − s_i v_i‖ ≤ tol · s_1, i ≤ rank.

    Returns:
        Triples with `right_residuals` computed anew from the triples returned.
    """
    n, m = a.shape
    size = width * depth
    real = jnp.zeros((), a.dtype).real.dtype
    test = a.project_left(random_block(seed, n, width, a.dtype))
    first = orthonormalize(a.rmatmat(test), seed, project=a.project_right)

    def extend(number: Array, state: tuple) -> tuple:
        """Add the next block to the basis and find the one after it."""
        passes, basis, image, block, _ = state
        column = number * width
        y = a.matmat(block)
        z = a.rmatmat(y)
        basis = jax.lax.dynamic_update_slice(
            basis, block, (jnp.zeros_like(column), column)
        )
        image = jax.lax.dynamic_update_slice(image, y, (jnp.zeros_like(column), column))
        following = orthonormalize(
            z, fold(seed, passes + 1), project=a.project_right, basis=basis
        )
        link = mm(following.conj().T, z)
        return passes + 1, basis, image, following, link

    def not_done(state: tuple) -> Array:
        passes, values, residuals = state[0], state[5], state[6]
        gap = residuals[:rank].max()
        return (passes < max_passes) & ((passes == 0) | (gap > a.goal(values, tol)))

    def cycle(state: tuple) -> tuple:
        passes, basis, image, block, link, _, _, _ = state
        begin = jnp.where(passes == 0, 0, 1)
        # A full basis needs random directions at most once the operator's rank is
        # exhausted; they cost passes, not correctness.
        passes, basis, image, block, link = jax.lax.fori_loop(
            begin, depth, extend, (passes, basis, image, block, link)
        )
        u, s, v = ritz_svd(
            image, basis, fold(seed, passes), num=width, project=a.project_left
        )
        # Mᴴ u_i = s_i v_i + V_next (link x_i) / s_i with x_i the last block of
        # coordinates of v_i.
        last = jax.lax.dynamic_slice_in_dim(basis, size - width, width, axis=1)
        coordinates = mm(last.conj().T, v)
        gaps = jnp.linalg.norm(mm(link, coordinates), axis=0)
        # Where s_i is 0, u_i is an arbitrary completion and the formula is 0 / 0; the
        # residuals that are returned are computed from the triples.
        there = s > a.cutoff(s)
        residuals = jnp.where(there, gaps * safe_reciprocal(s), 0.0)
        kept = u * s[None, :]
        basis = jnp.zeros_like(basis).at[:, :width].set(v)
        image = jnp.zeros_like(image).at[:, :width].set(kept)
        return passes, basis, image, block, link, s, residuals, u

    start = (
        jnp.zeros((), jnp.int32),
        jnp.zeros((m, size), a.dtype),
        jnp.zeros((n, size), a.dtype),
        first,
        jnp.zeros((width, width), a.dtype),
        jnp.zeros((width,), real),
        jnp.zeros((width,), real),
        jnp.zeros((n, width), a.dtype),
    )
    passes, basis, _, _, _, s, _, u = jax.lax.while_loop(not_done, cycle, start)
    u, s, v = u[:, :rank], s[:rank], basis[:, :rank]
    residuals = jnp.linalg.norm(a.rmatmat(u) - v * s[None, :], axis=0)
    return Triples(
        u,
        s,
        v,
        jnp.zeros((rank,), real),
        residuals,
        passes.astype(real) + 1.0,
    )
