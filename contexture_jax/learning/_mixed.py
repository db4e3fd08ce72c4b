"""What a mixture of contexts adds to learning one: a Ψ for each, and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array
from contexture_jax.learning._law import Law
from contexture_jax.learning._learned import Functions
from contexture_jax.learning._towers import Tower, part_of
from contexture_jax.operators import ConvexCombinationOperator, convex_combination

__all__ = ["columns_of_parts", "functions_of_parts", "reweighted", "seen_at_random"]


def reweighted(law: Law, weights: Any) -> Law:
    """The same contexts mixed by other weights.

    Raises:
        ValueError: if the operator that judges is none of a mixture.
    """
    context = law.pairs.context
    w = np.asarray(weights, np.float64)
    w = w / w.sum()
    context = dataclasses.replace(
        context, weights=jnp.asarray(w, context.weights.dtype)
    )
    op = law.op
    if op is not None:
        if not isinstance(op, ConvexCombinationOperator):
            msg = (
                "op must be that of a convex combination, as weights are to be found;"
                f" got a {type(op).__name__}"
            )
            raise ValueError(msg)
        op = convex_combination(op.operators, w)
    return law._replace(pairs=dataclasses.replace(law.pairs, context=context), op=op)


def columns_of_parts(
    tower: Tower, tables: Sequence[Any], embed: Callable[..., Any], batch_size: int
) -> Array:
    """Ψ_j of all values of A_j, one part after the other as the columns come."""
    return jnp.concatenate(
        [embed(part_of(tower, j), t, batch_size) for j, t in enumerate(tables)]
    )


def seen_at_random(
    draws: Sequence[Sequence[Array]], weights: Any, key: Array
) -> tuple[list[Array], list[Array]]:
    """Ψ_J(A_J) of draws of all parts, with J at random, and with J seen.

    The second are side by side, (b, Σ k_j), 0 but for J: any function of (J, A_J) that
    the Ψ_j can make is linear in them.
    """
    mixed, beside = [], []
    for number, parts in enumerate(draws):
        shape = parts[0].shape[:1]
        logits = jnp.log(jnp.asarray(weights))
        at_random = jax.random.fold_in(key, number)
        index = jax.random.categorical(at_random, logits, shape=shape)[:, None]
        kept = [jnp.where(index == j, z, 0) for j, z in enumerate(parts)]
        mixed.append(sum(kept[1:], kept[0]))
        beside.append(jnp.concatenate(kept, axis=1))
    return mixed, beside


def functions_of_parts(
    functions: Functions,
    context: Any,
    tables: Any,
    embed: Callable[..., Any],
    batch_size: int,
) -> Functions:
    """T Ψ = Σ_j w_j T_j Ψ_j, each by the law of its own context.

    Args:
        functions: of Ψ, without a context.
        context: the mixture.
        tables: what the encoder of each part sees of its values; None: as it draws.
        embed: of a tower, inputs and the size of a batch.
        batch_size: rows at a time.
    """
    parts = []
    for j, (part, weight) in enumerate(
        zip(context.contexts, np.asarray(context.weights), strict=True)
    ):
        tower, values = part_of(functions.tower, j), None
        # Where A is drawn, columns of an operator are a sample of it.
        if "table" in part.capabilities:
            embedding = embed(tower, tables[j], batch_size) - functions.mean[None, :]
            values = np.asarray(mm(embedding, jnp.asarray(functions.rotation)))
        own = dataclasses.replace(functions, tower=tower, context=part, values=values)
        parts.append((float(weight), own))
    return dataclasses.replace(functions, parts=tuple(parts))
