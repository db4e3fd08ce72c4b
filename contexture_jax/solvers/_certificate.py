"""How wrong a computed spectrum can be: bounds from its residuals and its tail.

Numerical error alone: the operator is taken as given. What a *sample* of the context
says about the law it came from is another question, with other intervals of another
type: `evaluation.bootstrap_spectrum`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from contexture_jax._core.checks import (
    check_integer,
    check_key,
    check_values,
    is_concrete,
    is_traced,
)
from contexture_jax._core.either import (
    Either,
    at_hand,
    compiled_unless_numpy,
    namespace,
    product,
)
from contexture_jax._core.fingerprint import is_known, of_one_law
from contexture_jax._core.meshes import beside_context, tree_on_auto_axes
from contexture_jax._core.processes import gathered, placed
from contexture_jax._core.remainder import remainder_norm
from contexture_jax._core.threads import held_lapack
from contexture_jax._core.types import Array, Bool, Float, Int, short_repr, summary
from contexture_jax.operators import AssociationOperator
from contexture_jax.solvers._bounds import Bounds, Found, Known, bounds_from
from contexture_jax.solvers._linear_map import (
    symmetrised_map,
    unmarked,
)
from contexture_jax.solvers._pieces import new_seed, squared_norm
from contexture_jax.solvers._probing import NUM_PROBES, probing_map
from contexture_jax.solvers._random import random_block
from contexture_jax.solvers._results import SolveInfo, SVDResult

__all__ = ["Bounds", "Certificate", "Cluster", "certify"]


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
    def upper(self) -> Float[Either, " rank"]:
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


# With c = 0.22 all of them fail once in a million (theory.md §6.11).


@beside_context
@held_lapack
def certify(
    result: SVDResult,
    info: SolveInfo,
    op: AssociationOperator | None = None,
    *,
    key: Array | None = None,
    scale: float | None = None,
    cluster_tol: float = 0.0,
    num_passes: int = 10,
    num_probes: int = NUM_PROBES,
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
    num_passes = check_integer(num_passes, "num_passes", low=1)
    num_probes = check_integer(num_probes, "num_probes", low=1)
    _check_kinds(result, info, op, key)
    _check_ranges(scale, cluster_tol, failure_probability)
    result, info, op = tree_on_auto_axes((result, info, op))
    # A bound hangs on these products, whatever level those of the solve had.
    op = None if op is None else op.with_precision("exact")
    _check_shapes(result, info, op)
    bound: Any = info.scale if scale is None else scale
    same, measures, failure = True, False, 0.0
    lost = remainder = None
    if op is not None and key is not None:  # neither comes without the other
        same, measures = _whose(result, op)
        failure = float(failure_probability)
        info, lost, remainder = _probed(
            result,
            info,
            op,
            key,
            measures=measures,
            num_passes=num_passes,
            num_probes=num_probes,
            failure_probability=failure,
        )
    known = Known(
        result.singular_values,
        info.left_residuals,
        info.right_residuals,
        info.total_energy,
        info.tail_energy,
        info.tail_error,
        bound,
        cluster_tol,
        same,
        lost,
        remainder,
    )
    certificate, coherent = _certificate(
        known, result.sizes, failure, orthonormal=not measures
    )
    if is_concrete(coherent) and not coherent:
        msg = (
            "result, info and scale must belong together; got energies that are not"
            " those of the values, or values above the scale:"
            f" singular_values={summary(result.singular_values)},"
            f" tail_energy={summary(info.tail_energy)},"
            f" total_energy={summary(info.total_energy)}, scale={summary(bound)}"
        )
        raise ValueError(msg)
    return certificate


def _check_kinds(result: Any, info: Any, op: Any, key: Any) -> None:
    if not isinstance(result, SVDResult) or not isinstance(info, SolveInfo):
        given = f"{type(result).__name__} and {type(info).__name__}"
        raise TypeError(f"result and info must be what svd returns; got {given}")
    if op is None:
        return
    if not isinstance(op, AssociationOperator):
        raise TypeError(f"op must be the operator of svd; got {type(op).__name__}")
    if key is None:
        raise TypeError("key must be given with op: what was missed is probed")
    check_key(key)


def _check_ranges(scale: Any, cluster_tol: Any, failure_probability: Any) -> None:
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


def _whose(result: SVDResult, op: AssociationOperator) -> tuple[Any, bool]:
    """Whether both are of one law, and whether residuals must be measured anew."""
    marks = (result.fingerprint, op.fingerprint)
    same = of_one_law(*marks, "op must be the operator of the result")
    # A trace cannot tell whether one was forgotten.
    return same, is_traced(marks) or not all(map(is_known, marks))


def _check_shapes(
    result: SVDResult, info: SolveInfo, op: AssociationOperator | None
) -> None:
    shape = result.sizes
    if op is not None and op.shape != shape:
        msg = f"op must be the operator of the result, of shape {shape}; got {op.shape}"
        raise ValueError(msg)
    expected, got = result.singular_values.shape, info.left_residuals.shape
    if got != expected:
        msg = f"info must be that of the result, of {expected} residuals; got {got}"
        raise ValueError(msg)


def _probed(
    result: SVDResult,
    info: Any,
    op: AssociationOperator,
    key: Array,
    *,
    measures: bool,
    num_passes: int,
    num_probes: int,
    failure_probability: float,
) -> tuple[Any, Float[Any, ""], Float[Any, ""]]:
    """What the operator says: of the triples, of their bases, and of what is missed.

    Inside a trace a part of that program. Otherwise each product is a program, and the
    rest is NumPy's where it can read the arrays.
    """
    s, *functions = result.padded
    # Rows of padding have no mass: cut like the rest, and nothing is gathered.
    even = op.padded()
    if even.shape == tuple(block.shape[0] for block in functions):
        op = even
    else:
        functions = list(result[1:])
    a = symmetrised_map(op)
    laws, functions, s, seed = at_hand(((op.p_x, op.p_a), functions, s, new_seed(key)))
    u, v = map(_vectors, laws, functions)
    if measures:
        # (n, r) and (m, r): a pass, and nothing of `info` need be believed.
        images = at_hand((a.matmat(v), a.rmatmat(u)))
        found = _measured(s, at_hand(squared_norm(unmarked(op))), images, (u, v))
        info = dataclasses.replace(info, **jax.device_put(found))
    a = probing_map(op, a, s.shape[0], info.method, num_probes)
    remainder = remainder_norm(
        a,
        u,
        v,
        random_block(seed, a.shape[1], num_probes, a.dtype),
        num_passes=num_passes,
        failure_probability=failure_probability,
    )
    return info, _lost(u, v), remainder


def _certificate(
    known: Known, shape: tuple[int, int], failure: float, *, orthonormal: bool
) -> tuple[Certificate, Any]:
    """In the dtype of the values and where they lie; and whether its parts agree."""
    dtype = jax.dtypes.canonicalize_dtype(known.values.dtype)
    if is_traced(known):
        known = jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), known)
        found = _compiled(known, shape, dtype, orthonormal=orthonormal)
        return _certificate_of(found, jnp.full((), failure, dtype)), found.coherent
    # In the dtype of the values rounding here would be as large as what is bounded.
    here = jax.tree.map(lambda x: gathered(x).astype(np.float64), known)
    with np.errstate(all="ignore"):
        found = bounds_from(here, shape, dtype, orthonormal=orthonormal)
    certificate = jax.tree.map(
        lambda x: np.asarray(x, dtype if x.dtype.kind == "f" else x.dtype),
        _certificate_of(found, np.asarray(failure)),
    )
    return _placed_beside(certificate, known.values), found.coherent


def _certificate_of(found: Found, failure: Any) -> Certificate:
    return Certificate(
        found.lower,
        found.proved,
        found.if_found,
        found.cluster,
        found.cut,
        found.rounding,
        failure,
    )


def _placed_beside(tree: Any, x: Any) -> Any:
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, NamedSharding):
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: placed(leaf, everywhere), tree)
    # What is committed ties all that is computed with it to that device.
    is_free = sharding is None or not x.committed or not x.is_fully_replicated
    return jax.device_put(tree, None if is_free else sharding)


_compiled = jax.jit(bounds_from, static_argnames=("shape", "dtype", "orthonormal"))


@compiled_unless_numpy
def _measured(
    s: Float[Either, " rank"],
    squared_norm: Float[Either, ""] | None,
    images: tuple[Float[Either, "n rank"], Float[Either, "m rank"]],
    bases: tuple[Float[Either, "n rank"], Float[Either, "m rank"]],
) -> dict[str, Either]:
    """Residuals and energies of triples on an operator that may be another."""
    xp = namespace(s)
    head = xp.sum(s**2)
    # Where it is not known the error is infinite, and no bound hangs on it.
    total = head if squared_norm is None else squared_norm - 1
    left, right = (
        xp.linalg.norm(image - basis * s[None, :], axis=0)
        for image, basis in zip(images, bases, strict=True)
    )
    return {
        "left_residuals": left,
        "right_residuals": right,
        "total_energy": xp.maximum(total, head),
        "tail_energy": xp.maximum(total - head, 0),
        "tail_error": xp.full((), xp.inf if squared_norm is None else 0.0, s.dtype),
    }


@compiled_unless_numpy
def _vectors(
    law: Float[Either, " n"], functions: Float[Either, "n rank"]
) -> Float[Either, "n rank"]:
    """Functions in L²(law) as vectors."""
    return namespace(law).sqrt(law)[:, None] * functions


@compiled_unless_numpy
def _lost(u: Float[Either, "n rank"], v: Float[Either, "m rank"]) -> Float[Either, ""]:
    """How far the computed bases are from orthonormal ones: ‖UᵀU − I‖_F."""
    xp = namespace(u)
    eye = xp.eye(u.shape[1], dtype=u.dtype)
    return xp.maximum(*(xp.linalg.norm(product(x.T, x) - eye) for x in (u, v)))
