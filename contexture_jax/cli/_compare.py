"""What is learned beside what is exact.

Imports JAX; the command imports this only after the input has been found good.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import contexture_jax as cx

__all__ = ["compare", "exact_spectrum", "tie_at"]

_NUM_SHUFFLES = 19
_TIE = 1e-4


def exact_spectrum(
    op: cx.AssociationOperator, rank: int, most: int, *, seed: int
) -> tuple[cx.SVDResult, str]:
    """The exact functions, one more than asked for if there is one, and how sure.

    The one more tells whether the rank cuts a cluster.
    """
    result, info = cx.svd(op, min(rank + 1, most), key=jax.random.key(seed))
    return jax.device_get(result), str(info.status)


def tie_at(singular_values: Any, rank: int) -> list[str]:
    """A note if the last function taken and the first left out have one value."""
    if singular_values.shape[0] <= rank:
        return []
    last, following = np.asarray(singular_values)[rank - 1 : rank + 1]
    if last - following > _TIE * last:
        return []
    return [
        f"functions {rank} and {rank + 1} have the same singular value, {last:.4g}:"
        " which of them are taken is chance, and only the ratio trace (not CCA, k-NN,"
        " CKA or the probe) tells how good the learned ones are; take another --rank"
    ]


def compare(
    left: Any, exact: cx.SVDResult, op: cx.AssociationOperator, *, seed: int
) -> dict[str, Any]:
    """Learned functions, shape (n, rank), beside the exact ones."""
    found = cx.evaluation.alignment(
        left,
        exact,
        op,
        key=jax.random.key(seed),
        num_neighbors=min(10, op.shape[0] - 1),
        num_shuffles=_NUM_SHUFFLES,
    )
    measures = {
        name: getattr(found, name)
        for name in ("cca", "mutual_knn", "cka", "ratio_trace")
    }
    return {
        **{name: float(measured.value) for name, measured in measures.items()},
        "nulls": {
            name: float(measured.null.upper) for name, measured in measures.items()
        },
        "clusters": [
            {"first": first + 1, "last": end, "squared_cosine": cosine}
            for (first, end), cosine in zip(
                found.clusters, found.cluster_cosines, strict=True
            )
        ],
    }
