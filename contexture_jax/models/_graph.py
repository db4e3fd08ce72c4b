"""Message passing on the vertices of a graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import sparse

from contexture_jax._core.numerics import safe_divide
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.models._blocks import (
    EncoderConfig,
    as_input,
    check_sizes,
    layer_norm,
    linear,
)

__all__ = ["GraphEncoder", "GraphEncoderConfig", "neighbor_mean"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphEncoderConfig(EncoderConfig):
    """Rounds of message passing.

    Attributes:
        in_features: features of a vertex.
        width: features of a vertex in between.
        depth: rounds, so how far a vertex sees.
        normalise: whether each round starts with a layer norm.
    """

    in_features: int
    width: int = 128
    depth: int = 2
    normalise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "in_features", "width", "depth")


def neighbor_mean(h: Float[Array, "m w"], neighbors: Any) -> Float[Array, "n w"]:
    """The mean of h over the neighbours of each vertex, (D⁻¹ W h).

    Args:
        h: features of the vertices, shape (m, w).
        neighbors: integers (n, K): the neighbours of each vertex by number; or weights
            W, shape (n, m), non-negative, dense or a `jax.experimental.sparse.BCOO`.

    Returns:
        Shape (n, w); 0 for a vertex without edges.

    Raises:
        TypeError: if `neighbors` is none of these.
        ValueError: if W has not m columns.
    """
    # A matrix of SciPy's would become an array of one object.
    if hasattr(neighbors, "tocoo"):
        msg = (
            "neighbors must be an array, or a BCOO if they are sparse; got a"
            f" {type(neighbors).__name__}: use BCOO.from_scipy_sparse"
        )
        raise TypeError(msg)
    if not isinstance(neighbors, sparse.BCOO):
        neighbors = as_input(neighbors, "neighbors", (None, None))
    if jnp.issubdtype(neighbors.dtype, jnp.integer) and not isinstance(
        neighbors, sparse.BCOO
    ):
        # (n, K, w), then the mean: every vertex has K neighbours, of equal weight.
        return h[neighbors].mean(axis=1)
    if neighbors.ndim != 2 or neighbors.shape[1] != h.shape[0]:
        msg = (
            f"neighbors must have shape (any, {h.shape[0]}); got"
            f" {tuple(neighbors.shape)}"
        )
        raise ValueError(msg)
    if isinstance(neighbors, sparse.BCOO):
        weights, (rows, columns) = neighbors.data.astype(h.dtype), neighbors.indices.T
        num = neighbors.shape[0]
        # (n,): degrees; an edge that is stored twice counts twice, above and below.
        total = jax.ops.segment_sum(weights, rows, num)
        # BCOO pads with indices past the end: what they gather is dropped again.
        sent = weights[:, None] * h.at[columns].get(mode="fill", fill_value=0)
        received = jax.ops.segment_sum(sent, rows, num)
    else:
        weights = neighbors.astype(h.dtype)
        total, received = weights.sum(axis=1), weights @ h
    # A vertex without edges gets the message 0, not NaN.
    return safe_divide(received, total[:, None])


class _Round(nnx.Module):
    def __init__(self, config: GraphEncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.activation = config.activation_fn
        self.norm = (
            layer_norm(config, config.width, rngs=rngs)
            if config.normalise
            else nnx.data(None)
        )
        self.own = linear(config, config.width, config.width, rngs=rngs)
        # One bias for both maps is enough.
        self.others = linear(
            config, config.width, config.width, rngs=rngs, use_bias=False
        )

    def __call__(self, h: Array, neighbors: Any) -> Array:
        entered = h if self.norm is None else self.norm(h)
        message = self.others(neighbor_mean(entered, neighbors))
        # The skip keeps what a vertex is apart from its surroundings: repeated means
        # alone make all vertices of a component alike.
        return h + self.activation(self.own(entered) + message)


class GraphEncoder(nnx.Module):
    """h ← h + σ(W₁ h + W₂ · mean of the neighbours' h), round by round.

    An embedding depends on its vertex and on those at most `depth` steps away; vertices
    in another order have their embeddings in that order.
    """

    def __init__(self, config: GraphEncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.stem = linear(config, config.in_features, config.width, rngs=rngs)
        self.rounds = nnx.List(_Round(config, rngs=rngs) for _ in range(config.depth))
        self.head = linear(config, config.width, config.out_features, rngs=rngs)

    def __call__(self, x: ArrayLike, neighbors: Any) -> Float[Array, "n d"]:
        """Embed all vertices: features (n, in_features), `neighbors` as above."""
        x = as_input(x, "x", (None, self.config.in_features))
        if np.shape(neighbors)[:1] != (x.shape[0],):
            msg = (
                f"neighbors must have {x.shape[0]} rows; got shape"
                f" {np.shape(neighbors)}"
            )
            raise ValueError(msg)
        h = self.stem(x.astype(self.config.dtype))
        for round_ in self.rounds:
            h = round_(h, neighbors)
        return self.head(h)
