"""Measures of two representations by the products of their columns, n × d at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.chance import without_groups
from contexture_jax._core.factorizations import singular_values, thin_svd
from contexture_jax._core.numerics import mm, safe_divide, safe_sqrt
from contexture_jax._core.types import Array, Float
from contexture_jax.evaluation._common import weighted_basis
from contexture_jax.evaluation._similarity import unit_columns

__all__ = ["LINEAR", "linear_measure"]


class _Side(NamedTuple):
    """One representation, as a measure takes it: a row a row.

    Attributes:
        rows: shape (n, p).
        size: of the whole, which no order of the rows changes, shape ().
        columns: of what the rows span the features themselves, shape (p, d); None where
            a measure takes none.
    """

    rows: Float[Array, "n p"]
    size: Float[Array, ""]
    columns: Float[Array, "p d"] | None = None


def linear_measure(
    name: str,
    f: Float[Array, "n d1"],
    g: Float[Array, "n d2"],
    keys: Array,
    num_permutations: int,
    energy: float,
) -> tuple[Float[Array, ""], Float[Array, " b"], Float[Array, " g"]]:
    """The value, those of shuffled rows, and those without each group of rows.

    What is made of a side alone is made once: a shuffle moves its rows.
    """
    make, score = LINEAR[name]
    a, b = make(f, energy), make(g, energy)

    def shuffled(key: Array) -> Array:
        rows = jax.random.permutation(key, f.shape[0])
        return score(a._replace(rows=a.rows[rows]), b)

    null = jax.lax.map(shuffled, jax.random.split(keys[0], num_permutations))
    without = without_groups(
        lambda rows: score(make(f[rows], energy), make(g[rows], energy)),
        keys[1],
        f.shape[0],
    )
    return score(a, b), null, without


def _uniform(x: Float[Array, "n d"]) -> Float[Array, " n"]:
    return jnp.full(x.shape[0], 1 / x.shape[0], x.dtype)


def _basis(x: Float[Array, "n d"], energy: float) -> _Side:
    del energy
    rows, _ = weighted_basis(x, _uniform(x), centre=True)
    return _Side(rows, jnp.asarray(x.shape[1], x.dtype))


def _basis_and_columns(x: Float[Array, "n d"], energy: float) -> _Side:
    side = _basis(x, energy)
    return side._replace(columns=mm(side.rows.T, unit_columns(x, _uniform(x))))


def _leading(x: Float[Array, "n d"], energy: float) -> _Side:
    """The fewest principal components that hold a share of the variance."""
    basis, s, _ = thin_svd(unit_columns(x, _uniform(x)))
    before = jnp.cumsum(s**2) - s**2
    # Of length 1 in all, so that shares are squares; a constant has none.
    kept = (before < energy * jnp.sum(s**2)) & (s > 0)
    return _Side(jnp.where(kept[None, :], basis, 0), jnp.sum(kept).astype(x.dtype))


def _unit(x: Float[Array, "n d"], energy: float) -> _Side:
    del energy
    rows = unit_columns(x, _uniform(x))
    return _Side(rows, jnp.linalg.norm(mm(rows.T, rows)))


def _unit_debiased(x: Float[Array, "n d"], energy: float) -> _Side:
    rows = _unit(x, energy).rows
    return _Side(rows, safe_sqrt(jnp.maximum(_without_diagonal(rows, rows), 0)))


def _without_diagonal(a: Array, b: Array) -> Float[Array, ""]:
    """What ‖AᵀB‖² is without pairs of a row: n (n − 3) HSIC₁ of linear kernels.

    Song et al. 2012 (JMLR 13), eq. 4, of centred features, whose kernels have row sums
    0 but for the diagonal: no kernel is formed.
    """
    n = a.shape[0]
    own_a, own_b = (a**2).sum(axis=1), (b**2).sum(axis=1)
    # One after the other: their product is beyond int32.
    shared = own_a.sum() / (n - 1) * own_b.sum() / (n - 2)
    return jnp.sum(mm(a.T, b) ** 2) + shared - n / (n - 2) * jnp.sum(own_a * own_b)


def _cca(a: _Side, b: _Side) -> Float[Array, ""]:
    return jnp.sum(mm(a.rows.T, b.rows) ** 2) / jnp.minimum(a.size, b.size)


def _svcca(a: _Side, b: _Side) -> Float[Array, ""]:
    total = jnp.sum(singular_values(mm(a.rows.T, b.rows)))
    return safe_divide(total, jnp.minimum(a.size, b.size))


def _pwcca(a: _Side, b: _Side) -> Float[Array, ""]:
    """The mean of both directions, as each weighs by the features of one side."""
    left, s, right = thin_svd(mm(a.rows.T, b.rows))

    def weighed(side: _Side, turn: Float[Array, "p k"]) -> Float[Array, ""]:
        # (k, d): the products of canonical variables with the features.
        assert side.columns is not None
        weights = jnp.abs(mm(turn.T, side.columns)).sum(axis=1)
        return safe_divide(jnp.sum(weights * s), weights.sum())

    return (weighed(a, left) + weighed(b, right.T)) / 2


def _cka(a: _Side, b: _Side) -> Float[Array, ""]:
    return safe_divide(jnp.sum(mm(a.rows.T, b.rows) ** 2), a.size * b.size)


def _cka_debiased(a: _Side, b: _Side) -> Float[Array, ""]:
    return safe_divide(_without_diagonal(a.rows, b.rows), a.size * b.size)


def _procrustes(a: _Side, b: _Side) -> Float[Array, ""]:
    return jnp.sum(singular_values(mm(a.rows.T, b.rows)))


# How a side is made, and what two of them score.
LINEAR: dict[str, tuple[Callable[..., _Side], Callable[..., Float[Array, ""]]]] = {
    "cca": (_basis, _cca),
    "svcca": (_leading, _svcca),
    "pwcca": (_basis_and_columns, _pwcca),
    "procrustes": (_unit, _procrustes),
    "cka": (_unit, _cka),
    "cka_debiased": (_unit_debiased, _cka_debiased),
}
