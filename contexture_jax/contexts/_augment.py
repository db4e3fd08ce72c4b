"""Noise, masking and erasure of vectors."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from contexture_jax._core.checks import (
    as_floating,
    check_integer,
    check_values,
)
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._sampling import (
    SamplingContext,
    VariantContext,
    as_batch,
    check_rate,
    rate_like,
    same_values,
)

__all__ = [
    "BlockMask",
    "CoordinateMask",
    "Erasure",
    "GaussianNoise",
    "block_mask",
    "coordinate_mask",
    "erasure",
    "gaussian_noise",
]


@pytree_dataclass
class GaussianNoise(SamplingContext):
    """A = X + σ Z with standard normal Z; densities with respect to Lebesgue measure.

    Attributes:
        scale: σ, shape () or of one x.
    """

    scale: Array

    def _inputs(self, x: ArrayLike, name: str) -> Array:
        return as_floating(as_batch(x, name), name)

    def _sigma(self, x: Array) -> Array:
        # σ of one entry each, so that one formula serves both forms of it.
        return jnp.broadcast_to(jnp.asarray(self.scale, x.dtype), x.shape)

    def _draw(self, key: Array, x: Array) -> Array:
        return x + self._sigma(x) * jax.random.normal(key, x.shape, x.dtype)

    def _log_density(self, a: Array, x: Array) -> Array:
        sigma = self._sigma(x)
        normal = -0.5 * ((a - x) / sigma) ** 2 - jnp.log(sigma)
        return (normal - 0.5 * math.log(2 * math.pi)).sum()


def gaussian_noise(scale: ArrayLike) -> GaussianNoise:
    """A = X + σ Z: for X ~ N(0, 1) the Gaussian context with ρ² = 1 / (1 + σ²).

    Args:
        scale: σ, positive; one number, or one for each entry of an x.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> context = cx.contexts.gaussian_noise(0.5)
        >>> a = context.sample(jax.random.key(0), jax.numpy.zeros((4, 3)))
        >>> a.shape, context.log_density(a, jax.numpy.zeros((4, 3))).shape
        ((4, 3), (4,))
    """
    scale = as_floating(scale, "scale")
    check_values(scale, "scale", lambda v: (v > 0) & (v < float("inf")), "positive")
    return GaussianNoise(scale)


@pytree_dataclass
class Erasure(SamplingContext):
    """Each entry of x is replaced by the value `fill`, independently.

    Densities are with respect to counting measure, so an operator on a sample takes the
    sample for all there is: a coordinate that is seen excludes every other value.

    Attributes:
        rate: probability of erasure, shape () or of one x.
        fill: what stands in an erased entry. Where no x has that value the mask is
            visible. Static.
    """

    rate: float | Array
    fill: float = static_field(default=0.0)

    def _draw(self, key: Array, x: Array) -> Array:
        hidden = jax.random.bernoulli(key, rate_like(self.rate, x))
        return jnp.where(hidden, fill_like(x, self.fill), x)

    def _log_density(self, a: Array, x: Array) -> Array:
        rate = rate_like(self.rate, x)
        erased = same_values(a, jnp.full_like(a, fill_like(x, self.fill)))
        kept = same_values(a, x)
        zero = jnp.zeros_like(rate)
        # Both, where x has the value `fill` itself: erased or not, the entry looks the
        # same.
        mass = jnp.where(erased, rate, zero) + jnp.where(kept, 1 - rate, zero)
        # log 0 = −∞ where a differs from x and is not `fill`: no such a is drawn.
        return jnp.log(mass).sum()


def fill_like(x: Array, fill: float) -> Array:
    """`fill` in the dtype of `x`, which must be able to hold it."""
    value = jnp.asarray(fill, x.dtype)
    # Cast to integers, NaN or 0.5 would become a value that x may well have.
    is_held = jnp.issubdtype(x.dtype, jnp.floating) or float(fill).is_integer()
    if not is_held:
        msg = f"fill must be a value of dtype {x.dtype}; got {fill}"
        raise TypeError(msg)
    return value


def erasure(rate: ArrayLike, *, fill: float | int = 0.0) -> Erasure:
    """Entries erased independently: for product laws s = ∏_{i∈S} √(1 − rate_i).

    Args:
        rate: probability that an entry is erased, in [0, 1]; one number or, for
            vectors, one for each coordinate.
        fill: the value of an erased entry; NaN and values that x cannot have make the
            mask visible (theory.md §5).
    """
    return Erasure(check_rate(rate), float(fill))


@pytree_dataclass
class CoordinateMask(SamplingContext):
    """A fixed number of coordinates, a uniformly random set, gets the value `fill`.

    Densities are with respect to counting measure, as in `Erasure`.

    Attributes:
        num_masked: how many. Static.
        fill: what stands there. Static.
    """

    num_masked: int = static_field()
    fill: float = static_field(default=0.0)

    def _inputs(self, x: ArrayLike, name: str) -> Array:
        return as_vectors(x, name, self.num_masked)

    def _draw(self, key: Array, x: Array) -> Array:
        # The coordinates of the `num_masked` lowest ranks are a uniform set of that
        # size.
        ranks = jax.random.permutation(key, x.shape[0])
        return jnp.where(ranks < self.num_masked, fill_like(x, self.fill), x)

    def _log_density(self, a: Array, x: Array) -> Array:
        fill = jnp.full_like(x, fill_like(x, self.fill))
        is_fill, was_fill = same_values(a, fill), same_values(x, fill)
        possible = (same_values(a, x) | is_fill).all()
        # Masks must cover what became `fill`; the rest of them is on what was already.
        visible = (is_fill & ~was_fill).sum()
        hidden, free = self.num_masked - visible, was_fill.sum()
        # As many of the masked coordinates as were `fill` before can hide there.
        possible &= (hidden >= 0) & (hidden <= free)
        # All sets of the same size are equally likely: a share of them.
        count = _log_choose(free, jnp.clip(hidden, 0, free))
        total = _log_choose(jnp.asarray(x.shape[0]), jnp.asarray(self.num_masked))
        return jnp.where(possible, count - total, -jnp.inf)


def _log_choose(n: Array, k: Array) -> Array:
    n, k = (jnp.asarray(v, jnp.zeros(()).dtype) for v in (n, k))
    # By logarithms: binomials of a few hundred coordinates overflow float32.
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def as_vectors(x: ArrayLike, name: str, least: int) -> Array:
    """Convert to a batch of vectors of at least `least` coordinates."""
    x = as_batch(x, name)
    if x.ndim != 2 or x.shape[1] < least:
        msg = (
            f"{name} must have shape (b, d) with d at least {least}; got"
            f" {tuple(x.shape)}"
        )
        raise ValueError(msg)
    return x


def coordinate_mask(num_masked: int, *, fill: float | int = 0.0) -> CoordinateMask:
    """A uniformly random set of `num_masked` coordinates of a vector gets `fill`.

    For uniform bits and a visible mask s = √P(M ∩ S = ∅) (`zoo.mask_law`).
    """
    return CoordinateMask(check_integer(num_masked, "num_masked", low=0), float(fill))


@pytree_dataclass
class BlockMask(VariantContext):
    """A run of coordinates, uniformly placed, gets the value `fill`.

    Attributes:
        size: length of the run. Static.
        fill: what stands there. Static.
    """

    size: int = static_field()
    fill: float = static_field(default=0.0)

    def _inputs(self, x: ArrayLike, name: str) -> Array:
        return as_vectors(x, name, self.size)

    def _num_variants(self, shape: tuple[int, ...]) -> int:
        # Runs lie within the vector: every variant hides as many coordinates.
        return shape[0] - self.size + 1

    def _variant(self, x: Array, index: Array) -> Array:
        places = jnp.arange(x.shape[0]) - index
        hidden = (places >= 0) & (places < self.size)
        return jnp.where(hidden, fill_like(x, self.fill), x)


def block_mask(size: int, *, fill: float | int = 0.0) -> BlockMask:
    """`size` coordinates in a row, anywhere within a vector, get `fill`."""
    return BlockMask(check_integer(size, "size", low=1), float(fill))
