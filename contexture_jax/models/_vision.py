"""A transformer on patches of images."""

from __future__ import annotations

import dataclasses

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
    positions,
)

__all__ = ["VisionTransformer", "VisionTransformerConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig(TransformerConfig):
    """A transformer on square patches.

    Attributes:
        image_size: (height, width) of an image.
        in_channels: its channels.
        patch_size: side of a patch; a divisor of height and width.
    """

    image_size: tuple[int, int]
    in_channels: int = 3
    patch_size: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "image_size", "in_channels", "patch_size")
        # Patches are cut, not padded: an image has no pixels beyond its edge.
        if any(side % self.patch_size for side in self.image_size):
            msg = (
                f"patch_size must divide the image, {self.image_size};"
                f" got {self.patch_size}"
            )
            raise ValueError(msg)

    @property
    def num_patches(self) -> int:
        """How many tokens an image is."""
        height, width = self.image_size
        return (height // self.patch_size) * (width // self.patch_size)


class VisionTransformer(nnx.Module):
    """Patches, learned positions, transformer blocks, mean over patches.

    After Dosovitskiy et al. 2021, with the mean in place of a class token.
    """

    def __init__(self, config: VisionTransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        width = config.width
        patch = config.patch_size**2 * config.in_channels
        self.patches = linear(config, patch, width, rngs=rngs)
        self.positions = positions(config, (1, config.num_patches, width), rngs=rngs)
        self.blocks = nnx.List(
            TransformerBlock(config, rngs=rngs) for _ in range(config.depth)
        )
        self.norm = layer_norm(config, width, rngs=rngs)
        self.head = linear(config, width, config.out_features, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Float[Array, "b d"]:
        """Embed images, shape (b, height, width, in_channels)."""
        config, side = self.config, self.config.patch_size
        height, width = config.image_size
        x = as_input(x, "x", (None, height, width, config.in_channels))
        # (b, rows, side, columns, side, c), of which the axes within a patch come last.
        tiles = x.astype(config.dtype).reshape(
            x.shape[0], height // side, side, width // side, side, config.in_channels
        )
        tiles = tiles.swapaxes(2, 3).reshape(x.shape[0], config.num_patches, -1)
        h = self.patches(tiles) + self.positions[...].astype(config.dtype)
        for block in self.blocks:
            h = block(h)
        return self.head(mean_pool(self.norm(h)))
