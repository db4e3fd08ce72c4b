"""Nyström: the spectrum of a kernel from a few of its columns.

M Mᴴ is the dual kernel k_X⁺ on the rows. With Y = M Mᴴ Ω, Ω orthonormal (n × width),
its Nyström approximation is Y (Ωᴴ Y)⁻¹ Yᴴ, factored with a small shift as in Tropp,
Yurtsever, Udell & Cevher 2017, Algorithm 3. The leading `rank` vectors of it are a
subspace; one more pass gives the singular triples of M on it, and their residuals. Two
and a half passes whatever the spectrum is: accurate to about the tail beyond `width`,
with no tolerance to ask for (theory.md §6).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.either import Either
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Bool, Float, Inexact, Int
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._pieces import gaps, orthonormal, random_columns, ritz
from contexture_jax.solvers._plan import Plan
from contexture_jax.solvers._random import Seed
from contexture_jax.solvers._steps import Solver, zeros
from contexture_jax.solvers._triples import Triples

__all__ = ["NYSTROM", "NystromState"]


class NystromState(NamedTuple):
    """Before the first of two passes, between them, and after the second.

    Attributes:
        seed: of all randomness, uint32, shape ().
        passes: how many are done.
        is_open: whether one is left.
        u: a basis of the leading subspace, and then its left Ritz vectors, (n, rank).
        s: Ritz values, shape (rank,).
        v: right Ritz vectors, shape (m, rank).
        residuals: ‖Mᴴ u_i − s_i v_i‖, shape (rank,); infinite before they are known.
    """

    seed: Seed
    passes: Int[Either, ""]
    is_open: Bool[Either, ""]
    u: Inexact[Either, "n r"]
    s: Float[Either, " r"]
    v: Inexact[Either, "m r"]
    residuals: Float[Either, " r"]


def _init(a: LinearMap, plan: Plan, seed: Seed, start: Any) -> NystromState:
    """Before the first pass."""
    del start
    (n, m), rank, real = a.shape, plan.rank, np.zeros((), a.dtype).real.dtype
    ritz = zeros((rank,), real, seed)
    return NystromState(
        seed=seed,
        passes=np.int32(0),
        is_open=np.asarray(True)[()],
        u=zeros((n, rank), a.dtype, seed),
        s=ritz,
        v=zeros((m, rank), a.dtype, seed),
        residuals=ritz + np.asarray(np.inf, real),
    )


def _step(
    a: LinearMap, plan: Plan, state: NystromState, *, in_place: bool = False
) -> NystromState:
    """The sample and its leading subspace; then, in a pass and a half, the triples."""
    del in_place
    seed, passes = state.seed, state.passes + 1
    if state.passes == 0:
        size, dtype = a.shape[0], a.dtype
        test = random_columns(
            seed, a.left_unit, size=size, width=plan.width, dtype=dtype
        )
        # As in Algorithm 3: the core is then no worse conditioned than K.
        test = orthonormal(test, seed, 0, a.left_unit)
        # (n, width): K Ω by a pass; K = M Mᴴ is not formed.
        leading = _leading(a.matmat(a.rmatmat(test)), test, rank=plan.rank)
        u = orthonormal(leading, seed, 1, a.left_unit)
        return state._replace(passes=passes, u=u)
    # Half a pass for a basis on the right, a whole one for the Ritz step on it.
    q = orthonormal(a.rmatmat(state.u), seed, 2, a.right_unit)
    y = a.matmat(q)
    s, u, v = ritz(y, orthonormal(y, seed, 3, a.left_unit), q)
    residuals = gaps(a.rmatmat(u), v, s)
    is_open = np.asarray(False)[()]
    return state._replace(
        passes=passes, is_open=is_open, u=u, s=s, v=v, residuals=residuals
    )


@functools.partial(jax.jit, static_argnames="rank")
def _leading(sample: Array, test: Array, *, rank: int) -> Array:
    """The leading left vectors of a Nyström approximation, orthogonal to rounding."""
    (n, width), eps = sample.shape, float(np.finfo(sample.dtype).eps)
    # K + ν I, so that rounding leaves the core positive. What ν adds to values does not
    # matter: the Ritz step takes them anew.
    sample = sample + eps * n**0.5 * jnp.linalg.norm(sample) * test
    core = mm(test.conj().T, sample)
    values, vectors = jnp.linalg.eigh(0.5 * (core + core.conj().T))
    # eigh in place of Cholesky: the core is singular where the kernel has low rank.
    # Ascending; below this they are rounding of the largest.
    there = values > width * eps * values[-1]
    scale = jnp.where(there, 1.0 / jnp.sqrt(jnp.where(there, values, 1.0)), 0.0)
    # (n, width): F with F Fᴴ = Y core⁺ Yᴴ.
    factor = mm(sample, vectors * scale[None, :].astype(sample.dtype))
    # By squares, without harm: F Fᴴ itself approximates the square of M.
    rotation = jnp.linalg.eigh(mm(factor.conj().T, factor))[1]
    return mm(factor, rotation[:, ::-1][:, :rank])


def _complete(a: LinearMap, plan: Plan, state: NystromState) -> NystromState:
    """With the second pass."""
    return _step(a, plan, state)


def _extract(state: NystromState) -> Triples:
    """By construction the left residuals are rounding."""
    nothing = zeros(state.s.shape, state.s.dtype, state.s)
    passes = state.passes + 0.5
    return Triples(state.s, state.u, state.v, nothing, state.residuals, passes)


# Two passes whatever the values are.
NYSTROM = Solver(NystromState, _init, _step, _complete, _extract, decides=False)
