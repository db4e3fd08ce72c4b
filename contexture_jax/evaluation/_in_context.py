"""How much of a context a representation holds, beside chance."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.chance import (
    Compared,
    judged_by_chance,
    without_groups,
)
from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.intervals import check_level
from contexture_jax._core.numerics import safe_divide, safe_reciprocal, safe_sqrt
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation._common import (
    as_columns,
    as_spectrum,
    centred_columns,
    weighted_basis,
)
from contexture_jax.operators import AssociationOperator

__all__ = ["ContextFit", "context_fit"]


@short_repr
class ContextFit(NamedTuple):
    """What a representation has of a context.

    Attributes:
        ratio_trace: Tr(C⁻¹ B) over its largest value Σ_{i≤d} s_i²: 1 if the span is
            that of the leading d functions. Any invertible map leaves it unchanged.
        compatibility: √(Tr B / Tr C), how well A predicts the features as they are: a
            direction counts by its variance; at most s_1.
    """

    ratio_trace: Compared
    compatibility: Compared


def context_fit(
    phi: ArrayLike,
    op: AssociationOperator,
    singular_values: ArrayLike,
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
) -> ContextFit:
    """The ratio trace and the compatibility of a representation in a context.

    C = Cov_{P_X}[Φ] and B = Cov_{P_A}[T* Φ] (theory.md §2). Of rows that are shuffled
    the ratio trace is d / (n − 1) · Σ s_i² on average where P_X is uniform, over the
    best: not small where the spectrum is flat. Without a group of rows, P_X is the rest
    of it, and so is P_A.

    Args:
        phi: embeddings of the rows of `op`, shape (n, d), cast to the dtype of `op`.
        op: the expectation operator, shape (n, m).
        singular_values: the d largest of `op`, or all that are not 0.
        key: random key of shuffles and groups.
        num_permutations: how many shuffles.
        level: of both intervals.

    Raises:
        ValueError: if rows do not match or are fewer than 8, all singular values are 0,
            or a number is not finite.
    """
    phi = rescaled(as_columns(phi, "phi", op.shape[0]))[0].astype(op.dtype)
    check_integer(phi.shape[0], "the number of rows of phi", low=8)
    check_key(key)
    s = as_spectrum(singular_values)[: phi.shape[1]].astype(op.dtype)
    num = check_integer(num_permutations, "num_permutations", low=1)
    level = check_level(level)
    value, null, without = _held(phi, op, s, key, num)
    return ContextFit(
        *(
            judged_by_chance(value[i], null[:, i], without[:, i], phi.shape[0], level)
            for i in range(2)
        )
    )


@functools.partial(jax.jit, static_argnames="num_permutations")
def _held(
    phi: Float[Array, "n d"],
    op: AssociationOperator,
    s: Float[Array, " k"],
    key: Array,
    num_permutations: int,
) -> tuple[Float[Array, "2"], Float[Array, "b 2"], Float[Array, "g 2"]]:
    n = phi.shape[0]
    keys = jax.random.split(key)
    best = jnp.sum(s**2)

    def both(phi: Array, p: Array) -> Float[Array, "2"]:
        """Under P_X = p, which has mass only where that of `op` has."""
        root = safe_sqrt(p)[:, None]
        basis, _ = weighted_basis(phi, p, centre=True)
        left = root * centred_columns(jnp.where(root > 0, phi, 0), p)[1]
        block = jnp.concatenate([basis, left, root], axis=1)
        # (m, 2 d + 1): of p / P_X times functions T* gives p_a / P_A times the average
        # under p, and of 1 that ratio.
        image = op.rmatmat(root * block * safe_reciprocal(op.p_x)[:, None])
        weight = (op.p_a * safe_reciprocal(image[:, -1]))[:, None]
        energy = jnp.sum(weight * image[:, :-1] ** 2, axis=0)
        d = phi.shape[1]
        share = safe_divide(jnp.sum(energy[:d]), best)
        return jnp.stack(
            [share, safe_sqrt(safe_divide(jnp.sum(energy[d:]), jnp.sum(left**2)))]
        )

    def without(rows: Array) -> Array:
        kept = jnp.zeros(n, op.dtype).at[rows].set(1)
        return both(phi, op.p_x * kept / jnp.sum(op.p_x * kept))

    null = jax.lax.map(
        lambda one: both(jax.random.permutation(one, phi), op.p_x),
        jax.random.split(keys[0], num_permutations),
    )
    return both(phi, op.p_x), null, without_groups(without, keys[1], n)
