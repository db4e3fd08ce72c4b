"""Encoders: thin Flax NNX modules, and how any module becomes `(params, apply)`."""

from contexture_jax.models._blocks import EncoderConfig, TransformerConfig
from contexture_jax.models._convolutional import (
    ConvNet,
    ConvNetConfig,
    ResNet,
    ResNetConfig,
)
from contexture_jax.models._cross_attention import (
    CrossAttentionConfig,
    CrossAttentionEncoder,
)
from contexture_jax.models._functional import functional
from contexture_jax.models._graph import (
    GraphEncoder,
    GraphEncoderConfig,
    neighbor_mean,
)
from contexture_jax.models._mlp import MLP, MLPConfig
from contexture_jax.models._tabular import TabularEncoder, TabularEncoderConfig
from contexture_jax.models._text import TextTransformer, TextTransformerConfig
from contexture_jax.models._two_tower import TwoTower
from contexture_jax.models._vision import (
    VisionTransformer,
    VisionTransformerConfig,
)

__all__ = [
    "MLP",
    "ConvNet",
    "ConvNetConfig",
    "CrossAttentionConfig",
    "CrossAttentionEncoder",
    "EncoderConfig",
    "GraphEncoder",
    "GraphEncoderConfig",
    "MLPConfig",
    "ResNet",
    "ResNetConfig",
    "TabularEncoder",
    "TabularEncoderConfig",
    "TextTransformer",
    "TextTransformerConfig",
    "TransformerConfig",
    "TwoTower",
    "VisionTransformer",
    "VisionTransformerConfig",
    "functional",
    "neighbor_mean",
]
