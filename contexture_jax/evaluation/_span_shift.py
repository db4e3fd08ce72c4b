"""How the contexture moves when the law of X does and P(a | x) stays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from contexture_jax._core.checks import as_floating, check_integer
from contexture_jax._core.factorizations import singular_values
from contexture_jax._core.numerics import mm, safe_divide, safe_sqrt
from contexture_jax._core.symmetrised import marginal_roots
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation._alignment import clusters
from contexture_jax.evaluation._common import (
    as_columns,
    as_functions,
    as_spectrum,
    centred_columns,
    weighted_basis,
)
from contexture_jax.evaluation._similarity import principal_angles
from contexture_jax.operators import AssociationOperator, ReweightedOperator

__all__ = ["ContextureShift", "SpanShiftBound", "contexture_shift", "span_shift_bound"]


@short_repr
class ContextureShift(NamedTuple):
    """The span of d functions of a context beside that under another law of X.

    All under the new law.

    Attributes:
        angles: principal angles between both spans, ascending, radians, shape (d,).
        clusters: bounds (first, end) of clusters of near-equal new singular values that
            lie within the first d.
        cluster_angles: the angles of each of them to the old span, all 0 where that
            holds the cluster.
        held: the share of the target's variance within the old span, shape (); None
            without a target.
        reached: the same of the new span.
        lost: reached − held; below 0 where the old functions suit the target better.
    """

    angles: Float[Array, " d"]
    clusters: list[tuple[int, int]]
    cluster_angles: list[Float[Array, " k"]]
    held: Float[Array, ""] | None
    reached: Float[Array, ""] | None
    lost: Float[Array, ""] | None


def contexture_shift(
    old: Any,
    new: Any,
    op: AssociationOperator,
    dim: int | None = None,
    *,
    target: ArrayLike | None = None,
    gap: float = 0.01,
) -> ContextureShift:
    """Compare the first d functions of a context under two laws of X.

    Functions are compared as functions, up to constants, in the inner product of the
    new law: what was orthonormal under the old one is not (theory.md §9.3). A d inside
    a cluster of singular values is no property of a context, old or new.

    Args:
        old: the `SVDResult` under the old law, d triples or more.
        new: that under the new law, of `op`.
        op: the operator under the new law, as from `operators.reweight`.
        dim: d; None: as many as both have.
        target: f at the rows, shape (n,) or (n, k), real; columns are pooled by their
            variances.
        gap: as for `clusters`.

    Raises:
        ValueError: if shapes do not fit, or the target is constant under the new law.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[4, 1], [1, 3], [2, 2]]))
        >>> new_op = cx.operators.reweight(op, [1, 2, 3])
        >>> key = jax.random.key(0)
        >>> old, new = (cx.svd(o, 1, key=key)[0] for o in (op, new_op))
        >>> moved = cx.evaluation.contexture_shift(old, new, new_op)
        >>> bool(moved.angles[0] < 1e-3)  # with 2 values of A there is one function
        True
    """
    both = [
        as_functions(x.left, f"{name}.left", op)
        for x, name in ((old, "old"), (new, "new"))
    ]
    most = min(x.shape[1] for x in both)
    d = most if dim is None else check_integer(dim, "dim", low=1, high=most)
    there, here = (centred_columns(x[:, :d], op.p_x)[1] for x in both)
    bounds = [pair for pair in clusters(new.singular_values, gap=gap) if pair[1] <= d]
    by_cluster = [principal_angles(here[:, i:j], there, op.p_x) for i, j in bounds]
    held = reached = lost = None
    if target is not None:
        held, reached = _shares(target, (there, here), op)
        lost = reached - held
    angles = principal_angles(here, there, op.p_x)
    return ContextureShift(angles, bounds, by_cluster, held, reached, lost)


def _shares(
    target: ArrayLike, spans: tuple[Array, ...], op: AssociationOperator
) -> list[Float[Array, ""]]:
    """The share of the variance of a target within each span."""
    f = as_floating(target, "target")
    f = as_columns(f[:, None] if f.ndim == 1 else f, "target", op.shape[0])
    f = jnp.where(op.p_x[:, None] > 0, f, 0).astype(op.dtype)
    _, centred, floor = centred_columns(f, op.p_x)
    # √p f̃, whose squares sum to the variance.
    f = safe_sqrt(op.p_x)[:, None] * centred
    total = jnp.sum(f**2)
    if not float(jnp.sqrt(total)) > float(jnp.linalg.norm(floor)):
        msg = "target must vary over the rows that have mass under the new law"
        raise ValueError(f"{msg}; it is constant there")
    bases = [weighted_basis(x, op.p_x, centre=True)[0] for x in spans]
    return [jnp.sum(mm(basis.T, f) ** 2) / total for basis in bases]


@short_repr
class SpanShiftBound(NamedTuple):
    """What is known of the new contexture before it is computed.

    Attributes:
        sine: a bound on the sine of the largest angle between the old span of d
            functions and the new one, under the new law, shape (); ∞ where there is
            none. At 1 or more it says nothing.
        residual: ‖R‖, how far the old span is from invariant under the new T T*.
        gap: θ_d − λ: the least Ritz value of the old span less the bound on the first
            eigenvalue that it leaves out. At 0 or less nothing is known.
        lower: lower bounds of the new singular values, shape (k,).
        upper: upper bounds of them, shape (k,).
    """

    sine: Float[Array, ""]
    residual: Float[Array, ""]
    gap: Float[Array, ""]
    lower: Float[Array, " k"]
    upper: Float[Array, " k"]

    @property
    def is_vacuous(self) -> bool:
        """Whether the bound on the angle says nothing."""
        return not bool(self.sine < 1)


def span_shift_bound(
    old: Any,
    op: ReweightedOperator,
    dim: int | None = None,
    *,
    next_value: ArrayLike | None = None,
) -> SpanShiftBound:
    """Bound how far the span of d functions turns, by one pass of the new operator.

    With Q an orthonormal basis of the old functions in L² of the new law, centred, and
    H = T T* there: θ the eigenvalues of Q* H Q, R = H Q − Q (Q* H Q) and λ ≥ s'²_{d+1},

        sin ∠ ≤ ‖R‖ / (θ_d − λ)    (Davis & Kahan 1970),

    if θ_d > λ. With w = dP'_X / dP_X and v = dP'_A / dP_A, which lies in the range of
    w, each s'_i is between s_i √(min w / max v) and s_i √(max w / min v); that gives λ
    from s_{d+1} (theory.md §9.3). A strong shift makes it vacuous at once: pass a known
    s'_{d+1} then, or solve anew.

    Args:
        old: the `SVDResult` under the old law, with d + 1 triples or more unless
            `next_value` is given.
        op: `operators.reweight(old_op, weights)`.
        dim: d; None: all triples but the last, or all with `next_value`.
        next_value: s'_{d+1} or an upper bound of it, shape ().

    Returns:
        The bound. Works under `jit`.

    Raises:
        TypeError: if `op` is none of `operators.reweight`.
        ValueError: if there are too few triples.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[8, 1, 1], [1, 3, 3]]))
        >>> old, _ = cx.svd(op, 1, key=jax.random.key(0))
        >>> new_op = cx.operators.reweight(op, [1.0, 1.2])
        >>> bound = cx.evaluation.span_shift_bound(old, new_op, next_value=0.0)
        >>> bool(bound.sine < 1e-3), bound.is_vacuous
        (True, False)
    """
    if not isinstance(op, ReweightedOperator):
        msg = (
            "op must be operators.reweight(old_op, weights), which knows both laws; got"
            f" {type(op).__name__}"
        )
        raise TypeError(msg)
    left = as_functions(old.left, "old.left", op)
    s = as_spectrum(old.singular_values).astype(op.dtype)
    spare = 0 if next_value is not None else 1
    if s.shape[0] <= spare:
        msg = "old must hold a triple beyond the span, or next_value be given"
        raise ValueError(f"{msg}; got {s.shape[0]} and dim={dim}")
    most = s.shape[0] - spare
    d = most if dim is None else check_integer(dim, "dim", low=1, high=most)
    basis, rank = weighted_basis(left[:, :d], op.p_x, centre=True)
    theta, residual = _ritz(basis, op)
    w_low, w_high = _range(op.ratio, op.operator.p_x)
    # Values of A without mass under the new law have no part in its operator.
    v_low, v_high = _range(safe_divide(op.p_a, op.operator.p_a), op.p_a)
    lower = s * jnp.sqrt(w_low / v_high)
    upper = jnp.minimum(s * jnp.sqrt(safe_divide(w_high, v_low)), 1)
    bound = upper[d] if next_value is None else as_floating(next_value, "next_value")
    gap = theta - bound.astype(op.dtype) ** 2
    # A span that loses a dimension under the new law is at a right angle to some of it.
    known = (gap > 0) & (rank == d)
    sine = jnp.where(known, residual / jnp.where(known, gap, 1), jnp.inf)
    return SpanShiftBound(sine, residual, gap, lower, upper)


def _ritz(
    basis: Float[Array, "n d"], op: AssociationOperator
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The least Ritz value of T T* on a span, and ‖R‖; √p · functions come in."""
    roots = marginal_roots(op.p_x, op.p_a)
    image = op.rmatmat(roots.inverse_x[:, None] * basis)
    image = image - mm(op.p_a[None, :], image)
    image = roots.x[:, None] * op.matmat(image)
    # (d, d). Of a basis with columns of 0 the least value is 0, as it should be.
    inner = mm(basis.T, image)
    rest = image - mm(basis, inner)
    # Positive semi-definite: its singular values are its eigenvalues.
    return singular_values(inner)[-1], singular_values(rest)[0]


def _range(
    ratio: Float[Array, " n"], law: Float[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The least and the largest ratio where a law has mass."""
    largest = jnp.max(ratio)
    return jnp.min(jnp.where(law > 0, ratio, largest)), largest
