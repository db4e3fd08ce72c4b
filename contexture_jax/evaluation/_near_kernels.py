"""Kernels of two representations where their nearest neighbours agree."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from contexture_jax._core.chance import (
    Compared,
    judged_by_chance,
    without_groups,
)
from contexture_jax._core.numerics import safe_divide, safe_sqrt
from contexture_jax._core.types import Array, Bool, Float, Int
from contexture_jax.evaluation._common import map_blocks
from contexture_jax.evaluation._similarity import unit_columns

__all__ = ["near_kernels"]


@functools.partial(
    jax.jit, static_argnames=("num_neighbors", "num_permutations", "level")
)
def near_kernels(
    f: Float[Array, "n d1"],
    g: Float[Array, "n d2"],
    near_f: Int[Array, "n l"],
    near_g: Int[Array, "n l"],
    keys: Array,
    *,
    num_neighbors: int,
    num_permutations: int,
    level: float,
) -> Compared:
    """CKNNA, of lists of more neighbours than the k that count, nearest first.

    Σ a_ij b_ij over the j that are near i in both, over the root of Σ a_ij² and Σ b_ij²
    over those that are near in one; a and b are products of centred rows.
    """
    n, k = near_f.shape[0], num_neighbors
    a, b = _products(f, near_f), _products(g, near_g)
    everyone = jnp.ones(n, bool)

    def score(one: Array, a: Array, kept: Bool[Array, " n"]) -> Float[Array, ""]:
        used = _first(one, k, kept), _first(near_g, k, kept)
        a, b_used = jnp.where(used[0], a, 0), jnp.where(used[1], b, 0)

        def shared(rows: Int[Array, " r"]) -> Float[Array, " r"]:
            same = one[rows][:, :, None] == near_g[rows][:, None, :]
            both = a[rows][:, :, None] * b_used[rows][:, None, :]
            return jnp.where(same, both, 0).sum(axis=(1, 2))

        numbers = jnp.arange(n, dtype=jnp.int32)
        total = map_blocks(shared, numbers, row_entries=one.shape[1] ** 2).sum()
        length = safe_sqrt(jnp.sum(a**2)) * safe_sqrt(jnp.sum(b_used**2))
        return safe_divide(total, length)

    def shuffled(key: Array) -> Float[Array, ""]:
        order = jax.random.permutation(key, n)
        # Row i is now `order[i]`, and its neighbours have their new numbers.
        return score(jnp.argsort(order)[near_f[order]], a[order], everyone)

    def without(rows: Array) -> Float[Array, ""]:
        return score(near_f, a, jnp.zeros(n, bool).at[rows].set(True))

    null = jax.lax.map(shuffled, jax.random.split(keys[0], num_permutations))
    groups = without_groups(without, keys[1], n)
    value = score(near_f, a, everyone)
    return judged_by_chance(value, null, groups, n, level, unbiased=True)


def _products(x: Float[Array, "n d"], near: Int[Array, "n l"]) -> Float[Array, "n l"]:
    x = unit_columns(x, jnp.full(x.shape[0], 1 / x.shape[0], x.dtype))

    def of_rows(rows: Int[Array, " r"]) -> Float[Array, "r l"]:
        return jnp.sum(x[near[rows]] * x[rows][:, None, :], axis=2)

    numbers = jnp.arange(x.shape[0], dtype=jnp.int32)
    return map_blocks(of_rows, numbers, row_entries=near.shape[1] * x.shape[1])


def _first(near: Int[Array, "n l"], k: int, kept: Bool[Array, " n"]) -> Array:
    """The first k of each row that are kept, of rows that are."""
    there = kept[near]
    return there & (jnp.cumsum(there, axis=1) <= k) & kept[:, None]
