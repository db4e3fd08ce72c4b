"""Randomized subspace iteration with a residual at every pass."""

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array, Float
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._orthonormal import orthonormalize, ritz_svd
from contexture_jax.solvers._random import Seed, fold, random_block
from contexture_jax.solvers._triples import Triples

__all__ = ["randomized"]


def randomized(
    a: LinearMap,
    rank: int,
    seed: Seed,
    *,
    width: int,
    max_passes: int,
    tol: Float[Array, ""],
) -> Triples:
    """Leading singular triples by randomized subspace iteration (theory.md §6).

    From Q = orth(Mᴴ Ω), Ω random (n × width), each pass takes Y = M Q, the SVD of Y on
    that subspace (so M V = U S to rounding), and Z = Mᴴ U, whose distance from V S is
    the residual of the triples and whose span is the next Q. After q + 1 passes the
    subspace is that of Halko, Martinsson & Tropp 2011, Algorithm 4.4 for Mᴴ with q
    power iterations. Convergence is linear, by (s_{width+1} / s_i)² a pass.

    Args:
        a: the matrix.
        rank: number of triples.
        seed: for Ω.
        width: columns of the iterated block, rank ≤ width ≤ min(n, m) less what is
            deflated.
        max_passes: stop after that many.
        tol: stop when every ‖Mᴴ u_i − s_i v_i‖ ≤ tol · s_1, i ≤ rank; 0: never.

    Returns:
        Triples; `left_residuals` are rounding, by construction, and are returned as 0.
    """
    n, m = a.shape
    test = a.project_left(random_block(seed, n, width, a.dtype))
    real = jnp.zeros((), a.dtype).real.dtype

    def not_done(state: tuple) -> Array:
        number, *_, residuals = state
        gap = residuals[:rank].max()
        return (number < max_passes) & ((number == 0) | (gap > a.goal(state[2], tol)))

    def one_pass(state: tuple) -> tuple:
        number, _, _, _, z, _ = state
        fresh = fold(seed, number + 1)
        q = orthonormalize(z, fresh, project=a.project_right)
        u, s, v = ritz_svd(a.matmat(q), q, fresh, num=width, project=a.project_left)
        z = a.rmatmat(u)
        residuals = jnp.linalg.norm(z - v * s[None, :], axis=0)
        return number + 1, u, s, v, z, residuals

    start = (
        jnp.zeros((), jnp.int32),
        jnp.zeros((n, width), a.dtype),
        jnp.zeros((width,), real),
        jnp.zeros((m, width), a.dtype),
        a.rmatmat(test),
        jnp.zeros((width,), real),
    )
    number, u, s, v, _, residuals = jax.lax.while_loop(not_done, one_pass, start)
    return Triples(
        u[:, :rank],
        s[:rank],
        v[:, :rank],
        jnp.zeros((rank,), real),
        residuals[:rank],
        number.astype(real) + 0.5,
    )
