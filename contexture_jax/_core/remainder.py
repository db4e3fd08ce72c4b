"""A bound on the norm of what a solver did not find, from random probes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.either import (
    Either,
    at_hand,
    compiled_unless_numpy,
    fold,
    namespace,
    product,
)
from contexture_jax._core.processes import gathered, ready
from contexture_jax._core.types import Float

__all__ = ["remainder_norm"]

# Of logarithms between eps² and 1: more digits than float64 has.
_BISECTIONS = 60
# Polynomials are cut there: sums of their squares stay in the range of float32.
_LARGE = 1e12


def remainder_norm(
    a: Any,
    left: Float[Either, "n r"],
    right: Float[Either, "m c"],
    probes: Float[Either, "m q"],
    *,
    num_passes: int,
    failure_probability: float,
) -> Float[Either, ""]:
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
    of their bounds holds with probability 1 − (c √(2/3))^q.

    Args:
        a: M, of norm at most 1, shape (n, m): `matmat` and `rmatmat` take blocks, and
            `right_unit` is what M takes to 0, shape (m,), or None.
        left: U, orthonormal, shape (n, r).
        right: V, orthonormal, shape (m, c); of no columns, (I − U Uᵀ) M is bounded.
        probes: independent ω, the columns of products, shape (m, q); also of whatever U
            and V were made from.
        num_passes: products with M and with its transpose.
        failure_probability: of the bound; c follows from it.

    Returns:
        A number, shape (), rounding not included: a tracer in a trace, else of NumPy.
        Outside a trace each product is a program of its own, and what is between two of
        them another, or NumPy's if the arrays are.
    """
    width = probes.shape[1]
    # c, from (c √(2/3))^q = failure_probability.
    chance = 1.5**0.5 * failure_probability ** (1.0 / width)
    real = right.dtype
    none = np.zeros(width, real)

    def beside(basis: Any, block: Any, known: Any = None, parts: Any = None) -> _Rest:
        # One kind of array throughout, that of the basis.
        block = np.asarray(block) if namespace(basis) is np else block
        # Two known blocks at the start as well, times 0: one program for all steps.
        return _beside(basis, block, known or (block, block), parts or (none, none))

    if a.right_unit is not None:
        # M takes it to 0, and has nothing where it is 0.
        probes = _off(at_hand(a.right_unit), probes)
    start = beside(right, probes)

    def step(state: _State) -> tuple[_State, tuple[Any, Any]]:
        unit, before, link = state
        # B has a projection on either side: (I − U Uᵀ) M, on vectors off V.
        image = beside(left, a.matmat(unit))
        # ⟨x, BᵀB x⟩ as ‖B x‖², which no rounding makes negative.
        alpha = image.norm**2
        known, parts = (unit, before), (alpha, link)
        following = beside(right, a.rmatmat(image.rest), known, parts)
        state = _State(following.unit, unit, following.norm)
        # Outside a trace these are some programs in a row (`_core.processes.ready`).
        return ready(state), (alpha, following.scale)

    state, norms = _State(start.unit, start.unit, none), start.norm
    if isinstance(norms, Tracer):
        _, (alphas, betas) = jax.lax.scan(
            lambda now, _: step(now), state, None, length=num_passes
        )
    else:
        found = []
        for _ in range(num_passes):
            state, coefficients = step(state)
            found.append((*coefficients, norms))
        alphas, betas, norms = (
            np.stack([gathered(x).astype(np.float64) for x in column])
            for column in zip(*found, strict=True)
        )
        # ‖ω‖ off V, of the first step as of any.
        norms = norms[0]
    with np.errstate(all="ignore"):
        largest = _largest_possible(alphas, betas, (norms / chance) ** 2)
    # One probe has |⟨ω, w⟩| ≥ c, and nobody knows which.
    return namespace(largest).sqrt(largest.max())


class _State(NamedTuple):
    """Between two passes.

    Attributes:
        unit: the Lanczos vectors of this pass, one a probe, shape (m, q).
        before: those of the pass before, the same shape.
        link: by how much of those the next ones hang on, shape (q,).
    """

    unit: Float[Either, "m q"]
    before: Float[Either, "m q"]
    link: Float[Either, " q"]


class _Rest(NamedTuple):
    """What is left of a block, its columns as unit vectors, and their norms.

    Attributes:
        rest: shape (n, q).
        unit: the same over `scale`.
        norm: shape (q,).
        scale: norms, no smaller than what a step of the process rounds.
    """

    rest: Float[Either, "n q"]
    unit: Float[Either, "n q"]
    norm: Float[Either, " q"]
    scale: Float[Either, " q"]


@compiled_unless_numpy
def _off(unit: Float[Either, " m"], block: Either) -> Either:
    """Off a unit vector, and 0 where that is 0."""
    block = namespace(block).where(unit[:, None] > 0, block, 0)
    return block - unit[:, None] * product(unit[None, :], block)


@compiled_unless_numpy
def _beside(
    basis: Float[Either, "n r"],
    block: Float[Either, "n q"],
    known: tuple[Either, Either],
    parts: tuple[Either, Either],
) -> _Rest:
    """A block off an orthonormal basis, less known blocks times a number a column."""
    xp = namespace(block)
    # Each time: what rounding brings back would grow to the values that were found.
    rest = block - product(basis, product(basis.T, block))
    for one, part in zip(known, parts, strict=True):
        rest = rest - one * part[None, :]
    norm = xp.linalg.norm(rest, axis=0)
    # Below this, a step of the process is rounding and the space is exhausted.
    scale = xp.maximum(norm, float(jnp.finfo(basis.dtype).eps) ** 2)
    return _Rest(rest, rest / scale[None, :], norm, scale)


def _largest_possible(
    alphas: Float[Either, "k q"], betas: Float[Either, "k q"], goal: Float[Either, " q"]
) -> Float[Either, " q"]:
    """The least x ≤ 1 above which all are excluded, by bisection of its logarithm.

    Where p_0, …, p_j are positive x is beyond the zeros of all of them (Sturm), and
    p_0² + … + p_j² rises from there on: once above the goal, it stays so.
    """
    xp = namespace(goal)
    one, zero = xp.ones_like(goal), xp.zeros_like(goal)

    def excluded(x: Any) -> Any:
        def extend(carry: tuple, coefficients: tuple) -> tuple:
            value, before, link, total, beyond, enough = carry
            alpha, beta = coefficients
            # p_{j+1} = ((x − α_j) p_j − β_{j−1} p_{j−1}) / β_j, from p_0 = 1.
            following = ((x - alpha) * value - link * before) / beta
            following = xp.clip(following, -_LARGE, _LARGE)
            total, beyond = total + following**2, beyond & (following > 0)
            enough = enough | (beyond & (total > goal))
            return following, value, beta, total, beyond, enough

        carry = (one, zero, zero, one, one > 0, one < 0)
        return fold(extend, carry, (alphas, betas))[5]

    def halve(ends: tuple, _: Any) -> tuple:
        low, high = ends
        # Two roots: the product of both ends may be subnormal.
        middle = xp.sqrt(low) * xp.sqrt(high)
        enough = excluded(middle)
        return xp.where(enough, low, middle), xp.where(enough, middle, high)

    # Of ‖B‖²: rounding of M, whose norm is at most 1.
    smallest = float(jnp.finfo(goal.dtype).eps) ** 2 * one
    return fold(halve, (smallest, one), (xp.arange(_BISECTIONS),))[1]
