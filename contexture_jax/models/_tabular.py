"""Encoders of tables with numeric and categorical columns."""

from __future__ import annotations

import dataclasses
from typing import Any

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
from contexture_jax.models._mlp import MLP, MLPConfig

__all__ = ["TabularEncoder", "TabularEncoderConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TabularEncoderConfig(TransformerConfig):
    """Columns as tokens, then an MLP or a transformer on them.

    Attributes:
        num_numeric: numeric columns.
        cardinalities: number of categories of each categorical column.
        trunk: "mlp": numbers and embedded categories side by side, then an MLP with
            `depth` hidden layers of `hidden` units; "transformer": a token of `width`
            features for each column, then `depth` transformer blocks and the mean.
        category_width: features of an embedded category under "mlp".
        hidden: width of the MLP's layers.
    """

    num_numeric: int
    cardinalities: tuple[int, ...] = ()
    trunk: str = "mlp"
    category_width: int = 8
    hidden: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "cardinalities", "category_width", "hidden")
        if self.num_numeric < 0 or self.num_numeric + len(self.cardinalities) == 0:
            msg = (
                "there must be at least one column; got num_numeric"
                f" {self.num_numeric}, cardinalities {self.cardinalities}"
            )
            raise ValueError(msg)
        if self.trunk not in ("mlp", "transformer"):
            msg = f'trunk must be "mlp" or "transformer"; got {self.trunk!r}'
            raise ValueError(msg)


class TabularEncoder(nnx.Module):
    """An embedding of the columns and a trunk (Gorishniy et al. 2021).

    A numeric column j gives the token x_j w_j + b_j, a categorical one the vector of
    its category. Code −1, as any other outside the range, is a category of its own:
    missing.
    """

    def __init__(self, config: TabularEncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        is_mlp = config.trunk == "mlp"
        width = config.category_width if is_mlp else config.width
        num = config.num_numeric
        # A row for each category, and one more a column for missing: one table for all
        # columns.
        slots = sum(config.cardinalities) + len(config.cardinalities)
        self.categories: Any = (
            # No table without rows, where no column is categorical.
            embed(config, slots, width, rngs=rngs) if slots else nnx.data(None)
        )
        if is_mlp:
            hidden = (config.hidden,) * config.depth
            in_features = num + width * len(config.cardinalities)
            self.trunk = MLP(
                MLPConfig(
                    in_features=in_features,
                    out_features=config.out_features,
                    hidden=hidden,
                    activation=config.activation,
                    dtype=config.dtype,
                    param_dtype=config.param_dtype,
                ),
                rngs=rngs,
            )
            return
        # w_j and b_j: a token of x_j that is not 0 where x_j is, and other than those
        # of other columns.
        self.scales = positions(config, (1, num, width), rngs=rngs)
        self.shifts = positions(config, (1, num, width), rngs=rngs)
        self.blocks = nnx.List(
            TransformerBlock(config, rngs=rngs) for _ in range(config.depth)
        )
        self.norm = layer_norm(config, width, rngs=rngs)
        self.head = linear(config, width, config.out_features, rngs=rngs)

    def __call__(
        self,
        numeric: ArrayLike | None = None,
        codes: ArrayLike | None = None,
    ) -> Float[Array, "b d"]:
        """Embed rows: numbers (b, num_numeric), categories (b, number of those)."""
        config = self.config
        pieces = []
        # Given without such columns it is an error of width, not passed over.
        if config.num_numeric or numeric is not None:
            numbers = _given(numeric, "numeric", config.num_numeric)
            pieces.append(self._numbers(numbers.astype(config.dtype)))
        if config.cardinalities or codes is not None:
            known = _given(codes, "codes", len(config.cardinalities))
            pieces.append(self._embedded(known))
        # (b, features) for the MLP, (b, columns, width) for the transformer: the same
        # axis.
        tokens = jnp.concatenate(pieces, axis=1)
        if config.trunk == "mlp":
            return self.trunk(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(mean_pool(self.norm(tokens)))

    def _numbers(self, numeric: Array) -> Array:
        if self.config.trunk == "mlp":
            return numeric
        dtype = self.config.dtype
        scales, shifts = self.scales[...].astype(dtype), self.shifts[...].astype(dtype)
        # (b, num, 1) · (1, num, width)
        return numeric[:, :, None] * scales + shifts

    def _embedded(self, codes: Array) -> Array:
        sizes = jnp.asarray(self.config.cardinalities, codes.dtype)[None, :]
        # Where the rows of each column begin; the first of them is "missing".
        starts = jnp.cumsum(sizes + 1, axis=1) - (sizes + 1)
        # A category that training never saw is missing, rather than another one's
        # vector.
        is_known = (codes >= 0) & (codes < sizes)
        vectors = self.categories(starts + jnp.where(is_known, codes + 1, 0))
        is_mlp = self.config.trunk == "mlp"
        return vectors.reshape(codes.shape[0], -1) if is_mlp else vectors


def _given(x: ArrayLike | None, name: str, num_columns: int) -> Array:
    if x is None:
        msg = f"{name} must be given: the configuration has such columns; got None"
        raise ValueError(msg)
    return as_input(x, name, (None, num_columns))
