"""From an encoder to the spectrum: ordered functions and singular values."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import (
    check_integer,
    check_key,
    check_values,
    is_concrete,
)
from contexture_jax._core.factorizations import orthonormal_columns, thin_svd
from contexture_jax._core.intervals import (
    Interval,
    check_level,
    correlation_interval,
)
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import (
    mm,
    rank_cutoff,
    safe_reciprocal,
    safe_sqrt,
)
from contexture_jax._core.scaling import rescaled, times_power_of_two
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr
from contexture_jax.evaluation._common import (
    as_columns,
    as_weights,
    weighted_whitening,
)
from contexture_jax.operators import AssociationOperator

__all__ = ["RayleighRitz", "rayleigh_ritz"]


@short_repr
class RayleighRitz(NamedTuple):
    """Functions of an encoder in the order of what they hold.

    Attributes:
        singular_values: Ritz values, square roots of λ̂, descending, shape (r,).
        left: functions of X at the rows of the embedding, of mean 0, variance 1 and
            uncorrelated, shape (n, r); 0 where the embedding lacks the rank.
        right: their partners T* f_i / s_i at the rows of the context (of an operator,
            or of the second embedding), shape (m, r); 0 where s_i is.
        mean: mean of the embedding, shape (d,).
        rotation: `left` is (phi − mean) @ rotation; shape (d, r).
        held_out: singular values on pairs that the functions were not fitted to, shape
            (r,), and intervals for them, given the functions: correlations of the
            functions of one half of the pairs on the other half, where they are made
            uncorrelated in their order, averaged over both ways; for positive pairs
            their square roots. None with an operator, which is the law itself.
    """

    singular_values: Float[Array, " r"]
    left: Float[Array, "n r"]
    right: Float[Array, "m r"]
    mean: Float[Array, " d"]
    rotation: Float[Array, "d r"]
    held_out: Interval | None

    def transform(self, phi: ArrayLike) -> Float[Array, "k r"]:
        """The functions at new points, from their embeddings, shape (k, d)."""
        phi = as_columns(phi, "phi").astype(self.rotation.dtype)
        return mm(phi - self.mean[None, :], self.rotation)


@beside_context
def rayleigh_ritz(
    phi: ArrayLike,
    other: Any,
    *,
    rank: int | None = None,
    positive: bool = False,
    weights: ArrayLike | None = None,
    key: Array | None = None,
    level: float = 0.9,
) -> RayleighRitz:
    """Solve B v = λ C v on the span of an encoder (Rayleigh–Ritz).

    An objective whose minimiser is any basis of the contexture leaves its functions
    rotated; C = Cov[Φ] and B = Cov[T* Φ] turn them back: λ̂_i ≈ s_i², and Φ v_i in
    place of μ_i (Zhai et al. 2025 (CTX), App. D; theory.md §7). Neither matrix is
    formed: Φ is centred and orthonormalised by an SVD, so λ̂ is as exact as s.

    Whatever the encoder, λ̂_i ≤ s_i² under the law itself (Courant–Fischer): with an
    operator, the values err below. Estimated from pairs, they are fitted to the sample
    and err above the more the wider Φ is; `held_out` is what those functions keep on
    pairs they were not fitted to. But for noise, its sums of leading values err below
    those of s (Ky Fan); a single value need not, where functions were fitted in the
    wrong order. Report both. Pairs that the encoder
    itself was trained on make both optimistic: hold them out of training.

    Args:
        phi: embeddings, shape (n, d): of the rows of an operator, or one a pair.
        other: what they are judged by:
            an operator T, shape (n, m);
            or embeddings Ψ(a) of the partners, shape (n, d2): values are canonical
            correlations, an estimate of the singular values of T between both spans;
            or, with `positive`, embeddings Φ(x⁺) of positive partners (x⁺ from x over
            a shared a), shape (n, d): λ̂ from the symmetrised cross-covariance.
        rank: how many functions, at most d (and d2); None: all.
        positive: whether `other` are positive partners, embedded by the same encoder.
        weights: probabilities of the pairs, shape (n,); uniform by default. With an
            operator, its p_x are the weights.
        key: random key that halves the pairs; None: no held-out values. With pairs
            only, and without `weights`.
        level: confidence of the held-out intervals.

    Returns:
        A `RayleighRitz`, in the dtype of the operator or of the embeddings.

    Raises:
        TypeError: if `key` is not a key.
        ValueError: if shapes do not fit, embeddings are not finite, or an option does
            not go with `other`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[4, 1, 0], [1, 3, 2]]))
        >>> phi = jnp.array([[2.0, 5.0], [7.0, 1.0]])
        >>> found = cx.evaluation.rayleigh_ritz(phi, op, rank=1)
        >>> exact, _ = cx.svd(op, 1, key=jax.random.key(0))
        >>> s = exact.singular_values
        >>> bool(jnp.allclose(found.singular_values, s, atol=1e-5))
        True
    """
    level = check_level(level)
    if isinstance(other, AssociationOperator):
        other = tree_on_auto_axes(other)
        if positive or weights is not None or key is not None:
            raise ValueError(
                "positive, weights and key go with embeddings of pairs; an operator is"
                " the law itself"
            )
        # Columns to entries near 1 before the cast: the dtype of the operator may have
        # less range.
        phi, exponent = rescaled(as_columns(phi, "phi", other.shape[0]), axis=0)
        found = _by_operator(phi.astype(other.dtype), other, rank)
        return _at_scale_given(found, exponent)
    phi = as_columns(phi, "phi")
    psi = as_columns(other, "other", phi.shape[0])
    if positive and psi.shape != phi.shape:
        msg = f"positive partners must have the shape of phi, {phi.shape}"
        raise ValueError(f"{msg}; got {psi.shape}")
    dtype = jnp.promote_types(phi.dtype, psi.dtype)
    phi, psi = phi.astype(dtype), psi.astype(dtype)
    rank = _check_rank(rank, min(phi.shape[1], psi.shape[1]))
    w = as_weights(weights, phi.shape[0], dtype)
    if positive:
        # One scale a column for both: they are one encoder's.
        both, exponent = rescaled(jnp.concatenate([phi, psi]), axis=0)
        phi, psi = jnp.split(both, 2)
    else:
        (phi, exponent), (psi, _) = (rescaled(z, axis=0) for z in (phi, psi))
    found = _at_scale_given(_by_pairs(phi, psi, w, rank, positive), exponent)
    if key is None:
        return found
    check_key(key)
    if weights is not None:
        raise ValueError("held-out values need pairs of equal weight: leave out key")
    return found._replace(held_out=_held_out(phi, psi, rank, positive, key, level))


def _at_scale_given(found: RayleighRitz, exponent: Int[Array, "1 d"]) -> RayleighRitz:
    """The map to the functions, from embeddings as they came."""
    # phi = phi' · 2^e column by column, so that the map takes 2^(−e) row by row.
    rotation = times_power_of_two(found.rotation, -exponent.T)
    if is_concrete(exponent):
        lowest = jnp.finfo(rotation.dtype).minexp
        check_values(
            exponent[0],
            "the exponents of the columns of phi",
            lambda e: e >= lowest,
            f"at least {lowest}, or the map from phi to its functions leaves the range"
            " of the dtype: multiply phi",
        )
    return found._replace(
        mean=times_power_of_two(found.mean, exponent[0]), rotation=rotation
    )


def _check_rank(rank: int | None, high: int) -> int:
    return high if rank is None else check_integer(rank, "rank", low=1, high=high)


def _by_operator(
    phi: Float[Array, "n d"], op: AssociationOperator, rank: int | None
) -> RayleighRitz:
    rank, shape = _check_rank(rank, phi.shape[1]), op.shape
    # Rows of padding have no mass: cut over devices like the rest, and gathered for no
    # more than the functions that go back without them.
    op = op.padded()
    rows = jnp.pad(phi, ((0, op.shape[0] - shape[0]), (0, 0)))
    # (d,), (d, k): C is never formed, so that its condition number is not squared.
    mean, whitening = weighted_whitening(rows, op.p_x)
    functions = mm(rows - mean[None, :], whitening)
    # Rows without mass have embeddings too, but no part in any of this.
    functions = jnp.where(op.p_x[:, None] > 0, functions, 0.0)
    root = safe_sqrt(op.p_a)[:, None]
    # (m, d): √p_a · T* f. Its singular values are √λ̂ to eps; as roots of the
    # eigenvalues of B they would be lost below √eps.
    left_of_a, s, turn = thin_svd(root * op.rmatmat(functions))
    # A context with fewer values of A than functions has no more Ritz values than
    # those; the others are 0.
    k = min(rank, s.shape[0])
    rotation, s = _pad(mm(whitening, turn[:k].T), rank), _pad(s[None, :k], rank)[0]
    # T* f_i / s_i: the left vectors of √p_a · T* f, back in L²(P_A).
    right = _pad(safe_reciprocal(root) * left_of_a[:, :k], rank)[: shape[1]]
    left = mm(phi - mean[None, :], rotation)
    # Beside s_0 = 1: what is below it is rounding, and T* f_i / s_i anything.
    there = s > rank_cutoff(shape, op.dtype, jnp.ones((), op.dtype))
    return RayleighRitz(
        jnp.clip(s, 0.0, 1.0),
        left,
        # 0 · s and not 0, so that NaN stays NaN.
        jnp.where(there[None, :], right, 0.0 * s[None, :]),
        mean,
        rotation,
        None,
    )


def _by_pairs(
    phi: Float[Array, "n d"],
    psi: Float[Array, "n d2"],
    weights: Float[Array, " n"],
    rank: int,
    positive: bool,
) -> RayleighRitz:
    if positive:
        # X and X⁺ have one law: both halves of a pair estimate its moments.
        both = jnp.concatenate([phi, psi])
        mean, whitening = weighted_whitening(both, jnp.tile(weights, 2) / 2)
        f, g = (mm(z - mean[None, :], whitening) for z in (phi, psi))
        # (d, d): symmetric under the law, and made so, as x and x⁺ may change places.
        cross = mm((weights[:, None] * f).T, g)
        values, turn = jnp.linalg.eigh(0.5 * (cross + cross.T))
        # λ̂ of T T*, hence the root below. A sample may give negative ones: they are 0.
        values, turn = values[::-1][:rank], turn[:, ::-1][:, :rank]
        return RayleighRitz(
            jnp.sqrt(jnp.clip(values, 0.0, 1.0)),
            mm(f, turn),
            mm(g, turn),
            mean,
            mm(whitening, turn),
            None,
        )
    mean, whitening = weighted_whitening(phi, weights)
    mean_psi, whitening_psi = weighted_whitening(psi, weights)
    f = mm(phi - mean[None, :], whitening)
    g = mm(psi - mean_psi[None, :], whitening_psi)
    # Of the cross-covariance of whitened embeddings: canonical correlations.
    turn, values, turn_psi = thin_svd(mm((weights[:, None] * f).T, g))
    return RayleighRitz(
        jnp.clip(values[:rank], 0.0, 1.0),
        mm(f, turn[:, :rank]),
        mm(g, turn_psi[:rank].T),
        mean,
        mm(whitening, turn[:, :rank]),
        None,
    )


def _pad(x: Float[Array, "n k"], width: int) -> Float[Array, "n width"]:
    return jnp.pad(x, ((0, 0), (0, width - x.shape[1])))


def _held_out(
    phi: Float[Array, "n d"],
    psi: Float[Array, "n d2"],
    rank: int,
    positive: bool,
    key: Array,
    level: float,
) -> Interval:
    """Functions of each half on the other; errors as in `held_out_spectrum`."""
    num_pairs = phi.shape[0]
    half = num_pairs // 2
    if half < 2:
        msg = f"phi must have at least 4 rows to be halved; got {num_pairs}"
        raise ValueError(msg)
    # Rows may come in an order that means something.
    order = jax.random.permutation(key, num_pairs)
    parts = (order[:half], order[half:])

    def measure(fit: Array, test: Array) -> tuple[Array, Array]:
        # A fresh fit, whitening included: nothing of the other half is in the
        # functions.
        uniform = jnp.full(fit.shape[0], 1 / fit.shape[0], phi.dtype)
        found = _by_pairs(phi[fit], psi[fit], uniform, rank, positive)
        f = mm(phi[test] - found.mean[None, :], found.rotation)
        if positive:
            # One encoder, one map.
            g = mm(psi[test] - found.mean[None, :], found.rotation)
        else:
            mean, rotation = _partner(phi[fit], psi[fit], found)
            g = mm(psi[test] - mean[None, :], rotation)
        return _correlation(f, g)

    measured = [measure(*halves) for halves in (parts, parts[::-1])]
    value = 0.5 * (measured[0][0] + measured[1][0])
    error = 0.5 * (measured[0][1] + measured[1][1])
    found = correlation_interval(value, error, level)
    # Correlations of positive pairs are s²: the ends of the interval take the root with
    # the value.
    if not positive:
        return found
    return jax.tree.map(lambda x: jnp.sqrt(jnp.clip(x, 0.0, 1.0)), found)


def _partner(
    phi: Float[Array, "n d"], psi: Float[Array, "n d2"], found: RayleighRitz
) -> tuple[Float[Array, " d2"], Float[Array, "d2 r"]]:
    """The mean and rotation of Ψ whose functions are `found.right`."""
    n = psi.shape[0]
    mean, whitening = weighted_whitening(psi, jnp.full(n, 1 / n, psi.dtype))
    g = mm(psi - mean[None, :], whitening)
    f = mm(phi - found.mean[None, :], found.rotation)
    # (d2, r): C_gf v_i = s_i w_i with w_i the other singular vector.
    turn = mm(g.T, f) / n
    return mean, mm(whitening, turn) * safe_reciprocal(found.singular_values)[None, :]


def _correlation(
    f: Float[Array, "n r"], g: Float[Array, "n r"]
) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    """Correlations of columns, each less its part in those before, and their errors.

    Functions that were uncorrelated on one half are not on the other: without the
    second orthogonalisation a late pair could hold again what an early one holds.
    Errors by the influence function.
    """

    def in_order(x: Array) -> Array:
        x = x - x.mean(axis=0, keepdims=True)
        x = x * safe_reciprocal(jnp.linalg.norm(x, axis=0))[None, :]
        # Gram–Schmidt in the order of the functions: column i less its part in 1, …, i
        # − 1.
        basis = orthonormal_columns(x)
        # What is left of a column of length 1.
        rest = (basis * x).sum(axis=0)
        floor = rank_cutoff((x.shape[0], x.shape[1]), x.dtype, jnp.ones((), x.dtype))
        # Of mean square 1: the length of n entries is √n.
        # NaN must come through.
        return jnp.where((rest <= floor)[None, :], 0.0, basis * x.shape[0] ** 0.5)

    f, g = in_order(f), in_order(g)
    # (r,)
    value = (f * g).mean(axis=0)
    # (n, r): ψ of theory.md §3.7 for standardised functions.
    influence = f * g - 0.5 * value[None, :] * (f**2 + g**2)
    return value, jnp.sqrt((influence**2).mean(axis=0) / f.shape[0])
