"""Comparing two sets of functions on the same rows."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_integer
from contexture_jax._core.factorizations import singular_values
from contexture_jax._core.numerics import (
    mm,
    safe_divide,
    safe_reciprocal,
)
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Bool, Float, Int
from contexture_jax.contexts import nearest_neighbors
from contexture_jax.evaluation._common import (
    as_columns,
    as_weights,
    centred_columns,
    map_blocks,
    weighted_basis,
)

__all__ = [
    "cca",
    "check_pair",
    "cka",
    "mutual_knn",
    "other_neighbors",
    "principal_angles",
    "projector_distance",
    "shared_neighbors",
    "unit_columns",
]


def principal_angles(
    a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None
) -> Float[Array, " k"]:
    """The principal angles between span(a) and span(b), in radians, ascending.

    Nothing is centred: centre first to compare spans up to constants. Each angle comes
    from its cosine and its sine together (Björck & Golub 1973, doi
    10.1090/S0025-5718-1973-0348991-3), so that small ones are as exact as large ones:
    absolute error of order eps. Directions that a rank-deficient set lacks count as
    angles of π/2.

    Args:
        a: functions as columns, shape (n, d1), floating.
        b: likewise, shape (n, d2).
        weights: of the rows in the inner product Σ_x w_x f(x) g(x), shape (n,); uniform
            by default. Their scale does not matter.

    Returns:
        min(d1, d2) angles between 0 and π/2.
    """
    a, b, w = check_pair(a, b, weights)
    # The angles are those of the smaller span in the larger.
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    d = b.shape[1]
    large, _ = weighted_basis(a, w, centre=False)
    small, rank = weighted_basis(b, w, centre=False)
    # (d1, d2)
    cross = mm(large.T, small)
    # Descending, as angles ascend; near 1 they say little, 1 − cos being θ² / 2.
    cosines = singular_values(cross)
    # The part of the smaller basis that the larger does not hold: its singular values
    # are the sines, exact for small angles.
    outside = small - mm(large, cross)
    sines = singular_values(outside)[::-1]
    # The 0 columns of a rank-deficient basis put sines of 0 first: send them last.
    sines = jnp.roll(jnp.pad(sines, (d - sines.shape[0], 0)), rank - d)
    angles = jnp.where(jnp.isfinite(cross).all(), jnp.arctan2(sines, cosines), jnp.nan)
    # arctan2 takes each angle from whichever of the two is exact there; what a
    # deficient set lacks has neither.
    return jnp.where(jnp.arange(d) < rank, angles, jnp.asarray(jnp.pi / 2, a.dtype))


def projector_distance(
    a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None
) -> Float[Array, ""]:
    """‖P_a − P_b‖_F of the orthogonal projectors on span(a) and span(b).

    √(2 Σ sin² θ_i + |r_a − r_b|) over the principal angles θ, r the ranks; accurate for
    nearly equal spans. Nothing is centred.

    Args:
        a: functions as columns, shape (n, d1), floating.
        b: likewise, shape (n, d2).
        weights: of the rows in the inner product, shape (n,); uniform by default.
    """
    a, b, w = check_pair(a, b, weights)
    basis_a, _ = weighted_basis(a, w, centre=False)
    basis_b, _ = weighted_basis(b, w, centre=False)
    # ‖(I − P_a) Q_b‖² = Σ sin² over the columns of b, and the mirror: no n × n.
    off_a = basis_b - mm(basis_a, mm(basis_a.T, basis_b))
    off_b = basis_a - mm(basis_b, mm(basis_b.T, basis_a))
    return jnp.sqrt(jnp.sum(off_a**2) + jnp.sum(off_b**2))


def cca(
    a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None
) -> Float[Array, ""]:
    """The mean squared canonical correlation R²_CCA of two embeddings.

    (1 / k) Σ_i ρ_i² over the k = min(d1, d2) canonical correlations, the cosines of the
    principal angles between the centred spans: unchanged by every invertible affine map
    of either. A direction that a rank-deficient embedding lacks counts as ρ = 0, so a
    collapsed encoder scores low. For unrelated embeddings of full rank the expectation
    is max(d1, d2) / (n − 1), not 0.

    Args:
        a: an embedding, shape (n, d1), floating.
        b: another of the same rows, shape (n, d2).
        weights: probabilities of the rows, shape (n,); uniform by default.
    """
    a, b, w = check_pair(a, b, weights)
    basis_a, _ = weighted_basis(a, w, centre=True)
    basis_b, _ = weighted_basis(b, w, centre=True)
    # Σ cos² θ_i as a squared Frobenius norm: no SVD of the (d1, d2) matrix.
    total = jnp.sum(mm(basis_a.T, basis_b) ** 2)
    return jnp.minimum(total / min(a.shape[1], b.shape[1]), 1)


def mutual_knn(
    a: ArrayLike, b: ArrayLike, num_neighbors: int = 10, *, whiten: bool = False
) -> Float[Array, ""]:
    """The average share of nearest neighbours that two embeddings agree on.

    (1 / n) Σ_i |N_a(i) ∩ N_b(i)| / k with the k = `num_neighbors` nearest other rows in
    Euclidean distance. Among equal distances the lower row comes first. Distances are
    those of the features as given, which depend on their scale; `whiten` makes the
    covariance the identity first, after which only the span matters. For unrelated
    embeddings the expectation is k / (n − 1). The search is that of the k-NN context:
    exact, and inside a trace by differences, exact to rounding. Nothing of size n × n
    is stored. Piecewise constant, so its gradient is 0.

    Args:
        a: an embedding, shape (n, d1), floating.
        b: another of the same rows, shape (n, d2).
        num_neighbors: k, at most n − 1.
        whiten: compare centred, whitened features.
    """
    a, b, w = check_pair(a, b, None)
    n = a.shape[0]
    k = check_integer(num_neighbors, "num_neighbors", low=1, high=n - 1)
    if whiten:
        a = weighted_basis(a, w, centre=True)[0]
        b = weighted_basis(b, w, centre=True)[0]
    share = shared_neighbors(other_neighbors(a, k), other_neighbors(b, k), k, a.dtype)
    # Lists are whole numbers, which would hide a NaN.
    return jnp.where(jnp.isfinite(a).all() & jnp.isfinite(b).all(), share, jnp.nan)


def cka(
    a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None
) -> Float[Array, ""]:
    """Linear centred kernel alignment ‖AᵀB‖_F² / (‖AᵀA‖_F ‖BᵀB‖_F) of two embeddings.

    Kornblith et al. 2019 (*Similarity of neural network representations revisited*) for
    features centred under the weights. Unchanged by orthogonal maps and scaling of
    either, not by other linear maps: directions count by their variance. 0 if one of
    them is constant.

    Args:
        a: an embedding, shape (n, d1), floating.
        b: another of the same rows, shape (n, d2).
        weights: probabilities of the rows, shape (n,); uniform by default.
    """
    a, b, w = check_pair(a, b, weights)
    a, b = unit_columns(a, w), unit_columns(b, w)
    # ‖AᵀB‖ is (d1, d2) at most; kernels of n × n give the same number.
    cross, own_a, own_b = (
        jnp.linalg.norm(mm(x.T, y)) for x, y in ((a, b), (a, a), (b, b))
    )
    return jnp.minimum(safe_divide(cross**2, own_a * own_b), 1.0)


def unit_columns(x: Float[Array, "n d"], w: Float[Array, " n"]) -> Float[Array, "n d"]:
    """√w (x − mean) over its Frobenius norm, and 0 where x is constant."""
    root = jnp.sqrt(w)[:, None]
    # The measure does not see the scale; squares would leave the range.
    x, _ = rescaled(jnp.where(root > 0, x, 0))
    _, rest, floor = centred_columns(x, w)
    left = root * rest
    length = jnp.linalg.norm(left)
    # The rest of a constant is rounding, which scaling would make a feature of.
    is_rounding = length <= jnp.linalg.norm(floor)
    return left * safe_reciprocal(jnp.where(is_rounding, 0.0, length))


def check_pair(
    a: ArrayLike, b: ArrayLike, weights: ArrayLike | None
) -> tuple[Float[Array, "n d1"], Float[Array, "n d2"], Float[Array, " n"]]:
    """Two embeddings of the same rows in the wider dtype, and the law of the rows."""
    a = as_columns(a, "a")
    b = as_columns(b, "b", a.shape[0])
    # Both sets in the wider dtype, and so is what is returned.
    dtype = jnp.promote_types(a.dtype, b.dtype)
    w = as_weights(weights, a.shape[0], dtype)
    return a.astype(dtype), b.astype(dtype), w


def other_neighbors(x: Float[Array, "n d"], k: int) -> Int[Array, "n k"]:
    """The k nearest other rows of each."""
    # One more than asked for, as each row finds itself.
    near = nearest_neighbors(x, x, k + 1)
    own = near == jnp.arange(x.shape[0], dtype=near.dtype)[:, None]
    # A row that so many equal ones precede is not in its own list: the last one goes.
    place = jnp.where(own.any(axis=1), own.argmax(axis=1), k)
    # Without the entry at `place`: those before it as they are, the others one to the
    # left.
    before = jnp.arange(k)[None, :] < place[:, None]
    return jnp.where(before, near[:, :-1], near[:, 1:])


@functools.partial(jax.jit, static_argnames=("k", "dtype"))
def shared_neighbors(
    a: Int[Array, "n l"],
    b: Int[Array, "n l"],
    k: int,
    dtype: Any,
    kept: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """The mean share of the first k neighbours that two lists agree on.

    With `kept` of the first k that are kept, over the rows that are.
    """

    def overlap(rows: Int[Array, " b"]) -> Float[Array, " b"]:
        one, other = a[rows], b[rows]
        # (b, l, l): every neighbour of one list against every one of the other.
        same = one[:, :, None] == other[:, None, :]
        if kept is not None:
            left, right = (
                kept[x] & (jnp.cumsum(kept[x], axis=1) <= k) for x in (one, other)
            )
            same &= left[:, :, None] & right[:, None, :] & kept[rows][:, None, None]
        return jnp.sum(same, axis=(1, 2), dtype=dtype) / k

    indices = jnp.arange(a.shape[0], dtype=jnp.int32)
    share = jnp.mean(map_blocks(overlap, indices, row_entries=a.shape[1] ** 2))
    return share if kept is None else share / jnp.mean(kept.astype(dtype))
