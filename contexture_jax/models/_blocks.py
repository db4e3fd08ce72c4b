"""What the encoders share: configurations, checks, attention, pooling.

Nothing here looks across the examples of a batch, so that an embedding is a function of
its own example: batch normalisation would make it one of the whole batch, and the
moments of embeddings, which the losses take, those of another encoder on every device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from contexture_jax._core.checks import as_device_array, as_real, check_integer
from contexture_jax._core.types import Array, Bool, Float, summary

__all__ = [
    "Attention",
    "EncoderConfig",
    "TransformerBlock",
    "TransformerConfig",
    "as_input",
    "check_sizes",
    "embed",
    "layer_norm",
    "linear",
    "mean_pool",
    "positions",
]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
# As in BERT and ViT: small beside tokens of unit variance.
_POSITION_SCALE = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What every encoder is told; hashable, all static.

    Attributes:
        out_features: d, the width of the embedding. It may exceed the number of
            functions wanted: a wide output is cut down by Rayleigh–Ritz afterwards.
        activation: "gelu", "relu", "silu" or "tanh".
        dtype: floating dtype of the computation and of the embedding.
        param_dtype: floating dtype of the parameters.
    """

    out_features: int
    activation: str = "gelu"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_sizes(self, "out_features")
        if self.activation not in _ACTIVATIONS:
            names = ", ".join(_ACTIVATIONS)
            msg = f"activation must be one of {names}; got {self.activation!r}"
            raise ValueError(msg)
        for name in ("dtype", "param_dtype"):
            # Gradients are taken of floating numbers alone.
            if not jnp.issubdtype(getattr(self, name), jnp.floating):
                msg = f"{name} must be a floating dtype; got {getattr(self, name)!r}"
                raise TypeError(msg)

    @property
    def activation_fn(self) -> Callable[[Array], Array]:
        """The function that `activation` names."""
        return _ACTIVATIONS[self.activation]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(EncoderConfig):
    """What the transformers among the encoders are told besides.

    Attributes:
        width: features of a token.
        depth: number of blocks.
        num_heads: heads of attention; a divisor of `width`.
        mlp_ratio: hidden width of a block's MLP in units of `width`.
    """

    width: int = 128
    depth: int = 2
    num_heads: int = 4
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "width", "num_heads", "mlp_ratio")
        check_integer(self.depth, "depth", low=0)
        # Each head has its own share of the features.
        if self.width % self.num_heads:
            msg = (
                f"num_heads must divide width, {self.width}; got {self.num_heads} heads"
            )
            raise ValueError(msg)


def check_sizes(config: Any, *names: str) -> None:
    """Raise unless the fields are positive integers, or declared tuples of them."""
    # By the annotation, so that a field says once what it may hold.
    declared = {field.name: str(field.type) for field in dataclasses.fields(config)}
    for name in names:
        value = getattr(config, name)
        if not declared[name].startswith("tuple"):
            check_integer(value, name, low=1)
            continue
        if not isinstance(value, tuple):
            msg = f"{name} must be a tuple of integers; got {summary(value)}"
            raise TypeError(msg)
        for size in value:
            check_integer(size, name, low=1)


def as_input(x: Any, name: str, shape: tuple[int | None, ...]) -> Array:
    """Convert to an array of JAX of this shape, where None stands for any size.

    Raises:
        TypeError: if `x` does not hold real numbers.
        ValueError: if it has another shape.
    """
    # The dtype stays: tokens and codes are integers, and each encoder casts what is
    # not.
    x = as_device_array(as_real(x, name), name)
    # Static shapes: the check costs nothing in a compiled step.
    fits = len(x.shape) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(x.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        msg = f"{name} must have shape ({expected}); got {tuple(x.shape)}"
        raise ValueError(msg)
    return x


def linear(
    config: EncoderConfig,
    in_features: int,
    out_features: int,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> nnx.Linear:
    """An affine map in the dtypes of `config`, with options of `nnx.Linear`."""
    return nnx.Linear(
        in_features,
        out_features,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
        **options,
    )


def layer_norm(
    config: EncoderConfig, features: int, *, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """Layer normalisation over the last axis; its moments are at least float32."""
    return nnx.LayerNorm(
        features, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs
    )


def embed(
    config: EncoderConfig, num: int, features: int, *, rngs: nnx.Rngs
) -> nnx.Embed:
    """A table of `num` learned vectors."""
    return nnx.Embed(
        num, features, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs
    )


def positions(
    config: EncoderConfig, shape: tuple[int, ...], *, rngs: nnx.Rngs
) -> nnx.Param:
    """A small normal table, for positions and other vectors that are added."""
    noise = jax.random.normal(rngs.params(), shape, config.param_dtype)
    return nnx.Param(_POSITION_SCALE * noise)


def mean_pool(
    tokens: Float[Array, "b l w"], mask: Bool[Array, "b l"] | None = None
) -> Float[Array, "b w"]:
    """The mean over tokens, or over those that `mask` keeps; 0 where it keeps none."""
    if mask is None:
        return tokens.mean(axis=1)
    # (b, l, 1), in the dtype of tokens.
    kept = mask[:, :, None].astype(tokens.dtype)
    # At least 1 in the denominator: a row of padding alone is 0, with a finite
    # gradient.
    return (tokens * kept).sum(axis=1) / jnp.maximum(kept.sum(axis=1), 1)


class Attention(nnx.Module):
    """Scaled dot-product attention; weights in float32 whatever the dtype."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        width = config.width
        self.num_heads = config.num_heads
        self.query = linear(config, width, width, rngs=rngs)
        self.key = linear(config, width, width, rngs=rngs)
        self.value = linear(config, width, width, rngs=rngs)
        self.out = linear(config, width, width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b q w"],
        memory: Float[Array, "b k w"],
        mask: Bool[Array, "#b #q k"] | None = None,
    ) -> Float[Array, "b q w"]:
        """Tokens of `x` read those of `memory` that `mask` lets them see."""

        # (b, l, w) to (b, l, heads, w / heads).
        def heads(tokens: Array) -> Array:
            return tokens.reshape(*tokens.shape[:2], self.num_heads, -1)

        query, key = heads(self.query(x)), heads(self.key(memory))
        # (b, heads, q, k). Float32 from here to the softmax: differences of large
        # logits are what it sees.
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
        # Scores of unit variance, whatever the width of a head.
        scores = scores / math.sqrt(query.shape[-1])
        if mask is not None:
            # And not −∞: of a row that may see nothing, −∞ − (−∞) would be NaN; so it
            # sees all alike.
            lowest = jnp.finfo(scores.dtype).min
            scores = jnp.where(mask[:, None, :, :], scores, lowest)
        weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
        # (b, q, heads, w / heads)
        read = jnp.einsum("bhqk,bkhd->bqhd", weights, heads(self.value(memory)))
        return self.out(read.reshape(x.shape))


class TransformerBlock(nnx.Module):
    """Attention and an MLP, each after a layer norm and beside a skip connection."""

    def __init__(
        self, config: TransformerConfig, *, rngs: nnx.Rngs, cross: bool = False
    ) -> None:
        width = config.width
        self.activation = config.activation_fn
        self.norm_attention = layer_norm(config, width, rngs=rngs)
        self.norm_memory: Any = (
            # Memory has another scale than x: a norm of its own.
            layer_norm(config, width, rngs=rngs) if cross else nnx.data(None)
        )
        self.attention = Attention(config, rngs=rngs)
        self.norm_mlp = layer_norm(config, width, rngs=rngs)
        self.up = linear(config, width, config.mlp_ratio * width, rngs=rngs)
        self.down = linear(config, config.mlp_ratio * width, width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b l w"],
        memory: Float[Array, "b k w"] | None = None,
        mask: Bool[Array, "#b #l k"] | None = None,
    ) -> Float[Array, "b l w"]:
        """Self-attention, or cross-attention to `memory` in a block made for it."""
        # Norms come first, within the branches: the sum of skips is left alone, and
        # depth needs no warm-up (Xiong et al. 2020).
        read = self.norm_attention(x)
        seen = read if memory is None else self.norm_memory(memory)
        x = x + self.attention(read, seen, mask)
        return x + self.down(self.activation(self.up(self.norm_mlp(x))))
