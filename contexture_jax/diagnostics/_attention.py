"""Attention layers as contexts: heads, what they share, and chains through layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from contexture_jax._core.checks import (
    as_floating,
    check_finite,
    check_integer,
    check_key,
    check_ndim,
    check_number,
)
from contexture_jax._core.numerics import mm, safe_reciprocal
from contexture_jax._core.types import Array, ArrayLike, Bool, Float, short_repr
from contexture_jax.contexts import (
    Context,
    attention,
    compose,
    conditional,
)
from contexture_jax.evaluation import cca
from contexture_jax.operators import AssociationOperator, association_operator
from contexture_jax.solvers import svd

__all__ = ["HeadProfile", "attention_heads", "attention_rollout", "head_profile"]


@short_repr
class HeadProfile(NamedTuple):
    """The heads of a layer as contexts of the same queries.

    Attributes:
        singular_values: s_1 … s_k of each of h heads, shape (h, k): all 1 where each
            query has a key of its own, all 0 where every query sees the same.
        chi_squared: Σ_{i≥1} s_i² of each, exactly, shape (h,); of mixtures and
            compositions from all n × m of their probabilities.
        shared: the mean squared canonical correlation of the first k functions of two
            heads, shape (h, h): 1 where they tell queries apart alike, k / (n − 1) by
            chance.
    """

    singular_values: Float[Array, "h k"]
    chi_squared: Float[Array, " h"]
    shared: Float[Array, "h h"]


def attention_heads(
    layer: Any,
    inputs: ArrayLike,
    memory: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    p_x: ArrayLike | None = None,
) -> list[Context]:
    """Each head of an attention layer as a context: X is a query, A a key.

    P⁺(a|x) = softmax_a ⟨q_x, k_a⟩ / √d, so that what the head reads of values g is T g,
    before its output map (theory.md §4.9). Without a mask nothing of size n × m is
    formed. Several heads as one are `contexts.mixture(heads)`, the mean of their maps,
    whose head is not seen, or `contexts.convex_combination(heads)`, where it is seen,
    with T T* the mean of theirs; layers one after the other are `attention_rollout`.

    Args:
        layer: `flax.nnx.MultiHeadAttention`, or any layer with maps `query` and `key`
            and a number `num_heads`, as the blocks of `cx.models`; normalised queries
            and keys and fewer heads of keys than of queries are taken as they are. Of
            other layers take the weights: `contexts.conditional(weights[head])`.
        inputs: tokens that ask, one sequence, shape (n, e).
        memory: tokens that are asked, shape (m, e'); None: `inputs`.
        mask: which keys each query may see, shape (n, m), boolean.
        p_x: law of the queries, shape (n,); None: uniform.

    Returns:
        A context for each head.

    Raises:
        TypeError: if `layer` has no such maps.
        ValueError: if shapes do not fit, a number is not finite, or a query sees no
            key.

    Example:
        >>> import jax
        >>> import contexture_jax as cx
        >>> from flax import nnx
        >>> layer = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
        >>> tokens = jax.random.normal(jax.random.key(0), (5, 8))
        >>> heads = cx.diagnostics.attention_heads(layer, tokens)
        >>> len(heads), heads[0].shape
        (2, (5, 5))
    """
    missing = [n for n in ("query", "key", "num_heads") if not hasattr(layer, n)]
    if missing:
        msg = (
            "layer must have maps `query` and `key` and a number `num_heads`, as"
            f" flax.nnx.MultiHeadAttention; a {type(layer).__name__} has no"
            f" {', '.join(missing)}"
        )
        raise TypeError(msg)
    x = _tokens(inputs, "inputs")
    a = x if memory is None else _tokens(memory, "memory")
    queries = _by_head(layer, "query", x)
    keys = _by_head(layer, "key", a)
    # Of grouped queries each head of keys serves as many, one after the other.
    keys = jnp.repeat(keys, queries.shape[1] // keys.shape[1], axis=1)
    pairs = [(queries[:, h], keys[:, h]) for h in range(queries.shape[1])]
    if mask is None:
        return [attention(q, k, p_x=p_x) for q, k in pairs]
    seen = _as_mask(mask, (x.shape[0], a.shape[0]))
    return [conditional(_masked(q, k, seen), p_x) for q, k in pairs]


def head_profile(heads: Sequence[Context], rank: int, *, key: Array) -> HeadProfile:
    """The spectra of contexts of the same rows, and which share their functions.

    Args:
        heads: contexts with one P_X, as of `attention_heads`, or whole layers.
        rank: k, how many singular values.
        key: random key of the solver.

    Raises:
        ValueError: if there is none, or a context has fewer singular values.
    """
    if not heads:
        raise ValueError("heads must hold at least 1 context; got none")
    k = check_integer(rank, "rank", low=1)
    check_key(key)
    operators = [association_operator(head) for head in heads]
    solved = [svd(op, k, key=key)[0] for op in operators]
    p = operators[0].p_x
    shared = [[cca(one.left, two.left, p) for two in solved] for one in solved]
    energies = [_energy(op) for op in operators]
    return HeadProfile(
        jnp.stack([result.singular_values for result in solved]),
        jnp.stack(energies),
        jnp.stack([jnp.stack(row) for row in shared]),
    )


def attention_rollout(
    layers: Sequence[Sequence[Context]],
    *,
    residual: float = 0.5,
    p_x: ArrayLike | None = None,
) -> Context:
    """Where the tokens of the last layer look among those of the first, as a context.

    The chain of the layers' maps, last first, each with the tokens that pass by it:
    W_l = r I + (1 − r) · mean of its heads (attention rollout of Abnar & Zuidema 2020,
    arXiv 2005.00928, with r = 1/2). X is a token after the last layer, A one before the
    first, and each layer is asked with the law that the one above leaves, so that P_A
    says which tokens are read most. s_i is at most the least s_i of the layers
    (theory.md §4.6). Tables of n × n.

    Args:
        layers: of each the heads, first to last, from a token to a token: contexts of
            the same n rows and values.
        residual: r in [0, 1].
        p_x: law of the last tokens, shape (n,); None: uniform.

    Raises:
        ValueError: if there is no layer or no head, shapes differ, or `residual` is out
            of range.

    Example:
        >>> import contexture_jax as cx
        >>> first = cx.contexts.conditional([[0.5, 0.5], [0.5, 0.5]])
        >>> second = cx.contexts.conditional([[1.0, 0.0], [0.0, 1.0]])
        >>> flow = cx.diagnostics.attention_rollout([[first], [second]])
        >>> op = cx.association_operator(flow)
        >>> [round(float(share), 3) for share in op.matmat([[1.0], [0.0]])[:, 0]]
        [0.75, 0.25]
    """
    if not layers or not all(len(heads) for heads in layers):
        msg = "layers must hold at least 1 layer of at least 1 head; got"
        raise ValueError(f"{msg} {[len(heads) for heads in layers]}")
    share = check_number(residual, "residual")
    if not 0 <= share <= 1:
        raise ValueError(f"residual must be in [0, 1]; got {residual}")
    maps = [jnp.stack([_rows(h) for h in heads]).mean(axis=0) for heads in layers]
    n = maps[0].shape[0]
    for number, one in enumerate(maps):
        if one.shape != (n, n):
            msg = f"heads of layers[{number}] must have shape {(n, n)}, as the first"
            raise ValueError(f"{msg}; got {one.shape}")
    law: Any = p_x
    links = []
    for one in maps[::-1]:
        with_rest = share * jnp.eye(n, dtype=one.dtype) + (1 - share) * one
        link = conditional(with_rest, law)
        links.append(link)
        law = jnp.asarray(link.table()).sum(axis=0)
    return compose(*links) if len(links) > 1 else links[0]


def _tokens(x: Any, name: str) -> Float[Array, "n e"]:
    x = as_floating(x, name)
    check_ndim(x, 2, name)
    check_finite(x, name)
    return x


def _by_head(layer: Any, name: str, tokens: Array) -> Float[Array, "n h d"]:
    """Queries or keys, (n, heads, width of a head), with whatever normalises them."""
    # With a batch of one: layers may insist on it.
    out = getattr(layer, name)(tokens[None])[0]
    if out.ndim == 2:
        out = out.reshape(out.shape[0], layer.num_heads, -1)
    norm = getattr(layer, f"{name}_ln", None)
    out = out if norm is None else norm(out)
    # Weights are those of a softmax in float32 whatever the layer's dtype.
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))


def _as_mask(mask: Any, shape: tuple[int, int]) -> Bool[Array, "n m"]:
    seen = jnp.asarray(mask)
    if seen.dtype != jnp.bool_:
        raise TypeError(f"mask must be boolean; got {seen.dtype}")
    if seen.shape != shape:
        raise ValueError(f"mask must have shape {shape}; got {seen.shape}")
    if not bool(seen.any(axis=1).all()):
        row = int(jnp.argmin(seen.any(axis=1)))
        raise ValueError(f"mask lets query {row} see no key")
    return seen


def _masked(
    q: Float[Array, "n d"], k: Float[Array, "m d"], seen: Bool[Array, "n m"]
) -> Float[Array, "n m"]:
    scores = jnp.where(seen, mm(q, k.T) / q.shape[1] ** 0.5, -jnp.inf)
    return jnp.exp(scores - scores.max(axis=1, keepdims=True))


def _rows(context: Context) -> Float[Array, "n m"]:
    """P⁺(a|x), of a row without mass 0."""
    table = jnp.asarray(context.table())
    return table * safe_reciprocal(table.sum(axis=1))[:, None]


def _energy(op: AssociationOperator) -> Array:
    """Σ_{i≥1} s_i², by the table where the operator is made of others."""
    known = op.squared_norm()
    if known is None:
        law = op.as_matrix()  # P(a|x)
        known = jnp.sum(op.p_x[:, None] * law**2 * safe_reciprocal(op.p_a)[None, :])
    return known - 1
