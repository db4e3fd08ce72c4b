"""Orthonormal bases of tall blocks, and the small factorisations behind a Ritz step.

Everything tall is a matrix product: Cholesky QR, done twice. Where the Gram matrix is
too close to singular for that, Householder QR takes over, and directions that the block
does not have are replaced by random ones, so that a basis is always complete.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.types import Array, Float, Inexact
from contexture_jax.solvers._linear_map import LinearMap, identity
from contexture_jax.solvers._random import Seed, fold, random_block

__all__ = ["complete", "fix_signs", "orthonormalize", "ritz_svd"]


def orthonormalize(
    block: Inexact[Array, "n b"],
    seed: Seed,
    *,
    project: Any = identity,
    basis: Inexact[Array, "n l"] | None = None,
) -> Inexact[Array, "n b"]:
    """Orthonormal columns whose span holds that of a block, off a given basis.

    Twice ("twice is enough"): off the basis, columns to length 1, then Cholesky QR, Q =
    Z L⁻ᴴ by a small explicit inverse and one product. Where the Gram matrix is not
    well conditioned, Householder QR takes its place, and directions whose diagonal of R
    is at most 10 b · eps are not there and are replaced by random ones.

    Args:
        block: Z, shape (n, b), floating or complex; b ≤ n less the size of `basis` and
            of what `project` takes away.
        seed: for the replacements.
        project: orthogonal projection that the result must lie in the range of.
        basis: orthonormal columns (or zeros), shape (n, l), to stay orthogonal to.

    Returns:
        Q, shape (n, b), orthonormal to rounding even if Z has rank 0.
    """
    n, width = block.shape
    eps = float(np.finfo(block.dtype).eps)

    def clean(z: Array) -> Array:
        z = project(z)
        return z if basis is None else z - mm(basis, mm(basis.conj().T, z))

    def cholesky_qr(z: Array, factor: Array) -> Array:
        eye = jnp.eye(width, dtype=z.dtype)
        inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
        return mm(z, inverse.conj().T)

    def householder(z: Array, seed: Seed) -> Array:
        q, r = jnp.linalg.qr(z)
        diagonal = jnp.diagonal(r)
        there = jnp.abs(diagonal) > 10 * width * eps
        fresh = unit_columns(clean(clean(random_block(seed, n, width, z.dtype))))
        filled = clean(jnp.where(there[None, :], q * _phase(diagonal)[None, :], fresh))
        q, r = jnp.linalg.qr(filled)
        return q * _phase(jnp.diagonal(r))[None, :]

    def once(number: Array, z: Array) -> Array:
        z = unit_columns(clean(z))
        factor = jnp.linalg.cholesky(mm(z.conj().T, z))
        # NaN, from a Gram matrix that is not definite, compares false.
        well_conditioned = jnp.abs(jnp.diagonal(factor)).min() > eps**0.25
        factor = jnp.where(well_conditioned, factor, jnp.eye(width, dtype=z.dtype))
        return jax.lax.cond(
            well_conditioned,
            lambda: cholesky_qr(z, factor),
            lambda: householder(z, fold(seed, number)),
        )

    # A loop, not two calls: its body is compiled once.
    return jax.lax.fori_loop(0, 2, once, unit_columns(block))


def unit_columns(z: Inexact[Array, "n b"]) -> Inexact[Array, "n b"]:
    """Columns scaled to length 1; columns of zeros stay."""
    # The largest entry goes first: squares must not overflow or underflow.
    z = z * safe_reciprocal(jnp.abs(z).max(axis=0))[None, :]
    norms = jnp.sqrt((jnp.abs(z) ** 2).sum(axis=0))
    return z * safe_reciprocal(norms)[None, :]


def ritz_svd(
    image: Inexact[Array, "n b"],
    basis: Inexact[Array, "m b"],
    seed: Seed,
    *,
    num: int,
    project: Any = identity,
) -> tuple[Inexact[Array, "n num"], Float[Array, " num"], Inexact[Array, "m num"]]:
    """Leading singular triples of M on a subspace: M V = U S to rounding.

    Args:
        image: Y = M Q, shape (n, b).
        basis: Q, orthonormal, shape (m, b).
        seed: for left vectors of singular values 0.
        num: how many triples, at most b.
        project: projection that the left vectors must lie in the range of.

    Returns:
        U (n, num), s (num,) descending, V (m, num) with V = Q X and Y X = U diag(s).
    """
    q = orthonormalize(image, seed, project=project)
    # svd(R), not eigh(YᴴY): the latter squares the condition number.
    w, s, xh = jnp.linalg.svd(mm(q.conj().T, image), full_matrices=False)
    return mm(q, w[:, :num]), s[:num], mm(basis, xh[:num].conj().T)


def complete(
    a: LinearMap,
    left: Inexact[Array, "n b"],
    singular_values: Float[Array, " b"],
    right: Inexact[Array, "m b"],
    seed: Seed,
) -> tuple[Inexact[Array, "n b"], Inexact[Array, "m b"]]:
    """Put vectors of zero singular values into the subspaces that are looked at.

    A dense factorisation completes its bases with whatever is orthogonal, also with the
    deflated constants.
    """
    there = singular_values > a.cutoff(singular_values)
    return (
        orthonormalize(
            jnp.where(there[None, :], left, 0.0), seed, project=a.project_left
        ),
        orthonormalize(
            jnp.where(there[None, :], right, 0.0), seed, project=a.project_right
        ),
    )


def fix_signs(
    left: Inexact[Array, "n b"], right: Inexact[Array, "m b"]
) -> tuple[Inexact[Array, "n b"], Inexact[Array, "m b"]]:
    """Turn each pair so that the left entry of largest modulus is positive."""
    largest = jnp.argmax(jnp.abs(left), axis=0)
    entries = jnp.take_along_axis(left, largest[None, :], axis=0)[0]
    turn = _phase(entries).conj()[None, :]
    return left * turn, right * turn


def _phase(z: Inexact[Array, " b"]) -> Inexact[Array, " b"]:
    """The phase z / |z|, and 1 at 0."""
    modulus = jnp.abs(z)
    return jnp.where(modulus > 0, z * safe_reciprocal(modulus).astype(z.dtype), 1.0)
