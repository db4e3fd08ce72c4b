"""One pass over data that can be seen once: a sketch, and what it proves.

With P the joint table, K = MᵀM less the trivial triple is D_A^{-1/2} Pᵀ D_X⁻¹ P
D_A^{-1/2} − √p_a √p_aᵀ. Rows bring their own sums, so Pᵀ D_X⁻¹ P Ω, with the sums of
columns and Σ P² / p_x, is added up row by row, and D_A comes last. That is a Nyström
sample of K (theory.md §6.5), and as K̂ ≤ K,

    λ_i(K̂) ≤ s_i² ≤ λ_i(K̂) + tr K − tr K̂,

where tr K is known exactly: bounds that need no second look.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_key
from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.threads import held_lapack
from contexture_jax._core.types import Array, Float, short_repr
from contexture_jax.solvers._linear_map import rounding_of

__all__ = ["Sketch", "one_pass"]


@short_repr
class Sketch(NamedTuple):
    """What one look at the rows of a joint table tells of its spectrum.

    Attributes:
        singular_values: √λ_i(K̂), shape (rank,), descending; each at most the true one.
        right: functions of A, orthonormal in L²(P_A) with mean 0, shape (m, rank).
        lower: s_i is at least that, shape (rank,).
        upper: and at most that.
        total_energy: Σ_i s_i² beside the trivial 1, to rounding.
        missed_energy: tr K − tr K̂: what the sketch has not seen of it.
        rounding: what `lower` and `upper` allow for rounding in s_i².
        p_a: shape (m,).
        num_rows: n.
    """

    singular_values: Float[np.ndarray, " rank"]
    right: Float[np.ndarray, "m rank"]
    lower: Float[np.ndarray, " rank"]
    upper: Float[np.ndarray, " rank"]
    total_energy: float
    missed_energy: float
    rounding: float
    p_a: Float[np.ndarray, " m"]
    num_rows: int

    def left(self, rows: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b rank"]:
        """Functions of X at rows of the table: E[ν_i(A)|x] / s_i.

        Args:
            rows: of the joint table, of any scale each, shape (b, m).

        Returns:
            Shape (b, rank), 0 where a row has no mass or a value is 0.
        """
        rows = np.asarray(rows, self.right.dtype)
        sums, s = rows.sum(axis=1, keepdims=True), self.singular_values
        means = np.divide(
            rows @ self.right,
            sums,
            where=sums > 0,
            out=np.zeros_like(rows, shape=(len(rows), len(s))),
        )
        return np.divide(means, s, where=s > 0, out=np.zeros_like(means))


@held_lapack
def one_pass(
    blocks: Iterable[Any], rank: int, *, key: Array, width: int | None = None
) -> Sketch:
    """The spectrum of a joint table whose rows are seen once, with a certificate.

    Args:
        blocks: some rows of the table at a time, each of shape (b, m): weights of 0 or
            more, all on one scale. Read once, and nothing of them is kept.
        rank: number of values.
        key: random key.
        width: columns of the sketch, m × width numbers of memory; None: 4 rank + 10.
            The bounds are as good as what is beyond so many values is little.

    Returns:
        A `Sketch`.

    Raises:
        TypeError: if `key` is no key or a count no integer.
        ValueError: if there are no rows, their widths differ, they hold what is no
            finite number of 0 or more, all are 0, or the rank is out of range.

    References:
        Tropp, Yurtsever, Udell & Cevher 2017, *Fixed-rank approximation of a
        positive-semidefinite matrix from streaming data*, Algorithm 3.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> table = np.random.default_rng(0).random((60, 12), np.float32)
        >>> rows = (table[i : i + 20] for i in range(0, 60, 20))
        >>> sketch = cx.solvers.one_pass(rows, 3, key=jax.random.key(0), width=12)
        >>> op = cx.association_operator(cx.contexts.joint(table))
        >>> s = cx.svd(op, 3, key=jax.random.key(1))[0].singular_values
        >>> bool((sketch.lower <= s).all() & (s <= sketch.upper).all())
        True
    """
    check_key(key)
    rank = check_integer(rank, "rank", low=1)
    source = iter(blocks)
    first = next(source, None)
    if first is None:
        raise ValueError("blocks must hold rows; got none")
    m = _checked(first, None).shape[1]
    width = 4 * rank + 10 if width is None else check_integer(width, "width", low=rank)
    width = min(width, m)
    if rank >= m:
        msg = f"rank must be at most {m - 1}, one less than there are columns; got"
        raise ValueError(f"{msg} {rank}")
    test = jax.random.normal(key, (m, width), jnp.float32)
    sample, columns, energies = np.zeros((m, width)), np.zeros(m), np.zeros(m)
    num_rows, largest = 0, 0
    for block in itertools.chain([first], source):
        rows = _checked(block, m)
        num_rows += len(rows)
        # One shape for all, so that one program serves: the last may be short.
        largest = max(largest, len(rows))
        rows = np.pad(rows, ((0, largest - len(rows)), (0, 0)))
        # Sums of blocks in float64: they are many.
        parts = map(np.asarray, _part(jnp.asarray(rows), test))
        for total, part in zip((sample, columns, energies), parts, strict=True):
            total += part
    if not columns.any():
        raise ValueError("blocks must have some weight; got zeros")
    return _finished(
        np.asarray(test, np.float64), sample, columns, energies, rank, num_rows
    )


def _checked(block: Any, m: int | None) -> np.ndarray:
    rows = np.asarray(block)
    if (
        rows.ndim != 2
        or rows.dtype.kind not in "biuf"
        or m not in (None, rows.shape[1])
    ):
        wanted = "(b, m)" if m is None else f"(b, {m})"
        msg = f"blocks must be real numbers, {wanted}; got {rows.dtype}{rows.shape}"
        raise ValueError(msg)
    # NaN compares false.
    if not (rows >= 0).all() or not np.isfinite(rows).all():
        raise ValueError("blocks must hold finite weights of 0 or more")
    return rows.astype(np.float32)


@jax.jit
def _part(
    rows: Float[Array, "b m"], test: Float[Array, "m w"]
) -> tuple[Array, Array, Array]:
    """What rows add: to Pᵀ D⁻¹ P Ω, to the sums of columns, to Σ P² / Σ P."""
    inverse = safe_reciprocal(rows.sum(axis=1))[:, None]
    image = inverse * mm(rows, test)
    energies = (rows * (rows * inverse)).sum(axis=0)
    return mm(rows.T, image), rows.sum(axis=0), energies


def _finished(
    test: np.ndarray,
    sample: np.ndarray,
    columns: np.ndarray,
    energies: np.ndarray,
    rank: int,
    num_rows: int,
) -> Sketch:
    """The Nyström approximation of K, in float64, and its bounds."""
    there = columns > 0
    root = np.sqrt(columns)
    inverse = np.divide(1.0, root, where=there, out=np.zeros_like(root))
    unit = root / np.linalg.norm(root)
    # K = MᵀM maps the unit vector to itself, so both lose the same part (theory.md
    # §6.1).
    sample = inverse[:, None] * sample
    sample -= unit[:, None] * (unit @ sample)
    test = root[:, None] * test
    test -= unit[:, None] * (unit @ test)
    basis, small = np.linalg.qr(test)
    # What of the test matrix is rounding: one direction where it is as wide as A.
    kept = abs(np.diag(small)) > 1e-10 * abs(np.diag(small)).max()
    basis, small = basis[:, kept], small[kept][:, kept]
    image = np.linalg.solve(small.T, sample[:, kept].T).T
    shift = np.finfo(np.float32).eps * np.linalg.norm(image)
    image += shift * basis
    core = basis.T @ image
    values, vectors = np.linalg.eigh(0.5 * (core + core.T))
    good = values > 0
    factor = image @ (vectors[:, good] / np.sqrt(values[good]))
    u, sigma, _ = np.linalg.svd(factor, full_matrices=False)
    found = np.maximum(sigma**2 - shift, 0.0)
    total = float((energies[there] / columns[there]).sum() - 1.0)
    missed = max(total - float(found.sum()), 0.0)
    m, size = len(columns), max(num_rows, len(columns))
    rounding = rounding_of((size, m), np.float32) + shift
    # No value there is where a sketch is narrower than the rank.
    head = np.pad(found, (0, max(0, rank - len(found))))[:rank]
    u = np.pad(u, ((0, 0), (0, max(0, rank - u.shape[1]))))[:, :rank]
    lower = np.sqrt(np.maximum(head - rounding, 0.0))
    upper = np.sqrt(np.minimum(head + missed + rounding, 1.0))
    right = u * (inverse * np.sqrt(columns.sum()))[:, None]
    largest = abs(right).argmax(axis=0)
    right *= np.where(right[largest, np.arange(rank)] < 0, -1.0, 1.0)
    kinds = (np.sqrt(np.minimum(head, 1.0)), right, lower, upper)
    return Sketch(
        *(x.astype(np.float32) for x in kinds),
        total_energy=total,
        missed_energy=missed,
        rounding=float(rounding),
        p_a=(columns / columns.sum()).astype(np.float32),
        num_rows=num_rows,
    )
