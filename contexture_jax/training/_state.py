"""What a step carries on to the next."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_device_array
from contexture_jax._core.types import Array, pytree_dataclass

__all__ = ["TrainState", "init_state"]


@pytree_dataclass
class TrainState:
    """The whole state of a run but its key and the position in its data.

    Random numbers of a step are folded from the key of the run and `step`, so that
    neither is state: a run goes on bit for bit from a `TrainState` and a step number.

    Attributes:
        step: steps done, int32, shape ().
        params: parameters of the encoder(s), a pytree of floating arrays.
        opt_state: the state of the optimiser.
        loss_state: what the objective carries on (running moments), a pytree, or ().
        ema_params: exponential moving average of `params`, or None.
    """

    step: Array
    params: Any
    opt_state: Any
    loss_state: Any
    ema_params: Any


def init_state(
    params: Any, optimizer: Any, *, loss_state: Any = (), ema: bool = False
) -> TrainState:
    """The state before the first step. Every array in it is a copy.

    Args:
        params: parameters, a pytree of floating arrays; numbers become arrays.
        optimizer: an Optax transformation; its state starts at `params`.
        loss_state: what the objective starts from.
        ema: whether to keep a moving average of the parameters, which `make_step` is
            to be told too; it starts at `params`.

    Raises:
        TypeError: if a parameter is no floating array.
    """
    # Copies: a compiled step may overwrite its state, and the caller's arrays are not
    # ours.
    params = _strong(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        # Here, with the name of the leaf; `jax.grad` would say it of the first step.
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            msg = (
                "params must be floating arrays, as gradients are taken of all; got"
                f" dtype {leaf.dtype} at params{jax.tree_util.keystr(path)}"
            )
            raise TypeError(msg)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=_strong(optimizer.init(params)),
        loss_state=_strong(loss_state),
        # Copies again: the same buffer twice in a state cannot be donated.
        ema_params=_strong(params) if ema else None,
    )


def _strong(tree: Any) -> Any:
    """Copies without weak types, which would trace the second step anew."""

    def copy(leaf: Any) -> Array:
        array = as_device_array(leaf, "params or state")
        return jnp.array(array, dtype=array.dtype, copy=True)

    return jax.tree.map(copy, tree)
