"""Convolutional encoders of images: a plain one and a residual one.

Group normalisation, not batch normalisation: a forward pass is then a function of one
example, whatever else is in its batch or on its device.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.models._blocks import (
    EncoderConfig,
    as_input,
    check_sizes,
    linear,
)

__all__ = ["ConvNet", "ConvNetConfig", "ResNet", "ResNetConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNetConfig(EncoderConfig):
    """A chain of convolutions, each of which halves height and width.

    Attributes:
        in_channels: channels of an image.
        channels: channels after each convolution.
        num_groups: most groups of channels that are normalised together; where it does
            not divide a number of channels, their greatest common divisor is taken.
        normalise: whether there is group normalisation at all.
        pool: g; what is left is averaged in each of g × g cells, so that an embedding
            knows where things are and still takes images of any size. 1: one mean.
    """

    in_channels: int = 3
    channels: tuple[int, ...] = (32, 64, 128)
    num_groups: int = 8
    normalise: bool = True
    pool: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "in_channels", "channels", "num_groups", "pool")
        if not self.channels:
            msg = "channels must have at least one entry; got none"
            raise ValueError(msg)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(ConvNetConfig):
    """Stages of residual blocks; all but the first halve height and width.

    Attributes:
        blocks_per_stage: residual blocks in each stage.
    """

    blocks_per_stage: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "blocks_per_stage")


def _as_images(x: Any, config: ConvNetConfig) -> Array:
    x = as_input(x, "x", (None, None, None, config.in_channels))
    # A mean over no pixels is 0 / 0.
    if 0 in x.shape[1:3]:
        msg = f"x must hold images of at least 1 pixel; got shape {tuple(x.shape)}"
        raise ValueError(msg)
    return x


def _pooled_head(config: ConvNetConfig, channels: int, rngs: nnx.Rngs) -> nnx.Linear:
    # The width that `_pool` gives, whatever the size of the image.
    return linear(config, channels * config.pool**2, config.out_features, rngs=rngs)


def _pool(h: Float[Array, "b h w c"], cells: int) -> Float[Array, "b f"]:
    """Means over cells × cells parts of a map; parts overlap where it does not divide.

    Cell i of n rows takes ⌊i n / g⌋ up to but without ⌈(i + 1) n / g⌉.
    """
    if cells == 1:
        return h.mean(axis=(1, 2))
    # Averages of half precision in single: a share such as 1 / 150 is not exact there.
    exact = jnp.promote_types(h.dtype, jnp.float32)
    # (g, h) and (g, w): a mean over a cell is a product of two.
    rows, columns = (_cells(n, cells).astype(exact) for n in h.shape[1:3])
    pooled = jnp.einsum("bhwc,ih,jw->bijc", h.astype(exact), rows, columns)
    return pooled.reshape(h.shape[0], cells**2 * h.shape[3]).astype(h.dtype)


def _cells(length: int, cells: int) -> np.ndarray:
    """A matrix of averages, shape (cells, length)."""
    i, at = np.arange(cells)[:, None], np.arange(length)
    # −⌊−a / b⌋ rounds up. Every cell has at least one row, also where there are fewer
    # rows than cells.
    inside = (at >= i * length // cells) & (at < -(-(i + 1) * length // cells))
    return inside / inside.sum(axis=1, keepdims=True)


class _ConvNorm(nnx.Module):
    """A convolution without activation, normalised by groups of channels."""

    def __init__(
        self,
        config: ConvNetConfig,
        in_channels: int,
        channels: int,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        size: int = 3,
    ) -> None:
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        self.conv = nnx.Conv(
            in_channels,
            channels,
            (size, size),
            strides=stride,
            # The norm takes a bias off and has one of its own.
            use_bias=not config.normalise,
            rngs=rngs,
            **dtypes,
        )
        self.norm = (
            nnx.GroupNorm(
                channels,
                # Groups must divide the channels.
                num_groups=math.gcd(channels, config.num_groups),
                rngs=rngs,
                **dtypes,
            )
            if config.normalise
            else nnx.data(None)
        )

    def __call__(self, x: Array) -> Array:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


class ConvNet(nnx.Module):
    """3 × 3 convolutions of stride 2, means over what is left, an affine map."""

    def __init__(self, config: ConvNetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        channels = (config.in_channels, *config.channels)
        self.layers = nnx.List(
            # Stride 2 in place of pooling: fewer operations at the same reach.
            _ConvNorm(config, *pair, stride=2, rngs=rngs)
            for pair in itertools.pairwise(channels)
        )
        self.head = _pooled_head(config, channels[-1], rngs)

    def __call__(self, x: ArrayLike) -> Float[Array, "b d"]:
        """Embed images, shape (b, height, width, in_channels)."""
        x = _as_images(x, self.config)
        h = x.astype(self.config.dtype)
        for layer in self.layers:
            h = self.config.activation_fn(layer(h))
        return self.head(_pool(h, self.config.pool))


class _ResidualBlock(nnx.Module):
    def __init__(
        self,
        config: ResNetConfig,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = config.activation_fn
        self.first = _ConvNorm(config, in_channels, channels, stride=stride, rngs=rngs)
        self.second = _ConvNorm(config, channels, channels, rngs=rngs)
        # Where the shape stays the skip is the identity, and gradients pass as they
        # are.
        changes = stride != 1 or in_channels != channels
        self.bypass = (
            _ConvNorm(config, in_channels, channels, stride=stride, size=1, rngs=rngs)
            if changes
            else nnx.data(None)
        )

    def __call__(self, x: Array) -> Array:
        kept = x if self.bypass is None else self.bypass(x)
        # The second activation comes after the sum, as in the first paper.
        return self.activation(kept + self.second(self.activation(self.first(x))))


class ResNet(nnx.Module):
    """Basic residual blocks (He et al. 2016) with group normalisation (Wu, He 2018)."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        # Of stride 1 and without pooling: for small images, of which the published stem
        # would leave little.
        self.stem = _ConvNorm(config, config.in_channels, config.channels[0], rngs=rngs)
        blocks, last = [], config.channels[0]
        for stage, channels in enumerate(config.channels):
            for block in range(config.blocks_per_stage):
                # The first block of a stage takes the image down, the others keep it.
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_ResidualBlock(config, last, channels, stride, rngs=rngs))
                last = channels
        self.blocks = nnx.List(blocks)
        self.head = _pooled_head(config, last, rngs)

    def __call__(self, x: ArrayLike) -> Float[Array, "b d"]:
        """Embed images, shape (b, height, width, in_channels)."""
        x = _as_images(x, self.config)
        h = self.config.activation_fn(self.stem(x.astype(self.config.dtype)))
        for block in self.blocks:
            h = block(h)
        return self.head(_pool(h, self.config.pool))
