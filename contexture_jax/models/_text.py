"""A transformer on sequences of tokens."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx

from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.models._blocks import (
    TransformerBlock,
    TransformerConfig,
    as_input,
    check_sizes,
    embed,
    layer_norm,
    linear,
    mean_pool,
    positions,
)

__all__ = ["TextTransformer", "TextTransformerConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTransformerConfig(TransformerConfig):
    """A transformer on tokens.

    Attributes:
        vocabulary_size: tokens are 0, …, vocabulary_size − 1.
        max_length: longest sequence.
        causal: whether a token sees only those before it.
        use_positions: whether learned positions are added; without them, and without
            `causal`, the embedding does not depend on the order of the tokens.
        padding: the token that fills up short sequences, which nothing sees and no mean
            counts; None: every token counts.
    """

    vocabulary_size: int
    max_length: int
    causal: bool = False
    use_positions: bool = True
    padding: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "vocabulary_size", "max_length")


class TextTransformer(nnx.Module):
    """Embedded tokens, transformer blocks, mean over tokens."""

    def __init__(self, config: TextTransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        width = config.width
        self.tokens = embed(config, config.vocabulary_size, width, rngs=rngs)
        self.positions = (
            positions(config, (1, config.max_length, width), rngs=rngs)
            if config.use_positions
            else nnx.data(None)
        )
        self.blocks = nnx.List(
            TransformerBlock(config, rngs=rngs) for _ in range(config.depth)
        )
        self.norm = layer_norm(config, width, rngs=rngs)
        self.head = linear(config, width, config.out_features, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Float[Array, "b d"]:
        """Embed sequences of tokens, shape (b, length), length ≤ max_length."""
        config = self.config
        x = as_input(x, "x", (None, None))
        length = x.shape[1]
        if not 1 <= length <= config.max_length:
            msg = (
                f"x must have between 1 and max_length = {config.max_length} tokens a"
                f" row; got {length}"
            )
            raise ValueError(msg)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            msg = f"x must hold integer tokens; got dtype {x.dtype}"
            raise TypeError(msg)
        # (b, l): tokens that are there.
        kept = None if config.padding is None else x != config.padding
        # (b, 1, l): nobody sees padding; what padding itself sees plays no part.
        mask = None if kept is None else kept[:, None, :]
        if config.causal:
            # A token sees itself too, or the first would see nothing.
            earlier = jnp.tril(jnp.ones((1, length, length), bool))
            mask = earlier if mask is None else earlier & mask
        h = self.tokens(x)
        if self.positions is not None:
            # Positions count from the start: padding belongs at the end.
            h = h + self.positions[:, :length].astype(config.dtype)
        for block in self.blocks:
            h = block(h, mask=mask)
        return self.head(mean_pool(self.norm(h), kept))
