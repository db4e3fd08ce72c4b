"""The spectrum of a sample beside what chance alone would give it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.types import Array, Float, short_repr
from contexture_jax.evaluation._pairs import (
    PairSample,
    check_rank,
    count_cells,
    map_keys,
    observe,
    plug_in_tau,
    spectrum_of,
    symmetrised,
)

__all__ = ["PermutationNull", "permutation_null"]


@short_repr
class PermutationNull(NamedTuple):
    """The spectrum of a sample beside those of the same margins, paired at random.

    Attributes:
        p_values: share of pairings whose *largest* value is at least s_i, shape
            (rank,).
        total_p_value: share whose Σ s_i² is at least the observed one, shape ().
        tau_p_value: share whose τ is at most the observed one, shape ().
        singular_values: under the null, shape (num_permutations, rank).
        totals: Σ s_i² under the null, shape (num_permutations,).
        taus: τ under the null, shape (num_permutations,).
    """

    p_values: Float[Array, " rank"]
    total_p_value: Float[Array, ""]
    tau_p_value: Float[Array, ""]
    singular_values: Float[Array, "b rank"]
    totals: Float[Array, " b"]
    taus: Float[Array, " b"]


def permutation_null(
    sample: PairSample, rank: int, *, key: Array, num_permutations: int = 1000
) -> PermutationNull:
    """What the spectrum would be if the same inputs and contexts met at random.

    Permuting the pairing keeps both margins and makes X and A independent. p-values are
    (1 + #{null ≥ observed}) / (1 + num_permutations), exact for independence whatever N
    (Phipson & Smyth 2010). Each s_i is held against the null of the *largest* value:
    that of the i-th would be too small for a value that comes after i − 1 real ones.
    So "s_i is above the noise" is said falsely of any value with probability at most p,
    if all are noise; after real values the test is approximate.

    Args:
        sample: N pairs.
        rank: how many singular values.
        key: random key.
        num_permutations: how many.
    """
    rank = check_rank(sample, rank)
    num_permutations = check_integer(num_permutations, "num_permutations", low=1)
    check_key(key)
    _, values = observe(sample)
    m = sample.shape[1]
    # x · m and a of each pair; their sum is a cell again.
    inputs, contexts = sample.cells // m * m, sample.cells % m
    keys = jax.random.split(key, num_permutations)

    def replicate(one: Array) -> Array:
        # One side is enough: both margins stay, pair by pair.
        cells = inputs + jax.random.permutation(one, contexts)
        return spectrum_of(symmetrised(count_cells(cells, sample.shape, values.dtype)))

    # (num_permutations, k): whole spectra, as the total and τ need them.
    null = map_keys(replicate, keys, sample)
    totals, taus = (null**2).sum(axis=1), jax.vmap(plug_in_tau)(null)
    tau = plug_in_tau(values)
    # A tie that rounding breaks must count as a tie.
    slack = 100 * jnp.finfo(values.dtype).eps
    return PermutationNull(
        # The first column, the largest value, against every s_i (theory.md §3.7,
        # chance).
        _p_value(null[:, :1] >= values[None, :rank] - slack),
        _p_value(totals >= (values**2).sum() - slack),
        _p_value(taus <= tau + slack),
        null[:, :rank],
        totals,
        taus,
    )


def _p_value(reached: Array) -> Array:
    # The observed pairing is one of those that could have come: p is never 0.
    return (1 + reached.sum(axis=0)) / (1 + reached.shape[0])
