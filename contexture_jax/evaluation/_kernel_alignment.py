"""Whether inputs that share contexts have similar embeddings."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from contexture_jax._core.chance import Compared, judged_by_chance
from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.intervals import check_level
from contexture_jax._core.numerics import mm
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, summary
from contexture_jax.evaluation._common import (
    as_columns,
    kernel_deltas,
    weighted_basis,
)
from contexture_jax.evaluation._pair_measures import (
    of_similarities,
    off_diagonal,
    ranked,
)
from contexture_jax.operators import AssociationOperator

__all__ = ["kernel_alignment"]


def kernel_alignment(
    phi: ArrayLike,
    op: AssociationOperator,
    *,
    key: Array,
    kind: Literal["rank", "linear"] = "rank",
    num_rows: int = 1024,
    num_permutations: int = 99,
    level: float = 0.9,
) -> Compared:
    """The correlation over pairs of rows of embeddings with what contexts they share.

    Of ⟨Φ̂(x), Φ̂(x′)⟩, Φ whitened under P_X, with k_X⁺(x, x′), x ≠ x′ (theory.md §8,
    input–input). With Ψ and `op.T` it is that of contexts with contexts. 1 where Φ̂Φ̂ᵀ
    is k_X⁺ but for a constant and a factor: all its functions at equal singular values.

    Args:
        phi: embeddings of the rows of `op`, shape (n, d), cast to the dtype of `op`.
        op: the expectation operator, shape (n, m).
        key: random key of the rows, of shuffles and groups.
        kind: Spearman's correlation, of ties the mean rank, or Pearson's, which
            rounding does not move where a kernel has few values, as that of classes.
        num_rows: how many rows with mass are drawn, all if there are no more, at least
            8; the kernel takes n times as many numbers.
        num_permutations: how many shuffles.
        level: of both intervals.

    Raises:
        ValueError: if rows do not match, a number is not finite, or an option is out of
            range.
    """
    phi = rescaled(as_columns(phi, "phi", op.shape[0]), axis=0)[0].astype(op.dtype)
    check_key(key)
    if kind not in ("rank", "linear"):
        raise ValueError(f'kind must be "rank" or "linear"; got {summary(kind)}')
    num_rows = check_integer(num_rows, "num_rows", low=8)
    check_integer(op.shape[0], "the number of rows of op", low=8)
    num = check_integer(num_permutations, "num_permutations", low=1)
    size = min(num_rows, op.shape[0])
    value, null, without = _over_pairs(
        phi, op, key, kind=kind, size=size, num_permutations=num
    )
    return judged_by_chance(value, null, without, size, check_level(level))


@functools.partial(jax.jit, static_argnames=("kind", "size", "num_permutations"))
def _over_pairs(
    phi: Float[Array, "n d"],
    op: AssociationOperator,
    key: Array,
    *,
    kind: str,
    size: int,
    num_permutations: int,
) -> Any:
    keys = jax.random.split(key)
    basis, _ = weighted_basis(phi, op.p_x, centre=True)
    # Rows without mass have no kernel: they come last.
    order = jax.random.permutation(keys[1], op.shape[0])
    rows = order[jnp.argsort(op.p_x[order] <= 0, stable=True)][:size]
    root = jnp.sqrt(op.p_x[rows])[:, None]
    white = basis[rows] / jnp.where(root > 0, root, 1)
    kernel = op.matmat(op.rmatmat(kernel_deltas(op, rows)))[rows]
    off = ~jnp.eye(size, dtype=bool)
    K, L = (jnp.where(off, x, 0) for x in (mm(white, white.T), kernel))
    if kind == "rank":
        K, L = ranked(K), ranked(L)
    return of_similarities(K, L, off_diagonal, keys[0], num_permutations)
