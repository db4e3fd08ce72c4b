"""From a module to `(params, apply)`: the one protocol that the rest takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

__all__ = ["functional"]


def functional(module: nnx.Module) -> tuple[dict[Any, Any], Callable[..., Any]]:
    """The parameters of a module, and the pure function of them that it computes.

    `apply(params, *inputs)` is `module(*inputs)` with these parameters. It is a plain
    function for `jit`, `vmap`, `grad` and `shard_map`; `params` is a nested dict whose
    leaves are arrays, so any optimiser and checkpointer takes it. A submodule's
    parameters are under its name: with `params` of a `TwoTower`, `params["phi"]` fits
    the `apply` of `functional(pair.phi)`. A module that occurs twice has its parameters
    once, under the name that comes first in the alphabet.

    A Linen module, or a function of one's own, is as good: whatever gives
    `apply(params, x)` of shape (b, d), row by row.

    Args:
        module: a Flax NNX module whose variables are all of type `nnx.Param`.

    Returns:
        `(params, apply)`.

    Raises:
        TypeError: if `module` is not an NNX module.
        ValueError: if it has other state (batch statistics, a stream of random
            numbers), which a function of parameters and inputs cannot keep.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> from flax import nnx
        >>> config = cx.models.MLPConfig(in_features=3, out_features=8, hidden=(16,))
        >>> encoder = cx.models.MLP(config, rngs=nnx.Rngs(0))
        >>> params, apply = cx.models.functional(encoder)
        >>> jax.jit(apply)(params, jax.numpy.ones((5, 3))).shape
        (5, 8)
    """
    if not isinstance(module, nnx.Module):
        msg = f"module must be a flax.nnx.Module; got {type(module).__name__}"
        raise TypeError(msg)
    # The graph holds what is static; a module that occurs twice has its arrays once.
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    # Batch statistics would make an embedding a function of its batch, and the moments
    # of losses those of another encoder on every device.
    if jax.tree.leaves(rest):
        found = ", ".join(
            sorted(".".join(map(str, path)) for path, _ in nnx.to_flat_state(rest))
        )
        msg = (
            f"module must have no variables but nnx.Param; got {found}: use layer or"
            " group normalisation, no dropout, or write `apply` by hand"
        )
        raise ValueError(msg)

    def apply(params: dict[Any, Any], *inputs: Any) -> Any:
        # A new module around the given arrays in each call, within the trace: nothing
        # is mutated.
        return nnx.merge(graphdef, params)(*inputs)

    return nnx.to_pure_dict(params), apply
