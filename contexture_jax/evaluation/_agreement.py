"""Whether clusters of a representation are classes, beside chance."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.chance import (
    Compared,
    judged_by_chance,
    without_groups,
)
from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.classes import class_codes
from contexture_jax._core.intervals import check_level
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr

__all__ = ["ClusterAgreement", "cluster_agreement"]


@short_repr
class ClusterAgreement(NamedTuple):
    """How far clusters and classes are one partition.

    Attributes:
        purity: the share of rows whose class is the most frequent of their cluster; 1
            where no cluster mixes classes, so also where each row is one.
        nmi: mutual information over the mean of both entropies; 1 where the partitions
            are one.
    """

    purity: Compared
    nmi: Compared


def cluster_agreement(
    clusters: ArrayLike,
    labels: ArrayLike,
    *,
    key: Array,
    num_permutations: int = 99,
    level: float = 0.9,
) -> ClusterAgreement:
    """The purity of clusters for classes and their normalised mutual information.

    Both grow with the number of clusters for any labels: read the null, of labels that
    are shuffled. Clusters are the caller's, as those of k-means.

    Args:
        clusters: the cluster of each row, integers or text, shape (n,), n ≥ 8.
        labels: the class of each row, likewise.
        key: random key of shuffles and groups.
        num_permutations: how many shuffles.
        level: of both intervals.

    Raises:
        TypeError: if one of them holds no classes.
        ValueError: if lengths differ, rows are fewer than 8, or there is one class.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> found = cx.evaluation.cluster_agreement(
        ...     [0, 0, 1, 1, 2, 2] * 5, list("aabbbb") * 5, key=jax.random.key(0)
        ... )
        >>> round(float(found.purity.value), 3), round(float(found.nmi.value), 3)
        (1.0, 0.734)
    """
    names, a = class_codes(clusters, "clusters", discrete=True)
    classes, b = class_codes(labels, "labels", discrete=True)
    if len(a) != len(b):
        raise ValueError(f"labels must have {len(a)} rows, as clusters; got {len(b)}")
    check_integer(len(a), "the number of rows of clusters", low=8)
    if len(classes) < 2:
        msg = f"labels must hold at least 2 classes; got {classes.tolist()}"
        raise ValueError(msg)
    check_key(key)
    num = check_integer(num_permutations, "num_permutations", low=1)
    codes = jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32)
    sizes = len(names), len(classes)
    return _agreed(*codes, key, sizes, num, check_level(level))


@functools.partial(jax.jit, static_argnames=("sizes", "num_permutations", "level"))
def _agreed(
    a: Int[Array, " n"],
    b: Int[Array, " n"],
    key: Array,
    sizes: tuple[int, int],
    num_permutations: int,
    level: float,
) -> ClusterAgreement:
    n = a.shape[0]
    keys = jax.random.split(key)
    dtype = jnp.zeros(()).dtype
    of_a, of_b = (
        jax.nn.one_hot(x, size, dtype=dtype)
        for x, size in zip((a, b), sizes, strict=True)
    )

    def both(of_a: Float[Array, "k a"], of_b: Float[Array, "k b"]) -> Float[Array, "2"]:
        joint = mm(of_a.T, of_b) / of_a.shape[0]
        entropies = [_entropy(joint.sum(axis=axis)) for axis in (0, 1)]
        shared = entropies[0] + entropies[1] - _entropy(joint.reshape(-1))
        nmi = safe_divide(2 * shared, entropies[0] + entropies[1])
        return jnp.stack([joint.max(axis=1).sum(), jnp.maximum(nmi, 0)])

    null = jax.lax.map(
        lambda one: both(of_a, jax.random.permutation(one, of_b)),
        jax.random.split(keys[0], num_permutations),
    )
    groups = without_groups(lambda rows: both(of_a[rows], of_b[rows]), keys[1], n)
    value = both(of_a, of_b)
    return ClusterAgreement(
        *(
            judged_by_chance(value[i], null[:, i], groups[:, i], n, level)
            for i in range(2)
        )
    )


def _entropy(p: Float[Array, " k"]) -> Float[Array, ""]:
    return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)))
