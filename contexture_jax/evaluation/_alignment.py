"""How close learned functions are to the exact ones, beside what chance would give."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    check_finite,
    check_integer,
    check_key,
)
from contexture_jax._core.fingerprint import of_one_law
from contexture_jax._core.intervals import Interval
from contexture_jax._core.numerics import (
    safe_divide,
)
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation._common import (
    as_columns,
    as_number,
    as_spectrum,
)
from contexture_jax.evaluation._encoders import ratio_trace
from contexture_jax.evaluation._similarity import (
    cca,
    cka,
    mutual_knn,
    principal_angles,
)
from contexture_jax.operators import AssociationOperator

__all__ = ["Alignment", "Measured", "alignment", "cluster_cosines", "clusters"]


@short_repr
class Measured(NamedTuple):
    """A measure of alignment, beside what chance gives it.

    Attributes:
        value: of the embedding.
        null: the same with the rows of one side shuffled: the mean over k shuffles
            between the smallest and the largest. A further one is above the largest
            with a probability of 1 / (k + 1), so that the level is (k − 1) / (k + 1).
    """

    value: Float[Array, ""]
    null: Interval


@short_repr
class Alignment(NamedTuple):
    """An embedding beside the exact singular functions of a context.

    Attributes:
        cca: mean squared canonical correlation.
        mutual_knn: share of common nearest neighbours, of whitened features.
        cka: centred kernel alignment of the features as given.
        ratio_trace: Tr(C⁻¹ B) over its largest value Σ_{i≤d} s_i².
        clusters: bounds (first, end) of clusters of near-equal singular values.
        cluster_cosines: mean squared cosine of the principal angles of each cluster.
    """

    cca: Measured
    mutual_knn: Measured
    cka: Measured
    ratio_trace: Measured
    clusters: list[tuple[int, int]]
    cluster_cosines: list[float]


def clusters(singular_values: ArrayLike, *, gap: float = 0.01) -> list[tuple[int, int]]:
    """Runs of singular values whose neighbours differ by at most `gap`, on the host.

    Functions of a cluster are an arbitrary basis: compare its span, never its
    functions.

    Args:
        singular_values: shape (k,), in [0, 1].
        gap: the largest difference between neighbours of one cluster.

    Returns:
        (first, end) of each, in descending order of the values.
    """
    as_number(gap, "gap")
    s = np.asarray(as_spectrum(singular_values))
    # By neighbours: a run of small steps is one cluster, however far apart its ends
    # are.
    cuts = np.flatnonzero(s[:-1] - s[1:] > gap) + 1
    ends = [0, *cuts.tolist(), len(s)]
    return list(itertools.pairwise(ends))


def cluster_cosines(
    a: ArrayLike,
    b: ArrayLike,
    bounds: list[tuple[int, int]],
    weights: ArrayLike | None = None,
) -> list[float]:
    """Mean squared cosine of the principal angles between spans of like columns.

    Args:
        a: ordered functions as columns, shape (n, d), as of `rayleigh_ritz`.
        b: others, shape (n, d2), as of `svd`.
        bounds: column ranges, as of `clusters`; those that end beyond d or d2 are left
            out, as a part of a cluster has no span of its own.
        weights: probabilities of the rows, shape (n,); uniform by default.
    """
    a, b = as_columns(a, "a"), as_columns(b, "b")
    width = min(a.shape[1], b.shape[1])
    return [
        # One pair of spans a cluster, whose widths differ: no common shape to map over.
        float(jnp.mean(jnp.cos(principal_angles(a[:, i:j], b[:, i:j], weights)) ** 2))
        for i, j in bounds
        if j <= width
    ]


def alignment(
    phi: ArrayLike,
    exact: Any,
    op: AssociationOperator,
    *,
    key: Array,
    num_neighbors: int = 10,
    num_shuffles: int = 19,
    gap: float = 0.01,
) -> Alignment:
    """Compare an encoder with the exact singular functions of its context.

    Args:
        phi: ordered functions, as `rayleigh_ritz(...).left`, shape (n, d).
        exact: the `SVDResult` of `op`, at least d triples.
        op: the operator, shape (n, m).
        key: random key of the shuffles.
        num_neighbors: of the mutual k-NN.
        num_shuffles: how often rows of `phi` are shuffled for the nulls.
        gap: as for `clusters`.

    Raises:
        ValueError: if shapes do not fit, `phi` is not finite, or `exact` is the result
            of another operator.
    """
    check_key(key)
    num_shuffles = check_integer(num_shuffles, "num_shuffles", low=1)
    # No measure sees the scale.
    phi = rescaled(as_columns(phi, "phi", op.shape[0]))[0].astype(op.dtype)
    check_finite(exact.left, "exact.left")
    of_one_law(exact.fingerprint, op.fingerprint, "op must be the operator of exact")
    d = phi.shape[1]
    # Columns of phi are compared with as many exact functions, and their energy with
    # Σ_{i≤d} s_i².
    s = as_spectrum(exact.singular_values)
    if s.shape[0] < d:
        msg = f"exact must hold at least {d} triples, one a column of phi"
        raise ValueError(f"{msg}; got {s.shape[0]}")
    mu = exact.left[:, :d]
    # The same shuffles for all four measures.
    orders = [
        jax.random.permutation(k, phi.shape[0])
        for k in jax.random.split(key, num_shuffles)
    ]

    def measured(measure: Callable[..., Array], *others: Any) -> Measured:
        null = jnp.stack([measure(phi[order], *others) for order in orders])
        chance = Interval(null.mean(), null.min(), null.max(), level)
        return Measured(measure(phi, *others), chance)

    level = (num_shuffles - 1) / (num_shuffles + 1)
    # The largest ratio trace that d functions can have (theory.md §2.6).
    best = (s[:d] ** 2).sum()
    bounds = clusters(s, gap=gap)
    return Alignment(
        measured(_cca, mu, op.p_x),
        # Not one program: outside a trace its neighbours are exact, and sooner found.
        measured(lambda z: mutual_knn(z, mu, num_neighbors, whiten=True)),
        measured(_cka, mu, op.p_x),
        measured(_share_of_trace, op, best),
        [pair for pair in bounds if pair[1] <= d],
        cluster_cosines(phi, mu, bounds, op.p_x),
    )


# One program each, for all shuffles and for the next call.
_cca, _cka = jax.jit(cca), jax.jit(cka)


@jax.jit
def _share_of_trace(
    z: Float[Array, "n d"], op: AssociationOperator, best: Float[Array, ""]
) -> Float[Array, ""]:
    return safe_divide(ratio_trace(z, op), best)
