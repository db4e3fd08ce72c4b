"""Functions of several encoders side by side, without what they say twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import is_traced
from contexture_jax._core.numerics import mm
from contexture_jax._core.scaling import rescaled
from contexture_jax._core.types import Array, ArrayLike, Float, pytree_dataclass
from contexture_jax.contexts import Context
from contexture_jax.evaluation._common import (
    as_columns,
    as_weights,
    weighted_whitening,
)
from contexture_jax.evaluation._encoders import ratio_trace
from contexture_jax.operators import AssociationOperator, association_operator

__all__ = ["Concatenated", "concatenate"]


@pytree_dataclass
class Concatenated:
    """Embeddings side by side, centred and whitened together.

    Attributes:
        features: on the rows, of mean 0 and orthonormal under their law, shape (n, r).
        center: the mean of what was put side by side, shape (d,).
        whitening: features are (Φ − center) whitening, shape (d, r).
        ratio_traces: Tr(C⁻¹ B) of the features in each context, shape (k,).
        ratio_traces_of_parts: that of each part alone, shape (k, number of parts).
    """

    features: Float[Array, "n r"]
    center: Float[Array, " d"]
    whitening: Float[Array, "d r"]
    ratio_traces: Float[Array, " k"]
    ratio_traces_of_parts: Float[Array, "k j"]

    def transform(self, *functions: ArrayLike) -> Float[Array, "l r"]:
        """The features at other rows, of the same embeddings there, (l, d_j) each."""
        side_by_side = _side_by_side(functions)
        if side_by_side.shape[1] != self.center.shape[0]:
            msg = (
                f"functions must have {self.center.shape[0]} columns together; got"
                f" {side_by_side.shape[1]}"
            )
            raise ValueError(msg)
        return mm(side_by_side - self.center[None, :], self.whitening)


def concatenate(
    *functions: ArrayLike,
    contexts: Sequence[AssociationOperator | Context | Any] = (),
    weights: ArrayLike | None = None,
) -> Concatenated:
    """[Φ₁, …, Φ_r], whitened together: what `contexts.join` is in practice.

    The span is that of all functions, and what several say counts once: directions not
    above rounding are left out, `r` may be less than Σ d_j. Any context's ratio trace
    is at least that of each part, and at most Σ_{i≤r} s_i² (theory.md §2).

    Args:
        *functions: embeddings of the same rows, shapes (n, d_j), as of `svd` (`left`),
            of an encoder or of `learning`.
        contexts: in which the ratio trace is taken, as contexts or their operators,
            with n inputs each.
        weights: law of the rows, shape (n,); None: P_X of the first context, or
            uniform.

    Raises:
        TypeError: if there is no function, or one holds no numbers.
        ValueError: if numbers of rows or of inputs differ, or a value is not finite;
            inside a trace that gives NaN, and directions left out are columns of 0.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> x = jax.random.normal(jax.random.key(0), (20, 3))
        >>> both = cx.evaluation.concatenate(x, x[:, :2], x[:, :1] + x[:, 1:2])
        >>> both.features.shape
        (20, 3)
    """
    phi = _side_by_side(functions)
    ops = [
        c if isinstance(c, AssociationOperator) else association_operator(c)
        for c in contexts
    ]
    for number, op in enumerate(ops):
        if op.shape[0] != phi.shape[0]:
            msg = (
                f"contexts[{number}] must have {phi.shape[0]} inputs, as the functions"
                f" have rows; got {op.shape[0]}"
            )
            raise ValueError(msg)
    if weights is None and ops:
        weights = ops[0].p_x
    law = as_weights(weights, phi.shape[0], phi.dtype)
    # Columns of any unit: each to entries near 1, and the whitening back.
    scaled, exponent = rescaled(phi, axis=0)
    mean, whitening = weighted_whitening(scaled, law)
    if not is_traced(whitening):
        rank = int(np.asarray((whitening != 0).any(axis=0)).sum())
        whitening = whitening[:, :rank]
    features = mm(scaled - mean[None, :], whitening)
    alone = [[ratio_trace(part, op) for part in functions] for op in ops]
    return Concatenated(
        features,
        jnp.ldexp(mean, exponent.reshape(-1)),
        jnp.ldexp(whitening, -exponent.reshape(-1, 1)),
        jnp.stack([ratio_trace(features, op) for op in ops]) if ops else jnp.zeros(0),
        jnp.asarray(alone).reshape(len(ops), len(functions)),
    )


def _side_by_side(functions: Sequence[Any]) -> Float[Array, "n d"]:
    if not functions:
        raise TypeError("concatenate needs at least one array of functions; got none")
    first = as_columns(functions[0], "functions[0]")
    others = [
        as_columns(f, f"functions[{i}]", first.shape[0])
        for i, f in enumerate(functions[1:], 1)
    ]
    return jnp.concatenate([first, *others], axis=1)
