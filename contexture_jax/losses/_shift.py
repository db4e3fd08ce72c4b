"""Reductions of per-example losses: what to minimise where the test law is another.

Each takes losses, shape (b,), such as `cross_entropies` gives, where a mean would stand
(theory.md §9.1). Thresholds are one number for the batch of all devices. Where a model
can fit every row, all of them have the same minimum (theory.md §9.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import (
    as_floating,
    as_real,
    check_coefficient,
    check_integer,
    check_ndim,
    check_nonnegative,
    check_number,
    check_values,
    is_concrete,
)
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.risks import chi_squared_risk, descending, tail_mean
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.losses._supervised import as_codes

__all__ = [
    "chi_squared_dro",
    "cvar",
    "group_dro",
    "group_weighted",
    "importance_weighted",
    "with_group_weights",
]


def cvar(
    losses: ArrayLike,
    alpha: float | Array,
    *,
    trim: float | Array = 0.0,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """The mean of the worst share α of the losses: inf_η E(ℓ − η)₊ / α + η.

    It is sup E_Q ℓ over dQ/dP ≤ 1 / α. The row at the α-quantile counts with the share
    of its mass that is needed, and rows that tie there count alike, so that the value
    is exact for any α; the gradient is Q, piecewise constant. With `trim` = ε the worst
    ε are dropped first, as outliers, by the same rule (DORO): mean of the next
    α (1 − ε), over that.

    Args:
        losses: ℓ, shape (b,), floating.
        alpha: α in (0, 1]; 1 is the mean.
        trim: ε in [0, 1).
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    Raises:
        TypeError: if something is not floating.
        ValueError: if a shape or a number is out of range.

    References:
        Rockafellar & Uryasev 2000; DORO: Zhai, Dan, Kolter, Ravikumar 2021, arXiv
        2106.06142, whose formula for CVaR is this where n ε and n α (1 − ε) are whole,
        and otherwise leaves out a part of the sum; theory.md §9.1.

    Example:
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> losses = jnp.array([4.0, 1.0, 2.0, 1.0])
        >>> [round(float(cx.losses.cvar(losses, a)), 4) for a in (0.25, 0.5, 0.75)]
        [4.0, 3.0, 2.3333]
        >>> round(float(cx.losses.cvar(losses, 1 / 3, trim=0.25)), 4)
        2.0
    """
    values, batch = _as_losses(losses, weights, axis_name)
    check_values(alpha, "alpha", lambda v: (v > 0) & (v <= 1), "in (0, 1]")
    order = descending(values, batch)
    share, epsilon = _number(alpha, values, "alpha"), _trim(trim, values)
    return tail_mean(values, batch, order, share, epsilon)


def chi_squared_dro(
    losses: ArrayLike,
    radius: float | Array,
    *,
    trim: float | Array = 0.0,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """The largest mean under a law near that of the batch: sup E_Q ℓ, χ²(Q, P) ≤ ρ.

    χ²(Q, P) = E_P (dQ/dP − 1)². By duality it is inf_η √(1 + ρ) √E(ℓ − η)₊² + η, solved
    exactly by one sort; for small ρ the mean + √(ρ Var ℓ). With the mass of the largest
    loss at 1 / (1 + ρ) or more it is that loss. Derivatives of any order are those of
    the risk where no loss is at the best η; where all are equal the gradient is P.

    Args:
        losses: ℓ, shape (b,), floating.
        radius: ρ ≥ 0, finite; (1 / α − 1)² in the terms of the references.
        trim: as `cvar`.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    Raises:
        TypeError: if something is not floating.
        ValueError: if a shape or a number is out of range.

    References:
        Duchi & Namkoong 2021, arXiv 1810.08750; Hashimoto et al. 2018, arXiv
        1806.08010; theory.md §9.1.
    """
    values, batch = _as_losses(losses, weights, axis_name)
    check_coefficient(radius, "radius")
    order = descending(values, batch)
    rho, epsilon = _number(radius, values, "radius"), _trim(trim, values)
    return chi_squared_risk(values, batch, order, rho, epsilon)


def importance_weighted(
    losses: ArrayLike,
    ratios: ArrayLike,
    *,
    clip: float | Array | None = None,
    normalised: bool = True,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """E w ℓ / E w with w = dQ/dP: the mean under another law Q, from rows of P.

    Args:
        losses: ℓ, shape (b,), floating.
        ratios: w, shape (b,), non-negative; in any scale if `normalised`.
        clip: the largest w that counts, which bounds the variance at the price of bias;
            None: all.
        normalised: whether to divide by E w over the whole batch, which bounds the
            result by the losses; without, E w ℓ has no bias if E w = 1.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    Raises:
        TypeError: if something is not floating.
        ValueError: if a shape or a number is out of range.
    """
    values, batch = _as_losses(losses, weights, axis_name)
    w = as_floating(ratios, "ratios").astype(values.dtype)
    if w.shape != values.shape:
        msg = f"ratios must have shape {values.shape}, as losses; got {w.shape}"
        raise ValueError(msg)
    check_nonnegative(w, "ratios")
    if clip is not None:
        check_coefficient(clip, "clip", positive=True)
        w = jnp.minimum(w, clip)
    if not normalised:
        return batch.mean(w * values)
    base = w if batch.probabilities is None else w * batch.probabilities
    return batch_of(values, weights=base, axis_name=axis_name).mean(values)


def group_weighted(
    losses: ArrayLike,
    groups: ArrayLike,
    group_weights: ArrayLike,
    *,
    group_probabilities: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """Σ_g q_g E[ℓ | g]: every group counts as told, however many rows it has.

    Args:
        losses: ℓ, shape (b,), floating.
        groups: g, shape (b,), integers in 0, …, G − 1.
        group_weights: q, shape (G,), non-negative, summing to 1 for a mean.
        group_probabilities: P(g), shape (G,), in place of those of the batch: then
            Σ_g q_g E[1_g ℓ] / P(g), which batches estimate without bias.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut. A group without a row in
            the whole batch adds 0.

    Raises:
        TypeError: if losses or weights are not floating, or groups no integers.
        ValueError: if a shape or a number is out of range.
    """
    values, batch = _as_losses(losses, weights, axis_name)
    q = _as_group_weights(group_weights, "group_weights", values.dtype)
    sums, masses = _by_group(values, groups, q.shape[0], batch)
    if group_probabilities is not None:
        name = "group_probabilities"
        p = _as_group_weights(group_probabilities, name, values.dtype)
        if p.shape != q.shape:
            msg = f"group_probabilities must have shape {q.shape}; got {p.shape}"
            raise ValueError(msg)
        masses = p
    return jnp.sum(q * safe_divide(sums, masses))


def group_dro(
    losses: ArrayLike,
    groups: ArrayLike,
    group_weights: ArrayLike,
    *,
    rate: float | Array = 0.01,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> tuple[Float[Array, ""], Float[Array, " g"]]:
    """Σ_g q_g E[ℓ | g], with q raised first where the loss is high (Group DRO).

    q_g ← q_g exp(η E[ℓ | g]), normalised: a step of mirror ascent towards the worst
    group. Groups without a row in the batch keep their weight, and only the others
    share out theirs, so that a constant added to all losses changes no weight;
    published code counts an absent group as one of loss 0, whose weight falls.

    Args:
        losses: ℓ, shape (b,), floating.
        groups: g, shape (b,), integers in 0, …, G − 1.
        group_weights: q so far, shape (G,), summing to 1.
        rate: η > 0.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    Returns:
        The loss, through whose weights no gradient passes, and the new q, the same on
        every device.

    Raises:
        TypeError: as `group_weighted`.
        ValueError: as `group_weighted`.

    References:
        Sagawa, Koh, Hashimoto, Liang 2020, arXiv 1911.08731, Algorithm 1.
    """
    check_coefficient(rate, "rate", positive=True)
    values, batch = _as_losses(losses, weights, axis_name)
    q = _as_group_weights(group_weights, "group_weights")
    means, present = _group_means(values, groups, q.shape[0], batch)
    raised = _raised(q, jax.lax.stop_gradient(means).astype(q.dtype), present, rate)
    return jnp.sum(raised.astype(values.dtype) * means), raised


def with_group_weights(
    loss: Callable[..., Array], num_groups: int, *, rate: float = 0.01
) -> tuple[Callable[..., Any], Float[Array, " g"]]:
    """The objective of a train step by `group_dro`, and its first state.

    Args:
        loss: per-example losses of embeddings, called as `loss(*embeddings)`, such as
            `cross_entropies`.
        num_groups: G.
        rate: η of `group_dro`.

    Returns:
        `objective(embeddings, q, *, axis_name=None)`, where `embeddings` is a tuple
        with the groups of the rows last, which gives `(loss, (q, metrics))` with the
        loss and the weight of each group among the metrics; and uniform weights q,
        float32, to start it with.

    Example:
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> objective, q = cx.losses.with_group_weights(cx.losses.squared_errors, 2)
        >>> rows = (jnp.ones((3, 1)), jnp.zeros((3, 1)), jnp.array([0, 1, 1]))
        >>> value, (q, metrics) = objective(rows, q)
        >>> float(value), sorted(metrics)
        (1.0, ['loss_0', 'loss_1', 'weight_0', 'weight_1'])
    """
    count = check_integer(num_groups, "num_groups", low=1)
    step = check_coefficient(rate, "rate", positive=True)

    def objective(
        embeddings: Any, q: Any, *, axis_name: Any = None
    ) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        *parts, groups = embeddings
        values, batch = _as_losses(loss(*parts), None, axis_name)
        value, q = group_dro(values, groups, q, rate=step, axis_name=axis_name)
        means, _ = _group_means(values, groups, count, batch)
        metrics = {f"loss_{g}": mean for g, mean in enumerate(means)}
        metrics |= {f"weight_{g}": weight for g, weight in enumerate(q)}
        return value, (q, metrics)

    return objective, jnp.full(count, 1 / count, jnp.float32)


def _as_losses(
    losses: ArrayLike, weights: Any, axis_name: Any
) -> tuple[Float[Array, " b"], Batch]:
    values = as_floating(losses, "losses")
    check_ndim(values, 1, "losses")
    return values, batch_of(values, weights=weights, axis_name=axis_name)


def _number(number: Any, values: Array, name: str) -> Any:
    # A traced one in the dtype of the losses; others are Python's.
    if is_concrete(number):
        return check_number(number, name)
    return number.astype(values.dtype)


def _trim(trim: Any, values: Array) -> Any:
    check_values(trim, "trim", lambda v: (v >= 0) & (v < 1), "in [0, 1)")
    return _number(trim, values, "trim")


def _as_group_weights(
    weights: ArrayLike, name: str, dtype: Any = None
) -> Float[Array, " g"]:
    # Rounded on the host, where they lie there: no float64 in a program of float32.
    given = as_real(weights, name)
    q = as_floating(given, name) if dtype is None else jnp.asarray(given, dtype)
    check_ndim(q, 1, name)
    check_nonnegative(q, name)
    return q


def _by_group(
    values: Float[Array, " b"], groups: ArrayLike, num_groups: int, batch: Batch
) -> tuple[Float[Array, " g"], Float[Array, " g"]]:
    """E 1_g ℓ and P(g), over all devices."""
    codes = as_codes(groups, values.shape[0], num_groups, "groups")
    one_hot = jax.nn.one_hot(codes, num_groups, dtype=values.dtype)
    return batch.mean(one_hot * values[:, None]), batch.mean(one_hot)


def _group_means(
    values: Float[Array, " b"], groups: ArrayLike, num_groups: int, batch: Batch
) -> tuple[Float[Array, " g"], Array]:
    """E[ℓ | g], 0 of a group without rows, and which have some."""
    sums, masses = _by_group(values, groups, num_groups, batch)
    return safe_divide(sums, masses), masses > 0


def _raised(
    q: Float[Array, " g"], means: Float[Array, " g"], present: Array, rate: Any
) -> Float[Array, " g"]:
    """The weights after a step; groups that are present share out their own mass."""
    least = jnp.finfo(q.dtype).min
    scores = rate * means
    # The largest off, or the exponential of a large loss would overflow.
    scores = scores - jnp.max(jnp.where(present, scores, least))
    grown = jnp.where(present, q * jnp.exp(jnp.where(present, scores, 0)), 0)
    mass = jnp.sum(jnp.where(present, q, 0))
    return jnp.where(present, mass * safe_divide(grown, jnp.sum(grown)), q)
