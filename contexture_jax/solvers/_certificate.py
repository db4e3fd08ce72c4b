"""How wrong a computed spectrum can be: bounds from its residuals and its tail.

Numerical error alone: the operator is taken as given. What a *sample* of the context
says about the law it came from is another question, with other intervals of another
type: `evaluation.bootstrap_spectrum`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    check_integer,
    check_key,
    check_values,
    is_concrete,
    is_traced,
)
from contexture_jax._core.fingerprint import is_known, of_one_law
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, Bool, Float, Int, short_repr
from contexture_jax._core.units import in_own_unit, times_power_of_two
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers._linear_map import LinearMap, symmetrised_map
from contexture_jax.solvers._missed import missed_norm
from contexture_jax.solvers._random import make_seed
from contexture_jax.solvers._results import SolveInfo, SVDResult
from contexture_jax.solvers._run import rounding_of

__all__ = ["Bounds", "Certificate", "Cluster", "certify"]


@short_repr
class Bounds(NamedTuple):
    """Upper bounds, which need to know that no singular value was missed.

    Attributes:
        upper: s_i(M) ≤ upper_i, shape (rank,), descending.
        next_upper: s_{rank+1}(M) ≤ next_upper, shape ().
        cluster_sines: for each i the sine of the largest angle between the computed
            span of the cluster of i and the true one is at most this, on the left and
            on the right, shape (rank,); 1 says nothing.
        leading_sines: likewise for the span of the first i functions, the contexture of
            dimension i, shape (rank,).
    """

    upper: Float[Array, " rank"]
    next_upper: Float[Array, ""]
    cluster_sines: Float[Array, " rank"]
    leading_sines: Float[Array, " rank"]


class Cluster(NamedTuple):
    """Neighbouring singular values that the computation cannot tell apart.

    Attributes:
        start: its first index, from 0.
        stop: one more than its last: its functions are `left[:, start:stop]`.
        multiplicity: how many values, stop − start.
        lower: the lower bound of its smallest value.
        upper: the proved upper bound of its largest value.
        sine: the proved bound on the angle of its span.
        cut: whether it may go on beyond the rank, so that more values belong to it.
    """

    start: int
    stop: int
    multiplicity: int
    lower: float
    upper: float
    sine: float
    cut: bool


@short_repr
class Certificate(NamedTuple):
    """Numerical bounds on the singular values and subspaces of an operator.

    Attributes:
        lower: s_i(M) ≥ lower_i, shape (rank,), descending; holds whatever the solver
            did or missed.
        proved: upper bounds that hold for the same reason, from the energy of the tail
            and, given an operator, from random probes of what was not found.
        if_found: upper bounds from the residuals, which *assume* that the operator
            between the complements of the computed spans has no singular value above
            the last computed one.
        cluster: the number of the cluster that each value belongs to, from 0, shape
            (rank,).
        cut: whether the last cluster may go on beyond the rank, shape ().
        rounding: what the bounds allow for rounding errors, shape ().
        failure_probability: of the random probes behind `proved`; 0 without them, shape
            ().
    """

    lower: Float[Array, " rank"]
    proved: Bounds
    if_found: Bounds
    cluster: Int[Array, " rank"]
    cut: Bool[Array, ""]
    rounding: Float[Array, ""]
    failure_probability: Float[Array, ""]

    @property
    def upper(self) -> Float[Array, " rank"]:
        """The proved upper bounds."""
        return self.proved.upper

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """The clusters as index ranges, single values included; outside a trace."""
        labels = np.asarray(self.cluster)
        lower, upper, sines = map(
            np.asarray, (self.lower, self.proved.upper, self.proved.cluster_sines)
        )
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        stops = [*starts[1:].tolist(), len(labels)]
        return tuple(
            Cluster(
                start,
                stop,
                stop - start,
                float(lower[stop - 1]),
                float(upper[start]),
                float(sines[start]),
                bool(self.cut) and stop == len(labels),
            )
            for start, stop in zip(starts.tolist(), stops, strict=True)
        )


@beside_context
def certify(
    result: SVDResult,
    info: SolveInfo,
    op: AssociationOperator | None = None,
    *,
    key: Array | None = None,
    scale: float | None = None,
    cluster_tol: float = 0.0,
    num_passes: int = 10,
    num_probes: int = 8,
    failure_probability: float = 1e-6,
) -> Certificate:
    """Bounds on the true singular values and functions, converged or not.

    With e_i = ‖M v_i − s_i u_i‖, f_i = ‖Mᵀ u_i − s_i v_i‖, M₂₂ the part of M between
    the complements of the computed spans, t ≥ ‖M₂₂‖, and ε for rounding (theory.md
    §6.11):

        s_k(M) ≥ s_k − min(‖e_{1..k}‖, ‖f_{1..k}‖) − ε
        s_k(M) ≤ min_{j ≥ k} h(s_k, ‖f_{k..j}‖ + ε, t_j) + ‖e_{1..j}‖ + ε
        h(a, f, t) = ½ √((a + t)² + f²) + ½ √((a − t)² + f²) ≤ a + f² / (2 (a − t))

    where t_j bounds what is left beside the first j triples: t for j = rank. The lower
    bounds are unconditional: a compression has smaller singular values. The upper ones
    need t. `proved` takes the smaller of √(tail energy), where that is exact (a missed
    value is at most that), and a bound from random probes of M₂₂ if `op` is given;
    `if_found` takes s_rank. Energy alone gives further upper bounds: were s_k(M) = x,
    the first k values would be at least x, and all of them have no more than the total
    energy. The bounds on subspaces are Wedin's, ‖(e, f)‖ over the gap between computed
    values and the bounds of their neighbours' true ones.

    ε = (10 + √max(n, m)) · eps · max(scale, s_1) is how rounding in products of that
    length behaves (with the orthogonality that was lost, if `op` is given): a model,
    not an enclosure. It covers the rounding of the entries of M as well, but not an
    error in them that is larger than eps, as in exp(−γ |x − a|²) at large exponents.

    Args:
        result: of `svd` on `op`, or of `truncated_svd`.
        info: what came with it.
        op: the operator of `svd`, for `num_passes` passes of `num_probes` columns that
            bound what was missed; None: use `info` alone, at no cost. Then a slowly
            decaying tail leaves the proved upper bounds wide. Where one of them has no
            fingerprint, residuals and energies are measured on `op`, in a pass of
            `rank` columns, and `info` is not believed: whatever the triples are, the
            bounds are those of `op`.
        key: random key of the probes, independent of the one that `svd` was given; with
            `op` only.
        scale: a bound on the norm of the matrix before deflation, which no value
            exceeds: 1 for `svd`; 0 for `truncated_svd`, whose matrices have none. None:
            what `info` says; if it does not, rounding is that of a norm of 1 and upper
            bounds have no ceiling.
        cluster_tol: values closer than this count as one cluster even if residuals and
            rounding can tell them apart.
        num_passes: of the probes over the operator.
        num_probes: columns of a pass.
        failure_probability: that the probes bound too little, at most.

    Returns:
        A `Certificate`. Bounds are in the dtype of the result.

    Raises:
        TypeError: if `op` comes without a key.
        ValueError: if a count or tolerance is out of range, or `result`, `info`, `op`
            and `scale` do not belong together: other shapes, the fingerprint of another
            law, energies that do not add up, values above `scale`. A trace gives NaN.

    References:
        Weyl's inequalities and interlacing: Horn & Johnson, *Topics in Matrix
        Analysis*, §3.1, §3.3. Quadratic bounds: Kato 1949, Temple 1928; for blocks of
        singular values Li & Li 2005, *Linear Algebra Appl.* 395. Subspaces: Wedin 1972,
        *BIT* 12; Davis & Kahan 1970.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> op = cx.association_operator(cx.contexts.joint([[4, 1, 0], [1, 3, 2]]))
        >>> result, info = cx.svd(op, 1, key=jax.random.key(0))
        >>> certificate = cx.solvers.certify(result, info)
        >>> s = result.singular_values
        >>> bool((certificate.lower <= s).all() & (s <= certificate.upper).all())
        True
    """
    if not isinstance(result, SVDResult) or not isinstance(info, SolveInfo):
        given = f"{type(result).__name__} and {type(info).__name__}"
        raise TypeError(f"result and info must be what svd returns; got {given}")
    if op is not None and not isinstance(op, AssociationOperator):
        raise TypeError(f"op must be the operator of svd; got {type(op).__name__}")
    num_passes = check_integer(num_passes, "num_passes", low=1)
    num_probes = check_integer(num_probes, "num_probes", low=1)
    for value, name, low, high in (
        (1.0 if scale is None else scale, "scale", 0.0, np.inf),
        (cluster_tol, "cluster_tol", 0.0, np.inf),
        (failure_probability, "failure_probability", 1e-100, 0.5),
    ):
        check_values(
            np.asarray(value),
            name,
            lambda v, low=low, high=high: (v >= low) & (v <= high),
            f"between {low:g} and {high:g}",
        )
    if op is not None:
        if key is None:
            raise TypeError("key must be given with op: what was missed is probed")
        check_key(key)
    result, info, op = tree_on_auto_axes((result, info, op))
    _check_shapes(result, info, op)
    same, measures = True, False
    if op is not None:
        same = of_one_law(
            result.fingerprint, op.fingerprint, "op must be the operator of the result"
        )
        marks = (result.fingerprint, op.fingerprint)
        # A trace cannot tell whether one was forgotten.
        measures = is_traced(marks) or not all(map(is_known, marks))
    dtype = result.singular_values.dtype
    bound: Any = info.scale if scale is None else scale
    ceiling = jnp.inf if bound is None else jnp.where(bound > 0, bound, jnp.inf)
    numbers = info._replace(
        status=jnp.zeros((), jnp.int32), method=None, reason=None, scale=None
    )
    certificate, coherent = _compiled(
        result._replace(fingerprint=None),
        numbers,
        _unmarked(op),
        key,
        jnp.asarray(1.0 if bound is None else bound, dtype),
        jnp.asarray(ceiling, dtype),
        jnp.asarray(cluster_tol, dtype),
        jnp.asarray(same),
        measures=measures,
        num_passes=num_passes,
        num_probes=num_probes,
        failure_probability=float(failure_probability),
    )
    if is_concrete(coherent) and not coherent:
        msg = (
            "result, info and scale must belong together; got energies that are not"
            f" those of the values, or values above the scale: {result!r}, {info!r},"
            f" scale={bound}"
        )
        raise ValueError(msg)
    return certificate


def _unmarked(op: AssociationOperator | None) -> AssociationOperator | None:
    """So that a program serves operators with and without."""
    if op is None or op.fingerprint is None:
        return op
    any_op: Any = op
    return dataclasses.replace(any_op, fingerprint=None)


def _check_shapes(
    result: SVDResult, info: SolveInfo, op: AssociationOperator | None
) -> None:
    shape = (result.left.shape[0], result.right.shape[0])
    if op is not None and op.shape != shape:
        msg = f"op must be the operator of the result, of shape {shape}; got {op.shape}"
        raise ValueError(msg)
    expected, got = result.singular_values.shape, info.left_residuals.shape
    if got != expected:
        msg = f"info must be that of the result, of {expected} residuals; got {got}"
        raise ValueError(msg)


@functools.partial(
    jax.jit,
    static_argnames=("measures", "num_passes", "num_probes", "failure_probability"),
)
def _compiled(
    result: SVDResult,
    info: SolveInfo,
    op: AssociationOperator | None,
    key: Array | None,
    scale: Float[Array, ""],
    ceiling: Float[Array, ""],
    cluster_tol: Float[Array, ""],
    same: Bool[Array, ""],
    *,
    measures: bool,
    num_passes: int,
    num_probes: int,
    failure_probability: float,
) -> tuple[Certificate, Bool[Array, ""]]:
    """The bounds, and whether what they are made of belongs together."""
    if measures and op is not None:
        info = _measured(result, info, op)
    # In a unit of their own squares of values stay in range.
    s, unit = in_own_unit(result.singular_values)
    unit = unit[0]
    left_residuals, right_residuals, scale, ceiling, cluster_tol = (
        times_power_of_two(x, -unit)
        for x in (
            info.left_residuals,
            info.right_residuals,
            scale,
            ceiling,
            cluster_tol,
        )
    )
    total, tail = (
        times_power_of_two(x, -2 * unit) for x in (info.total_energy, info.tail_energy)
    )
    head = jnp.sum(s**2)
    slack = rounding_of((result.left.shape[0], result.right.shape[0]), s.dtype)
    rounding = slack * jnp.maximum(scale, s[0])
    # The energies of large or small matrices may have left the range of the dtype.
    lowest = jnp.finfo(s.dtype).tiny / jnp.finfo(s.dtype).eps
    in_range = jnp.isfinite(total) & (info.total_energy > lowest)
    gap = jnp.abs(total - head - jnp.maximum(tail, 0))
    coherent = ~(in_range & (gap > 4 * slack * (scale**2 + total)))
    # The energies are sums of squares; an estimate bounds nothing. The head is Σ s_i²
    # if M V = U S, and otherwise (‖s‖ − ‖e‖)² at least.
    lost = 2 * jnp.linalg.norm(s) * jnp.linalg.norm(left_residuals)
    if measures and op is not None:
        # Not known to be orthonormal: what they hold is less than Σ s_i² by as much.
        lost = lost + 2 * head * _lost(*_euclidean(result, op)[1:])
    tail = jnp.maximum(tail, 0) + lost + slack * (scale**2 + total)
    exact = (info.tail_error == 0) & (in_range | (s[0] == 0))
    tail = jnp.where(exact, tail, jnp.inf)
    largest_missed, failure = jnp.sqrt(tail), jnp.zeros((), s.dtype)
    if op is not None and key is not None:
        a, u, v = _euclidean(result, op)
        rounding = rounding + 2 * jnp.maximum(scale, s[0]) * _lost(u, v)
        probed = missed_norm(
            a,
            u,
            v,
            make_seed(key),
            num_passes=num_passes,
            num_probes=num_probes,
            failure_probability=failure_probability,
        )
        probed = times_power_of_two(probed, -unit)
        largest_missed = jnp.minimum(largest_missed, probed + rounding)
        failure = jnp.full((), failure_probability, s.dtype)
    residuals = _Residuals(left_residuals, right_residuals, rounding)
    lower = _lower(s, residuals)
    cluster = _clusters(s, residuals, cluster_tol)
    make = functools.partial(_bounds, s, residuals, lower, cluster, tail, ceiling)
    both = jax.vmap(make)(
        jnp.stack([largest_missed, jnp.minimum(largest_missed, s[-1])])
    )
    cut = both.next_upper[0] >= lower[-1]
    coherent = coherent & ~(lower[None, :] > both.upper).any()

    def given(x: Array) -> Array:
        return jnp.where(coherent & same, times_power_of_two(x, unit), jnp.nan)

    both = both._replace(upper=given(both.upper), next_upper=given(both.next_upper))
    proved, if_found = (Bounds(*(x[i] for x in both)) for i in (0, 1))
    certificate = Certificate(
        given(lower), proved, if_found, cluster, cut, given(rounding), failure
    )
    return certificate, coherent


def _measured(result: SVDResult, info: SolveInfo, op: AssociationOperator) -> SolveInfo:
    """Residuals and energies of triples on an operator that may be another."""
    a, u, v = _euclidean(result, op)
    s = result.singular_values[None, :]
    squared_norm = op.squared_norm()
    head = jnp.sum(s**2)
    total = head if squared_norm is None else squared_norm - 1.0
    return info._replace(
        left_residuals=jnp.linalg.norm(a.matmat(v) - u * s, axis=0),
        right_residuals=jnp.linalg.norm(a.rmatmat(u) - v * s, axis=0),
        total_energy=jnp.maximum(total, head),
        tail_energy=jnp.maximum(total - head, 0.0),
        tail_error=jnp.full((), jnp.inf if squared_norm is None else 0.0, s.dtype),
    )


def _euclidean(
    result: SVDResult, op: AssociationOperator
) -> tuple[LinearMap, Float[Array, "n rank"], Float[Array, "m rank"]]:
    """The deflated matrix of an operator, and the functions as its vectors."""
    u = jnp.sqrt(op.p_x)[:, None] * result.left
    v = jnp.sqrt(op.p_a)[:, None] * result.right
    return symmetrised_map(op), u, v


class _Residuals(NamedTuple):
    left: Float[Array, " rank"]
    right: Float[Array, " rank"]
    rounding: Float[Array, ""]


def _lost(u: Float[Array, "n rank"], v: Float[Array, "m rank"]) -> Float[Array, ""]:
    """How far the computed bases are from orthonormal ones: ‖UᵀU − I‖_F."""
    eye = jnp.eye(u.shape[1], dtype=u.dtype)
    return jnp.maximum(
        jnp.linalg.norm(mm(u.T, u) - eye), jnp.linalg.norm(mm(v.T, v) - eye)
    )


def _lower(s: Float[Array, " r"], residuals: _Residuals) -> Float[Array, " r"]:
    left, right = (_cumulative_norm(x) for x in residuals[:2])
    single = s - jnp.minimum(left, right) - residuals.rounding
    # s_k(M) ≥ s_j(M) for j ≥ k.
    return jnp.maximum(jax.lax.cummax(single, reverse=True), 0.0)


def _clusters(
    s: Float[Array, " r"], residuals: _Residuals, tol: Float[Array, ""]
) -> Int[Array, " r"]:
    """Join neighbours whose residual intervals meet, or that are closer than `tol`."""
    reach = jnp.maximum(residuals.left, residuals.right) + residuals.rounding
    apart = s[:-1] - s[1:] > jnp.maximum(reach[:-1] + reach[1:], tol)
    return jnp.concatenate(
        [jnp.zeros(1, jnp.int32), jnp.cumsum(apart, dtype=jnp.int32)]
    )


def _bounds(
    s: Float[Array, " r"],
    residuals: _Residuals,
    lower: Float[Array, " r"],
    cluster: Int[Array, " r"],
    tail: Float[Array, ""],
    ceiling: Float[Array, ""],
    largest_missed: Float[Array, ""],
) -> Bounds:
    upper, next_upper = _upper(s, residuals, tail, largest_missed)
    upper = jnp.minimum(jax.lax.cummin(upper), ceiling)
    next_upper = jnp.minimum(next_upper, upper[-1])
    return Bounds(
        upper,
        next_upper,
        _cluster_sines(s, residuals, lower, cluster, upper, next_upper),
        _leading_sines(s, residuals, upper, next_upper),
    )


def _upper(
    s: Float[Array, " r"],
    residuals: _Residuals,
    tail: Float[Array, ""],
    largest_missed: Float[Array, ""],
) -> tuple[Float[Array, " r"], Float[Array, ""]]:
    """The bounds of `certify` on s_1, …, s_r and on s_{r+1}, before they are sorted."""
    num = s.shape[0]
    rows = jnp.arange(num)
    above = rows[:, None] <= rows[None, :]  # k ≤ j
    rounding = residuals.rounding
    left = _cumulative_norm(residuals.left) + rounding
    # norms[k, j] = ‖f_{k..j}‖; the last column is ‖f_{k..r}‖.
    norms = _norms_from(residuals.right) + rounding
    # What is left beside the first j triples: the others and what was missed.
    others = _two_by_two(s, norms[:, -1], largest_missed) + left[-1]
    energy = tail + jnp.cumsum((s**2)[::-1])[::-1]
    others = jnp.minimum(others, jnp.sqrt(energy))
    beside = jnp.concatenate([others[1:], largest_missed[None]])
    upper = _two_by_two(s[:, None], norms, beside[None, :]) + left[None, :]
    upper = jnp.where(above, upper, jnp.inf).min(axis=1)
    # Energy alone: levels[a, k] has the squares of the last k − a + 1 values up to k.
    squares = _norms_from(s) ** 2
    count = jnp.where(above, rows[None, :] - rows[:, None] + 1, 1)
    levels = jnp.sqrt((tail + squares) / count) + rounding
    by_energy = jnp.where(above, levels, jnp.inf).min(axis=0)
    return jnp.minimum(upper, by_energy), largest_missed + left[-1]


def _two_by_two(a: Array, f: Array, t: Array) -> Array:
    """The norm of [[a, f], [0, t]], without squares that cancel."""
    return 0.5 * (jnp.hypot(a + t, f) + jnp.hypot(a - t, f))


def _norms_from(x: Float[Array, " r"]) -> Float[Array, "r r"]:
    """‖x_{k..j}‖ at [k, j], j ≥ k, by sums of what it has and no differences."""
    rows = jnp.arange(x.shape[0])
    kept = jnp.where(rows[:, None] <= rows[None, :], x[None, :] ** 2, 0.0)
    return jnp.sqrt(jnp.cumsum(kept, axis=1))


def _cumulative_norm(x: Float[Array, " r"]) -> Float[Array, " r"]:
    return jnp.sqrt(jnp.cumsum(x**2))


def _cluster_sines(
    s: Float[Array, " r"],
    residuals: _Residuals,
    lower: Float[Array, " r"],
    cluster: Int[Array, " r"],
    upper: Float[Array, " r"],
    next_upper: Float[Array, ""],
) -> Float[Array, " r"]:
    """Wedin's bound for each cluster, against the true values on both sides of it."""
    step = cluster[None, :] - cluster[:, None]
    same = step == 0
    squares = residuals.left**2 + residuals.right**2 + 2 * residuals.rounding**2
    size = jnp.sqrt(jnp.where(same, squares[None, :], 0.0).sum(axis=1))
    top = jnp.where(same, s[None, :], -jnp.inf).max(axis=1)
    bottom = jnp.where(same, s[None, :], jnp.inf).min(axis=1)
    over = jnp.where(step == -1, lower[None, :], jnp.inf).min(axis=1)
    under = jnp.where(step == 1, upper[None, :], -jnp.inf).max(axis=1)
    under = jnp.maximum(under, jnp.where(cluster == cluster[-1], next_upper, -jnp.inf))
    return _ratio(size, jnp.minimum(over - top, bottom - under))


def _leading_sines(
    s: Float[Array, " r"],
    residuals: _Residuals,
    upper: Float[Array, " r"],
    next_upper: Float[Array, ""],
) -> Float[Array, " r"]:
    """Wedin's bound for the first d functions, d = 1, …, rank."""
    left, right = (_cumulative_norm(x) for x in residuals[:2])
    under = jnp.concatenate([upper[1:], next_upper[None]])
    return _ratio(jnp.maximum(left, right) + residuals.rounding, s - under)


def _ratio(size: Float[Array, " r"], gap: Float[Array, " r"]) -> Float[Array, " r"]:
    """The quotient size / gap where that says anything, else 1."""
    useful = gap > size
    return jnp.where(useful, size / jnp.where(useful, gap, 1.0), 1.0)
