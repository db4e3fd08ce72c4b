"""One training step as a pure function, with large batches in small pieces.

A spectral loss is no mean over examples: it is a nonlinear function of moments of the
batch, so gradients of pieces of a batch do not add up to the gradient of the batch.
With K micro-batches the step therefore embeds all of them first, takes the loss of all
embeddings and its gradient with respect to them, and then pulls that gradient back
through the encoder piece by piece (Gao et al. 2021, "GradCache"): the gradient of the
one large batch, for one more forward pass and the activations of one piece.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax import losses
from contexture_jax._core.checks import as_device_array, check_integer, check_number
from contexture_jax._core.numerics import cast_floating
from contexture_jax._core.types import Array, summary
from contexture_jax.training._state import TrainState

__all__ = ["from_loss", "make_step", "per_row"]

Encode = Callable[..., Any]
Objective = Callable[..., Any]
Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def from_loss(loss: Callable[..., Array]) -> Objective:
    """The objective of a loss without state: `loss(*embeddings, axis_name=...)`.

    Args:
        loss: a function of one array of embeddings or several, as in `cx.losses`.

    Returns:
        `objective(embeddings, loss_state, *, axis_name=None)`, which gives the loss and
        (loss_state, {}); `embeddings` is one array or a tuple of them.

    Raises:
        TypeError: if `loss` is no function, or takes no `axis_name`.
    """
    if not callable(loss):
        msg = f"loss must be a function, as cx.losses.svme; got {summary(loss)}"
        raise TypeError(msg)
    if not _takes(loss, axis_name=None):
        msg = (
            "loss must take axis_name, over which it reduces its moments, as in"
            f" `def loss(phi, *, axis_name=None)`; got {_named(loss)}"
        )
        raise TypeError(msg)

    return _OfLoss(loss)


@dataclasses.dataclass(frozen=True)
class _OfLoss:
    """The objective of a loss without state."""

    loss: Callable[..., Array]

    def __call__(
        self, embeddings: Any, loss_state: Any, *, axis_name: str | None = None
    ) -> tuple[Array, tuple[Any, dict[str, Any]]]:
        parts = embeddings if isinstance(embeddings, (tuple, list)) else (embeddings,)
        return self.loss(*parts, axis_name=axis_name), (loss_state, {})


def _takes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a function takes such arguments, beside others, as far as one can see."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # not every callable says
        return True
    try:
        signature.bind_partial(*args, **kwargs)
    except TypeError:
        return False
    return True


def _named(function: Any) -> str:
    """The name of a function with those of its parameters."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    try:
        return f"{name}({', '.join(inspect.signature(function).parameters)})"
    except (TypeError, ValueError):
        return name


def _is_own_loss(function: Any) -> bool:
    """Whether it is one of `cx.losses`, with some of its options given or not."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", "")
    return name in losses.__all__ and getattr(losses, name) is function


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
        drawn = sample(key, jax.tree.map(lambda leaf: leaf[None], row))
        return jax.tree.map(lambda leaf: leaf[0], drawn)

    def sample_rows(keys: Array, x: Any) -> Any:
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
    if not callable(encode) or not _takes(encode, None, None, None):
        msg = f"encode must take (params, batch, key); got {_named(encode)}"
        raise TypeError(msg)
    if _is_own_loss(objective) or not callable(objective):
        msg = (
            "objective must be objective(embeddings, loss_state, *, axis_name); got"
            f" {_named(objective)}: wrap a loss of embeddings, from_loss(loss)"
        )
        raise TypeError(msg)
    if not _takes(objective, None, None, axis_name=None):
        msg = (
            "objective must take (embeddings, loss_state, *, axis_name); got"
            f" {_named(objective)}: wrap a loss of embeddings, from_loss(loss)"
        )
        raise TypeError(msg)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        msg = f"optimizer must be an Optax transformation; got {summary(optimizer)}"
        raise TypeError(msg)
    pieces = check_integer(num_micro_batches, "num_micro_batches", low=1)
    if ema_decay is not None and not 0 <= check_number(ema_decay, "ema_decay") < 1:
        msg = f"ema_decay must be in [0, 1); got {ema_decay}"
        raise ValueError(msg)

    if compute_dtype is not None and not jnp.issubdtype(compute_dtype, jnp.floating):
        msg = f"compute_dtype must be a floating dtype; got {summary(compute_dtype)}"
        raise TypeError(msg)

    def embed(params: Any, batch: Any, key: Array) -> Any:
        if compute_dtype is not None:
            params = cast_floating(params, compute_dtype)
            batch = cast_floating(batch, compute_dtype)
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
        step_key = jax.random.fold_in(key, state.step)
        keys = _keys(step_key, rows, pieces, row_keys, axis_name)
        vary = _identity
        if axis_name is not None and check_vma:
            # Gradients then stay a device's own until one sum at the end.
            vary = _varying_over(axis_name)

        def loss_of(embeddings: Any) -> tuple[Array, tuple[Any, dict[str, Any]]]:
            return _evaluate(objective, embeddings, state.loss_state, axis_name)

        params = vary(state.params)
        if pieces == 1:
            (loss, (loss_state, extra)), grads = jax.value_and_grad(
                lambda p: loss_of(embed(p, batch, keys)), has_aux=True
            )(params)
        else:
            loss, (loss_state, extra), grads = _by_pieces(
                embed, loss_of, params, _split(batch, pieces), keys, pieces, vary
            )
        if axis_name is not None:
            reduce = jax.lax.psum if check_vma else jax.lax.pmean
            grads = jax.tree.map(lambda g: reduce(g, axis_name), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new_params = jax.tree.map(_add, state.params, updates)
        ema = state.ema_params
        if ema_decay is not None:
            rate = 1 - ema_decay
            ema = jax.tree.map(
                lambda old, new: old + rate * (new - old), ema, new_params
            )
        after = TrainState(
            step=state.step + 1,
            params=new_params,
            opt_state=opt_state,
            loss_state=_unchanged(state.loss_state, loss_state),
            ema_params=ema,
        )
        return after, _metrics(loss, grads, extra)

    return step


def _evaluate(
    objective: Objective, embeddings: Any, loss_state: Any, axis_name: str | None
) -> Any:
    """What an objective gives, once it is known to be (loss, (loss_state, metrics))."""
    hint = "wrap a loss of embeddings, from_loss(loss)"
    try:
        given = objective(embeddings, loss_state, axis_name=axis_name)
    except (TypeError, AttributeError) as error:
        if isinstance(objective, _OfLoss) or jax.tree.leaves(loss_state):
            raise
        msg = (
            "objective is called as objective(embeddings, loss_state, *, axis_name);"
            f" {_named(objective)} raised: {error}. If it is one, {hint}"
        )
        raise TypeError(msg) from error
    is_pair = isinstance(given, tuple) and len(given) == 2
    if is_pair and isinstance(given[1], tuple) and len(given[1]) == 2:
        return given
    shape = getattr(given, "shape", None)
    what = given if shape is None else f"an array of shape {shape}"
    msg = (
        f"objective must give (loss, (loss_state, metrics)); {_named(objective)} gave"
        f" {what}: {hint}"
    )
    raise TypeError(msg)


def _by_pieces(
    embed: Encode,
    loss_of: Callable[[Any], tuple[Array, Any]],
    params: Any,
    batch: Any,
    keys: Array,
    pieces: int,
    vary: Callable[[Any], Any],
) -> tuple[Array, Any, Any]:
    """Loss, its extras and its gradient, with the activations of one piece at a time.

    Args:
        embed: the encoder.
        loss_of: the loss of all embeddings, and its extras.
        params: parameters.
        batch: with leading axes (K, b / K).
        keys: one or b / K of them for each piece, leading axis K.
        pieces: K.
        vary: marks an array as varying over devices, where that is tracked.
    """

    def forward(carry: None, piece: Any) -> tuple[None, Any]:
        return carry, embed(params, *piece)

    _, stacked = jax.lax.scan(forward, None, (batch, keys))
    embeddings = jax.tree.map(_join, stacked)
    floats, rebuild = _floating(embeddings)
    (loss, extra), cotangents = jax.value_and_grad(
        lambda leaves: loss_of(rebuild(leaves)), has_aux=True
    )(floats)

    def backward(total: Any, piece: Any) -> tuple[Any, None]:
        inputs, cotangent = piece
        _, pull = jax.vjp(lambda p: _floating(embed(p, *inputs))[0], params)
        (grads,) = pull(cotangent)
        return jax.tree.map(_add, total, grads), None

    zeros = vary(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))
    total, _ = jax.lax.scan(
        backward, zeros, ((batch, keys), _split(cotangents, pieces))
    )
    return loss, extra, total


def _keys(
    key: Array, rows: int, pieces: int, row_keys: bool, axis_name: str | None
) -> Array:
    """What `encode` gets, with a leading axis of K where there are K > 1 pieces."""
    device = None if axis_name is None else jax.lax.axis_index(axis_name)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    if row_keys:
        places = jnp.arange(rows, dtype=jnp.int32)
        if device is not None:
            places = places + device.astype(jnp.int32) * rows
        if pieces > 1:
            places = _split(places, pieces)
            return jax.vmap(fold, (None, 0))(key, places)
        return fold(key, places)
    if device is not None:
        key = jax.random.fold_in(key, device)
    if pieces > 1:
        return fold(key, jnp.arange(pieces, dtype=jnp.int32))
    return key


def _split(tree: Any, pieces: int) -> Any:
    """Rows (b, …) to (K, b / K, …): the rows k, k + K, … are piece k."""

    def split(leaf: Array) -> Array:
        shape = (leaf.shape[0] // pieces, pieces, *leaf.shape[1:])
        return jnp.swapaxes(jnp.reshape(leaf, shape), 0, 1)

    return jax.tree.map(split, tree)


def _join(leaf: Array) -> Array:
    """The inverse of `_split` for one array."""
    swapped = jnp.swapaxes(leaf, 0, 1)
    return jnp.reshape(swapped, (-1, *leaf.shape[2:]))


def _floating(tree: Any) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The leaves that have derivatives, and how to put them back among the others."""
    leaves, structure = jax.tree.flatten(tree)
    where = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def rebuild(floats: list[Array]) -> Any:
        filled = list(leaves)
        for i, leaf in zip(where, floats, strict=True):
            filled[i] = leaf
        return jax.tree.unflatten(structure, filled)

    return [leaves[i] for i in where], rebuild


def _metrics(loss: Array, grads: Any, extra: dict[str, Any]) -> dict[str, Any]:
    taken = {"loss", "grad_norm", "step"} & set(extra)
    if taken:
        msg = f"metrics of an objective must not be called {sorted(taken)}: the step's"
        raise ValueError(msg)
    for name, value in extra.items():
        if jnp.ndim(value):
            msg = f"metric {name!r} must be a scalar; got shape {jnp.shape(value)}"
            raise ValueError(msg)
    squares = [jnp.sum(jnp.square(_at_least_single(g))) for g in jax.tree.leaves(grads)]
    return {"loss": loss, "grad_norm": jnp.sqrt(sum(squares)), **extra}


def _unchanged(before: Any, after: Any) -> Any:
    """`after`, once it is known to be a state of the same form."""

    def form(tree: Any) -> Any:
        return jax.tree.map(lambda x: (jnp.shape(x), str(jnp.result_type(x))), tree)

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
    return (a + b).astype(a.dtype)


def _at_least_single(x: Array) -> Array:
    half = jnp.issubdtype(x.dtype, jnp.floating) and jnp.dtype(x.dtype).itemsize < 4
    return x.astype(jnp.float32) if half else x
