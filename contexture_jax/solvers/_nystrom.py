"""Nyström: the spectrum of a kernel from a few of its columns."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import mm
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._orthonormal import orthonormalize, ritz_svd
from contexture_jax.solvers._random import Seed, fold, random_block
from contexture_jax.solvers._triples import Triples

__all__ = ["nystrom"]


def nystrom(a: LinearMap, rank: int, seed: Seed, *, width: int) -> Triples:
    """Leading singular triples by a Nyström approximation of M Mᴴ (theory.md §6).

    M Mᴴ is the dual kernel k_X⁺ on the rows. With Y = M Mᴴ Ω, Ω orthonormal (n ×
    width), its Nyström approximation is Y (Ωᴴ Y)⁻¹ Yᴴ, factored with a small shift as
    in Tropp, Yurtsever, Udell & Cevher 2017, Algorithm 3. The leading `rank` vectors of
    it are a subspace; one more pass gives the singular triples of M on it, and their
    residuals. Two and a half passes whatever the spectrum is: accurate to about the
    tail beyond `width`, with no tolerance to ask for.

    Args:
        a: the matrix.
        rank: number of triples.
        seed: for Ω.
        width: columns of Ω, rank ≤ width ≤ min(n, m) less what is deflated.

    Returns:
        Triples; `left_residuals` are rounding, by construction, and are returned as 0.
    """
    n = a.shape[0]
    test = orthonormalize(
        random_block(seed, n, width, a.dtype), seed, project=a.project_left
    )
    sample = a.matmat(a.rmatmat(test))
    shift = float(np.finfo(a.dtype).eps) * n**0.5 * jnp.linalg.norm(sample)
    sample = sample + shift * test
    core = mm(test.conj().T, sample)
    values, vectors = jnp.linalg.eigh(0.5 * (core + core.conj().T))
    # eigh in place of Cholesky: the core is singular where the kernel has low rank.
    there = values > width * np.finfo(a.dtype).eps * values[-1]
    scale = jnp.where(there, 1.0 / jnp.sqrt(jnp.where(there, values, 1.0)), 0.0)
    factor = mm(sample, vectors * scale[None, :].astype(a.dtype))
    gram_values, rotation = jnp.linalg.eigh(mm(factor.conj().T, factor))
    del gram_values
    leading = mm(factor, rotation[:, ::-1][:, :rank])
    left = orthonormalize(leading, fold(seed, 1), project=a.project_left)
    q = orthonormalize(a.rmatmat(left), fold(seed, 2), project=a.project_right)
    s, u, v = ritz_svd(a.matmat(q), q, fold(seed, 3), num=rank, project=a.project_left)
    residuals = jnp.linalg.norm(a.rmatmat(u) - v * s[None, :], axis=0)
    zeros = jnp.zeros((rank,), s.dtype)
    return Triples(s, u, v, zeros, residuals, jnp.asarray(2.5, s.dtype))
