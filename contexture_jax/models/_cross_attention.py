"""An encoder of X that reads a context: queries of x attend to tokens of a."""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import nnx

from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.models._blocks import (
    TransformerBlock,
    TransformerConfig,
    as_input,
    check_sizes,
    layer_norm,
    linear,
    mean_pool,
)

__all__ = ["CrossAttentionConfig", "CrossAttentionEncoder"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossAttentionConfig(TransformerConfig):
    """Queries from x, keys and values from a.

    Attributes:
        in_features: features of x, or of each token of x.
        context_features: features of each token of a.
    """

    in_features: int
    context_features: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "in_features", "context_features")


class CrossAttentionEncoder(nnx.Module):
    """Blocks of cross-attention from x to a, then the mean over the tokens of x.

    The embedding does not depend on the order of the tokens of a: they carry no
    positions but those that their features hold.
    """

    def __init__(self, config: CrossAttentionConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.queries = linear(config, config.in_features, config.width, rngs=rngs)
        self.memory = linear(config, config.context_features, config.width, rngs=rngs)
        self.blocks = nnx.List(
            TransformerBlock(config, rngs=rngs, cross=True) for _ in range(config.depth)
        )
        self.norm = layer_norm(config, config.width, rngs=rngs)
        self.head = linear(config, config.width, config.out_features, rngs=rngs)

    def __call__(
        self,
        x: ArrayLike,
        a: ArrayLike,
        mask: ArrayLike | None = None,
    ) -> Float[Array, "b d"]:
        """Embed x, shape (b, in_features) or (b, l, in_features), in the light of a.

        Args:
            x: what is embedded.
            a: tokens of the context, shape (b, k, context_features).
            mask: which of them are there; None: all.
        """
        config = self.config
        # One vector a row is one query.
        single = (None, config.in_features)
        shape = single if np.ndim(x) == 2 else (None, *single)
        x = as_input(x, "x", shape)
        a = as_input(a, "a", (x.shape[0], None, config.context_features))
        tokens = x[:, None, :] if x.ndim == 2 else x
        h = self.queries(tokens.astype(config.dtype))
        # (b, k, width), read by every block; it is not updated itself.
        memory = self.memory(a.astype(config.dtype))
        seen = None
        if mask is not None:
            # (b, 1, k): the same tokens of a are there for every query.
            seen = as_input(mask, "mask", a.shape[:2]).astype(bool)[:, None, :]
        for block in self.blocks:
            h = block(h, memory, seen)
        return self.head(mean_pool(self.norm(h)))
