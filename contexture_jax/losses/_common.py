"""What the objectives share: checked embeddings, and the moments of two views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import (
    as_floating,
    check_ndim,
    check_nonnegative,
    check_values,
)
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.numerics import mm, safe_reciprocal, safe_sqrt
from contexture_jax._core.scaling import common_exponent, times_power_of_two
from contexture_jax._core.types import Array, ArrayLike, Float, Int, short_repr

__all__ = [
    "ViewMoments",
    "as_embedding",
    "as_kernel_batch",
    "as_pair",
    "as_views",
    "frobenius",
    "kernel_moment",
    "rescaled_together",
    "tail_weights",
    "through_kernels",
    "unit_rows",
    "unit_variance",
    "view_moments",
]


def as_embedding(x: ArrayLike, name: str) -> Float[Array, "b d"]:
    """Check an embedding of shape (b, d); f16 and bf16 become f32."""
    z = as_floating(x, name)
    check_ndim(z, 2, name)
    # Moments of no rows are 0 / 0, and of no columns there is nothing to learn.
    if 0 in z.shape:
        msg = f"{name} must have at least 1 row and 1 column; got shape {z.shape}"
        raise ValueError(msg)
    return z


def as_views(
    z: ArrayLike, z_plus: ArrayLike
) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
    """Check embeddings of two views of the same rows by one encoder."""
    return as_pair(z, z_plus, ("z", "z_plus"))


def as_pair(
    x: ArrayLike,
    y: ArrayLike,
    names: tuple[str, str] = ("phi", "psi"),
    *,
    same_width: bool = True,
) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
    """Check two embeddings of the same rows and bring them to one dtype."""
    a, b = as_embedding(x, names[0]), as_embedding(y, names[1])
    if a.shape[0] != b.shape[0] or (same_width and a.shape != b.shape):
        what = "the same shape (b, d)" if same_width else "the same number of rows"
        msg = f"{names[0]} and {names[1]} must have {what}; got {a.shape} and {b.shape}"
        raise ValueError(msg)
    # The wider of the two; `as_embedding` has raised half precision already.
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def rescaled_together(
    batch: Batch, *embeddings: Float[Array, "b d"]
) -> tuple[list[Float[Array, "b d"]], Int[Array, ""]]:
    """The embeddings times 2^(−e), of entries below 4 in modulus, and e.

    The largest is that of all devices, and no gradient passes through e. Rows without
    probability become 0 and have no part in it: at the scale of the others they may
    leave the range.
    """
    some = list(embeddings)
    if batch.probabilities is not None:
        present = batch.probabilities[:, None] > 0
        some = [jnp.where(present, z, 0) for z in some]
    # One exponent for all of them, and for all devices: products of two embeddings keep
    # their ratio, and every device forms the same loss.
    exponent = common_exponent(*some, axis_name=batch.axis_name)
    # Its inverse has to be a normal number too.
    dtype = some[0].dtype
    most = jnp.finfo(dtype).maxexp - 2
    exponent = jnp.clip(exponent, -most, most)
    scale = times_power_of_two(jnp.ones((), dtype), -exponent)
    # A power of two times a number in range rounds nothing.
    return [z * scale for z in some], exponent


def frobenius(a: Float[Array, "k l"], b: Float[Array, "k l"]) -> Float[Array, ""]:
    """⟨A, B⟩ = Tr Aᵀ B, without the product."""
    return jnp.sum(a * b)


def unit_rows(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Rows over their norms; a row of zeros stays, with the gradient 0."""
    # A plain norm has no derivative at 0, and one such row makes every gradient NaN.
    return x * safe_reciprocal(safe_sqrt(jnp.sum(x**2, axis=1)))[:, None]


def unit_variance(
    z: Float[Array, "b d"], z_plus: Float[Array, "b d"], batch: Batch
) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
    """Columns over their root mean square in both views; a column of zeros stays."""
    # (d,). Both views have one law, so they share one scale: the moments of theory.md
    # §7.4 are those of one set of functions.
    square = (batch.mean(z**2) + batch.mean(z_plus**2)) / 2
    scale = safe_reciprocal(safe_sqrt(square))[None, :]
    return z * scale, z_plus * scale


@short_repr
class ViewMoments(NamedTuple):
    """Second moments of two views that have one law.

    Attributes:
        covariance: C = E z zᵀ over both views, shape (d, d).
        positive: R = E z z⁺ᵀ, symmetrised, shape (d, d).
    """

    covariance: Float[Array, "d d"]
    positive: Float[Array, "d d"]


def view_moments(
    z: Float[Array, "b d"],
    z_plus: Float[Array, "b d"],
    batch: Batch,
    *,
    centre: bool = True,
    unbiased: bool = False,
    hold_rows: bool = False,
) -> ViewMoments:
    """Covariance and positive moment of two views by two products in place of three.

    With S the moment of z + z⁺ and M that of z − z⁺, C = (S + M) / 4 and R = (S − M) /
    4. The mean is that of both views; it cancels in M, so that S alone takes Bessel's
    factor if the estimate is to be unbiased. With `hold_rows` no gradient passes
    through the functions of the rows of C and R, only through those of the columns.
    """
    # (b, d) each; S and M of theory.md §7.7.
    total, difference = z + z_plus, z - z_plus
    if centre:
        total = batch.centre(total)
    rows = (total, difference)
    if hold_rows:
        rows = jax.lax.stop_gradient(rows)
    # (d, d) each, as are C and R. By construction R is the symmetric part of E z z⁺ᵀ:
    # that of the law is symmetric, the rest of a batch's is noise.
    S: Any = batch.moment(rows[0], total)
    M = batch.moment(rows[1], difference)
    if centre and unbiased:
        S = S * batch.bessel()
    return ViewMoments((S + M) / 4, (S - M) / 4)


def as_kernel_batch(
    phi: ArrayLike, kernel_matrix: ArrayLike, weights: Any, axis_name: Any
) -> tuple[Float[Array, "b d"], Float[Array, "b n"], Batch]:
    """Check embeddings and the kernel from their rows to those of all devices."""
    f = as_embedding(phi, "phi")
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    return f, _as_kernel(kernel_matrix, "kernel_matrix", f, batch), batch


def _as_kernel(
    kernel_matrix: ArrayLike, name: str, f: Float[Array, "b d"], batch: Batch
) -> Float[Array, "b n"]:
    k = as_floating(kernel_matrix, name).astype(f.dtype)
    if k.shape != (f.shape[0], batch.global_size):
        msg = (
            f"{name} must have one row for each local row and one column for each"
            " row of all devices, shape"
            f" {(f.shape[0], batch.global_size)}; got {k.shape}"
        )
        raise ValueError(msg)
    return k


def through_kernels(
    f: Float[Array, "b d"], kernels: Sequence[ArrayLike], batch: Batch
) -> Float[Array, "b d"]:
    """T_{k_r} … T_{k_1} of centred functions, at the rows of the batch, centred.

    Each step is the mean of k(x, x') f(x') over the other rows x' of the batch.
    """
    for number, given in enumerate(kernels):
        k = _as_kernel(given, f"kernels[{number}]", f, batch)
        f = batch.centre(_mean_over_others(f, k, batch))
    return f


def _mean_over_others(
    f: Float[Array, "b d"], k: Float[Array, "b n"], batch: Batch
) -> Float[Array, "b d"]:
    """E k(x, X') f(X') at each row x, over rows X' of all devices but x itself."""
    # (i, i) is no pair of independent rows (theory.md §7.7), and the diagonal of a dual
    # kernel is its largest part, 1 + χ² (§1.3).
    own = batch.row_numbers()[:, None]
    k = jnp.where(own == jnp.arange(k.shape[1])[None, :], 0, k) * batch.bessel()
    return mm(k, _weighted_everyone(f, batch))


def _weighted_everyone(f: Float[Array, "b d"], batch: Batch) -> Float[Array, "n d"]:
    """The rows of all devices, each times its probability."""
    # A row meets the rows of all devices, and gradients go back to where each came
    # from.
    everyone = batch.gather(f)
    if batch.probabilities is None:
        return everyone / batch.global_size
    # The law of X' goes with the columns of k; that of X comes in `moment`.
    return batch.gather(batch.probabilities)[:, None] * everyone


def kernel_moment(
    f: Float[Array, "b d"], k: Float[Array, "b n"], batch: Batch, unbiased: bool
) -> Float[Array, "d d"]:
    """E f(X) k(X, X') f(X')ᵀ, symmetrised; f centred."""
    # (b, N) × (N, d), then (d, b) × (b, d): no product is larger than the kernel.
    if unbiased:
        K = batch.moment(f, _mean_over_others(f, k, batch))
    else:
        K = batch.moment(f, mm(k, _weighted_everyone(f, batch)))
    # A trace against a symmetric matrix sees no more than this part.
    return (K + K.T) / 2


def tail_weights(mode_weights: Any, d: int, dtype: Any) -> Float[Array, " d"]:
    """m_l = Σ_{j≥l} α_j of the weights α of a joint nesting; None: 1 / d each."""
    if mode_weights is None:
        alpha = jnp.full(d, 1 / d, dtype=dtype)
    else:
        alpha = as_floating(mode_weights, "mode_weights").astype(dtype)
        if alpha.shape != (d,):
            msg = f"mode_weights must have shape ({d},); got {alpha.shape}"
            raise ValueError(msg)
        check_nonnegative(alpha, "mode_weights")
        # Without the last the functions from there on would not be learned at all.
        check_values(
            alpha[-1:], "the last of mode_weights", lambda v: v > 0, "positive"
        )
    # Every nested problem from l on has mode l in it.
    return jnp.cumsum(alpha[::-1])[::-1]
