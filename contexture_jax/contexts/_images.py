"""Crops, shifts, flips and cutouts of images, shape (height, width, channels) each."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import check_integer
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    pytree_dataclass,
    static_field,
    summary,
)
from contexture_jax.contexts._augment import fill_like
from contexture_jax.contexts._sampling import (
    VariantContext,
    as_batch,
    check_rate,
)

__all__ = [
    "Crop",
    "Cutout",
    "Flip",
    "crop",
    "cutout",
    "flip",
    "shift",
]

_PADDING = {"zero": "constant", "edge": "edge", "wrap": "wrap"}


class _ImageContext(VariantContext):
    def _inputs(self, x: ArrayLike, name: str) -> Array:
        x = as_batch(x, name)
        if x.ndim != 4:
            msg = (
                f"{name} must be images of shape (b, height, width, channels); got"
                f" {tuple(x.shape)}"
            )
            raise ValueError(msg)
        return x


@pytree_dataclass
class Crop(_ImageContext):
    """A window of the padded image, uniformly placed.

    Attributes:
        size: (height, width) of the window; None: that of the image. Static.
        padding: pixels that are added on each side first. Static.
        mode: what they are: "zero", "edge" or "wrap". Static.
    """

    size: tuple[int, int] | None = static_field()
    padding: int = static_field(default=0)
    mode: str = static_field(default="zero")

    def _window(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the window."""
        return (shape[0], shape[1]) if self.size is None else self.size

    def _places(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Numbers of rows and columns where the window can start."""
        height, width = self._window(shape)
        down = shape[0] + 2 * self.padding - height + 1
        right = shape[1] + 2 * self.padding - width + 1
        if min(down, right) < 1:
            msg = (
                f"x must have images of at least {height} × {width} with their padding"
                f" of {self.padding}; got {tuple(shape)}"
            )
            raise ValueError(msg)
        # At least one place each, else the window does not fit.
        return down, right

    def _num_variants(self, shape: tuple[int, ...]) -> int:
        down, right = self._places(shape)
        return down * right

    def _variant(self, x: Array, index: Array) -> Array:
        _, right = self._places(x.shape)
        sides = ((self.padding, self.padding), (self.padding, self.padding), (0, 0))
        padded = jnp.pad(x, sides, mode=_PADDING[self.mode])
        # Row by row through the places.
        start = (index // right, index % right, jnp.zeros_like(index))
        return jax.lax.dynamic_slice(
            padded, start, (*self._window(x.shape), x.shape[2])
        )


def crop(size: int | tuple[int, int], *, padding: int = 0, mode: str = "zero") -> Crop:
    """A uniformly placed window of the image.

    Args:
        size: side, or (height, width), of the window.
        padding: pixels added on each side before.
        mode: "zero", "edge" (repeat the border) or "wrap" (the image repeats).
    """
    sides = (size, size) if not isinstance(size, tuple) else size
    if len(sides) != 2:
        msg = f"size must be a number or (height, width); got {summary(size)}"
        raise ValueError(msg)
    height, width = (check_integer(side, "size", low=1) for side in sides)
    return Crop((height, width), check_integer(padding, "padding", low=0), _mode(mode))


def shift(max_shift: int, *, mode: str = "zero") -> Crop:
    """A translation by up to `max_shift` pixels both ways, uniform; same size."""
    return Crop(None, check_integer(max_shift, "max_shift", low=0), _mode(mode))


def _mode(mode: str) -> str:
    if mode not in _PADDING:
        msg = f'mode must be "zero", "edge" or "wrap"; got {summary(mode)}'
        raise ValueError(msg)
    return mode


@pytree_dataclass
class Flip(_ImageContext):
    """The image, or its mirror image.

    Attributes:
        probability: of the mirror image, shape ().
        axis: 0: upside down; 1: left and right change places. Static.
    """

    probability: float | Array
    axis: int = static_field(default=1)

    def _num_variants(
        self,
        shape: tuple[int, ...],  # noqa: ARG002 - two, whatever the shape
    ) -> int:
        return 2

    # Two variants of unequal probability, so both of the defaults are overridden: what
    # is drawn, and its log weight.
    def _choose(self, key: Array, num: int) -> Array:
        del num
        mirrored = jax.random.bernoulli(key, jnp.asarray(self.probability))
        return mirrored.astype(jnp.int32)

    def _log_weights(self, num: int) -> Array:
        del num
        probability = jnp.asarray(self.probability)
        return jnp.log(jnp.stack([1 - probability, probability]))

    def _variant(self, x: Array, index: Array) -> Array:
        return jnp.where(index == 1, jnp.flip(x, self.axis), x)


def flip(probability: ArrayLike = 0.5, *, vertical: bool = False) -> Flip:
    """The mirror image with this probability: left–right, or upside down."""
    checked = check_rate(probability, "probability")
    if jnp.ndim(checked):
        msg = f"probability must be one number; got shape {jnp.shape(checked)}"
        raise ValueError(msg)
    return Flip(checked, 0 if vertical else 1)


@pytree_dataclass
class Cutout(_ImageContext):
    """A square of the image, uniformly placed within it, gets the value `fill`.

    DeVries & Taylor 2017, whose square may reach over the border: here all of it is
    within, so that as many pixels are hidden every time.

    Attributes:
        size: side of the square. Static.
        fill: what stands there, in all channels. Static.
    """

    size: int = static_field()
    fill: float = static_field(default=0.0)

    def _places(self, shape: tuple[int, ...]) -> tuple[int, int]:
        if min(shape[:2]) < self.size:
            msg = (
                f"x must have images of at least {self.size} × {self.size}; got"
                f" {tuple(shape)}"
            )
            raise ValueError(msg)
        return shape[0] - self.size + 1, shape[1] - self.size + 1

    def _num_variants(self, shape: tuple[int, ...]) -> int:
        down, right = self._places(shape)
        return down * right

    def _variant(self, x: Array, index: Array) -> Array:
        _, right = self._places(x.shape)
        # Coordinates relative to the corner of the square, broadcast to (h, w, 1).
        rows = jnp.arange(x.shape[0])[:, None, None] - index // right
        columns = jnp.arange(x.shape[1])[None, :, None] - index % right
        hidden = (rows >= 0) & (rows < self.size) & (columns >= 0)
        hidden &= columns < self.size
        return jnp.where(hidden, fill_like(x, self.fill), x)


def cutout(size: int, *, fill: float | int = 0.0) -> Cutout:
    """A square of `size` × `size` pixels, anywhere within the image, gets `fill`."""
    return Cutout(check_integer(size, "size", low=1), float(fill))
