"""How far spans turn when the context is perturbed, cluster by cluster: a bound."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.factorizations import singular_values
from contexture_jax._core.numerics import mm, safe_sqrt
from contexture_jax._core.symmetrised import marginal_roots
from contexture_jax._core.types import Array, Float, Int, short_repr
from contexture_jax.evaluation._alignment import clusters
from contexture_jax.evaluation._common import (
    as_functions,
    as_spectrum,
    weighted_basis,
)
from contexture_jax.operators import AssociationOperator

__all__ = ["PerturbedSpans", "kernel_distance", "perturbation_bound"]

# The norm of any matrix is at most 4 √(2/π) times the largest of its products with ten
# Gaussian vectors, except with probability 4⁻¹⁰ (Halko et al. 2011, lemma 4.1).
_PROBES, _FACTOR = 10, 4 * (2 / np.pi) ** 0.5
_SAME_LAW = 1e-4  # relative, of marginals in float32


@short_repr
class PerturbedSpans(NamedTuple):
    """What is known of the spans of a perturbed context before it is solved.

    Attributes:
        clusters: bounds (first, end) of clusters of near-equal old singular values, c
            of them.
        sines: of each a bound on the sine of the largest angle between its old span and
            the span of the new functions of the same numbers, shape (c,); ∞ where there
            is none. At 1 or more it says nothing.
        leading: the same of all functions up to the end of each cluster, shape (c,).
        residuals: of each cluster ‖R‖, how far its old span is from invariant under the
            new T T*, shape (c,).
        gaps: of each what `residuals` is held against, shape (c,); at 0 or less nothing
            is known.
        lower: lower bounds of the new singular values, shape (k,).
        upper: upper bounds of them, shape (k,).
        distance: ε ≥ ‖T' T'* − T T*‖, shape ().
    """

    clusters: list[tuple[int, int]]
    sines: Float[Array, " c"]
    leading: Float[Array, " c"]
    residuals: Float[Array, " c"]
    gaps: Float[Array, " c"]
    lower: Float[Array, " k"]
    upper: Float[Array, " k"]
    distance: Float[Array, ""]

    @property
    def is_vacuous(self) -> list[bool]:
        """Of each cluster whether the bound on its angle says nothing."""
        return [not s < 1 for s in np.asarray(self.sines).tolist()]


def kernel_distance(
    op: AssociationOperator,
    new_op: AssociationOperator,
    *,
    key: Array,
    num_passes: int = 12,
) -> Float[Array, ""]:
    """An upper bound of ‖T' T'* − T T*‖, how far a context is from another one.

    Both act on functions of the same rows under one law of X; their A may be different
    things. With E the difference and ω_j Gaussian, ‖E‖^q = ‖E^q‖ is at most 4 √(2/π)
    times the largest ‖E^q ω_j‖ of ten, except with probability 10⁻⁶ (Halko, Martinsson
    & Tropp 2011, lemma 4.1): with q passes the bound is above ‖E‖ by a factor of at
    most (3.2 · max ‖ω_j‖)^{1/q}.

    Args:
        op: the operator of a context, shape (n, m).
        new_op: that of another one, shape (n, m').
        key: random key of the ω.
        num_passes: q; of both operators, forth and back, each.

    Raises:
        ValueError: if the rows or their laws differ: then take `span_shift_bound`.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> def noisy(flip):
        ...     return cx.association_operator(
        ...         cx.contexts.joint([[1 - flip, flip], [flip, 1 - flip]])
        ...     )
        >>> far = cx.evaluation.kernel_distance(
        ...     noisy(0.1), noisy(0.2), key=jax.random.key(0)
        ... )
        >>> 0.64 - 0.36 <= float(far) < 0.4
        True
    """
    _check_one_law(op, new_op)
    check_key(key)
    passes = check_integer(num_passes, "num_passes", low=1)
    # (n, 10): functions are in L²(P_X), where E is self-adjoint.
    block = jax.random.normal(key, (op.shape[0], _PROBES), op.dtype)
    scale = jnp.zeros((), op.dtype)
    for _ in range(passes):
        image = _of_kernel(new_op, block) - _of_kernel(op, block)
        length = jnp.linalg.norm(image, axis=0).max()
        # By logarithms: twelve passes of a small difference would leave the range.
        block = image / jnp.where(length > 0, length, 1)
        scale = scale + jnp.log(length)
    return jnp.exp((scale + np.log(_FACTOR)) / passes)


def perturbation_bound(
    old: Any,
    op: AssociationOperator,
    new_op: AssociationOperator,
    *,
    key: Array,
    gap: float = 0.01,
) -> PerturbedSpans:
    """Bound how far each span turns when P(a | x) changes and P_X does not.

    More or fewer neighbours, another bandwidth, noise on the features, edges taken out:
    with Q an orthonormal basis of the functions of a cluster, H = T' T'* less the
    constant and R = H Q − Q (Q* H Q),

        sin ∠ ≤ ‖R‖ / δ    (Davis & Kahan 1970, their sin θ theorem),

    δ being how far the eigenvalues of Q* H Q are from all eigenvalues of H that are no
    part of the cluster. Those are known from both sides without solving for them:
    above the cluster λ'_i is at least the i-th Ritz value of the old functions and at
    least s_i² − ε; below it, at most s_i² + ε, and at most the Ritz value or what is
    left of the energy, plus the residual of all functions (Weyl; theory.md §9.4). One
    pass over both operators, and those of `kernel_distance`.

    Args:
        old: the `SVDResult` of `op`, its leading triples; all of them help.
        op: the operator of the context.
        new_op: that of the perturbed one, of the same rows with the same law.
        key: random key of `kernel_distance`.
        gap: as for `clusters`.

    Raises:
        ValueError: if the rows or their laws differ, or shapes do not fit.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.numpy.linspace(0, 1, 40)[:, None]
        >>> op, new_op = (
        ...     cx.association_operator(cx.contexts.rbf(x, gamma=g)) for g in (9, 9.5)
        ... )
        >>> key = jax.random.key(0)
        >>> old, _ = cx.svd(op, 2, key=key)
        >>> bound = cx.evaluation.perturbation_bound(old, op, new_op, key=key)
        >>> bool(bound.sines[0] < 0.1), bound.is_vacuous[0]
        (True, False)
    """
    left = as_functions(old.left, "old.left", op)
    s = as_spectrum(old.singular_values).astype(op.dtype)
    distance = kernel_distance(op, new_op, key=key)
    whole = _of_all(left, s, op.p_x, new_op, distance)
    lower, upper = whole.lower, whole.upper
    bounds = clusters(s, gap=gap)
    ranges = [*bounds, *((0, end) for _, end in bounds)]
    found = [_turned(left, op.p_x, whole, *map(np.int32, pair)) for pair in ranges]
    residuals, gaps = (jnp.stack(x) for x in zip(*found, strict=True))
    sines = jnp.where(gaps > 0, residuals / jnp.where(gaps > 0, gaps, 1), jnp.inf)
    num = len(bounds)
    k = s.shape[0]
    return PerturbedSpans(
        bounds,
        sines[:num],
        sines[num:],
        residuals[:num],
        gaps[:num],
        safe_sqrt(lower),
        safe_sqrt(jnp.minimum(upper[:k], 1)),
        distance,
    )


def _check_one_law(op: AssociationOperator, new_op: AssociationOperator) -> None:
    n = op.shape[0]
    if new_op.shape[0] != n:
        msg = f"both operators must have the same rows; got {n} and {new_op.shape[0]}"
        raise ValueError(msg)
    one, other = np.asarray(op.p_x), np.asarray(new_op.p_x)
    if not np.allclose(one, other, rtol=_SAME_LAW, atol=_SAME_LAW / n):
        msg = (
            "both operators must have one law of X: another law of the same context is"
            " operators.reweight, which span_shift_bound takes; the largest difference"
            f" is {np.abs(one - other).max():.3g}"
        )
        raise ValueError(msg)


def _of_kernel(op: AssociationOperator, block: Float[Array, "n r"]) -> Array:
    """T T* less the constant, on √p times functions."""
    roots = marginal_roots(op.p_x, op.p_a)
    image = op.rmatmat(roots.inverse_x[:, None] * block)
    image = image - mm(op.p_a[None, :], image)
    return roots.x[:, None] * op.matmat(image)


def _eigenvalue_bounds(
    values: Float[Array, " k"],
    inner: Float[Array, "k k"],
    rest: Float[Array, "n k"],
    new_op: AssociationOperator,
    distance: Float[Array, ""],
) -> tuple[Float[Array, " k"], Float[Array, " l"]]:
    """Bounds of λ'_1 … λ'_k from below, and of λ'_1 … λ'_{k+1} from above."""
    # Positive semi-definite: its singular values are its eigenvalues.
    ritz = singular_values(inner)
    residual = singular_values(rest)[0]
    lower = jnp.maximum(ritz, values - distance)
    # What the old triples leave out is at most the last of them.
    beyond = jnp.append(values, values[-1]) + distance
    energy = new_op.squared_norm()
    left_out = beyond[-1]
    if energy is not None:
        left_out = jnp.minimum(left_out, energy - 1 - ritz.sum())
    # H is diag(Ritz values, rest) up to a part of norm ‖R‖ off the diagonal.
    upper = jnp.maximum(jnp.append(ritz, 0), left_out) + residual
    return jnp.maximum(lower, 0), jnp.minimum(upper, beyond)


class _Whole(NamedTuple):
    """Of all old functions: an orthonormal basis, its image under H, and bounds."""

    basis: Float[Array, "n k"]
    image: Float[Array, "n k"]
    lower: Float[Array, " k"]
    upper: Float[Array, " l"]


@jax.jit
def _of_all(
    left: Float[Array, "n k"],
    s: Float[Array, " k"],
    p_x: Float[Array, " n"],
    new_op: AssociationOperator,
    distance: Float[Array, ""],
) -> _Whole:
    basis, _ = weighted_basis(left, p_x, centre=True)
    image = _of_kernel(new_op, basis)
    inner = mm(basis.T, image)
    rest = image - mm(basis, inner)
    bounds = _eigenvalue_bounds(s**2, inner, rest, new_op, distance)
    return _Whole(basis, image, *bounds)


@jax.jit
def _turned(
    left: Float[Array, "n k"],
    p_x: Float[Array, " n"],
    whole: _Whole,
    first: Int[Any, ""],
    end: Int[Any, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """‖R‖ of functions first … end, and their distance from all other eigenvalues."""
    # All others are 0: one program, however many there are in a cluster.
    number = jnp.arange(left.shape[1])
    kept = (number >= first) & (number < end)
    own, _ = weighted_basis(jnp.where(kept[None, :], left, 0), p_x, centre=True)
    # (k, k): the cluster in the basis of all, of whose image it is a part.
    image = mm(whole.image, mm(whole.basis.T, own))
    inner = mm(own.T, image)
    inside = singular_values(inner)
    gap = inside[end - first - 1] - whole.upper[end]
    above = whole.lower[jnp.maximum(first - 1, 0)] - inside[0]
    gap = jnp.where(first > 0, jnp.minimum(gap, above), gap)
    return singular_values(image - mm(own, inner))[0], gap
