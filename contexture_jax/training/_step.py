"""One training step as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.checks import as_device_array, check_integer, check_number
from contexture_jax._core.numerics import cast_floating
from contexture_jax._core.types import Array, summary
from contexture_jax.training._objective import (
    Objective,
    check_objective,
    evaluated,
    signed,
    takes,
)
from contexture_jax.training._pieces import gradients, split
from contexture_jax.training._state import TrainState

__all__ = ["make_step", "per_row"]

Encode = Callable[..., Any]
Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def per_row(sample: Callable[[Array, Any], Any]) -> Callable[[Array, Any], Any]:
    """A sampler that takes one key a row, of one that takes one key a batch.

    For encoders of steps with `row_keys=True`: what is drawn for a row then depends on
    the key of the run, the step and the row's place in the whole batch alone.

    Args:
        sample: `sample(key, x)`, which draws row by row, as that of a context.

    Returns:
        `sample_rows(keys, x)` with keys of shape (b,) and x of b rows.

    Raises:
        TypeError: by `sample_rows`, if it gets one key for the whole batch.
    """

    def one(key: Array, row: Any) -> Any:
        # A batch of one row, whose number is 0: what is drawn depends on its key alone.
        drawn = sample(key, jax.tree.map(lambda leaf: leaf[None], row))
        return jax.tree.map(lambda leaf: leaf[0], drawn)

    def sample_rows(keys: Array, x: Any) -> Any:
        # Old-style keys are two words of uint32 along an axis of their own.
        if jnp.ndim(keys) == (1 if keys.dtype == jnp.uint32 else 0):
            msg = (
                "a sampler of per_row takes a key for each row; got one key: give"
                " row_keys=True to make_step, or call the sampler without per_row"
            )
            raise TypeError(msg)
        return jax.vmap(one)(keys, x)

    return sample_rows


def make_step(
    encode: Encode,
    objective: Objective,
    optimizer: Any,
    *,
    num_micro_batches: int = 1,
    ema_decay: float | None = None,
    compute_dtype: Any = None,
    row_keys: bool = False,
) -> Step:
    """Join an encoder, an objective and an optimiser into one step.

    Keys: a step folds the number of steps done into the key of the run. With
    `row_keys`, `encode` gets keys of shape (b,), each folded once more with the row's
    place in the whole batch: random numbers do not depend on the number of devices, the
    strategy or `num_micro_batches`. Without, it gets one key, folded with the number of
    the micro-batch where there are several, and with that of the device under
    "shard_map" and "pmap": they do depend on those, but under "jit" not on the number
    of devices.

    Args:
        encode: `encode(params, batch, key)`, row by row: row i of the embeddings is a
            function of row i of the batch. Embeddings are a pytree of arrays with the
            rows in front, for two towers a tuple (phi, psi); integers, such as labels
            for a supervised loss, may be among them.
        objective: `objective(embeddings, loss_state, *, axis_name=None)`, which gives
            (loss, (loss_state, metrics)), with metrics a dict of scalars; see
            `from_loss`. It reduces moments over `axis_name` before anything nonlinear.
        optimizer: an Optax transformation.
        num_micro_batches: K pieces of the batch (of a device's share of it), which K
            must divide. Piece k holds the rows k, k + K, …, so that every device has a
            part of each piece.
        ema_decay: β of ema ← β ema + (1 − β) params after each step, for a state that
            was made with `ema=True`.
        compute_dtype: dtype in which `encode` sees parameters and floating arrays of
            the batch, such as bfloat16. Parameters, gradients and the optimiser keep
            theirs; embeddings of 16 bits are made float32 before the objective.
        row_keys: whether `encode` gets one key a row; see `per_row`.

    Returns:
        `step(state, batch, key)`, giving the next state and a dict of scalars: the
        objective's, "loss" and "grad_norm" (before any clipping). For `compile_step`
        it also takes `axis_name`, inside a `shard_map` or `pmap` over that axis, and
        `check_vma=False` where that does not track what varies over devices.

    Raises:
        TypeError: if `encode` or `objective` cannot be called so, as a loss of
            embeddings that is not wrapped by `from_loss`; or, by the step, if an
            objective gives something else.
        ValueError: if a number is out of its range.
    """
    _check_parts(encode, objective, optimizer)
    pieces = check_integer(num_micro_batches, "num_micro_batches", low=1)
    if ema_decay is not None and not 0 <= check_number(ema_decay, "ema_decay") < 1:
        msg = f"ema_decay must be in [0, 1); got {ema_decay}"
        raise ValueError(msg)
    if compute_dtype is not None and not jnp.issubdtype(compute_dtype, jnp.floating):
        msg = f"compute_dtype must be a floating dtype; got {summary(compute_dtype)}"
        raise TypeError(msg)

    def embed(params: Any, batch: Any, key: Array) -> Any:
        if compute_dtype is not None:
            # Within what is differentiated: gradients come back in the dtype of the
            # parameters.
            params = cast_floating(params, compute_dtype)
            batch = cast_floating(batch, compute_dtype)
        # Moments of 16 bits would lose what tells a spectrum's small values apart.
        return jax.tree.map(_at_least_single, encode(params, batch, key))

    def step(
        state: TrainState,
        batch: Any,
        key: Array,
        *,
        axis_name: str | None = None,
        check_vma: bool = True,
    ) -> tuple[TrainState, dict[str, Any]]:
        _check_ema(state, ema_decay)
        batch = jax.tree.map(lambda leaf: as_device_array(leaf, "batch"), batch)
        rows = _num_rows(batch, pieces)
        # The number of steps done, not a split that is carried on: a resume needs no
        # key in its state.
        step_key = jax.random.fold_in(key, state.step)
        keys = _keys(step_key, rows, pieces, row_keys, axis_name)
        vary = _identity
        if axis_name is not None and check_vma:
            # Gradients then stay a device's own until one sum at the end.
            vary = _varying_over(axis_name)

        def loss_of(embeddings: Any) -> tuple[Array, tuple[Any, dict[str, Any]]]:
            return evaluated(objective, embeddings, state.loss_state, axis_name)

        loss, (loss_state, extra), grads = gradients(
            embed, loss_of, vary(state.params), batch, keys, pieces, vary
        )
        if axis_name is not None:
            # `shard_map` differentiates the one loss, so that devices hold its parts;
            # `pmap` the sum of the devices' losses, which is their number times it
            # (`_core/moments.py`).
            reduce = jax.lax.psum if check_vma else jax.lax.pmean
            grads = jax.tree.map(lambda g: reduce(g, axis_name), grads)
        after = _after(state, grads, loss_state, optimizer, ema_decay)
        return after, _metrics(loss, grads, extra)

    return step


def _check_parts(encode: Any, objective: Any, optimizer: Any) -> None:
    """Raise a `TypeError` unless each part of a step can be called as it will be."""
    if not callable(encode) or not takes(encode, None, None, None):
        msg = f"encode must take (params, batch, key); got {signed(encode)}"
        raise TypeError(msg)
    check_objective(objective)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        msg = f"optimizer must be an Optax transformation; got {summary(optimizer)}"
        raise TypeError(msg)


def _after(
    state: TrainState, grads: Any, loss_state: Any, optimizer: Any, decay: float | None
) -> TrainState:
    """The state after a step with these gradients."""
    # After the reduction, hence the same on every device.
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(_add, state.params, updates)
    ema = state.ema_params
    if decay is not None:
        rate = 1 - decay
        # β old + (1 − β) new in the form that leaves `old` to the bit where `new`
        # equals it.
        ema = jax.tree.map(lambda old, new: old + rate * (new - old), ema, params)
    return TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        loss_state=_unchanged(state.loss_state, loss_state),
        ema_params=ema,
    )


def _keys(
    key: Array, rows: int, pieces: int, row_keys: bool, axis_name: str | None
) -> Array:
    """What `encode` gets, with a leading axis of K where there are K > 1 pieces."""
    device = None if axis_name is None else jax.lax.axis_index(axis_name)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    if row_keys:
        places = jnp.arange(rows, dtype=jnp.int32)
        if device is not None:
            # The place in the whole batch, so that noise does not depend on how it is
            # cut.
            places = places + device.astype(jnp.int32) * rows
        if pieces > 1:
            # As the rows themselves are cut: each key stays with its row.
            places = split(places, pieces)
            return jax.vmap(fold, (None, 0))(key, places)
        return fold(key, places)
    if device is not None:
        # Else every device would draw the same noise for other rows.
        key = jax.random.fold_in(key, device)
    if pieces > 1:
        return fold(key, jnp.arange(pieces, dtype=jnp.int32))
    return key


def _metrics(loss: Array, grads: Any, extra: dict[str, Any]) -> dict[str, Any]:
    taken = {"loss", "grad_norm", "step"} & set(extra)
    if taken:
        msg = f"metrics of an objective must not be called {sorted(taken)}: the step's"
        raise ValueError(msg)
    for name, value in extra.items():
        if jnp.ndim(value):
            msg = f"metric {name!r} must be a scalar; got shape {jnp.shape(value)}"
            raise ValueError(msg)
    # In float32 at least: a square in float16 overflows at 256.
    squares = [jnp.sum(jnp.square(_at_least_single(g))) for g in jax.tree.leaves(grads)]
    return {"loss": loss, "grad_norm": jnp.sqrt(sum(squares)), **extra}


def _unchanged(before: Any, after: Any) -> Any:
    """`after`, once it is known to be a state of the same form."""

    def form(tree: Any) -> Any:
        return jax.tree.map(lambda x: (jnp.shape(x), str(jnp.result_type(x))), tree)

    # A change of dtype or shape would compile the next step anew.
    if form(before) != form(after):
        msg = (
            "an objective must return a loss_state of the form that it got:"
            f" expected {form(before)}, got {form(after)}"
        )
        raise ValueError(msg)
    return after


def _num_rows(batch: Any, pieces: int) -> int:
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes == {()}:
        msg = (
            "all arrays of a batch must have the same number of rows; got shapes"
            f" {[leaf.shape for leaf in jax.tree.leaves(batch)]}"
        )
        raise ValueError(msg)
    ((rows,),) = sizes
    # Pieces of different size would need two programs, and a moment has no partial
    # rows.
    if rows % pieces:
        msg = (
            f"num_micro_batches={pieces} must divide the rows of a batch (on each"
            f" device, under shard_map and pmap); got {rows}"
        )
        raise ValueError(msg)
    return rows


def _check_ema(state: TrainState, ema_decay: float | None) -> None:
    if (ema_decay is None) != (state.ema_params is None):
        has = "none" if state.ema_params is None else "one"
        msg = (
            f"ema_decay={ema_decay} and a state with {has} moving average do not go"
            " together: give ema_decay to make_step and ema=True to init_state, or"
            " neither"
        )
        raise ValueError(msg)


def _varying_over(axis_name: str) -> Callable[[Any], Any]:
    cast: Any = getattr(jax.lax, "pcast", None)
    if cast is None:  # JAX 0.8.0 has it under another name
        old: Any = getattr(jax.lax, "pvary", None)
        return lambda tree: old(tree, axis_name)
    return lambda tree: jax.tree.map(lambda x: cast(x, axis_name, to="varying"), tree)


def _identity(tree: Any) -> Any:
    return tree


def _add(a: Array, b: Array) -> Array:
    # An update of a wider dtype must not widen the parameters.
    return (a + b).astype(a.dtype)


def _at_least_single(x: Array) -> Array:
    half = jnp.issubdtype(x.dtype, jnp.floating) and jnp.dtype(x.dtype).itemsize < 4
    return x.astype(jnp.float32) if half else x
