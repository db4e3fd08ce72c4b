"""Singular value decompositions by platform, and tall ones through small ones.

On CPU a small matrix goes to LAPACK. On a GPU JAX would take Jacobi rotations, many
times slower than an eigendecomposition, and on TPU a polar iteration, which is kept
there for what is large. Otherwise A comes from the symmetric matrix [[0, A], [Aᴴ, 0]],
whose eigenvalues are ±s_i with the vectors (u_i, ±v_i) / √2 (Golub & Kahan 1965).
Unlike with AᴴA nothing is squared: errors are eps · s_1 in all values. Where s_i is so
small that rounding mixes (u_i, v_i) with (u_j, −v_j), by about eps · s_1 / (s_i + s_j),
both halves are orthonormalised anew, in the same order; to first order that turns both
alike, and A v_i − s_i u_i remains a rounding of s_1.

A tall matrix is never handed to a factorisation, but for a little one on CPU: its
columns are made orthonormal by repeated Cholesky QR, which is matrix products (Fukaya,
Kannan, Nakatsukasa, Yamamoto & Yanagisawa 2020), and what is factored is QᴴA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.types import Array, Float, Inexact

__all__ = ["orthonormal_columns", "singular_values", "thin_svd"]

_LITTLE = 2**20  # entries of a tall matrix that LAPACK does as soon as products
_LARGEST_ON_TPU = 256  # rows of what Jacobi rotations there take; more is QDWH
_MAX_ROUNDS = 8
_PATIENCE = 3  # rounds by which what is not wholly dependent has come out

_Svd = tuple[Inexact[Array, "n k"], Float[Array, " k"], Inexact[Array, "k m"]]


@jax.custom_jvp
def thin_svd(a: Inexact[Array, "n m"]) -> _Svd:
    """A = U diag(s) Vᴴ with k = min(n, m) singular values, descending.

    Errors are those of a backward stable method: a few eps · s_1. Columns of U (V, if
    n < m) whose singular value is 0 to rounding need not be orthonormal where A is tall
    (wide). Vectors of equal values, which have no derivative, do not turn towards each
    other in it: right for what depends on the span and the sum of equal ones.

    Args:
        a: A, shape (n, m), floating or complex. NaN makes all NaN.

    Returns:
        U (n, k), s (k,) and Vᴴ (k, m).
    """
    return _thin_svd(a)


@thin_svd.defjvp
def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[_Svd, _Svd]:
    (a,), (da,) = primals, tangents
    u, s, vh = thin_svd(a)
    v = vh.conj().T
    # (n, k) and (m, k): Ȧ V and Ȧᴴ U.
    image, shadow = mm(da, v), mm(da.conj().T, u)
    # (k, k): Uᴴ Ȧ V, with ṡ as the real part of its diagonal.
    core = mm(u.conj().T, image)
    # 0 for equal values: their vectors do not turn towards each other. By factors: of a
    # difference of squares one may be fused unrounded, and equal ones do not cancel.
    gaps = safe_reciprocal((s[None, :] - s[:, None]) * (s[None, :] + s[:, None]))
    inverse = safe_reciprocal(s)

    def turn(core: Array) -> Array:
        scaled = core * s[None, :]
        return gaps * (scaled + scaled.conj().T)

    phase = 0.5 * inverse * jnp.diag(core - core.conj().T)  # 0 of real numbers
    du = mm(u, turn(core) + jnp.diag(phase))
    # What leaves the span, and dv likewise.
    du = du + (image - mm(u, core)) * inverse[None, :]
    dv = mm(v, turn(core.conj().T))
    dv = dv + (shadow - mm(v, core.conj().T)) * inverse[None, :]
    return (u, s, vh), (du, jnp.diag(core).real, dv.conj().T)


@jax.custom_jvp
def singular_values(a: Inexact[Array, "n m"]) -> Float[Array, " k"]:
    """The min(n, m) singular values alone, as exact as those of `thin_svd`.

    Their derivative is Re uᴴ Ȧ v, at equal ones that of some basis.
    """
    return _singular_values(a)


@singular_values.defjvp
def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Array, Array]:
    u, s, vh = thin_svd(*primals)
    return s, (u.conj() * mm(*tangents, vh.conj().T)).sum(axis=0).real


# Compiled: outside a program its loop would be compiled at each call.
@jax.jit
def orthonormal_columns(x: Inexact[Array, "n d"]) -> Inexact[Array, "n d"]:
    """Q with orthonormal columns, the first j of which span the first j of a matrix.

    In a round the columns Z of unit length are multiplied by L⁻ᴴ, where ZᴴZ + δ I = L
    Lᴴ with δ = (10 d + √n) · eps, until ZᴴZ was close to I. What a column has beyond
    those before it grows by 1 / δ in a round, beside the rest; of one that depends on
    them rounding is left, a direction as good as any that the others do not have. One
    without even that becomes 0.

    Args:
        x: shape (n, d), each column at a scale of its own.
    """
    n, d = x.shape
    info = jnp.finfo(x.dtype)
    shift = info.dtype.type((10 * d + n**0.5) * float(info.eps))
    eye = jnp.eye(d, dtype=x.dtype)

    def one_round(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, z, _ = state
        gram = mm(z.conj().T, z)
        # A column of zeros stays one: with 1 on the diagonal it disturbs nobody.
        there = jnp.diagonal(gram).real > 0
        apart = jnp.where(there[:, None], gram - eye, 0)
        close = jnp.abs(apart).max() < 0.5 / d**0.5
        scale = safe_reciprocal(jnp.sqrt(jnp.diagonal(gram).real)).astype(x.dtype)
        unit = gram * scale[:, None] * scale[None, :]
        more = jnp.where(there, jnp.where(close, 0.0, shift), 1.0)
        unit = unit + jnp.diag(more).astype(x.dtype)
        factor = jnp.linalg.cholesky(unit)
        inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
        # Of a column within the span of others 2 δ is left.
        left_over = jnp.diagonal(factor).real ** 2
        lost = (number >= _PATIENCE) & ~close & (left_over < 4 * shift)
        z = mm(z, scale[:, None] * inverse.conj().T)
        return number + 1, jnp.where(lost[None, :], 0, z), close

    def not_done(state: tuple[Array, Array, Array]) -> Array:
        number, _, done = state
        return ~done & (number < _MAX_ROUNDS)

    # Entries up to 1: squares of any scale are then in range.
    x = x * safe_reciprocal(jnp.abs(x).max(axis=0)).astype(x.dtype)[None, :]
    start = jnp.zeros((), jnp.int32), x, jnp.zeros((), bool)
    return jax.lax.while_loop(not_done, one_round, start)[1]


# Compiled: outside a program each would be some thirty operations.
@jax.jit
def _thin_svd(a: Array) -> _Svd:
    def on_cpu(a: Array) -> _Svd:
        return _directly(a) if a.size <= _LITTLE else _by_products(a, _directly)

    def elsewhere(a: Array) -> _Svd:
        return _by_products(a, _by_eigenvectors)

    def on_tpu(a: Array) -> _Svd:
        return _by_products(a, _directly)

    # By the platform that a program is lowered for, which need not be this one.
    ways = {"cpu": on_cpu} | ({"tpu": on_tpu} if _is_large(a) else {})
    return jax.lax.platform_dependent(a, default=elsewhere, **ways)


@jax.jit
def _singular_values(a: Array) -> Array:
    def on_cpu(a: Array) -> Array:
        core = a if a.size <= _LITTLE else _core(a)
        return jnp.linalg.svd(core, compute_uv=False)

    def elsewhere(a: Array) -> Array:
        core = _core(a)
        # ±s_i: a zero may come out negative.
        values = jnp.linalg.eigvalsh(_doubled(core))[::-1]
        return jnp.maximum(values[: min(core.shape)], 0.0)

    def on_tpu(a: Array) -> Array:
        return jnp.linalg.svd(_core(a), compute_uv=False)

    ways = {"cpu": on_cpu} | ({"tpu": on_tpu} if _is_large(a) else {})
    return jax.lax.platform_dependent(a, default=elsewhere, **ways)


def _is_large(a: Array) -> bool:
    """Whether a TPU has no eigendecomposition of [[0, A], [Aᴴ, 0]] in one piece."""
    small = min(a.shape)
    # What is tall goes through a core whose sides are both the small one.
    other = max(a.shape) if max(a.shape) <= 2 * small else small
    return small + other > _LARGEST_ON_TPU


def _is_tall(a: Array) -> bool:
    return a.shape[0] > 2 * a.shape[1]


def _by_products(a: Array, small: Callable[[Array], _Svd]) -> _Svd:
    if _is_tall(a.T):
        v, s, uh = _by_products(a.conj().T, small)
        return uh.conj().T, s, v.conj().T
    if not _is_tall(a):
        return small(a)
    # (n, m) with m short: what is factored is m × m.
    q = orthonormal_columns(a)
    u, s, vh = small(mm(q.conj().T, a))
    return mm(q, u), s, vh


def _core(a: Array) -> Array:
    """A matrix with the singular values of A and no long side."""
    a = a.conj().T if _is_tall(a.T) else a
    return mm(orthonormal_columns(a).conj().T, a) if _is_tall(a) else a


def _directly(a: Array) -> _Svd:
    u, s, vh = jnp.linalg.svd(a, full_matrices=False)
    return u, s, vh


def _by_eigenvectors(a: Array) -> _Svd:
    """By those of [[0, A], [Aᴴ, 0]]."""
    n, m = a.shape
    k = min(n, m)
    values, vectors = jnp.linalg.eigh(_doubled(a))
    # (n + m, k): ascending, so that the positive half of ±s_i comes last.
    vectors = vectors[:, ::-1][:, :k]
    # Both in the same order: K of theory.md §6.12 must be that of both.
    u, v = _turned(vectors[:n]), _turned(vectors[n:])
    return u, jnp.maximum(values[::-1][:k], 0.0), v.conj().T


def _doubled(a: Array) -> Array:
    above, below = (jnp.zeros((size, size), a.dtype) for size in a.shape)
    return jnp.block([[above, a], [a.conj().T, below]])


def _turned(x: Array) -> Array:
    """Orthonormal columns, each with a positive part along the one given."""
    # QR leaves the phase of a column open: that of R's diagonal undoes it.
    q, r = jnp.linalg.qr(x)
    diagonal = jnp.diagonal(r)
    size = jnp.abs(diagonal)
    phase = diagonal * safe_reciprocal(size).astype(x.dtype)
    return q * jnp.where(size > 0, phase, jnp.ones_like(phase))[None, :]
