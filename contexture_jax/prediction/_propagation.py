"""Label propagation: what a walk between inputs carries from the labelled ones."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import check_integer, check_number, is_concrete
from contexture_jax._core.either import (
    as_devices,
    at_hand,
    namespace,
    product,
    quotient,
)
from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Bool,
    Float,
    Int,
    pytree_dataclass,
    summary,
)
from contexture_jax.operators import AssociationOperator
from contexture_jax.prediction._equations import check_self_adjoint, on_inputs
from contexture_jax.prediction._gradients import conjugate_gradients, lengths
from contexture_jax.prediction._status import FitStatus, code_of, status_of
from contexture_jax.prediction._stkr import as_labelled, as_tolerance
from contexture_jax.prediction._target import Scored

__all__ = [
    "Propagation",
    "as_alpha",
    "check_walk",
    "label_propagation",
    "walked_from",
]


@pytree_dataclass
class Propagation(Scored):
    """Labels on all inputs.

    Attributes:
        values: shares of the classes, which sum to 1, or means of numbers, shape
            (n, c).
        reached: which inputs a labelled one leads to, shape (n,), bool; the others have
            the mean of the labels.
        residuals: of the equations, over the right-hand side, shape (c,).
        num_iterations: shape ().
        code: how the solve ended, as `FitStatus.code`, shape ().
    """

    values: Float[Array, "n c"]
    reached: Bool[Array, " n"]
    residuals: Float[Array, " c"]
    num_iterations: Int[Array, ""]
    code: Int[Array, ""]

    @property
    def status(self) -> FitStatus | Any:
        """How the solve ended: a `FitStatus`; the code inside a trace."""
        return status_of(self.code)

    def predict(self) -> Array | np.ndarray:
        """Classes, or numbers in the form of the labels, on all inputs."""
        return self.decided(self.values)


def label_propagation(
    op: AssociationOperator,
    labels: ArrayLike,
    rows: ArrayLike,
    *,
    kind: Literal["zhou", "zhu"] = "zhou",
    alpha: float = 0.99,
    walk: Literal["double", "single"] = "double",
    num_classes: int | None = None,
    tol: float | None = None,
    max_iterations: int = 2000,
) -> Propagation:
    """Zhou's or Zhu's label propagation by the walk of a context, matrix-free.

    With P the walk between inputs, W = D P its symmetric weights, D ∝ P_X, and Y the
    indicators at labelled inputs, 0 elsewhere:

    * "zhou" (Zhou, Bousquet, Lal, Weston & Schölkopf 2003): F = (I − α S)⁻¹ Y with
      S = D^{-1/2} W D^{-1/2};
    * "zhu" (Zhu, Ghahramani & Lafferty 2003): F = Y at labelled inputs and P F = F at
      all others, F_U = (D_UU − W_UU)⁻¹ W_UL Y_L.

    Values are F over the sum of its row, which changes no row's order: shares of the
    classes, the same weighted mean of numbers. **Rows without neighbours:** where no
    labelled input leads, F is 0 and both methods say nothing; there the value is the
    mean of the labels, and `reached` is False.

    Both are limits of `stkr` without an intercept (theory.md §8.3): Zhou's that of s =
    λ / (1 − α λ) for β → ∞, on inputs without a label; Zhu's that of s = 1 / (1 − λ)
    for β → 0.

    Args:
        op: the context, shape (n, m).
        labels: as of `stkr`.
        rows: likewise, distinct.
        kind: whose.
        alpha: α of Zhou's, at least 0 and below 1.
        walk: "double": P = T T*, a step to A and back, of any context; "single": P = T,
            where T is self-adjoint, as of `contexts.graph`.
        num_classes: as of `stkr`.
        tol: likewise.
        max_iterations: of conjugate gradients.

    Raises:
        TypeError: as `stkr`.
        ValueError: as `stkr`, and if rows repeat, α is out of range, or T is not
            self-adjoint with a single step.
    """
    numbers, target, w = as_labelled(op, labels, rows, None, num_classes)
    if kind not in ("zhou", "zhu"):
        raise ValueError(f'kind must be "zhou" or "zhu"; got {summary(kind)}')
    alpha = as_alpha(alpha)
    check_walk(op, numbers, walk)
    limit = as_tolerance(tol, op.dtype)
    max_iterations = check_integer(max_iterations, "max_iterations", low=1)
    columns, w = at_hand((target.columns, w))
    xp = namespace(columns)
    # With a column that any label fills: where it stays 0 no label leads.
    with_one = xp.concatenate([columns, xp.ones_like(columns[:, :1])], axis=1)
    f, residuals, number = walked_from(
        op,
        on_inputs(numbers, with_one, op.shape[0]),
        jnp.asarray(alpha, op.dtype),
        limit,
        is_zhou=kind == "zhou",
        is_single=walk == "single",
        max_iterations=max_iterations,
    )
    f, residuals, number, limit = at_hand((f, residuals, number, limit))
    xp, residuals = namespace(f), residuals[:-1]
    finite = xp.isfinite(residuals).all() & xp.isfinite(f).all()
    code = code_of(finite, (residuals <= limit).all(), number >= max_iterations)
    reached = finite & (f[:, -1] > 0)
    mean = product(w[None, :], columns)
    with np.errstate(all="ignore"):
        shares = quotient(f[:, :-1], f[:, -1:])
    found = (
        xp.where(reached[:, None], shares, mean),
        reached,
        xp.where(finite, residuals, np.inf),
        number,
        code,
    )
    return Propagation(target.classes, target.is_vector, *as_devices(found))


def as_alpha(alpha: Any) -> float:
    """A checked α of Zhou's."""
    alpha = check_number(alpha, "alpha")
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be at least 0 and below 1; got {alpha:g}")
    return alpha


def check_walk(op: AssociationOperator, rows: Array, walk: Any) -> None:
    """Refuse rows named twice, and a walk that the context has not."""
    if walk not in ("double", "single"):
        raise ValueError(f'walk must be "double" or "single"; got {summary(walk)}')
    if is_concrete(rows) and len(np.unique(rows)) < len(rows):
        raise ValueError("rows must be distinct; got one twice")
    if walk == "single":
        check_self_adjoint(op)


# A loop around products, traced once for operators and blocks of one shape.
@functools.partial(jax.jit, static_argnames=("is_zhou", "is_single", "max_iterations"))
def walked_from(
    op: AssociationOperator,
    y: Float[Array, "n k"],
    alpha: Float[Array, ""],
    tol: Float[Array, ""],
    *,
    is_zhou: bool,
    is_single: bool,
    max_iterations: int,
) -> tuple[Float[Array, "n k"], Float[Array, " k"], Int[Array, ""]]:
    """What a walk carries from inputs, in units of its own: residuals, iterations.

    Args:
        op: T.
        y: labels, 0 of the other inputs; of Zhu's walk the last column is 1 of a label.
        alpha: α of Zhou's.
        tol: of the residuals.
        is_zhou: whose.
        is_single: whether a step is T, and not T T*.
        max_iterations: of conjugate gradients.
    """

    def walked(f: Array) -> Array:
        return op.matmat(f if is_single else op.rmatmat(f))

    p = op.p_x[:, None]
    if is_zhou:
        # √D f with (I − α P) f = D^{-1/2} Y; rows are divided by their sum.
        b = safe_divide(y, jnp.sqrt(p))

        def apply(f: Array) -> Array:
            return f - alpha * walked(f)
    else:
        free = 1 - y[:, -1:]
        b = free * walked(y)

        def apply(f: Array) -> Array:
            return free * (f - walked(free * f))

    f, number = conjugate_gradients(
        apply, b, op.p_x, tol=tol / 2, max_iterations=max_iterations
    )
    left, right = lengths(b - apply(f), op.p_x), lengths(b, op.p_x)
    return f if is_zhou else f + y, safe_divide(left, right), number
