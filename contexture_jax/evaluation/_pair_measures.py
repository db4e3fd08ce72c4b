"""Measures of two representations by similarities of pairs of rows, within blocks."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.chance import kept_rows, num_groups
from contexture_jax._core.numerics import mm, safe_divide, safe_sqrt
from contexture_jax._core.types import Array, Float
from contexture_jax.evaluation._similarity import unit_columns

__all__ = ["OF_PAIRS", "of_similarities", "off_diagonal", "pair_measure", "ranked"]


def pair_measure(
    name: str,
    f: Float[Array, "n d1"],
    g: Float[Array, "n d2"],
    keys: Array,
    num_permutations: int,
    bandwidth: float,
    block_rows: int,
) -> tuple[Float[Array, ""], Float[Array, " b"], Float[Array, " g"]]:
    """The value, those of rows shuffled within blocks, and those without each group.

    Similarities of a block are K and L, centred; the value is Σ ⟨K, L⟩ over √(Σ ‖K‖² Σ
    ‖L‖²), sums over blocks (Nguyen, Raghu & Kornblith 2021, arXiv 2010.15327, eq. 6). A
    shuffle moves rows and columns of the centred K, and neither norm.
    """
    n = f.shape[0]
    num_blocks = -(-n // block_rows)
    m = n // num_blocks
    # Rows may be sorted by what they are: blocks and groups are drawn.
    order = jax.random.permutation(keys[1], n)[: num_blocks * m]
    make, centre = OF_PAIRS[name]
    sides = []
    for x in (f, g):
        x = unit_columns(x, jnp.full(n, 1 / n, x.dtype)) * n**0.5
        blocks = x[order].reshape(num_blocks, m, -1)
        sides.append((blocks, bandwidth * _median_distance(blocks[0])))
    (fs, wide_f), (gs, wide_g) = sides

    def sums(block: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        similarities = make(block[0], wide_f), make(block[1], wide_g)
        return _sums(*similarities, centre, block[2], num_permutations)

    shuffles = jax.random.split(keys[0], num_blocks)
    found = jax.lax.map(sums, (fs, gs, shuffles))
    return _shares(*(x.sum(axis=0) for x in found))


def of_similarities(
    K: Float[Array, "m m"],
    L: Float[Array, "m m"],
    centre: Callable[[Array], Array],
    key: Array,
    num_permutations: int,
) -> tuple[Float[Array, ""], Float[Array, " b"], Float[Array, " g"]]:
    """`pair_measure` of two given matrices, the order of whose rows was drawn."""
    return _shares(*_sums(K, L, centre, key, num_permutations))


def _sums(
    K: Array, L: Array, centre: Callable[[Array], Array], key: Array, num: int
) -> tuple[Array, Array, Array]:
    """⟨K, L⟩, ‖K‖² and ‖L‖²; ⟨K, L⟩ of shuffled rows; and all without each group."""
    m = K.shape[0]
    Kc, Lc = centre(K), centre(L)

    def shuffled(key: Array) -> Array:
        rows = jax.random.permutation(key, m)
        return jnp.sum(Kc[rows[:, None], rows[None, :]] * Lc)

    def without(group: Array) -> Array:
        rows = kept_rows(jnp.arange(m), group)
        at = rows[:, None], rows[None, :]
        return _products(centre(K[at]), centre(L[at]))

    null = jax.lax.map(shuffled, jax.random.split(key, num))
    return _products(Kc, Lc), null, jax.lax.map(without, jnp.arange(num_groups(m)))


def _shares(whole: Array, null: Array, without: Array) -> tuple[Array, Array, Array]:
    return _share(whole), safe_divide(null, _length(whole)), _share(without)


def _products(K: Array, L: Array) -> Float[Array, "3"]:
    return jnp.stack([jnp.sum(K * L), jnp.sum(K * K), jnp.sum(L * L)])


def _length(products: Float[Array, "... 3"]) -> Float[Array, "..."]:
    return safe_sqrt(products[..., 1]) * safe_sqrt(products[..., 2])


def _share(products: Float[Array, "... 3"]) -> Float[Array, "..."]:
    return safe_divide(products[..., 0], _length(products))


def _squared_distances(x: Float[Array, "m d"]) -> Float[Array, "m m"]:
    own = (x**2).sum(axis=1)
    apart = own[:, None] + own[None, :] - 2 * mm(x, x.T)
    return jnp.where(jnp.eye(x.shape[0], dtype=bool), 0, jnp.maximum(apart, 0))


def _median_distance(x: Float[Array, "m d"]) -> Float[Array, ""]:
    above = np.triu_indices(x.shape[0], 1)
    # Of two in the middle the mean distance, and not that of the squares.
    return jnp.median(safe_sqrt(_squared_distances(x)[above]))


def _distances(x: Float[Array, "m d"], width: Array) -> Float[Array, "m m"]:
    del width
    return safe_sqrt(_squared_distances(x))


def _ranks(x: Float[Array, "m d"], width: Array) -> Float[Array, "m m"]:
    del width
    return ranked(_squared_distances(x))


def ranked(K: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """The rank of each pair among all, of ties the mean one; 0 on the diagonal."""
    m = K.shape[0]
    above = np.triu_indices(m, 1)
    pairs = K[above]
    ordered = jnp.sort(pairs)
    ends = [jnp.searchsorted(ordered, pairs, side=side) for side in ("left", "right")]
    ranks = ((ends[0] + ends[1]) / 2).astype(K.dtype)
    ranks = jnp.zeros((m, m), K.dtype).at[above].set(ranks)
    return ranks + ranks.T


def _gaussian(x: Float[Array, "m d"], width: Array) -> Float[Array, "m m"]:
    return jnp.exp(-safe_divide(_squared_distances(x), 2 * width**2))


def off_diagonal(K: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Without the mean of the pairs."""
    m = K.shape[0]
    mean = K.sum() / m / (m - 1)  # the diagonal is 0
    return jnp.where(jnp.eye(m, dtype=bool), 0, K - mean)


def _doubly(K: Float[Array, "m m"]) -> Float[Array, "m m"]:
    means = K.mean(axis=0)
    return K - means[:, None] - means[None, :] + means.mean()


def _unbiased(K: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """U-centred (Székely & Rizzo 2014), so that ⟨K, L⟩ is m (m − 3) HSIC₁."""
    m = K.shape[0]
    diagonal = jnp.eye(m, dtype=bool)
    K = jnp.where(diagonal, 0, K)
    sums = K.sum(axis=0) / (m - 2)
    total = sums.sum() / (m - 1)
    return jnp.where(diagonal, 0, K - sums[:, None] - sums[None, :] + total)


# How similarities are made of a block, and how they are centred.
OF_PAIRS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "rsa": (_ranks, off_diagonal),
    "rsa_linear": (_distances, off_diagonal),
    "cka_rbf": (_gaussian, _doubly),
    "cka_rbf_debiased": (_gaussian, _unbiased),
}
