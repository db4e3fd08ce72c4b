"""The heavy part of `contexture train`: encoders, pairs, the run, the comparison.

Imports JAX, Flax and Optax; the command imports this only after the input has been
found good.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import contexture_jax as cx
from contexture_jax.cli._options import TrainOptions
from contexture_jax.data import Table

__all__ = ["Learned", "compare", "exact_spectrum", "learn", "tie_at"]

_TWO_VIEWS = ("kise", "spectral_contrastive", "vicreg")
# Of the mean variance: in a batch, directions of less are noise that whitening would
# blow up (benchmarks/learn_abalone.py).
_RIDGE = 0.1
_LOG_EVERY = 50
_NUM_SHUFFLES = 19
_TIE = 1e-4


class Learned(NamedTuple):
    """What a run of training found.

    Attributes:
        singular_values: Ritz values, shape (rank,).
        left: functions of the rows of the context in their order, shape (n, rank).
        status: how the run ended, in words.
        message: more words on that.
        num_steps: steps done.
        num_parameters: numbers in the encoders.
        last_loss: the last that was logged, or None.
        history: the rows of the log as columns.
    """

    singular_values: np.ndarray
    left: np.ndarray
    status: str
    message: str
    num_steps: int
    num_parameters: int
    last_loss: float | None
    history: dict[str, np.ndarray]


def exact_spectrum(
    op: cx.AssociationOperator, rank: int, most: int, *, seed: int
) -> tuple[cx.SVDResult, str]:
    """The exact functions, one more than asked for if there is one, and how sure.

    The one more tells whether the rank cuts a cluster.
    """
    result, info = cx.svd(op, min(rank + 1, most), key=jax.random.key(seed))
    return jax.device_get(result), str(info.status)


def tie_at(singular_values: Any, rank: int) -> list[str]:
    """A note if the last function taken and the first left out have one value."""
    if singular_values.shape[0] <= rank:
        return []
    last, following = np.asarray(singular_values)[rank - 1 : rank + 1]
    if last - following > _TIE * last:
        return []
    return [
        f"functions {rank} and {rank + 1} have the same singular value, {last:.4g}:"
        " which of them are taken is chance, and only the ratio trace (not CCA, k-NN,"
        " CKA or the probe) tells how good the learned ones are; take another --rank"
    ]


def learn(
    options: TrainOptions,
    encoder: dict[str, Any],
    context_name: str,
    table: Table,
    context: cx.Context,
    op: cx.AssociationOperator,
    *,
    rank: int,
    output: int,
    mesh: Any,
    directory: Path,
    progress: bool | None,
) -> Learned:
    """Train an encoder on pairs of a context, and bring its functions in order.

    Args:
        options: what was asked for.
        encoder: its kind, and what that needs.
        context_name: which kind of context.
        table: the data.
        context: the context.
        op: its operator.
        rank: functions to extract.
        output: width of the embedding.
        mesh: of the devices, or None for one.
        directory: of checkpoints and metrics.
        progress: whether to show a bar; None: on a terminal.
    """
    base = options.base
    has_kernel = context_name == "teacher"
    two_views = options.loss in _TWO_VIEWS and not has_kernel
    x_inputs, a_inputs = _inputs(context_name, table, op, base.dtype)
    pairs = cx.training.pair_batches(
        context,
        options.batch_size,
        seed=base.seed,
        x=x_inputs,
        a=None if has_kernel else a_inputs,
        num_draws=2 if two_views else 1,
        law=op.p_x,
        kernel=has_kernel,
    )
    rngs = nnx.Rngs(base.seed)
    towers = {}
    if not two_views:
        towers["phi"] = _tower(x_inputs, output, options, encoder, rngs)
    if not has_kernel:
        towers["psi"] = _tower(a_inputs, output, options, encoder, rngs)
    params = {name: tower[0] for name, tower in towers.items()}
    applies = {name: tower[1] for name, tower in towers.items()}

    def encode(params: Any, batch: Any, key: Any) -> tuple[Any, ...]:
        del key
        if two_views:
            return tuple(applies["psi"](params["psi"], a) for a in batch.a)
        phi = applies["phi"](params["phi"], batch.x)
        if has_kernel:
            return phi, batch.kernel
        return phi, applies["psi"](params["psi"], batch.a[0])

    schedule = cx.training.warmup_cosine(options.learning_rate, options.steps)
    optimizer = optax.adamw(schedule, weight_decay=options.weight_decay)
    loss = _loss(options.loss, has_kernel=has_kernel)
    step = cx.training.make_step(encode, cx.training.from_loss(loss), optimizer)

    def extract(params: Any) -> cx.evaluation.RayleighRitz:
        if two_views:
            # The average encoder Φ = T Ψ spans the left functions.
            psi = _embed(applies["psi"], params["psi"], a_inputs, options.batch_size)
            phi = _apply_operator(op, psi)
        else:
            phi = _embed(applies["phi"], params["phi"], x_inputs, options.batch_size)
        return _ritz(phi, op, rank=rank)

    log_every = min(_LOG_EVERY, options.steps)
    with warnings.catch_warnings():
        # The command says in its own words how a run ended.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = cx.training.fit(
            step,
            cx.training.init_state(params, optimizer),
            pairs,
            num_steps=options.steps,
            key=jax.random.key(base.seed),
            directory=directory,
            checkpoints=cx.training.Checkpoints(
                save_every=log_every * max(1, -(-options.steps // (10 * log_every)))
            ),
            logging=cx.training.Logging(
                log_every=log_every,
                progress=progress if progress is not None else sys.stderr.isatty(),
            ),
            devices=cx.training.Devices(strategy=options.strategy, mesh=mesh),
        )
    trained = jax.device_get(result.state.params)
    found = extract(jax.tree.map(jnp.asarray, trained))
    losses = result.history.get("loss", np.zeros(0))
    return Learned(
        np.asarray(found.singular_values),
        np.asarray(found.left),
        str(result.status),
        result.message,
        int(result.state.step),
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        float(losses[-1]) if len(losses) else None,
        result.history,
    )


def _loss(name: str, *, has_kernel: bool) -> Callable[..., Any]:
    whiten = cx.losses.Whiten(_RIDGE)
    if name == "kise":
        kise = cx.losses.kise if has_kernel else cx.losses.kise_pairs
        return functools.partial(kise, constraint=whiten)
    if name == "svme":
        return functools.partial(cx.losses.svme, constraint=whiten)
    return getattr(cx.losses, name)


def _inputs(
    context_name: str, table: Table, op: cx.AssociationOperator, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """What the encoders see of X and of A: features, or a number where there are none.

    The A of a label is its class, that of a nearest neighbour a row.
    """
    n, m = op.shape
    rows, values = (np.arange(k, dtype=np.int32) for k in (n, m))
    features = table.features.astype(dtype)
    if context_name in ("joint", "graph"):
        return rows, values
    if context_name == "labels":
        return features, values
    if context_name == "teacher":
        return features, None
    return features, features


def _tower(
    inputs: np.ndarray | None,
    output: int,
    options: TrainOptions,
    encoder: dict[str, Any],
    rngs: nnx.Rngs,
) -> tuple[Any, Callable[[Any, Any], Any]]:
    """An encoder of features; for numbered values a table of embeddings."""
    assert inputs is not None  # `_check_loss` has seen to it
    dtype = jnp.dtype(options.base.dtype)
    if inputs.ndim == 1:
        size = len(inputs)
        table = jax.random.normal(rngs.params(), (size, output), dtype)
        return {"table": table}, lambda params, index: params["table"][index]
    models, columns = cx.models, inputs.shape[1]
    shared = {
        "out_features": output,
        "activation": options.activation,
        "dtype": dtype,
        "param_dtype": dtype,
    }
    if encoder["kind"] == "mlp":
        hidden = tuple(encoder["hidden"])
        config = models.MLPConfig(in_features=columns, hidden=hidden, **shared)
        return models.functional(models.MLP(config, rngs=rngs))
    config = models.TabularEncoderConfig(
        num_numeric=columns, trunk="transformer", width=64, **shared
    )
    return models.functional(models.TabularEncoder(config, rngs=rngs))


def _embed(apply: Any, params: Any, inputs: Any, batch_size: int) -> jax.Array:
    """Embeddings of all rows, a batch at a time."""
    compiled = jax.jit(apply)
    parts = [
        compiled(params, inputs[start : start + batch_size])
        for start in range(0, len(inputs), batch_size)
    ]
    return jnp.concatenate(parts)


_apply_operator = jax.jit(lambda op, psi: op.matmat(psi))
_ritz = jax.jit(cx.evaluation.rayleigh_ritz, static_argnames="rank")


def compare(
    learned: Learned,
    exact: cx.SVDResult,
    op: cx.AssociationOperator,
    *,
    seed: int,
) -> dict[str, Any]:
    """Learned functions beside the exact ones."""
    found = cx.evaluation.alignment(
        learned.left,
        exact,
        op,
        key=jax.random.key(seed),
        num_neighbors=min(10, op.shape[0] - 1),
        num_shuffles=_NUM_SHUFFLES,
    )
    measures = {
        name: getattr(found, name)
        for name in ("cca", "mutual_knn", "cka", "ratio_trace")
    }
    return {
        **{name: float(measured.value) for name, measured in measures.items()},
        "nulls": {
            name: float(measured.null.upper) for name, measured in measures.items()
        },
        "clusters": [
            {"first": first + 1, "last": end, "squared_cosine": cosine}
            for (first, end), cosine in zip(
                found.clusters, found.cluster_cosines, strict=True
            )
        ],
    }
