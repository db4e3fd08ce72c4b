"""The constraint Cov Φ = I in the forms that a user can choose (theory.md §7.3)."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_coefficient
from contexture_jax._core.moments import Batch
from contexture_jax._core.numerics import safe_reciprocal, safe_sqrt
from contexture_jax._core.scaling import times_power_of_two
from contexture_jax._core.types import Array, Float, Int, summary
from contexture_jax.losses._common import rescaled_together
from contexture_jax.losses._running import RunningMoments, running_covariance
from contexture_jax.losses._whiten import regularised, trace_ratio

__all__ = [
    "Constraint",
    "HingePenalty",
    "SquaredPenalty",
    "Whiten",
    "as_constraint",
    "constrained",
    "covariance_penalty",
    "hinge_penalty",
    "rescaled_for",
]


@dataclasses.dataclass(frozen=True)
class Whiten:
    """The constraint holds exactly: the covariance is solved inside the loss.

    The objective is then minus a ratio trace Tr C⁻¹ B, which only the span of the
    embedding enters. Choosing it by `constraint="whiten"` takes the default.

    Attributes:
        ridge: added to the diagonal of C, relative to its mean. Directions with less
            variance than that count in part only; at least 4 eps · d is added. The
            default is for laws and for batches of far more rows than columns; for wide
            embeddings take 0.01 to 1: in a batch, directions of little variance are
            noise, which exact whitening makes all of the gradient (theory.md §7.3).
    """

    ridge: float = 1e-6


@dataclasses.dataclass(frozen=True)
class SquaredPenalty:
    """γ ‖Cov Φ − I‖²_F is added: `constraint="squared"`.

    Modes with 1 − s_i² ≥ 2 γ (SVME, KISE) or ≥ γ (two views) collapse to zero.

    Attributes:
        strength: γ ≥ 0. At 0 nothing keeps the embedding from collapsing.
    """

    strength: float = 1.0


@dataclasses.dataclass(frozen=True)
class HingePenalty:
    """The penalty of the dissertation's released code: `constraint="hinge"`.

    (L / d + c_s · mean_i (1 − √(C_ii + 10⁻⁴))₊ + c_c · mean_{i≠j} C_ij²) / (1 + c_s +
    c_c), with L the objective without its constraint. Variances do not vanish, but with
    a small c_c several coordinates may turn to the same function (theory.md §7.3).

    Attributes:
        variance: c_s ≥ 0.
        covariance: c_c ≥ 0.
    """

    variance: float = 1.0
    covariance: float = 1.0


Constraint: TypeAlias = Whiten | SquaredPenalty | HingePenalty | str
"""A constraint, or the name of one with its default coefficients."""

_BY_NAME = {
    "whiten": Whiten(),
    "squared": SquaredPenalty(),
    "hinge": HingePenalty(),
}


def as_constraint(
    constraint: object,
) -> Whiten | SquaredPenalty | HingePenalty:
    """The constraint that a name stands for, with checked coefficients.

    Raises:
        TypeError: if it is neither a name nor a constraint, or a coefficient no number.
        ValueError: if the name is unknown or a coefficient out of its range.
    """
    if isinstance(constraint, str):
        if constraint not in _BY_NAME:
            names = ", ".join(map(repr, _BY_NAME))
            msg = f"constraint must be one of {names}; got {summary(constraint)}"
            raise ValueError(msg)
        return _BY_NAME[constraint]
    if not isinstance(constraint, (Whiten, SquaredPenalty, HingePenalty)):
        msg = (
            "constraint must be a name, Whiten, SquaredPenalty or HingePenalty; got"
            f" {summary(constraint)}"
        )
        raise TypeError(msg)
    # At use and not in `__post_init__`: a coefficient may be traced, as where it is
    # tuned.
    for field in dataclasses.fields(constraint):
        check_coefficient(getattr(constraint, field.name), field.name)
    return constraint


def rescaled_for(
    constraint: object, batch: Batch, *embeddings: Float[Array, "b d"]
) -> tuple[list[Float[Array, "b d"]], Int[Array, ""] | None]:
    """Under `Whiten`, which depends on no scale, `rescaled_together`; else as given."""
    # The penalties compare C with I, so the scale of the embedding is part of them.
    if isinstance(as_constraint(constraint), Whiten):
        return rescaled_together(batch, *embeddings)
    return list(embeddings), None


def covariance_penalty(C: Float[Array, "d d"]) -> Float[Array, ""]:
    """‖C − I‖²_F."""
    return jnp.sum((C - jnp.eye(C.shape[0], dtype=C.dtype)) ** 2)


def hinge_penalty(
    C: Float[Array, "d d"], epsilon: float = 1e-4
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """mean_i (1 − √(C_ii + ε))₊ and Σ_{i≠j} C_ij²."""
    variance = jnp.diagonal(C)
    # Rounding may leave a zero variance slightly negative.
    deviation = safe_sqrt(jnp.maximum(variance, 0) + epsilon)
    hinge = jnp.mean(jnp.maximum(1 - deviation, 0))
    # Subtracted before squares are taken: ‖C‖² − Σ C_ii² would cancel near the minimum.
    off_diagonal = C - jnp.diag(variance)
    return hinge, jnp.sum(off_diagonal**2)


def constrained(
    constraint: object,
    C: Float[Array, "d d"],
    B: Float[Array, "d d"],
    *,
    factor: int,
    moments: RunningMoments | None,
    exponent: Int[Array, ""] | None,
) -> Float[Array, ""]:
    """The minimand factor · (Tr C − Tr B) under C = I, in the chosen form.

    Args:
        constraint: a form or its name.
        C: the covariance, shape (d, d).
        B: the part of the objective that the constraint leaves, shape (d, d).
        factor: 1 for SVME and KISE, 2 for two views.
        moments: running moments that stand for C in `Whiten`.
        exponent: the e of `rescaled_for`, where C and B are over 4^e; None: 0.
    """
    form = as_constraint(constraint)
    # A penalty does not invert C, which is what a less noisy one would be for.
    if moments is not None and not isinstance(form, Whiten):
        msg = f"running moments serve constraint='whiten' only; got {form}"
        raise ValueError(msg)
    d = C.shape[0]
    if isinstance(form, Whiten):
        # C is inverted, so its noise does not average out over steps; B enters
        # linearly, and its noise does (theory.md §7.3, across batches).
        if moments is not None:
            C = _running_value(C, B, moments, form.ridge, exponent)
        # The ridge belongs into this form. In the residual's, Tr (C + r I)⁻¹ M,
        # directions of little variance cost nothing, and one of d functions is lost.
        return factor * (d - trace_ratio(regularised(C, form.ridge), B))
    # Alone it is least at Φ = 0, whatever B is: s_i ≤ 1.
    plain = factor * (jnp.trace(C) - jnp.trace(B))
    # Each mode is a problem of its own: θ_i = (1 − κ (1 − s_i²) / 2 γ)₊ (theory.md
    # §7.3).
    if isinstance(form, SquaredPenalty):
        return plain + form.strength * covariance_penalty(C)
    hinge, square = hinge_penalty(C)
    # A single function has no pairs: 0 / 1.
    off_diagonal = square / max(d * (d - 1), 1)
    terms = plain / d + form.variance * hinge + form.covariance * off_diagonal
    return terms / (1 + form.variance + form.covariance)


def _running_value(
    C: Float[Array, "d d"],
    B: Float[Array, "d d"],
    moments: RunningMoments,
    ridge: float,
    exponent: Int[Array, ""] | None,
) -> Float[Array, "d d"]:
    """The running covariance, with the derivative of the batch's, scaled.

    Before the first update it is the batch's own.

    Without that derivative, or with the fraction of it that an average passes on,
    shrinking the embedding would lower the loss. The scale is such that no change of
    scale does: Tr G B = scale · Tr G B G C with G the inverse of the running C. It is 1
    but for the noise of the batch, and held within [½, 2].
    """
    if moments.covariance.shape != C.shape:
        msg = (
            f"moments must be of width {C.shape[0]};"
            f" got a covariance of shape {moments.covariance.shape}"
        )
        raise ValueError(msg)
    held = jax.lax.stop_gradient
    # Traced, so a `where` and no branch of Python's.
    begun = moments.weight > 0
    covariance = running_covariance(moments)
    # Running moments keep the unit of the embeddings as given; C and B are over 4^e.
    if exponent is not None:
        covariance = times_power_of_two(covariance, -2 * exponent)
    running = jnp.where(begun, covariance.astype(C.dtype), C)
    running = held(running)
    # level is Tr G B, and the slope in C is −G B G, shape (d, d).
    level, slope = jax.value_and_grad(trace_ratio)(regularised(running, ridge), held(B))
    along = -jnp.sum(slope.matrix * held(C))
    # B of a small batch may be indefinite; a ratio of unlike signs says nothing on
    # scale.
    scale = jnp.where(along * level > 0, level * safe_reciprocal(along), 1)
    scale = held(jnp.clip(scale, 0.5, 2))
    # Summed in this order the value is the running one to the last bit.
    return running + scale * (C - held(C))
