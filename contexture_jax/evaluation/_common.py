"""What the judges share: checked spectra, weighted orthonormal bases, row blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    check_finite,
    check_ndim,
    check_number,
    check_values,
    is_concrete,
)
from contexture_jax._core.either import Either, namespace
from contexture_jax._core.factorizations import thin_svd
from contexture_jax._core.numerics import (
    as_law,
    mm,
    rank_cutoff,
    safe_reciprocal,
    safe_sqrt,
)
from contexture_jax._core.processes import ready
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, Int
from contexture_jax.contexts import Context
from contexture_jax.operators import AssociationOperator

__all__ = [
    "as_columns",
    "as_epsilon",
    "as_functions",
    "as_number",
    "as_singular_values",
    "as_spectrum",
    "as_weights",
    "centred_columns",
    "kernel_deltas",
    "map_blocks",
    "require_leading",
    "singular_value_slack",
    "weighted_basis",
    "weighted_whitening",
]

# Entries of one (columns × rows) work block: 2**22 doubles are 32 MiB.
_BLOCK_ENTRIES = 2**22


def singular_value_slack(dtype: Any) -> float:
    """How far above 1 a computed singular value may lie and count as 1: 1000 eps."""
    return 1e3 * float(np.finfo(dtype).eps)


def as_singular_values(singular_values: Any) -> Float[Array, " k"]:
    """Check that values lie in [0, 1], up to rounding; keep their order."""
    if isinstance(singular_values, (AssociationOperator, Context)):
        msg = (
            "singular_values must be numbers, as svd(op, rank, ...)[0].singular_values;"
            f" got a {type(singular_values).__name__}"
        )
        raise TypeError(msg)
    s = as_floating(singular_values, "singular_values")
    check_ndim(s, 1, "singular_values")
    if s.shape[0] == 0:
        msg = "singular_values must hold at least 1 value; got shape (0,)"
        raise ValueError(msg)
    # A solver's largest value may come out above 1 by rounding; what is further is a
    # mistake of the caller's, often squares or counts.
    slack = singular_value_slack(s.dtype)
    check_values(
        s,
        "singular_values",
        lambda v: (v >= 0) & (v <= 1 + slack),
        "between 0 and 1 (the trivial value s_0 = 1 left out)",
    )
    if is_concrete(s):
        return jax.device_put(np.clip(np.asarray(s), 0, 1))
    # In a trace a NaN or an infinity makes all NaN, as a clipped one would not.
    return jnp.where(jnp.isfinite(s).all(), jnp.clip(s, 0, 1), jnp.nan)


def as_spectrum(singular_values: Any) -> Float[Array, " k"]:
    """The same in descending order: s_i is by definition the i-th largest value."""
    s = as_singular_values(singular_values)
    if is_concrete(s):
        return jax.device_put(np.sort(np.asarray(s))[::-1])
    return jnp.sort(s, descending=True)


def require_leading(
    s: Float[Either, " k"], num_values: int, complete: bool
) -> Float[Either, " num_values"]:
    """The `num_values` largest values; those missing are 0 if `s` is `complete`."""
    missing = num_values - s.shape[0]
    # Values beyond those asked for play no part, whether they are known or not.
    if missing <= 0:
        return s[:num_values]
    if not complete:
        msg = (
            f"singular_values must hold at least {num_values} values; got {s.shape[0]}."
            " If the context has no others (they are 0), pass complete=True"
        )
        raise ValueError(msg)
    return namespace(s).pad(s, (0, missing))


def as_epsilon(epsilon: ArrayLike, largest: Float[Array, ""]) -> Float[Array, ""]:
    """Check that 0 ≤ ε ≤ 1 and that some function has compatibility 1 − ε ≤ s_1."""
    # In the dtype of the spectrum it is compared with.
    eps = as_floating(epsilon, "epsilon").astype(largest.dtype)
    check_ndim(eps, 0, "epsilon")
    check_values(eps, "epsilon", lambda v: (v >= 0) & (v <= 1), "between 0 and 1")
    # The range depends on s_1: in a trace the caller returns NaN outside it instead.
    if is_concrete(eps, largest):
        lowest = 1 - float(largest)
        if float(eps) < lowest - singular_value_slack(eps.dtype):
            msg = (
                f"epsilon must be at least 1 - s_1 = {lowest:.6g}, since no function"
                f" has a compatibility above s_1; got {float(eps):.6g}"
            )
            raise ValueError(msg)
    return eps


def as_columns(x: Any, name: str, num_rows: int | None = None) -> Float[Array, "n d"]:
    """Convert to a finite matrix with at least one column and, if told, its rows.

    Raises:
        ValueError: if the shape is another, or an entry of a concrete matrix is NaN or
            infinite; in a trace what is made of such a matrix is NaN.
    """
    x = as_floating(x, name)
    check_ndim(x, 2, name)
    if x.shape[1] == 0:
        msg = f"{name} must have at least 1 column; got shape {x.shape}"
        raise ValueError(msg)
    if num_rows is not None and x.shape[0] != num_rows:
        msg = f"{name} must have {num_rows} rows; got shape {x.shape}"
        raise ValueError(msg)
    check_finite(x, name)
    return x


def as_functions(x: Any, name: str, op: AssociationOperator) -> Float[Array, "n d"]:
    """Functions on the rows of an operator as columns, each at a scale of its own.

    In the dtype of `op`, and 0 on rows without mass.
    """
    x = as_columns(x, name, op.shape[0])
    return rescaled(jnp.where(op.p_x[:, None] > 0, x, 0), axis=0)[0].astype(op.dtype)


def as_number(value: Any, name: str) -> float:
    """A finite number on the host."""
    number = check_number(value, name)
    check_finite(np.asarray(number), name)
    return number


def as_weights(weights: Any, num_rows: int, dtype: Any) -> Float[Array, " n"]:
    """Weights that sum to 1; uniform where None."""
    if weights is None:
        return jnp.full(num_rows, 1 / num_rows, dtype=dtype)
    return as_law(weights, "weights", num_rows, dtype)


def weighted_basis(
    x: Float[Array, "n d"], weights: Float[Array, " n"], *, centre: bool
) -> tuple[Float[Array, "n d"], Int[Array, ""]]:
    """An orthonormal basis of √weights · span(x), and its rank.

    Columns are brought to one scale before the SVD, so that its cutoff judges
    directions and not scales: singular values not above `rank_cutoff`, 10 √max(n, d) ·
    eps · s_max, are 0. So is a column whose norm after centring is at most
    10 √max(n, d) · eps times the norm before: the rest of a constant is rounding. Each
    column may have a scale of its own, as large or small as the dtype has.

    The derivative (both modes) is that of the span: with the basis Q of Y = Q R, Q̇ = (I
    − Q Qᵀ) Ẏ R⁺. It is right for whatever does not depend on the choice of the basis,
    also where singular values of Y agree and those of an SVD would be infinite.

    Args:
        x: functions as columns, shape (n, d).
        weights: probabilities of the rows, shape (n,).
        centre: take the weighted mean off each column first.

    Returns:
        The basis, shape (n, d), whose columns from `rank` on are 0, and the rank. In a
        trace all NaN, and d, where an entry is not finite.
    """
    n, d = x.shape
    # Rows without mass may hold anything; 0 times it need not be 0.
    x, _ = rescaled(jnp.where(weights[:, None] > 0, x, 0), axis=0)
    _, scaled, _ = _at_one_scale(x, weights, centre=centre)
    basis, rank = _span(scaled)
    # n rows span no more than n directions: the others are 0, so that shapes follow d.
    return jnp.pad(basis, ((0, 0), (0, d - min(n, d)))), rank


def weighted_whitening(
    x: Float[Array, "n d"], weights: Float[Array, " n"]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """The mean, and W with (x − mean) W orthonormal in L²(weights); 0 beyond its rank.

    √weights · (x − mean) W is the basis of `weighted_basis`, with its cutoffs. W is in
    the scale of x, which must allow for it: bring x to its own by `rescaled`.
    """
    d = x.shape[1]
    mean, scaled, scale = _at_one_scale(x, weights, centre=True)
    _, _, inverse = _span_and_inverse(scaled)
    # (d, k): (x − mean) · scale has columns of length 1, and R⁺ makes them orthonormal.
    whitening = scale[:, None] * inverse
    return mean, jnp.pad(whitening, ((0, 0), (0, d - whitening.shape[1])))


def centred_columns(
    x: Float[Array, "n d"], weights: Float[Array, " n"]
) -> tuple[Float[Array, " d"], Float[Array, "n d"], Float[Array, " d"]]:
    """The mean, x − mean, and the length in L² below which that is rounding.

    Far from 0 the mean is rounded by more than columns vary. There x − mean is exact,
    and what is left of the mean is taken off in a second pass: of a constant column
    no more than rounding of that rest remains, and of x its last digits.
    """
    # Lengths in L²(P) are Euclidean ones of √p · x.
    root = safe_sqrt(weights)[:, None]
    first = mm(weights[None, :], x)[0]
    # Numbers within a factor of 2 of the mean are subtracted without rounding
    # (Sterbenz), so that `rest` is x less a wrong mean, exactly.
    rest = x - first[None, :]
    second = mm(weights[None, :], rest)[0]
    of_rest, of_x = (jnp.linalg.norm(root * z, axis=0) for z in (rest, x))
    digits = 4 * float(jnp.finfo(x.dtype).eps)
    # Two kinds of rounding: of the second mean, relative to the rest, and of x itself,
    # as it was given.
    floor = jnp.maximum(_relative_floor(x) * of_rest, digits * of_x)
    return first + second, rest - second[None, :], floor


def _relative_floor(x: Float[Array, "n d"]) -> Float[Array, ""]:
    return rank_cutoff((x.shape[0], x.shape[1]), x.dtype, jnp.ones((), dtype=x.dtype))


def _at_one_scale(
    x: Float[Array, "n d"], weights: Float[Array, " n"], *, centre: bool
) -> tuple[Float[Array, " d"], Float[Array, "n d"], Float[Array, " d"]]:
    """The mean (or 0), √weights · (x − mean) with columns of length 1, their scale."""
    root = safe_sqrt(weights)[:, None]
    if centre:
        mean, rest, floor = centred_columns(x, weights)
        y = root * rest
    else:
        # Without centring the constant is a direction like any other.
        mean, y = jnp.zeros_like(x[0]), root * x
        floor = _relative_floor(y) * jnp.linalg.norm(y, axis=0)
    # Scales do not change the span: they are constants.
    norm, floor = jax.lax.stop_gradient((jnp.linalg.norm(y, axis=0), floor))
    # A column that is rounding becomes 0; scaled up it would be a direction.
    scale = safe_reciprocal(jnp.where(norm > floor, norm, 0))
    return ready((mean, y * scale[None, :], scale))


@jax.custom_jvp
def _span(y: Float[Array, "n d"]) -> tuple[Float[Array, "n k"], Int[Array, ""]]:
    """An orthonormal basis of the columns, 0 from the rank on, k = min(n, d)."""
    basis, rank, _ = _span_and_inverse(y)
    return basis, rank


@_span.defjvp
def _(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    basis, rank, inverse = _span_and_inverse(*primals)
    # (n, k): Ẏ R⁺ less its part in the span. What turns the basis within the span is
    # left out, as nothing that may be differentiated here depends on it.
    moved = mm(*tangents, inverse)
    moved = moved - mm(basis, mm(basis.T, moved))
    return (basis, rank), (moved, np.zeros((), jax.dtypes.float0))


def _span_and_inverse(
    y: Float[Array, "n d"],
) -> tuple[Float[Array, "n k"], Int[Array, ""], Float[Array, "d k"]]:
    """The basis Q of Y = Q R, its rank, and R⁺."""
    n, d = y.shape
    # LAPACK is asked nothing about NaN: 0 goes in, and NaN comes out.
    finite = jnp.isfinite(y).all()
    basis, s, rotation = thin_svd(jnp.where(finite, y, 0))
    # s has columns of length 1 behind it, so that s[0] lies between 1 and √d.
    keep = s > rank_cutoff((n, d), y.dtype, s[0])
    inverse = rotation.T * safe_reciprocal(jnp.where(keep, s, 0))[None, :]
    # Columns beyond the rank are 0 in both: products see the span alone.
    basis, inverse = (
        jnp.where(finite, z, jnp.nan)
        for z in (jnp.where(keep[None, :], basis, 0), inverse)
    )
    return ready((basis, jnp.where(finite, jnp.sum(keep), d), inverse))


def map_blocks(
    fn: Callable[[Int[Array, " b"]], Array],
    indices: Int[Array, " k"],
    *,
    row_entries: int,
) -> Array:
    """Apply `fn` to blocks of indices, so many that b · row_entries ≤ 2²² (or b = 1).

    Args:
        fn: maps (b,) indices to an array whose leading axis is b.
        indices: what to map over, shape (k,).
        row_entries: entries of work space that one index takes.

    Returns:
        The results, joined along the leading axis, k in all.
    """
    count = indices.shape[0]
    # At least one, however large its row is: there is no smaller piece.
    block = max(1, min(count, _BLOCK_ENTRIES // max(1, row_entries)))
    num_blocks = -(-count // block)
    # The last block is filled up with its last index: one shape, hence one program.
    padded = jnp.pad(indices, (0, num_blocks * block - count), mode="edge")
    out = jax.lax.map(fn, padded.reshape(num_blocks, block))
    return out.reshape(num_blocks * block, *out.shape[2:])[:count]


def kernel_deltas(
    op: AssociationOperator, indices: Int[Array, " b"]
) -> Float[Array, "n b"]:
    """The functions 1[x = x_j] / P_X(x_j), whose image under T T* is k_X⁺(·, x_j)."""
    rows = jnp.arange(op.shape[0], dtype=indices.dtype)
    # Rows without mass have no δ function; theirs is 0.
    heights = safe_reciprocal(op.p_x)[indices]
    return jnp.where(rows[:, None] == indices[None, :], heights[None, :], 0)
