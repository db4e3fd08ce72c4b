"""Multilayer perceptrons on vectors."""

from __future__ import annotations

import dataclasses
import itertools

import jax.numpy as jnp
from flax import nnx

from contexture_jax._core.checks import check_coefficient, check_integer
from contexture_jax._core.types import Array, ArrayLike, Float
from contexture_jax.models._blocks import (
    EncoderConfig,
    as_input,
    check_sizes,
    layer_norm,
    linear,
)

__all__ = ["MLP", "MLPConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPConfig(EncoderConfig):
    """A multilayer perceptron.

    Attributes:
        in_features: width of the input.
        hidden: widths of the hidden layers; empty for an affine map.
        skip: whether each hidden layer adds its input to its output, through a linear
            map without bias where widths differ.
        normalise: whether each hidden layer starts with a layer norm.
        num_waves: k, of waves cos wᵀ x and sin wᵀ x that are put beside the input, with
            learned frequencies w, shape (in_features,): functions that vary over short
            distances, which layers alone are slow to fit. 0: none.
        wave_scale: standard deviation of the frequencies at the start, per unit of x.
            That of the features of exp(−γ |x − x'|²) is √(2 γ) (Rahimi and Recht 2007).
    """

    in_features: int
    hidden: tuple[int, ...] = (512, 512)
    skip: bool = True
    normalise: bool = False
    num_waves: int = 0
    wave_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "in_features", "hidden")
        check_integer(self.num_waves, "num_waves", low=0)
        check_coefficient(self.wave_scale, "wave_scale", positive=True)


class _Layer(nnx.Module):
    def __init__(
        self, config: MLPConfig, in_features: int, features: int, *, rngs: nnx.Rngs
    ) -> None:
        self.activation = config.activation_fn
        self.skip = config.skip
        self.norm = (
            layer_norm(config, in_features, rngs=rngs)
            if config.normalise
            else nnx.data(None)
        )
        self.linear = linear(config, in_features, features, rngs=rngs)
        self.bypass = (
            # The identity where widths agree; a bias would be a second one for the same
            # layer.
            linear(config, in_features, features, rngs=rngs, use_bias=False)
            if config.skip and in_features != features
            else nnx.data(None)
        )

    def __call__(self, h: Array) -> Array:
        # The skip goes past the norm, as in the transformers.
        entered = h if self.norm is None else self.norm(h)
        out = self.activation(self.linear(entered))
        if not self.skip:
            return out
        return out + (h if self.bypass is None else self.bypass(h))


class MLP(nnx.Module):
    """h ← σ(W h + b) + h for each hidden layer, then an affine map.

    The first h is x, or (x, cos F x, sin F x) where there are waves.
    """

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.frequencies = (
            linear(
                config,
                config.in_features,
                config.num_waves,
                rngs=rngs,
                use_bias=False,
                kernel_init=nnx.initializers.normal(config.wave_scale),
            )
            if config.num_waves
            else nnx.data(None)
        )
        widths = (config.in_features + 2 * config.num_waves, *config.hidden)
        self.layers = nnx.List(
            _Layer(config, *pair, rngs=rngs) for pair in itertools.pairwise(widths)
        )
        self.head = linear(config, widths[-1], config.out_features, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Float[Array, "b d"]:
        """Embed vectors, shape (b, in_features)."""
        x = as_input(x, "x", (None, self.config.in_features))
        h = x.astype(self.config.dtype)
        if self.frequencies is not None:
            angle = self.frequencies(h)
            h = jnp.concatenate([h, jnp.cos(angle), jnp.sin(angle)], axis=-1)
        for layer in self.layers:
            h = layer(h)
        return self.head(h)
