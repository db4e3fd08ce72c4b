"""Encoders for the kinds of input: features, and numbers of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from contexture_jax import models
from contexture_jax._core.types import Array, summary

__all__ = ["Encoder", "Tower", "describe", "make_tower", "part_of", "rebuild"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """What embeds features; numbers of rows have a table of embeddings.

    Attributes:
        kind: "mlp": all columns together; "transformer": a token a column.
        hidden: widths of the hidden layers of an MLP.
        activation: of the hidden layers: "tanh", "gelu" or "relu".
        output: width of the embedding; None: four times the rank, at most 512 and
            half a batch or of the rows, and the rank for losses that learn functions
            in order.
        num_waves: of an MLP, as in `models.MLPConfig`; None: 256 for the encoder of X
            where its functions are read as they are ("svme"), else 0.
    """

    kind: str = "mlp"
    hidden: tuple[int, ...] = (512, 512)
    activation: str = "tanh"
    output: int | None = None
    num_waves: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("mlp", "transformer"):
            msg = f'kind must be "mlp" or "transformer"; got {summary(self.kind)}'
            raise ValueError(msg)


class Tower(NamedTuple):
    """An encoder as `(params, apply)`, and how to make it again.

    Attributes:
        params: its parameters.
        apply: `apply(params, inputs)`, shape (b, output).
        made_of: the arguments of `rebuild`, as JSON has them; None: of the caller's.
    """

    params: Any
    apply: Callable[[Any, Any], Array]
    made_of: dict[str, Any] | None


def describe(inputs: Any, encoder: Encoder, output: int, dtype: Any) -> dict[str, Any]:
    """What a tower for such inputs is made of.

    Args:
        inputs: features, shape (n, d) or (n,), floating, or numbers 0, …, n − 1.
        encoder: what embeds features.
        output: width of the embedding.
        dtype: of parameters and embeddings.

    Raises:
        ValueError: if they are neither.
    """
    shape = np.shape(inputs)
    shared = {"output": output, "dtype": jnp.dtype(dtype).name}
    # Whole numbers in two dimensions are features all the same.
    if np.issubdtype(inputs.dtype, np.integer) and len(shape) == 1:
        return {"kind": "table", "size": shape[0], **shared}
    if len(shape) not in (1, 2):
        msg = (
            "inputs of rows of shape (columns,) have an encoder here; got rows of shape"
            f" {tuple(shape[1:])}: give encoder=function, of (inputs, output, rngs),"
            " which returns (params, apply), as cx.models.functional does"
        )
        raise ValueError(msg)
    # A list, as JSON gives it back: a tower from a file is made of the same.
    given = dataclasses.asdict(encoder) | {"hidden": list(encoder.hidden)}
    columns = shape[1] if len(shape) == 2 else 1
    num_waves = encoder.num_waves or 0
    scale = _wave_scale(inputs) if num_waves else 1.0
    waves = {"num_waves": num_waves, "wave_scale": scale}
    return {**given, **waves, "columns": columns, **shared}


def _wave_scale(inputs: Any) -> float:
    """√(2 γ) with 1/γ the variance of all columns together, half of E |x − x'|².

    Two rows are apart by |x − x'|² = 2/γ on average: 2 radians of a wave.
    """
    x = np.asarray(inputs, np.float64).reshape(len(inputs), -1)
    # In units of the largest, as squares of 1e200 overflow.
    unit = float(np.abs(x - x[0]).max())
    if not (np.isfinite(unit) and unit > 0):
        return 1.0
    return float(np.sqrt(2 / (x / unit).var(axis=0).sum())) / unit


@dataclasses.dataclass(frozen=True)
class _OfParts:
    """Encoders of several contexts' A, side by side.

    Attributes:
        applies: of each.
        head: of what all of them give together, for a tuple of values; None: they stay
            apart, for one value of several.
    """

    applies: tuple[Callable[[Any, Any], Any], ...]
    head: Callable[[Any, Any], Array] | None

    def __call__(self, params: Any, a: tuple[Any, ...]) -> Any:
        found = tuple(
            apply(of_part, one)
            for apply, of_part, one in zip(
                self.applies, params["parts"], a, strict=True
            )
        )
        if self.head is None:
            return found
        return self.head(params["head"], jnp.concatenate(found, axis=1))


def part_of(tower: Tower, number: int) -> Tower:
    """The encoder of one context's A, of those that stay apart."""
    of_parts: Any = tower.apply
    made_of = tower.made_of and tower.made_of["parts"][number]
    return Tower(tower.params["parts"][number], of_parts.applies[number], made_of)


def _beside(towers: list[Tower], head: Tower | None) -> Tower:
    made_of: Any = {
        "kind": "parts",
        "parts": [tower.made_of for tower in towers],
        "head": head and head.made_of,
    }
    if None in made_of["parts"]:  # of the caller's
        made_of = None
    return Tower(
        {"parts": tuple(t.params for t in towers), "head": head and head.params},
        _OfParts(tuple(t.apply for t in towers), head and head.apply),
        made_of,
    )


def make_tower(
    inputs: Any,
    encoder: Any,
    output: int,
    dtype: Any,
    rngs: nnx.Rngs,
    *,
    joined: bool = False,
) -> Tower:
    """An encoder for inputs such as these, see `describe`, with new parameters.

    Args:
        inputs: what it will see; a tuple for the A of several contexts.
        encoder: an `Encoder`, or a function of (inputs, output, rngs) that returns
            (params, apply).
        output: width of the embedding.
        dtype: of an `Encoder`.
        rngs: random numbers.
        joined: whether a tuple is one value, with one embedding.
    """
    if isinstance(inputs, tuple):
        towers = [make_tower(one, encoder, output, dtype, rngs) for one in inputs]
        row = np.zeros((1, output * len(inputs)), dtype)
        head = make_tower(row, encoder, output, dtype, rngs) if joined else None
        return _beside(towers, head)
    if not isinstance(encoder, Encoder):
        if not callable(encoder):
            msg = (
                "encoder must be a cx.learning.Encoder or a function; got"
                f" {summary(encoder)}"
            )
            raise TypeError(msg)
        make: Any = encoder
        params, apply = make(inputs, output, rngs)
        # Nothing in a file could make it again.
        return Tower(params, apply, None)
    made_of = describe(inputs, encoder, output, dtype)
    # The way that a file goes too, so that both make the same structure.
    return Tower(*rebuild(made_of, rngs), made_of)


def rebuild(made_of: dict[str, Any], rngs: nnx.Rngs) -> tuple[Any, Callable[..., Any]]:
    """`(params, apply)` of what `describe` says."""
    if made_of["kind"] == "parts":
        made = [Tower(*rebuild(one, rngs), one) for one in made_of["parts"]]
        head = made_of["head"]
        of_all = _beside(made, head and Tower(*rebuild(head, rngs), head))
        return of_all.params, of_all.apply
    dtype, output = jnp.dtype(made_of["dtype"]), made_of["output"]
    if made_of["kind"] == "table":
        shape = (made_of["size"], output)
        # Of variance 1 and independent: the covariance is near I from the start, in
        # which every direction counts alike.
        table = jax.random.normal(rngs.params(), shape, dtype)
        return {"table": table}, lambda params, index: params["table"][index]
    columns = made_of["columns"]
    shared = {
        "out_features": output,
        "activation": made_of["activation"],
        "dtype": dtype,
        "param_dtype": dtype,
    }
    if made_of["kind"] == "mlp":
        config = models.MLPConfig(
            in_features=columns,
            hidden=tuple(made_of["hidden"]),
            num_waves=made_of["num_waves"],
            wave_scale=made_of["wave_scale"],
            **shared,
        )
        module: nnx.Module = models.MLP(config, rngs=rngs)
    else:
        module = models.TabularEncoder(
            models.TabularEncoderConfig(
                num_numeric=columns, trunk="transformer", width=64, **shared
            ),
            rngs=rngs,
        )
    params, apply = models.functional(module)
    # Series and contexts of one variable give x without an axis of columns.
    return params, lambda params, x: apply(params, _as_columns(x))


def _as_columns(x: Any) -> Any:
    return x[:, None] if jnp.ndim(x) == 1 else x
