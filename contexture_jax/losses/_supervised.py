"""Supervised objectives: squared error, class-balanced error, cross entropy.

`squared_errors` and `cross_entropies` are those of each row, for the reductions of
`_shift`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    as_real,
    check_integer,
    check_nonnegative,
    check_values,
)
from contexture_jax._core.classes import text_codes
from contexture_jax._core.moments import Batch, batch_of
from contexture_jax._core.numerics import mm, safe_reciprocal, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float, Int, summary
from contexture_jax.losses._common import as_embedding, rescaled_together
from contexture_jax.losses._whiten import regularised, trace_ratio

__all__ = [
    "as_codes",
    "class_balanced",
    "cross_entropies",
    "cross_entropy",
    "squared_error",
    "squared_errors",
]

Head = tuple[ArrayLike, ArrayLike | None]
"""A linear head (W, b) of shapes (d, k) and (k,); b may be None."""


def squared_error(
    phi: ArrayLike,
    target: ArrayLike,
    *,
    head: Head | None = None,
    bias: bool = True,
    ridge: float = 1e-6,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """E ‖Φ(X) W + b − Y‖², minimised over the linear head or with a given one.

    Without a head it is the risk of the best head on the batch of all devices,
    Tr C_y − Tr C_φ⁻¹ C_φy C_yφ, in covariances with a bias and in raw second moments
    without one. Minimum E ‖Ỹ‖² − Σ_{i≤d} κ_i with a bias (E ‖Y‖² without), where κ_i
    are the leading eigenvalues of T Λ T* and Λ has the kernel ⟨ỹ, ỹ'⟩ (⟨y, y'⟩).
    Recovers the span of its top-d eigenfunctions, the constant not excluded without a
    bias: the contexture of labels only where classes are balanced; `class_balanced` for
    the exact one.

    With a given head the same infimum holds over Φ and head together.

    Args:
        phi: embeddings of x, shape (b, d).
        target: y, shape (b,) or (b, k), floating; one-hot rows for classes.
        head: (W, b), parameters of the model, shapes (d, k) and (k,) or None; None: the
            best one is solved for by one Cholesky.
        bias: whether the head that is solved for has a bias.
        ridge: as `Whiten`, for the head that is solved for.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai et al. 2025 (CTX), §3, Thms 6 and 8; theory.md §7.5.
    """
    f = as_embedding(phi, "phi")
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    if head is not None:
        # A given head makes it a mean over rows, and the optimiser moves the head as
        # well.
        return batch.mean(squared_errors(f, target, head=head))
    return _best_head(f, _as_target(target, f), batch, bias, ridge)


def squared_errors(
    phi: ArrayLike, target: ArrayLike, *, head: Head | None = None
) -> Float[Array, " b"]:
    """‖Φ(x) W + b − y‖² of each row, to be reduced by a mean, `cvar` or another.

    Args:
        phi: embeddings of x, shape (b, d); the predictions themselves without a head.
        target: y, shape (b,) or (b, k), floating.
        head: (W, b), shapes (d, k) and (k,) or None; None: `phi` predicts, k = d.

    Returns:
        Shape (b,).
    """
    f = as_embedding(phi, "phi")
    y = _as_target(target, f)
    if head is None and y.shape != f.shape:
        msg = f"target must have the shape of phi, {f.shape}; got {y.shape}"
        raise ValueError(msg)
    predicted = f if head is None else _apply(f, head, y.shape[1])
    return jnp.sum((predicted - y) ** 2, axis=1)


def class_balanced(
    phi: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    class_probabilities: ArrayLike | None = None,
    scaling: str = "target",
    head: Head | None = None,
    ridge: float = 1e-6,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """E ‖Φ(X) W + b − e_A / √P_A(A)‖²: labels with every class counted alike.

    Minimum C − 1 − Σ_{i≤d} s_i²; recovers the contexture of the labels exactly, as a
    span (theory.md §0 E1). `scaling="loss"` is the class-balanced risk as printed,
    E P_A(A)^{−1/2} ‖Φ(X) W + b − e_A‖²: the weight changes the inner product of
    L²(P_X) as well, and the span it learns is in general *not* the contexture.

    Args:
        phi: embeddings of x, shape (b, d).
        labels: a, shape (b,), integers in 0, …, C − 1; or text that names all C
            classes, numbered in the order of the names.
        num_classes: C.
        class_probabilities: P_A, shape (C,); None: those of the batch of all devices. A
            class of probability 0 plays no part.
        scaling: "target" (exact) or "loss" (as printed).
        head: as `squared_error`.
        ridge: as `squared_error`.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    References:
        Zhai et al. 2025 (CTX), Thm 7; theory.md §0 E1.
    """
    f = as_embedding(phi, "phi")
    count = check_integer(num_classes, "num_classes", low=1)
    codes = as_codes(labels, f.shape[0], count)
    if scaling not in ("target", "loss"):
        msg = f"scaling must be 'target' or 'loss'; got {summary(scaling)}"
        raise ValueError(msg)
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    # (b, C)
    one_hot = jax.nn.one_hot(codes, count, dtype=f.dtype)
    if class_probabilities is None:
        p = batch.mean(one_hot)
    else:
        p = as_floating(class_probabilities, "class_probabilities").astype(f.dtype)
        if p.shape != (count,):
            msg = f"class_probabilities must have shape ({count},); got {p.shape}"
            raise ValueError(msg)
        check_nonnegative(p, "class_probabilities")
    # (C,): p_a^(−1/2), and 0 for a class that never occurs.
    heights = safe_reciprocal(safe_sqrt(p))
    # E1: Λ is then the identity on mean-zero functions, so that T Λ T* is T T* without
    # its trivial part.
    if scaling == "target":
        y, total = one_hot * heights[None, :], None
    else:
        y = one_hot
        # The printed risk, as a least squares problem under ω P_X (E1): the weights are
        # p_i p_a^(−1/2), which `batch_of` makes a law, and its mass goes back in at the
        # end.
        row = heights[codes]
        total = batch.mean(row)
        base = row if batch.probabilities is None else row * batch.probabilities
        batch = batch_of(f, weights=base, axis_name=axis_name)
    if head is not None:
        # Under the law of this scaling, whichever it is.
        error = batch.mean(jnp.sum((_apply(f, head, count) - y) ** 2, axis=1))
    else:
        error = _best_head(f, y, batch, True, ridge)
    return error if total is None else total * error


def cross_entropy(
    phi: ArrayLike,
    labels: ArrayLike,
    *,
    head: Head | None = None,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """−E log softmax(Φ(X) W + b)_A.

    Minimum H(A | X), the conditional entropy, where logits are log P(a | x) + c(x);
    reached if d is large enough for them. Neither a span nor an order of the contexture
    is determined. A mean over examples, so that averages over devices would do here.

    Args:
        phi: embeddings of x, shape (b, d); the logits themselves without a head.
        labels: a, shape (b,), integers in 0, …, k − 1, or text as `class_balanced`; or
            probabilities, shape (b, k).
        head: (W, b), shapes (d, k) and (k,) or None; None: `phi` holds logits, k = d.
        weights: of the rows, shape (b,).
        axis_name: the mapped axis over which the batch is cut.
    """
    f = as_embedding(phi, "phi")
    batch = batch_of(f, weights=weights, axis_name=axis_name)
    return batch.mean(cross_entropies(f, labels, head=head))


def cross_entropies(
    phi: ArrayLike, labels: ArrayLike, *, head: Head | None = None
) -> Float[Array, " b"]:
    """−log softmax(Φ(x) W + b)_a of each row, to be reduced by a mean, `cvar` or so on.

    Args:
        phi: as `cross_entropy`.
        labels: as `cross_entropy`.
        head: as `cross_entropy`.

    Returns:
        Shape (b,).

    Example:
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> losses = cx.losses.cross_entropies(jnp.eye(2), jnp.array([0, 0]))
        >>> bool(cx.losses.cvar(losses, 0.5) == losses[1])
        True
    """
    f = as_embedding(phi, "phi")
    logits = f if head is None else _apply(f, head, None)
    k = logits.shape[1]
    # (b, k); the logarithm of a softmax that underflows would be −∞.
    log_probabilities = jax.nn.log_softmax(logits, axis=1)
    # Text becomes numbers here, so that the test below tells labels from probabilities.
    given = as_real(text_codes(labels, "labels", k), "labels")
    if _is_integer(given):
        codes = as_codes(given, f.shape[0], k)
        return -jnp.take_along_axis(log_probabilities, codes[:, None], axis=1)[:, 0]
    target = as_floating(given, "labels").astype(f.dtype)
    if target.shape != logits.shape:
        msg = (
            f"labels must be integers of shape ({f.shape[0]},) or probabilities of"
            f" shape {logits.shape}; got shape {target.shape}"
        )
        raise ValueError(msg)
    check_nonnegative(target, "labels")
    return -jnp.sum(target * log_probabilities, axis=1)


def _best_head(
    f: Float[Array, "b d"],
    y: Float[Array, "b k"],
    batch: Batch,
    bias: bool,
    ridge: float,
) -> Float[Array, ""]:
    # The risk of the best head does not depend on the unit of Φ; that of Y is its own.
    (f,), _ = rescaled_together(batch, f)
    if bias:
        f, y = batch.centre(f), batch.centre(y)
    # (d, d) and (d, k)
    C, cross = batch.moment(f, f), batch.moment(f, y)
    # Tr C_y without the (k, k) product.
    energy = batch.mean(jnp.sum(y**2, axis=1))
    # Only C is inverted, so that k classes cost products and no factorisation
    # (theory.md §7.5). The ridge can only raise the risk.
    return energy - trace_ratio(regularised(C, ridge), mm(cross, cross.T))


def _apply(f: Float[Array, "b d"], head: Head, width: int | None) -> Array:
    if not isinstance(head, (tuple, list)) or len(head) != 2:
        msg = f"head must be a pair (W, b); got {type(head).__name__}"
        raise TypeError(msg)
    # Parameters may be in another dtype than embeddings; the loss is in theirs.
    W = as_floating(head[0], "head[0]").astype(f.dtype)
    k = W.shape[1] if width is None and W.ndim == 2 else width
    if W.shape != (f.shape[1], k):
        msg = f"head[0] must have shape {(f.shape[1], k or 'k')}; got {W.shape}"
        raise ValueError(msg)
    out = mm(f, W)
    if head[1] is None:
        return out
    b = as_floating(head[1], "head[1]").astype(f.dtype)
    if b.shape != (W.shape[1],):
        msg = f"head[1] must have shape ({W.shape[1]},); got {b.shape}"
        raise ValueError(msg)
    return out + b[None, :]


def _as_target(target: ArrayLike, f: Float[Array, "b d"]) -> Float[Array, "b k"]:
    y = as_floating(target, "target").astype(f.dtype)
    # A vector is one target; broadcast against (b, k) it would be taken for a row.
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[0] != f.shape[0]:
        msg = f"target must have shape ({f.shape[0]}, k); got {y.shape}"
        raise ValueError(msg)
    return y


def _is_integer(labels: Array | np.ndarray) -> bool:
    return labels.dtype == bool or bool(jnp.issubdtype(labels.dtype, jnp.integer))


def as_codes(
    labels: ArrayLike, num_rows: int, num_classes: int, name: str = "labels"
) -> Int[Array, " b"]:
    """Check classes of rows, and number them if they are text."""
    numbered = as_real(text_codes(labels, name, num_classes), name)
    if not _is_integer(numbered):
        msg = f"{name} must be integers, or text; got dtype {numbered.dtype}"
        raise TypeError(msg)
    codes = numbered
    if codes.shape != (num_rows,):
        msg = f"{name} must have shape ({num_rows},); got {codes.shape}"
        raise ValueError(msg)
    # Out of range `one_hot` gives a row of zeros: no error later, but another loss.
    check_values(
        codes,
        name,
        lambda v: (v >= 0) & (v < num_classes),
        f"in 0..{num_classes - 1}",
    )
    return jnp.asarray(codes, jnp.int32)
