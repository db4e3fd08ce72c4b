"""Moments that run across batches: a pytree and the pure functions that update it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_values,
    floating_dtype,
)
from contexture_jax._core.moments import batch_of
from contexture_jax._core.numerics import mm, safe_divide
from contexture_jax._core.scaling import common_exponent, times_power_of_two
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.losses._common import as_embedding
from contexture_jax.losses._whiten import cholesky, regularised

__all__ = [
    "RunningMoments",
    "init_moments",
    "running_covariance",
    "running_mean",
    "update_moments",
    "whiten",
    "with_running_moments",
]


@short_repr
class RunningMoments(NamedTuple):
    """Exponentially weighted sums of batch means and covariances.

    The same on every device. Divide by `weight`, as `running_mean` and
    `running_covariance` do, for averages that are right from the first batch on.

    Attributes:
        mean: weighted sum of the means, shape (d,), floating.
        covariance: weighted sum of the covariances about each batch's mean, unbiased,
            shape (d, d).
        weight: sum of the weights, shape (); 0 before the first batch, 1 in the limit.
    """

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]
    weight: Float[Array, ""]


def init_moments(dim: int, dtype: Any = jnp.float32) -> RunningMoments:
    """Running moments of embeddings of width `dim` before any batch.

    Args:
        dim: d, at least 1.
        dtype: of the embeddings; half precision is kept in float32.
    """
    d = check_integer(dim, "dim", low=1)
    dtype = floating_dtype(dtype)
    return RunningMoments(
        jnp.zeros(d, dtype), jnp.zeros((d, d), dtype), jnp.zeros((), dtype)
    )


def update_moments(
    moments: RunningMoments,
    *embeddings: ArrayLike,
    decay: float | Float[Array, ""] = 0.9,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> RunningMoments:
    """Add a batch: decay · moments + (1 − decay) · (those of all devices' rows).

    No gradient passes: an objective that is given running moments takes their value
    and the derivative of its batch's own.

    Args:
        moments: so far.
        *embeddings: of one law, each of shape (b, d); their moments are averaged.
        decay: weight of the past, in [0, 1).
        weights: of the rows, shape (b,).
        axis_name: the mapped axis of the devices.

    Raises:
        ValueError: if widths disagree, or the batch has fewer than 2 rows.
    """
    if not embeddings:
        msg = "update_moments needs at least 1 embedding; got none"
        raise ValueError(msg)
    check_values(decay, "decay", lambda v: (v >= 0) & (v < 1), "in [0, 1)")
    # That of the state: a step must return its state in the dtype it came in.
    dtype = moments.covariance.dtype
    means, covariances = [], []
    for number, given in enumerate(embeddings):
        z = jax.lax.stop_gradient(as_embedding(given, f"embeddings[{number}]"))
        z = z.astype(dtype)
        if z.shape[1] != moments.mean.shape[0]:
            msg = (
                f"embeddings[{number}] must be of width {moments.mean.shape[0]}, as the"
                f" moments; got shape {z.shape}"
            )
            raise ValueError(msg)
        batch = batch_of(z, weights=weights, axis_name=axis_name)
        mean = batch.mean(z)
        # About this batch's own mean, as the loss takes it. Raw second moments less the
        # square of the running mean would count the drift of that mean as variance.
        centred = z - mean[None, :]
        means.append(mean)
        covariances.append(batch.moment(centred, centred) * batch.bessel())
    keep = as_floating(decay, "decay").astype(dtype)
    # The same weights for all three sums: their quotients are averages from the first
    # batch on, as Adam's bias correction has it.
    fresh = (1 - keep) / len(embeddings)
    return RunningMoments(
        keep * moments.mean + fresh * sum(means[1:], means[0]),
        keep * moments.covariance + fresh * sum(covariances[1:], covariances[0]),
        keep * moments.weight + (1 - keep),
    )


def running_mean(moments: RunningMoments) -> Float[Array, " d"]:
    """The average of the batch means, shape (d,); 0 before any batch."""
    return safe_divide(moments.mean, moments.weight)


def running_covariance(moments: RunningMoments) -> Float[Array, "d d"]:
    """The average of the batch covariances, shape (d, d); 0 before any batch."""
    return safe_divide(moments.covariance, moments.weight)


def whiten(
    x: ArrayLike, moments: RunningMoments, *, ridge: float = 1e-6
) -> Float[Array, "b d"]:
    """Embeddings with mean 0 and covariance I under the running moments.

    (x − mean) L⁻ᵀ with Cov = L Lᵀ, the Cholesky factor: column i depends on the first i
    columns of `x` only. Directions without variance come out as 0, up to the ridge.

    Args:
        x: shape (b, d).
        moments: of the same width.
        ridge: as `Whiten`.
    """
    z = as_embedding(x, "x")
    if z.shape[1] != moments.mean.shape[0]:
        msg = f"x must be of width {moments.mean.shape[0]}; got shape {z.shape}"
        raise ValueError(msg)
    covariance = running_covariance(moments)
    # C is a square of embeddings: over 4^half its entries are near 1, as the floor in
    # `regularised` takes for granted, and rows are over 2^half.
    half = common_exponent(covariance) // 2
    C = regularised(times_power_of_two(covariance, -2 * half), ridge)
    factor = cholesky(C.matrix).astype(z.dtype)
    centred = z - running_mean(moments).astype(z.dtype)[None, :]
    centred = times_power_of_two(centred, -half)
    # L⁻ᵀ of size d once, and one product for all rows: a solve for each of b rows has d
    # steps that wait for one another.
    identity = jnp.eye(z.shape[1], dtype=z.dtype)
    return mm(centred, solve_triangular(factor, identity, lower=True).T)


def with_running_moments(
    loss: Callable[..., Array], *, decay: float = 0.9, num_views: int = 1
) -> Callable[..., tuple[Array, tuple[RunningMoments, dict[str, Array]]]]:
    """The objective of a train step whose state is the running moments.

    Args:
        loss: called as `loss(*embeddings, moments=..., axis_name=...)`: `svme`, `kise`,
            `kise_pairs`, `non_contrastive` or `graph`, or a partial one of them.
        decay: as `update_moments`.
        num_views: how many of the leading embeddings have the constrained law: 1 for
            `svme` and `kise`, 2 for the losses of two views.

    Returns:
        `objective(embeddings, moments, *, axis_name=None)`, which gives
        `(loss, (moments, metrics))`; start it with `init_moments`.
    """
    count = check_integer(num_views, "num_views", low=1)

    def objective(
        embeddings: Any, moments: RunningMoments, *, axis_name: Any = None
    ) -> tuple[Array, tuple[RunningMoments, dict[str, Array]]]:
        many = embeddings if isinstance(embeddings, (tuple, list)) else (embeddings,)
        # With this batch before the loss reads them: the first step has moments as
        # well.
        updated = update_moments(
            moments, *many[:count], decay=decay, axis_name=axis_name
        )
        return loss(*many, moments=updated, axis_name=axis_name), (updated, {})

    return objective
