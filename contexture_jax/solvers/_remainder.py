"""A bound on the norm of what a solver did not find, from random probes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Float
from contexture_jax.solvers._linear_map import LinearMap
from contexture_jax.solvers._random import Seed, random_block

__all__ = ["remainder_norm"]

_BISECTIONS = 60
_LARGE = 1e12


def remainder_norm(
    a: LinearMap,
    left: Float[Array, "n r"],
    right: Float[Array, "m r"],
    seed: Seed,
    *,
    num_passes: int,
    num_probes: int,
    failure_probability: float,
) -> Float[Array, ""]:
    """An upper bound on ‖(I − U Uᵀ) M (I − V Vᵀ)‖, except with a small probability.

    For a random ω and any polynomial p, with B the matrix above and w its leading right
    singular vector,

        ⟨ω, w⟩² p(‖B‖²)² ≤ ‖p(BᵀB) ω‖²,

    and the Lanczos process on BᵀB from ω gives the best p of each degree: with its
    orthonormal polynomials p_j, every x beyond their zeros with
    Σ_j p_j(x)² > ‖ω‖² / c² is larger than ‖B‖² if |⟨ω, w⟩| ≥ c (theory.md §6.11;
    Hochstenbach 2013, "Probabilistic upper bounds for the matrix two-norm", with all
    p_j where that uses the last). Entries of ω are uniform with variance 1, for which
    P(|⟨ω, w⟩| < c) ≤ c √(2/3) for every unit w (Ball 1986, "Cube slicing in R^n"). Of
    several independent probes one has |⟨ω, w⟩| ≥ c unless all fail, so that the largest
    of their bounds holds with probability 1 − (c √(2/3))^num_probes.

    Args:
        a: M, of norm at most 1.
        left: U, orthonormal, shape (n, r).
        right: V, orthonormal, shape (m, r).
        seed: of ω, independent of whatever U and V were made from.
        num_passes: products with M and with its transpose.
        num_probes: independent ω, the columns of those products.
        failure_probability: of the bound; c follows from it.

    Returns:
        A number, shape (), rounding not included.
    """
    chance = 1.5**0.5 * failure_probability ** (1.0 / num_probes)
    real = right.dtype
    start = _off(right, a.project_right(_probes(a, seed, num_probes)))
    norms = jnp.linalg.norm(start, axis=0)
    # Below this, a step of the process is rounding and the space is exhausted.
    floor = float(jnp.finfo(real).eps) ** 2 * jnp.ones((num_probes,), real)

    def step(number: Array, state: tuple) -> tuple:
        block, before, link, alphas, betas = state
        image = _off(left, a.matmat(block))
        alpha = (image * image).sum(axis=0)
        following = _off(right, a.rmatmat(image))
        following = following - block * alpha[None, :] - before * link[None, :]
        beta = jnp.linalg.norm(following, axis=0)
        scale = jnp.maximum(beta, floor)
        return (
            following / scale[None, :],
            block,
            beta,
            alphas.at[number].set(alpha),
            betas.at[number].set(scale),
        )

    zeros = jnp.zeros((num_passes, num_probes), real)
    unit = start / jnp.maximum(norms, floor)[None, :]
    state = (unit, jnp.zeros_like(unit), jnp.zeros_like(norms), zeros, zeros)
    *_, alphas, betas = jax.lax.fori_loop(0, num_passes, step, state)
    return jnp.sqrt(_largest_possible(alphas, betas, (norms / chance) ** 2).max())


def _probes(a: LinearMap, seed: Seed, num: int) -> Array:
    return random_block(seed, a.shape[1], num, a.dtype)


def _off(basis: Array, block: Array) -> Array:
    """Off an orthonormal basis."""
    return block - mm(basis, mm(basis.T, block))


def _largest_possible(
    alphas: Float[Array, "k q"], betas: Float[Array, "k q"], goal: Float[Array, " q"]
) -> Float[Array, " q"]:
    """The least x ≤ 1 above which all are excluded, by bisection of its logarithm.

    Where p_0, …, p_j are positive x is beyond the zeros of all of them (Sturm), and
    p_0² + … + p_j² rises from there on: once above the goal, it stays so.
    """
    one, zero = jnp.ones_like(goal), jnp.zeros_like(goal)

    def excluded(x: Array) -> Array:
        def extend(carry: tuple, coefficients: tuple) -> tuple[tuple, None]:
            value, before, link, total, beyond, enough = carry
            alpha, beta = coefficients
            following = ((x - alpha) * value - link * before) / beta
            following = jnp.clip(following, -_LARGE, _LARGE)
            total, beyond = total + following**2, beyond & (following > 0)
            enough = enough | (beyond & (total > goal))
            return (following, value, beta, total, beyond, enough), None

        carry = (one, zero, zero, one, one > 0, one < 0)
        return jax.lax.scan(extend, carry, (alphas, betas))[0][5]

    def halve(_: Array, ends: tuple) -> tuple:
        low, high = ends
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        enough = excluded(middle)
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    smallest = float(jnp.finfo(goal.dtype).eps) ** 2 * one
    return jax.lax.fori_loop(0, _BISECTIONS, halve, (smallest, one))[1]
