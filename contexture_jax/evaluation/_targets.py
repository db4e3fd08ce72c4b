"""Judging a target against the operator of a context, or its singular functions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_probabilities,
    check_values,
    gathered,
    is_traced,
)
from contexture_jax._core.classes import as_classes
from contexture_jax._core.numerics import mm, safe_reciprocal, safe_sqrt
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Bool, Float, short_repr
from contexture_jax.evaluation._common import (
    as_columns,
    as_functions,
    centred_columns,
)
from contexture_jax.operators import AssociationOperator

__all__ = ["TargetEnergy", "class_energy", "compatibility", "target_energy"]


def compatibility(f: ArrayLike, op: AssociationOperator) -> Float[Array, "..."]:
    """ρ(f) = ‖T* f̃‖_{P_A} / ‖f̃‖_{P_X}, f̃ = f − E f: how well A predicts f.

    Between 0 and s_1 (Zhai et al. 2025 (CTX), Def. 13; theory.md §2). A function is
    constant when ‖f̃‖ ≤ 10 √n · eps · ‖f‖: its compatibility is undefined.
    Differentiable in `f` and in the arrays of `op`; where ρ = 0, a minimum with a kink,
    the gradient is taken as 0.

    Args:
        f: values on the rows of `op`, shape (n,), or functions as columns, shape
            (n, k); cast to the dtype of `op`.
        op: the expectation operator, shape (n, m).

    Returns:
        ρ, shape () or (k,); NaN for a constant column inside a trace.

    Raises:
        ValueError: if a concrete column is constant, or not finite.
    """
    f = as_floating(f, "f")
    # One function is a column, and its ρ a number.
    if f.ndim == 1:
        return compatibility(f[:, None], op)[0]
    f = as_functions(f, "f", op)
    p_x, p_a = op.p_x[:, None], op.p_a[:, None]
    _, centred, floor = centred_columns(f, op.p_x)
    # (k,): ‖f̃‖², each column in a unit of its own.
    variance = jnp.sum(p_x * centred**2, axis=0)
    # Of a constant column the rest is rounding, and its ρ would be that of noise.
    varies = jnp.sqrt(variance) > floor
    _require_varying(varies, "f")
    # (m, k): T* f̃.
    image = op.rmatmat(centred)
    # T* keeps the mean 0; what rounding has put there would count as predictable.
    image = image - jnp.sum(p_a * image, axis=0, keepdims=True)
    energy = jnp.sum(p_a * image**2, axis=0)
    return jnp.where(varies, safe_sqrt(energy / variance), jnp.nan)


@short_repr
class TargetEnergy(NamedTuple):
    """Where the variance of a target lies.

    Attributes:
        fractions: the share u_i² / ‖f̃‖² of each singular function, shape (rank,).
        remainder: the share outside all of them, 1 − Σ fractions, shape (). The
            shares of the first d functions sum to the best R² that any linear probe
            of them reaches.
    """

    fractions: Float[Array, " rank"]
    remainder: Float[Array, ""]


def target_energy(target: ArrayLike, left: ArrayLike, p_x: ArrayLike) -> TargetEnergy:
    """The energy of a numeric target over the singular functions (theory.md §2).

    u_i = ⟨f̃, μ_i⟩_{P_X} with f̃ = f − E f. Several columns are pooled by their
    variances: standardise them first to count each alike.

    Args:
        target: shape (n,) or (n, k), real.
        left: the functions μ_i as columns, orthonormal in L²(P_X), shape (n, rank).
        p_x: probabilities of the rows, shape (n,).

    Raises:
        ValueError: if the concrete target is constant or not finite (a trace gives
            NaN).
    """
    mu, p = _check_left(left, p_x)
    f = as_floating(target, "target")
    f = as_columns(f[:, None] if f.ndim == 1 else f, "target", mu.shape[0])
    # One unit for all columns: they are pooled by their variances, which a scale for
    # each would undo.
    f = rescaled(jnp.where(p[:, None] > 0, f, 0))[0].astype(mu.dtype)
    _, centred, floor = centred_columns(f, p)
    total = jnp.sum(p[:, None] * centred**2)
    varies = jnp.sqrt(total) > jnp.linalg.norm(floor)
    _require_varying(varies[None], "target")
    # (r,): Σ over columns of ⟨f̃, μ_i⟩².
    energy = jnp.sum(mm(mu.T, p[:, None] * centred) ** 2, axis=1)
    return _shares(energy, jnp.where(varies, total, jnp.nan))


def class_energy(
    labels: ArrayLike, left: ArrayLike, p_x: ArrayLike, num_classes: int | None = None
) -> TargetEnergy:
    """The energy of class labels over the singular functions, each class counted alike.

    The target is the centred one-hot code with column c divided by √p_c, p_c the mass
    of class c, so that rare classes weigh as much as frequent ones (theory.md §0 E1).
    Then u_i² = Var(E[μ_i | class]), the share of μ_i's variance between classes, and
    the total over all functions is C − 1.

    Args:
        labels: classes of the rows, shape (n,), integers.
        left: the functions μ_i as columns, orthonormal in L²(P_X), shape (n, rank).
        p_x: probabilities of the rows, shape (n,).
        num_classes: C, for labels 0, …, C − 1; needed inside a trace. Without it any
            integers may be labels. Classes without mass play no part.

    Raises:
        TypeError: if the labels are not integers, or traced without `num_classes`.
        ValueError: if fewer than two classes have mass (a trace gives NaN), or a label
            is not below `num_classes`.
    """
    mu, p = _check_left(left, p_x)
    codes, num_classes = _class_codes(labels, mu.shape[0], num_classes)
    # (C,)
    mass = jax.ops.segment_sum(p, codes, num_segments=num_classes)
    # Classes without mass add no dimension to the C − 1.
    present = jnp.sum(mass > 0)
    if not is_traced(present) and int(present) < 2:
        msg = f"labels must have at least 2 classes with mass; got {int(present)}"
        raise ValueError(msg)
    # (C, r): p_c E[μ_i | c]. The one-hot code itself, (n, C), is not formed.
    sums = jax.ops.segment_sum(p[:, None] * mu, codes, num_segments=num_classes)
    # Σ_c p_c E[μ_i | c]²: μ_i has mean 0, so this is its variance between classes
    # (theory.md §2.8).
    energy = jnp.sum(safe_reciprocal(mass)[:, None] * sums**2, axis=0)
    total = (present - 1).astype(mu.dtype)
    return _shares(energy, jnp.where(total > 0, total, jnp.nan))


def _require_varying(varies: Bool[Array, " k"], name: str) -> None:
    if not is_traced(varies) and not bool(jnp.all(varies)):
        where = np.flatnonzero(~gathered(varies)).tolist()
        msg = f"{name} must vary over the rows; got constant column(s) {where}"
        raise ValueError(msg)


def _shares(energy: Float[Array, " r"], total: Float[Array, ""]) -> TargetEnergy:
    # NaN where the target is constant in a trace: `total` is NaN then.
    fractions = energy / total
    return TargetEnergy(fractions, jnp.maximum(1 - jnp.sum(fractions), 0))


def _check_left(
    left: ArrayLike, p_x: ArrayLike
) -> tuple[Float[Array, "n r"], Float[Array, " n"]]:
    mu = as_columns(left, "left")
    p = as_floating(p_x, "p_x").astype(mu.dtype)
    check_probabilities(p, "p_x", mu.shape[0])
    # In a trace a NaN cannot be refused: it makes all of it NaN.
    return jnp.where(jnp.isfinite(mu).all(), mu, jnp.nan), p


def _class_codes(
    labels: ArrayLike, num_rows: int, num_classes: int | None
) -> tuple[Array, int]:
    if not is_traced(labels):
        # Those of 64 bits may be more than JAX holds.
        array = as_classes(labels, "labels", discrete=True)
        if array.dtype.kind == "U" and num_classes is not None:
            array = np.unique(array, return_inverse=True)[1]
    else:
        array = jnp.asarray(labels)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            msg = f"labels must be integers; got dtype {array.dtype}"
            raise TypeError(msg)
    if array.shape != (num_rows,):
        msg = f"labels must have shape ({num_rows},); got {array.shape}"
        raise ValueError(msg)
    if num_classes is not None:
        count = check_integer(num_classes, "num_classes", low=1)
        check_values(
            array, "labels", lambda v: (v >= 0) & (v < count), f"in 0..{count - 1}"
        )
        return jnp.asarray(array, jnp.int32), count
    if is_traced(array):
        msg = "labels must be concrete, or num_classes given; got a tracer"
        raise TypeError(msg)
    # Any integers: numbered in ascending order.
    values, codes = np.unique(np.asarray(array), return_inverse=True)
    return jnp.asarray(codes.astype(np.int32)), len(values)
