"""Large batches in small pieces: the gradient of the whole, one piece at a time.

A spectral loss is no mean over examples: it is a nonlinear function of moments of the
batch, so gradients of pieces of a batch do not add up to the gradient of the batch.
With K micro-batches all of them are therefore embedded first; then comes the loss of
all embeddings and its gradient with respect to them, which is pulled back through the
encoder piece by piece (Gao et al. 2021, "GradCache"): the gradient of the one large
batch, for one more forward pass and the activations of one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.types import Array

__all__ = ["gradients", "split"]


def gradients(
    embed: Callable[[Any, Any, Array], Any],
    loss_of: Callable[[Any], tuple[Array, Any]],
    params: Any,
    batch: Any,
    keys: Array,
    pieces: int,
    vary: Callable[[Any], Any],
) -> tuple[Array, Any, Any]:
    """The loss of a batch, its extras and its gradient.

    Args:
        embed: the encoder, `embed(params, batch, keys)`.
        loss_of: the loss of all embeddings, and its extras.
        params: parameters.
        batch: with b rows.
        keys: what `embed` gets with it; with a leading axis of K where K > 1.
        pieces: K, of which the activations are held one at a time.
        vary: marks an array as varying over devices, where that is tracked.
    """
    if pieces > 1:
        parts = split(batch, pieces)
        return _by_pieces(embed, loss_of, params, parts, keys, pieces, vary)
    (loss, extra), grads = jax.value_and_grad(
        lambda p: loss_of(embed(p, batch, keys)), has_aux=True
    )(params)
    return loss, extra, grads


def _by_pieces(
    embed: Callable[[Any, Any, Array], Any],
    loss_of: Callable[[Any], tuple[Array, Any]],
    params: Any,
    batch: Any,
    keys: Array,
    pieces: int,
    vary: Callable[[Any], Any],
) -> tuple[Array, Any, Any]:
    """The same as `gradients`, of a batch with leading axes (K, b / K)."""

    def forward(carry: None, piece: Any) -> tuple[None, Any]:
        return carry, embed(params, *piece)

    # (K, b / K, …): a scan, so that activations of one piece are alive at a time.
    _, stacked = jax.lax.scan(forward, None, (batch, keys))
    embeddings = jax.tree.map(_join, stacked)
    # Labels and numbers among the embeddings have no cotangent.
    floats, rebuild = _floating(embeddings)
    # Of all b embeddings at once; the encoder has no part in this.
    (loss, extra), cotangents = jax.value_and_grad(
        lambda leaves: loss_of(rebuild(leaves)), has_aux=True
    )(floats)

    def backward(total: Any, piece: Any) -> tuple[Any, None]:
        inputs, cotangent = piece
        # The forward pass again, for the activations of this piece: with the same keys,
        # hence the same dropout and augmentations as above.
        _, pull = jax.vjp(lambda p: _floating(embed(p, *inputs))[0], params)
        (grads,) = pull(cotangent)
        return jax.tree.map(jnp.add, total, grads), None

    # A carry has one type throughout: where devices are tracked, the sum varies over
    # them from the start.
    zeros = vary(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))
    total, _ = jax.lax.scan(backward, zeros, ((batch, keys), split(cotangents, pieces)))
    return loss, extra, total


def split(tree: Any, pieces: int) -> Any:
    """Rows (b, …) to (K, b / K, …): the rows k, k + K, … are piece k."""

    def cut(leaf: Array) -> Array:
        # Strided and not in runs: under "jit" the rows are cut over devices in runs,
        # and every piece then has an even share of each device.
        shape = (leaf.shape[0] // pieces, pieces, *leaf.shape[1:])
        return jnp.swapaxes(jnp.reshape(leaf, shape), 0, 1)

    return jax.tree.map(cut, tree)


def _join(leaf: Array) -> Array:
    """The inverse of `split` for one array."""
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
