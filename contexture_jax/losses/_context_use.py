"""Regularisers of encoders that read a context beside the input: use it, and all of it.

They are added to a loss, with a weight, and learn nothing alone.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_floating,
    check_ndim,
    check_nonnegative,
    check_values,
)
from contexture_jax._core.moments import batch_of
from contexture_jax._core.numerics import safe_divide, safe_sqrt
from contexture_jax._core.types import Array, ArrayLike, Float

__all__ = ["context_entropy", "context_use"]


def context_use(
    z: ArrayLike,
    *,
    least: float | Array = 0.1,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """(1 − √(D / D₀))₊, D = (V^A + V^XA) / V: 1 where the context is ignored.

    D is the share of the variance of the embeddings that is not the input's alone,
    V − V^X over V with all coordinates pooled (theory.md §3.10); from `least` = D₀ on
    the loss is 0, so that no more of the context is used than asked for. The root keeps
    a gradient where D is almost 0: D itself is flat there. At D = 0 exactly the
    gradient is 0, as all directions are alike.

    Args:
        z: embeddings of b inputs, each in m contexts, shape (b, m, d), floating, m at
            least 2: Φ(x_i, a_ij).
        least: D₀ in (0, 1].
        weights: of the inputs, shape (b,).
        axis_name: the mapped axis over which the batch of inputs is cut.

    Raises:
        TypeError: if something is not floating.
        ValueError: if a shape or a number is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> x, a = jnp.arange(4.0)[:, None, None], jnp.array([[[-1.0], [1.0]]])
        >>> [round(float(cx.losses.context_use(x + c * a)), 3) for c in (0, 0.2, 1)]
        [1.0, 0.443, 0.0]
    """
    z = as_floating(z, "z")
    check_ndim(z, 3, "z")
    if z.shape[1] < 2:
        raise ValueError(
            f"z must hold at least 2 contexts an input; got shape {z.shape}"
        )
    check_values(least, "least", lambda v: (v > 0) & (v <= 1), "in (0, 1]")
    batch = batch_of(z, weights=weights, axis_name=axis_name)
    # Far from 0 squares would cancel: everything is less the mean of the whole batch.
    mean = batch.mean(z.mean(axis=1))
    z = z - mean[None, None, :]
    of_input = z.mean(axis=1, keepdims=True)
    # Of each row; sums over devices come before the quotient.
    within = batch.mean(jnp.mean((z - of_input) ** 2, axis=1)).sum()
    total = batch.mean(jnp.mean(z**2, axis=1)).sum()
    share = safe_sqrt(safe_divide(within, total * least))
    return jnp.maximum(1 - share, 0)


def context_entropy(
    attention: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    axis_name: Any = None,
) -> Float[Array, ""]:
    """1 − E H(w(x)) / log m: 0 where all m contexts count alike, 1 where one does.

    H is the entropy of the weights that an input gives its contexts, as of an attention
    map over m of them; maps of several heads count alike. The mean is of entropies and
    not the entropy of the mean: each input is to use many of them, not all inputs
    together.

    Args:
        attention: w, shape (b, m) or (b, ..., m), non-negative, rows summing to 1 over
            the last axis, m at least 2.
        weights: of the inputs, shape (b,).
        axis_name: the mapped axis over which the batch is cut.

    Raises:
        TypeError: if something is not floating.
        ValueError: if a shape does not fit, a weight is negative or, where they are
            known, a row does not sum to 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> w = jnp.array([[0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
        >>> round(float(cx.losses.context_entropy(w)), 3)
        0.25
    """
    w = as_floating(attention, "attention")
    if w.ndim < 2 or w.shape[-1] < 2:
        msg = "attention must have shape (b, ..., m) with m at least 2"
        raise ValueError(f"{msg}; got {w.shape}")
    check_nonnegative(w, "attention")
    sums = w.sum(axis=-1)
    check_values(sums, "row sums of attention", lambda v: abs(v - 1) < 0.05, "1")
    batch = batch_of(w, weights=weights, axis_name=axis_name)
    # 0 log 0 = 0, and a finite slope there.
    logs = jnp.log(jnp.maximum(w, float(jnp.finfo(w.dtype).tiny)))
    entropies = -(w * logs).sum(axis=-1) / float(np.log(w.shape[-1]))
    return 1 - batch.mean(entropies.reshape(w.shape[0], -1).mean(axis=1))
